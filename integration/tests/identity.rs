//! Whose interface it is: several calls for one namespace, and calls that overlap. And the plugin's own files, which others
//! may have placed before it.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use integration::{Chain, Node, Pod, Server, chain, traffic, wait_until};
use serde_json::{Value, json};

fn in_mode(mode: &str) -> Value {
    json!({"networkPolicyEnforcingMode": mode, "policyWait": "0s", "onPolicyUnknown": "allow"})
}

/// A second interface of a running pod under a container id of its own, as a dynamic network attachment makes it: the
/// main plugin's call, then podgate's. Returns podgate's configuration.
fn add_network(node: &Node, pod: &Pod<'_>, id: &str, ifname: &str, mode: &str) -> Value {
    let chain = Chain::new("second")
        .with(chain::second_ptp())
        .with_podgate(node, in_mode(mode));
    let call = |plugin, conf: &Value| {
        let call = pod.call(plugin, "ADD").container(id).ifname(ifname);
        call.conf(conf).run().result()
    };
    let result = call("ptp", &chain.conf_of("ptp", None));
    let conf = chain.conf_of("podgate", Some(&result));
    call("podgate", &conf);
    conf
}

#[test]
fn a_network_added_to_a_running_pod_leaves_the_first_interface_alone() {
    let node = Node::builder("identity").start();
    let mut pod = node.pod("a");
    pod.add(&Chain::ptp(&node, "net", in_mode("standard")));
    let first = pod.record().expect("a record");
    let _server = Server::start(&pod.place(), &[80], &[]);
    assert!(traffic::tcp(&node.outside(), pod.v4(), 80).is_open());

    let conf = add_network(&node, &pod, "dynamic", "net1", "strict");
    assert_eq!(
        pod.record().expect("a record")["endpointId"],
        first["endpointId"]
    );
    let records = node.records();
    assert_eq!(records.len(), 2, "{records:?}");
    let second = records
        .iter()
        .find(|record| record["containerId"] == "dynamic")
        .expect("a record of the second call");
    assert_eq!(
        (&second["ifname"], &second["mode"]),
        (&json!("net1"), &json!("strict"))
    );
    assert!(node.is_enforced(&pod.host_veth_of("net1")));
    assert!(
        traffic::tcp(&node.outside(), pod.v4(), 80).is_open(),
        "with the second network"
    );

    let call = pod
        .call("podgate", "DEL")
        .container("dynamic")
        .ifname("net1");
    assert_eq!(call.conf(&conf).run().result(), Value::Null);
    assert_eq!(node.records().len(), 1);
    assert!(node.is_enforced(&pod.host_veth()));
    assert!(
        traffic::tcp(&node.outside(), pod.v4(), 80).is_open(),
        "after the second network went"
    );
}

#[test]
fn a_result_that_names_the_namespace_by_another_path_is_enforced_all_the_same() {
    let node = Node::builder("identity").start();
    let mut pod = node.pod("a");
    let mut result = pod.add(&Chain::new("net").with(chain::ptp()));
    let link = node.dir().join("another-path");
    symlink(pod.netns(), &link).expect("a link");
    for interface in result["interfaces"].as_array_mut().expect("interfaces") {
        if interface.get("sandbox").is_some() {
            interface["sandbox"] = json!(link);
        }
    }
    // An interface that the result puts there and that podgate cannot stand before: refused, by whatever path.
    let beside = json!({"name": "macvlan0", "sandbox": link});
    let conf = |result: &Value| {
        Chain::ptp(&node, "net", in_mode("strict")).conf_of("podgate", Some(result))
    };
    let mut more = result.clone();
    more["interfaces"]
        .as_array_mut()
        .expect("interfaces")
        .push(beside);
    let error = pod.call("podgate", "ADD").conf(&conf(&more)).run().error();
    assert!(error.msg.contains("macvlan0"), "{error:?}");
    assert!(node.records().is_empty());
    let _ = pod
        .call("podgate", "ADD")
        .conf(&conf(&result))
        .run()
        .result();
    assert!(node.is_enforced(&pod.host_veth()));
}

#[test]
fn gc_keeps_what_was_attached_after_it_began() {
    let node = Node::builder("identity").start();
    let mut before = node.pod("before");
    before.add(&Chain::ptp(&node, "net", in_mode("strict")));
    let fifo = node.dir().join("list");
    node.sh(&format!("mkfifo {}", fifo.display()));
    let mut conf = Chain::ptp(&node, "net", in_mode("strict")).conf_of("podgate", None);
    conf["cni.dev/valid-attachments"] = json!([]);
    let mark = format!("PODGATE_TEST_GC={}", node.suffix());
    let script = format!("cat {} | \"$0\"", fifo.display());
    let waits = || {
        fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .any(|process| {
                let read = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
                let (stat, environ) = (read("stat"), read("environ"));
                String::from_utf8_lossy(&stat).contains("(podgate) S")
                    && String::from_utf8_lossy(&environ).contains(&mark)
            })
    };
    let mut late = node.pod("late");
    thread::scope(|scope| {
        let gc = scope.spawn(|| {
            let (key, value) = mark.split_once('=').expect("a variable");
            integration::CniCall::new(&node, "podgate", "GC")
                .env(key, value)
                .wrapped(&["sh", "-c", &script])
                .run()
        });
        wait_until("GC waits for its list", Duration::from_secs(20), waits);
        late.add(&Chain::ptp(&node, "net", in_mode("strict")));
        fs::write(&fifo, conf.to_string()).expect("the list");
        let _ = gc.join().expect("GC ends").result();
    });
    assert!(late.record().is_some(), "attached after GC began");
    assert!(node.is_enforced(&late.host_veth()));
    assert!(before.record().is_none(), "attached before, and not named");
}

#[test]
fn the_log_follows_no_link_and_waits_for_no_reader() {
    let node = Node::builder("identity").start();
    let victim = node.dir().join("victim");
    fs::write(&victim, "untouched").expect("a file");
    let (link, fifo) = (node.dir().join("link.log"), node.dir().join("fifo.log"));
    symlink(&victim, &link).expect("a link");
    node.sh(&format!("mkfifo {}", fifo.display()));
    for (name, log) in [("a", &link), ("b", &fifo)] {
        let mut extra = in_mode("strict");
        extra["pluginLogFile"] = json!(log);
        let mut pod = node.pod(name);
        pod.add(&Chain::ptp(&node, "net", extra));
        assert!(node.is_enforced(&pod.host_veth()), "{}", log.display());
    }
    assert_eq!(fs::read_to_string(&victim).expect("the file"), "untouched");
}

#[test]
fn a_bpf_directory_of_somebody_else_is_refused() {
    let node = Node::builder("identity").start();
    let dir = node.bpf_dir().join("theirs");
    node.sh(&format!("mkdir -p {0}; chown 65534 {0}", dir.display()));
    let mut extra = in_mode("strict");
    extra["bpfDir"] = json!(dir);
    let mut pod = node.pod("a");
    let result = pod.add(&Chain::new("net").with(chain::ptp()));
    let chain = Chain::ptp(&node, "net", extra);
    let conf = chain.conf_of("podgate", Some(&result));
    let error = pod.call("podgate", "ADD").conf(&conf).run().error();
    assert_eq!(error.code, 103, "{error:?}");
    assert!(error.msg.contains("uid 65534"), "{error:?}");
    node.sh(&format!("chown 0 {0}; chmod 0777 {0}", dir.display()));
    let error = pod.call("podgate", "ADD").conf(&conf).run().error();
    assert_eq!(error.code, 103, "{error:?}");
    node.sh(&format!("chmod 0700 {}", dir.display()));
    let _ = pod.call("podgate", "ADD").conf(&conf).run().result();
    assert!(node.is_enforced(&pod.host_veth()));
}
