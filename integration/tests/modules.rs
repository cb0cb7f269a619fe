//! Transports and devices that come with kernel modules: SCTP and VLAN, real ones. The kernels of scripts/vm-test.sh have them; a kernel
//! that has not says so, and the model and BPF_PROG_TEST_RUN stand for it.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use integration::streams::{Drink, Pour, Target, Transport};
use integration::traffic::ping;
use integration::{Chain, Cmd, Doc, Node, node, patience, wait_until};

/// The module is there, or the reason why not is told; the kernels of the virtual machines have all that is asked for here.
fn has(module: &str) -> bool {
    let loaded = Cmd::new("modprobe").arg(module).run();
    if !loaded.success() {
        assert!(
            std::env::var_os("PODGATE_VM").is_none(),
            "this kernel should have {module}: {loaded}"
        );
        // Not by println!, which shows nothing of a test that is well.
        let _ = writeln!(
            std::io::stderr(),
            "NOT RUN: this kernel has no module {module} (scripts/vm-test.sh runs it)"
        );
    }
    loaded.success()
}

#[test]
fn kernel_sctp_is_judged_by_its_ports_in_both_directions() {
    if !has("sctp") {
        return;
    }
    let node = Node::builder("sctp").start();
    let _companion = node.companion();
    let mut pod = node.pod_in("shop", "web");
    pod.add(&Chain::in_mode(&node, "strict"));
    let target = |address, port| Target {
        transport: Transport::Sctp,
        address: SocketAddr::new(address, port),
    };
    let here = [pod.v4(), pod.v6()];
    let there = node::outside(0);
    let listening = |addresses: [std::net::IpAddr; 2]| {
        addresses
            .into_iter()
            .flat_map(|a| [target(a, 7001), target(a, 7002)])
            .collect::<Vec<_>>()
    };
    let _inside = Pour::quiet(&pod.place(), &listening(here));
    let _outside = Pour::quiet(&node.outside(), &listening(there));
    let limit = patience(Duration::from_millis(300));
    // All at once: each that is refused takes its time, and an emulated machine has little of it.
    let open = || {
        let ways = || {
            let inwards = here.map(|address| (address, node.outside()));
            inwards
                .into_iter()
                .chain(there.map(|address| (address, pod.place())))
        };
        let tries: Vec<_> = [7001, 7002]
            .into_iter()
            .flat_map(|port| ways().map(move |(address, from)| (target(address, port), from)))
            .collect();
        std::thread::scope(|scope| {
            let running: Vec<_> = tries
                .iter()
                .map(|(to, from)| scope.spawn(move || Drink::works(from, *to, limit)))
                .collect();
            running
                .into_iter()
                .map(|one| one.join().unwrap_or_else(|_| panic!("a client")))
                .collect::<Vec<bool>>()
        })
    };
    assert_eq!(open(), [false; 8], "strict, no policy");
    let ports = "ports: [{protocol: SCTP, port: 7001}]";
    let doc = Doc::new("shop", "sctp")
        .selects(&pod)
        .ingress("0.0.0.0/0", ports)
        .ingress("::/0", ports)
        .egress("0.0.0.0/0", ports)
        .egress("::/0", ports);
    node.put_policy("sctp.yaml", &doc.yaml());
    node.settle();
    assert_eq!(
        open(),
        [true, true, true, true, false, false, false, false],
        "one port, both directions, both families"
    );
    node.put_policy(
        "sctp.yaml",
        &doc.yaml().replace("protocol: SCTP", "protocol: TCP"),
    );
    node.settle();
    assert_eq!(open(), [false; 8], "TCP's port is not SCTP's");
}

#[test]
fn kernel_a_vlan_device_of_a_pod_gets_nothing_past_its_policy() {
    if !has("8021q") {
        return;
    }
    let node = Node::builder("vlan").start();
    let _companion = node.companion();
    let (mut bare, mut pod) = (node.pod("bare"), node.pod_in("shop", "web"));
    let enforced = Chain::in_mode(&node, "standard");
    bare.add(&enforced.clone().without("podgate"));
    pod.add(&enforced);
    // The same tagged network on both pods' pairs; only one of them is enforced.
    let tagged = |place: &integration::Place, veth: &str, number: u8| {
        node.sh(&format!(
            "ip link add link {veth} name vlan{number} type vlan id 5; ip addr add 10.5.{number}.1/24 dev vlan{number}; ip link set vlan{number} up"
        ));
        place
            .cmd("sh")
            .args(["-ec", &format!(
                "ip link add link eth0 name eth0.5 type vlan id 5; ip addr add 10.5.{number}.2/24 dev eth0.5; ip link set eth0.5 up"
            )])
            .ok();
        std::net::IpAddr::from([10, 5, number, 1])
    };
    let to_bare = tagged(&bare.place(), &bare.host_veth(), 1);
    let to_pod = tagged(&pod.place(), &pod.host_veth(), 2);
    wait_until(
        "tagged frames arrive without podgate",
        Duration::from_secs(5),
        || ping(&bare.place(), to_bare),
    );
    assert!(!ping(&pod.place(), to_pod), "tagged frames are dropped");
    let pods = node.ctl_json(&["pods"]);
    assert!(
        pods[0]["reasons"]["egress/vlan"]
            .as_u64()
            .is_some_and(|n| n > 0),
        "by name: {pods}"
    );
    assert!(
        ping(&pod.place(), node::node_addresses()[0]),
        "the same without a tag arrives"
    );
}
