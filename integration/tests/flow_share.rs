//! The smallest flow table that is permitted, one pod that fills it, and another that must not notice.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::time::Duration;

use integration::streams::{Drink, End, Pour, Transport, ask_from_every_port, scan, targets};
use integration::{Chain, Doc, Node, Server, node, wait_for, wait_until};
use serde_json::{Value, json};

/// The smallest size that `conntrackCacheTableSize` may have.
const TABLE: u64 = 32_768;
/// Flows of a pod's own beside those that a test makes: its resolver, its neighbours.
const A_FEW: u64 = 16;
/// Connections, half of them of each family.
const IDLE: usize = 1_000;
/// Questions over UDP that were answered once.
const ASKED: usize = 40;
const BOUND: Duration = Duration::from_secs(20);
/// Where the outside greets, and where it answers each datagram.
const GREETS: u16 = 7001;
const ANSWERS: u16 = 7;

/// The words that each connection has heard from the other end.
fn heard(ends: &[End]) -> Vec<u64> {
    ends.iter().map(End::words_heard).collect()
}

fn count(row: &Value, reason: &str) -> u64 {
    row["reasons"][reason].as_u64().unwrap_or(0)
}

#[test]
fn a_pod_that_fills_the_flow_table_takes_nothing_from_another() {
    let node = Node::builder("share").start();
    std::fs::write(
        node.state_dir().join("node.json"),
        json!({"conntrackCacheTableSize": TABLE}).to_string(),
    )
    .unwrap_or_else(|error| panic!("write node.json: {error}"));
    let _companion = node.companion();
    let [mut scanner, mut asker, mut quiet] =
        ["scanner", "asker", "quiet"].map(|name| node.pod_in("shop", name));
    for (pod, mode) in [
        (&mut scanner, "standard"),
        (&mut asker, "standard"),
        (&mut quiet, "strict"),
    ] {
        pod.add(&Chain::in_mode(&node, mode));
    }
    // The quiet pod may go out and nobody may come in: without its flow, a connection's other end is not heard.
    let [v4, v6] = node::outside(0);
    let out = Doc::new("shop", "out")
        .selects(&quiet)
        .egress(v4, "")
        .egress(v6, "");
    node.put_policy("out.yaml", &out.yaml());
    node.settle();

    let mut outside = Pour::quiet(&node.outside(), &targets(&[v4, v6], GREETS));
    let to = targets(&[v4, v6], GREETS);
    // Established connections have the table's promise. One question and its answer over UDP have a place for 30 s as far as
    // the pod's own new flows leave it (adr 11), so there are few of them.
    let (tcp, udp): (Vec<_>, Vec<_>) = to
        .iter()
        .copied()
        .partition(|target| target.transport == Transport::Tcp);
    let mut idle = Drink::many(&quiet.place(), &tcp, IDLE / tcp.len());
    let mut asked = Drink::many(&quiet.place(), &udp, ASKED / udp.len());
    let mut report = || [idle.report(), asked.report()].concat();
    let before = heard(&report());
    assert_eq!(before.len(), IDLE + ASKED);

    let refused = count(&node.row(quiet.name()), "ingress/strict-default");

    let _answers = Server::start(&node.outside(), &[], &[ANSWERS]);
    let answered = ask_from_every_port(&asker.place(), SocketAddr::new(v6, ANSWERS));
    assert_eq!(answered, 65_535, "an answer to every port, recorded or not");
    let row = node.row(asker.name());
    let full = count(&row, "egress/share-full");
    println!(
        "65535 answered: {} flows of {TABLE} held, {full} packets judged but not recorded",
        row["flows"]
    );
    // One question and its answer take no place in the table.
    let held = row["flows"].as_u64().unwrap_or(0);
    assert!(held <= A_FEW, "{row}");
    assert_eq!(full, 0, "{row}");

    let scanned = scan(&scanner.place(), v4);
    assert_eq!(scanned, 65_535, "a SYN to every port");
    let row = node.row(scanner.name());
    let full = count(&row, "egress/share-full");
    println!(
        "a scan of 65535 ports: {} flows held, {full} packets judged but not recorded",
        row["flows"]
    );
    let held = row["flows"].as_u64().unwrap_or(0);
    assert!(held <= A_FEW, "{row}");
    assert_eq!(full, 0, "{row}");

    // The other end speaks first on each of the idle connections: only a flow that is still there lets it in.
    let _ = outside.speak();
    let now = wait_for("every idle connection hears its other end", BOUND, || {
        let now = heard(&report());
        let all = now.iter().zip(&before).all(|(now, before)| now > before);
        all.then_some(now)
    });
    assert_eq!(now.len(), IDLE + ASKED);
    assert_eq!(
        count(&node.row(quiet.name()), "ingress/strict-default"),
        refused,
        "nothing towards the quiet pod was dropped"
    );

    // And it opens new ones, which are tracked too: the other end is heard without being asked.
    let mut fresh = Drink::many(&quiet.place(), &to, 25);
    let before = heard(&fresh.report());
    let _ = outside.speak();
    wait_until("every new connection hears its other end", BOUND, || {
        heard(&fresh.report())
            .iter()
            .zip(&before)
            .all(|(now, before)| now > before)
    });
    let quiet_row = node.row(quiet.name());
    assert_eq!(count(&quiet_row, "egress/share-full"), 0, "{quiet_row}");
    println!(
        "the quiet pod: {} flows, {IDLE} idle connections heard, 100 new ones opened and heard",
        quiet_row["flows"]
    );
}
