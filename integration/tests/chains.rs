//! podgate beside other plugins: `bandwidth` in both orders, `portmap` behind it, Amazon's chain with its several interfaces.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use integration::{
    Capture, Chain, Doc, Flood, Ipamd, Node, Pod, Server, Sink, aws, chain, node, traffic,
};
use serde_json::{Value, json};

fn strict() -> Value {
    json!({"networkPolicyEnforcingMode": "strict"})
}

fn bandwidth() -> Value {
    json!({"type": "bandwidth", "ingressRate": 80_000_000, "ingressBurst": 80_000_000, "egressRate": 80_000_000, "egressBurst": 80_000_000})
}

/// Fails unless nothing passes in either direction, by real clients, a generator and a capture.
fn assert_closed(node: &Node, pod: &Pod<'_>) {
    let _servers = [
        Server::start(&pod.place(), &[80], &[53]),
        Server::start(&node.outside(), &[80], &[53]),
    ];
    let mut capture = Capture::on(&node.outside(), "eth0");
    let mut sink = Sink::start(&node.outside());
    let to = node::outside(0).map(|address| (address, sink.port).into());
    let flood = Flood::start(&pod.place(), &to);
    for own in pod.addresses() {
        let outside = node::outside(0)
            .into_iter()
            .find(|to| to.is_ipv4() == own.is_ipv4())
            .expect("both families");
        for outcome in [
            traffic::tcp(&pod.place(), outside, 80),
            traffic::udp(&pod.place(), outside, 53),
            traffic::tcp(&node.outside(), own, 80),
            traffic::udp(&node.outside(), own, 53),
        ] {
            assert!(!outcome.is_open(), "{own}: {outcome:?}");
        }
    }
    let sent: u64 = flood.stop().values().map(|report| report.sent).sum();
    assert!(sent > 0);
    assert!(sink.report().is_empty(), "{:?}", sink.report());
    let leaked: Vec<_> = capture
        .incoming()
        .into_iter()
        .filter(|seen| {
            pod.addresses()
                .iter()
                .any(|own| seen.summary.source == Some(*own))
        })
        .collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

/// Allows the outside's first addresses both ways and fails unless that works and the second addresses stay out.
fn assert_policy_opens(node: &Node, pod: &Pod<'_>) {
    let mut doc = Doc::new(pod.namespace(), "open").selects(pod);
    for address in node::outside(0) {
        doc = doc.ingress(address, "").egress(address, "");
    }
    node.put_policy("open.yaml", &doc.yaml());
    node.settle();
    let _servers = [
        Server::start(&pod.place(), &[80], &[]),
        Server::start(&node.outside(), &[80], &[]),
    ];
    for own in pod.addresses() {
        let family = usize::from(own.is_ipv6());
        let open = |from: IpAddr| traffic::tcp_from(&node.outside(), from, own, 80).is_open();
        assert!(
            open(node::outside(0)[family]) && !open(node::outside(1)[family]),
            "{own}"
        );
        assert!(
            traffic::tcp(&pod.place(), node::outside(0)[family], 80).is_open(),
            "{own}"
        );
    }
}

#[test]
fn behind_bandwidth_podgate_enforces() {
    let node = Node::builder("bandwidth").start();
    let _companion = node.companion();
    let chain = Chain::new("net")
        .with(chain::ptp())
        .with(bandwidth())
        .with_podgate(&node, strict());
    let mut pod = node.pod("a");
    pod.add(&chain);
    assert_closed(&node, &pod);
    assert_policy_opens(&node, &pod);
    let output = pod.check(&chain);
    assert!(output.success(), "{output}");
    // Bandwidth's shaping is still there: its redirect to the ifb, and the tbf on both.
    let veth = pod.host_veth();
    let qdiscs = node.cmd("tc").args(["-j", "qdisc", "show"]).json();
    let tbf = qdiscs
        .as_array()
        .into_iter()
        .flatten()
        .filter(|qdisc| qdisc["kind"] == "tbf")
        .count();
    assert_eq!(tbf, 2, "{qdiscs}");
    assert!(
        node.filters(&veth, "ingress")
            .to_string()
            .contains("mirred"),
        "{}",
        node.filters(&veth, "ingress")
    );
    pod.del(&chain);
}

#[test]
fn in_front_of_bandwidth_the_chain_is_refused_with_bandwidths_own_words() {
    let node = Node::builder("bandwidth").start();
    let chain = Chain::new("net")
        .with(chain::ptp())
        .with_podgate(
            &node,
            json!({"networkPolicyEnforcingMode": "strict", "policyWait": "0s"}),
        )
        .with(bandwidth());
    let mut pod = node.pod("a");
    let output = pod.try_add(&chain);
    let text = format!("{}{}", output.stdout, output.stderr);
    if output.success() {
        // A bandwidth plugin that can live with a clsact: then podgate must be in force.
        assert_closed(&node, &pod);
    } else {
        assert!(
            text.contains("bandwidth") && text.contains("qdisc"),
            "{output}"
        );
        assert!(
            node.is_enforced(&pod.host_veth()),
            "podgate's filters were not taken away"
        );
    }
    pod.del(&chain);
    assert!(node.records().is_empty());
}

#[test]
fn anything_else_on_the_hook_is_refused_or_enforced_in_front_of() {
    for setup in [
        "tc qdisc add dev $V ingress; tc filter add dev $V parent ffff: pref 1 u32 match u32 0 0 flowid 1:1",
        "tc qdisc add dev $V clsact; tc filter add dev $V ingress pref 1 u32 match u32 0 0 flowid 1:1",
    ] {
        let node = Node::builder("foreign").start();
        let _companion = node.companion();
        let mut pod = node.pod("a");
        let result = pod.add(&Chain::new("net").with(chain::ptp()));
        node.sh(&format!("V={}; {setup}", pod.host_veth()));
        let conf = Chain::ptp(&node, "net", strict()).conf_of("podgate", Some(&result));
        let reply = pod.call("podgate", "ADD").conf(&conf).run();
        if reply.output.success() {
            assert_closed(&node, &pod);
        } else {
            let error = reply.error();
            assert!([100, 101].contains(&error.code), "{error:?}");
            assert!(node.records().is_empty());
        }
    }
}

#[test]
fn a_host_port_reaches_an_allowed_pod_through_portmap() {
    let node = Node::builder("portmap").start();
    let _companion = node.companion();
    let portmap = json!({"type": "portmap", "snat": true, "backend": "iptables", "capabilities": {"portMappings": true}});
    let chain = Chain::new("net")
        .with(chain::ptp())
        .with_podgate(&node, strict())
        .with(portmap);
    let mut pod = node.pod("a");
    let mappings =
        json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]})
            .to_string();
    pod.add_env(&chain, &[("CAP_ARGS", &mappings)]);
    let _server = Server::start(&pod.place(), &[80], &[]);
    let host = node::node_addresses()[0];
    assert!(
        traffic::tcp(&node.outside(), host, 8080).is_silent(),
        "strict, no policy"
    );
    node.put_policy(
        "in.yaml",
        &Doc::new("default", "in")
            .selects(&pod)
            .ingress(node::outside(0)[0], "")
            .yaml(),
    );
    node.settle();
    assert!(traffic::tcp(&node.outside(), host, 8080).is_open());
    assert!(!traffic::tcp_from(&node.outside(), node::outside(1)[0], host, 8080).is_open());
    let _ = pod
        .cnitool("del", &chain)
        .env("CAP_ARGS", &mappings)
        .run()
        .expect_ok();
}

/// What a golden result says besides what differs from run to run: sandbox paths, and egress-cni's names and addresses.
fn comparable(mut result: Value) -> Value {
    for interface in result["interfaces"].as_array_mut().into_iter().flatten() {
        if interface["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("veth"))
        {
            interface["name"] = json!("veth");
        }
        if interface["mac"]
            .as_str()
            .is_some_and(|mac| mac.contains(':'))
        {
            interface["mac"] = json!("mac");
        }
        if interface["sandbox"]
            .as_str()
            .is_some_and(|path| path.contains("netns"))
        {
            interface["sandbox"] = json!("sandbox");
        }
    }
    result
}

fn golden(name: &str) -> Value {
    let path = integration::tools::workspace().join(format!("integration/golden/aws/{name}.json"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    comparable(
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    )
}

#[test]
fn amazons_chain_is_enforced_on_every_pair_and_its_result_goes_back_as_it_came() {
    for (name, cards, cluster, interfaces) in [
        ("one-card", 1, aws::Cluster::default(), &["eth0"][..]),
        (
            "egress",
            1,
            aws::Cluster {
                egress: true,
                ipv6: false,
            },
            &["eth0", "v6if0"],
        ),
        (
            "three-cards",
            3,
            aws::Cluster::default(),
            &["eth0", "mNicIf1", "mNicIf2"],
        ),
        (
            "three-cards-egress",
            3,
            aws::Cluster {
                egress: true,
                ipv6: false,
            },
            &["eth0", "mNicIf1", "mNicIf2", "v6if0"],
        ),
        (
            "ipv6-egress",
            1,
            aws::Cluster {
                egress: true,
                ipv6: true,
            },
            &["eth0", "v4if0"],
        ),
    ] {
        let node = Node::builder("aws").start();
        let _ipamd = Ipamd::start(&node, cluster, cards);
        let _companion = node.companion();
        let chain = aws::chain(cluster);
        assert_eq!(
            chain.types(),
            ["aws-cni", "egress-cni", "podgate", "portmap"]
        );
        let mut pod = node.pod_in("shop", "cart-6d5f8-x2x7q");
        let mut environment = vec![("NETWORK_POLICY_ENFORCING_MODE", "strict")];
        environment.extend((cards > 1).then_some(aws::EVERY_CARD));
        let result = pod.add_env(&chain, &environment);
        assert_eq!(comparable(result), golden(name), "{name}");
        let mut recorded: Vec<String> = node
            .records()
            .iter()
            .map(|record| record["ifname"].as_str().unwrap_or_default().to_owned())
            .collect();
        recorded.sort();
        let mut expected: Vec<&str> = interfaces.to_vec();
        expected.sort_unstable();
        assert_eq!(recorded, expected, "{name}");
        for ifname in interfaces {
            assert!(
                node.is_enforced(&pod.host_veth_of(ifname)),
                "{name}: {ifname}"
            );
        }
        assert_closed(&node, &pod);
        pod.del(&chain);
        assert!(node.records().is_empty(), "{name}");
    }
}

#[test]
fn amazons_chain_in_standard_mode_carries_traffic_of_both_families() {
    let node = Node::builder("aws").start();
    let cluster = aws::Cluster {
        egress: true,
        ipv6: false,
    };
    let _ipamd = Ipamd::start(&node, cluster, 1);
    let _companion = node.companion();
    let mut pod = node.pod_in("shop", "cart-6d5f8-x2x7q");
    pod.add(&aws::chain(cluster));
    let _outside = Server::start(&node.outside(), &[80], &[53]);
    for outside in node::outside(0) {
        assert!(
            traffic::tcp(&pod.place(), outside, 80).is_open(),
            "{outside}"
        );
        assert!(
            traffic::udp(&pod.place(), outside, 53).is_open(),
            "{outside}"
        );
    }
    // What no policy allows is closed on the egress pair too, whose address is in no result.
    node.put_policy(
        "egress.yaml",
        &Doc::new("shop", "egress")
            .selects(&pod)
            .isolate_egress()
            .egress(node::outside(0)[0], "")
            .yaml(),
    );
    node.settle();
    assert!(traffic::tcp(&pod.place(), node::outside(0)[0], 80).is_open());
    assert!(traffic::tcp(&pod.place(), node::outside(0)[1], 80).is_silent());
}
