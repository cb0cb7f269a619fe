//! The one topology of all attacks: a node with conntrack, pods under podgate and pods wired alike without it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Child;
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::cast::{Actor, Cast, interface, is_link_local};
use super::janitor::remove_after_us;
use crate::chain::{Chain, ptp};
use crate::companion::Companion;
use crate::node::{self, NODE_V4, NODE_V6, Node, Place};
use crate::pod::Pod;
use crate::policy::Doc;
use crate::traffic::Server;

/// File of the policy that `jail` and `victim` are under.
pub const POLICY: &str = "attacks.yaml";

/// What the policy allows from and to `friend` and `loose`.
const PORTS: &str = "ports: [{protocol: TCP, port: 80}, {protocol: UDP, port: 53}]";

/// Settings under which more attacks arrive than by default: source routes, the node's own address from outside, no limit to ICMP errors.
const SETTINGS: &str = "
sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
sysctl -qw net.ipv4.conf.all.accept_source_route=1 net.ipv4.conf.default.accept_source_route=1
sysctl -qw net.ipv6.conf.all.accept_source_route=1 net.ipv6.conf.default.accept_source_route=1
sysctl -qw net.ipv4.conf.up0.accept_source_route=1 net.ipv4.conf.up0.accept_local=1 net.ipv4.conf.up0.rp_filter=0
sysctl -qw net.ipv4.conf.all.route_localnet=1
sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
ip netns exec outside sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
ip link set up0 mtu 9001
ip netns exec outside ip link set eth0 mtu 9001
ip netns exec outside ip addr add 198.51.100.5/24 dev eth0
ip netns exec outside ip addr add 2001:db8:100::5/64 dev eth0 nodad
";

/// What goes from and to `loose` is not tracked, and so not reassembled: a node without conntrack, for this peer.
const UNTRACKED: &str = "nft -f - <<'E'
table inet raw {
  chain prerouting {
    type filter hook prerouting priority -450
    ip saddr 198.51.100.4 notrack
    ip daddr 198.51.100.4 notrack
    ip6 saddr 2001:db8:100::4 notrack
    ip6 daddr 2001:db8:100::4 notrack
  }
}
E
";

/// kube-proxy's work: in IPVS mode a device has the Services' addresses; a forward rule answers for a Service without endpoints.
const KUBE_PROXY: &str = "
ip link add kube-ipvs0 type bridge
ip addr add 10.96.0.99/32 dev kube-ipvs0; ip addr add fd00:96::99/128 dev kube-ipvs0 nodad
ip link set kube-ipvs0 up
ip link add kube-dummy-if type bridge
ip addr add 10.96.0.98/32 dev kube-dummy-if; ip link set kube-dummy-if up
nft -f - <<'E'
add rule inet kube forward tcp dport 7777 reject with tcp reset
add rule inet kube postrouting ct status dnat masquerade
E
";

/// Nobody's stack answers the frames that its namespace sent raw: what is on the wire is what the attack says.
const QUIET: &str = "nft -f - <<'E'
table inet quiet {
  chain output {
    type filter hook output priority 0
    tcp flags & rst == rst drop
    icmp type destination-unreachable icmp code port-unreachable drop
    icmpv6 type destination-unreachable icmpv6 code port-unreachable drop
  }
}
E
";

/// What the node itself serves: the kubelet, a node-local DNS, and a process that listens on the number of a NodePort.
const SERVED: (&[u16], &[u16]) = (&[10250, 30080], &[53]);

/// The topology, shared by all tests of a binary.
#[derive(Debug)]
pub struct Stage {
    scene: Mutex<Scene>,
}

/// The topology, for one attack.
#[derive(Debug)]
pub struct Scene {
    /// The node.
    pub node: &'static Node,
    /// `jail`, `victim` and `pal` with podgate.
    pub kept: Cast,
    /// `jail`, `victim` and `pal` without podgate.
    pub bare: Cast,
    /// The pods under podgate: `jail`, `victim`, `pal`.
    pub pods: [Pod<'static>; 3],
    /// Those without: the same, and `neighbour`.
    pub bare_pods: [Pod<'static>; 3],
    /// A pod that is never under podgate.
    pub neighbour: Pod<'static>,
    _companion: Companion,
    _server: Server,
    _janitor: Option<Child>,
}

/// The stage; the first who asks sets it up.
///
/// # Panics
/// When it cannot be set up.
#[track_caller]
pub fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let (sender, receiver) = channel();
        // Daemons of the node die with the thread that started them: this one stays.
        std::thread::spawn(move || {
            let _ = sender.send(Scene::set());
            loop {
                std::thread::park();
            }
        });
        let scene = receiver
            .recv()
            .unwrap_or_else(|_| panic!("the stage was not set: see above"));
        Stage {
            scene: Mutex::new(scene),
        }
    })
}

impl Stage {
    /// The scene, for one attack at a time.
    pub fn enter(&self) -> MutexGuard<'_, Scene> {
        self.scene.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scene {
    #[track_caller]
    fn set() -> Self {
        let node: &'static Node = Box::leak(Box::new(Node::builder("attacks").start()));
        let janitor = remove_after_us(node.dir());
        node.sh(SETTINGS);
        node.sh(UNTRACKED);
        node.sh(KUBE_PROXY);
        let companion = node.companion();
        // One network of two configurations: its addresses are given out once.
        let without = Chain::new("net").with(ptp());
        let with = Chain::in_mode(node, "strict");
        let pod = |name: &str, chain: &Chain| {
            let mut pod = node.pod(name);
            pod.add(chain);
            pod
        };
        let pods = ["jail", "victim", "pal"].map(|name| pod(name, &with));
        let bare_pods = ["jail-bare", "victim-bare", "pal-bare"].map(|name| pod(name, &without));
        let neighbour = pod("neighbour", &without);
        // Jumbo frames, as on AWS: only a frame of more than a page is not in one piece.
        for pod in [&pods[0], &bare_pods[0]] {
            node.sh(&format!(
                "ip link set {} mtu 9001; ip netns exec {} ip link set eth0 mtu 9001",
                pod.host_veth(),
                pod.netns().trim_start_matches("/run/netns/"),
            ));
        }
        let quiet = |place: &Place| drop(place.cmd("sh").args(["-eu"]).stdin(QUIET).ok());
        quiet(&node.outside());
        for (number, pod) in all_pods(&pods, &bare_pods, &neighbour).enumerate() {
            quiet(&pod.place());
            serve(node, number, pod);
        }
        let scene = Self {
            node,
            kept: cast(node, &pods, &neighbour, KEPT),
            bare: cast(node, &bare_pods, &neighbour, BARE),
            pods,
            bare_pods,
            neighbour,
            _companion: companion,
            _server: Server::start(&node.place(), SERVED.0, SERVED.1),
            _janitor: janitor,
        };
        scene.put(&scene.policy());
        scene
    }

    /// The policy of `jail` and `victim`: TCP 80 and UDP 53 from and to `friend` and `loose`, everything from and to `mate`.
    #[must_use]
    pub fn policy(&self) -> Doc {
        let doc = Doc::new("default", "attacks")
            .selects(&self.pods[0])
            .selects(&self.pods[1])
            .isolate_ingress()
            .isolate_egress();
        let rules = [("friend", PORTS), ("loose", PORTS), ("mate", "")];
        rules
            .iter()
            .flat_map(|(name, more)| [false, true].map(|v6| (self.kept.ip(name, v6), *more)))
            .fold(doc, |doc, (address, more)| {
                doc.ingress(address, more).egress(address, more)
            })
    }

    /// Puts a policy in force.
    #[track_caller]
    pub fn put(&self, doc: &Doc) {
        self.node.put_policy(POLICY, &doc.yaml());
        self.node.settle();
    }

    /// [`Node::counted`].
    #[track_caller]
    #[must_use]
    pub fn counted(&self, pod_and_reason: &str) -> u64 {
        self.node.counted(pod_and_reason)
    }
}

/// All pods, in the order of their Services.
fn all_pods<'a>(
    kept: &'a [Pod<'static>],
    bare: &'a [Pod<'static>],
    neighbour: &'a Pod<'static>,
) -> impl Iterator<Item = &'a Pod<'static>> {
    kept.iter().chain(bare).chain([neighbour])
}

/// Number of the first Service of the pods with podgate, of those without, and of the one that is in both worlds.
const KEPT: usize = 0;
const BARE: usize = 3;
const NEIGHBOUR: usize = 6;

/// The solicited-node group of an address (RFC 4291, 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from_be_bytes([b, c]),
    )
}

/// Addresses of a pod's Service.
fn service(number: usize) -> [IpAddr; 2] {
    let last = u8::try_from(number).unwrap_or(u8::MAX);
    [
        Ipv4Addr::new(10, 96, 0, last + 10).into(),
        Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(last) + 0x10).into(),
    ]
}

/// Makes a Service of a pod as kube-proxy does, all of its ports with the node's address as source; and a NodePort and a hostPort.
#[track_caller]
fn serve(node: &Node, number: usize, pod: &Pod<'_>) {
    let [service_v4, service_v6] = service(number);
    let (v4, v6) = (pod.v4(), pod.v6());
    let mut rules = format!(
        "add rule inet kube prerouting ip daddr {service_v4} dnat ip to {v4}
         add rule inet kube prerouting ip6 daddr {service_v6} dnat ip6 to {v6}
         add rule inet kube output ip daddr {service_v4} dnat ip to {v4}
         add rule inet kube output ip6 daddr {service_v6} dnat ip6 to {v6}\n"
    );
    // Service with `externalIPs`, of which one is the pod's own address.
    let [far_v4, far_v6] = node::outside(0);
    rules += &format!(
        "add rule inet kube prerouting ip daddr {v4} udp dport 9999 dnat ip to {far_v4}
         add rule inet kube prerouting ip6 daddr {v6} udp dport 9999 dnat ip6 to {far_v6}\n"
    );
    if number == NEIGHBOUR {
        rules += &format!(
            "add rule inet kube prerouting fib daddr type local tcp dport {{ 30080, 8088 }} dnat ip to {v4}:8080
             add rule inet kube prerouting fib daddr type local tcp dport {{ 30080, 8088 }} dnat ip6 to [{v6}]:8080\n"
        );
    }
    node.cmd("nft").args(["-f", "-"]).stdin(rules).ok();
}

/// The names of one world: three pods, a fourth that is never under podgate, the outside with four addresses, the node.
#[track_caller]
fn cast(node: &Node, pods: &[Pod<'_>], stranger: &Pod<'_>, first_service: usize) -> Cast {
    let mut cast = Cast::default();
    let names = [
        ("jail", "jail-gateway"),
        ("victim", "victim-gateway"),
        ("pal", "pal-gateway"),
        ("neighbour", "neighbour-gateway"),
    ];
    for (number, ((name, gateway_name), pod)) in
        (first_service..).zip(names.into_iter().zip(pods.iter().chain([stranger])))
    {
        let veth = pod.host_veth();
        let (gateway_mac, gateway) = interface(&node.place(), &veth);
        let (own_mac, own) = interface(&pod.place(), "eth0");
        for (owner, addresses) in [(name, own), (gateway_name, gateway)] {
            for address in addresses {
                if is_link_local(&address) {
                    cast.address(&format!("{owner}-local"), address);
                } else {
                    if let IpAddr::V6(address) = address {
                        cast.address(&format!("{owner}-group"), solicited_node(address).into());
                    }
                    cast.address(owner, address);
                }
            }
        }
        let number = if name == "neighbour" {
            NEIGHBOUR
        } else {
            number
        };
        for address in service(number) {
            cast.address(&format!("{name}-service"), address);
        }
        cast.actor(name, Actor::new(&pod.place(), "eth0", gateway_mac));
        cast.actor(gateway_name, Actor::new(&node.place(), &veth, own_mac));
    }
    let (uplink, _) = interface(&node.place(), "up0");
    cast.actor("outside", Actor::new(&node.outside(), "eth0", uplink));
    let (outside, _) = interface(&node.outside(), "eth0");
    cast.actor("node", Actor::new(&node.place(), "up0", outside));
    for (number, name) in ["stranger", "friend", "loose"].into_iter().enumerate() {
        for address in node::outside(number) {
            cast.address(name, address);
        }
    }
    for (name, text) in [
        ("mate", "198.51.100.5"),
        ("mate", "2001:db8:100::5"),
        ("node", NODE_V4),
        ("node", NODE_V6),
        ("ipvs", "10.96.0.99"),
        ("ipvs", "fd00:96::99"),
    ] {
        let address = text
            .parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"));
        cast.address(name, address);
    }
    cast
}
