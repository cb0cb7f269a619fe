//! The nine faults of Amazon's controller (reference, section 2.7), each where it would show.

use resolve::{Cluster, Marks, Options, PolicyChange};

use crate::harness::{TCP, UDP, namespace, objects, pod, policy, values, world, world_of};

fn pods() -> String {
    namespace("x", "team=one")
        + &namespace("y", "team=two")
        + &pod("x/a", 1, "app=a", "http:80")
        + &pod("x/b", 2, "app=b", "http:8080")
        + &pod("y/c", 3, "app=a", "http:80")
}

fn cluster_policy(rest: &str) -> String {
    format!(
        "\n---\n{{apiVersion: networking.k8s.aws/v1alpha1, kind: ClusterNetworkPolicy, metadata: {{name: c}}, spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, {rest}}}}}\n"
    )
}

#[test]
fn fault_1_a_changed_pod_selector_reaches_the_documents() {
    let mut cluster = Cluster::new(Options::default());
    let text = |app: &str| {
        pods()
            + &policy(
                "x/p",
                &format!("{{podSelector: {{matchLabels: {{app: {app}}}}}}}"),
            )
    };
    objects(&text("a")).into_iter().for_each(|o| {
        cluster.apply(o);
    });
    cluster.resolve();
    objects(&text("b")).into_iter().for_each(|o| {
        cluster.apply(o);
    });
    let changes = cluster.resolve();
    let [PolicyChange::Write(file)] = &changes.policies[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(
        file.documents(&Marks::default())[0]["spec"]["podSelector"]["matchExpressions"][0]["values"]
            [0],
        "b"
    );
    let w = world_of(&values(&text("b")), &cluster, changes.clone());
    assert!(w.ingress("x/a", "192.0.2.1", TCP, 1) && !w.ingress("x/b", "192.0.2.1", TCP, 1));
}

#[test]
fn fault_2_every_peer_of_a_cluster_rule_counts() {
    // The first one matches no namespace; the Deny stays.
    let rule = "ingress: [{action: Deny, from: [{namespaces: {matchLabels: {team: nobody}}}, {namespaces: {matchLabels: {team: one}}}]}]";
    let w = world(&(pods() + &cluster_policy(rule)));
    assert!(!w.reaches("x/b", "y/c", TCP, 1) && w.reaches("y/c", "x/a", TCP, 1));
}

#[test]
fn fault_3_a_named_port_without_a_protocol() {
    let rule = "ingress: [{action: Deny, from: [{namespaces: {}}], ports: [{namedPort: http}]}]";
    let w = world(&(pods() + &cluster_policy(rule)));
    assert!(!w.reaches("y/c", "x/a", TCP, 80) && w.reaches("y/c", "x/a", TCP, 8080));
    assert!(!w.reaches("y/c", "x/b", TCP, 8080) && w.reaches("y/c", "x/b", TCP, 80));
    // An ApplicationNetworkPolicy's port without protocol is TCP.
    let text = "\n---\n{apiVersion: networking.k8s.aws/v1alpha1, kind: ApplicationNetworkPolicy, metadata: {name: p, namespace: x}, spec: {podSelector: {}, ingress: [{ports: [{port: http}]}]}}\n";
    let w = world(&(pods() + text));
    assert!(w.ingress("x/b", "192.0.2.1", TCP, 8080) && !w.ingress("x/b", "192.0.2.1", UDP, 8080));
}

#[test]
fn fault_4_a_port_and_a_range_that_begins_there() {
    let ports = "ports: [{portNumber: {port: 80}}, {portRange: {start: 80, end: 90}}]";
    let rule = format!("ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], {ports}}}]");
    let w = world(&(pods() + &cluster_policy(&rule)));
    assert!(
        !w.reaches("y/c", "x/a", TCP, 80)
            && !w.reaches("y/c", "x/a", TCP, 90)
            && w.reaches("y/c", "x/a", TCP, 91)
    );
    let w = world(
        &(pods()
            + &policy(
                "x/p",
                "{podSelector: {}, ingress: [{ports: [{port: 80}]}, {ports: [{port: 80, endPort: 90}]}]}",
            )),
    );
    assert!(w.ingress("x/a", "192.0.2.1", TCP, 90) && !w.ingress("x/a", "192.0.2.1", TCP, 91));
}

#[test]
fn fault_5_all_ports_and_one_port_are_all_ports() {
    for rules in ["{{}}, {ports}", "{ports}, {{}}"] {
        let named = |extra: &str| {
            rules.replace(
                "{{}}",
                &format!("{{action: Deny, from: [{{namespaces: {{}}}}]{extra}}}"),
            )
        };
        let rule = named("").replace(
            "{ports}",
            "{action: Deny, from: [{namespaces: {}}], ports: [{portNumber: {port: 80}}]}",
        );
        let w = world(&(pods() + &cluster_policy(&format!("ingress: [{rule}]"))));
        assert!(!w.reaches("y/c", "x/a", TCP, 80) && !w.reaches("y/c", "x/a", UDP, 9));
    }
    for rules in ["{}, {ports: [{port: 80}]}", "{ports: [{port: 80}]}, {}"] {
        let w = world(
            &(pods() + &policy("x/p", &format!("{{podSelector: {{}}, ingress: [{rules}]}}"))),
        );
        assert!(w.ingress("x/a", "192.0.2.1", TCP, 80) && w.ingress("x/a", "192.0.2.1", UDP, 9));
    }
}

#[test]
fn fault_6_ports_that_read_alike_are_not_alike() {
    let ports =
        "[{port: 20, endPort: 21}, {port: 2021}, {port: 55296}, {port: 57343}, {port: 60000}]";
    let w = world(
        &(pods()
            + &policy(
                "x/p",
                &format!("{{podSelector: {{}}, ingress: [{{ports: {ports}}}]}}"),
            )),
    );
    for port in [20, 21, 2021, 55296, 57343, 60000] {
        assert!(w.ingress("x/a", "192.0.2.1", TCP, port), "{port}");
    }
    for port in [19, 22, 2020, 55297, 57342] {
        assert!(!w.ingress("x/a", "192.0.2.1", TCP, port), "{port}");
    }
    let numbers = "ports: [{portNumber: {port: 55296}}, {portNumber: {port: 57343}}]";
    let w = world(
        &(pods()
            + &cluster_policy(&format!(
                "ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], {numbers}}}]"
            ))),
    );
    assert!(
        !w.reaches("y/c", "x/a", TCP, 55296)
            && !w.reaches("y/c", "x/a", TCP, 57343)
            && w.reaches("y/c", "x/a", TCP, 56000)
    );
}

#[test]
fn fault_7_a_domain_with_a_named_port_is_not_every_port() {
    let rule = "egress: [{action: Accept, to: [{domainNames: [example.com]}], ports: [{namedPort: http}]}, {action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}]";
    let w = world(&(pods() + &cluster_policy(rule)));
    assert!(!w.egress("x/a", "192.0.2.1", TCP, 80) && !w.egress("x/a", "192.0.2.1", TCP, 443));
    let documents = w.file("cluster_c_ClusterNetworkPolicy.networking.k8s.aws.yaml");
    let rules = documents[0]["spec"]["egress"].as_array().unwrap();
    assert!(
        rules.iter().all(|rule| rule.get("domainName").is_none()),
        "{rules:?}"
    );
}

#[test]
fn fault_8_two_kinds_of_one_name_do_not_overwrite_each_other() {
    let network = policy("x/p", "{podSelector: {}, ingress: [{ports: [{port: 80}]}]}");
    let application = "\n---\n{apiVersion: networking.k8s.aws/v1alpha1, kind: ApplicationNetworkPolicy, metadata: {name: p, namespace: x}, spec: {podSelector: {}, ingress: [{ports: [{port: 81}]}]}}\n";
    let w = world(&(pods() + &network + application));
    assert!(
        w.ingress("x/a", "192.0.2.1", TCP, 80)
            && w.ingress("x/a", "192.0.2.1", TCP, 81)
            && !w.ingress("x/a", "192.0.2.1", TCP, 82)
    );
    assert_ne!(
        w.file("x_p_NetworkPolicy.yaml")[0]["metadata"]["name"],
        w.file("x_p_ApplicationNetworkPolicy.yaml")[0]["metadata"]["name"]
    );
}

/// There, the second family took half of the 24 ports that a block may have. Here a block may have any number, and "any"
/// must be both families: a pod can have addresses that its status does not show (egress-cni's are of the other family).
#[test]
fn fault_9_both_families_of_any_cost_no_port() {
    let ports: Vec<String> = (0..60)
        .map(|n| format!("{{port: {}}}", 1000 + 7 * n))
        .collect();
    let spec = format!(
        "{{podSelector: {{}}, policyTypes: [Egress], egress: [{{ports: [{}]}}]}}",
        ports.join(", ")
    );
    let w = world(&(pods() + &policy("x/p", &spec)));
    for port in (0..60).map(|n| 1000 + 7 * n) {
        assert!(
            w.egress("x/a", "192.0.2.1", TCP, port) && w.egress("x/a", "2001:db8::1", TCP, port)
        );
        assert!(!w.egress("x/a", "192.0.2.1", TCP, port + 1));
    }
    // A block of one family stays of one family.
    let w = world(
        &(pods()
            + &policy(
                "x/p",
                "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}",
            )),
    );
    assert!(w.egress("x/a", "192.0.2.1", TCP, 1) && !w.egress("x/a", "2001:db8::1", TCP, 1));
    let documents = w.file("x_p_NetworkPolicy.yaml");
    assert_eq!(documents[0]["spec"]["egress"].as_array().unwrap().len(), 1);
}
