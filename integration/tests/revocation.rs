//! Revoked means revoked, at once: on live connections, in both directions, while the server sends all the time. And what a change does not
//! concern loses nothing.
//!
//! The time from the document to the last packet is printed, not asserted: `scripts/bench.sh revocation` is for the figure (100 ms).
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use integration::streams::{Drink, End, Pour, targets};
use integration::traffic::ping;
use integration::wire::SourceCount;
use integration::{Chain, Doc, Flood, Node, Pod, Sink, monotonic_ns, node, wait_until};

/// A server sends so often to each client.
const GAP: Duration = Duration::from_millis(1);
/// So long without a packet is the end of a stream; so short is its life.
const SILENCE: Duration = Duration::from_millis(300);
/// By then everything has happened, whatever the machine does beside it.
const BOUND: Duration = Duration::from_secs(10);
/// Everybody outside: which of its addresses the outside takes is its own affair.
const OUTSIDE: [&str; 2] = ["198.51.100.0/24", "2001:db8:100::/64"];
/// The servers' port.
const PORT: u16 = 7001;

/// Clients outside with the pod's server, and clients in the pod with the outside's server; both families, TCP and UDP.
struct Streams {
    inward: Drink,
    outward: Drink,
    pod_server: Pour,
    outside_server: Pour,
}

impl Streams {
    fn open(node: &Node, pod: &Pod<'_>) -> Self {
        let inside = targets(&[pod.v4(), pod.v6()], PORT);
        let outside = targets(&node::outside(0), PORT);
        Self {
            pod_server: Pour::start(&pod.place(), &inside, GAP),
            outside_server: Pour::start(&node.outside(), &outside, GAP),
            inward: Drink::open(&node.outside(), &inside),
            outward: Drink::open(&pod.place(), &outside),
        }
    }

    fn clients(&mut self, direction: &str) -> &mut Drink {
        match direction {
            "ingress" => &mut self.inward,
            _ => &mut self.outward,
        }
    }

    fn server(&mut self, direction: &str) -> &mut Pour {
        match direction {
            "ingress" => &mut self.pod_server,
            _ => &mut self.outside_server,
        }
    }
}

fn silent_for(end: &End) -> Duration {
    Duration::from_nanos(monotonic_ns().saturating_sub(end.last_received_ns))
}

/// The policy: who may come in, and where the pod may go; marked complete, so that it is applied at once.
fn policy(pod: &Pod<'_>, generation: u64, ingress: bool, egress: bool) -> String {
    let mut doc = Doc::new("shop", "live")
        .selects(pod)
        .annotation("podgate.dev/parts", "1")
        .annotation("podgate.dev/generation", &generation.to_string())
        .isolate_ingress()
        .isolate_egress();
    for block in OUTSIDE {
        if ingress {
            doc = doc.ingress(block, "");
        }
        if egress {
            doc = doc.egress(block, "");
        }
    }
    doc.yaml()
}

/// Times in milliseconds, as `smallest / median / largest`.
fn figure(times: &mut [f64]) -> String {
    times.sort_by(f64::total_cmp);
    let at = |place: usize| times.get(place).copied().unwrap_or(f64::NAN);
    format!(
        "{:.1} / {:.1} / {:.1} ms",
        at(0),
        at(times.len() / 2),
        at(times.len().saturating_sub(1))
    )
}

/// What came of what was sent to an address: the source is the one of its family.
fn arrived(sink: &mut Sink, to: SocketAddr) -> SourceCount {
    let report = sink.report();
    let of_family = |source: &IpAddr| source.is_ipv4() == to.is_ipv4();
    let mut counts = report
        .into_iter()
        .filter(|(source, _)| source.parse().is_ok_and(|source| of_family(&source)));
    let count = counts
        .next()
        .map_or_else(SourceCount::default, |(_, count)| count);
    assert!(counts.next().is_none(), "one source a family");
    count
}

fn rounds() -> u64 {
    let asked = std::env::var("PODGATE_ROUNDS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[test]
fn live_streams_end_in_the_direction_that_is_revoked_and_go_on_in_the_other() {
    let node = Node::builder("revocation").start();
    let _companion = node.companion();
    let mut pod = node.pod_in("shop", "web");
    pod.add(&Chain::in_mode(&node, "standard"));
    let mut generation = 0;
    let mut put = |ingress, egress| {
        generation += 1;
        let text = policy(&pod, generation, ingress, egress);
        let now = monotonic_ns();
        node.put_policy("live.yaml", &text);
        now
    };
    put(true, true);
    node.settle();
    let mut streams = Streams::open(&node, &pod);

    let mut times = std::collections::BTreeMap::<String, Vec<f64>>::new();
    let mut other_gap = 0;
    for _ in 0..rounds() {
        for (revoked, other) in [("ingress", "egress"), ("egress", "ingress")] {
            for direction in [revoked, other] {
                wait_until("all streams flow", BOUND, || {
                    let ends = streams.clients(direction).report();
                    ends.len() == 4 && ends.iter().all(|end| silent_for(end) < SILENCE / 4)
                });
            }
            let sent_before = streams.server(revoked).report();
            let changed = put(revoked != "ingress", revoked != "egress");
            wait_until("the revoked streams end", BOUND, || {
                let ends = streams.clients(revoked).report();
                ends.iter().all(|end| silent_for(end) > SILENCE)
            });
            for end in streams.clients(revoked).report() {
                let took = end.last_received_ns.saturating_sub(changed) as f64 / 1e6;
                let transport = end.peer.split('/').next().unwrap_or_default();
                let family = if end.peer.contains('[') { "v6" } else { "v4" };
                times
                    .entry(format!("{revoked} {transport} {family}"))
                    .or_default()
                    .push(took);
            }
            // The server went on all the time: its datagrams were dropped, not unsent. (How many go depends on the machine.)
            for (before, after) in sent_before.iter().zip(streams.server(revoked).report()) {
                let words = after.words_sent() - before.words_sent();
                assert!(
                    after.peer.starts_with("tcp") || words >= 10,
                    "the server sent {words} words to {} only",
                    after.peer
                );
            }
            // The clients speak, and the server does not hear them: no packet opens the flow the other way round.
            let heard = |server: &mut Pour| server.report().iter().map(|e| e.received).sum::<u64>();
            let before = heard(streams.server(revoked));
            let _ = streams.clients(revoked).speak();
            for end in streams.clients(other).report() {
                other_gap = other_gap.max(end.longest_gap_ns);
                assert!(
                    silent_for(&end) < SILENCE,
                    "{revoked} was revoked, and {} of {other} is silent",
                    end.peer
                );
            }
            assert_eq!(
                heard(streams.server(revoked)),
                before,
                "{revoked}: heard after revocation"
            );
            assert!(
                streams
                    .clients(revoked)
                    .report()
                    .iter()
                    .all(|end| silent_for(end) > SILENCE),
                "{revoked}: still silent"
            );

            put(true, true);
            wait_until("allowed again, the same streams flow", BOUND, || {
                let ends = streams.clients(revoked).report();
                ends.iter().all(|end| silent_for(end) < SILENCE / 4)
            });
        }
    }
    println!(
        "document complete -> last packet (smallest / median / largest), server sending every {GAP:?}:"
    );
    for (what, times) in &mut times {
        println!("  {what}: {}", figure(times));
    }
    println!(
        "  longest gap in the direction that stayed open: {:.1} ms",
        other_gap as f64 / 1e6
    );
}

#[test]
fn a_change_that_does_not_concern_it_loses_no_packet_of_a_busy_flow() {
    const CHANGES: u64 = 100;
    let node = Node::builder("revocation").start();
    let _companion = node.companion();
    let chain = Chain::in_mode(&node, "strict");
    let (mut pod, mut other) = (node.pod_in("shop", "web"), node.pod_in("shop", "other"));
    pod.add(&chain);
    other.add(&chain);
    let allow = Doc::new("shop", "busy")
        .selects(&pod)
        .ingress(OUTSIDE[0], "")
        .ingress(OUTSIDE[1], "");
    node.put_policy("busy.yaml", &allow.yaml());
    node.settle();
    let addresses: [IpAddr; 2] = [pod.v4(), pod.v6()];
    for address in addresses {
        // Who the neighbours are is known before the first packet counts.
        wait_until("the pod answers", BOUND, || ping(&node.outside(), address));
    }
    let mut sink = Sink::start(&pod.place());
    let to = addresses.map(|address| SocketAddr::new(address, sink.port));
    let mut flood = Flood::at_rate(&node.outside(), &to, 10_000);
    wait_until("both families arrive", BOUND, || {
        to.iter().all(|to| arrived(&mut sink, *to).packets > 1000)
    });

    let before: u64 = flood.report().values().map(|report| report.sent).sum();
    let begin = monotonic_ns();
    for change in 1..=CHANGES {
        let marked = |doc: Doc| {
            doc.annotation("podgate.dev/parts", "1")
                .annotation("podgate.dev/generation", &change.to_string())
        };
        // Another pod's policy, and another policy of the same pod: the first is none of the flow's business, by the second it is judged again.
        let peer = format!("203.0.113.{change}");
        let others = Doc::new("shop", "others")
            .selects(&other)
            .ingress(&peer, "");
        let same = Doc::new("shop", "same").selects(&pod).ingress(&peer, "");
        node.put_policy("others.yaml", &marked(others).yaml());
        node.put_policy("same.yaml", &marked(same).yaml());
        node.settle();
    }
    let took = Duration::from_nanos(monotonic_ns() - begin);
    let while_changing: u64 = flood
        .report()
        .values()
        .map(|report| report.sent)
        .sum::<u64>()
        - before;
    let sent = flood.stop();
    for to in &to {
        let (sent, received) = (&sent[to], arrived(&mut sink, *to));
        println!(
            "{CHANGES} x 2 unrelated changes in {took:?}: {} sent to {to}, {} received",
            sent.sent, received.packets
        );
        assert_eq!(
            (received.packets, received.last_sequence),
            (sent.sent, sent.sent - 1),
            "every packet to {to}"
        );
        let seconds = (sent.last_sent_ns - sent.first_sent_ns) as f64 / 1e9;
        println!("    {:.0} packets a second", sent.sent as f64 / seconds);
    }
    // 10,000 a second and family, where the machine can; an emulated one cannot.
    assert!(
        while_changing > 10_000,
        "only {while_changing} packets while policies changed"
    );
}
