//! What policy takes back, on connections that live; and what must go on working beside all the attacks.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, SystemTime};

use integration::attack::{POLICY, Scene, Seen, Values, inside, stage};
use integration::node::node_addresses;
use integration::{
    Chain, Doc, Knock, Node, Place, Server, node, patience, traffic, wait_for, wait_until,
};

const BOUND: Duration = Duration::from_secs(3);

/// A flow that policy allowed when it began, and a packet of it when policy has changed.
struct Revoked {
    /// The first packet, and where it arrives.
    open: (&'static str, Seen),
    /// The later one, and where it would arrive.
    later: (&'static str, Seen),
    /// The policy then; none = removed.
    policy: fn(&Scene) -> Option<Doc>,
    /// What counts it.
    dropped: &'static str,
}

impl Revoked {
    fn run(&self) {
        let scene = stage().enter();
        let values = Values::fresh();
        // Without podgate nothing ends.
        let mut eye = self.later.1.eye(&scene.bare);
        scene.bare.play(self.open.0, &values);
        let later = self.same_ports(&values);
        scene.bare.play(self.later.0, &later);
        assert!(eye.sees(&later.mark, BOUND), "without podgate it arrives");

        let mut opened = self.open.1.eye(&scene.kept);
        let values = Values::fresh();
        scene.kept.play(self.open.0, &values);
        assert!(opened.sees(&values.mark, BOUND), "the flow begins");
        match (self.policy)(&scene) {
            Some(doc) => scene.put(&doc),
            None => {
                scene.node.remove_policy(POLICY);
                scene.node.settle();
            }
        }
        let mut eye = self.later.1.eye(&scene.kept);
        let before = scene.counted(self.dropped);
        let refused = self.same_ports(&values);
        scene.kept.play(self.later.0, &refused);
        wait_until(self.dropped, BOUND, || {
            scene.counted(self.dropped) > before || eye.has(&refused.mark)
        });
        // The legitimate twin: the same packet once policy allows it again.
        scene.put(&scene.policy());
        let again = self.same_ports(&values);
        scene.kept.play(self.later.0, &again);
        let arrived = eye.sees(&again.mark, BOUND);
        assert!(!eye.has(&refused.mark), "WHAT WAS TAKEN BACK GETS THROUGH");
        assert!(arrived, "once it is allowed again it arrives");
    }

    fn same_ports(&self, values: &Values) -> Values {
        Values {
            ports: values.ports,
            ..Values::fresh()
        }
    }
}

/// `friend` out of one direction or out of both, or with other ports.
fn friend(scene: &Scene, ingress: Option<&str>, egress: Option<&str>) -> Option<Doc> {
    let doc = Doc::new("default", "attacks")
        .selects(&scene.pods[0])
        .selects(&scene.pods[1])
        .isolate_ingress()
        .isolate_egress();
    let doc = [false, true].into_iter().fold(doc, |doc, v6| {
        let address = scene.kept.ip("friend", v6);
        let doc = match ingress {
            Some(ports) => doc.ingress(address, ports),
            None => doc,
        };
        match egress {
            Some(ports) => doc.egress(address, ports),
            None => doc,
        }
    });
    Some(doc)
}

const TCP_ONLY: &str = "ports: [{protocol: TCP, port: 80}]";
const BOTH: &str = "ports: [{protocol: TCP, port: 80}, {protocol: UDP, port: 53}]";

/// Reference C3: an egress peer is gone, and what it still sends on the old tuple came in as a reply.
#[test]
fn replies_of_an_egress_peer_that_is_gone() {
    Revoked {
        open: (
            "victim: v4 victim > friend udp $S > 53 mark",
            Seen::At("outside"),
        ),
        later: (
            "outside: v4 friend > victim udp 53 > $S mark",
            Seen::At("victim"),
        ),
        policy: |scene| friend(scene, Some(BOTH), None),
        dropped: "victim ingress/flow-refused",
    }
    .run();
}

/// The same over TCP and IPv6.
#[test]
fn replies_of_an_egress_peer_that_is_gone_over_ipv6() {
    Revoked {
        open: (
            "victim: v6 victim > friend tcp $S > 80 syn mark",
            Seen::At("outside"),
        ),
        later: (
            "outside: v6 friend > victim tcp 80 > $S syn ack mark",
            Seen::At("victim"),
        ),
        policy: |scene| friend(scene, Some(BOTH), None),
        dropped: "victim ingress/flow-refused",
    }
    .run();
}

/// Reference C4: a rule loses a port, in a policy that still applies.
#[test]
fn a_flow_on_a_port_that_the_rule_has_lost() {
    Revoked {
        open: (
            "outside: v4 friend > victim udp $S > 53 mark",
            Seen::At("victim"),
        ),
        later: (
            "outside: v4 friend > victim udp $S > 53 mark",
            Seen::At("victim"),
        ),
        policy: |scene| friend(scene, Some(TCP_ONLY), Some(BOTH)),
        dropped: "victim ingress/flow-refused",
    }
    .run();
}

/// Reference C4 the other way round: what the pod goes on sending.
#[test]
fn a_flow_of_the_pod_on_a_port_that_the_rule_has_lost() {
    Revoked {
        open: (
            "jail: v6 jail > friend udp $S > 53 mark",
            Seen::At("outside"),
        ),
        later: (
            "jail: v6 jail > friend udp $S > 53 mark",
            Seen::At("outside"),
        ),
        policy: |scene| friend(scene, Some(BOTH), Some(TCP_ONLY)),
        dropped: "jail egress/flow-refused",
    }
    .run();
}

/// Reference C5: the policy itself is gone, and strict mode stays.
#[test]
fn a_flow_of_a_policy_that_is_gone_in_strict_mode() {
    Revoked {
        open: (
            "outside: v4 friend > victim udp $S > 53 mark",
            Seen::At("victim"),
        ),
        later: (
            "outside: v4 friend > victim udp $S > 53 mark",
            Seen::At("victim"),
        ),
        policy: |_| None,
        dropped: "victim ingress/flow-refused",
    }
    .run();
}

/// A path that is narrow in its middle, behind the outside host; `beyond` says so to nobody.
const NARROW: &str = "
ip netns add beyond
ip netns exec beyond sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0
ip link add narrow mtu 1300 netns outside type veth peer name eth0 mtu 9001 netns beyond
ip netns exec outside sh -ec '
  sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
  ip addr add 203.0.113.1/24 dev narrow; ip addr add 2001:db8:200::1/64 dev narrow nodad
  ip link set narrow up'
ip netns exec beyond sh -ec '
  ip link set lo up
  ip addr add 203.0.113.2/24 dev eth0; ip addr add 2001:db8:200::2/64 dev eth0 nodad
  ip link set eth0 up
  ip route add default via 203.0.113.1; ip -6 route add default via 2001:db8:200::1'
";

/// Sends a megabyte over a new connection; what came.
fn megabyte(from: &Place, to: &Place, address: IpAddr, client_sends: bool) -> usize {
    const BYTES: usize = 1 << 20;
    let listener = inside(to, || {
        TcpListener::bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 80))
    });
    let client = inside(from, || {
        TcpStream::connect_timeout(&SocketAddr::new(address, 80), patience(BOUND))
    });
    let (server, _) = listener.accept().unwrap();
    let (mut sender, mut receiver) = if client_sends {
        (client, server)
    } else {
        (server, client)
    };
    for stream in [&sender, &receiver] {
        stream.set_read_timeout(Some(patience(2 * BOUND))).unwrap();
        stream.set_write_timeout(Some(patience(2 * BOUND))).unwrap();
    }
    let sending = std::thread::spawn(move || {
        let _ = sender.write_all(&vec![7; BYTES]);
    });
    let (mut came, mut buffer) = (0, vec![0; 1 << 16]);
    while let Ok(length @ 1..) = receiver.read(&mut buffer) {
        came += length;
    }
    sending.join().unwrap();
    came
}

/// Reference A8: path-MTU discovery of an isolated pod, whoever opened the connection: the errors come from a router that no policy names.
#[test]
fn path_mtu_discovery_through_an_isolated_pod() {
    let scene = stage().enter();
    scene.node.sh(NARROW);
    let beyond = Place {
        label: "beyond".into(),
        netns: scene.node.inside("/run/netns/beyond"),
    };
    let addresses: [IpAddr; 2] =
        ["203.0.113.2", "2001:db8:200::2"].map(|text| text.parse().unwrap());
    let doc = addresses.iter().fold(scene.policy(), |doc, address| {
        doc.ingress(address, TCP_ONLY).egress(address, TCP_ONLY)
    });
    scene.put(&doc);
    let jail = scene.pods[0].place();
    for (address, own) in addresses
        .into_iter()
        .zip([scene.pods[0].v4(), scene.pods[0].v6()])
    {
        let before = scene.counted("jail ingress/icmp-related");
        let sent = megabyte(&jail, &beyond, address, true);
        let between = scene.counted("jail ingress/icmp-related");
        assert!(
            sent == 1 << 20 && between > before,
            "{address}: the pod sends {sent}, {before} to {between} errors"
        );
        // The path's width was learnt: forgotten, for the other connection to learn it anew.
        jail.cmd("sh")
            .args(["-c", "ip route flush cache; ip -6 route flush cache"])
            .ok();
        let answered = megabyte(&beyond, &jail, own, false);
        let after = scene.counted("jail ingress/icmp-related");
        assert!(
            answered == 1 << 20 && after > between,
            "{address}: the pod answers {answered}, {between} to {after} errors"
        );
    }
    scene.node.sh("ip netns del beyond");
    scene.put(&scene.policy());
}

/// Datagrams of 12,000 bytes and their answers, which the node's conntrack takes apart and puts together.
#[test]
fn large_datagrams_in_fragments_in_both_directions() {
    let scene = stage().enter();
    for v6 in [false, true] {
        let (own, mate) = (scene.kept.ip("victim", v6), scene.kept.ip("mate", v6));
        let server = inside(&scene.node.outside(), || {
            UdpSocket::bind(SocketAddr::new(mate, 0))
        });
        let client = inside(&scene.pods[1].place(), || {
            UdpSocket::bind(SocketAddr::new(own, 0))
        });
        // IPv6: the node says once that the jumbo frames of the outside do not fit the pod's link.
        let comes = |from: &UdpSocket, to: &UdpSocket| {
            let data = vec![7; 12_000];
            let mut buffer = vec![0; 20_000];
            to.set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            wait_for("a large datagram arrives", BOUND, || {
                from.send_to(&data, to.local_addr().unwrap()).unwrap();
                to.recv_from(&mut buffer).ok()
            })
        };
        assert_eq!(
            comes(&client, &server),
            (12_000, client.local_addr().unwrap())
        );
        assert_eq!(
            comes(&server, &client),
            (12_000, server.local_addr().unwrap())
        );
    }
}

/// Reference C6: podgate's connections are its own: they live where the node tracks none (`loose`).
#[test]
fn connections_on_a_node_that_tracks_none() {
    let scene = stage().enter();
    let _outside = Server::start(&scene.node.outside(), &[80], &[53]);
    for v6 in [false, true] {
        let loose = scene.kept.ip("loose", v6);
        for outcome in [
            traffic::tcp(&scene.pods[0].place(), loose, 80),
            traffic::udp(&scene.pods[0].place(), loose, 53),
        ] {
            assert!(outcome.is_open(), "{outcome:?} {loose}");
        }
    }
}

/// Reference C9: a pod reaches itself through its own Service, without any policy, in strict mode.
#[test]
fn hairpin_through_the_own_service_in_strict_mode() {
    let scene = stage().enter();
    let pal = &scene.pods[2];
    let _serving = Server::start(&pal.place(), &[80], &[53]);
    let before = scene.counted("pal ingress/pod-to-itself");
    for v6 in [false, true] {
        let service = scene.kept.ip("pal-service", v6);
        // Where the Service's address is before it is exchanged, policy is asked: the node's own proxy has to be allowed.
        let doc = Doc::new("default", "itself")
            .selects(pal)
            .egress(service, "");
        scene.node.put_policy("itself.yaml", &doc.yaml());
        scene.node.settle();
        let outcome = traffic::tcp(&pal.place(), service, 80);
        assert!(outcome.is_open(), "{outcome:?} {service}");
    }
    scene.node.remove_policy("itself.yaml");
    scene.node.settle();
    assert!(scene.counted("pal ingress/pod-to-itself") >= before + 2);
}

/// A pod in strict mode on a node without a companion: what the kubelet probes and the node's DNS answer work, nothing else does.
#[test]
fn probes_and_node_local_dns_from_the_first_instant_in_strict_mode() {
    let node = Node::builder("instant").start();
    let _dns = Server::start(&node.place(), &[], &[53]);
    let _outside = Server::start(&node.outside(), &[80], &[53]);
    let mut pod = node.pod("early");
    let _serving = Server::start(&pod.place(), &[8080], &[]);
    // What `host-local` gives out first.
    let own = ["10.88.0.10", "fd00:88::10"].map(|text| text.parse::<IpAddr>().unwrap());
    let knocks = own.map(|address| Knock::start(&node.place(), address, 8080));
    pod.add(&Chain::in_mode(&node, "strict"));
    let returned = SystemTime::now();
    for knock in knocks {
        let early = returned.duration_since(knock.answered());
        println!("the first probe was answered {early:?} before ADD returned");
    }
    for dns in node_addresses() {
        let outcome = traffic::udp(&pod.place(), dns, 53);
        assert!(outcome.is_open(), "{outcome:?}");
    }
    for (outside, own) in node::outside(0).into_iter().zip(own) {
        assert!(traffic::tcp(&pod.place(), outside, 80).is_silent());
        assert!(traffic::tcp(&node.outside(), own, 8080).is_silent());
    }
}
