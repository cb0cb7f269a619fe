//! Cluster policies (ClusterPolicyEndpoint) through the chain: tiers, actions, priorities, directions; by real connections.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use integration::traffic::{tcp, tcp_from, udp};
use integration::{Chain, Companion, Doc, Node, Pod, Server, Session, node};
use serde_json::{Value, json};

/// Everybody outside, in both families.
const OUTSIDE: [&str; 2] = ["198.51.100.0/24", "2001:db8:100::/64"];

/// A node with a companion, and a pod `shop/web` that serves; the outside serves too.
struct Scene<'n> {
    node: &'n Node,
    pod: Pod<'n>,
    _companion: Companion,
    _servers: [Server; 2],
}

/// A cluster policy in the making.
struct Cluster {
    name: String,
    spec: Value,
    ordered: bool,
}

impl Cluster {
    fn new(name: &str, tier: &str, priority: u16) -> Self {
        let spec = json!({"policyRef": {"name": name}, "tier": tier, "priority": priority, "ingress": [], "egress": []});
        Self {
            name: name.to_owned(),
            spec,
            ordered: false,
        }
    }

    fn admin(name: &str, priority: u16) -> Self {
        Self::new(name, "Admin", priority)
    }

    fn baseline(name: &str) -> Self {
        Self::new(name, "Baseline", 0)
    }

    /// A rule of a direction for the outside's `number`th address in both families, or for all of them.
    fn rule(self, direction: &str, action: &str, number: Option<usize>) -> Self {
        self.rule_with(direction, action, number, &json!([]))
    }

    fn rule_with(
        mut self,
        direction: &str,
        action: &str,
        number: Option<usize>,
        ports: &Value,
    ) -> Self {
        let blocks = match number {
            None => OUTSIDE.map(str::to_owned),
            Some(number) => node::outside(number).map(|address| address.to_string()),
        };
        for cidr in blocks {
            let mut rule = json!({"cidr": cidr, "action": action});
            if ports.as_array().is_some_and(|ports| !ports.is_empty()) {
                rule["ports"] = ports.clone();
            }
            if let Some(rules) = self.spec[direction].as_array_mut() {
                rules.push(rule);
            }
        }
        self
    }

    /// Its rules hold in list order.
    fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }
}

impl<'n> Scene<'n> {
    fn new(node: &'n Node, mode: &str) -> Self {
        let companion = node.companion();
        let mut pod = node.pod_in("shop", "web");
        pod.add(&Chain::in_mode(node, mode));
        let servers =
            [pod.place(), node.outside()].map(|place| Server::start(&place, &[80, 81], &[53]));
        Self {
            node,
            pod,
            _companion: companion,
            _servers: servers,
        }
    }

    /// Puts a cluster policy for the pod into force.
    fn put(&self, policy: Cluster) {
        let mut spec = policy.spec;
        spec["podSelectorEndpoints"] = json!([{
            "name": self.pod.name(), "namespace": self.pod.namespace(),
            "podIP": self.pod.v4(), "hostIP": node::NODE_V4,
        }]);
        let mut metadata = json!({"name": policy.name});
        if policy.ordered {
            metadata["annotations"] = json!({"podgate.dev/ordered": "true"});
        }
        let document = json!({
            "apiVersion": "networking.k8s.aws/v1alpha1", "kind": "ClusterPolicyEndpoint", "metadata": metadata, "spec": spec,
        });
        self.node
            .put_policy(&format!("{}.json", policy.name), &document.to_string());
        self.node.settle();
    }

    /// Puts a NetworkPolicy for the pod into force.
    fn put_network_policy(&self, name: &str, make: impl FnOnce(Doc) -> Doc) {
        let doc = make(Doc::new("shop", name).selects(&self.pod));
        self.node.put_policy(&format!("{name}.yaml"), &doc.yaml());
        self.node.settle();
    }

    fn remove(&self, file: &str) {
        self.node.remove_policy(file);
        self.node.settle();
    }

    fn own(&self) -> [IpAddr; 2] {
        [self.pod.v4(), self.pod.v6()]
    }

    /// Which of the outside's three addresses reach the pod's TCP port 80; both families must agree.
    #[track_caller]
    fn ingress(&self) -> [bool; 3] {
        let per_family = [0, 1].map(|family| {
            [0, 1, 2].map(|number| {
                let from = node::outside(number)[family];
                tcp_from(&self.node.outside(), from, self.own()[family], 80).is_open()
            })
        });
        assert_eq!(per_family[0], per_family[1], "IPv4 and IPv6");
        per_family[0]
    }

    /// Which of the outside's three addresses the pod reaches by TCP; both families must agree.
    #[track_caller]
    fn egress(&self) -> [bool; 3] {
        let per_family = [0, 1].map(|family| {
            [0, 1, 2]
                .map(|number| tcp(&self.pod.place(), node::outside(number)[family], 80).is_open())
        });
        assert_eq!(per_family[0], per_family[1], "IPv4 and IPv6");
        per_family[0]
    }
}

#[test]
fn admin_comes_before_network_policy_and_pass_leaves_it_to_it() {
    let node = Node::builder("tiers").start();
    let scene = Scene::new(&node, "standard");
    // NetworkPolicy: the first and the second may come in.
    scene.put_network_policy("some", |doc| {
        [0, 1]
            .into_iter()
            .flat_map(node::outside)
            .fold(doc.isolate_ingress(), |doc, peer| doc.ingress(peer, ""))
    });
    assert_eq!(scene.ingress(), [true, true, false]);
    scene.put(
        Cluster::admin("admin", 10)
            .rule("ingress", "Deny", Some(0))
            .rule("ingress", "Pass", Some(1))
            .rule("ingress", "Accept", Some(2)),
    );
    assert_eq!(
        scene.ingress(),
        [false, true, true],
        "denied though allowed below, passed to what allows it, accepted though isolated below"
    );
    assert_eq!(scene.egress(), [true; 3], "the other direction has no rule");
    scene.put(Cluster::admin("admin", 10).rule("ingress", "Pass", None));
    assert_eq!(scene.ingress(), [true, true, false], "all of it passed on");
    scene.remove("admin.json");
    assert_eq!(scene.ingress(), [true, true, false]);
}

#[test]
fn baseline_answers_where_no_network_policy_isolates() {
    let node = Node::builder("tiers").start();
    let scene = Scene::new(&node, "standard");
    scene.put(
        Cluster::baseline("default")
            .rule("ingress", "Deny", Some(0))
            .rule("egress", "Deny", Some(1)),
    );
    assert_eq!(
        (scene.ingress(), scene.egress()),
        ([false, true, true], [true, false, true])
    );
    // An isolated direction is the NetworkPolicies' alone; the other is still the baseline's.
    scene.put_network_policy("first", |doc| {
        node::outside(0)
            .into_iter()
            .fold(doc.isolate_ingress(), |doc, peer| doc.ingress(peer, ""))
    });
    assert_eq!(
        (scene.ingress(), scene.egress()),
        ([true, false, false], [true, false, true])
    );
    scene.remove("first.yaml");
    assert_eq!(
        (scene.ingress(), scene.egress()),
        ([false, true, true], [true, false, true])
    );
    // And an Admin rule comes before it.
    scene.put(Cluster::admin("admin", 0).rule("egress", "Accept", Some(1)));
    assert_eq!(scene.egress(), [true; 3]);
    scene.put(Cluster::admin("admin", 0).rule("egress", "Pass", Some(1)));
    assert_eq!(
        scene.egress(),
        [true, false, true],
        "Pass goes on to the baseline"
    );
}

#[test]
fn in_strict_mode_what_no_tier_answers_stays_closed() {
    let node = Node::builder("tiers").start();
    let scene = Scene::new(&node, "strict");
    assert_eq!((scene.ingress(), scene.egress()), ([false; 3], [false; 3]));
    scene.put(Cluster::baseline("default").rule("ingress", "Accept", Some(1)));
    scene.put(Cluster::admin("admin", 0).rule("egress", "Accept", Some(2)));
    assert_eq!(
        (scene.ingress(), scene.egress()),
        ([false, true, false], [false, false, true])
    );
}

#[test]
fn the_lower_priority_number_answers_first_and_equals_deny_first() {
    let node = Node::builder("tiers").start();
    let scene = Scene::new(&node, "standard");
    scene.put(Cluster::admin("later", 20).rule("ingress", "Deny", None));
    assert_eq!(scene.ingress(), [false; 3]);
    scene.put(Cluster::admin("sooner", 10).rule("ingress", "Accept", Some(0)));
    assert_eq!(scene.ingress(), [true, false, false], "10 before 20");
    // At equal priority: Deny before Accept before Pass, whatever the names.
    scene.put(Cluster::admin("later", 10).rule("ingress", "Deny", None));
    assert_eq!(scene.ingress(), [false; 3]);
    scene.put(Cluster::admin("later", 10).rule("ingress", "Pass", None));
    scene.put(Cluster::admin("last", 30).rule("ingress", "Deny", None));
    assert_eq!(
        scene.ingress(),
        [true; 3],
        "one of two equals accepts; Pass leaves the tier, so that a later priority is not asked"
    );
    scene.remove("later.json");
    assert_eq!(scene.ingress(), [true, false, false], "now it is");
}

#[test]
fn rules_that_are_marked_hold_in_their_order() {
    let node = Node::builder("tiers").start();
    let scene = Scene::new(&node, "standard");
    let policy = || {
        Cluster::admin("list", 1)
            .rule("ingress", "Accept", Some(1))
            .rule("ingress", "Deny", None)
    };
    scene.put(policy());
    assert_eq!(
        scene.ingress(),
        [false; 3],
        "without the mark Deny comes first"
    );
    scene.put(policy().ordered());
    assert_eq!(
        scene.ingress(),
        [false, true, false],
        "with it the list's order counts"
    );
}

#[test]
fn ports_and_protocols_of_a_tier_hold_in_their_direction() {
    let node = Node::builder("tiers").start();
    let scene = Scene::new(&node, "standard");
    let no_http = json!([{"protocol": "TCP", "port": 80}]);
    let no_dns = json!([{"protocol": "UDP", "port": 53}]);
    scene.put(
        Cluster::admin("ports", 1)
            .rule_with("ingress", "Deny", None, &no_http)
            .rule_with("egress", "Deny", None, &no_dns),
    );
    let (outside, pod) = (node.outside(), scene.pod.place());
    for (own, other) in scene.own().into_iter().zip(node::outside(0)) {
        let inwards = [
            tcp(&outside, own, 80),
            tcp(&outside, own, 81),
            udp(&outside, own, 53),
        ];
        assert_eq!(
            inwards.map(|o| o.is_open()),
            [false, true, true],
            "towards {own}"
        );
        let outwards = [
            tcp(&pod, other, 80),
            tcp(&pod, other, 81),
            udp(&pod, other, 53),
        ];
        assert_eq!(
            outwards.map(|o| o.is_open()),
            [true, true, false],
            "towards {other}"
        );
    }
}

#[test]
fn a_tier_reaches_live_connections_and_lets_them_go_on_again() {
    let node = Node::builder("tiers").start();
    let scene = Scene::new(&node, "standard");
    let mut sessions: Vec<Session> = scene
        .own()
        .into_iter()
        .flat_map(|own| [(80, false), (53, true)].map(|(port, udp)| (own, port, udp)))
        .map(|(own, port, udp)| Session::open(&node.outside(), (own, port).into(), udp, None))
        .collect();
    scene.put(Cluster::admin("stop", 1).rule("ingress", "Deny", None));
    assert!(
        sessions
            .iter_mut()
            .all(|s| s.exchange(integration::traffic::PATIENCE).is_silent()),
        "live connections are judged again"
    );
    scene.remove("stop.json");
    assert!(
        sessions
            .iter_mut()
            .all(|s| s.exchange(std::time::Duration::from_secs(4)).is_open()),
        "and again when it is gone"
    );
}
