//! Cluster-wide policies of all four kinds: order, tiers, words.

use policy::documents::Condition;

use crate::harness::{SCTP, TCP, UDP, namespace, pod, policy, world};

fn pods() -> String {
    namespace("x", "team=one")
        + &namespace("y", "team=two")
        + &pod("x/a", 1, "app=a", "http:80")
        + &pod("x/b", 2, "app=b", "http:8080 http:8080/UDP")
        + &pod("y/c", 3, "app=a", "http:80")
        + "\n---\n{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {zone: a}}, status: {addresses: [{type: InternalIP, address: 10.9.0.1}, {type: Hostname, address: n1}]}}\n"
        + "\n---\n{apiVersion: v1, kind: Node, metadata: {name: n2, labels: {zone: b}}, status: {addresses: [{type: InternalIP, address: 10.9.0.2}]}}\n"
}

fn upstream(name: &str, tier: &str, priority: u16, rest: &str) -> String {
    format!(
        "\n---\n{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: {name}}}, spec: {{tier: {tier}, priority: {priority}, {rest}}}}}\n"
    )
}

const ALL: &str = "subject: {namespaces: {}}";

#[test]
fn rules_hold_in_their_order() {
    let rules = |first: &str, second: &str| {
        let text = format!(
            "{ALL}, ingress: [{{action: {first}, from: [{{pods: {{podSelector: {{matchLabels: {{app: a}}}}}}}}]}}, {{action: {second}, from: [{{namespaces: {{}}}}]}}]"
        );
        world(&(pods() + &upstream("p", "Admin", 5, &text)))
    };
    let w = rules("Accept", "Deny");
    assert!(w.reaches("y/c", "x/b", TCP, 1) && !w.reaches("x/b", "x/a", TCP, 1));
    let w = rules("Deny", "Accept");
    assert!(!w.reaches("y/c", "x/b", TCP, 1) && w.reaches("x/b", "x/a", TCP, 1));
    assert_eq!(
        w.file("cluster_p_ClusterNetworkPolicy.yaml")[0]["metadata"]["annotations"]["podgate.dev/ordered"],
        "true"
    );
}

#[test]
fn tiers_and_priorities() {
    let deny = format!("{ALL}, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]}}]");
    let accept = format!("{ALL}, ingress: [{{action: Accept, from: [{{namespaces: {{}}}}]}}]");
    let pass = format!("{ALL}, ingress: [{{action: Pass, from: [{{namespaces: {{}}}}]}}]");
    let allow_all = policy("x/p", "{podSelector: {}, ingress: [{}]}");
    let deny_all = policy("x/p", "{podSelector: {}}");
    let reached = |text: &str| world(&(pods() + text)).reaches("y/c", "x/a", TCP, 1);
    assert!(!reached(&(upstream("d", "Admin", 1, &deny) + &allow_all)));
    assert!(reached(&(upstream("a", "Admin", 1, &accept) + &deny_all)));
    assert!(reached(
        &(upstream("d", "Admin", 2, &deny) + &upstream("p", "Admin", 1, &pass) + &allow_all)
    ));
    assert!(!reached(
        &(upstream("d", "Admin", 1, &deny) + &upstream("a", "Admin", 2, &accept))
    ));
    assert!(!reached(&upstream("d", "Baseline", 1, &deny)));
    assert!(reached(&(upstream("d", "Baseline", 1, &deny) + &allow_all)));
}

#[test]
fn nodes_and_networks_are_peers_of_egress() {
    let text = format!(
        "{ALL}, egress: [{{action: Accept, to: [{{nodes: {{matchLabels: {{zone: a}}}}}}, {{networks: [192.0.2.0/24, '2001:db8::/32']}}], protocols: [{{tcp: {{destinationPort: {{number: 443}}}}}}]}}, {{action: Deny, to: [{{networks: [0.0.0.0/0, '::/0']}}]}}]"
    );
    let w = world(&(pods() + &upstream("p", "Admin", 5, &text)));
    assert!(w.egress("x/a", "10.9.0.1", TCP, 443) && !w.egress("x/a", "10.9.0.1", TCP, 80));
    assert!(!w.egress("x/a", "10.9.0.2", TCP, 443));
    assert!(w.egress("x/a", "192.0.2.9", TCP, 443) && w.egress("x/a", "2001:db8::9", TCP, 443));
    assert!(!w.egress("x/a", "192.0.2.9", UDP, 443));
}

#[test]
fn protocols_ranges_and_named_ports() {
    let text = format!(
        "{ALL}, ingress: [{{action: Accept, from: [{{namespaces: {{}}}}], protocols: [{{udp: {{destinationPort: {{range: {{start: 10, end: 12}}}}}}}}, {{sctp: {{}}}}, {{destinationNamedPort: http}}]}}, {{action: Deny, from: [{{namespaces: {{}}}}]}}]"
    );
    let w = world(&(pods() + &upstream("p", "Admin", 5, &text)));
    assert!(
        w.reaches("y/c", "x/a", UDP, 12)
            && !w.reaches("y/c", "x/a", UDP, 13)
            && !w.reaches("y/c", "x/a", TCP, 12)
    );
    assert!(w.reaches("y/c", "x/a", SCTP, 77));
    // The named port of each pod, with that pod's number and protocols.
    assert!(w.reaches("y/c", "x/a", TCP, 80) && !w.reaches("y/c", "x/a", TCP, 8080));
    assert!(
        w.reaches("y/c", "x/b", TCP, 8080)
            && w.reaches("y/c", "x/b", UDP, 8080)
            && !w.reaches("y/c", "x/b", TCP, 80)
    );
}

#[test]
fn admin_and_baseline_admin_policies() {
    let anp = |action: &str, priority: u16| {
        format!(
            "\n---\n{{apiVersion: policy.networking.k8s.io/v1alpha1, kind: AdminNetworkPolicy, metadata: {{name: a}}, spec: {{priority: {priority}, {ALL}, ingress: [{{action: {action}, from: [{{namespaces: {{matchLabels: {{team: two}}}}}}], ports: [{{portNumber: {{protocol: TCP, port: 80}}}}, {{portRange: {{protocol: UDP, start: 1, end: 9}}}}, {{namedPort: http}}]}}]}}}}\n"
        )
    };
    let banp = "\n---\n{apiVersion: policy.networking.k8s.io/v1alpha1, kind: BaselineAdminNetworkPolicy, metadata: {name: default}, spec: {subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}\n";
    let w = world(&(pods() + &anp("Allow", 3) + banp));
    assert!(
        w.reaches("y/c", "x/a", TCP, 80)
            && w.reaches("y/c", "x/a", UDP, 5)
            && !w.reaches("y/c", "x/a", TCP, 81)
    );
    assert!(
        w.reaches("y/c", "x/b", TCP, 80) && w.reaches("y/c", "x/b", TCP, 8080),
        "the number, and the name's number there"
    );
    assert!(!w.reaches("x/b", "x/a", TCP, 80));
    let w = world(&(pods() + &anp("Deny", 3)));
    assert!(!w.reaches("y/c", "x/a", TCP, 80) && w.reaches("y/c", "x/a", TCP, 81));
}

#[test]
fn amazons_cluster_policies_beside_upstreams_of_the_same_name() {
    let amazon = "\n---\n{apiVersion: networking.k8s.aws/v1alpha1, kind: ClusterNetworkPolicy, metadata: {name: p}, spec: {tier: Admin, priority: 5, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: a}}}}, ingress: [{name: r, action: Deny, from: [{namespaces: {matchLabels: {team: one}}}], ports: [{portNumber: {port: 80}}]}]}}\n";
    let other = upstream(
        "p",
        "Admin",
        6,
        &format!(
            "{ALL}, ingress: [{{action: Deny, from: [{{namespaces: {{matchLabels: {{team: one}}}}}}], protocols: [{{tcp: {{destinationPort: {{number: 81}}}}}}]}}]"
        ),
    );
    let w = world(&(pods() + amazon + &other));
    assert!(
        !w.reaches("x/b", "x/a", TCP, 80)
            && !w.reaches("x/b", "x/a", TCP, 81)
            && w.reaches("x/b", "x/a", TCP, 82)
    );
    assert!(w.reaches("x/a", "x/b", TCP, 80));
    assert_eq!(
        w.file("cluster_p_ClusterNetworkPolicy.networking.k8s.aws.yaml")
            .len(),
        1
    );
}

#[test]
fn domain_names_are_unsupported_and_let_nothing_pass() {
    let text = "\n---\n{apiVersion: networking.k8s.aws/v1alpha1, kind: ApplicationNetworkPolicy, metadata: {name: p, namespace: x}, spec: {podSelector: {}, egress: [{to: [{domainNames: ['*.example.com']}, {ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 443}]}]}}\n";
    let w = world(&(pods() + text));
    assert_eq!(
        w.conditions.values().next().unwrap().0,
        Condition::Unsupported
    );
    assert!(w.egress("x/a", "192.0.2.1", TCP, 443) && !w.egress("x/a", "198.51.100.1", TCP, 443));
    assert!(
        !w.ingress("x/a", "192.0.2.1", TCP, 443),
        "policyTypes default as in a NetworkPolicy"
    );
}

#[test]
fn no_to_in_an_application_policy_is_anywhere() {
    let text = "\n---\n{apiVersion: networking.k8s.aws/v1alpha1, kind: ApplicationNetworkPolicy, metadata: {name: p, namespace: x}, spec: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 443}]}]}}\n";
    let w = world(&(pods() + text));
    assert!(w.egress("x/a", "198.51.100.1", TCP, 443) && !w.egress("x/a", "198.51.100.1", TCP, 80));
}
