//! From the first packet: a generator that runs from before ADD, a client that starts the instant ADD returns, both counted on the other side.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use integration::wire::SinkReport;
use integration::{
    Capture, Chain, Doc, Flood, Ipamd, Node, Pod, Server, Sink, attach_modes, aws, monotonic_ns,
    node, traffic, wait_until,
};
use serde_json::json;

const SECOND: u64 = 1_000_000_000;

/// Everything that counts: generators out of and into the pod, their receivers, a capture on the outside's wire.
struct Eyes {
    out: Flood,
    out_sink: Sink,
    inward: Flood,
    in_sink: Sink,
    capture: Capture,
}

impl Eyes {
    /// Starts them before the pod has an interface; `expected` are the addresses that it will get.
    fn open(node: &Node, pod: &Pod<'_>, expected: &[IpAddr]) -> Self {
        Self::open_with(node, pod, expected, Flood::start)
    }

    /// [`Eyes::open`] with a generator in the pod that waits for aws-cni's permanent neighbour entry: a packet before it would make an entry
    /// of its own, and aws-cni then fails.
    fn open_for_aws(node: &Node, pod: &Pod<'_>, expected: &[IpAddr]) -> Self {
        Self::open_with(node, pod, expected, Flood::start_after_aws)
    }

    fn open_with(
        node: &Node,
        pod: &Pod<'_>,
        expected: &[IpAddr],
        start: impl Fn(&integration::Place, &[SocketAddr]) -> Flood,
    ) -> Self {
        let out_sink = Sink::start(&node.outside());
        let in_sink = Sink::start(&pod.place());
        let capture = Capture::on(&node.outside(), "eth0");
        let to = |addresses: &[IpAddr], port: u16| {
            addresses
                .iter()
                .map(|address| SocketAddr::new(*address, port))
                .collect::<Vec<_>>()
        };
        let out = start(&pod.place(), &to(&node::outside(0), out_sink.port));
        let inward = Flood::start(&node.outside(), &to(expected, in_sink.port));
        Self {
            out,
            out_sink,
            inward,
            in_sink,
            capture,
        }
    }

    /// Waits until both generators have sent for a second after a moment.
    fn run_past(&mut self, moment: u64) {
        let late = |flood: &mut Flood| {
            flood
                .report()
                .values()
                .any(|report| report.last_sent_ns > moment + SECOND)
        };
        wait_until(
            "the pod's generator goes on",
            Duration::from_secs(10),
            || late(&mut self.out),
        );
        wait_until(
            "the outside's generator goes on",
            Duration::from_secs(10),
            || late(&mut self.inward),
        );
    }
}

fn packets(report: &SinkReport) -> u64 {
    report.values().map(|count| count.packets).sum()
}

/// Fails if anything passed that was sent after the attachment; prints what the main plugin let out before.
fn assert_silence_from(eyes: &mut Eyes, pod: &Pod<'_>, what: &str) {
    let attached = pod.attached_ns();
    eyes.run_past(attached);
    let (before_out, before_in) = (
        packets(&eyes.out_sink.window(0, attached)),
        packets(&eyes.in_sink.window(0, attached)),
    );
    println!(
        "{what}: before the attachment the main plugin let {before_out} packets out and {before_in} in"
    );
    for (sink, direction) in [(&mut eyes.out_sink, "out"), (&mut eyes.in_sink, "in")] {
        let after = sink.window(attached + 1, u64::MAX);
        assert_eq!(
            packets(&after),
            0,
            "{what}: {direction} after the attachment at {attached}: {after:?}"
        );
    }
    // The node's own words about these packets (ICMP) are not the pod's.
    let of_node = |source: IpAddr| {
        node::node_addresses().contains(&source)
            || matches!(source, IpAddr::V6(v6) if v6.is_unicast_link_local())
    };
    for seen in eyes
        .capture
        .incoming()
        .into_iter()
        .filter(|seen| !seen.summary.source.is_some_and(of_node))
    {
        assert!(
            seen.last_sent_ns <= attached,
            "{what}: on the wire after the attachment at {attached}: {seen:?}"
        );
        assert_eq!(
            seen.summary.protocol,
            Some(17),
            "{what}: nothing but the generator's packets from before: {seen:?}"
        );
    }
}

/// A client started the instant ADD returns gets nothing through, in either direction.
fn assert_instant_client_is_silent(node: &Node, pod: &Pod<'_>) {
    let outside: Vec<IpAddr> = node::outside(0)
        .into_iter()
        .filter(|to| {
            pod.addresses()
                .iter()
                .any(|own| own.is_ipv4() == to.is_ipv4())
        })
        .collect();
    for to in &outside {
        let outcome = traffic::tcp(&pod.place(), *to, 80);
        assert!(outcome.is_silent(), "{outcome:?}");
    }
    for own in pod.addresses() {
        let outcome = traffic::tcp(&node.outside(), own, 80);
        assert!(!outcome.is_open(), "{outcome:?}");
    }
}

/// The first addresses that `host-local` gives out on a fresh node.
fn expected_addresses() -> [IpAddr; 2] {
    let [v4, v6] = ["10.88.0.10", "fd00:88::10"];
    [v4, v6].map(|text| text.parse().expect("an address"))
}

#[test]
fn strict_through_amazons_chain_lets_not_one_packet_through_from_the_attachment_on() {
    let node = Node::builder("first").start();
    let cluster = aws::Cluster {
        egress: true,
        ..Default::default()
    };
    let _ipamd = Ipamd::start(&node, cluster, 1);
    let _companion = node.companion();
    let _outside = Server::start(&node.outside(), &[80], &[]);
    let mut pod = node.pod_in("shop", "cart-6d5f8-x2x7q");
    let _inside = Server::start(&pod.place(), &[80], &[]);
    let mut eyes = Eyes::open_for_aws(&node, &pod, &["10.77.1.1".parse().unwrap()]);
    pod.add_env(
        &aws::chain(cluster),
        &[("NETWORK_POLICY_ENFORCING_MODE", "strict")],
    );
    assert_instant_client_is_silent(&node, &pod);
    let pairs = ["eth0", "v6if0"].map(|ifname| pod.host_veth_of(ifname));
    assert!(
        pairs.iter().all(|veth| node.is_enforced(veth)),
        "both pairs: {pairs:?}"
    );
    assert_silence_from(&mut eyes, &pod, "strict, aws chain");
    // Until a policy allows it.
    let own = pod.v4();
    let doc = Doc::new("shop", "cart")
        .selects(&pod)
        .ingress(node::outside(0)[0], "")
        .egress(node::outside(0)[0], "");
    node.put_policy("cart.yaml", &doc.yaml());
    node.settle();
    assert!(traffic::tcp(&node.outside(), own, 80).is_open());
    assert!(traffic::tcp(&pod.place(), node::outside(0)[0], 80).is_open());
    assert!(
        traffic::tcp(&pod.place(), node::outside(0)[1], 80).is_silent(),
        "the egress pair stays closed"
    );
    pod.del(&aws::chain(cluster));
}

#[test]
fn strict_lets_not_one_packet_through_in_either_family_or_attach_mode() {
    for attach in attach_modes() {
        let node = Node::builder("first").start();
        let _companion = node.companion();
        let mut pod = node.pod("a");
        let mut eyes = Eyes::open(&node, &pod, &expected_addresses());
        pod.add(&Chain::ptp(
            &node,
            "net",
            json!({"networkPolicyEnforcingMode": "strict", "attachMode": attach}),
        ));
        assert_instant_client_is_silent(&node, &pod);
        assert_silence_from(&mut eyes, &pod, &format!("strict, {attach}"));
    }
}

#[test]
fn strict_without_a_companion_is_as_silent() {
    let node = Node::builder("first").start();
    let mut pod = node.pod("a");
    let mut eyes = Eyes::open(&node, &pod, &expected_addresses());
    pod.add(&Chain::in_mode(&node, "strict"));
    assert_instant_client_is_silent(&node, &pod);
    assert_silence_from(&mut eyes, &pod, "strict, companion away");
}

#[test]
fn standard_loses_nothing_where_no_document_could_select_the_pod() {
    let node = Node::builder("first").start();
    let _companion = node.companion();
    // A document of another namespace selects nobody here.
    node.put_policy(
        "other.yaml",
        &Doc::new("bank", "deny")
            .selects_named("vault", "")
            .isolate_ingress()
            .isolate_egress()
            .yaml(),
    );
    node.settle();
    let mut pod = node.pod_in("shop", "web");
    let mut eyes = Eyes::open(&node, &pod, &expected_addresses());
    pod.add(&standard(&node));
    let attached = pod.attached_ns();
    assert_no_loss(&mut eyes, attached, "standard");
}

#[test]
fn standard_loses_only_while_pending_where_a_document_could_select_the_pod() {
    let node = Node::builder("first").start();
    let _companion = node.companion();
    node.put_policy(
        "other.yaml",
        &Doc::new("shop", "deny")
            .selects_named("somebody-else", "")
            .isolate_ingress()
            .isolate_egress()
            .yaml(),
    );
    node.settle();
    let mut pod = node.pod_in("shop", "web");
    let mut eyes = Eyes::open(&node, &pod, &expected_addresses());
    pod.add(&standard(&node));
    let returned = monotonic_ns();
    println!(
        "attached to end of ADD: {} us",
        (returned - pod.attached_ns()) / 1000
    );
    assert_no_loss(&mut eyes, returned, "standard, once ADD has returned");
}

#[test]
fn a_selected_pod_is_never_open_before_its_policy_is() {
    let node = Node::builder("first").start();
    let _companion = node.companion();
    let [v4, v6] = node::outside(1);
    node.put_policy(
        "deny.yaml",
        &Doc::new("shop", "web")
            .selects_named("web", "")
            .isolate_ingress()
            .isolate_egress()
            .ingress(v4, "")
            .ingress(v6, "")
            .yaml(),
    );
    node.settle();
    let mut pod = node.pod_in("shop", "web");
    let mut eyes = Eyes::open(&node, &pod, &expected_addresses());
    pod.add(&standard(&node));
    let _server = Server::start(&pod.place(), &[80], &[]);
    assert!(
        traffic::tcp_from(&node.outside(), v4, pod.v4(), 80).is_open(),
        "the policy holds when ADD returns"
    );
    let attached = pod.attached_ns();
    eyes.run_past(attached);
    for sink in [&mut eyes.out_sink, &mut eyes.in_sink] {
        let after = sink.window(attached + 1, u64::MAX);
        assert_eq!(packets(&after), 0, "standard mode, but isolated: {after:?}");
    }
}

fn standard(node: &Node) -> Chain {
    Chain::in_mode(node, "standard")
}

/// Fails if, of what was sent after a moment, anything is missing between the first and the last packet that came: what the kernel's own
/// neighbour queue drops before the first is not podgate's.
fn assert_no_loss(eyes: &mut Eyes, moment: u64, what: &str) {
    eyes.run_past(moment);
    for (sink, direction) in [(&mut eyes.out_sink, "out"), (&mut eyes.in_sink, "in")] {
        wait_until(
            "packets of both families have come",
            Duration::from_secs(10),
            || sink.window(moment, u64::MAX).len() == 2,
        );
        let report = sink.window(moment, u64::MAX);
        for (source, count) in &report {
            assert_eq!(
                count.lost(),
                0,
                "{what}: {direction} from {source}: {count:?}"
            );
            assert!(
                count.packets > 100,
                "{what}: {direction} from {source}: {count:?}"
            );
        }
    }
}
