//! Tunnels of the node: what it takes out of a packet and hands on, no policy of the sender has seen.

use std::time::Duration;

use integration::attack::{Cast, Scene, Seen, Values, stage};
use integration::frames::to_hex;
use integration::wait_until;

const BOUND: Duration = Duration::from_secs(3);

/// A frame of VXLAN network 7 to the node, with a packet for another pod in it.
fn in_vxlan(cast: &Cast, tunnel: &str, values: &Values) -> String {
    let inner = cast.bytes(
        &format!("neighbour: to={tunnel} v4 192.0.2.1 > neighbour tcp $S > 22 syn mark"),
        values,
    );
    format!(
        "jail: v4 jail > node udp $S > 8472 hex=0800000000000700{}",
        to_hex(&inner)
    )
}

/// The hardware address of a device of the node.
fn mac_of(scene: &Scene, device: &str) -> String {
    let link = scene
        .node
        .cmd("ip")
        .args(["-j", "link", "show", device])
        .json();
    link[0]["address"].as_str().unwrap().to_owned()
}

/// How many ports are known not to be the host's own, as bpftool sees it.
fn host_ports(scene: &Scene) -> usize {
    let pins = scene.node.pins();
    let pin = pins.iter().find(|pin| pin.ends_with("maps/hostports"));
    scene
        .node
        .map_dump(pin.unwrap())
        .as_array()
        .map_or(0, Vec::len)
}

/// A kernel's tunnel has a socket: whoever may reach the host's sockets would reach every pod of the overlay.
#[test]
fn vxlan_to_the_node() {
    let scene = stage().enter();
    scene.node.sh("ip link add vx7 type vxlan id 7 dstport 8472 local 198.51.100.1 dev up0; ip link set vx7 up");
    let tunnel = mac_of(&scene, "vx7");
    let neighbour = Seen::At("neighbour");
    wait_until("the companion knows of the tunnel", BOUND, || {
        host_ports(&scene) > 0
    });

    let mut eye = neighbour.eye(&scene.bare);
    let values = Values::fresh();
    scene
        .bare
        .play(&in_vxlan(&scene.bare, &tunnel, &values), &values);
    assert!(eye.sees(&values.mark, BOUND), "without podgate it works");

    let mut eye = neighbour.eye(&scene.kept);
    let values = Values::fresh();
    let before = scene.counted("jail egress/policy-denied");
    scene
        .kept
        .play(&in_vxlan(&scene.kept, &tunnel, &values), &values);
    wait_until("it is counted", BOUND, || {
        scene.counted("jail egress/policy-denied") > before || eye.has(&values.mark)
    });
    scene.node.sh("ip link del vx7");
    assert!(
        !eye.has(&values.mark),
        "WITH PODGATE THE ATTACK GETS THROUGH"
    );
}
