//! Small random clusters: what the documents allow is what the naive evaluator reads in the manifests, for every pod, every
//! address and every port. `PROPTEST_CASES` asks for more of them (scripts/random-clusters.sh).

use std::net::IpAddr;

use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{Select, select},
};
use resolve::Options;
use serde_json::{Map, Value, json};

use crate::{
    harness::{self, World, addresses_of, name_of},
    naive::{Direction, Naive, Packet},
};

/// As many cases as a plain test run can afford; a shrunk failure becomes a named case, not a seed in a file.
pub(crate) fn cases(few: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(few),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

const NAMESPACES: [&str; 3] = ["x", "y", "z"];

/// A namespace; mostly the same one, so that what is in it meets.
fn a_namespace() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just("x"), 1 => Just("y"), 1 => Just("z")]
}

fn one<T: Clone + std::fmt::Debug + 'static>(of: &[T]) -> Select<T> {
    select(of.to_vec())
}

fn object(entries: Vec<(&'static str, Option<Value>)>) -> Value {
    entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect::<Map<_, _>>()
        .into()
}

/// Labels of pods: two keys, few values.
fn labels() -> impl Strategy<Value = Value> {
    (
        option::weighted(0.8, one(&["a", "b"])),
        option::weighted(0.4, one(&["front", "back"])),
    )
        .prop_map(|(app, tier)| {
            object(vec![
                ("app", app.map(Value::from)),
                ("tier", tier.map(Value::from)),
            ])
        })
}

/// A selector over some keys and values.
fn selector(
    keys: &'static [&'static str],
    values: &'static [&'static str],
) -> impl Strategy<Value = Value> {
    let expression = (
        one(keys),
        one(&["In", "NotIn", "Exists", "DoesNotExist"]),
        vec(one(values), 1..3),
    )
        .prop_map(|(key, operator, values)| match operator {
            "In" | "NotIn" => json!({"key": key, "operator": operator, "values": values}),
            _ => json!({"key": key, "operator": operator}),
        });
    let equal = (one(keys), one(values)).prop_map(|(key, value)| json!({ key: value }));
    prop_oneof![
        2 => Just(json!({})),
        4 => equal.clone().prop_map(|labels| json!({"matchLabels": labels})),
        2 => vec(expression.clone(), 1..3).prop_map(|e| json!({"matchExpressions": e})),
        1 => (equal, expression).prop_map(|(labels, e)| json!({"matchLabels": labels, "matchExpressions": [e]})),
    ]
}

fn pods() -> impl Strategy<Value = Value> {
    selector(&["app", "tier"], &["a", "b", "front"])
}

fn namespaces() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => selector(&["team"], &["a", "b"]),
        1 => one(&NAMESPACES).prop_map(|name| json!({"matchLabels": {"kubernetes.io/metadata.name": name}})),
    ]
}

fn namespace_objects() -> impl Strategy<Value = Vec<Value>> {
    vec(option::weighted(0.8, option::of(one(&["a", "b"]))), 3).prop_map(|teams| {
        let with = NAMESPACES.iter().zip(teams);
        with.filter_map(|(name, team)| {
            let labels = object(vec![("team", team?.map(Value::from))]);
            Some(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))
        })
        .collect()
    })
}

fn nodes() -> Vec<Value> {
    [("n1", "a", 1), ("n2", "b", 2)]
        .map(|(name, zone, n)| {
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"zone": zone}},
                "status": {"addresses": [
                    {"type": "InternalIP", "address": format!("10.9.0.{n}")}, {"type": "InternalIP", "address": format!("fd09::{n}")},
                    {"type": "Hostname", "address": name}]},
            })
        })
        .into()
}

fn container_ports() -> impl Strategy<Value = (Value, Value)> {
    let port = one(&[
        ("http", 80, "TCP"),
        ("http", 8080, "TCP"),
        ("http", 80, "UDP"),
        ("dns", 53, "UDP"),
        ("dns", 53, "TCP"),
        ("sig", 9, "SCTP"),
    ])
    .prop_map(
        |(name, port, protocol)| json!({"name": name, "containerPort": port, "protocol": protocol}),
    );
    (
        vec(port.clone(), 0..3),
        vec(port, 0..2),
        option::of(Just("Always")),
    )
        .prop_map(|(ports, init_ports, restart)| {
            let init = object(vec![
                ("name", Some(json!("i"))),
                ("ports", Some(init_ports.into())),
                ("restartPolicy", restart.map(Value::from)),
            ]);
            (json!([{"name": "c", "ports": ports}]), json!([init]))
        })
}

fn a_pod() -> impl Strategy<Value = Value> {
    (
        a_namespace(),
        labels(),
        container_ports(),
        one(&["both", "both", "both", "v4", "v6", "none", "host", "again"]),
        one(&["Running", "Running", "Running", "Pending", "Succeeded", "Failed"]),
        (option::weighted(0.3, Just("2026-01-01T00:00:00Z")), option::of(one(&["True", "False"]))),
    )
        .prop_map(|(namespace, labels, (containers, init), addresses, phase, (deleted, ready))| {
            let metadata = object(vec![
                ("namespace", Some(namespace.into())),
                ("labels", Some(labels)),
                ("deletionTimestamp", deleted.map(Value::from)),
            ]);
            let mut status = object(vec![(
                "conditions",
                ready.map(|ready| json!([{"type": "Ready", "status": ready}])),
            )]);
            status["phase"] = phase.into();
            // What the addresses are is filled in with the pod's place.
            status["addresses"] = addresses.into();
            json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                "spec": {"containers": containers, "initContainers": init, "hostNetwork": addresses == "host"},
                "status": status,
            })
        })
}

/// Names and addresses by place. `again`: a finished pod whose address the first pod has now.
fn placed(mut pods: Vec<Value>) -> Vec<Value> {
    for (place, pod) in pods.iter_mut().enumerate() {
        pod["metadata"]["name"] = format!("p{place}").into();
        let n = place + 1;
        let (v4, v6) = (format!("10.0.0.{n}"), format!("fd00::{n}"));
        let kind = pod["status"]["addresses"].take();
        let again = kind == "again"
            && matches!(
                pod["status"]["phase"].as_str(),
                Some("Succeeded" | "Failed")
            );
        let ips = match kind.as_str().unwrap() {
            "v4" => vec![v4],
            "v6" => vec![v6],
            "none" => vec![],
            "host" => vec!["10.9.0.1".to_owned(), "fd09::1".to_owned()],
            _ if again => vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()],
            _ => vec![v4, v6],
        };
        let status = pod["status"].as_object_mut().unwrap();
        status.remove("addresses");
        status.insert(
            "podIPs".to_owned(),
            ips.iter().map(|ip| json!({"ip": ip})).collect(),
        );
    }
    pods
}

fn block() -> impl Strategy<Value = Value> {
    one(&[
        json!({"cidr": "0.0.0.0/0"}),
        json!({"cidr": "::/0"}),
        json!({"cidr": "10.0.0.0/29"}),
        json!({"cidr": "10.0.0.0/8", "except": ["10.0.0.2/31"]}),
        json!({"cidr": "0.0.0.0/0", "except": ["10.0.0.0/30", "10.96.0.0/16"]}),
        json!({"cidr": "10.0.0.2/32"}),
        json!({"cidr": "fd00::/125", "except": ["fd00::2/128"]}),
        json!({"cidr": "10.96.0.1/32"}),
        json!({"cidr": "0.0.0.0/4", "except": ["10.0.0.1/32"]}),
        json!({"cidr": "10.96.0.0/12"}),
        json!({"cidr": "fd00::/8", "except": ["fd00::1/128", "fd96::1/128"]}),
        json!({"cidr": "192.0.2.0/24", "except": ["192.0.2.8/29"]}),
        json!({"cidr": "10.9.0.1/32"}),
        json!({"cidr": "192.0.2.0/24"}),
    ])
}

fn network_port() -> impl Strategy<Value = Value> {
    let protocol = || option::of(one(&["TCP", "UDP", "SCTP"]));
    let with = |protocol: Option<&str>, port: Option<Value>, end: Option<u16>| {
        object(vec![
            ("protocol", protocol.map(Value::from)),
            ("port", port),
            ("endPort", end.map(Value::from)),
        ])
    };
    prop_oneof![
        3 => (protocol(), one(&[80u16, 8080, 53, 9])).prop_map(move |(p, n)| with(p, Some(n.into()), None)),
        1 => (protocol(), one(&[53u16, 79]), one(&[80u16, 8080])).prop_map(move |(p, n, e)| with(p, Some(n.into()), Some(e))),
        3 => (protocol(), one(&["http", "dns", "sig"])).prop_map(move |(p, n)| with(p, Some(n.into()), None)),
        1 => protocol().prop_map(move |p| with(p, None, None)),
    ]
}

fn network_peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => block().prop_map(|block| json!({"ipBlock": block})),
        2 => pods().prop_map(|s| json!({"podSelector": s})),
        1 => namespaces().prop_map(|s| json!({"namespaceSelector": s})),
        2 => (pods(), namespaces()).prop_map(|(p, n)| json!({"podSelector": p, "namespaceSelector": n})),
    ]
}

/// Absent, null, empty, or some.
fn maybe<T: std::fmt::Debug>(
    some: impl Strategy<Value = T>,
    most: usize,
) -> impl Strategy<Value = Option<Value>>
where
    Value: From<Vec<T>>,
{
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Value::Null)),
        1 => Just(Some(json!([]))),
        6 => vec(some, 1..=most).prop_map(|some| Some(some.into())),
    ]
}

fn network_rules(peers: &'static str) -> impl Strategy<Value = Option<Value>> {
    let rule = (maybe(network_peer(), 2), maybe(network_port(), 3))
        .prop_map(move |(list, ports)| object(vec![(peers, list), ("ports", ports)]));
    maybe(rule, 2)
}

fn network_policy() -> impl Strategy<Value = Value> {
    (
        a_namespace(),
        pods(),
        one(&[
            None,
            Some(json!([])),
            Some(json!(["Ingress"])),
            Some(json!(["Egress"])),
            Some(json!(["Egress", "Ingress"])),
        ]),
        network_rules("from"),
        network_rules("to"),
    )
        .prop_map(|(namespace, pods, types, ingress, egress)| {
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": namespace},
                "spec": object(vec![("podSelector", Some(pods)), ("policyTypes", types), ("ingress", ingress), ("egress", egress)]),
            })
        })
}

fn pod_set() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => namespaces().prop_map(|s| json!({"namespaces": s})),
        2 => (namespaces(), pods()).prop_map(|(n, p)| json!({"pods": {"namespaceSelector": n, "podSelector": p}})),
    ]
}

fn cluster_rules(
    peers: &'static str,
    peer: impl Strategy<Value = Value> + Clone + 'static,
) -> impl Strategy<Value = Vec<Value>> {
    let number = (one(&["tcp", "udp", "sctp"]), one(&[80u16, 8080, 53, 9]))
        .prop_map(|(p, n)| json!({p: {"destinationPort": {"number": n}}}));
    let range = one(&["tcp", "udp"])
        .prop_map(|p| json!({p: {"destinationPort": {"range": {"start": 53, "end": 8080}}}}));
    let name = one(&["http", "dns", "sig"]).prop_map(|name| json!({"destinationNamedPort": name}));
    let protocol = prop_oneof![2 => number, 1 => range, 2 => name];
    let rule = (
        one(&["Accept", "Deny", "Pass"]),
        vec(peer, 1..3),
        option::of(vec(protocol, 1..3)),
    )
        .prop_map(move |(action, list, protocols)| {
            object(vec![
                ("action", Some(action.into())),
                (peers, Some(list.into())),
                ("protocols", protocols.map(Value::from)),
            ])
        });
    vec(rule, 0..4)
}

fn cluster_policy() -> impl Strategy<Value = Value> {
    let egress_peer = prop_oneof![
        3 => pod_set(),
        1 => selector(&["zone"], &["a", "b"]).prop_map(|s| json!({"nodes": s})),
        1 => vec(block(), 1..3).prop_map(|blocks| json!({"networks": blocks.iter().map(|b| b["cidr"].clone()).collect::<Vec<_>>()})),
    ];
    (
        one(&["Admin", "Admin", "Baseline"]),
        0u16..3,
        prop_oneof![1 => Just(json!({"namespaces": {}})), 1 => pod_set()],
        cluster_rules("from", pod_set().boxed()),
        cluster_rules("to", egress_peer.boxed()),
    )
        .prop_map(|(tier, priority, subject, ingress, egress)| {
            json!({
                "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {},
                "spec": {"tier": tier, "priority": priority, "subject": subject, "ingress": ingress, "egress": egress},
            })
        })
}

/// A Service, and the slice that holds its endpoints where it has no selector.
fn service() -> impl Strategy<Value = Vec<Value>> {
    let port = one(&[
        json!({"name": "a", "port": 80, "targetPort": 8080}),
        json!({"name": "a", "port": 80, "targetPort": "http"}),
        json!({"name": "a", "port": 8080, "protocol": "TCP"}),
        json!({"name": "b", "port": 53, "protocol": "UDP", "targetPort": "dns"}),
        json!({"name": "b", "port": 53, "protocol": "UDP"}),
        json!({"name": "c", "port": 9, "protocol": "SCTP"}),
    ]);
    let endpoint = (
        one(&["10.0.0.1", "10.0.0.2", "fd00::1", "10.9.0.1", "192.0.2.7"]),
        option::of(any::<bool>()),
    )
        .prop_map(|(address, ready)| {
            json!({"addresses": [address], "conditions": object(vec![("ready", ready.map(Value::from))])})
        });
    (
        a_namespace(),
        prop_oneof![
            3 => one(&["a", "b"]).prop_map(|app| Some(json!({"app": app}))),
            1 => labels().prop_map(Some),
            1 => Just(None)
        ],
        vec(port, 1..3),
        one(&["both", "both", "v4", "headless"]),
        vec(endpoint, 0..3),
        one(&["slice", "slice", "slice of the selector", "endpoints"]),
        any::<bool>(),
    )
        .prop_map(|(namespace, selector, mut ports, addresses, endpoints, form, outer)| {
            ports.dedup_by(|a, b| a["name"] == b["name"] || a["port"] == b["port"]);
            let slice_ports: Vec<Value> = ports
                .iter()
                .map(|p| {
                    let number = match &p["targetPort"] {
                        Value::Number(n) => Value::Number(n.clone()),
                        _ => p["port"].clone(),
                    };
                    object(vec![("name", Some(p["name"].clone())), ("port", Some(number)), ("protocol", p.get("protocol").cloned())])
                })
                .collect();
            let service = json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace},
                "spec": object(vec![("selector", selector), ("ports", Some(ports.into())), ("addresses", Some(addresses.into())), ("outer", Some(outer.into()))]),
            });
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"namespace": namespace, "labels": {}}, "ports": slice_ports, "endpoints": endpoints,
            });
            vec![service, in_form(slice, form)]
        })
}

/// A slice, marked as the one that follows the selector or not, or the same as Endpoints.
fn in_form(mut slice: Value, form: &str) -> Value {
    match form {
        "endpoints" => {
            let of = |ready: bool| -> Value {
                let endpoints = slice["endpoints"].as_array().unwrap().iter();
                endpoints
                    .filter(|e| (e["conditions"]["ready"] != false) == ready)
                    .map(|e| json!({"ip": e["addresses"][0]}))
                    .collect()
            };
            json!({
                "apiVersion": "v1", "kind": "Endpoints", "metadata": slice["metadata"],
                "subsets": [{"ports": slice["ports"], "addresses": of(true), "notReadyAddresses": of(false)}],
            })
        }
        "slice of the selector" => {
            slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] =
                "endpointslice-controller.k8s.io".into();
            slice
        }
        _ => slice,
    }
}

fn placed_services(services: Vec<Vec<Value>>) -> Vec<Value> {
    let mut out = Vec::new();
    for (place, mut pair) in services.into_iter().enumerate() {
        let name = format!("s{place}");
        let n = place + 1;
        for object in &mut pair {
            object["metadata"]["name"] = name.as_str().into();
        }
        pair[1]["metadata"]["labels"]["kubernetes.io/service-name"] = name.as_str().into();
        let spec = pair[0]["spec"].as_object_mut().unwrap();
        let kind = spec.remove("addresses").unwrap();
        let (v4, v6) = (format!("10.96.0.{n}"), format!("fd96::{n}"));
        let ips = match kind.as_str().unwrap() {
            "both" => json!([v4, v6]),
            "v4" => json!([v4]),
            _ => json!(["None"]),
        };
        spec.insert("clusterIP".to_owned(), ips[0].clone());
        spec.insert("clusterIPs".to_owned(), ips);
        if spec.remove("outer") == Some(json!(true)) {
            spec.insert(
                "externalIPs".to_owned(),
                json!([format!("192.0.2.{}", 8 + n)]),
            );
            pair[0]["status"] = json!({"loadBalancer": {"ingress": [
                {"ip": format!("198.51.100.{n}")}, {"ip": format!("203.0.113.{n}"), "ipMode": "Proxy"}, {"hostname": "x.test"}]}});
        }
        out.append(&mut pair);
    }
    out
}

fn named(mut objects: Vec<Value>, stem: &str) -> Vec<Value> {
    for (place, object) in objects.iter_mut().enumerate() {
        object["metadata"]["name"] = format!("{stem}{place}").into();
    }
    objects
}

/// A whole cluster.
pub(crate) fn clusters() -> impl Strategy<Value = Vec<Value>> {
    (
        namespace_objects(),
        vec(a_pod(), 1..7),
        vec(network_policy(), 0..4),
        vec(cluster_policy(), 0..3),
        vec(service(), 0..3),
    )
        .prop_map(|(namespaces, pods, network, cluster, services)| {
            [
                namespaces,
                nodes(),
                placed(pods),
                placed_services(services),
                named(network, "np"),
                named(cluster, "cnp"),
            ]
            .concat()
        })
}

const PACKETS: [(&str, u8, u16); 7] = [
    ("TCP", 6, 80),
    ("TCP", 6, 8080),
    ("TCP", 6, 53),
    ("UDP", 17, 53),
    ("UDP", 17, 80),
    ("SCTP", 132, 9),
    ("TCP", 6, 443),
];

/// Every question to both; gives the number of questions.
pub(crate) fn agree(objects: &[Value], world: &World, strict_services: bool) -> usize {
    let naive = Naive {
        objects,
        strict_services,
    };
    let mut addresses: Vec<IpAddr> = [
        "10.9.0.1",
        "fd09::2",
        "192.0.2.7",
        "198.51.100.1",
        "2001:db8::1",
    ]
    .iter()
    .map(|a| a.parse().unwrap())
    .collect();
    for pod in objects.iter().filter(|o| o["kind"] == "Pod") {
        addresses.extend(addresses_of(pod));
    }
    let pods_and_others = addresses.len();
    for service in objects.iter().filter(|o| o["kind"] == "Service") {
        let of = |list: &Value| list.as_array().cloned().unwrap_or_default();
        let mut ips = of(&service["spec"]["clusterIPs"]);
        ips.extend(of(&service["spec"]["externalIPs"]));
        let balancers = of(&service["status"]["loadBalancer"]["ingress"]);
        ips.extend(balancers.iter().filter_map(|b| b.get("ip").cloned()));
        addresses.extend(
            ips.iter()
                .filter_map(|ip| ip.as_str().unwrap().parse::<IpAddr>().ok()),
        );
    }
    let mut questions = 0;
    for pod in objects.iter().filter(|o| o["kind"] == "Pod") {
        let name = name_of(pod);
        for (direction, theirs, count) in [
            (
                Direction::Ingress,
                policy::Direction::Ingress,
                pods_and_others,
            ),
            (
                Direction::Egress,
                policy::Direction::Egress,
                addresses.len(),
            ),
        ] {
            for address in &addresses[..count] {
                for (text, protocol, port) in PACKETS {
                    let packet = Packet {
                        protocol: text,
                        port: u64::from(port),
                    };
                    let expected = naive.allows(pod, direction, *address, packet);
                    let found = world.passes(&name, theirs, *address, protocol, port);
                    assert_eq!(
                        found, expected,
                        "{name} {direction:?} {address} {text} {port}: found {found}, the manifests say {expected}"
                    );
                    questions += 1;
                }
            }
        }
    }
    questions
}

/// A file of manifests.
pub(crate) fn text(objects: &[Value]) -> String {
    let texts: Vec<String> = objects.iter().map(ToString::to_string).collect();
    texts.join("\n---\n")
}

#[test]
fn random_clusters() {
    let questions = std::cell::Cell::new(0usize);
    let clusters_seen = std::cell::Cell::new(0usize);
    let config = cases(300);
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(
            &(clusters(), any::<bool>()),
            |(objects, strict_services)| {
                let options = Options {
                    strict_services,
                    node: None,
                    ..Options::default()
                };
                let mut cluster = harness::cluster(options, &text(&objects));
                let changes = cluster.resolve();
                let world = harness::world_of(&objects, &cluster, changes);
                questions.set(questions.get() + agree(&objects, &world, strict_services));
                clusters_seen.set(clusters_seen.get() + 1);
                Ok(())
            },
        )
        .unwrap_or_else(|error| panic!("{error}"));
    println!(
        "random clusters: {}, questions: {}, wrong: 0",
        clusters_seen.get(),
        questions.get()
    );
    assert!(questions.get() > 100 * clusters_seen.get());
}
