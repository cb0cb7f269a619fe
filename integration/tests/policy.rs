//! Policy documents dropped into the store: what they let in and out, as they come, change and go.
#![forbid(unsafe_code)]

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use integration::traffic::{PATIENCE, tcp, tcp_from, udp, udp_from};
use integration::{Chain, Companion, Doc, Knock, Node, Place, Pod, Server, Session, node};
use serde_json::json;

/// A node with a companion, and a pod in namespace `shop` that serves.
struct Scene<'n> {
    pod: Pod<'n>,
    companion: Option<Companion>,
    _inside: Server,
    _outside: Server,
}

fn scene<'n>(node: &'n Node, mode: &str) -> Scene<'n> {
    let companion = node.companion();
    let mut pod = node.pod_in("shop", "web");
    pod.add(&Chain::in_mode(node, mode));
    let inside = Server::start(&pod.place(), &[80, 81, 8080], &[53, 54]);
    let outside = Server::start(&node.outside(), &[80, 81, 8080], &[53, 54]);
    Scene {
        pod,
        companion: Some(companion),
        _inside: inside,
        _outside: outside,
    }
}

/// Own and outside address of each family.
fn families(pod: &Pod<'_>, number: usize) -> [(IpAddr, IpAddr); 2] {
    let outside = node::outside(number);
    [(pod.v4(), outside[0]), (pod.v6(), outside[1])]
}

/// Which of the outside's three addresses reach the pod's port 80, per family.
fn clients(node: &Node, pod: &Pod<'_>) -> [[bool; 3]; 2] {
    let reaches = |family: usize, number: usize| {
        let (own, from) = families(pod, number)[family];
        tcp_from(&node.outside(), from, own, 80).is_open()
    };
    [0, 1].map(|family| [0, 1, 2].map(|number| reaches(family, number)))
}

fn in_and_out(node: &Node, place: &Place, own: IpAddr, outside: IpAddr) -> [bool; 4] {
    [
        tcp(&node.outside(), own, 80).is_open(),
        udp(&node.outside(), own, 53).is_open(),
        tcp(place, outside, 80).is_open(),
        udp(place, outside, 53).is_open(),
    ]
}

#[test]
fn a_policy_comes_changes_and_goes_in_both_families() {
    let node = Node::builder("policy").start();
    let scene = scene(&node, "strict");
    let pod = &scene.pod;
    assert_eq!(clients(&node, pod), [[false; 3]; 2], "strict, no policy");

    let doc = || Doc::new("shop", "web-in").selects(pod).isolate_ingress();
    let [v4, v6] = node::outside(1);
    node.put_policy("web-in.yaml", &doc().ingress(v4, "").ingress(v6, "").yaml());
    node.settle();
    assert_eq!(
        clients(&node, pod),
        [[false, true, false]; 2],
        "exactly one client"
    );
    for (_, outside) in families(pod, 0) {
        assert!(
            tcp(&pod.place(), outside, 80).is_silent(),
            "strict stays strict for the direction without a policy"
        );
    }

    let [v4, v6] = node::outside(2);
    node.put_policy("web-in.yaml", &doc().ingress(v4, "").ingress(v6, "").yaml());
    node.settle();
    assert_eq!(clients(&node, pod), [[false, false, true]; 2], "changed");

    node.remove_policy("web-in.yaml");
    node.settle();
    assert_eq!(clients(&node, pod), [[false; 3]; 2], "gone");
}

#[test]
fn in_standard_mode_a_policy_isolates_its_direction_only_and_its_end_opens_again() {
    let node = Node::builder("policy").start();
    let scene = scene(&node, "standard");
    let pod = &scene.pod;
    for (own, outside) in families(pod, 0) {
        assert_eq!(in_and_out(&node, &pod.place(), own, outside), [true; 4]);
    }
    for (isolate, expected) in [
        ("ingress", [false, false, true, true]),
        ("egress", [true, true, false, false]),
        ("both", [false; 4]),
    ] {
        let doc = Doc::new("shop", "deny").selects(pod);
        let doc = if isolate == "egress" {
            doc
        } else {
            doc.isolate_ingress()
        };
        let doc = if isolate == "ingress" {
            doc
        } else {
            doc.isolate_egress()
        };
        node.put_policy("deny.yaml", &doc.yaml());
        node.settle();
        for (own, outside) in families(pod, 0) {
            assert_eq!(
                in_and_out(&node, &pod.place(), own, outside),
                expected,
                "{isolate} isolated"
            );
        }
    }
    node.remove_policy("deny.yaml");
    node.settle();
    for (own, outside) in families(pod, 0) {
        assert_eq!(
            in_and_out(&node, &pod.place(), own, outside),
            [true; 4],
            "open again"
        );
    }
}

#[test]
fn a_policy_becomes_effective_and_how_soon_is_told() {
    let node = Node::builder("policy").start();
    let scene = scene(&node, "strict");
    let pod = &scene.pod;
    let doc = |marked: bool| {
        let doc = Doc::new("shop", "quick")
            .selects(pod)
            .ingress(node::outside(0)[0], "");
        let doc = if marked {
            doc.annotation("podgate.dev/parts", "1")
                .annotation("podgate.dev/generation", "1")
        } else {
            doc
        };
        doc.yaml()
    };
    for marked in [true, false] {
        let knock = Knock::start(&node.outside(), pod.v4(), 80);
        let dropped = SystemTime::now();
        node.put_policy("quick.yaml", &doc(marked));
        let took = knock
            .answered()
            .duration_since(dropped)
            .expect("an answer only after the file");
        println!(
            "policy file to first answered connection: {took:?} ({})",
            if marked {
                "marked complete"
            } else {
                "unmarked: settles first"
            }
        );
        node.settle();
        node.remove_policy("quick.yaml");
        node.settle();
        assert!(tcp(&node.outside(), pod.v4(), 80).is_silent());
    }
}

#[test]
fn wait_is_not_taken_in_by_a_store_that_is_again_as_it_was() {
    let node = Node::builder("policy").start();
    let scene = scene(&node, "strict");
    let pod = &scene.pod;
    let doc = Doc::new("shop", "short")
        .selects(pod)
        .ingress(node::outside(0)[0], "");
    let doc = doc
        .annotation("podgate.dev/parts", "1")
        .annotation("podgate.dev/generation", "1")
        .yaml();
    for round in 0..10 {
        let knock = Knock::start(&node.outside(), pod.v4(), 80);
        node.put_policy("short.yaml", &doc);
        let _ = knock.answered();
        node.remove_policy("short.yaml");
        node.settle();
        assert!(
            !tcp(&node.outside(), pod.v4(), 80).is_open(),
            "round {round}: wait returned before the removal was applied"
        );
    }
}

#[test]
fn established_connections_of_peers_still_allowed_go_on_and_revoked_ones_end() {
    let node = Node::builder("policy").start();
    let scene = scene(&node, "strict");
    let pod = &scene.pod;
    let allow = |peers: &[usize]| {
        let mut doc = Doc::new("shop", "peers").selects(pod).isolate_ingress();
        for [v4, v6] in peers.iter().map(|number| node::outside(*number)) {
            doc = doc.ingress(v4, "").ingress(v6, "");
        }
        node.put_policy("peers.yaml", &doc.yaml());
        node.settle();
    };
    allow(&[0, 1]);
    let open = |number: usize, udp: bool| {
        families(pod, number).map(|(own, from)| {
            let port = if udp { 53 } else { 80 };
            Session::open(
                &node.outside(),
                (own, port).into(),
                udp,
                Some((from, 0).into()),
            )
        })
    };
    let mut kept: Vec<Session> = [open(0, false), open(0, true)]
        .into_iter()
        .flatten()
        .collect();
    let mut revoked: Vec<Session> = [open(1, false), open(1, true)]
        .into_iter()
        .flatten()
        .collect();
    allow(&[0, 2]);
    assert!(kept.iter_mut().all(Session::works), "still allowed");
    assert!(
        revoked
            .iter_mut()
            .all(|session| session.exchange(PATIENCE).is_silent()),
        "revoked means revoked, on live connections too"
    );
    allow(&[0, 1]);
    assert!(kept.iter_mut().all(Session::works));
    assert!(
        revoked
            .iter_mut()
            .all(|session| session.exchange(Duration::from_secs(4)).is_open()),
        "allowed again before they gave up"
    );
    node.remove_policy("peers.yaml");
    node.settle();
    assert!(
        kept.iter_mut()
            .all(|session| session.exchange(PATIENCE).is_silent()),
        "its removal ends them in strict mode"
    );
}

#[test]
fn ports_protocols_and_ranges_hold() {
    let node = Node::builder("policy").start();
    let scene = scene(&node, "standard");
    let pod = &scene.pod;
    let ports = "ports: [{protocol: TCP, port: 80, endPort: 81}, {protocol: UDP, port: 54}]";
    node.put_policy(
        "ports.yaml",
        &Doc::new("shop", "ports")
            .selects(pod)
            .isolate_ingress()
            .isolate_egress()
            .ingress("0.0.0.0/0", ports)
            .ingress("::/0", ports)
            .egress("0.0.0.0/0", ports)
            .egress("::/0", ports)
            .yaml(),
    );
    node.settle();
    for (own, outside) in families(pod, 0) {
        for (place, to) in [(node.outside(), own), (pod.place(), outside)] {
            let tcp_ports = [80, 81, 8080].map(|port| tcp(&place, to, port).is_open());
            let udp_ports = [53, 54].map(|port| udp(&place, to, port).is_open());
            assert_eq!(
                (tcp_ports, udp_ports),
                ([true, true, false], [false, true]),
                "towards {to}"
            );
        }
    }
}

#[test]
fn an_entry_without_protocol_or_port_is_any() {
    let node = Node::builder("policy").start();
    let scene = scene(&node, "strict");
    let pod = &scene.pod;
    let [v4, v6] = node::outside(0);
    let doc = Doc::new("shop", "any")
        .selects(pod)
        .ingress(v4, "ports: [{port: 80}]")
        .ingress(v6, "ports: [{protocol: UDP}]");
    node.put_policy("any.yaml", &doc.yaml());
    node.settle();
    assert!(
        tcp(&node.outside(), pod.v4(), 80).is_open()
            && tcp(&node.outside(), pod.v4(), 81).is_silent()
    );
    assert!(
        udp_from(&node.outside(), v6, pod.v6(), 53).is_open()
            && tcp_from(&node.outside(), v6, pod.v6(), 80).is_silent()
    );
}

#[test]
fn an_except_counts_for_its_own_block_only() {
    let node = Node::builder("policy").start();
    let scene = scene(&node, "strict");
    let pod = &scene.pod;
    let excepts = |number: usize| {
        node::outside(number).map(|address| {
            format!(
                "except: [\"{address}/{}\"]",
                if address.is_ipv4() { 32 } else { 128 }
            )
        })
    };
    let [except4, except6] = excepts(1);
    let doc = || {
        Doc::new("shop", "except")
            .selects(pod)
            .ingress("198.51.100.0/24", &except4)
            .ingress("2001:db8:100::/64", &except6)
    };
    node.put_policy("except.yaml", &doc().yaml());
    node.settle();
    assert_eq!(clients(&node, pod), [[true, false, true]; 2]);
    // Another block that holds the excepted address allows it: the union decides.
    let [v4, v6] = node::outside(1);
    node.put_policy("except.yaml", &doc().ingress(v4, "").ingress(v6, "").yaml());
    node.settle();
    assert_eq!(clients(&node, pod), [[true; 3]; 2]);
}

#[test]
fn documents_of_one_policy_and_policies_of_one_pod_are_united() {
    let node = Node::builder("policy").start();
    let scene = scene(&node, "strict");
    let pod = &scene.pod;
    let [first, second, third] = [0, 1, 2].map(node::outside);
    // One policy cut in two as Amazon's controller does: the pod in one document, the rules in another.
    node.put_policy(
        "a1.yaml",
        &Doc::new("shop", "cut-1")
            .policy("cut")
            .selects(pod)
            .isolate_ingress()
            .yaml(),
    );
    node.put_policy(
        "a2.yaml",
        &Doc::new("shop", "cut-2")
            .policy("cut")
            .isolate_ingress()
            .ingress(first[0], "")
            .ingress(first[1], "")
            .yaml(),
    );
    node.settle();
    assert_eq!(clients(&node, pod), [[true, false, false]; 2]);
    // A second policy, several documents in one file.
    let more = Doc::new("shop", "more")
        .selects(pod)
        .ingress(second[0], "")
        .ingress(second[1], "")
        .yaml();
    let other = Doc::new("shop", "other")
        .selects(pod)
        .ingress(third[0], "")
        .yaml();
    node.put_policy("b.yaml", &format!("{more}---\n{other}"));
    node.settle();
    assert_eq!(
        clients(&node, pod),
        [[true, true, true], [true, true, false]]
    );
    node.remove_policy("a2.yaml");
    node.settle();
    assert_eq!(
        clients(&node, pod),
        [[false, true, true], [false, true, false]]
    );
}

#[test]
fn a_policy_touches_the_pods_it_selects_and_no_other() {
    let node = Node::builder("policy").start();
    let scene = scene(&node, "strict");
    let mut other = node.pod_in("shop", "other");
    other.add(&Chain::in_mode(&node, "strict"));
    let _serving = Server::start(&other.place(), &[80], &[]);
    let pod = &scene.pod;
    // Pod to pod on one node: egress of one and ingress of the other must both allow.
    let allow_in = Doc::new("shop", "in")
        .selects(pod)
        .ingress(other.v4(), "")
        .ingress(other.v6(), "");
    node.put_policy("in.yaml", &allow_in.yaml());
    node.settle();
    assert!(
        [pod.v4(), pod.v6()]
            .iter()
            .all(|to| tcp(&other.place(), *to, 80).is_silent()),
        "the client's own egress is still closed"
    );
    node.put_policy(
        "out.yaml",
        &Doc::new("shop", "out")
            .selects(&other)
            .egress(pod.v4(), "")
            .egress(pod.v6(), "")
            .yaml(),
    );
    node.settle();
    assert!(
        [pod.v4(), pod.v6()]
            .iter()
            .all(|to| tcp(&other.place(), *to, 80).is_open())
    );
    assert!(
        [other.v4(), other.v6()]
            .iter()
            .all(|to| tcp(&pod.place(), *to, 80).is_silent()),
        "not the other way round"
    );
    // A pod of that name in another namespace is another pod.
    let mut namesake = node.pod_in("bank", "web");
    namesake.add(&Chain::in_mode(&node, "strict"));
    let _bank = Server::start(&namesake.place(), &[80], &[]);
    node.settle();
    assert!(tcp(&other.place(), namesake.v4(), 80).is_silent());
}

#[test]
fn a_policy_by_labels_holds_from_the_first_packet() {
    let node = Node::builder("policy").start();
    let _companion = node.companion();
    let [v4, v6] = node::outside(1);
    let doc = Doc::new("shop", "labels")
        .selector("{matchLabels: {app: web}}")
        .isolate_ingress()
        .ingress(v4, "")
        .ingress(v6, "");
    node.put_policy("labels.yaml", &doc.yaml());
    node.settle();
    let labels = |app: &str| json!({"networkPolicyEnforcingMode": "standard", "args": {"cni": {"labels": [{"key": "app", "value": app}]}}});
    let (mut web, mut db) = (node.pod_in("shop", "web-1"), node.pod_in("shop", "db-1"));
    web.add(&Chain::ptp(&node, "net", labels("web")));
    let _web = Server::start(&web.place(), &[80], &[]);
    assert_eq!(
        clients(&node, &web),
        [[false, true, false]; 2],
        "selected by its labels, at once"
    );
    db.add(&Chain::ptp(&node, "net", labels("db")));
    let _db = Server::start(&db.place(), &[80], &[]);
    assert_eq!(clients(&node, &db), [[true; 3]; 2], "not selected");
}

#[test]
fn a_broken_document_blocks_no_other_and_its_last_good_version_stays() {
    let node = Node::builder("policy").start();
    let scene = scene(&node, "strict");
    let pod = &scene.pod;
    let [first, second] = [0, 1].map(node::outside);
    node.put_policy(
        "one.yaml",
        &Doc::new("shop", "one")
            .selects(pod)
            .ingress(first[0], "")
            .ingress(first[1], "")
            .yaml(),
    );
    node.settle();
    node.put_policy("one.yaml", "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {name: one, namespace: shop}\nspec: [cut off");
    node.put_policy(
        "two.yaml",
        &Doc::new("shop", "two")
            .selects(pod)
            .ingress(second[0], "")
            .ingress(second[1], "")
            .yaml(),
    );
    node.settle();
    assert_eq!(
        clients(&node, pod),
        [[true, true, false]; 2],
        "the last good version of one, and two"
    );
    let copies = integration::eyes::files_below(&node.state_dir().join("quarantine"));
    assert!(!copies.is_empty(), "what could not be read is copied aside");
    assert!(
        node.policies_dir().join("one.yaml").exists(),
        "the file itself stays"
    );
}

#[test]
fn the_last_good_version_outlives_a_restart() {
    let node = Node::builder("policy").start();
    let mut scene = scene(&node, "strict");
    let [v4, v6] = node::outside(0);
    node.put_policy(
        "one.yaml",
        &Doc::new("shop", "one")
            .selects(&scene.pod)
            .ingress(v4, "")
            .ingress(v6, "")
            .yaml(),
    );
    node.settle();
    node.put_policy("one.yaml", "{");
    node.settle();
    scene.companion.take().expect("it runs").stop();
    scene.companion = Some(node.companion());
    node.settle();
    assert_eq!(clients(&node, &scene.pod), [[true, false, false]; 2]);
    node.remove_policy("one.yaml");
    node.settle();
    assert_eq!(
        clients(&node, &scene.pod),
        [[false; 3]; 2],
        "a removed file is a removed document"
    );
}
