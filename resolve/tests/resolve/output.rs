//! The documents themselves: names, marks, sizes, and the same bytes for the same objects.

use std::collections::BTreeSet;

use policy::documents;
use resolve::{Cluster, MANAGED_BY, Marks, Options, PolicyChange, WorkloadChange, is_managed};
use serde_json::json;

use crate::harness::{TCP, cluster, objects, pod, pod_with, policy, world};

#[test]
fn a_file_reads_as_it_is_meant_to() {
    let text = pod("x/a", 1, "app=a", "")
        + &policy(
            "x/p",
            "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80}, {port: 90, endPort: 99, protocol: UDP}]}]}",
        );
    let mut cluster = cluster(Options::default(), &text);
    let changes = cluster.resolve();
    let [PolicyChange::Write(file)] = &changes.policies[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(file.file_name(), "x_p_NetworkPolicy.yaml");
    let expected = "---
apiVersion: networking.k8s.aws/v1alpha1
kind: PolicyEndpoint
metadata:
  annotations:
    podgate.dev/generation: GENERATION
    podgate.dev/managed-by: resolve
    podgate.dev/parts: '1'
  name: p-DIGEST-1
  namespace: x
spec:
  egress: []
  ingress:
  - cidr: 10.0.0.0/8
    except:
    - 10.1.0.0/16
    ports:
    - port: 80
      protocol: TCP
    - endPort: 99
      port: 90
      protocol: UDP
  podIsolation:
  - Ingress
  podSelector:
    matchExpressions:
    - key: app
      operator: In
      values:
      - a
  podSelectorEndpoints:
  - name: a
    namespace: x
  policyRef:
    kind: NetworkPolicy
    name: p
    namespace: x
";
    let document = &file.documents(&Marks::default())[0];
    let part = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let generation = part(&document["metadata"]["annotations"]["podgate.dev/generation"]);
    let name = part(&document["metadata"]["name"]);
    assert_eq!(
        file.to_yaml(),
        expected
            .replace("GENERATION", &generation)
            .replace("p-DIGEST-1", &name)
    );
    assert!(is_managed(file.to_yaml().as_bytes()));
    assert!(!is_managed(
        file.to_yaml().replace("by: resolve", "by: hand").as_bytes()
    ));
    assert!(!is_managed(b"") && !is_managed(b"a: 1\n"));
    assert!(
        !is_managed((file.to_yaml() + "---\na: 1\n").as_bytes()),
        "somebody added to it"
    );
    assert_eq!(MANAGED_BY, "podgate.dev/managed-by");
}

#[test]
fn lists_are_cut_at_two_hundred_and_marked() {
    let mut text = policy(
        "x/p",
        "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}",
    );
    for n in 0..450u32 {
        let namespace = if n < 250 { "x" } else { "y" };
        text += &pod_with(
            &format!("{namespace}/p{n:03}"),
            &format!("10.0.{}.{}", n / 250, n % 250),
            "",
            "",
            json!({}),
        );
    }
    let w = world(&text);
    let documents = w.file("x_p_NetworkPolicy.yaml");
    let lengths: Vec<(usize, usize)> = documents
        .iter()
        .map(|d| {
            (
                d["spec"]["podSelectorEndpoints"].as_array().unwrap().len(),
                d["spec"]["ingress"].as_array().unwrap().len(),
            )
        })
        .collect();
    assert_eq!(lengths, [(200, 200), (50, 200), (0, 50)]);
    let marks: BTreeSet<String> = documents
        .iter()
        .map(|d| {
            let marks = &d["metadata"]["annotations"];
            format!(
                "{} {}",
                marks["podgate.dev/parts"], marks["podgate.dev/generation"]
            )
        })
        .collect();
    assert_eq!(marks.len(), 1);
    assert!(marks.first().unwrap().starts_with("\"3\" "));
    assert!(w.reaches("y/p449", "x/p000", TCP, 1) && !w.ingress("x/p000", "192.0.2.1", TCP, 1));
    assert!(w.reaches("x/p249", "x/p248", TCP, 1));
}

#[test]
fn order_and_history_do_not_show() {
    let text = pod("x/a", 1, "app=a", "http:80")
        + &pod("x/b", 2, "app=b", "http:81")
        + &pod("y/c", 3, "app=b", "http:82")
        + &policy(
            "x/p",
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: http}]}], egress: [{to: [{podSelector: {}}]}]}",
        )
        + &policy("x/q", "{podSelector: {matchLabels: {app: b}}}");
    let files = |cluster: &Cluster| {
        let all = cluster
            .files()
            .map(|f| (f.file_name().to_owned(), f.to_yaml()));
        all.collect::<Vec<_>>()
    };
    let mut straight = cluster(Options::default(), &text);
    straight.resolve();
    let mut backwards = Cluster::new(Options::default());
    for object in objects(&text).into_iter().rev() {
        backwards.apply(object);
        backwards.resolve();
    }
    assert_eq!(files(&straight), files(&backwards));
    // The same objects again: nothing.
    for object in objects(&text) {
        assert!(!straight.apply(object));
    }
    assert_eq!(straight.resolve(), Default::default());
}

#[test]
fn a_file_is_removed_with_its_policy() {
    let text = pod("x/a", 1, "app=a", "") + &policy("x/p", "{podSelector: {}}");
    let mut cluster = cluster(Options::default(), &text);
    cluster.resolve();
    let key = objects(&policy("x/p", "{podSelector: {}}"))[0]
        .key()
        .unwrap();
    assert!(cluster.remove(&key) && !cluster.remove(&key));
    let changes = cluster.resolve();
    assert!(
        matches!(&changes.policies[..], [PolicyChange::Remove { file_name, .. }] if file_name == "x_p_NetworkPolicy.yaml")
    );
    // Gone and back in one round is no removal.
    for object in objects(&text) {
        cluster.apply(object);
    }
    cluster.resolve();
    cluster.remove(&key);
    for object in objects(&text) {
        cluster.apply(object);
    }
    assert!(matches!(
        &cluster.resolve().policies[..],
        [PolicyChange::Write(_)]
    ));
}

#[test]
fn a_part_of_any_name_reads_back() {
    for name in [
        "true",
        "1e5",
        "0x10",
        "a.b-c",
        "123",
        "null",
        &"n".repeat(253),
    ] {
        let text = pod(&format!("x/{name}"), 1, "app=true,tier=1e5", "")
            + &policy(
                &format!("x/{name}"),
                "{podSelector: {matchLabels: {app: 'true', tier: '1e5'}}}",
            )
            .replace(&format!("name: {name}"), &format!("name: '{name}'"));
        let mut cluster = cluster(Options::default(), &text);
        cluster.resolve();
        let yaml = cluster.files().next().unwrap().to_yaml();
        let reading = documents::read(yaml.as_bytes());
        let document = reading
            .good()
            .next()
            .unwrap_or_else(|| panic!("{yaml}\n{reading:?}"));
        assert_eq!(document.policy.name, *name);
        assert_eq!(*document.pods[0].name, *name);
        assert!(document.identity.name.len() <= 253);
    }
}

#[test]
fn long_names_make_files_of_their_own() {
    let (one, other) = ("n".repeat(252) + "1", "n".repeat(252) + "2");
    let text = policy(&format!("x/{one}"), "{podSelector: {}}")
        + &policy(&format!("x/{other}"), "{podSelector: {}}");
    let w = world(&text);
    let names: BTreeSet<&str> = w.changes.policies.iter().map(|c| c.file_name()).collect();
    assert_eq!(names.len(), 2);
    for name in names {
        assert!(
            name.len() <= 200
                && name.starts_with("x_nnn")
                && name.contains('~')
                && name.ends_with(".yaml"),
            "{name}"
        );
    }
    assert_eq!(w.conditions.len(), 2);
}

#[test]
fn workloads_are_the_pods_of_the_node() {
    let options = Options {
        strict_services: false,
        node: Some("n1".to_owned()),
        ..Options::default()
    };
    let on = |name: &str, node: &str, more: serde_json::Value| {
        let mut all =
            json!({"metadata": {"uid": format!("uid-{name}")}, "spec": {"nodeName": node}});
        for part in ["spec", "status"] {
            if let Some(more) = more.get(part).and_then(|m| m.as_object()) {
                for (key, value) in more {
                    all[part][key] = value.clone();
                }
            }
        }
        pod_with(
            &format!("x/{name}"),
            if name == "new" { "" } else { "10.0.0.1" },
            "app=a",
            "",
            all,
        )
    };
    let text = on("a", "n1", json!({}))
        + &on("new", "n1", json!({}))
        + &on("far", "n2", json!({}))
        + &on("host", "n1", json!({"spec": {"hostNetwork": true}}))
        + &on("done", "n1", json!({"status": {"phase": "Succeeded"}}));
    let mut cluster = cluster(options, &text);
    let changes = cluster.resolve();
    let [WorkloadChange::Put(a), WorkloadChange::Put(new)] = &changes.workloads[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(
        (
            a.name.as_str(),
            a.uid.as_str(),
            a.labels["app"].as_str(),
            a.addresses.len()
        ),
        ("a", "uid-a", "a", 1)
    );
    assert_eq!((new.name.as_str(), new.addresses.len()), ("new", 0));
    for object in objects(&on("a", "n2", json!({}))) {
        cluster.apply(object);
    }
    assert_eq!(
        cluster.resolve().workloads,
        [WorkloadChange::Remove {
            namespace: "x".to_owned(),
            name: "a".to_owned()
        }]
    );
}
