//! hostPorts: the node hands on what comes to them, so to another pod they are no sockets of the node, whoever listens there.

use integration::{Chain, Doc, Node, Pod, Server, Sink, chain, node, traffic};
use serde_json::{Value, json};

/// Where a datagram and where a connection to the hostPort ends.
const UDP: u16 = 5300;
const TCP: u16 = 80;

fn mappings(port: u16) -> String {
    json!({"portMappings": [
        {"hostPort": port, "containerPort": UDP, "protocol": "udp"},
        {"hostPort": port, "containerPort": TCP, "protocol": "tcp"},
    ]})
    .to_string()
}

fn chain_with(node: &Node, podgate: Value) -> Chain {
    let portmap = json!({"type": "portmap", "snat": true, "backend": "iptables", "capabilities": {"portMappings": true}});
    Chain::new("net")
        .with(chain::ptp())
        .with_podgate(node, podgate)
        .with(portmap)
}

/// A process of the node listens on the number of a pod's hostPort: by the socket look-up alone every pod could send to that pod.
#[test]
fn host_port_on_which_the_node_listens_too() {
    let node = Node::builder("hostport").start();
    let _companion = node.companion();
    let strict = json!({"networkPolicyEnforcingMode": "strict"});
    let told =
        json!({"networkPolicyEnforcingMode": "strict", "capabilities": {"portMappings": true}});
    let (not_told, told) = (chain_with(&node, strict), chain_with(&node, told));
    let add = |name, chain: &Chain, port| -> Pod<'_> {
        let mut pod = node.pod(name);
        pod.add_env(chain, &[("CAP_ARGS", &mappings(port))]);
        let policy = Doc::new("default", name)
            .selects(&pod)
            .ingress("0.0.0.0/0", "");
        node.put_policy(&format!("{name}.yaml"), &policy.yaml());
        pod
    };
    let del = |pod: &Pod<'_>, port| {
        let call = pod
            .cnitool("del", &told)
            .env("CAP_ARGS", mappings(port))
            .run();
        let _ = call.expect_ok();
    };
    let (unknown, web) = (add("unknown", &not_told, 8081), add("web", &told, 8080));
    let (mut jail, mut mate) = (node.pod("jail"), node.pod("mate"));
    jail.add(&told);
    mate.add(&told);
    let host = node::node_addresses()[0];
    let policy = Doc::new("default", "mate").selects(&mate).egress(host, "");
    node.put_policy("mate.yaml", &policy.yaml());
    node.settle();

    let _servers = [
        Server::start(&web.place(), &[TCP], &[]),
        Server::start(&node.place(), &[], &[8080, 8081, 9090]),
    ];
    let arrives = |pod: &Pod<'_>, port| {
        let mut sink = Sink::on(&pod.place(), UDP);
        assert!(!traffic::udp(&jail.place(), host, port).is_open());
        !sink.report().is_empty()
    };
    assert!(
        arrives(&unknown, 8081),
        "where podgate is not told it works"
    );
    assert!(!arrives(&web, 8080), "WITH PODGATE THE ATTACK GETS THROUGH");
    let own = traffic::udp(&jail.place(), host, 9090);
    assert!(own.is_open(), "the twin, the node's own socket: {own:?}");
    let allowed = traffic::tcp(&mate.place(), host, 8080);
    assert!(allowed.is_open(), "whom policy allows: {allowed:?}");

    // The number is the node's own again with the last pod that has it.
    let second = add("second", &told, 8080);
    del(&web, 8080);
    assert!(!arrives(&second, 8080), "the second pod's");
    del(&second, 8080);
    let own = traffic::udp(&jail.place(), host, 8080);
    assert!(own.is_open(), "the node's own: {own:?}");
}
