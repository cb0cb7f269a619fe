//! Which interfaces of a pod lead to the host: asked of the kernel on both sides.

use std::collections::BTreeSet;

use enforcer::hostnet::{Error, PodInterface, links, pod_interfaces};
use enforcer::hosts::tunnel_ports;

use super::world::{Namespace, eventually, index, ip, ip_json, on_host, veth};

fn names(found: &[PodInterface]) -> Vec<(&str, &str)> {
    found
        .iter()
        .map(|one| (one.ifname.as_str(), one.host_name.as_str()))
        .collect()
}

#[test]
fn kernel_one_pair_with_everything_that_ip_says() {
    on_host(|_| {
        let pod = Namespace::new("pod");
        let host_ifindex = veth("h0", &pod, "eth0");
        pod.ip("addr add 10.1.0.2/32 dev eth0");
        pod.ip("addr add 10.1.0.3/24 dev eth0");
        pod.ip("addr add fd00::2/64 dev eth0");
        // The kernel adds it in its own time, once the carrier is there.
        eventually("a link-local address", || {
            pod.inside(|| ip("addr show dev eth0 scope link"))
                .contains("fe80::")
        });
        let found = pod_interfaces(&pod.path).unwrap();
        assert_eq!(names(&found), [("eth0", "h0")]);
        let one = &found[0];
        assert_eq!(one.host_ifindex, host_ifindex);
        let said = &pod.inside(|| ip_json("-d addr show dev eth0"))[0];
        assert_eq!(u64::from(one.ifindex), said["ifindex"].as_u64().unwrap());
        let mac = one.mac.map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!(said["address"], mac);
        let ours: BTreeSet<String> = one.addresses.iter().map(ToString::to_string).collect();
        let theirs: BTreeSet<String> = said["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
            .collect();
        assert_eq!(ours, theirs);
        assert!(
            ours.iter().any(|address| address.starts_with("fe80::")),
            "{ours:?}"
        );
    });
}

/// The kernel has a socket on these ports that hands on what is inside a packet.
#[test]
fn the_udp_port_of_a_tunnel_is_told() {
    on_host(|_| {
        ip("link add vx0 type vxlan id 7 dstport 8472");
        let ports: Vec<_> = links()
            .unwrap()
            .into_iter()
            .filter_map(|link| Some((link.name, link.tunnel_port?)))
            .collect();
        assert_eq!(ports, [("vx0".to_owned(), 8472)]);
        assert_eq!(tunnel_ports().unwrap(), BTreeSet::from([(17, 8472)]));
    });
}

#[test]
fn two_and_three_pairs_in_the_order_of_their_index() {
    on_host(|_| {
        let pod = Namespace::new("pod");
        veth("a0", &pod, "eth0");
        veth("a1", &pod, "v4if0");
        assert_eq!(
            names(&pod_interfaces(&pod.path).unwrap()),
            [("eth0", "a0"), ("v4if0", "a1")]
        );
        veth("a2", &pod, "mpod2");
        let found = pod_interfaces(&pod.path).unwrap();
        assert_eq!(
            names(&found),
            [("eth0", "a0"), ("v4if0", "a1"), ("mpod2", "a2")]
        );
        for one in &found {
            assert_eq!(one.host_ifindex, index(&one.host_name));
        }
    });
}

#[test]
fn a_pair_into_a_third_namespace_is_not_ours() {
    on_host(|_| {
        let (pod, other) = (Namespace::new("pod"), Namespace::new("other"));
        // The peer in the third namespace gets the index that our own veth has: an index alone proves nothing.
        let ours = veth("h0", &pod, "eth0");
        pod.inside(|| {
            ip(&format!(
                "link add eth1 type veth peer name x0 index {ours} netns {}",
                other.name
            ));
        });
        pod.inside(|| ip("link set eth1 up"));
        assert_eq!(other.inside(|| index("x0")), ours);
        assert_eq!(names(&pod_interfaces(&pod.path).unwrap()), [("eth0", "h0")]);
    });
}

#[test]
fn only_a_third_namespace_is_nothing() {
    on_host(|_| {
        let (pod, other) = (Namespace::new("pod"), Namespace::new("other"));
        pod.inside(|| {
            ip(&format!(
                "link add eth0 type veth peer name x0 netns {}",
                other.name
            ))
        });
        assert_eq!(pod_interfaces(&pod.path).unwrap(), []);
        // Also where the host has a veth of that index into yet another pod.
        let third = Namespace::new("pod");
        veth("h0", &third, "eth0");
        assert_eq!(pod_interfaces(&pod.path).unwrap(), []);
    });
}

#[test]
fn a_pair_within_the_pod_is_not_ours() {
    on_host(|_| {
        let pod = Namespace::new("pod");
        pod.inside(|| ip("link add in0 type veth peer name in1"));
        assert_eq!(pod_interfaces(&pod.path).unwrap(), []);
        veth("h0", &pod, "eth0");
        assert_eq!(names(&pod_interfaces(&pod.path).unwrap()), [("eth0", "h0")]);
    });
}

#[test]
fn macvlan_bridge_and_nothing_at_all() {
    on_host(|host| {
        let pod = Namespace::new("pod");
        assert_eq!(pod_interfaces(&pod.path).unwrap(), []);
        // A macvlan names its lower device with IFLA_LINK as a veth names its peer.
        ip("link add up0 type veth peer name up1");
        ip(&format!(
            "link add link up0 name mv0 netns {} type macvlan mode bridge",
            pod.name
        ));
        pod.inside(|| ip("link add br0 type bridge"));
        assert!(
            pod.inside(|| ip("-d link")).contains("macvlan"),
            "{}",
            host.name
        );
        assert_eq!(pod_interfaces(&pod.path).unwrap(), []);
        veth("h0", &pod, "eth0");
        // As a port of a bridge on the host, too.
        ip("link add br0 type bridge");
        ip("link set h0 master br0");
        assert_eq!(names(&pod_interfaces(&pod.path).unwrap()), [("eth0", "h0")]);
    });
}

#[test]
fn the_host_end_moved_away_is_not_ours() {
    on_host(|_| {
        let (pod, other) = (Namespace::new("pod"), Namespace::new("other"));
        veth("h0", &pod, "eth0");
        assert_eq!(pod_interfaces(&pod.path).unwrap().len(), 1);
        ip(&format!("link set h0 netns {}", other.name));
        assert_eq!(pod_interfaces(&pod.path).unwrap(), []);
        // Seen from where it is now it is.
        assert_eq!(other.inside(|| pod_interfaces(&pod.path).unwrap().len()), 1);
    });
}

#[test]
fn our_own_namespace_is_refused_under_any_path() {
    on_host(|host| {
        for path in [host.path.as_path(), "/proc/thread-self/ns/net".as_ref()] {
            let error = pod_interfaces(path).unwrap_err();
            assert!(matches!(error, Error::HostNetns { .. }), "{error}");
        }
    });
}

#[test]
fn two_pods_of_one_host_are_not_mixed_up() {
    on_host(|_| {
        let pods: Vec<Namespace> = (0..5).map(|_| Namespace::new("pod")).collect();
        // Equal names and, as a rule, equal indexes inside.
        let indexes: Vec<u32> = pods
            .iter()
            .enumerate()
            .map(|(n, pod)| veth(&format!("h{n}"), pod, "eth0"))
            .collect();
        for (pod, index) in pods.iter().zip(indexes) {
            let found = pod_interfaces(&pod.path).unwrap();
            assert_eq!(
                found.iter().map(|one| one.host_ifindex).collect::<Vec<_>>(),
                [index]
            );
        }
    });
}
