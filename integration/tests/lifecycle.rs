//! DEL, CHECK, GC, STATUS and VERSION, in the orders in which runtimes really call them.
#![forbid(unsafe_code)]

use std::fs;
use std::time::Duration;

use integration::{
    Chain, CniCall, Doc, Node, Pod, Server, Snapshot, chain, node, traffic, wait_until,
};
use serde_json::{Value, json};

fn strict() -> Value {
    json!({"networkPolicyEnforcingMode": "strict", "policyWait": "0s"})
}

/// A pod wired by `ptp`, its podgate configuration with prevResult, and its first ADD done.
fn added<'n>(node: &'n Node, name: &str) -> (Pod<'n>, Value) {
    let mut pod = node.pod(name);
    let chain = Chain::ptp(node, "net", strict());
    let result = pod.add(&chain);
    let conf = chain.conf_of("podgate", Some(&result));
    (pod, conf)
}

fn without_prev(conf: &Value) -> Value {
    let mut conf = conf.clone();
    conf.as_object_mut()
        .expect("an object")
        .remove("prevResult");
    conf
}

/// Entries of the endpoint table, by `bpftool`'s word.
fn endpoint_entries(node: &Node) -> usize {
    let pin = node
        .pins()
        .into_iter()
        .find(|pin| pin.to_lowercase().ends_with("endpoints"))
        .unwrap_or_else(|| panic!("no endpoint table among {:?}", node.pins()));
    node.map_dump(&pin).as_array().map_or(0, Vec::len)
}

// ---- DEL

#[test]
fn del_twice_and_del_of_what_never_was_succeed() {
    let node = Node::builder("del").start();
    let (pod, _) = added(&node, "a");
    let chain = Chain::ptp(&node, "net", strict());
    assert_eq!(endpoint_entries(&node), 1);
    pod.del(&chain);
    assert!(node.records().is_empty());
    assert_eq!(endpoint_entries(&node), 0);
    pod.del(&chain);
    let never = node.pod("never");
    never.del(&chain);
}

#[test]
fn del_needs_neither_namespace_nor_prev_result() {
    let node = Node::builder("del").start();
    for case in [
        "no CNI_NETNS",
        "empty CNI_NETNS",
        "namespace gone",
        "no prevResult",
    ] {
        let (pod, conf) = added(&node, "a");
        let call = pod.call("podgate", "DEL");
        let call = match case {
            "no CNI_NETNS" => call.without("CNI_NETNS").conf(&conf),
            "empty CNI_NETNS" => call.netns("").conf(&without_prev(&conf)),
            "namespace gone" => {
                pod.remove_netns();
                call.conf(&conf)
            }
            _ => call.conf(&without_prev(&conf)),
        };
        assert_eq!(call.run().result(), Value::Null, "{case}");
        assert!(node.records().is_empty(), "{case}");
        assert_eq!(endpoint_entries(&node), 0, "{case}");
    }
}

#[test]
fn after_del_the_filters_stay_and_drop_everything() {
    let node = Node::builder("del").start();
    let mut pod = node.pod("a");
    let chain = Chain::ptp(
        &node,
        "net",
        json!({"networkPolicyEnforcingMode": "standard", "policyWait": "0s", "onPolicyUnknown": "allow"}),
    );
    let result = pod.add(&chain);
    let _server = Server::start(&pod.place(), &[80], &[]);
    assert!(traffic::tcp(&node.outside(), pod.v4(), 80).is_open());
    let _ = pod
        .call("podgate", "DEL")
        .conf(&chain.conf_of("podgate", Some(&result)))
        .run()
        .result();
    assert!(
        node.is_enforced(&pod.host_veth()),
        "the filters die with the veth"
    );
    for address in pod.addresses() {
        assert!(traffic::tcp(&node.outside(), address, 80).is_silent());
        assert!(
            traffic::tcp(&node.place(), address, 80).is_silent(),
            "without a entry not even the host"
        );
    }
}

#[test]
fn a_late_del_of_an_older_container_touches_nothing_of_the_newer() {
    let node = Node::builder("del").start();
    let mut pod = node.pod("web");
    let result = pod.add(&Chain::new("net").with(chain::ptp()));
    let conf = Chain::ptp(&node, "net", strict()).conf_of("podgate", Some(&result));
    let call = |pod: &Pod<'_>, command: &str, id: &str| {
        pod.call("podgate", command).container(id).conf(&conf).run()
    };
    let _ = call(&pod, "ADD", "old").result();
    // The next sandbox of the same pod: another namespace, another container id, the same name.
    let mut next = node.pod("web");
    let next_result = next.add(&Chain::new("net").with(chain::ptp()));
    let next_conf = Chain::ptp(&node, "net", strict()).conf_of("podgate", Some(&next_result));
    let _ = next
        .call("podgate", "ADD")
        .container("new")
        .conf(&next_conf)
        .run()
        .result();
    let before: Vec<Value> = node
        .records()
        .into_iter()
        .filter(|record| record["containerId"] == "new")
        .collect();
    let _ = call(&pod, "DEL", "old").result();
    let _ = call(&pod, "DEL", "old").result();
    assert_eq!(node.records(), before);
    assert_eq!(endpoint_entries(&node), 1);
    assert!(node.is_enforced(&next.host_veth()));
    let _server = Server::start(&next.place(), &[80], &[]);
    assert!(
        traffic::tcp(&node.place(), next.v4(), 80).is_open(),
        "the newer endpoint still has its entry"
    );
}

#[test]
fn del_succeeds_where_the_store_cannot_be_written() {
    let node = Node::builder("del").start();
    let (pod, conf) = added(&node, "a");
    node.make_state_read_only();
    let _ = pod.call("podgate", "DEL").conf(&conf).run().result();
    assert_eq!(
        endpoint_entries(&node),
        0,
        "the entry goes, the record is left to the scan"
    );
    node.make_state_writable();
    assert_eq!(node.records().len(), 1);
    pod.remove_netns();
    let _companion = node.companion();
    wait_until("the scan takes the record", Duration::from_secs(5), || {
        node.records().is_empty()
    });
    assert_eq!(endpoint_entries(&node), 0);
}

#[test]
fn what_a_lost_del_left_is_found_by_the_companion() {
    let node = Node::builder("del").start();
    let _companion = node.companion();
    let (pod, _) = added(&node, "a");
    let (kept, _) = added(&node, "b");
    pod.remove_netns();
    wait_until(
        "record and entry of the dead veth are gone",
        Duration::from_secs(5),
        || node.records().len() == 1 && endpoint_entries(&node) == 1,
    );
    assert!(kept.record().is_some());
}

#[test]
fn del_before_any_add_works_on_a_node_without_maps() {
    let node = Node::builder("del").start();
    let pod = node.pod("a");
    let conf = Chain::ptp(&node, "net", strict()).conf_of("podgate", None);
    let before = Snapshot::take(&node);
    let _ = pod.call("podgate", "DEL").conf(&conf).run().result();
    before.assert_same(&Snapshot::take(&node), "after a DEL of nothing");
}

// ---- CHECK

#[test]
fn check_notices_what_somebody_removed() {
    let node = Node::builder("check").start();
    let chain = Chain::ptp(&node, "net", strict());
    for (damage, command) in [
        (
            "both filters with their qdisc",
            "tc qdisc del dev $V clsact",
        ),
        ("the ingress filter", "tc filter del dev $V ingress pref 1"),
        ("the egress filter", "tc filter del dev $V egress pref 1"),
        (
            "a filter in front",
            "tc filter del dev $V ingress pref 1; tc filter add dev $V ingress pref 1 u32 match u32 0 0 flowid 1:1",
        ),
    ] {
        let (pod, _) = added(&node, "a");
        let output = pod.check(&chain);
        assert!(output.success(), "{output}");
        node.sh(&format!("V={}; {command}", pod.host_veth()));
        let output = pod.check(&chain);
        assert!(!output.success(), "{damage} goes unnoticed\n{output}");
        pod.remove_netns();
        pod.del(&chain);
    }
}

#[test]
fn check_notices_a_missing_record_and_a_missing_row() {
    let node = Node::builder("check").start();
    let chain = Chain::ptp(&node, "net", strict());
    let (pod, conf) = added(&node, "a");
    let records = node.state_dir().join("pods");
    let file = integration::eyes::files_below(&records)
        .into_iter()
        .next()
        .expect("a record");
    let text = fs::read(records.join(&file)).unwrap();
    fs::remove_file(records.join(&file)).unwrap();
    assert!(!pod.check(&chain).success(), "no record");
    fs::write(records.join(&file), &text).unwrap();
    assert!(pod.check(&chain).success());
    let _ = pod.call("podgate", "DEL").conf(&conf).run().result();
    fs::write(records.join(&file), &text).unwrap();
    let output = pod.check(&chain);
    assert!(!output.success(), "a record without its entry\n{output}");
    assert!(
        !pod.call("podgate", "CHECK")
            .conf(&conf)
            .run()
            .error()
            .msg
            .is_empty()
    );
}

// ---- GC

fn gc(node: &Node, network: &str, attachments: Option<(&str, Value)>) -> integration::Reply {
    let mut conf = Chain::ptp(node, network, strict()).conf_of("podgate", None);
    if let Some((key, list)) = attachments {
        conf[key] = list;
    }
    CniCall::new(node, "podgate", "GC").conf(&conf).run()
}

#[test]
fn gc_with_a_list_removes_what_it_does_not_name_of_its_own_network() {
    let node = Node::builder("gc").start();
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let ((a, _), (b, _)) = (added(&node, "a"), added(&node, "b"));
        let mut other = node.pod("c");
        let second = Chain::new("two")
            .with(chain::second_ptp())
            .with_podgate(&node, strict());
        other.add(&second);
        let list = json!([{"containerID": a.container_id(), "ifname": "eth0"}]);
        let _ = gc(&node, "net", Some((key, list))).result();
        assert!(a.record().is_some(), "{key}: named");
        assert!(b.record().is_none(), "{key}: not named");
        assert!(other.record().is_some(), "{key}: another network's");
        assert_eq!(endpoint_entries(&node), 2);
        let _ = gc(&node, "net", Some((key, json!([])))).result();
        let _ = gc(&node, "two", Some((key, json!([])))).result();
        assert!(node.records().is_empty());
    }
}

#[test]
fn gc_without_a_list_removes_only_what_the_kernel_shows_to_be_gone() {
    let node = Node::builder("gc").start();
    let ((a, _), (b, _)) = (added(&node, "a"), added(&node, "b"));
    b.remove_netns();
    let _ = gc(&node, "net", None).result();
    assert!(a.record().is_some() && node.is_enforced(&a.host_veth()));
    assert!(b.record().is_none());
    assert_eq!(endpoint_entries(&node), 1);
}

#[test]
fn gc_with_a_list_of_another_shape_removes_nothing() {
    let node = Node::builder("gc").start();
    let (a, _) = added(&node, "a");
    let before = Snapshot::take(&node);
    for list in [
        json!("all"),
        json!({}),
        json!([{"containerID": 5}]),
        json!([1]),
        json!([{"ifname": "eth0"}]),
    ] {
        let reply = gc(
            &node,
            "net",
            Some(("cni.dev/valid-attachments", list.clone())),
        );
        let error = reply.error();
        assert_eq!(error.code, 7, "{list}: {error:?}");
        before.assert_same(&Snapshot::take(&node), "after a GC that failed");
    }
    assert!(a.record().is_some());
}

#[test]
fn cnitool_gc_removes_what_its_cache_held() {
    let node = Node::builder("gc").start();
    let (a, _) = added(&node, "a");
    let output = a.gc(&Chain::ptp(&node, "net", strict()));
    assert!(output.success(), "{output}");
    assert!(node.records().is_empty());
}

// ---- STATUS, VERSION

#[test]
fn status_says_whether_an_add_would_work() {
    let node = Node::builder("status").start();
    let pod = node.pod("a");
    let chain = Chain::ptp(&node, "net", strict());
    node.install(&chain);
    let output = pod.status(&chain);
    assert!(
        output.success(),
        "a companion that is away is no reason to turn the node NotReady\n{output}"
    );
    let _companion = node.companion();
    assert!(pod.status(&chain).success());
    let wrong = Chain::ptp(
        &node,
        "wrong",
        json!({"networkPolicyEnforcingMode": "loose"}),
    )
    .conf_of("podgate", None);
    assert_eq!(
        CniCall::new(&node, "podgate", "STATUS")
            .conf(&wrong)
            .run()
            .error()
            .code,
        7
    );
    node.make_state_read_only();
    let conf = chain.conf_of("podgate", None);
    assert_eq!(
        CniCall::new(&node, "podgate", "STATUS")
            .conf(&conf)
            .run()
            .error()
            .code,
        50,
        "no ADD could write its record"
    );
    node.make_state_writable();
    assert!(
        CniCall::new(&node, "podgate", "STATUS")
            .conf(&conf)
            .run()
            .output
            .success()
    );
}

#[test]
fn status_fails_where_there_is_no_bpffs() {
    let node = Node::builder("status")
        .bpffs(integration::BpfFs::None)
        .start();
    let conf = Chain::ptp(&node, "net", strict()).conf_of("podgate", None);
    let error = CniCall::new(&node, "podgate", "STATUS")
        .conf(&conf)
        .run()
        .error();
    assert_eq!(error.code, 50, "{error:?}");
    assert!(
        error.msg.contains("bpf") || error.details.contains("bpf"),
        "{error:?}"
    );
}

#[test]
fn version_names_every_version_of_the_promise() {
    let node = Node::builder("version").start();
    let reply = CniCall::new(&node, "podgate", "VERSION")
        .stdin(r#"{"cniVersion":"1.0.0"}"#)
        .run()
        .result();
    let versions: Vec<&str> = reply["supportedVersions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        assert!(versions.contains(&version), "{version} in {versions:?}");
    }
}

// ---- a whole life

#[test]
fn a_pod_that_comes_again_under_its_name_is_enforced_anew() {
    let node = Node::builder("life").start();
    let _companion = node.companion();
    let chain = Chain::in_mode(&node, "strict");
    let [v4, v6] = node::outside(0);
    node.put_policy(
        "in.yaml",
        &Doc::new("default", "in")
            .selects_named("web", "")
            .ingress(v4, "")
            .ingress(v6, "")
            .yaml(),
    );
    node.settle();
    for _ in 0..3 {
        let mut pod = node.pod("web");
        pod.add(&chain);
        let server = Server::start(&pod.place(), &[80], &[]);
        assert!(traffic::tcp(&node.outside(), pod.v4(), 80).is_open());
        assert!(traffic::tcp_from(&node.outside(), node::outside(1)[0], pod.v4(), 80).is_silent());
        pod.del(&chain);
        drop(server);
        pod.remove_netns();
    }
    wait_until("nothing is left", Duration::from_secs(2), || {
        node.records().is_empty() && endpoint_entries(&node) == 0
    });
}
