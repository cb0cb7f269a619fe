//! The three modes, both directions, both families; and who decides which one it is.
#![forbid(unsafe_code)]

use std::fs;
use std::time::Duration;

use integration::{Chain, Node, Pod, Server, chain, node, traffic, wait_until};
use serde_json::{Value, json};

/// A pod in a mode, wired without a companion: nothing is known and nothing could select it but for what the mode says.
fn add<'n>(node: &'n Node, mode: &str) -> Pod<'n> {
    let mut pod = node.pod("a");
    pod.add(&Chain::in_mode(node, mode));
    pod
}

struct Reach {
    out_tcp: bool,
    out_udp: bool,
    in_tcp: bool,
    in_udp: bool,
    from_host: bool,
}

/// What gets through, per family.
fn reach(node: &Node, pod: &Pod<'_>) -> [Reach; 2] {
    let _inside = Server::start(&pod.place(), &[80], &[53]);
    let _outside = Server::start(&node.outside(), &[80], &[53]);
    let families = [
        (pod.v4(), node::outside(0)[0]),
        (pod.v6(), node::outside(0)[1]),
    ];
    families.map(|(own, outside)| Reach {
        out_tcp: traffic::tcp(&pod.place(), outside, 80).is_open(),
        out_udp: traffic::udp(&pod.place(), outside, 53).is_open(),
        in_tcp: traffic::tcp(&node.outside(), own, 80).is_open(),
        in_udp: traffic::udp(&node.outside(), own, 53).is_open(),
        from_host: traffic::tcp(&node.place(), own, 80).is_open(),
    })
}

#[test]
fn kernel_strict_lets_nothing_through_but_the_host() {
    let node = Node::builder("modes").start();
    let _companion = node.companion();
    let pod = add(&node, "strict");
    for reach in reach(&node, &pod) {
        assert!(!reach.out_tcp && !reach.out_udp && !reach.in_tcp && !reach.in_udp);
        assert!(
            reach.from_host,
            "probes of the node come through in every mode"
        );
    }
}

#[test]
fn kernel_standard_lets_everything_through_where_no_policy_selects() {
    let node = Node::builder("modes").start();
    let _companion = node.companion();
    let pod = add(&node, "standard");
    for reach in reach(&node, &pod) {
        assert!(reach.out_tcp && reach.out_udp && reach.in_tcp && reach.in_udp && reach.from_host);
    }
    assert!(node.is_enforced(&pod.host_veth()));
}

#[test]
fn none_attaches_nothing_and_writes_no_record() {
    let node = Node::builder("modes").start();
    let pod = add(&node, "none");
    assert!(node.records().is_empty());
    let veth = pod.host_veth();
    assert!(
        node.bpf_filters(&veth, "ingress").is_empty()
            && node.bpf_filters(&veth, "egress").is_empty()
    );
    for reach in reach(&node, &pod) {
        assert!(reach.out_tcp && reach.out_udp && reach.in_tcp && reach.in_udp && reach.from_host);
    }
    pod.del(&Chain::in_mode(&node, "none"));
}

/// The mode of a fresh ADD, by the record's word; no record is `none`.
fn mode_of_add(
    node: &Node,
    pod: &Pod<'_>,
    environment: Option<&str>,
    key: Option<&str>,
    file: Option<&str>,
) -> String {
    let path = node.state_dir().join("node.json");
    match file {
        Some(mode) => fs::write(
            &path,
            json!({"networkPolicyEnforcingMode": mode}).to_string(),
        )
        .expect("write node.json"),
        None => drop(fs::remove_file(&path)),
    }
    let extra = key.map_or_else(
        || json!({"policyWait": "0s"}),
        |mode| json!({"policyWait": "0s", "networkPolicyEnforcingMode": mode}),
    );
    let conf = Chain::ptp(node, "net", extra).conf_of("podgate", Some(pod.result()));
    let call = |command: &str| {
        let call = pod.call("podgate", command).conf(&conf);
        environment
            .into_iter()
            .fold(call, |call, mode| {
                call.env("NETWORK_POLICY_ENFORCING_MODE", mode)
            })
            .run()
    };
    let _ = call("ADD").result();
    let mode = pod.record().map_or_else(
        || "none".to_owned(),
        |record| record["mode"].as_str().unwrap_or_default().to_owned(),
    );
    let _ = call("DEL").result();
    mode
}

#[test]
fn the_environment_wins_over_the_key_over_the_node_file_over_the_default() {
    let node = Node::builder("modes").start();
    let mut pod = node.pod("a");
    pod.add(&Chain::new("net").with(chain::ptp()));
    let words = [None, Some("strict"), Some("standard"), Some("none")];
    for environment in words {
        for key in words {
            for file in words {
                let expected = environment.or(key).or(file).unwrap_or("standard");
                let got = mode_of_add(&node, &pod, environment, key, file);
                assert_eq!(
                    got, expected,
                    "environment {environment:?}, key {key:?}, node.json {file:?}"
                );
            }
        }
    }
}

#[test]
fn a_mode_is_read_in_any_case() {
    let node = Node::builder("modes").start();
    let mut pod = node.pod("a");
    pod.add(&Chain::new("net").with(chain::ptp()));
    for word in ["STRICT", "Strict", "sTRICT"] {
        assert_eq!(mode_of_add(&node, &pod, Some(word), None, None), "strict");
        assert_eq!(mode_of_add(&node, &pod, None, Some(word), None), "strict");
        assert_eq!(mode_of_add(&node, &pod, None, None, Some(word)), "strict");
    }
    assert_eq!(mode_of_add(&node, &pod, None, Some("NONE"), None), "none");
}

#[test]
fn an_endpoint_keeps_the_mode_of_its_add() {
    let node = Node::builder("modes").start();
    let _companion = node.companion();
    let (strict, standard): (Value, Value) = (
        json!({"networkPolicyEnforcingMode": "strict"}),
        json!({"networkPolicyEnforcingMode": "standard"}),
    );
    fs::write(node.state_dir().join("node.json"), strict.to_string()).unwrap();
    let mut pod = node.pod("a");
    pod.add(&Chain::ptp(&node, "net", json!({})));
    fs::write(node.state_dir().join("node.json"), standard.to_string()).unwrap();
    let _outside = Server::start(&node.outside(), &[80], &[]);
    node.settle();
    assert!(
        traffic::tcp(&pod.place(), node::outside(0)[0], 80).is_silent(),
        "still strict"
    );
    let mut later = node.pod("b");
    later.add(&Chain::ptp(&node, "net", json!({})));
    assert!(
        traffic::tcp(&later.place(), node::outside(0)[0], 80).is_open(),
        "the next one is standard"
    );
}

#[test]
fn pods_of_both_modes_live_side_by_side() {
    let node = Node::builder("modes").start();
    let _companion = node.companion();
    let (mut closed, mut open) = (node.pod("closed"), node.pod("open"));
    let chain = Chain::ptp(&node, "net", json!({}));
    closed.add_env(&chain, &[("NETWORK_POLICY_ENFORCING_MODE", "strict")]);
    open.add_env(&chain, &[("NETWORK_POLICY_ENFORCING_MODE", "standard")]);
    let _servers = [
        Server::start(&closed.place(), &[80], &[53]),
        Server::start(&open.place(), &[80], &[53]),
    ];
    for (to_closed, to_open) in [(closed.v4(), open.v4()), (closed.v6(), open.v6())] {
        assert!(traffic::tcp(&open.place(), to_closed, 80).is_silent());
        assert!(traffic::tcp(&closed.place(), to_open, 80).is_silent());
        assert!(traffic::tcp(&node.outside(), to_open, 80).is_open());
    }
}

#[test]
fn running_endpoints_change_their_mode_where_it_is_asked_for() {
    let node = Node::builder("modes").start();
    let _companion = node.companion();
    let mut pod = node.pod("a");
    pod.add(&Chain::ptp(
        &node,
        "net",
        json!({"networkPolicyEnforcingMode": "strict"}),
    ));
    let _server = Server::start(&pod.place(), &[80], &[]);
    let reaches = || traffic::tcp(&node.outside(), pod.v4(), 80).is_open();
    assert!(!reaches());

    let shown = node.ctl_json(&["mode"]);
    assert_eq!(
        (&shown["node"], &shown["strict"]),
        (&json!("standard"), &json!(1))
    );
    let set = node.ctl_json(&["mode", "standard"]);
    assert_eq!(
        set["changed"], 0,
        "without --apply running endpoints keep theirs"
    );
    assert!(!reaches());

    let set = node.ctl_json(&["mode", "standard", "--apply"]);
    assert_eq!((&set["changed"], &set["standard"]), (&json!(1), &json!(1)));
    wait_until("the pod is open", Duration::from_secs(10), reaches);
    let set = node.ctl_json(&["mode", "STRICT", "--apply"]);
    assert_eq!(
        (&set["node"], &set["changed"]),
        (&json!("strict"), &json!(1))
    );
    wait_until("the pod is closed", Duration::from_secs(10), || !reaches());
    assert!(!node.ctl(&["mode", "none", "--apply"]).success());

    let found = node.ctl(&["doctor", "-o", "json"]);
    let findings = found.json();
    let endpoints = findings
        .as_array()
        .into_iter()
        .flatten()
        .find(|f| f["check"] == "endpoints");
    assert_eq!(
        endpoints.map(|f| &f["severity"]),
        Some(&json!("ok")),
        "{findings}"
    );
}
