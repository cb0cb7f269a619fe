//! The companion's ports against clients that mean it ill, by real sockets out of a pod.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod node;

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use enforcer::hostnet::in_netns;
use node::{LONG, Node, Pod, allow, marked, wait_until};
use state::{AttachMode, Mode};

const METRICS: u16 = 8162;

/// Connections out of a pod's namespace to the metrics' port of its node; those that are refused do not count.
fn connect(pod: &Pod, count: usize) -> Vec<TcpStream> {
    let node: SocketAddr = match pod.v4 {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            SocketAddr::from(([a, b, c, 1], METRICS))
        }
        IpAddr::V6(_) => unreachable!("v4"),
    };
    in_netns(&node::netns(&pod.netns), move || {
        (0..count)
            .filter_map(|_| TcpStream::connect_timeout(&node, Duration::from_secs(2)).ok())
            .collect()
    })
    .unwrap()
}

fn get(pod: &Pod, path: &str) -> Option<String> {
    let mut stream = connect(pod, 1).pop()?;
    stream.set_read_timeout(Some(LONG)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1.1 200").then_some(text)
}

fn served(client: &Pod) {
    wait_until("metrics are served", LONG, || {
        get(client, "/metrics").is_some()
    });
}

/// Kilobytes that the companion holds.
fn resident(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_files(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.pid()))
        .unwrap()
        .count()
}

#[test]
fn idle_connections_take_no_descriptor_that_a_revocation_needs() {
    let mut node = Node::new();
    node.load();
    let (pod, client, hostile) = (node.pod(), node.pod(), node.pod());
    node.start_under(&["prlimit", "--nofile=128:128"], &[]);
    node.add(&pod, "shop", "web", Mode::Strict, false, AttachMode::Clsact);
    node.policy(
        "web.yaml",
        &marked(&allow("web", &pod, "web", &[client.v4, client.v6], 80), 1),
    );
    node.settle();
    assert!(node.connects(&client, &pod, 80));
    served(&client);

    let before = open_files(&node);
    let held = connect(&hostile, 300);
    assert!(held.len() > 100, "only {} connections", held.len());
    node.policy(
        "web.yaml",
        &marked(&allow("web", &pod, "web", &[hostile.v4, hostile.v6], 80), 2),
    );
    node.settle();
    assert!(
        !node.connects(&client, &pod, 80),
        "the revocation is in force"
    );
    let taken = open_files(&node).saturating_sub(before);
    println!("{} connections held, {taken} descriptors more", held.len());
    assert!(
        taken < 32,
        "{taken} descriptors taken by {} connections",
        held.len()
    );
    drop(held);
    served(&client);
}

#[test]
fn a_connection_that_sends_nothing_or_half_a_request_is_closed() {
    let mut node = Node::new();
    let hostile = node.pod();
    node.start(&[]);
    served(&hostile);
    let mut connections = connect(&hostile, 2);
    connections[1]
        .write_all(b"GET /metrics HTTP/1.1\r\nHost")
        .unwrap();
    for stream in &mut connections {
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn endless_headers_cost_no_memory() {
    let mut node = Node::new();
    let hostile = node.pod();
    node.start(&[]);
    served(&hostile);
    let before = resident(&node);
    let mut connections = connect(&hostile, 200);
    let header = format!("X: {}\r\n", "a".repeat(4_000));
    for stream in &connections {
        stream
            .set_write_timeout(Some(Duration::from_millis(50)))
            .unwrap();
    }
    let mut highest = before;
    for round in 0..100 {
        connections.retain_mut(|stream| {
            let line = if round == 0 {
                "GET /metrics HTTP/1.1\r\n"
            } else {
                &header
            };
            stream.write_all(line.as_bytes()).is_ok()
        });
        highest = highest.max(resident(&node));
    }
    println!(
        "resident {before} kB before, {highest} kB at most; {} still open",
        connections.len()
    );
    assert!(
        highest < before + 6_000,
        "{before} kB before, {highest} kB at most"
    );
}

#[test]
fn no_page_names_a_pod_unless_told_so() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.start(&[]);
    node.add(
        &pod,
        "tenant-a",
        "secret-pod",
        Mode::Strict,
        false,
        AttachMode::Clsact,
    );
    node.settle();
    assert!(!node.connects(&client, &pod, 80));
    wait_until("the drop is counted", LONG, || {
        get(&client, "/metrics").is_some_and(|text| text.contains("reason=\"strict-default\""))
    });
    let names = |text: &str| text.contains("secret-pod") || text.contains("tenant-a");
    assert!(!names(&get(&client, "/metrics").unwrap()));
    // A policy that cannot be read: what is said of it is for the log.
    node.policy(
        "broken.yaml",
        "kind: PolicyEndpoint\nmetadata: {name: secret-pod, namespace: tenant-a}\nspec: 7\n",
    );
    node.settle();
    let health = in_netns(&node.netns(), || {
        let mut stream = TcpStream::connect(("127.0.0.1", 8163)).unwrap();
        write!(stream, "GET /readyz?verbose HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
    .unwrap();
    assert!(
        health.contains("[+]policy ok") && !names(&health),
        "{health}"
    );
    node.stop("TERM");
    node.start(&["--metrics-per-pod"]);
    node.settle();
    wait_until("per-pod series", LONG, || {
        get(&client, "/metrics").is_some_and(|text| text.contains("pod=\"secret-pod\""))
    });
}

#[test]
fn one_rendering_serves_all_who_ask_at_once() {
    let mut node = Node::new();
    node.load();
    let clients: Vec<Pod> = (0..3).map(|_| node.pod()).collect();
    node.start(&[]);
    served(&clients[0]);
    let mut streams: Vec<TcpStream> = clients.iter().flat_map(|c| connect(c, 3)).collect();
    let begin = Instant::now();
    for stream in &mut streams {
        stream.set_read_timeout(Some(LONG)).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    for stream in &mut streams {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
    println!("{} scrapes in {:?}", streams.len(), begin.elapsed());
}
