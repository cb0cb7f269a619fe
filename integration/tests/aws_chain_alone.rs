//! Amazon's real plugins on the harness's node, without podgate: what podgate's tests of this chain stand on.
#![forbid(unsafe_code)]

use integration::node::{OUTSIDE_V4, OUTSIDE_V6};
use integration::{Ipamd, Node, Server, aws, traffic};

#[test]
fn the_chain_gives_a_pod_with_a_way_to_the_outside() {
    let cluster = aws::Cluster {
        egress: true,
        ..Default::default()
    };
    let node = Node::builder("aws").start();
    let _ipamd = Ipamd::start(&node, cluster, 1);
    let chain = aws::chain(cluster).without("podgate");
    let mut pod = node.pod_in("shop", "cart-6d5f8-x2x7q");
    let result = pod.add(&chain);
    assert_eq!(result["interfaces"][1]["mac"], "254", "{result}");
    assert_eq!(
        result["interfaces"].as_array().map(Vec::len),
        Some(5),
        "{result}"
    );
    let _server = Server::start(&node.outside(), &[80], &[53]);
    assert!(traffic::tcp(&pod.place(), OUTSIDE_V4.parse().unwrap(), 80).is_open());
    assert!(traffic::udp(&pod.place(), OUTSIDE_V6.parse().unwrap(), 53).is_open());
    assert!(traffic::ping(&node.outside(), pod.v4()));
    pod.del(&chain);
}

#[test]
fn three_cards_give_three_pairs_from_one_call() {
    let node = Node::builder("aws3").start();
    let cluster = aws::Cluster::default();
    let _ipamd = Ipamd::start(&node, cluster, 3);
    let chain = aws::chain(cluster).without("podgate");
    let mut pod = node.pod_in("shop", "cart-6d5f8-x2x7q");
    pod.add_env(&chain, &[aws::EVERY_CARD]);
    let pairs = ["eth0", "mNicIf1", "mNicIf2"].map(|ifname| pod.host_veth_of(ifname));
    assert!(
        pairs.iter().all(|name| name.starts_with("eni")),
        "{pairs:?}"
    );
    assert_eq!(pod.addresses().len(), 3);
}
