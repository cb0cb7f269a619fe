//! NetworkPolicy, sentence by sentence of its specification.

use policy::documents::Condition;
use resolve::{HostNetworkPeers, Options};
use serde_json::json;

use crate::harness::{SCTP, TCP, UDP, namespace, pod, pod_with, policy, world, world_with};

/// Pods a and b in namespace x, c in y; x has the label team=one, y has no Namespace object.
fn pods() -> String {
    namespace("x", "team=one")
        + &pod("x/a", 1, "app=a,tier=front", "http:80 dns:53/UDP")
        + &pod("x/b", 2, "app=b", "http:8080 sig:9/SCTP")
        + &pod("y/c", 3, "app=a", "http:80")
}

#[test]
fn without_a_policy_everything_passes() {
    let w = world(&pods());
    assert!(w.reaches("x/a", "y/c", TCP, 80) && w.ingress("x/a", "192.0.2.1", UDP, 1));
}

#[test]
fn an_empty_pod_selector_is_the_whole_namespace_and_no_other() {
    for selector in [
        "podSelector: {}",
        "podSelector: null",
        "policyTypes: [Ingress]",
    ] {
        let w = world(&(pods() + &policy("x/p", &format!("{{{selector}}}"))));
        assert!(!w.reaches("y/c", "x/a", TCP, 80) && !w.reaches("x/a", "x/b", TCP, 80));
        assert!(w.reaches("x/a", "y/c", TCP, 80), "egress is untouched");
    }
}

#[test]
fn policy_types_are_ingress_and_egress_if_it_has_rules() {
    let only_ingress = [
        "{podSelector: {}}",
        "{podSelector: {}, policyTypes: [], egress: []}",
        "{podSelector: {}, policyTypes: null, egress: null}",
        "{podSelector: {}, policyTypes: [Ingress], egress: [{}]}",
    ];
    for spec in only_ingress {
        let w = world(&(pods() + &policy("x/p", spec)));
        assert!(w.egress("x/a", "192.0.2.1", TCP, 1), "{spec}");
        assert!(!w.ingress("x/a", "192.0.2.1", TCP, 1), "{spec}");
    }
    let both = "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.2/32}}]}]}";
    let w = world(&(pods() + &policy("x/p", both)));
    assert!(!w.ingress("x/a", "192.0.2.1", TCP, 1) && !w.egress("x/a", "192.0.2.1", TCP, 1));
    assert!(w.egress("x/a", "10.0.0.2", TCP, 1));
    let only_egress =
        "{podSelector: {}, policyTypes: [Egress], ingress: [{from: [{podSelector: {}}]}]}";
    let w = world(&(pods() + &policy("x/p", only_egress)));
    assert!(w.ingress("x/a", "192.0.2.1", TCP, 1) && !w.egress("x/a", "10.0.0.2", TCP, 1));
}

#[test]
fn empty_lists_and_absent_ones() {
    // No rule: nothing. An empty rule: everything. Empty peers and ports: any.
    for (spec, passes) in [
        ("ingress: []", false),
        ("ingress: null", false),
        ("ingress: [{}]", true),
        ("ingress: [null]", true),
        ("ingress: [{from: []}]", true),
        ("ingress: [{from: null, ports: []}]", true),
        (
            "ingress: [{from: [{podSelector: {matchLabels: {app: nobody}}}]}]",
            false,
        ),
    ] {
        let w = world(&(pods() + &policy("x/p", &format!("{{podSelector: {{}}, {spec}}}"))));
        assert_eq!(w.ingress("x/a", "192.0.2.1", TCP, 1), passes, "{spec}");
        assert_eq!(w.ingress("x/a", "2001:db8::1", 1, 0), passes, "{spec}");
    }
}

#[test]
fn peers_by_pod_namespace_and_both() {
    let from = |peer: &str| {
        let spec =
            format!("{{podSelector: {{matchLabels: {{app: b}}}}, ingress: [{{from: [{peer}]}}]}}");
        let w = world(&(pods() + &policy("x/p", &spec)));
        (
            w.reaches("x/a", "x/b", TCP, 1),
            w.reaches("y/c", "x/b", TCP, 1),
        )
    };
    assert_eq!(from("{podSelector: {}}"), (true, false));
    assert_eq!(
        from("{podSelector: {matchLabels: {app: a}}}"),
        (true, false)
    );
    assert_eq!(from("{namespaceSelector: {}}"), (true, true));
    assert_eq!(
        from("{namespaceSelector: {matchLabels: {team: one}}}"),
        (true, false)
    );
    assert_eq!(
        from("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}}"),
        (false, true)
    );
    assert_eq!(
        from("{namespaceSelector: {}, podSelector: {matchLabels: {tier: front}}}"),
        (true, false)
    );
    // Two peers are either; one peer with both selectors is both.
    assert_eq!(
        from(
            "{namespaceSelector: {matchLabels: {team: two}}}, {podSelector: {matchLabels: {tier: front}}}"
        ),
        (true, false)
    );
    assert_eq!(
        from(
            "{namespaceSelector: {matchLabels: {team: two}}, podSelector: {matchLabels: {tier: front}}}"
        ),
        (false, false)
    );
}

#[test]
fn every_operator_and_missing_keys() {
    let selected = |expression: &str| {
        let spec = format!("{{podSelector: {{matchExpressions: [{expression}]}}}}");
        let w = world(&(pods() + &policy("x/p", &spec)));
        ["x/a", "x/b"].map(|pod| !w.ingress(pod, "192.0.2.1", TCP, 1))
    };
    assert_eq!(
        selected("{key: app, operator: In, values: [a, z]}"),
        [true, false]
    );
    assert_eq!(
        selected("{key: app, operator: NotIn, values: [a]}"),
        [false, true]
    );
    assert_eq!(
        selected("{key: tier, operator: NotIn, values: [back]}"),
        [true, true]
    );
    assert_eq!(selected("{key: tier, operator: Exists}"), [true, false]);
    assert_eq!(
        selected("{key: tier, operator: DoesNotExist}"),
        [false, true]
    );
    assert_eq!(
        selected("{key: gone, operator: In, values: [a]}"),
        [false, false]
    );
    assert_eq!(
        selected("{key: app, operator: In, values: [a, b]}, {key: tier, operator: DoesNotExist}"),
        [false, true]
    );
}

#[test]
fn blocks_with_holes_of_their_own() {
    let spec = "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]},
        {to: [{ipBlock: {cidr: 10.1.2.0/24}}], ports: [{port: 443}]}, {to: [{ipBlock: {cidr: 'fd00::/64', except: ['fd00::8/125']}}]}]}";
    let w = world(&(pods() + &policy("x/p", spec)));
    assert!(w.egress("x/a", "10.2.0.1", UDP, 5) && !w.egress("x/a", "10.1.0.1", UDP, 5));
    assert!(w.egress("x/a", "10.1.2.3", TCP, 443) && !w.egress("x/a", "10.1.2.3", TCP, 444));
    assert!(w.egress("x/a", "fd00::1", TCP, 1) && !w.egress("x/a", "fd00::9", TCP, 1));
}

#[test]
fn ports_protocols_and_ranges() {
    let spec = "{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 53, protocol: UDP}, {protocol: SCTP}, {port: 1000, endPort: 1002}]}]}";
    let w = world(&(pods() + &policy("x/p", spec)));
    let passes = |protocol, port| w.ingress("x/a", "192.0.2.1", protocol, port);
    assert!(passes(TCP, 80) && !passes(UDP, 80) && passes(UDP, 53) && !passes(TCP, 53));
    assert!(passes(SCTP, 7) && passes(SCTP, 65535) && !passes(1, 0));
    assert!(!passes(TCP, 999) && passes(TCP, 1000) && passes(TCP, 1002) && !passes(TCP, 1003));
}

#[test]
fn a_named_port_has_each_pods_own_number() {
    let spec = "{podSelector: {}, ingress: [{ports: [{port: http}, {port: 22}]}]}";
    let w = world(&(pods() + &policy("x/p", spec)));
    for (pod, own, other) in [("x/a", 80, 8080), ("x/b", 8080, 80)] {
        assert!(w.ingress(pod, "192.0.2.1", TCP, own) && w.ingress(pod, "192.0.2.1", TCP, 22));
        assert!(!w.ingress(pod, "192.0.2.1", TCP, other) && !w.ingress(pod, "192.0.2.1", UDP, own));
    }
    // Towards pods it is the port of the pod that is reached.
    let spec = "{podSelector: {matchLabels: {app: a}}, egress: [{to: [{namespaceSelector: {}}], ports: [{port: http}]}]}";
    let w = world(&(pods() + &policy("x/p", spec)));
    assert!(w.egress("x/a", "10.0.0.2", TCP, 8080) && !w.egress("x/a", "10.0.0.2", TCP, 80));
    assert!(w.egress("x/a", "10.0.0.3", TCP, 80) && !w.egress("x/a", "10.0.0.3", TCP, 8080));
}

#[test]
fn a_named_port_towards_anybody_or_a_block_is_that_of_the_pods_there() {
    for to in [
        "",
        "to: [{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.3/32]}}], ",
    ] {
        let spec = format!(
            "{{podSelector: {{matchLabels: {{app: a}}}}, egress: [{{{to}ports: [{{port: http}}]}}]}}"
        );
        let w = world(&(pods() + &policy("x/p", &spec)));
        assert!(w.egress("x/a", "10.0.0.2", TCP, 8080) && !w.egress("x/a", "10.0.0.2", TCP, 80));
        assert_eq!(w.egress("x/a", "10.0.0.3", TCP, 80), to.is_empty());
        assert!(!w.egress("x/a", "192.0.2.1", TCP, 80));
    }
}

#[test]
fn named_ports_of_sidecars_and_init_containers() {
    let more = json!({"spec": {"initContainers": [
        {"name": "side", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 7001}]},
        {"name": "first", "ports": [{"name": "first", "containerPort": 7002}]}]}});
    let pods = pod_with("x/a", "10.0.0.1", "", "main:7000", more);
    let spec = "{podSelector: {}, ingress: [{ports: [{port: side}, {port: first}]}]}";
    let w = world(&(pods + &policy("x/p", spec)));
    let passes = |port| w.ingress("x/a", "192.0.2.1", TCP, port);
    assert!(!passes(7000) && passes(7001) && passes(7002));
}

#[test]
fn a_port_name_that_nobody_has_allows_nothing_and_is_said() {
    let spec = "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: nope}]}], egress: [{to: [{podSelector: {}}], ports: [{port: nope}]}]}";
    let w = world(&(pods() + &policy("x/p", spec)));
    assert!(!w.ingress("x/a", "192.0.2.1", TCP, 80) && !w.egress("x/a", "10.0.0.2", TCP, 80));
    assert_eq!(
        w.warnings,
        [
            "NetworkPolicy/x/p: spec.egress[0].ports[0]: no peer has a port named \"nope\"",
            "NetworkPolicy/x/p: spec.ingress[0].ports[0]: no selected pod has a port named \"nope\"",
        ]
    );
}

#[test]
fn what_selects_nothing_is_said() {
    let spec = "{podSelector: {matchLabels: {app: none}}, ingress: [{from: [{podSelector: {matchLabels: {app: none}}}, {ipBlock: {cidr: 10.0.0.0/8}}]}]}";
    let w = world(&(pods() + &policy("x/p", spec)));
    assert_eq!(
        w.warnings,
        [
            "NetworkPolicy/x/p: spec.ingress[0].from[0]: selects no pod",
            "NetworkPolicy/x/p: spec.podSelector: selects no pod",
        ]
    );
    let four = pod_with("x/a", "10.0.0.1", "", "", json!({}));
    let spec = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 'fd00::/8'}}]}]}";
    assert_eq!(
        world(&(four + &policy("x/p", spec))).warnings,
        [
            "NetworkPolicy/x/p: spec.ingress[0].from[0].ipBlock: fd00::/8 has no effect: no selected pod has an ipv6 address"
        ]
    );
}

#[test]
fn both_families_of_a_pod_are_its_own() {
    let spec = "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]}";
    let w = world(&(pods() + &policy("x/p", spec)));
    assert!(w.ingress("x/b", "10.0.0.1", TCP, 1) && w.ingress("x/b", "fd00::1", TCP, 1));
    assert!(!w.ingress("x/b", "10.0.0.3", TCP, 1) && !w.ingress("x/b", "fd00::3", TCP, 1));
}

#[test]
fn the_single_address_of_an_old_status_and_the_annotation_before_it() {
    let old = json!({"status": {"podIPs": null, "podIP": "10.0.0.1"}});
    let early = json!({"metadata": {"annotations": {"vpc.amazonaws.com/pod-ips": "10.0.0.2"}}});
    let text = pod_with("x/a", "", "", "", old)
        + &pod_with("x/b", "", "", "", early)
        + &pod("x/t", 9, "app=t", "")
        + &policy(
            "x/p",
            "{podSelector: {matchLabels: {app: t}}, ingress: [{from: [{podSelector: {}}]}]}",
        );
    let w = world(&text);
    assert!(w.ingress("x/t", "10.0.0.1", TCP, 1) && w.ingress("x/t", "10.0.0.2", TCP, 1));
    assert!(!w.ingress("x/t", "10.0.0.3", TCP, 1));
}

#[test]
fn pods_of_the_hosts_network_are_peers_by_their_node_and_never_subjects() {
    let text = pod("x/a", 1, "", "")
        + &pod_with(
            "x/h",
            "10.9.0.1",
            "",
            "",
            json!({"spec": {"hostNetwork": true}}),
        )
        + &policy(
            "x/p",
            "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}",
        );
    let ignore = Options {
        host_network_peers: HostNetworkPeers::Ignore,
        ..Options::default()
    };
    assert!(!world_with(ignore.clone(), &text).ingress("x/a", "10.9.0.1", TCP, 1));
    let w = world(&text);
    assert!(w.ingress("x/a", "10.9.0.1", TCP, 1));
    assert_eq!(
        w.warnings,
        [
            "NetworkPolicy/x/p: spec.ingress[0].from[0]: pod x/h is of the host's network: all of its node (10.9.0.1) is meant"
        ]
    );
    let conditions: Vec<_> = w.conditions.values().map(|(c, _)| *c).collect();
    assert_eq!(conditions, [Condition::HostNetworkPeer]);
    assert_eq!(
        w.file("x_p_NetworkPolicy.yaml")[0]["spec"]["podSelectorEndpoints"],
        json!([{"namespace": "x", "name": "a"}])
    );
    // A block can name their address.
    let text = text
        + &policy(
            "x/q",
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.9.0.1/32}}]}]}",
        );
    assert!(world_with(ignore, &text).ingress("x/a", "10.9.0.1", TCP, 1));
}

#[test]
fn terminating_pods_stay_peers_and_finished_ones_do_not() {
    let text = pod("x/a", 1, "app=a", "")
        + &pod_with(
            "x/t",
            "10.0.0.2",
            "",
            "",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        )
        + &pod_with(
            "x/s",
            "10.0.0.3",
            "",
            "",
            json!({"status": {"phase": "Succeeded"}}),
        )
        + &pod_with(
            "x/f",
            "10.0.0.4",
            "",
            "",
            json!({"status": {"phase": "Failed"}}),
        )
        + &policy(
            "x/p",
            "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {}}]}]}",
        );
    let w = world(&text);
    let passes = |from| w.ingress("x/a", from, TCP, 1);
    assert!(passes("10.0.0.2") && !passes("10.0.0.3") && !passes("10.0.0.4"));
}

#[test]
fn a_pod_without_an_address_is_selected_and_no_peer() {
    let text = pod("x/a", 1, "", "")
        + &pod_with("x/new", "", "", "http:8080", json!({}))
        + &policy(
            "x/p",
            "{podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: http}]}]}",
        );
    let w = world(&text);
    assert!(w.ingress("x/new", "10.0.0.1", TCP, 8080) && !w.ingress("x/new", "10.0.0.1", TCP, 80));
    assert!(!w.ingress("x/new", "10.0.0.2", TCP, 8080));
}

#[test]
fn policies_of_one_pod_are_a_union() {
    let text = pods()
        + &policy(
            "x/deny",
            "{podSelector: {}, policyTypes: [Ingress, Egress]}",
        )
        + &policy(
            "x/one",
            "{podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{port: 80}]}]}",
        )
        + &policy(
            "x/two",
            "{podSelector: {matchLabels: {tier: front}}, ingress: [{ports: [{port: 81}]}]}",
        );
    let w = world(&text);
    let passes = |port| w.ingress("x/a", "192.0.2.1", TCP, port);
    assert!(passes(80) && passes(81) && !passes(82));
    assert!(!w.ingress("x/b", "192.0.2.1", TCP, 80) && !w.egress("x/a", "192.0.2.1", TCP, 80));
}
