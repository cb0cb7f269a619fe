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
        format!("v6 :: > ff02::16 hop=1 ext=hbh report2 ff02::fb hex={letter} data=900"),
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
    // The letters end at their sender, each by its name.
    for (reason, letters) in [
        ("own-address", 2),
        ("spoofed-neighbour", 1),
        ("strict-default", 1),
        ("bad-header", 1),
    ] {
        let counted = node.counted(&format!("jail egress/{reason}"));
        assert!(counted >= letters, "{reason}: {counted}");
    }
}

/// A neighbour of the bridge, under nobody's policy, writes to a pod that may be reached by no one.
#[test]
fn letters_in_messages_of_the_link() {
    let node = Node::builder("link").start();
    let _companion = node.companion();
    let bare = Chain::new("br").with(chain::bridge());
    let kept = Chain::bridge(&node, "br", json!({"networkPolicyEnforcingMode": "strict"}));
    let add = |name, chain: &Chain| {
        let mut pod = node.pod(name);
        pod.add(chain);
        pod
    };
    let (writer, reader, jail) = (
        add("writer", &bare),
        add("reader", &bare),
        add("jail", &kept),
    );
    let colons = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let letter = to_hex(LETTER);
    let to = |pod: &Pod<'_>, words: &str| {
        let words = format!(
            "from={} to={} {words}",
            colons(writer.mac()),
            colons(pod.mac())
        );
        let wire = verdict_testkit::frame(&words, Direction::Egress);
        wire.unwrap_or_else(|error| panic!("{words}: {error}"))
            .bytes
            .0
    };
    let letters = |pod: &Pod<'_>| {
        let (own, target) = ("fe80::77", pod.v6());
        let (a, b) = (writer.v4(), pod.v4());
        [
            format!("v6 {own} > {target} hop=255 na {own} hex={letter} data=1305"),
            format!("v6 {own} > {target} hop=255 na {own} hex=4101{letter}"),
            format!("v6 {own} > {target} hop=255 ext=60:00000104{letter} na {own}"),
            format!("v6 {own} > ff02::1 hop=255 ra hex={letter} data=1305"),
            format!("v6 {own} > ff02::1 hop=1 ext=alert query :: hex={letter} data=1305"),
            format!("arp request {a} > {b}"),
        ]
        .iter()
        .map(|words| {
            let mut bytes = to(pod, words);
            if words.starts_with("arp") {
                bytes.extend(LETTER);
                bytes.resize(60, 0);
            }
            bytes
        })
        .collect::<Vec<_>>()
    };

    let mut eye = Capture::on(&reader.place(), "eth0");
    traffic::send_frames(&writer.place(), "eth0", &letters(&reader));
    wait_until("without podgate all letters arrive", BOUND, || {
        seen(&mut eye) == 6
    });

    let mut eye = Capture::on(&jail.place(), "eth0");
    let plain = to(
        &jail,
        &format!("v6 fe80::77 > {} hop=255 na fe80::77", jail.v6()),
    );
    let mut frames = letters(&jail);
    frames.push(plain.clone());
    traffic::send_frames(&writer.place(), "eth0", &frames);
    let mut through = Vec::new();
    wait_until("the legitimate twin arrives", BOUND, || {
        through.extend(eye.frames());
        through.iter().any(|frame| frame[14..] == plain[14..])
    });
    let is_letter = |frame: &&Vec<u8>| frame.windows(LETTER.len()).any(|part| part == LETTER);
    assert_eq!(
        through.iter().filter(is_letter).count(),
        0,
        "WITH PODGATE THE ATTACK GETS THROUGH"
    );
    assert!(node.counted("jail ingress/strict-default") >= 4);
    assert!(node.counted("jail ingress/bad-header") >= 1);
}

/// Pods of one bridge find each other again after minutes of silence: a probe goes to the neighbour's own address at its own
/// hardware address (RFC 4861, 7.3), and is none of the host's to forward.
#[test]
fn neighbours_of_a_bridge_probe_each_other() {
    let node = Node::builder("probes").start();
    let _companion = node.companion();
    let kept = Chain::bridge(&node, "br", json!({"networkPolicyEnforcingMode": "strict"}));
    let add = |name| {
        let mut pod = node.pod(name);
        pod.add(&kept);
        pod
    };
    let (one, other) = (add("one"), add("other"));
    let colons = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let probe = |target: std::net::IpAddr, at: [u8; 6]| {
        let words = format!(
            "from={} to={} v6 {} > {target} hop=255 ns {target} hex=0101{}",
            colons(one.mac()),
            colons(at),
            one.v6(),
            to_hex(&one.mac())
        );
        verdict_testkit::frame(&words, Direction::Egress)
            .unwrap()
            .bytes
            .0
    };
    let legitimate = probe(other.v6(), other.mac());
    // The same probe for an address that is not on the link, at the host, which would forward it.
    let far = probe("2001:db8:ffff::1".parse().unwrap(), node_mac(&node));
    let mut eye = Capture::on(&other.place(), "eth0");
    traffic::send_frames(&one.place(), "eth0", &[far, legitimate.clone()]);
    wait_until("the probe arrives", BOUND, || {
        eye.frames()
            .iter()
            .any(|frame| frame[14..] == legitimate[14..])
    });
    assert!(node.counted("one egress/spoofed-neighbour") >= 1);
}

/// Hardware address of the bridge.
fn node_mac(node: &Node) -> [u8; 6] {
    let link = node
        .cmd("ip")
        .args(["-j", "link", "show", "type", "bridge"])
        .json();
    let text = link[0]["address"].as_str().unwrap().to_owned();
    integration::frames::mac(&text)
}
