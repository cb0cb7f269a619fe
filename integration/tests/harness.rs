//! The harness proves itself without podgate: what a test of podgate relies on is true here.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::time::Duration;

use integration::node::{OUTSIDE_V4, OUTSIDE_V6};
use integration::{
    Capture, Chain, Flood, Node, Outcome, Server, Session, Sink, Snapshot, chain, frames, traffic,
    wait_until,
};

const SECOND: Duration = Duration::from_secs(1);

fn plain_ptp(name: &str) -> Chain {
    Chain::new(name).with(chain::ptp())
}

#[test]
fn a_pod_reaches_the_outside_and_the_other_way_round_in_both_families() {
    let node = Node::new();
    let mut pod = node.pod("a");
    pod.add(&plain_ptp("plain"));
    let _outside = Server::start(&node.outside(), &[80], &[53]);
    let _inside = Server::start(&pod.place(), &[80], &[53]);
    for outside in [OUTSIDE_V4, OUTSIDE_V6].map(|address| address.parse().unwrap()) {
        let own = if SocketAddr::new(outside, 0).is_ipv4() {
            pod.v4()
        } else {
            pod.v6()
        };
        for outcome in [
            traffic::tcp(&pod.place(), outside, 80),
            traffic::udp(&pod.place(), outside, 53),
        ] {
            assert!(
                matches!(outcome, Outcome::Open { seen_as, .. } if seen_as == own),
                "{outcome:?} {outside}"
            );
        }
        for outcome in [
            traffic::tcp(&node.outside(), own, 80),
            traffic::udp(&node.outside(), own, 53),
            traffic::tcp(&node.place(), own, 80),
        ] {
            assert!(outcome.is_open(), "{outcome:?} {own}");
        }
        assert!(matches!(
            traffic::tcp(&pod.place(), outside, 81),
            Outcome::Refused { .. }
        ));
        assert!(traffic::ping(&pod.place(), outside));
        assert!(Session::tcp(&node.outside(), own, 80).works());
        assert!(Session::udp(&node.outside(), own, 53).works());
    }
    pod.del(&plain_ptp("plain"));
}

#[test]
fn the_generator_reaches_its_peer_from_before_the_interface_exists() {
    let node = Node::new();
    let mut pod = node.pod("a");
    let mut sink = Sink::start(&node.outside());
    let to = [OUTSIDE_V4, OUTSIDE_V6]
        .map(|address| SocketAddr::new(address.parse().unwrap(), sink.port));
    let flood = Flood::start(&pod.place(), &to);
    pod.add(&plain_ptp("plain"));
    let own = [pod.v4(), pod.v6()];
    let mut arrived = |count: u64| {
        wait_until("both families arrive", 10 * SECOND, || {
            own.iter().all(|own| sink.from(*own).packets > count)
        });
        own.map(|own| sink.from(own))
    };
    let (early, late) = (arrived(100), arrived(5000));
    for (early, late) in early.iter().zip(&late) {
        let (packets, seconds) = (
            late.last_sequence - early.last_sequence,
            (late.last_sent_ns - early.last_sent_ns) as f64 / 1e9,
        );
        println!("{:.0} packets/s", packets as f64 / seconds);
        assert!(
            packets >= late.packets - early.packets && seconds > 0.0,
            "a number and a later time for each packet: {early:?} {late:?}"
        );
    }
    let sent = flood.stop();
    for (to, own) in to.iter().zip(own) {
        let (sent, came) = (&sent[to], sink.from(own));
        assert!(
            sent.refused > 0,
            "the generator ran before there was a way: {sent:?}"
        );
        assert!(
            came.packets <= sent.sent && came.last_sent_ns <= sent.last_sent_ns,
            "{came:?} of {sent:?}"
        );
    }
}

#[test]
fn a_raw_frame_is_seen_by_a_capture_on_the_other_side() {
    let node = Node::new();
    let mut pod = node.pod("a");
    pod.add(&plain_ptp("plain"));
    let mut capture = Capture::on(&node.place(), &pod.host_veth());
    let ends = frames::Ends {
        source_mac: pod.mac(),
        destination_mac: [0x02, 0, 0, 0, 0, 9],
        source: "192.0.2.77".parse().unwrap(),
        destination: OUTSIDE_V4.parse().unwrap(),
    };
    let frame = frames::udp(&ends, 4000, 4001, b"raw");
    traffic::send_frames(&pod.place(), "eth0", &[frame.clone(), frame.clone()]);
    assert_eq!(capture.count_from("192.0.2.77".parse().unwrap()), 2);
    assert!(capture.frames().contains(&frame));
}

#[test]
fn a_service_address_leads_to_its_backend() {
    let node = Node::new();
    let (mut client, mut server) = (node.pod("client"), node.pod("server"));
    for pod in [&mut client, &mut server] {
        pod.add(&plain_ptp("plain"));
    }
    let _serving = Server::start(&server.place(), &[8080], &[]);
    for (cluster, backend) in [("10.96.0.10", server.v4()), ("fd00:96::10", server.v6())] {
        let cluster = cluster.parse().unwrap();
        node.service("tcp", (cluster, 80), (backend, 8080));
        assert!(traffic::tcp(&client.place(), cluster, 80).is_open());
        assert!(
            traffic::tcp(&server.place(), cluster, 80).is_open(),
            "hairpin"
        );
    }
}

#[test]
fn pins_stay_visible_between_commands_and_snapshots_see_a_change() {
    for bpffs in [integration::BpfFs::Own, integration::BpfFs::Machine] {
        let node = Node::builder("pins").bpffs(bpffs).start();
        let map = node.bpf_dir().join("maps/a_map");
        node.sh(&format!("mkdir -p {}/maps", node.bpf_dir().display()));
        let before = Snapshot::take(&node);
        node.sh(&format!(
            "bpftool map create {} type hash key 4 value 4 entries 4 name a_map",
            map.display()
        ));
        let created = Snapshot::take(&node);
        assert_eq!(node.pins(), ["maps/a_map"]);
        assert_eq!(before.differences(&created).len(), 1);
        node.sh(&format!(
            "bpftool map update pinned {} key 1 0 0 0 value 2 0 0 0",
            map.display()
        ));
        assert_eq!(created.differences(&Snapshot::take(&node)).len(), 1);
        created.assert_same(&created.clone(), "from itself");
    }
}

#[test]
fn a_node_without_bpffs_has_none_and_an_own_one_is_not_the_machines() {
    let none = Node::builder("none")
        .bpffs(integration::BpfFs::None)
        .start();
    assert_ne!(none.sh("stat -f -c %T /sys/fs/bpf").trim(), "bpf_fs");
    let (one, two) = (Node::new(), Node::new());
    one.sh(&format!("mkdir {}", one.bpf_dir().display()));
    assert!(!two.inside(one.bpf_dir()).exists());
}

#[test]
fn nothing_of_a_node_is_left_after_it() {
    let node = Node::new();
    let mut pod = node.pod("a");
    pod.add(&plain_ptp("plain"));
    let (dir, suffix) = (node.dir().to_owned(), node.suffix().to_owned());
    let holders = |suffix: &str| {
        integration::Cmd::new("sh")
            .args([
                "-c",
                &format!("lsns -t net -n -o NSFS,COMMAND | grep -c {suffix} || true"),
            ])
            .ok()
    };
    drop(pod);
    drop(node);
    assert!(!dir.exists());
    assert_eq!(holders(&suffix).trim(), "0");
}

#[test]
fn a_broken_plugin_call_shows_its_error_object() {
    let node = Node::new();
    let pod = node.pod("a");
    let error = pod
        .call("ptp", "ADD")
        .conf(&serde_json::json!({"cniVersion": "1.1.0", "name": "x", "type": "ptp", "ipam": {}}))
        .run();
    assert!(!error.output.success());
    assert!(!error.output.json()["msg"].is_null());
}
