//! The reader of manifests: forms of files, and faults with their fields.

use resolve::{Object, ObjectKind, manifest};

fn keys(text: &str) -> Vec<String> {
    manifest::read(text.as_bytes())
        .into_iter()
        .map(|item| match item {
            Ok(item) => match item.object.key() {
                Some(key) => key.to_string(),
                None => format!("ignored {:?}", item.object),
            },
            Err(error) => error.to_string(),
        })
        .collect()
}

/// The error of one NetworkPolicy with this spec, without its head.
fn error(spec: &str) -> String {
    let text = format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: x}}, spec: {spec}}}"
    );
    let read = manifest::read(text.as_bytes());
    let [Err(error)] = &read[..] else {
        panic!("{spec}: {read:?}")
    };
    let text = error.to_string();
    text.strip_prefix("document 1 (NetworkPolicy/x/p): ")
        .unwrap_or_else(|| panic!("{text}"))
        .to_owned()
}

#[test]
fn forms_of_files() {
    let pod = |name: &str| {
        format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{\"name\": \"{name}\"}}}}"
        )
    };
    assert_eq!(keys(&pod("a")), ["Pod/default/a"]);
    assert_eq!(
        keys(&format!("{}\n{}", pod("a"), pod("b"))),
        ["Pod/default/a", "Pod/default/b"],
        "values in a row"
    );
    assert_eq!(
        keys(&format!(
            "# two\n---\n{}\n---\n# none\n---\n{}\n...\n",
            pod("a"),
            pod("b")
        )),
        ["Pod/default/a", "Pod/default/b"]
    );
    assert_eq!(
        keys(&format!(
            "{{apiVersion: v1, kind: List, items: [{}, {}]}}",
            pod("a"),
            pod("b")
        )),
        ["Pod/default/a", "Pod/default/b"]
    );
    assert_eq!(
        keys(
            "{\"apiVersion\": \"v1\", \"kind\": \"PodList\", \"items\": [{\"metadata\": {\"name\": \"a\", \"namespace\": \"x\"}}]}"
        ),
        ["Pod/x/a"]
    );
    assert_eq!(
        keys(&format!(
            "{{apiVersion: v1, kind: List, items: [{{apiVersion: v1, kind: List, items: [{}]}}]}}",
            pod("a")
        )),
        ["Pod/default/a"],
        "lists in lists"
    );
    assert_eq!(keys("apiVersion: v1\nkind: List\nitems: []\n"), [""; 0]);
    assert_eq!(keys(""), [""; 0]);
    assert_eq!(keys("\u{feff}# only a comment\n"), [""; 0]);
}

#[test]
fn a_large_json_list_is_read_item_by_item() {
    let items: Vec<String> = (0..9000)
        .map(|n| format!("{{\"metadata\": {{\"name\": \"p{n}\", \"namespace\": \"x\", \"managedFields\": [{{\"fieldsV1\": {{\"f:metadata\": {{\"f:labels\": {{\".\": {{}}}}}}}}}}]}}, \"status\": {{\"podIP\": \"10.0.{}.{}\"}}}}", n / 200, n % 200 + 1))
        .collect();
    let text = format!(
        "{{\"apiVersion\": \"v1\", \"items\": [{}], \"kind\": \"PodList\"}}",
        items.join(",")
    );
    assert!(text.len() > 1 << 20);
    let read = manifest::read(text.as_bytes());
    assert_eq!(read.len(), 9000);
    let last = read.last().unwrap().as_ref().unwrap();
    assert_eq!((last.document, last.item), (1, Some(8999)));
    assert_eq!(last.object.key().unwrap().to_string(), "Pod/x/p8999");
}

#[test]
fn a_dump_of_kubectl_with_all_that_is_in_it() {
    let text = r#"
apiVersion: v1
items:
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata:
    annotations:
      kubectl.kubernetes.io/last-applied-configuration: |
        {"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy"}
    creationTimestamp: "2026-01-01T00:00:00Z"
    generation: 1
    managedFields:
    - apiVersion: networking.k8s.io/v1
      fieldsType: FieldsV1
      fieldsV1: {f:spec: {f:ingress: {}, f:podSelector: {}, f:policyTypes: {}}}
      manager: kubectl
    name: web
    namespace: shop
    resourceVersion: "1"
    uid: 11111111-2222-3333-4444-555555555555
  spec:
    ingress:
    - from:
      - podSelector: {matchLabels: {app: front}}
      ports: [{port: 8080, protocol: TCP}]
    podSelector: {matchLabels: {app: web}}
    policyTypes: [Ingress]
  status: {}
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: c, namespace: shop}
kind: List
metadata: {resourceVersion: ""}
"#;
    let read = manifest::read(text.as_bytes());
    assert_eq!(read.len(), 2);
    let policy = read[0].as_ref().unwrap();
    assert_eq!(policy.object.key().unwrap().kind, ObjectKind::NetworkPolicy);
    assert_eq!(policy.remarks, []);
    assert!(
        matches!(&read[1].as_ref().unwrap().object, Object::Ignored { kind, .. } if kind == "ConfigMap")
    );
}

#[test]
fn a_broken_document_does_not_hide_the_next() {
    let text = "kind: Pod\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: 'A B'}\n---\n{ no yaml: [\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: ok}\n";
    let read = manifest::read(text.as_bytes());
    assert_eq!(read.len(), 4);
    let texts: Vec<String> = read
        .iter()
        .filter_map(|r| r.as_ref().err())
        .map(|e| e.to_string())
        .collect();
    assert_eq!(
        texts[0],
        "document 1: apiVersion: missing; expected the kind's group and version"
    );
    assert_eq!(
        texts[1],
        "document 2 (Pod): metadata.name: \"A B\" is not known; expected a name of lower case letters, digits, `-` and `.`"
    );
    assert!(
        texts[2].starts_with("document 3: not YAML or JSON"),
        "{}",
        texts[2]
    );
    assert!(read[3].is_ok());
}

#[test]
fn no_policy_is_passed_over() {
    for (head, expected) in [
        (
            "apiVersion: extensions/v1beta1, kind: NetworkPolicy",
            "networking.k8s.io/v1",
        ),
        (
            "apiVersion: networking.k8s.io/v2, kind: NetworkPolicy",
            "networking.k8s.io/v1",
        ),
        (
            "apiVersion: policy.networking.k8s.io/v9, kind: ClusterNetworkPolicy",
            "policy.networking.k8s.io/v1alpha2 or v1beta1",
        ),
    ] {
        let read =
            manifest::read(format!("{{{head}, metadata: {{name: p}}, spec: {{}}}}").as_bytes());
        let error = read[0].as_ref().unwrap_err().to_string();
        assert!(
            error.contains("apiVersion: ") && error.ends_with(&format!("expected {expected}")),
            "{error}"
        );
    }
    // Another group's kind of the same name is none of ours.
    let read = manifest::read(
        b"{apiVersion: crd.projectcalico.org/v1, kind: NetworkPolicy, metadata: {name: p}}",
    );
    assert!(matches!(
        read[0].as_ref().unwrap().object,
        Object::Ignored { .. }
    ));
}

#[test]
fn faults_name_their_field() {
    for (spec, expected) in [
        ("{ingres: []}", "spec.ingres: unknown field"),
        (
            "{podSelector: {matchLabel: {}}}",
            "spec.podSelector.matchLabel: unknown field",
        ),
        (
            "{ingress: [{form: []}]}",
            "spec.ingress[0].form: unknown field",
        ),
        (
            "{egress: [{from: []}]}",
            "spec.egress[0].from: unknown field",
        ),
        (
            "{podSelector: {matchLabels: {app: 1}}}",
            "spec.podSelector.matchLabels.app: is a whole number; expected text",
        ),
        (
            "{podSelector: {matchLabels: {app: 'a b'}}}",
            "spec.podSelector.matchLabels.app: \"a b\" is not known; expected a label's value",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}",
            "spec.podSelector.matchExpressions[0].operator: \"in\" is not known; expected In, NotIn, Exists or DoesNotExist",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "spec.podSelector.matchExpressions[0]: In needs values",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "spec.podSelector.matchExpressions[0].values: Exists takes no values",
        ),
        (
            "{policyTypes: [ingress]}",
            "spec.policyTypes[0]: \"ingress\" is not known; expected Ingress or Egress",
        ),
        (
            "{ingress: [{from: [{}]}]}",
            "spec.ingress[0].from[0]: must have a podSelector, a namespaceSelector or an ipBlock",
        ),
        (
            "{ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}",
            "spec.ingress[0].from[0].ipBlock: may not be given together with podSelector or namespaceSelector",
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}",
            "spec.ingress[0].from[0].ipBlock.cidr: length 33 of \"10.0.0.0/33\" is more than 32",
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}]}",
            "spec.ingress[0].from[0].ipBlock.except[0]: 11.0.0.0/9 is not inside 10.0.0.0/8",
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/9']}}]}]}",
            "spec.ingress[0].from[0].ipBlock.except[0]: fd00::/9 and 10.0.0.0/8 are not of one address family",
        ),
        (
            "{ingress: [{ports: [{port: 80, endPort: 70}]}]}",
            "spec.ingress[0].ports[0].endPort: 70 is below port 80",
        ),
        (
            "{ingress: [{ports: [{endPort: 70}]}]}",
            "spec.ingress[0].ports[0].endPort: given without port",
        ),
        (
            "{ingress: [{ports: [{port: web, endPort: 70}]}]}",
            "spec.ingress[0].ports[0].endPort: may not be given with a named port",
        ),
        (
            "{ingress: [{ports: [{port: 0}]}]}",
            "spec.ingress[0].ports[0].port: 0 is not in 1 to 65535",
        ),
        (
            "{ingress: [{ports: [{port: '80'}]}]}",
            "spec.ingress[0].ports[0].port: \"80\" is not known; expected a port number, or a port's name (15 lower case letters, digits and `-`, at least one letter)",
        ),
        (
            "{ingress: [{ports: [{protocol: ICMP}]}]}",
            "spec.ingress[0].ports[0].protocol: \"ICMP\" is not known; expected TCP, UDP or SCTP",
        ),
        (
            "{podSelector: {}, podSelector: {}}",
            "spec.podSelector: given twice",
        ),
        ("[]", "spec: is a list; expected a mapping"),
    ] {
        assert_eq!(error(spec), expected, "{spec}");
    }
}

#[test]
fn faults_of_cluster_policies() {
    for (spec, expected) in [
        (
            "{priority: 1, subject: {namespaces: {}}}",
            "spec.tier: missing; expected Admin or Baseline",
        ),
        (
            "{tier: Admin, priority: 1001, subject: {namespaces: {}}}",
            "spec.priority: 1001 is not in 0 to 1000",
        ),
        (
            "{tier: Admin, priority: 1}",
            "spec.subject: missing; expected namespaces or pods",
        ),
        (
            "{tier: Admin, priority: 1, subject: {}}",
            "spec.subject: must have exactly one of namespaces and pods",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{from: [{namespaces: {}}]}]}",
            "spec.ingress[0].action: missing; expected Accept, Deny or Pass",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Allow, from: [{namespaces: {}}]}]}",
            "spec.ingress[0].action: \"Allow\" is not known; expected Accept, Deny or Pass",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny}]}",
            "spec.ingress[0].from: missing; expected a list of peers",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: []}]}",
            "spec.ingress[0].from: must have an entry",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]}",
            "spec.ingress[0].from[0].networks: unknown field",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}, nodes: {}}]}]}",
            "spec.egress[0].to[0]: must have exactly one kind of peer",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{domainNames: [a.b]}]}]}",
            "spec.egress[0].to[0]: domainNames cannot be denied",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 5, end: 4}}}}]}]}",
            "spec.egress[0].protocols[0].tcp.destinationPort.range: 4 is below port 5",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: 5}",
            "spec.egress: is a whole number; expected a list",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: 5}]}",
            "spec.egress[0].to: is a whole number; expected a list",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{pods: {podSelector: {matchLabels: 5}}}]}]}",
            "spec.egress[0].to[0].pods.podSelector.matchLabels: is a whole number; expected a mapping",
        ),
    ] {
        let text = format!(
            "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: p}}, spec: {spec}}}"
        );
        let read = manifest::read(text.as_bytes());
        let error = read[0].as_ref().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("document 1 (ClusterNetworkPolicy/p): {expected}"),
            "{spec}"
        );
        assert_eq!(error.key.as_ref().unwrap().name, "p");
    }
}

#[test]
fn what_an_api_server_refuses_but_is_clear_is_a_remark() {
    let text = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {podSelector: {}, policyTypes: [Ingress], egress: [{}], ingress: [{from: [{ipBlock: {cidr: 10.0.0.5/8}}, {ipBlock: {cidr: 10.0.0.1}}]}]}}";
    let read = manifest::read(text.as_bytes());
    let remarks: Vec<String> = read[0]
        .as_ref()
        .unwrap()
        .remarks
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        remarks,
        [
            "spec.ingress[0].from[0].ipBlock.cidr: \"10.0.0.5/8\" has host bits; 10.0.0.0/8 is used",
            "spec.ingress[0].from[1].ipBlock.cidr: \"10.0.0.1\" has no length; 10.0.0.1/32 is used",
            "spec.egress: has no effect: spec.policyTypes does not name this direction",
        ]
    );
}

#[test]
fn a_yaml_bomb_is_refused() {
    let mut text =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\na: &a [x, x, x, x, x, x, x, x, x, x]\n"
            .to_owned();
    for (this, last) in ["b", "c", "d", "e", "f", "g", "h"]
        .iter()
        .zip(["a", "b", "c", "d", "e", "f", "g"])
    {
        text += &format!(
            "{this}: &{this} [*{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}]\n"
        );
    }
    assert!(manifest::read(text.as_bytes())[0].is_err());
}

/// As `kubectl annotate --local` shows them: a merge is an entry among others, in their order.
#[test]
fn merge_keys_are_read_as_kubectl_reads_them() {
    let policy = |spec: &str| {
        let text = format!(
            "base: &base {{a: '1', b: '2'}}\nother: &other {{b: '7', c: '9'}}\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels:\n{spec}"
        );
        let read = manifest::read(text.as_bytes());
        match &read[0] {
            Ok(item) => format!("{:?}", item.object),
            Err(error) => error.to_string(),
        }
    };
    let labels = |text: &str| {
        text.split("labels: ")
            .nth(1)
            .unwrap()
            .split('}')
            .next()
            .unwrap()
            .to_owned()
    };
    for (spec, expected) in [
        ("    <<: *base\n    b: '3'\n", r#"{"a": "1", "b": "3""#),
        ("    b: '3'\n    <<: *base\n", r#"{"a": "1", "b": "2""#),
        (
            "    <<: [*base, *other]\n",
            r#"{"a": "1", "b": "2", "c": "9""#,
        ),
        (
            "    <<: *base\n    <<: *other\n",
            r#"{"a": "1", "b": "7", "c": "9""#,
        ),
        ("    <<: {d: '4'}\n", r#"{"d": "4""#),
        (
            "    <<: {<<: *base, d: '4'}\n",
            r#"{"a": "1", "b": "2", "d": "4""#,
        ),
    ] {
        assert_eq!(labels(&policy(spec)), expected, "{spec}");
    }
    for bad in ["    <<: 5\n", "    <<: [*base, 5]\n", "    <<: null\n"] {
        assert!(
            policy(bad).contains("merge key `<<` needs a mapping"),
            "{bad}: {}",
            policy(bad)
        );
    }
    // A key that is written twice is refused by name, beside a merge too.
    assert!(policy("    a: '1'\n    a: '2'\n    <<: *other\n").contains("given twice"));
}

#[test]
fn rules_behind_a_merge_key_are_not_lost() {
    let w = crate::harness::world(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: &meta {namespace: x, name: p}
spec:
  podSelector: {}
  ingress:
  - &web
    from: [{ipBlock: {cidr: 192.0.2.0/24}}]
    ports: [{port: 80}]
  - <<: *web
    ports: [{port: 443}]
---
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: a}, spec: {}, status: {podIPs: [{ip: 10.0.0.1}]}}
",
    );
    assert!(w.ingress("x/a", "192.0.2.1", crate::harness::TCP, 443));
    assert!(!w.ingress("x/a", "198.51.100.1", crate::harness::TCP, 443));
    // JSON has no merge keys: there it is a field like another, and unknown.
    let json = r#"{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"p"},"spec":{"podSelector":{},"<<":{"egress":[]}}}"#;
    let error = manifest::read(json.as_bytes()).remove(0).unwrap_err();
    assert_eq!(error.field, "spec.<<");
}

#[test]
fn kinds_that_kubectl_refuses_are_errors() {
    for (api_version, kind) in [
        ("networking.k8s.io/v1", "networkpolicy"),
        ("networking.k8s.io/v1", "NetworkPolicies"),
        ("networking.k8s.io/v1", "netpol"),
        ("v1", "NetworkPolicy"),
        ("apps/v1", "NetworkPolicy"),
        ("v1", "pod"),
        ("v1", "Pods"),
        ("v1", "EndpointSlice"),
        ("v1", "list"),
        ("networking.k8s.aws/v1alpha1", "NetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha2", "clusternetworkpolicy"),
    ] {
        let text =
            format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: p}}\nspec: {{}}\n");
        let error = manifest::read(text.as_bytes()).remove(0).unwrap_err();
        assert_eq!(error.field, "kind", "{api_version} {kind}");
        assert!(
            error
                .to_string()
                .contains(&format!("{api_version} has no kind {kind:?}")),
            "{error}"
        );
    }
    // Other people's kinds are theirs.
    for (api_version, kind) in [
        ("crd.projectcalico.org/v1", "NetworkPolicy"),
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("v1", "ConfigMap"),
        ("metrics.k8s.io/v1beta1", "PodMetrics"),
    ] {
        let text = format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: p}}\n");
        let item = manifest::read(text.as_bytes()).remove(0).unwrap();
        assert!(
            matches!(item.object, Object::Ignored { .. }),
            "{api_version} {kind}"
        );
    }
}

#[test]
fn a_namespace_for_those_that_name_none() {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: a}}\n---\n{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: y}}\n---\n{apiVersion: v1, kind: Node, metadata: {name: n}}";
    let keys: Vec<String> = manifest::read_in(text.as_bytes(), "team")
        .into_iter()
        .map(|item| item.unwrap().object.key().unwrap().to_string())
        .collect();
    assert_eq!(keys, ["Pod/team/a", "Pod/y/b", "Node/n"]);
}
