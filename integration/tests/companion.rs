//! The companion away, back, stopped, and what it repairs.
#![forbid(unsafe_code)]

use std::time::Duration;

use integration::{Chain, Doc, Flood, Node, Pod, Server, Session, Sink, node, traffic, wait_until};
use serde_json::{Value, json};

const SECOND: Duration = Duration::from_secs(1);

fn chain(node: &Node, extra: Value) -> Chain {
    Chain::ptp(node, "net", extra)
}

/// A document in the pods' namespace that selects `web` and lets the outside's first address in.
fn let_first_in() -> String {
    let [v4, v6] = node::outside(0);
    Doc::new("default", "in")
        .selects_named("web", "")
        .isolate_ingress()
        .ingress(v4, "")
        .ingress(v6, "")
        .yaml()
}

fn reaches(node: &Node, pod: &Pod<'_>, number: usize) -> [bool; 2] {
    let from = node::outside(number);
    [
        traffic::tcp_from(&node.outside(), from[0], pod.v4(), 80).is_open(),
        traffic::tcp_from(&node.outside(), from[1], pod.v6(), 80).is_open(),
    ]
}

#[test]
fn without_a_companion_deny_waits_and_opens_when_it_comes() {
    let node = Node::builder("away").start();
    node.put_policy("in.yaml", &let_first_in());
    let mut pod = node.pod("web");
    // Nobody to wait for: otherwise the harness would give the call up.
    pod.add(&chain(&node, json!({"networkPolicyEnforcingMode": "standard", "policyWait": "10m", "onPolicyUnknown": "deny"})));
    let _server = Server::start(&pod.place(), &[80], &[]);
    assert_eq!(
        (reaches(&node, &pod, 0), reaches(&node, &pod, 1)),
        ([false; 2], [false; 2]),
        "unknown is denied"
    );
    assert!(traffic::tcp(&node.outside(), pod.v4(), 80).is_silent());
    let _companion = node.companion();
    node.settle();
    assert_eq!(
        (reaches(&node, &pod, 0), reaches(&node, &pod, 1)),
        ([true; 2], [false; 2])
    );
}

#[test]
fn without_a_companion_allow_is_as_the_mode_says() {
    let node = Node::builder("away").start();
    node.put_policy("in.yaml", &let_first_in());
    let (mut open, mut closed) = (node.pod("web"), node.pod("web"));
    let keys = |mode: &str| json!({"networkPolicyEnforcingMode": mode, "policyWait": "100ms", "onPolicyUnknown": "allow"});
    open.add(&chain(&node, keys("standard")));
    closed.add(&chain(&node, keys("strict")));
    let _servers = [
        Server::start(&open.place(), &[80], &[]),
        Server::start(&closed.place(), &[80], &[]),
    ];
    assert_eq!(reaches(&node, &open, 1), [true; 2]);
    assert_eq!(reaches(&node, &closed, 1), [false; 2]);
    let _companion = node.companion();
    node.settle();
    assert_eq!(
        (reaches(&node, &open, 0), reaches(&node, &open, 1)),
        ([true; 2], [false; 2]),
        "the policy once it is known"
    );
}

#[test]
fn without_a_companion_fail_fails_the_add_and_leaves_nothing() {
    let node = Node::builder("away").start();
    node.put_policy("in.yaml", &let_first_in());
    let mut pod = node.pod("web");
    let result = pod.add(&Chain::new("net").with(integration::chain::ptp()));
    let failing = chain(
        &node,
        json!({"policyWait": "100ms", "onPolicyUnknown": "fail"}),
    );
    // The first ADD of all makes the maps; what a failing ADD must leave unchanged is what stood before it.
    let mut first = node.pod("first");
    first.add(&chain(
        &node,
        json!({"onPolicyUnknown": "allow", "policyWait": "0s"}),
    ));
    let before = integration::Snapshot::take(&node);
    let error = pod
        .call("podgate", "ADD")
        .conf(&failing.conf_of("podgate", Some(&result)))
        .run()
        .error();
    assert!(
        !error.details.is_empty(),
        "details say what to do: {error:?}"
    );
    before.assert_same(
        &integration::Snapshot::take(&node),
        "after an ADD that failed",
    );
    let _companion = node.companion();
    node.settle();
    let _ = pod
        .call("podgate", "ADD")
        .conf(&failing.conf_of("podgate", Some(&result)))
        .run()
        .result();
}

#[test]
fn what_is_in_force_stays_in_force_while_the_companion_is_away() {
    let node = Node::builder("away").start();
    let companion = node.companion();
    let mut pod = node.pod("web");
    pod.add(&chain(
        &node,
        json!({"networkPolicyEnforcingMode": "strict"}),
    ));
    let _server = Server::start(&pod.place(), &[80], &[]);
    node.put_policy("in.yaml", &let_first_in());
    node.settle();
    let mut session = Session::open(
        &node.outside(),
        (pod.v4(), 80).into(),
        false,
        Some((node::outside(0)[0], 0).into()),
    );
    companion.stop();
    assert_eq!(
        (reaches(&node, &pod, 0), reaches(&node, &pod, 1)),
        ([true; 2], [false; 2])
    );
    assert!(session.works());
    // What changes meanwhile is taken up at its start.
    let [v4, v6] = node::outside(1);
    node.put_policy(
        "in.yaml",
        &Doc::new("default", "in")
            .selects_named("web", "")
            .ingress(v4, "")
            .ingress(v6, "")
            .yaml(),
    );
    let killed = node.companion();
    node.settle();
    assert_eq!(
        (reaches(&node, &pod, 0), reaches(&node, &pod, 1)),
        ([false; 2], [true; 2])
    );
    assert!(!session.works());
    killed.kill();
    assert_eq!(reaches(&node, &pod, 1), [true; 2], "killed without a word");
    let _again = node.companion();
    node.settle();
    assert_eq!(
        (reaches(&node, &pod, 0), reaches(&node, &pod, 1)),
        ([false; 2], [true; 2])
    );
}

#[test]
fn wait_knows_that_there_is_no_companion() {
    let node = Node::builder("away").start();
    node.put_policy("in.yaml", &let_first_in());
    let output = node.ctl(&["wait", "--timeout", "300ms"]);
    assert_eq!(output.code, Some(4), "{output}");
    let companion = node.companion();
    node.settle();
    companion.signal("STOP");
    node.put_policy(
        "more.yaml",
        &let_first_in().replace("name: in", "name: more"),
    );
    let output = node.ctl(&["wait", "--timeout", "300ms"]);
    assert_eq!(output.code, Some(1), "{output}");
    companion.signal("CONT");
    node.settle();
}

#[test]
fn filters_and_qdiscs_that_somebody_removes_are_back_within_a_second_and_nothing_passes_for_long() {
    let node = Node::builder("repair").start();
    let _companion = node.companion();
    let mut pod = node.pod("web");
    pod.add(&chain(
        &node,
        json!({"networkPolicyEnforcingMode": "strict"}),
    ));
    let veth = pod.host_veth();
    let mut sink = Sink::start(&node.outside());
    let to = node::outside(0).map(|address| (address, sink.port).into());
    let flood = Flood::start(&pod.place(), &to);
    for damage in [
        "tc qdisc del dev $V clsact",
        "tc filter del dev $V ingress",
        "tc filter del dev $V egress",
        "tc filter replace dev $V ingress pref 1 u32 match u32 0 0 flowid 1:1",
    ] {
        let _ = node
            .cmd("sh")
            .args(["-c", &damage.replace("$V", &veth)])
            .run();
        let took = wait_until(&format!("`{damage}` is repaired"), SECOND, || {
            node.is_enforced(&veth)
        });
        println!("`{damage}` repaired within {took:?}");
    }
    let moment = integration::monotonic_ns();
    wait_until("the generator goes on", 5 * SECOND, || {
        integration::monotonic_ns() > moment + 500_000_000
    });
    let _ = flood.stop();
    let late: u64 = sink
        .window(moment, u64::MAX)
        .values()
        .map(|count| count.packets)
        .sum();
    assert_eq!(late, 0, "silence after the repair");
}

#[test]
fn pins_that_somebody_removes_are_back_within_a_second() {
    let node = Node::builder("repair").start();
    let _companion = node.companion();
    let mut pod = node.pod("web");
    pod.add(&chain(
        &node,
        json!({"networkPolicyEnforcingMode": "strict"}),
    ));
    let pins = node.pins();
    for pin in &pins {
        let path = node.inside(node.bpf_dir().join(pin));
        std::fs::remove_file(&path)
            .unwrap_or_else(|error| panic!("remove {}: {error}", path.display()));
        wait_until(&format!("the pin {pin} is back"), SECOND, || {
            node.pins() == pins
        });
    }
    assert!(node.is_enforced(&pod.host_veth()));
}

#[test]
fn what_was_removed_while_it_was_away_is_repaired_within_two_seconds_of_its_start() {
    let node = Node::builder("repair").start();
    let companion = node.companion();
    let mut pod = node.pod("web");
    pod.add(&chain(
        &node,
        json!({"networkPolicyEnforcingMode": "strict"}),
    ));
    let veth = pod.host_veth();
    companion.stop();
    node.sh(&format!("tc qdisc del dev {veth} clsact"));
    assert!(!node.is_enforced(&veth));
    let _companion = node.companion();
    wait_until("the filters are back", 2 * SECOND, || {
        node.is_enforced(&veth)
    });
    let _server = Server::start(&pod.place(), &[80], &[]);
    assert!(traffic::tcp(&node.outside(), pod.v4(), 80).is_silent());
}

#[test]
fn a_second_companion_does_not_run_beside_the_first() {
    let node = Node::builder("second").start();
    let mut first = node.companion();
    let dirs = [
        node.state_dir().display().to_string(),
        node.bpf_dir().display().to_string(),
    ];
    let output = node
        .cmd(integration::tools::podgate("podgated"))
        .args([
            "--state-dir",
            &dirs[0],
            "--bpf-dir",
            &dirs[1],
            "--metrics-bind-addr",
            "127.0.0.1:0",
            "--health-probe-bind-addr",
            "127.0.0.1:0",
        ])
        .timeout(5 * SECOND)
        .run();
    assert!(
        !output.success() && !output.timed_out,
        "it says that another one runs and ends\n{output}"
    );
    assert!(first.is_running());
}

#[test]
fn status_names_pod_interfaces_without_enforcement() {
    let node = Node::builder("status").start();
    let _companion = node.companion();
    let (mut enforced, mut bare) = (node.pod("enforced"), node.pod("bare"));
    let net = chain(&node, json!({"networkPolicyEnforcingMode": "strict"}));
    enforced.add(&net);
    bare.add(&Chain::new("bare").with(integration::chain::second_ptp()));
    let veth = bare.host_veth();
    wait_until("status names the bare veth", 5 * SECOND, || {
        node.ctl(&["status"]).stdout.contains(&veth)
    });
    let enforced = enforced.host_veth();
    let json = node.ctl_json(&["status"]).to_string();
    assert!(json.contains(&veth), "{json}");
    assert!(
        !node.ctl(&["status"]).stdout.contains(&enforced),
        "{enforced} is enforced"
    );
}

/// Indexes of host paths in the kernel, as bpftool sees them.
fn host_paths(node: &Node) -> Vec<u32> {
    let pins = node.pins();
    let pin = pins.iter().find(|pin| pin.ends_with("maps/hostpaths"));
    let entries = node.map_dump(pin.expect("a map of host paths"));
    let entries = entries.as_array().expect("a list of entries").iter();
    let index = |entry: &Value| {
        let bytes: Vec<u8> = serde_json::from_value::<Vec<String>>(entry["key"].clone())
            .expect("bytes")
            .iter()
            .map(|byte| u8::from_str_radix(byte.trim_start_matches("0x"), 16).expect("a byte"))
            .collect();
        u32::from_ne_bytes(bytes.try_into().expect("four bytes"))
    };
    entries.map(index).collect()
}

#[test]
fn host_paths_follow_interfaces_that_are_made_anew_and_go_with_the_last_pod() {
    let node = Node::builder("paths").start();
    let _companion = node.companion();
    let make = || -> u32 {
        node.sh("ip link add sg0 type veth peer name sg1 && ip link set sg0 up");
        let links = node.cmd("ip").args(["-j", "link", "show", "sg0"]).json();
        serde_json::from_value(links[0]["ifindex"].clone()).expect("an index")
    };
    let first = make();
    let mut pod = node.pod("a");
    let chain = chain(&node, json!({"hostPathInterfaces": ["sg0", "not-there"]}));
    pod.add(&chain);
    assert_eq!(host_paths(&node), [first], "by ADD itself");
    node.sh("ip link del sg0");
    wait_until("the old one is forgotten", SECOND * 2, || {
        host_paths(&node).is_empty()
    });
    let second = make();
    assert_ne!(first, second);
    wait_until("the new one is taken up", SECOND * 2, || {
        host_paths(&node) == [second]
    });
    pod.del(&chain);
    assert_eq!(host_paths(&node), [0_u32; 0]);
}
