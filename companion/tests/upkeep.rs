//! Settings of node.json in the running programs, and temp files of writers that were killed.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod node;

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime};

use enforcer::flows::Flows;
use enforcer::hostnet::in_netns;
use enforcer::pins::Pins;
use node::{LONG, Node, Pod, wait_until};
use state::{AttachMode, Mode};

/// Whether a pod reaches a socket of its node on a port.
fn reaches_node(node: &Node, pod: &Pod, port: u16) -> bool {
    let IpAddr::V4(v4) = pod.v4 else {
        unreachable!()
    };
    let [a, b, c, _] = v4.octets();
    let address = SocketAddr::from(([a, b, c, 1], port));
    let listener = in_netns(&node.netns(), move || TcpListener::bind(address).unwrap()).unwrap();
    let connected = in_netns(&node::netns(&pod.netns), move || {
        TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok()
    });
    drop(listener);
    connected.unwrap()
}

#[test]
fn a_node_port_range_changed_after_the_load_reaches_the_programs() {
    let mut node = Node::new();
    node.load();
    let pod = node.pod();
    node.start(&[]);
    node.add(&pod, "shop", "web", Mode::Strict, false, AttachMode::Clsact);
    node.settle();
    wait_until("a socket of the node is reached", LONG, || {
        reaches_node(&node, &pod, 20_000)
    });
    assert!(
        !reaches_node(&node, &pod, 31_000),
        "a NodePort is under policy"
    );

    // As an editor writes it.
    let path = node.store.layout().node();
    fs::write(
        &path,
        r#"{"nodePortRange": "20000-20010", "conntrackCacheTableSize": 40000}"#,
    )
    .unwrap();
    let took = wait_until("the new range is in force", LONG, || {
        !reaches_node(&node, &pod, 20_000)
    });
    println!("in force after {took:?}");
    assert!(reaches_node(&node, &pod, 31_000));
    let limit = || {
        Flows::open(&Pins::new(&node.bpf))
            .unwrap()
            .config()
            .unwrap()
            .flow_limit
    };
    assert_eq!(
        limit(),
        32_768,
        "the table was made for so many; more comes with the next load"
    );

    // What cannot be read changes nothing, and the file's absence is the default.
    fs::write(&path, "{").unwrap();
    wait_until("it is said", LONG, || node.log().contains("node.json"));
    assert!(!reaches_node(&node, &pod, 20_000));
    fs::remove_file(&path).unwrap();
    wait_until("the default is in force", LONG, || {
        !reaches_node(&node, &pod, 31_000) && reaches_node(&node, &pod, 20_000)
    });

    // Changed while the companion is away.
    node.stop("TERM");
    fs::write(&path, r#"{"nodePortRange": "20000-20010"}"#).unwrap();
    node.start(&[]);
    wait_until("the range is in force", LONG, || {
        !reaches_node(&node, &pod, 20_000)
    });
}

#[test]
fn temp_files_of_killed_writers_go_when_the_companion_starts() {
    let mut node = Node::new();
    let layout = node.store.layout().clone();
    let old = layout.policies().join(".a.yaml.12.34.0.tmp");
    let young = layout.policies().join(".b.yaml.12.34.0.tmp");
    for path in [&old, &young] {
        fs::write(path, "half a fi").unwrap();
    }
    let long_ago = SystemTime::now() - Duration::from_secs(3_600);
    File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    node.start(&[]);
    wait_until("the old one is gone", LONG, || !old.exists());
    assert!(young.exists(), "its writer may still be at it");
}
