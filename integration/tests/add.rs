//! ADD: what stands in the kernel and in the store when it returns, and what the runtime gets back.
#![forbid(unsafe_code)]

use std::time::Duration;

use integration::{Chain, Node, attach_modes, chain, is_emulated, wait_until};
use serde_json::{Value, json};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn strict() -> Value {
    json!({"networkPolicyEnforcingMode": "strict", "policyWait": "0s"})
}

#[test]
fn the_result_of_the_chain_goes_back_unchanged_in_every_version() {
    let node = Node::builder("add").start();
    for version in VERSIONS {
        let name = format!("v{}", version.replace('.', ""));
        let mut pod = node.pod(&name);
        let before = pod.add(&Chain::new(&name).with(chain::ptp()).version(version));
        let conf = Chain::ptp(&node, &name, strict())
            .version(version)
            .conf_of("podgate", Some(&before));
        let after = pod.call("podgate", "ADD").conf(&conf).run().result();
        assert_eq!(after, before, "version {version}");
        assert_eq!(after["cniVersion"], version);
        assert!(node.is_enforced(&pod.host_veth()), "version {version}");
    }
}

#[test]
fn both_directions_are_attached_with_one_set_of_programs_and_maps_for_all_pods() {
    let node = Node::builder("add").start();
    let chain = Chain::ptp(&node, "net", strict());
    let (mut a, mut b) = (node.pod("a"), node.pod("b"));
    a.add(&chain);
    let pins = node.pins();
    assert!(
        !pins.is_empty(),
        "nothing is pinned in {}",
        node.bpf_dir().display()
    );
    b.add(&chain);
    assert_eq!(node.pins(), pins, "a second pod pins nothing");
    let hooks = |veth: &str| ["ingress", "egress"].map(|hook| node.bpf_filters(veth, hook));
    let (of_a, of_b) = (hooks(&a.host_veth()), hooks(&b.host_veth()));
    for veth in [a.host_veth(), b.host_veth()] {
        assert!(
            node.is_enforced(&veth),
            "{}",
            node.filters(&veth, "ingress")
        );
        let qdiscs = node.qdiscs(&veth);
        assert!(
            qdiscs
                .as_array()
                .is_some_and(|all| all.iter().any(|qdisc| qdisc["kind"] == "clsact")),
            "{qdiscs}"
        );
    }
    assert_eq!(of_a, of_b, "all pods run the same two programs");
    assert_ne!(of_a[0], of_a[1], "a program for each direction");
    // Where the pod's traffic does not pass there is nothing of ours.
    assert!(
        node.bpf_filters("up0", "ingress").is_empty()
            && node.bpf_filters("up0", "egress").is_empty()
    );
}

#[test]
fn the_record_says_what_was_attached() {
    let node = Node::builder("add").start();
    let mut pod = node.pod_in("shop", "cart");
    pod.add(&Chain::ptp(&node, "net", strict()));
    let record = pod.record().expect("a record");
    let link = node
        .cmd("ip")
        .args(["-j", "link", "show", &pod.host_veth()])
        .json();
    let addresses: Vec<String> = pod.addresses().iter().map(ToString::to_string).collect();
    for (key, value) in [
        ("schema", json!(1)),
        ("phase", json!("attached")),
        ("network", json!("net")),
        ("cniIfname", json!("eth0")),
        ("ifname", json!("eth0")),
        ("podNamespace", json!("shop")),
        ("podName", json!("cart")),
        ("podUid", json!(pod.uid())),
        ("ifindex", link[0]["ifindex"].clone()),
        ("veth", json!(pod.host_veth())),
        ("mode", json!("strict")),
        ("attachMode", json!("clsact")),
    ] {
        assert_eq!(record[key], value, "{key} in {record}");
    }
    for address in addresses {
        assert!(
            record["addresses"]
                .as_array()
                .is_some_and(|all| all.contains(&json!(address))),
            "{address} in {record}"
        );
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(record["bootId"], boot.trim());
    assert!(pod.attached_ns() <= integration::monotonic_ns());
}

#[test]
fn a_repeated_add_of_a_live_attachment_renews_it() {
    let node = Node::builder("add").start();
    let mut pod = node.pod("a");
    let chain = Chain::ptp(&node, "net", strict());
    let result = pod.add(&chain);
    let conf = chain.conf_of("podgate", Some(&result));
    for _ in 0..2 {
        assert_eq!(
            pod.call("podgate", "ADD").conf(&conf).run().result(),
            result
        );
    }
    let veth = pod.host_veth();
    assert!(node.is_enforced(&veth));
    assert_eq!(
        (
            node.bpf_filters(&veth, "ingress").len(),
            node.bpf_filters(&veth, "egress").len()
        ),
        (1, 1)
    );
    assert_eq!(node.records().len(), 1);
}

#[test]
fn unknown_keys_are_logged_and_those_of_libcni_ignored() {
    let node = Node::builder("add").start();
    let mut pod = node.pod("a");
    let extra = json!({
        "policyWait": "0s", "networkPolicyEnforcingModes": "strict",
        "capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": []}, "args": {"cni": {}},
    });
    pod.add(&Chain::ptp(&node, "net", extra));
    let log = node.log();
    assert!(log.contains("networkPolicyEnforcingModes"), "{log}");
    assert!(
        !log.contains("runtimeConfig") || !log.contains("unknown key runtimeConfig"),
        "{log}"
    );
}

#[test]
fn a_pod_without_a_name_is_named_by_its_container_and_labels_come_by_convention() {
    let node = Node::builder("add").start();
    let mut pod = node.pod("unused");
    let plain = pod.add(&Chain::new("net").with(chain::ptp()));
    let extra = json!({"policyWait": "0s", "args": {"cni": {"labels": [{"key": "app", "value": "web"}, {"key": "tier", "value": "front"}]}}});
    let conf = Chain::ptp(&node, "net", extra).conf_of("podgate", Some(&plain));
    let id = "CaseMatters_0.1-x";
    let _ = pod
        .call("podgate", "ADD")
        .without("CNI_ARGS")
        .container(id)
        .conf(&conf)
        .run()
        .result();
    let records = node.records();
    assert_eq!(records.len(), 1);
    assert_eq!(
        (
            records[0]["podNamespace"].as_str(),
            records[0]["podName"].as_str()
        ),
        (Some("default"), Some(id))
    );
    assert_eq!(records[0]["containerId"], id);
    assert_eq!(records[0]["labels"], json!({"app": "web", "tier": "front"}));
}

#[test]
fn a_second_network_makes_a_second_endpoint_and_leaves_the_first_alone() {
    let node = Node::builder("add").start();
    let mut pod = node.pod("a");
    let first = Chain::ptp(&node, "one", strict());
    let second = Chain::new("two")
        .with(chain::second_ptp())
        .with_podgate(&node, strict());
    pod.add(&first);
    let before = pod.record().expect("the first record");
    pod.add_env(&second, &[("CNI_IFNAME", "net1")]);
    let records = node.records();
    assert_eq!(records.len(), 2, "{records:?}");
    assert!(
        records.contains(&before),
        "the first record is as it was: {records:?}"
    );
    let veths = [pod.host_veth_of("eth0"), pod.host_veth_of("net1")];
    assert!(veths.iter().all(|veth| node.is_enforced(veth)), "{veths:?}");
    let _ = pod
        .cnitool("del", &second)
        .env("CNI_IFNAME", "net1")
        .run()
        .expect_ok();
    assert_eq!(node.records(), [before]);
    assert!(node.is_enforced(&veths[0]));
}

#[test]
fn every_pair_that_one_call_brings_is_an_endpoint() {
    let node = Node::builder("add").start();
    let mut pod = node.pod("a");
    pod.add(&Chain::new("net").with(chain::ptp()));
    // A pair that is in no result, as egress-cni's address is: only the kernel knows it.
    node.sh(&format!(
        "ip link add extra0 type veth peer name v6if0 netns {netns}\nip link set extra0 up\nip -n {netns} addr add fd00:ac::2/64 dev v6if0 nodad\nip -n {netns} link set v6if0 up",
        netns = pod.netns().trim_start_matches("/run/netns/")
    ));
    let conf = Chain::ptp(&node, "net", strict()).conf_of("podgate", Some(pod.result()));
    assert_eq!(
        &pod.call("podgate", "ADD").conf(&conf).run().result(),
        pod.result()
    );
    let mut names: Vec<String> = node
        .records()
        .iter()
        .map(|record| record["ifname"].as_str().unwrap_or_default().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["eth0", "v6if0"]);
    assert!(node.is_enforced("extra0") && node.is_enforced(&pod.host_veth()));
    let extra = node
        .records()
        .into_iter()
        .find(|record| record["ifname"] == "v6if0")
        .expect("its record");
    assert!(
        extra["addresses"]
            .as_array()
            .is_some_and(|all| all.contains(&json!("fd00:ac::2"))),
        "{extra}"
    );
}

#[test]
fn many_pods_at_once_share_one_set_and_all_are_enforced() {
    let node = Node::builder("add").start();
    let chain = Chain::ptp(&node, "net", strict());
    node.install(&chain);
    // An emulated machine needs seconds for each, and the last of them waits for all the others: not longer than an ADD waits.
    let many = if is_emulated() {
        let _ = node.ctl(&["load"]).expect_ok();
        3
    } else {
        8
    };
    let mut pods: Vec<_> = (0..many)
        .map(|number| node.pod(&format!("p{number}")))
        .collect();
    std::thread::scope(|scope| {
        for pod in &mut pods {
            scope.spawn(|| pod.add(&chain));
        }
    });
    assert_eq!(node.records().len(), many);
    let mut endpoint_indexes: Vec<u64> = node
        .records()
        .iter()
        .filter_map(|record| record["endpointIndex"].as_u64())
        .collect();
    endpoint_indexes.sort_unstable();
    endpoint_indexes.dedup();
    assert_eq!(
        endpoint_indexes.len(),
        many,
        "each endpoint has an endpoint index of its own"
    );
    assert!(
        endpoint_indexes
            .iter()
            .all(|endpoint_index| (1..4096).contains(endpoint_index))
    );
    let hooks: std::collections::BTreeSet<_> = pods
        .iter()
        .map(|pod| node.bpf_filters(&pod.host_veth(), "ingress"))
        .collect();
    assert_eq!(hooks.len(), 1, "one program for all: {hooks:?}");
    assert!(pods.iter().all(|pod| node.is_enforced(&pod.host_veth())));
}

#[test]
fn a_bridge_is_a_main_plugin_too() {
    let node = Node::builder("add").start();
    let (mut a, mut b) = (node.pod("a"), node.pod("b"));
    let chain = Chain::bridge(
        &node,
        "br",
        json!({"networkPolicyEnforcingMode": "standard", "policyWait": "0s", "onPolicyUnknown": "allow"}),
    );
    a.add(&chain);
    b.add(&chain);
    let _server = integration::Server::start(&b.place(), &[80], &[53]);
    for to in [b.v4(), b.v6()] {
        assert!(
            integration::traffic::tcp(&a.place(), to, 80).is_open(),
            "{to}"
        );
        assert!(
            integration::traffic::udp(&a.place(), to, 53).is_open(),
            "{to}"
        );
    }
    assert!(node.is_enforced(&a.host_veth()) && node.is_enforced(&b.host_veth()));
    assert!(!node.is_enforced("cni0"));
}

#[test]
fn tcx_by_choice_enforces_without_a_filter_that_tc_could_remove() {
    let node = Node::builder("add").start();
    let mut pod = node.pod("a");
    let chain = Chain::ptp(
        &node,
        "net",
        json!({"networkPolicyEnforcingMode": "strict", "attachMode": "tcx", "policyWait": "0s"}),
    );
    if !attach_modes().contains(&"tcx") {
        let refused = pod.try_add(&chain);
        assert!(!refused.success());
        assert!(refused.to_string().contains("at least 6.6"), "{refused}");
        assert!(node.records().is_empty());
        return;
    }
    pod.add(&chain);
    assert_eq!(pod.record().expect("a record")["attachMode"], "tcx");
    let veth = pod.host_veth();
    assert!(
        node.bpf_filters(&veth, "ingress").is_empty(),
        "no clsact filter is needed"
    );
    let _server = integration::Server::start(&pod.place(), &[80], &[]);
    let _outside = integration::Server::start(&node.outside(), &[80], &[]);
    for (own, outside) in [pod.v4(), pod.v6()]
        .into_iter()
        .zip(integration::node::outside(0))
    {
        assert!(integration::traffic::tcp(&node.outside(), own, 80).is_silent());
        assert!(integration::traffic::tcp(&pod.place(), outside, 80).is_silent());
        assert!(
            integration::traffic::tcp(&node.place(), own, 80).is_open(),
            "the host reaches its pod"
        );
    }
    let _ = node
        .cmd("tc")
        .args(["qdisc", "del", "dev", &veth, "clsact"])
        .run();
    assert!(
        integration::traffic::tcp(&node.outside(), pod.v4(), 80).is_silent(),
        "a careless tc removes nothing"
    );
    pod.del(&Chain::ptp(&node, "net", json!({"attachMode": "tcx"})));
    wait_until("the record is gone", Duration::from_secs(1), || {
        node.records().is_empty()
    });
}
