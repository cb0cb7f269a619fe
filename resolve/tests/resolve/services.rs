//! Services: which of their addresses an egress rule allows.

use policy::documents::Condition;
use resolve::{HostNetworkPeers, Options};
use serde_json::json;

use crate::harness::{SCTP, TCP, UDP, World, pod, pod_with, policy, service, world, world_with};

/// Client c; web pods w1 and w2 on 8080 behind x/web, 80 -> 8080.
fn pods() -> String {
    pod("x/c", 1, "app=client", "")
        + &pod("x/w1", 2, "app=web,v=1", "http:8080 dns:53/UDP")
        + &pod("x/w2", 3, "app=web,v=2", "http:8080")
}

fn web() -> String {
    service(
        "x/web",
        "app=web",
        "10.96.0.1 fd96::1",
        "[{port: 80, targetPort: 8080}]",
    )
}

fn client(egress: &str) -> String {
    policy(
        "x/p",
        &format!(
            "{{podSelector: {{matchLabels: {{app: client}}}}, policyTypes: [Egress], egress: {egress}}}"
        ),
    )
}

fn strict() -> Options {
    Options {
        strict_services: true,
        node: None,
        ..Options::default()
    }
}

fn condition(w: &World) -> Condition {
    let conditions: Vec<_> = w.conditions.values().map(|(c, _)| *c).collect();
    assert!(!conditions.is_empty());
    conditions.into_iter().max().unwrap()
}

#[test]
fn the_address_is_allowed_on_the_port_that_leads_to_the_allowed_one() {
    let w = world(
        &(pods()
            + &web()
            + &client("[{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 8080}]}]")),
    );
    for address in ["10.96.0.1", "fd96::1"] {
        assert!(w.egress("x/c", address, TCP, 80));
        assert!(!w.egress("x/c", address, TCP, 8080) && !w.egress("x/c", address, UDP, 80));
    }
    assert_eq!(condition(&w), Condition::Applied);
    // The same port number on the Service is another port of the pod.
    let w = world(
        &(pods()
            + &web()
            + &client("[{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]")),
    );
    assert!(!w.egress("x/c", "10.96.0.1", TCP, 80) && !w.egress("x/c", "10.96.0.1", TCP, 8080));
}

#[test]
fn every_kind_of_peer_and_ports_by_range_and_name() {
    for rule in [
        "{to: [{podSelector: {matchLabels: {app: web}}}]}",
        "{ports: [{port: 8080}]}",
        "{ports: [{port: 8000, endPort: 9000}]}",
        "{ports: [{protocol: TCP}]}",
        "{ports: [{port: http}]}",
        "{to: [{ipBlock: {cidr: 10.0.0.0/24}}, {ipBlock: {cidr: 'fd00::/64'}}], ports: [{port: 8080}]}",
        "{to: [{ipBlock: {cidr: 10.0.0.2/31}}, {ipBlock: {cidr: 'fd00::/64', except: ['fd00::10/124']}}]}",
        "{to: [{podSelector: {matchLabels: {v: '1'}}}]}, {to: [{podSelector: {matchLabels: {v: '2'}}}]}",
    ] {
        for options in [Options::default(), strict()] {
            let w = world_with(options, &(pods() + &web() + &client(&format!("[{rule}]"))));
            assert!(w.egress("x/c", "10.96.0.1", TCP, 80), "{rule}");
            assert!(w.egress("x/c", "fd96::1", TCP, 80), "{rule}");
            assert_eq!(condition(&w), Condition::Applied, "{rule}");
        }
    }
}

#[test]
fn a_named_target_port_is_each_pods_own() {
    let text = pod("x/c", 1, "app=client", "")
        + &pod("x/w1", 2, "app=web", "http:8080")
        + &pod("x/w2", 3, "app=web", "http:9090")
        + &service(
            "x/web",
            "app=web",
            "10.96.0.1",
            "[{port: 80, targetPort: http}, {port: 53, protocol: UDP, targetPort: dns}]",
        );
    let w = world(&(text.clone() + &client("[{to: [{podSelector: {}}], ports: [{port: http}]}]")));
    assert!(w.egress("x/c", "10.96.0.1", TCP, 80) && !w.egress("x/c", "10.96.0.1", UDP, 53));
    assert_eq!(condition(&w), Condition::Applied);
    // Only the number that one of them has.
    let rule = "[{to: [{podSelector: {}}], ports: [{port: 8080}]}]";
    let w = world(&(text.clone() + &client(rule)));
    assert!(w.egress("x/c", "10.96.0.1", TCP, 80));
    assert_eq!(condition(&w), Condition::ServiceWider);
    assert!(!world_with(strict(), &(text + &client(rule))).egress("x/c", "10.96.0.1", TCP, 80));
}

#[test]
fn where_only_some_backends_are_allowed_it_is_said_or_refused() {
    let text = pods() + &web() + &client("[{to: [{podSelector: {matchLabels: {v: '1'}}}]}]");
    let w = world(&text);
    assert!(w.egress("x/c", "10.96.0.1", TCP, 80));
    assert_eq!(condition(&w), Condition::ServiceWider);
    assert_eq!(
        w.file("x_p_NetworkPolicy.yaml")[0]["metadata"]["annotations"]["podgate.dev/service-wider"],
        "x/web"
    );
    assert!(w.conditions.values().next().unwrap().1.contains("x/web"));
    let w = world_with(strict(), &text);
    assert!(!w.egress("x/c", "10.96.0.1", TCP, 80) && w.egress("x/c", "10.0.0.2", TCP, 80));
    assert_eq!(condition(&w), Condition::Applied);
    assert_eq!(w.warnings.len(), 1, "{:?}", w.warnings);
}

#[test]
fn only_ready_backends_count_and_all_where_none_is() {
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let rule = client("[{to: [{podSelector: {matchLabels: {v: '1'}}}]}]");
    let base = pod("x/c", 1, "app=client", "") + &web() + &rule;
    for state in [&not_ready, &leaving] {
        let text = base.clone()
            + &pod("x/w1", 2, "app=web,v=1", "")
            + &pod_with("x/w2", "10.0.0.3", "app=web,v=2", "", state.clone());
        let w = world_with(strict(), &text);
        assert!(w.egress("x/c", "10.96.0.1", TCP, 80));
    }
    let text = base + &pod_with("x/w1", "10.0.0.2", "app=web,v=1", "", not_ready.clone());
    assert!(world_with(strict(), &text).egress("x/c", "10.96.0.1", TCP, 80));
    let text = text + &pod_with("x/w2", "10.0.0.3", "app=web,v=2", "", not_ready);
    assert!(!world_with(strict(), &text).egress("x/c", "10.96.0.1", TCP, 80));
}

#[test]
fn each_port_and_each_family_on_its_own() {
    let text = pods()
        + &service(
            "x/web",
            "app=web",
            "10.96.0.1 fd96::1",
            "[{name: a, port: 80, targetPort: 8080}, {name: b, port: 443, targetPort: 8443}, {name: c, port: 9, protocol: SCTP}]",
        )
        + &client(
            "[{to: [{ipBlock: {cidr: 10.0.0.0/24}}], ports: [{port: 8080}, {port: 9, protocol: SCTP}]}]",
        );
    let w = world(&text);
    assert!(w.egress("x/c", "10.96.0.1", TCP, 80) && w.egress("x/c", "10.96.0.1", SCTP, 9));
    assert!(!w.egress("x/c", "10.96.0.1", TCP, 443) && !w.egress("x/c", "fd96::1", TCP, 80));
}

#[test]
fn headless_and_external_names_have_no_address() {
    let text = pods()
        + &service("x/web", "app=web", "None", "[{port: 80, targetPort: 8080}]")
        + "\n---\n{apiVersion: v1, kind: Service, metadata: {name: out, namespace: x}, spec: {type: ExternalName, externalName: example.com, selector: {app: web}}}\n"
        + &client("[{to: [{podSelector: {}}]}]");
    let w = world(&text);
    assert!(w.egress("x/c", "10.0.0.2", TCP, 8080) && !w.egress("x/c", "10.96.0.1", TCP, 80));
}

#[test]
fn without_a_selector_the_slices_tell() {
    let slice = |endpoints: &str| {
        format!(
            "\n---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s-1, namespace: x, labels: {{kubernetes.io/service-name: ext}}}},
            addressType: IPv4, ports: [{{name: a, port: 5432}}], endpoints: [{endpoints}]}}\n"
        )
    };
    let base = pods()
        + "\n---\n{apiVersion: v1, kind: Service, metadata: {name: ext, namespace: x}, spec: {clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], ports: [{name: a, port: 5000}]}}\n"
        + &client("[{to: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 5432}]}]");
    let w = world(&(base.clone() + &slice("{addresses: [192.0.2.7]}")));
    assert!(w.egress("x/c", "10.96.0.9", TCP, 5000) && !w.egress("x/c", "10.96.0.9", TCP, 5432));
    assert_eq!(condition(&w), Condition::Applied);
    let w =
        world(&(base.clone() + &slice("{addresses: [192.0.2.7]}, {addresses: [198.51.100.1]}")));
    assert_eq!(condition(&w), Condition::ServiceWider);
    let w = world(
        &(base.clone()
            + &slice(
                "{addresses: [192.0.2.7]}, {addresses: [198.51.100.1], conditions: {ready: false}}",
            )),
    );
    assert_eq!(condition(&w), Condition::Applied);
    assert!(
        !world(&base).egress("x/c", "10.96.0.9", TCP, 5000),
        "nobody behind it"
    );
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() {
    let alone = service(
        "x/one",
        "v=1",
        "10.96.0.2",
        "[{port: 80, targetPort: 8080}]",
    );
    let text =
        pods() + &web() + &alone + &policy("x/p", "{podSelector: {}, policyTypes: [Egress]}");
    for options in [Options::default(), strict()] {
        let w = world_with(options, &text);
        assert!(
            w.egress("x/w1", "10.96.0.2", TCP, 80),
            "no policy forbids it"
        );
        assert!(!w.egress("x/w2", "10.96.0.2", TCP, 80) && !w.egress("x/c", "10.96.0.2", TCP, 80));
        assert!(
            !w.egress("x/w1", "10.96.0.1", TCP, 80),
            "that leads to others too"
        );
        assert_eq!(condition(&w), Condition::Applied);
    }
}

#[test]
fn a_service_of_a_pod_of_the_hosts_network_leads_to_its_node() {
    let text = pod("x/c", 1, "app=client", "")
        + &pod_with(
            "x/h",
            "10.9.0.1",
            "app=web",
            "",
            json!({"spec": {"hostNetwork": true}}),
        )
        + &web();
    let selected = text.clone() + &client("[{to: [{podSelector: {}}]}]");
    let w = world(&selected);
    assert!(w.egress("x/c", "10.96.0.1", TCP, 80) && w.egress("x/c", "10.9.0.1", TCP, 8080));
    let ignore = Options {
        host_network_peers: HostNetworkPeers::Ignore,
        ..Options::default()
    };
    assert!(!world_with(ignore, &selected).egress("x/c", "10.96.0.1", TCP, 80));
    assert!(
        world(&(text + &client("[{to: [{ipBlock: {cidr: 10.9.0.1/32}}]}]"))).egress(
            "x/c",
            "10.96.0.1",
            TCP,
            80
        )
    );
}

#[test]
fn cluster_rules_judge_the_address_as_its_backends() {
    let cnp = |egress: &str| {
        format!(
            "\n---\n{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: c}}, spec: {{tier: Admin, priority: 1, subject: {{pods: {{podSelector: {{matchLabels: {{app: client}}}}}}}}, egress: {egress}}}}}\n"
        )
    };
    let web_pods = |v: &str| format!("{{pods: {{podSelector: {{matchLabels: {v}}}}}}}");
    let deny = cnp(&format!(
        "[{{action: Deny, to: [{}]}}]",
        web_pods("{app: web}")
    ));
    let w = world(&(pods() + &web() + &deny));
    assert!(!w.egress("x/c", "10.96.0.1", TCP, 80) && !w.egress("x/c", "fd96::1", TCP, 80));
    assert!(w.egress("x/c", "10.96.0.1", TCP, 81));
    // Rules that do not agree: the most permissive, or with strict Services the strictest.
    let mixed = cnp(&format!(
        "[{{action: Accept, to: [{}]}}, {{action: Deny, to: [{}]}}]",
        web_pods("{v: '1'}"),
        web_pods("{app: web}")
    ));
    let w = world(&(pods() + &web() + &mixed));
    assert!(w.egress("x/c", "10.96.0.1", TCP, 80));
    assert_eq!(condition(&w), Condition::ServiceWider);
    let w = world_with(strict(), &(pods() + &web() + &mixed));
    assert!(!w.egress("x/c", "10.96.0.1", TCP, 80));
    // A rule about the address itself that comes first holds.
    let first = cnp(&format!(
        "[{{action: Deny, to: [{{networks: [10.96.0.0/16]}}]}}, {{action: Accept, to: [{}]}}]",
        web_pods("{app: web}")
    ));
    let w = world(&(pods() + &web() + &first));
    assert!(!w.egress("x/c", "10.96.0.1", TCP, 80) && w.egress("x/c", "fd96::1", TCP, 80));
}

/// The upstream e2e case: a pod is taken out of a block that holds its Service's address as well.
#[test]
fn an_excepted_pod_is_not_reached_by_its_services_address() {
    let one = |name: &str, v: &str, ip: &str| {
        service(
            name,
            &format!("v={v}"),
            ip,
            "[{name: a, port: 80, targetPort: 8080}, {name: b, port: 53, protocol: UDP}]",
        )
    };
    let text = pods()
        + &one("x/one", "1", "10.96.0.2 fd96::2")
        + &one("x/two", "2", "10.96.0.3")
        + &client("[{to: [{ipBlock: {cidr: 0.0.0.0/4, except: [10.0.0.2/32]}}]}]");
    for options in [Options::default(), strict()] {
        let w = world_with(options, &text);
        assert!(!w.egress("x/c", "10.0.0.2", TCP, 8080) && w.egress("x/c", "10.0.0.3", TCP, 8080));
        assert!(!w.egress("x/c", "10.96.0.2", TCP, 80) && !w.egress("x/c", "10.96.0.2", UDP, 53));
        assert!(w.egress("x/c", "10.96.0.3", TCP, 80) && w.egress("x/c", "10.96.0.3", UDP, 53));
        // Other ports of the address are no Service's, and in the block.
        assert!(w.egress("x/c", "10.96.0.2", TCP, 81) && w.egress("x/c", "10.96.0.2", SCTP, 80));
        assert!(!w.egress("x/c", "fd96::2", TCP, 80));
        assert_eq!(condition(&w), Condition::Applied);
    }
    let file = &world(&text).file("x_p_NetworkPolicy.yaml")[0];
    assert_eq!(
        file["spec"]["egress"][0]["except"],
        json!(["10.0.0.2/32", "10.96.0.2/32"]),
        "only what differs costs an entry"
    );
    // Another policy that allows the pod allows its Service.
    let allowed = text
        + &policy(
            "x/q",
            "{podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {v: '1'}}}]}]}",
        );
    assert!(world(&allowed).egress("x/c", "10.96.0.2", TCP, 80));
}

#[test]
fn a_block_on_a_port_allows_a_service_on_the_port_that_leads_there() {
    let text = pods() + &web() + &client("[{ports: [{port: 80}, {port: 443}]}]");
    let w = world(&text);
    assert!(
        !w.egress("x/c", "10.96.0.1", TCP, 80),
        "it leads to 8080, which no rule allows"
    );
    assert!(w.egress("x/c", "10.96.0.1", TCP, 443) && w.egress("x/c", "192.0.2.1", TCP, 80));
    let w = world(&(pods() + &web() + &client("[{ports: [{port: 8080}]}]")));
    assert!(w.egress("x/c", "10.96.0.1", TCP, 80));
}

#[test]
fn a_block_that_some_backends_are_in_is_wider_and_one_that_none_is_in_leads_nowhere() {
    let text = pods() + &web();
    let wide = client("[{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.2/32]}}]}]");
    let w = world(&(text.clone() + &wide));
    assert!(w.egress("x/c", "10.96.0.1", TCP, 80));
    assert_eq!(condition(&w), Condition::ServiceWider);
    assert!(!world_with(strict(), &(text.clone() + &wide)).egress("x/c", "10.96.0.1", TCP, 80));
    let services = client("[{to: [{ipBlock: {cidr: 10.96.0.0/12}}]}]");
    assert!(!world(&(text.clone() + &services)).egress("x/c", "10.96.0.1", TCP, 80));
    // Whoever names the address itself means it.
    let w = world(&(text + &client("[{to: [{ipBlock: {cidr: 10.96.0.1/32}}]}]")));
    assert!(w.egress("x/c", "10.96.0.1", TCP, 80));
    assert_eq!(condition(&w), Condition::ServiceWider);
}

#[test]
fn addresses_of_load_balancers_and_external_ones_lead_to_the_pods() {
    let outer = "\n---\n{apiVersion: v1, kind: Service, metadata: {name: web, namespace: x}, spec: {type: LoadBalancer, selector: {app: web},
        clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], externalIPs: [203.0.113.1], ports: [{port: 80, targetPort: 8080}]},
        status: {loadBalancer: {ingress: [{ip: 198.51.100.1}, {ip: 198.51.100.2, ipMode: Proxy}, {hostname: lb.test}]}}}\n";
    let text = pods() + outer + &client("[{to: [{podSelector: {matchLabels: {app: web}}}]}]");
    let w = world(&text);
    for address in ["10.96.0.1", "203.0.113.1", "198.51.100.1"] {
        assert!(w.egress("x/c", address, TCP, 80), "{address}");
    }
    assert!(!w.egress("x/c", "198.51.100.2", TCP, 80));
}

#[test]
fn endpoints_tell_where_there_is_no_slice() {
    let text = pods()
        + "\n---\n{apiVersion: v1, kind: Service, metadata: {name: ext, namespace: x}, spec: {clusterIP: 10.96.0.9, ports: [{name: a, port: 5000}]}}\n"
        + "\n---\n{apiVersion: v1, kind: Endpoints, metadata: {name: ext, namespace: x}, subsets: [{addresses: [{ip: 192.0.2.7}], notReadyAddresses: [{ip: 198.51.100.7}], ports: [{name: a, port: 5432}]}]}\n"
        + &client("[{to: [{ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 5432}]}]");
    let w = world(&text);
    assert!(w.egress("x/c", "10.96.0.9", TCP, 5000));
    assert_eq!(condition(&w), Condition::Applied);
}

#[test]
fn a_cluster_rule_that_denies_a_pod_is_not_bypassed_by_a_block_before_it() {
    let rules = "[{action: Accept, to: [{networks: [10.96.0.0/12]}]}, {action: Deny, to: [{pods: {podSelector: {matchLabels: {app: web}}}}]}]";
    let text = pods()
        + &web()
        + &format!(
            "\n---\n{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: c}}, spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, egress: {rules}}}}}\n"
        );
    let w = world(&text);
    assert!(!w.egress("x/c", "10.0.0.2", TCP, 8080) && !w.egress("x/c", "10.96.0.1", TCP, 80));
    assert!(w.egress("x/c", "10.96.0.1", TCP, 81));
}
