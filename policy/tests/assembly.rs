//! Parts put together, selection by name and by label, one document in two files.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; the lint knows only test functions"
)]

use std::{collections::BTreeMap, sync::Arc};

use policy::{
    Document, Endpoint, EndpointId, Facts, Policies, assemble,
    documents::{self, Condition},
    sets::{Placed, unique},
};

fn read(text: &str) -> Arc<Document> {
    Arc::new(
        documents::read(text.as_bytes())
            .documents
            .remove(0)
            .unwrap(),
    )
}

/// A part of policy `p`; `marks` = (parts, generation).
fn part(name: &str, marks: Option<(u32, &str)>, spec: &str) -> Arc<Document> {
    let marks = marks.map_or(String::new(), |(parts, generation)| {
        format!(", annotations: {{podgate.dev/parts: '{parts}', podgate.dev/generation: '{generation}'}}")
    });
    read(&format!(
        "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {{name: {name}, namespace: ns{marks}}}\n\
         spec:\n  policyRef: {{name: p, namespace: ns}}\n{spec}\n"
    ))
}

fn names(policies: &Policies) -> Vec<&str> {
    policies
        .values()
        .flat_map(|p| p.documents.iter().map(|d| d.identity.name.as_str()))
        .collect()
}

/// Assembles one version after the other; what is in force after each.
fn story(versions: &[&[Arc<Document>]]) -> Vec<Vec<String>> {
    let mut before = Policies::new();
    versions
        .iter()
        .map(|documents| {
            before = assemble(documents.iter().cloned(), &before).policies;
            names(&before).into_iter().map(str::to_owned).collect()
        })
        .collect()
}

#[test]
fn the_set_before_stays_until_the_new_one_is_complete() {
    let [a1, b1] = ["a", "b"].map(|name| part(name, Some((2, "1")), ""));
    let [a2, b2, c2] = ["a", "b", "c"].map(|name| part(name, Some((3, "2")), ""));
    let told = story(&[
        std::slice::from_ref(&a1),
        &[a1.clone(), b1.clone()],
        &[a2.clone(), b1.clone()],
        &[a2.clone(), b2.clone()],
        &[a2, b2, c2],
    ]);
    assert_eq!(
        told,
        [
            // Where there was no set before, the parts that are there are in force.
            vec!["a"],
            vec!["a", "b"],
            vec!["a", "b"],
            vec!["a", "b"],
            vec!["a", "b", "c"]
        ]
    );
    // Taken away part by part: as a whole, with the last one.
    assert_eq!(
        story(&[&[a1.clone(), b1], &[a1], &[]]),
        [vec!["a", "b"], vec!["a", "b"], vec![]]
    );
}

#[test]
fn what_an_earlier_generation_left_behind_does_not_count() {
    let [a2, b2] = ["a", "b"].map(|name| part(name, Some((2, "10")), ""));
    let c1 = part("c", Some((1, "9")), "");
    let out = assemble([a2, b2, c1.clone()], &Policies::new());
    assert_eq!(names(&out.policies), ["a", "b"], "10 is newer than 9");
    let (condition, message) = &out.conditions[&c1.identity];
    assert_eq!(
        (*condition, message.as_str()),
        (
            Condition::Incomplete,
            "part of generation 9; generation 10 is in force"
        )
    );
}

#[test]
fn conditions() {
    let a = part("a", Some((2, "1")), "");
    let out = assemble([a.clone()], &Policies::new());
    assert_eq!(names(&out.policies), ["a"]);
    assert!(out.policies.values().all(|policy| !policy.is_complete()));
    assert_eq!(
        out.conditions[&a.identity],
        (
            Condition::Incomplete,
            "parts are there: 1 of 2 of generation 1".to_owned()
        )
    );
    let domain = part("a", None, "  egress: [{domainName: example.org}]");
    let out = assemble([domain.clone()], &Policies::new());
    let wanted = "not enforced, lets nothing pass: spec.egress[0].domainName";
    assert_eq!(
        out.conditions[&domain.identity],
        (Condition::Unsupported, wanted.to_owned())
    );
}

#[test]
fn an_unchanged_policy_stays_the_same_value() {
    let version = || {
        [
            part("a", None, "  ingress: [{cidr: 10.0.0.1}]"),
            part("b", None, ""),
        ]
    };
    let one = assemble(version(), &Policies::new()).policies;
    let two = assemble(version(), &one).policies;
    assert!(
        one.values()
            .zip(two.values())
            .all(|(a, b)| Arc::ptr_eq(a, b))
    );
}

#[test]
fn parts_stand_in_natural_order() {
    let parts = ["p-10", "p-2", "p-1"].map(|name| part(name, None, ""));
    assert_eq!(
        names(&assemble(parts, &Policies::new()).policies),
        ["p-1", "p-2", "p-10"]
    );
}

#[test]
fn groups_are_apart_and_select_by_name_only() {
    let text = |group: &str, pod: &str| {
        read(&format!(
            "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {{name: g-{group}, namespace: ns, annotations: {{podgate.dev/group: '{group}'}}}}\n\
             spec:\n  policyRef: {{name: p, namespace: ns}}\n  podSelector: {{}}\n  podSelectorEndpoints: [{{name: {pod}}}]\n"
        ))
    };
    let policies = assemble([text("x", "one"), text("y", "two")], &Policies::new()).policies;
    let selecting = |pod: &str| {
        let endpoint = pod_of("ns", pod, &[]);
        policies
            .values()
            .filter(|p| p.selects(&endpoint, &Facts::default()))
            .count()
    };
    assert_eq!(
        (
            policies.len(),
            selecting("one"),
            selecting("two"),
            selecting("three")
        ),
        (2, 1, 1, 0)
    );
}

fn pod_of(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Endpoint {
    let labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Endpoint {
        id: EndpointId(1),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: Some(labels),
    }
}

#[test]
fn selectors_word_for_word() {
    let matches = |selector: &str, labels: &[(&str, &str)]| {
        let document = part("a", None, &format!("  podSelector: {selector}"));
        document
            .selector
            .as_ref()
            .unwrap()
            .matches(pod_of("ns", "x", labels).labels.as_ref())
    };
    let web = [("app", "web"), ("tier", "front")];
    assert!(matches("{}", &web) && matches("{}", &[]));
    assert!(
        matches("{matchLabels: {app: web}}", &web)
            && !matches("{matchLabels: {app: web, x: y}}", &web)
    );
    let one = |operator: &str| format!("{{matchExpressions: [{{key: app, {operator}}}]}}");
    assert!(
        matches(&one("operator: In, values: [db, web]"), &web)
            && !matches(&one("operator: In, values: [db]"), &web)
    );
    assert!(
        !matches(&one("operator: In, values: ['']"), &[]),
        "a missing key is in no list"
    );
    assert!(
        !matches(&one("operator: NotIn, values: [web]"), &web)
            && matches(&one("operator: NotIn, values: [web]"), &[])
    );
    assert!(matches(&one("operator: Exists"), &web) && !matches(&one("operator: Exists"), &[]));
    assert!(
        !matches(&one("operator: DoesNotExist"), &web)
            && matches(&one("operator: DoesNotExist"), &[])
    );
    let document = part(
        "a",
        None,
        "  podSelector: {matchExpressions: [{key: a, operator: DoesNotExist}]}",
    );
    assert!(
        !document.selector.as_ref().unwrap().matches(None),
        "unknown labels are not missing labels"
    );
}

#[test]
fn when_a_selector_no_longer_counts() {
    let selecting = part("a", None, "  podSelector: {matchLabels: {app: web}}");
    let naming = part(
        "a",
        None,
        "  podSelector: {matchLabels: {app: web}}\n  podSelectorEndpoints: [{name: x}]",
    );
    let pod = pod_of("ns", "x", &[("app", "web")]);
    let policy = |document: &Arc<Document>| {
        assemble([document.clone()], &Policies::new())
            .policies
            .into_values()
            .next()
            .unwrap()
    };
    let mut facts = Facts::default();
    facts.observe(&policy(&selecting), std::slice::from_ref(&pod), |_| false);
    assert!(
        policy(&selecting).selects(&pod, &facts),
        "too early to know the pod"
    );
    facts.observe(&policy(&naming), std::slice::from_ref(&pod), |_| false);
    assert!(policy(&naming).selects(&pod, &facts));
    assert!(
        !policy(&selecting).selects(&pod, &facts),
        "it was named, and is no more"
    );
    // Another endpoint id of the same name starts anew.
    let next = Endpoint {
        id: EndpointId(2),
        ..pod.clone()
    };
    assert!(policy(&selecting).selects(&next, &facts));
    assert!(
        !policy(&selecting).selects(&pod_of("other", "x", &[("app", "web")]), &Facts::default())
    );
    facts.retain(|_| true, |id| id != EndpointId(1));
    assert_eq!(facts, Facts::default());
}

#[test]
fn one_document_in_two_files() {
    let placed = |path: &str, pods: &str| Placed {
        path: path.to_owned(),
        document: part("a", None, &format!("  podSelectorEndpoints: [{pods}]")),
    };
    let files = [
        placed("b.yaml", "{name: b}"),
        placed("a.yaml", "{name: a}"),
        placed("c.yaml", "{name: c}"),
    ];
    let winner = |in_force: &BTreeMap<_, _>| {
        let (chosen, others) = unique(files.clone(), in_force);
        assert_eq!(others.len(), 2);
        let path = chosen.into_values().next().unwrap().path;
        assert!(
            others
                .iter()
                .all(|(loser, won)| *won == path && loser.path != path)
        );
        path
    };
    assert_eq!(winner(&BTreeMap::new()), "a.yaml");
    assert_eq!(
        winner(&BTreeMap::from([(
            files[0].document.identity.clone(),
            "c.yaml".to_owned()
        )])),
        "c.yaml"
    );
    assert_eq!(
        winner(&BTreeMap::from([(
            files[0].document.identity.clone(),
            "gone.yaml".to_owned()
        )])),
        "a.yaml"
    );
}

/// `resolve` and our controller write selector and names anew with every version.
#[test]
fn the_selector_of_a_marked_version_always_counts() {
    let spec = "  podSelector: {matchLabels: {app: web}}";
    let named = format!("{spec}\n  podSelectorEndpoints: [{{name: x}}]");
    let pod = pod_of("ns", "x", &[("app", "web")]);
    let policy = |document: Arc<Document>| {
        assemble([document], &Policies::new())
            .policies
            .into_values()
            .next()
            .unwrap()
    };
    let (with, without) = (
        policy(part("a", Some((1, "1")), &named)),
        policy(part("a", Some((1, "2")), spec)),
    );
    let mut facts = Facts::default();
    for version in [&with, &without] {
        facts.observe(version, std::slice::from_ref(&pod), |_| true);
    }
    assert!(without.selects(&pod, &facts));
    // What an unmarked version has shown of a selector does not hold for the next writer.
    let unmarked = policy(part("a", None, spec));
    facts.observe(&unmarked, std::slice::from_ref(&pod), |_| true);
    assert!(!unmarked.selects(&pod, &facts));
    facts.observe(&without, std::slice::from_ref(&pod), |_| true);
    assert!(without.selects(&pod, &facts));
}
