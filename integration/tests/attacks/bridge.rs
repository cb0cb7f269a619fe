//! Between pods of one bridge, which delivers by hardware address whatever the packet says: past the sender's policy, if it may.

use std::time::Duration;

use integration::frames::to_hex;
use integration::{Capture, Chain, Node, Pod, chain, traffic, wait_until};
use serde_json::json;
use verdict::layout::Direction;

const BOUND: Duration = Duration::from_secs(3);
const LETTER: &[u8] = b"LETTER";

/// Frames with a letter, from a pod to another's hardware address or to all: to its own address, to who routes multicast, to the node, and
/// no packet at all.
fn letters(from: &Pod<'_>, to: &Pod<'_>) -> Vec<Vec<u8>> {
    let colons = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let (own, node) = (from.v4(), "10.88.0.1");
    let letter = to_hex(LETTER);
    [
        format!("v4 {own} > {own} udp 1 > 2 hex={letter}"),
        format!("to=ff:ff:ff:ff:ff:ff v4 {own} > {own} udp 3 > 4 hex={letter}"),
        format!("v6 :: > ff02::16 hop=1 ext=hbh report2 hex={letter} data=900"),
        format!("v4 {own} > {node} echo 7 hex={letter}"),
        format!("arp request {own} > {node}"),
    ]
    .iter()
    .map(|words| {
        let words = format!(
            "from={} to={} {words}",
            colons(from.mac()),
            colons(to.mac())
        );
        let wire = verdict_testkit::frame(&words, Direction::Egress);
        let mut bytes = wire
            .unwrap_or_else(|error| panic!("{words}: {error}"))
            .bytes
            .0;
        if words.contains(" arp ") {
            bytes.extend(LETTER);
            bytes.resize(bytes.len() + 300, 0);
        }
        bytes
    })
    .collect()
}

/// How many of the frames a pod sees; all that were sent before are out of the way.
fn seen(capture: &mut Capture) -> usize {
    let frames = capture.frames();
    let is_letter = |frame: &&Vec<u8>| frame.windows(LETTER.len()).any(|part| part == LETTER);
    frames.iter().filter(is_letter).count()
}

#[test]
fn letters_by_hardware_address() {
    let node = Node::builder("bridge").start();
    let _companion = node.companion();
    let bare = Chain::new("br").with(chain::bridge());
    let kept = |mode: &str| Chain::bridge(&node, "br", json!({"networkPolicyEnforcingMode": mode}));
    let add = |name, chain: &Chain| {
        let mut pod = node.pod(name);
        pod.add(chain);
        pod
    };
    let (writer, reader) = (add("writer", &bare), add("reader", &bare));
    let (jail, friend) = (
        add("jail", &kept("strict")),
        add("friend", &kept("standard")),
    );

    let mut eye = Capture::on(&reader.place(), "eth0");
    traffic::send_frames(&writer.place(), "eth0", &letters(&writer, &reader));
    wait_until("without podgate all letters arrive", BOUND, || {
        seen(&mut eye) == 5
    });

    let mut eye = Capture::on(&friend.place(), "eth0");
    traffic::send_frames(&jail.place(), "eth0", &letters(&jail, &friend));
    // Whoever may be reached is: the node by its own hardware address, from both.
    for pod in [&jail, &friend] {
        let node = "10.88.0.1".parse().unwrap();
        assert!(traffic::ping(&pod.place(), node), "the legitimate twin");
    }
    assert_eq!(seen(&mut eye), 0, "WITH PODGATE THE ATTACK GETS THROUGH");
    // ARP ended at its sender. The kernels' own reports of multicast listeners count among the others.
    assert_eq!(node.counted("jail egress/bad-header"), 1);
    assert!(node.counted("friend ingress/not-for-pod") >= 4);
}
