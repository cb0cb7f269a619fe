//! Documents as people and controllers write them, good and bad.

use super::{read, *};
use crate::{select::Operator, testing};

const HEAD: &str = "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\n";
const CLUSTER: &str = "apiVersion: networking.k8s.aws/v1alpha1\nkind: ClusterPolicyEndpoint\n";

fn one(text: &str) -> Result<Document, Box<Broken>> {
    let mut reading = read(text.as_bytes());
    assert_eq!(reading.documents.len(), 1, "{reading:?}");
    reading.documents.remove(0)
}

fn spec(spec: &str) -> Result<Document, Box<Broken>> {
    one(&format!(
        "{HEAD}metadata: {{name: p, namespace: ns}}\nspec:\n{spec}"
    ))
}

fn cluster(spec: &str) -> Result<Document, Box<Broken>> {
    one(&format!("{CLUSTER}metadata: {{name: c}}\nspec:\n{spec}"))
}

/// What a broken document's error says.
fn error(result: Result<Document, Box<Broken>>) -> String {
    result.expect_err("it is broken").error.to_string()
}

fn entry(protocol: Option<Protocol>, ports: Option<(u16, u16)>) -> PortEntry {
    PortEntry { protocol, ports }
}

/// As Amazon's controller writes them and `kubectl get -o yaml` shows them.
const REAL: &str = r#"
apiVersion: networking.k8s.aws/v1alpha1
kind: PolicyEndpoint
metadata:
  annotations:
    networking.k8s.aws/last-change-trigger-time: "2026-11-20T10:00:00.123456789Z"
  creationTimestamp: "2026-11-20T10:00:00Z"
  generateName: allow-web-
  generation: 3
  managedFields:
  - apiVersion: networking.k8s.aws/v1alpha1
    fieldsType: FieldsV1
    fieldsV1: {"f:metadata": {"f:generateName": {}, ".": {}}}
    manager: controller
    operation: Update
  name: allow-web-7xk2p
  namespace: web
  ownerReferences:
  - {apiVersion: networking.k8s.io/v1, blockOwnerDeletion: true, controller: true, kind: NetworkPolicy, name: allow-web, uid: 4b6c}
  resourceVersion: "48213"
  uid: 9f1b
spec:
  egress:
  - cidr: 0.0.0.0/0
    except: [10.0.0.0/8, 192.168.0.0/16]
  - cidr: ::/0
  ingress:
  - cidr: 10.0.12.7
    ports:
    - {port: 443, protocol: TCP}
    - {port: 80, protocol: TCP, endPort: 90}
    - {port: 443, protocol: TCP}
  podIsolation: [Ingress, Egress]
  podSelector:
    matchLabels: {app: web}
    matchExpressions:
    - {key: tier, operator: NotIn, values: [db]}
    - {key: track, operator: Exists}
  podSelectorEndpoints:
  - {hostIP: 10.0.0.5, name: web-6d4-b, namespace: web, podIP: 10.0.12.9}
  - {hostIP: 10.0.0.5, name: web-6d4-a, namespace: web, podIP: 10.0.12.8}
  policyRef: {name: allow-web, namespace: web}
status: {}
"#;

#[test]
fn a_real_object() {
    let document = one(REAL).unwrap();
    assert_eq!(
        document.identity.to_string(),
        "PolicyEndpoint/web/allow-web-7xk2p"
    );
    assert_eq!(document.policy.to_string(), "NetworkPolicy/web/allow-web");
    let names: Vec<_> = document.pods.iter().map(|p| &*p.name).collect();
    assert_eq!(names, ["web-6d4-a", "web-6d4-b"]);
    assert_eq!(
        document.isolates,
        Directions {
            ingress: true,
            egress: true
        }
    );
    assert_eq!(document.ingress[0].cidr.to_string(), "10.0.12.7/32");
    let tcp = Some(Protocol::Tcp);
    assert_eq!(
        *document.ingress[0].ports,
        [entry(tcp, Some((80, 90))), entry(tcp, Some((443, 443)))]
    );
    assert_eq!(document.egress[0].except.len(), 2);
    assert!(document.egress[1].ports.is_empty());
    let operators: Vec<_> = document
        .selector
        .unwrap()
        .requirements
        .into_iter()
        .map(|r| (r.key, r.operator))
        .collect();
    assert_eq!(
        operators[0],
        ("app".to_owned(), Operator::In(["web".to_owned()].into()))
    );
    assert_eq!(operators[2], ("track".to_owned(), Operator::Exists));
}

#[test]
fn json_reads_as_yaml_does() {
    let value: serde_json::Value = serde_norway::from_str(REAL).unwrap();
    assert_eq!(one(&value.to_string()), one(REAL));
    assert_eq!(
        one(&format!(
            "\u{feff}{}",
            serde_json::to_string_pretty(&value).unwrap()
        )),
        one(REAL)
    );
}

#[test]
fn one_form_back() {
    let document = one(REAL).unwrap();
    let json = document.to_json();
    assert_eq!(read(&json).documents[0].as_ref().unwrap().to_json(), json);
    assert_eq!(read(&json).documents, [Ok(document)]);
    let text = "  tier: Admin\n  priority: 7\n  policyRef: {name: n}\n  egress:\n  - {domainName: x.example, action: Accept}\n  - {cidr: 1.2.3.4, action: Deny, ports: [{port: 5}, {}]}\n  - {cidr: 1.2.3.4, action: Pass, ports: [{port: 5}]}\n";
    let document = cluster(text).unwrap();
    assert_eq!(
        (
            document.egress.len(),
            document.egress[0].index,
            &document.unsupported[..]
        ),
        (2, 1, &["spec.egress[0].domainName".to_owned()][..])
    );
    assert_eq!(read(&document.to_json()).documents, [Ok(document)]);
}

#[test]
fn defaults_of_identity_and_policy() {
    let document = one(&format!("{HEAD}metadata: {{name: p}}\nspec: {{}}")).unwrap();
    assert_eq!(document.identity.to_string(), "PolicyEndpoint/default/p");
    assert_eq!(document.policy.to_string(), "PolicyEndpoint/default/p");
    assert_eq!(
        (document.selector, document.isolates, document.pods.len()),
        (None, Directions::default(), 0)
    );
    assert_eq!(
        spec("  policyRef: {name: x}").unwrap().policy.to_string(),
        "NetworkPolicy/ns/x"
    );
    assert_eq!(
        spec("  policyRef: {name: x, kind: ApplicationNetworkPolicy}")
            .unwrap()
            .policy
            .kind,
        "ApplicationNetworkPolicy"
    );
    assert_eq!(
        cluster("  tier: Admin\n  policyRef: {name: x}")
            .unwrap()
            .policy
            .to_string(),
        "ClusterNetworkPolicy/x"
    );
    assert!(
        spec("  podSelector: {}")
            .unwrap()
            .selector
            .unwrap()
            .requirements
            .is_empty()
    );
}

#[test]
fn rules_isolate_without_pod_isolation() {
    let document = spec("  ingress: [{cidr: 10.0.0.1}]").unwrap();
    assert_eq!(
        document.isolates,
        Directions {
            ingress: true,
            egress: false
        }
    );
    // Not even when podgate cannot enforce the rule.
    let document = spec("  egress: [{domainName: example.org}]").unwrap();
    assert_eq!(
        document.isolates,
        Directions {
            ingress: false,
            egress: true
        }
    );
    assert!(document.egress.is_empty());
    assert_eq!(
        spec("  ingress: []\n  egress: null").unwrap().isolates,
        Directions::default()
    );
    assert_eq!(
        cluster("  tier: Admin\n  ingress: [{cidr: 10.0.0.1, action: Deny}]")
            .unwrap()
            .isolates,
        Directions::default()
    );
}

#[test]
fn port_defaults_by_kind() {
    let ports = "ports: [{port: 80}, {protocol: UDP}, {protocol: null, port: 90, endPort: 95}]";
    let ours = spec(&format!("  ingress: [{{cidr: 10.0.0.1, {ports}}}]")).unwrap();
    assert_eq!(
        *ours.ingress[0].ports,
        [
            entry(None, Some((80, 80))),
            entry(None, Some((90, 95))),
            entry(Some(Protocol::Udp), None)
        ]
    );
    let theirs = cluster(&format!(
        "  tier: Admin\n  ingress: [{{cidr: 10.0.0.1, action: Accept, {ports}}}]"
    ))
    .unwrap();
    let tcp = Some(Protocol::Tcp);
    assert_eq!(
        *theirs.ingress[0].ports,
        [
            entry(tcp, Some((80, 80))),
            entry(tcp, Some((90, 95))),
            entry(Some(Protocol::Udp), None)
        ]
    );
    for all in [
        "",
        ", ports: []",
        ", ports: null",
        ", ports: [{}]",
        ", ports: [{port: 80}, {}]",
    ] {
        let document = spec(&format!("  ingress: [{{cidr: 10.0.0.1{all}}}]")).unwrap();
        assert!(document.ingress[0].ports.is_empty(), "{all}");
        let document = cluster(&format!(
            "  tier: Admin\n  ingress: [{{cidr: 10.0.0.1, action: Deny{all}}}]"
        ))
        .unwrap();
        assert!(document.ingress[0].ports.is_empty(), "{all}");
    }
}

#[test]
fn errors_name_document_and_field() {
    for (text, expected) in [
        (
            "  ingress: [{cidr: 10.0.0.1}, {cidr: 10.0.0.300/8}]",
            "spec.ingress[1].cidr: \"10.0.0.300/8\" is neither an address nor address/length",
        ),
        (
            "  ingress: [{cidr: 10.0.0.0/33}]",
            "spec.ingress[0].cidr: length 33 of \"10.0.0.0/33\" is more than 32",
        ),
        (
            "  egress: [{cidr: '::ffff:10.0.0.1'}]",
            "spec.egress[0].cidr: \"::ffff:10.0.0.1\" is an IPv4 address in IPv6 form; write it as IPv4",
        ),
        (
            "  egress: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]",
            "spec.egress[0].except[0]: 11.0.0.0/16 is not inside 10.0.0.0/8",
        ),
        (
            "  egress: [{cidr: 10.1.0.0/16, except: [10.0.0.0/8]}]",
            "spec.egress[0].except[0]: 10.0.0.0/8 is not inside 10.1.0.0/16",
        ),
        (
            "  egress: [{cidr: 0.0.0.0/0, except: ['::/0']}]",
            "spec.egress[0].except[0]: ::/0 and 0.0.0.0/0 are not of one address family",
        ),
        (
            "  egress: [{cidr: 10.0.0.1, ports: [{port: 70000}]}]",
            "spec.egress[0].ports[0].port: 70000 is not in 1 to 65535",
        ),
        (
            "  egress: [{cidr: 10.0.0.1, ports: [{port: 0}]}]",
            "spec.egress[0].ports[0].port: 0 is not in 1 to 65535",
        ),
        (
            "  egress: [{cidr: 10.0.0.1, ports: [{port: -1}]}]",
            "spec.egress[0].ports[0].port: -1 is not in 1 to 65535",
        ),
        (
            "  egress: [{cidr: 10.0.0.1, ports: [{port: http}]}]",
            "spec.egress[0].ports[0].port: is text; expected a whole number",
        ),
        (
            "  egress: [{cidr: 10.0.0.1, ports: [{port: 80.5}]}]",
            "spec.egress[0].ports[0].port: is a number out of range or with a fraction; expected a whole number",
        ),
        (
            "  egress: [{cidr: 10.0.0.1, ports: [{port: 80, endPort: 79}]}]",
            "spec.egress[0].ports[0].endPort: 79 is below port 80",
        ),
        (
            "  egress: [{cidr: 10.0.0.1, ports: [{endPort: 79}]}]",
            "spec.egress[0].ports[0].endPort: given without port",
        ),
        (
            "  egress: [{cidr: 10.0.0.1, ports: [{protocol: ICMP}]}]",
            "spec.egress[0].ports[0].protocol: \"ICMP\" is not known; expected TCP, UDP or SCTP",
        ),
        (
            "  egress: [{cidr: 10.0.0.1, ports: {port: 80}}]",
            "spec.egress[0].ports: is a mapping; expected a list",
        ),
        (
            "  egress: [{ports: [{port: 80}]}]",
            "spec.egress[0].cidr: missing; expected an address or address/length",
        ),
        (
            "  egress: [{cidr: 10.0.0.1, cidr: 10.0.0.2}]",
            "spec.egress[0].cidr: given twice",
        ),
        ("  egress: all", "spec.egress: is text; expected a list"),
        (
            "  egress: [10.0.0.1]",
            "spec.egress[0]: is text; expected a mapping",
        ),
        (
            "  ingress: [{domainName: example.org}]",
            "spec.ingress[0].cidr: missing; expected an address or address/length",
        ),
        (
            "  podIsolation: [Both]",
            "spec.podIsolation[0]: \"Both\" is not known; expected Ingress or Egress",
        ),
        (
            "  podSelectorEndpoints: [{podIP: 10.0.0.1}]",
            "spec.podSelectorEndpoints[0].name: missing; expected the pod's name",
        ),
        (
            "  podSelector: {matchExpressions: [{key: a, operator: In}]}",
            "spec.podSelector.matchExpressions[0]: In needs values",
        ),
        (
            "  podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
            "spec.podSelector.matchExpressions[0]: Exists takes no values",
        ),
        (
            "  podSelector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}",
            "spec.podSelector.matchExpressions[0].operator: \"Gt\" is not known; expected In, NotIn, Exists or DoesNotExist",
        ),
        (
            "  podSelector: {matchLabels: {a.b/c: 1}}",
            "spec.podSelector.matchLabels[a.b/c]: is a whole number; expected text",
        ),
        (
            "  policyRef: {namespace: a}",
            "spec.policyRef.name: missing; expected the policy's name",
        ),
    ] {
        assert_eq!(
            error(spec(text)),
            format!("read document 1 (PolicyEndpoint/ns/p): {expected}"),
            "{text}"
        );
    }
    for (text, expected) in [
        (
            "  priority: 1",
            "spec.tier: missing; expected Admin or Baseline",
        ),
        (
            "  tier: Middle",
            "spec.tier: \"Middle\" is not known; expected Admin or Baseline",
        ),
        (
            "  tier: Admin\n  priority: 1001",
            "spec.priority: 1001 is not in 0 to 1000",
        ),
        (
            "  tier: Admin\n  ingress: [{cidr: 10.0.0.1}]",
            "spec.ingress[0].action: missing; expected Accept, Deny or Pass",
        ),
        (
            "  tier: Admin\n  ingress: [{cidr: 10.0.0.1, action: Allow}]",
            "spec.ingress[0].action: \"Allow\" is not known; expected Accept, Deny or Pass",
        ),
    ] {
        assert_eq!(
            error(cluster(text)),
            format!("read document 1 (ClusterPolicyEndpoint/c): {expected}"),
            "{text}"
        );
    }
    for (text, expected) in [
        (
            format!("{HEAD}metadata: {{}}\nspec: {{}}"),
            "metadata.name: missing; expected the document's name",
        ),
        (
            format!("{HEAD}spec: {{}}"),
            "metadata: missing; expected a mapping with a name",
        ),
        (
            format!("{HEAD}metadata: {{name: ''}}\nspec: {{}}"),
            "metadata.name: missing; expected the document's name",
        ),
        (
            format!("{HEAD}metadata: {{name: 5}}\nspec: {{}}"),
            "metadata.name: is a whole number; expected text",
        ),
        (
            "kind: ConfigMap\napiVersion: v1".to_owned(),
            "v1 ConfigMap is not a policy document; expected networking.k8s.aws/v1alpha1 PolicyEndpoint or ClusterPolicyEndpoint",
        ),
        (
            "kind: PolicyEndpoint".to_owned(),
            "(none) PolicyEndpoint is not a policy document; expected networking.k8s.aws/v1alpha1 PolicyEndpoint or ClusterPolicyEndpoint",
        ),
        ("just text".to_owned(), "is text; expected a mapping"),
        ("[1, 2]".to_owned(), "is a list; expected a mapping"),
    ] {
        assert_eq!(
            error(one(&text)),
            format!("read document 1: {expected}"),
            "{text}"
        );
    }
    let no_spec = one(&format!("{HEAD}metadata: {{name: p}}"));
    assert_eq!(
        error(no_spec),
        "read document 1 (PolicyEndpoint/default/p): spec: missing; expected a mapping"
    );
}

#[test]
fn marks() {
    let marked = |annotations: &str| {
        one(&format!(
            "{HEAD}metadata: {{name: p, annotations: {{{annotations}}}}}\nspec: {{}}"
        ))
    };
    let document = marked("podgate.dev/parts: '3', podgate.dev/generation: '12', podgate.dev/group: g, podgate.dev/ordered: 'true'").unwrap();
    assert_eq!(
        document.part,
        Some(Part {
            generation: "12".to_owned(),
            of: 3
        })
    );
    assert_eq!(
        (document.group.as_deref(), document.ordered),
        (Some("g"), true)
    );
    assert_eq!(read(&document.to_json()).documents, [Ok(document)]);
    // Someone forgot the quotes.
    assert_eq!(
        marked("podgate.dev/parts: 3, podgate.dev/generation: 12")
            .unwrap()
            .part
            .unwrap()
            .of,
        3
    );
    assert!(
        error(marked("podgate.dev/parts: '0', podgate.dev/generation: g"))
            .contains("[podgate.dev/parts]")
    );
    assert!(
        error(marked("podgate.dev/parts: '2'"))
            .contains("metadata.annotations[podgate.dev/generation]: missing")
    );
    assert!(
        error(marked("podgate.dev/ordered: 'yes'"))
            .contains("[podgate.dev/ordered]: \"yes\" is not known")
    );
}

#[test]
fn one_broken_document_does_not_reach_another() {
    let good = |name: &str| format!("{HEAD}metadata: {{name: {name}}}\nspec: {{}}\n");
    let text = format!(
        "{}---\n{HEAD}metadata: {{name: b\n---\n\tx: [\n---\n{}---\n# end\n",
        good("a"),
        good("c")
    );
    let reading = read(text.as_bytes());
    let names: Vec<_> = reading.good().map(|d| d.identity.name.as_str()).collect();
    assert_eq!(
        (names, reading.documents.len(), reading.blank),
        (vec!["a", "c"], 4, false)
    );
    let errors: Vec<_> = reading
        .broken()
        .map(|b| (b.index, b.error.to_string()))
        .collect();
    assert!(
        errors
            .iter()
            .all(|(index, e)| e
                .starts_with(&format!("read document {}: not YAML or JSON: ", index + 1))),
        "{errors:?}"
    );
}

#[test]
fn lists() {
    let item = |name: &str| {
        format!(
            "{{\"apiVersion\":\"{API_VERSION}\",\"kind\":\"PolicyEndpoint\",\"metadata\":{{\"name\":\"{name}\"}},\"spec\":{{}}}}"
        )
    };
    let text = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{},{{\"kind\":\"Pod\",\"apiVersion\":\"v1\"}},{}]}}",
        item("a"),
        item("b")
    );
    let reading = read(text.as_bytes());
    assert_eq!((reading.good().count(), reading.broken().count()), (2, 1));
    // Several values in a row.
    assert_eq!(
        read(format!("{text}\n{}", item("c")).as_bytes())
            .good()
            .count(),
        3
    );
    // A typed list, whose items have no kind.
    let text = format!(
        "kind: PolicyEndpointList\napiVersion: {API_VERSION}\nitems:\n- metadata: {{name: a}}\n  spec: {{}}\n"
    );
    assert_eq!(read(text.as_bytes()).good().count(), 1);
    let empty = read(b"kind: List\napiVersion: v1\nitems: []\n");
    assert!(empty.documents.is_empty() && !empty.blank);
    for blank in ["", " \n", "---\n", "# nothing\n", "---\n...\n", "null"] {
        let reading = read(blank.as_bytes());
        assert!(reading.documents.is_empty() && reading.blank, "{blank:?}");
    }
}

#[test]
fn bombs_and_rubbish() {
    let mut bomb = format!("{HEAD}metadata: {{name: p}}\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..9 {
        let before = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    let result = one(&bomb);
    assert!(error(result).contains("alias"), "a billion laughs");
    // An alias that unfolds to little is as good as anything.
    let text = "  ingress: [{cidr: 10.0.0.1, ports: &p [{port: 80}]}, {cidr: 10.0.0.2, ports: *p}]";
    assert_eq!(spec(text).unwrap().ingress.len(), 2);
    for text in [
        "[".repeat(100_000),
        "{\"a\":".repeat(100_000),
        "- ".repeat(100_000),
        "? ".repeat(10_000),
        "&a [*a]".to_owned(),
        "!!binary x".to_owned(),
    ] {
        assert!(read(text.as_bytes()).good().next().is_none());
    }
    // What is not UTF-8 breaks its own document.
    let mut bytes = format!(
        "{HEAD}metadata: {{name: a}}
spec: {{}}
---
{HEAD}metadata: {{name: x"
    )
    .into_bytes();
    bytes.extend([0xff, 0xfe]);
    bytes.extend(
        format!(
            "}}
spec: {{}}
---
{HEAD}metadata: {{name: c}}
spec: {{}}"
        )
        .bytes(),
    );
    let reading = read(&bytes);
    assert_eq!(
        (
            reading.good().count(),
            reading.broken().map(|b| b.index).collect::<Vec<_>>()
        ),
        (2, vec![1])
    );
    // Cut off anywhere: never a panic.
    for end in 0..REAL.len() {
        read(&REAL.as_bytes()[..end]);
    }
    assert!(!read(b"\0\0\0\0").blank);
}

#[test]
fn what_a_broken_document_can_still_be_seen_to_select() {
    let broken = |text: &str| *spec(text).unwrap_err();
    let seen = broken(
        "  podSelectorEndpoints: [{name: a, namespace: ns}, {podIP: x}, {name: b}]\n  podIsolation: [Ingress]\n  ingress: [{cidr: nonsense}]",
    );
    let stand_in = seen.isolating.unwrap();
    assert_eq!(seen.identity.as_ref(), Some(&stand_in.identity));
    let names: Vec<_> = stand_in.pods.iter().map(|p| &*p.name).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(
        stand_in.isolates,
        Directions {
            ingress: true,
            egress: false
        }
    );
    assert!(stand_in.ingress.is_empty());
    // Which directions cannot be told: both.
    let both = Directions {
        ingress: true,
        egress: true,
    };
    assert_eq!(
        broken("  podSelector: {}\n  podIsolation: 7")
            .isolating
            .unwrap()
            .isolates,
        both
    );
    let text = "  podSelector: {}\n  policyRef: {name: x}\n  egress: [{cidr: 1}]";
    let stand_in = broken(text).isolating.unwrap();
    assert_eq!(
        stand_in.isolates,
        Directions {
            ingress: false,
            egress: true
        }
    );
    assert_eq!(stand_in.policy.to_string(), "NetworkPolicy/ns/x");
    assert_eq!(broken("  egress: [{cidr: 1}]").isolating, None);
    let stand_in = cluster("  tier: Middle\n  podSelectorEndpoints: [{name: a, namespace: ns}]")
        .unwrap_err()
        .isolating
        .unwrap();
    assert_eq!(
        (stand_in.tier, stand_in.isolates),
        (Tier::NetworkPolicy, both)
    );
}

proptest::proptest! {
    #![proptest_config(testing::cases(100))]

    #[test]
    fn any_document_comes_back(document in testing::document()) {
        // Written once it has the defaults of its kind; from then on it stays as it is.
        let once = read(&document.to_json()).documents.remove(0).unwrap();
        let twice = read(&once.to_json()).documents.remove(0).unwrap();
        proptest::prop_assert_eq!(once.to_json(), twice.to_json());
        proptest::prop_assert_eq!(&once, &twice);
        proptest::prop_assert_eq!(
            (once.identity, once.pods, once.policy, once.isolates, once.selector),
            (document.identity, document.pods, document.policy, document.isolates, document.selector)
        );
    }

    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        read(&bytes);
    }

    #[test]
    fn no_damage_panics(at in 0..REAL.len(), byte in proptest::prelude::any::<u8>()) {
        let mut bytes = REAL.as_bytes().to_vec();
        bytes[at] = byte;
        read(&bytes);
    }
}

#[test]
fn merge_keys() {
    let reading = read(
        b"apiVersion: networking.k8s.aws/v1alpha1
kind: PolicyEndpoint
metadata: {namespace: x, name: p-1}
spec:
  policyRef: {namespace: x, name: p}
  podSelectorEndpoints: [{namespace: x, name: a}]
  ingress:
  - &web {cidr: 192.0.2.0/24, ports: [{protocol: TCP, port: 80}]}
  - {<<: *web, cidr: 198.51.100.0/24}
",
    );
    let document = reading.good().next().unwrap();
    assert_eq!(document.ingress[1].cidr.to_string(), "198.51.100.0/24");
    assert_eq!(document.ingress[1].ports, document.ingress[0].ports);
    let reading = read(b"apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {name: p}\nspec: {<<: 5}\n");
    assert!(
        reading
            .broken()
            .next()
            .unwrap()
            .error
            .to_string()
            .contains("`<<`")
    );
}
