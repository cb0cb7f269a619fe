//! The known faults of the reference stack that concern documents and rules, each a named case that podgate must not
//! have: its agent's section 3 B, and its controller's section 2.7 (the shapes of documents that it gets wrong).
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; the lint knows only test functions"
)]

use std::{net::IpAddr, sync::Arc};

use policy::{
    Direction, Endpoint, EndpointId, Facts, Policies, Tables, Verdict, assemble, compile,
    documents::{self, Condition},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;

/// One pod `web-0` in namespace `ns`, and the documents that are given.
struct World {
    tables: Tables,
    strict: bool,
}

fn world(text: &str) -> World {
    let reading = documents::read(text.as_bytes());
    assert_eq!(
        reading
            .broken()
            .map(|b| b.error.to_string())
            .collect::<Vec<_>>(),
        [""; 0]
    );
    let documents = reading.documents.into_iter().flatten().map(Arc::new);
    let assembly = assemble(documents, &Policies::new());
    assert!(
        assembly
            .conditions
            .values()
            .all(|(condition, _)| *condition == Condition::Applied)
    );
    World {
        tables: compile(&[pod()], &assembly.policies, &Facts::default()),
        strict: false,
    }
}

fn pod() -> Endpoint {
    Endpoint {
        id: EndpointId(1),
        namespace: "ns".to_owned(),
        name: "web-0".to_owned(),
        labels: None,
    }
}

impl World {
    fn passes(&self, direction: Direction, peer: &str, protocol: u8, port: u16) -> bool {
        let peer: IpAddr = peer.parse().unwrap();
        self.tables
            .allows(EndpointId(1), direction, peer, protocol, port, self.strict)
            .unwrap()
    }

    fn egress(&self, peer: &str, protocol: u8, port: u16) -> bool {
        self.passes(Direction::Egress, peer, protocol, port)
    }

    fn ingress(&self, peer: &str, protocol: u8, port: u16) -> bool {
        self.passes(Direction::Ingress, peer, protocol, port)
    }
}

/// A PolicyEndpoint that selects the pod.
fn endpoint(name: &str, policy: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {{name: {name}, namespace: ns}}\n\
         spec:\n  policyRef: {{name: {policy}, namespace: ns}}\n  podSelectorEndpoints: [{{name: web-0, namespace: ns}}]\n{spec}\n"
    )
}

/// A ClusterPolicyEndpoint that selects the pod.
fn cluster(name: &str, tier: &str, priority: u16, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.aws/v1alpha1\nkind: ClusterPolicyEndpoint\nmetadata: {{name: {name}}}\n\
         spec:\n  policyRef: {{name: {name}}}\n  tier: {tier}\n  priority: {priority}\n  \
         podSelectorEndpoints: [{{name: web-0, namespace: ns}}]\n{spec}\n"
    )
}

#[test]
fn b1_more_than_24_ports_for_one_block() {
    let ports: Vec<_> = (0..500)
        .map(|i| format!("{{protocol: TCP, port: {}}}", 1000 + 7 * i))
        .collect();
    let w = world(&endpoint(
        "a",
        "a",
        &format!(
            "  egress: [{{cidr: 10.0.0.0/8, ports: [{}]}}]",
            ports.join(", ")
        ),
    ));
    assert!((0..500).all(
        |i| w.egress("10.1.2.3", TCP, 1000 + 7 * i) && !w.egress("10.1.2.3", TCP, 1001 + 7 * i)
    ));
    assert!(!w.egress("10.1.2.3", UDP, 1000));
    let deny: Vec<_> = (0..500)
        .map(|i| format!("{{protocol: TCP, port: {}}}", 1000 + 7 * i))
        .collect();
    let w = world(&cluster(
        "c",
        "Admin",
        1,
        &format!(
            "  egress: [{{cidr: 10.0.0.0/8, action: Deny, ports: [{}]}}]",
            deny.join(", ")
        ),
    ));
    assert!((0..500).all(
        |i| !w.egress("10.1.2.3", TCP, 1000 + 7 * i) && w.egress("10.1.2.3", TCP, 1001 + 7 * i)
    ));
}

#[test]
fn b2_an_except_is_a_hole_in_its_own_block_only() {
    let spec = "  egress:\n  - {cidr: 10.0.0.0/8, ports: [{protocol: TCP, port: 443}]}\n  - {cidr: 0.0.0.0/0, except: [10.1.0.0/16]}";
    let w = world(&endpoint("a", "a", spec));
    assert!(w.egress("10.1.2.3", TCP, 443), "the other rule allows it");
    assert!(!w.egress("10.1.2.3", TCP, 80));
    assert!(w.egress("10.2.0.1", TCP, 80) && w.egress("8.8.8.8", UDP, 53));
    // Across policies too, and for an exact address within the hole.
    let text = endpoint(
        "a",
        "a",
        "  egress: [{cidr: 0.0.0.0/0, except: [10.1.0.0/16]}]",
    ) + &endpoint(
        "b",
        "b",
        "  egress: [{cidr: 10.1.2.3, ports: [{protocol: TCP, port: 80}]}]",
    );
    let w = world(&text);
    assert!(
        w.egress("10.1.2.3", TCP, 80)
            && !w.egress("10.1.2.3", TCP, 81)
            && !w.egress("10.1.2.4", TCP, 80)
    );
    // A more specific block than the except, in the same document.
    let w = world(&endpoint(
        "a",
        "a",
        "  egress: [{cidr: 0.0.0.0/0, except: [10.1.0.0/16]}, {cidr: 10.1.7.0/24}]",
    ));
    assert!(w.egress("10.1.7.9", TCP, 1) && !w.egress("10.1.8.9", TCP, 1));
}

#[test]
fn b3_many_rules_for_one_block_cost_nothing_more() {
    let mut text = String::new();
    for i in 0..60 {
        text += &cluster(
            &format!("c{i}"),
            "Admin",
            i,
            &format!(
                "  egress: [{{cidr: 0.0.0.0/0, action: Deny, ports: [{{port: {}}}]}}]",
                1000 + i
            ),
        );
    }
    let w = world(&text);
    assert!((0..60).all(|i| !w.egress("1.2.3.4", TCP, 1000 + i)));
    assert!(w.egress("1.2.3.4", TCP, 1060));
    assert_eq!((w.tables.peers.len(), w.tables.sets[0].rules.len()), (0, 1));
}

#[test]
fn b4_any_protocol_with_a_port_means_the_port() {
    let w = world(&endpoint(
        "a",
        "a",
        "  egress: [{cidr: 10.0.0.0/8, ports: [{port: 80}]}]",
    ));
    for protocol in [TCP, UDP, SCTP] {
        assert!(w.egress("10.0.0.1", protocol, 80) && !w.egress("10.0.0.1", protocol, 81));
    }
    assert!(!w.egress("10.0.0.1", ICMP, 0) && !w.egress("10.0.0.1", 47, 0));
    // In a cluster rule a port without protocol is TCP.
    let w = world(&cluster(
        "c",
        "Admin",
        1,
        "  egress: [{cidr: 10.0.0.0/8, action: Deny, ports: [{port: 80}]}]",
    ));
    assert!(
        !w.egress("10.0.0.1", TCP, 80)
            && w.egress("10.0.0.1", UDP, 80)
            && w.egress("10.0.0.1", TCP, 81)
    );
    // And without a port, any protocol.
    let w = world(&cluster(
        "c",
        "Admin",
        1,
        "  egress: [{cidr: 10.0.0.0/8, action: Deny}]",
    ));
    assert!(!w.egress("10.0.0.1", TCP, 80) && !w.egress("10.0.0.1", ICMP, 0));
}

#[test]
fn b5_a_direction_that_nothing_isolates_has_no_denials() {
    let w = world(&endpoint(
        "a",
        "a",
        "  ingress: [{cidr: 10.0.0.1, ports: [{protocol: TCP, port: 80}]}]",
    ));
    assert!(!w.ingress("10.0.0.1", TCP, 81));
    // Egress to the very address that an ingress rule names.
    assert!(w.egress("10.0.0.1", TCP, 81));
}

#[test]
fn b6_no_policy_opens_the_node() {
    // What the host may do is the kernel program's own rule; no table holds the node's address.
    let w = world(&endpoint("a", "a", "  podIsolation: [Ingress, Egress]"));
    assert!(w.tables.peers.is_empty() && w.tables.sets.iter().all(|set| set.rules.is_empty()));
    assert!(!w.ingress("192.0.2.1", TCP, 10250) && !w.egress("192.0.2.1", TCP, 10250));
}

#[test]
fn b7_baseline_holds_in_the_direction_that_no_policy_isolates() {
    let text = endpoint("a", "a", "  egress: [{cidr: 10.0.0.0/8}]")
        + &cluster(
            "c",
            "Baseline",
            1,
            "  ingress: [{cidr: 0.0.0.0/0, action: Deny}]\n  egress: [{cidr: 0.0.0.0/0, action: Accept}]",
        );
    let w = world(&text);
    assert!(
        !w.ingress("10.0.0.1", TCP, 80),
        "an egress policy does not open ingress"
    );
    assert!(
        w.egress("10.0.0.1", TCP, 80) && !w.egress("11.0.0.1", TCP, 80),
        "isolated: baseline is not asked"
    );
}

#[test]
fn b8_strict_is_per_direction() {
    let mut w = world(&endpoint("a", "a", "  egress: [{cidr: 10.0.0.0/8}]"));
    w.strict = true;
    assert!(
        !w.ingress("10.0.0.1", TCP, 80),
        "strict and no ingress policy: denied"
    );
    assert!(w.egress("10.0.0.1", TCP, 80));
    w.strict = false;
    assert!(w.ingress("10.0.0.1", TCP, 80));
}

#[test]
fn controller_1_a_stale_selector_does_not_select() {
    let text = "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {name: a, namespace: ns}\nspec:\n  podSelector: {}\n  podIsolation: [Ingress]\n  podSelectorEndpoints: [{name: other, namespace: ns}]\n";
    let document = Arc::new(
        documents::read(text.as_bytes())
            .documents
            .remove(0)
            .unwrap(),
    );
    let policies = assemble([document], &Policies::new()).policies;
    let mut facts = Facts::default();
    let isolated = |facts: &Facts| {
        compile(&[pod()], &policies, facts).endpoints[&EndpointId(1)]
            .isolated
            .ingress
    };
    assert!(
        isolated(&facts),
        "before anybody can have known the pod, its labels count"
    );
    for policy in policies.values() {
        facts.observe(policy, &[pod()], |_| false);
    }
    assert!(isolated(&facts));
    for policy in policies.values() {
        facts.observe(policy, &[pod()], |_| true);
    }
    assert!(
        !isolated(&facts),
        "left out by a version that came late enough"
    );
}

#[test]
fn controller_4_and_6_ranges_are_not_mixed_up() {
    let spec = "  egress:\n  - {cidr: 10.0.0.1, ports: [{protocol: TCP, port: 80}]}\n  - {cidr: 10.0.0.1, ports: [{protocol: TCP, port: 80, endPort: 90}]}";
    let w = world(&endpoint("a", "a", spec));
    assert!(
        (80..=90).all(|port| w.egress("10.0.0.1", TCP, port)) && !w.egress("10.0.0.1", TCP, 91)
    );
    let spec = "  egress:\n  - {cidr: 10.0.0.1, ports: [{protocol: TCP, port: 20, endPort: 21}]}\n  - {cidr: 10.0.0.1, ports: [{protocol: TCP, port: 2021}]}";
    let w = world(&endpoint("a", "a", spec));
    assert!(
        [20, 21, 2021]
            .iter()
            .all(|port| w.egress("10.0.0.1", TCP, *port))
    );
    assert!(
        [19, 22, 2020, 2022]
            .iter()
            .all(|port| !w.egress("10.0.0.1", TCP, *port))
    );
    // Ports that are no characters.
    let spec = "  egress:\n  - {cidr: 10.0.0.1, ports: [{protocol: TCP, port: 55296}]}\n  - {cidr: 10.0.0.1, ports: [{protocol: TCP, port: 57343}]}";
    let w = world(&endpoint("a", "a", spec));
    assert!(
        w.egress("10.0.0.1", TCP, 55296)
            && w.egress("10.0.0.1", TCP, 57343)
            && !w.egress("10.0.0.1", TCP, 55297)
    );
}

#[test]
fn controller_5_all_ports_and_some_ports_is_all_ports() {
    let spec =
        "  egress:\n  - {cidr: 10.0.0.1}\n  - {cidr: 10.0.0.1, ports: [{protocol: TCP, port: 80}]}";
    let w = world(&endpoint("a", "a", spec));
    assert!(w.egress("10.0.0.1", TCP, 1) && w.egress("10.0.0.1", ICMP, 0));
    let spec = "  egress:\n  - {cidr: 10.0.0.1, action: Deny, ports: [{port: 80}]}\n  - {cidr: 10.0.0.1, action: Deny}";
    let w = world(&cluster("c", "Admin", 1, spec));
    assert!(!w.egress("10.0.0.1", TCP, 1) && !w.egress("10.0.0.1", TCP, 80));
    // One list that says both.
    let w = world(&endpoint(
        "a",
        "a",
        "  egress: [{cidr: 10.0.0.1, ports: [{protocol: TCP}, {protocol: TCP, port: 80}]}]",
    ));
    assert!(w.egress("10.0.0.1", TCP, 1) && !w.egress("10.0.0.1", UDP, 1));
}

#[test]
fn controller_8_policies_of_one_name_and_two_kinds_are_two() {
    let text = endpoint("a", "same", "  ingress: [{cidr: 10.0.0.1}]")
        + &endpoint(
            "b",
            "same, kind: ApplicationNetworkPolicy",
            "  ingress: [{cidr: 10.0.0.2}]",
        );
    let reading = documents::read(text.as_bytes());
    let policies = assemble(
        reading.documents.into_iter().flatten().map(Arc::new),
        &Policies::new(),
    )
    .policies;
    assert_eq!(policies.len(), 2);
}

#[test]
fn controller_9_families_are_apart() {
    let w = world(&endpoint("a", "a", "  egress: [{cidr: 0.0.0.0/0}]"));
    assert!(w.egress("1.2.3.4", TCP, 80) && !w.egress("2001:db8::1", TCP, 80));
    assert_eq!(
        w.tables.look_up(
            EndpointId(1),
            Direction::Egress,
            "2001:db8::1".parse().unwrap(),
            TCP,
            80
        ),
        Some(Verdict::Default)
    );
}

#[test]
fn chunks_of_one_policy_are_judged_together() {
    // Pods in one part, rules in another, isolation in a third.
    let part = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {{name: {name}, namespace: ns}}\nspec:\n  policyRef: {{name: p, namespace: ns}}\n{spec}\n"
        )
    };
    let text = part(
        "p-1",
        "  podSelectorEndpoints: [{name: web-0, namespace: ns}]",
    ) + &part("p-2", "  ingress: [{cidr: 10.0.0.1}]")
        + &part("p-3", "  podIsolation: [Ingress, Egress]");
    let w = world(&text);
    assert!(
        w.ingress("10.0.0.1", TCP, 80)
            && !w.ingress("10.0.0.2", TCP, 80)
            && !w.egress("10.0.0.1", TCP, 80)
    );
}

#[test]
fn tiers_in_order() {
    let text = cluster(
        "pass",
        "Admin",
        5,
        "  ingress: [{cidr: 10.0.0.0/8, action: Pass, ports: [{port: 80}]}]",
    ) + &cluster(
        "deny",
        "Admin",
        10,
        "  ingress: [{cidr: 10.0.0.0/8, action: Deny}]",
    ) + &cluster(
        "open",
        "Admin",
        10,
        "  ingress: [{cidr: 10.9.0.0/16, action: Accept}]",
    ) + &cluster(
        "first",
        "Admin",
        0,
        "  ingress: [{cidr: 10.9.9.9, action: Accept}]",
    ) + &endpoint("a", "a", "  ingress: [{cidr: 10.0.0.0/24}]");
    let w = world(&text);
    assert!(w.ingress("10.9.9.9", TCP, 1), "the lowest number decides");
    assert!(
        !w.ingress("10.9.0.1", TCP, 1),
        "at equal priority deny is before accept"
    );
    assert!(
        w.ingress("10.0.0.1", TCP, 80),
        "passed on to the policy that allows"
    );
    assert!(
        !w.ingress("10.0.1.1", TCP, 80),
        "passed on to policies that do not"
    );
    assert!(!w.ingress("10.0.0.1", TCP, 81), "not passed on");
    assert!(!w.ingress("11.0.0.1", TCP, 80), "isolated");
}
