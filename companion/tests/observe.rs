//! What the companion shows: metrics, health, flow logs.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod node;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use enforcer::hostnet::in_netns;
use node::{Connection, LONG, Node, allow, wait_until};
use state::{AttachMode, Mode};
use verdict::PolicyState;

fn get(node: &Node, port: u16, path: &str) -> Option<(u16, String)> {
    let path = path.to_owned();
    in_netns(&node.netns(), move || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let code = text.split(' ').nth(1)?.parse().ok()?;
        Some((code, text.split_once("\r\n\r\n")?.1.to_owned()))
    })
    .unwrap()
}

#[test]
fn metrics_and_health_tell_what_is_there() {
    let mut node = Node::new();
    let (pod, client) = (node.pod(), node.pod());
    node.start(&["--metrics-per-pod"]);
    wait_until("health is served", LONG, || {
        get(&node, 8163, "/healthz").is_some_and(|(code, _)| code == 200)
    });
    let (code, why) = get(&node, 8163, "/readyz").unwrap();
    assert_eq!((code, why.contains("no maps")), (503, true), "{why}");
    node.load();
    let record = node.add(&pod, "shop", "web", Mode::Strict, true, AttachMode::Clsact);
    node.policy(
        "web.yaml",
        &allow("web", &pod, "web", &[client.v4, client.v6], 80),
    );
    wait_until("the policy state is decided", LONG, || {
        node.policy_state(&record)
            .has(PolicyState::ISOLATED_INGRESS)
    });
    wait_until("ready", LONG, || {
        get(&node, 8163, "/readyz").is_some_and(|(code, _)| code == 200)
    });
    assert!(node.connects(&client, &pod, 80));
    assert!(!node.connects(&client, &pod, 81));
    // A connection that goes on: the table holds assured flows only.
    let mut held = Connection::open(&client, &pod, SocketAddr::new(pod.v4, 80));
    assert!(held.works());
    let (code, text) = get(&node, 8162, "/metrics").unwrap();
    assert_eq!(code, 200);
    let value = |line: &str| {
        let found = text
            .lines()
            .find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        found
            .unwrap_or_else(|| panic!("no {line} in\n{text}"))
            .trim()
            .parse::<f64>()
            .unwrap()
    };
    assert_eq!(value("podgate_endpoints{mode=\"strict\"}"), 1.0);
    assert_eq!(value("podgate_documents{condition=\"Applied\"}"), 1.0);
    assert!(
        value(
            "podgate_pod_drops_total{namespace=\"shop\",pod=\"web\",direction=\"ingress\",reason=\"policy-denied\"}"
        ) >= 2.0
    );
    assert!(value("network_policy_drop_count_total{direction=\"ingress\"}") >= 2.0);
    assert!(value("podgate_flows") >= 1.0);
    assert!(value("podgate_tracked_packets_total") >= 1.0);
    assert!(text.ends_with("# EOF\n"));
    if let Ok(mut child) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .spawn()
    {
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn a_taken_port_ends_nothing_and_is_tried_again() {
    let mut node = Node::new();
    node.load();
    let taken = in_netns(&node.netns(), || {
        TcpListener::bind(("127.0.0.1", 8163)).unwrap()
    })
    .unwrap();
    node.start(&[]);
    wait_until("it says so", LONG, || {
        node.log().contains("serve health on 127.0.0.1:8163")
    });
    drop(taken);
    wait_until("health is served", LONG, || {
        get(&node, 8163, "/healthz").is_some_and(|(code, _)| code == 200)
    });
}

#[test]
fn flow_logs_name_pods_and_reasons() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    let log = node.store.root().join("flows.log");
    node.start(&[
        "--enable-policy-event-logs",
        "--flow-log-file",
        log.to_str().unwrap(),
    ]);
    let record = node.add(&pod, "shop", "web", Mode::Strict, true, AttachMode::Clsact);
    wait_until("the policy state is decided", LONG, || {
        node.policy_state(&record).has(PolicyState::LOG)
    });
    node.policy(
        "web.yaml",
        &allow("web", &pod, "web", &[client.v4, client.v6], 80),
    );
    node.settle();
    assert!(node.connects(&client, &pod, 80));
    assert!(!node.connects(&client, &pod, 81));
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let has = |text: &str, words: &[&str]| {
        text.lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    let (v4, v6) = (
        format!("Src IP: {}", client.v4),
        format!("Src IP: {}", client.v6),
    );
    wait_until("the lines are there", LONG, || {
        let text = read();
        has(
            &text,
            &[
                &v4,
                "Dest Port: 80 ",
                "Verdict: ACCEPT",
                "Reason: policy-allowed",
                "Dest Pod: shop/web",
            ],
        ) && has(&text, &[&v6, "Dest Port: 80 ", "Verdict: ACCEPT"])
            && has(
                &text,
                &[
                    &v4,
                    "Dest Port: 81 ",
                    "Verdict: DENY Direction: ingress",
                    "Reason: policy-denied",
                ],
            )
            && has(&text, &[&v6, "Dest Port: 81 ", "Verdict: DENY"])
    });
    // Rotated away: a new file is begun, with SIGHUP and without.
    for (round, port) in [(1, 82), (2, 83)] {
        fs::rename(&log, log.with_extension(round.to_string())).unwrap();
        if round == 1 {
            node.signal("HUP");
        }
        let wanted = format!("Dest Port: {port} ");
        wait_until("a new file is begun", Duration::from_secs(20), || {
            assert!(!node.connects(&client, &pod, port));
            has(&read(), &[&wanted])
        });
    }
}
