//! The cluster that every case begins with: names, addresses, labels, ports, Services. Facts only; nothing here runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::expect::Protocol;
use crate::node;

/// The node's name in the manifests.
pub const NODE: &str = "node-1";
/// The namespaces.
pub const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// The pods of each.
pub const PODS: [&str; 3] = ["a", "b", "c"];
/// The ports on which everybody serves.
pub const PORTS: [u16; 2] = [80, 81];
/// How many of the outside host's addresses take part: `o/0`, `o/1`.
pub const OUTSIDE: usize = 2;

/// The addresses of the `pod`th pod of the `namespace`th namespace: 10.88.1.11 and `fd00:88::1:11` for x/a, 10.88.3.12 for z/b.
#[must_use]
pub fn addresses(namespace: usize, pod: usize) -> [IpAddr; 2] {
    let n = u8::try_from(namespace + 1).unwrap_or(u8::MAX);
    let p = u8::try_from(pod + 1).unwrap_or(u8::MAX);
    [
        Ipv4Addr::new(10, 88, n, 10 + p).into(),
        Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, n.into(), 0x10 + u16::from(p)).into(),
    ]
}

/// A Service, with the one backend that the node sends to: a choice that any proxy may make.
#[derive(Debug, Clone)]
pub struct Service {
    /// `namespace/name`.
    pub name: &'static str,
    /// Its cluster addresses.
    pub cluster: [IpAddr; 2],
    /// Its port.
    pub port: u16,
    /// All pods behind it, and their port.
    pub backends: &'static [(&'static str, u16)],
    /// The one of them that gets the connections.
    pub chosen: usize,
    spec: fn() -> Value,
}

/// The Services: another port, a named one that leads to 81, several backends, and one whose backends are written by hand.
#[must_use]
pub fn services() -> Vec<Service> {
    let cluster = |n: u8| -> [IpAddr; 2] {
        [
            Ipv4Addr::new(10, 96, 0, n).into(),
            Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, n.into()).into(),
        ]
    };
    vec![
        Service {
            name: "x/web",
            cluster: cluster(1),
            port: 8080,
            backends: &[("x/a", 80)],
            chosen: 0,
            spec: || json!({"selector": {"app": "a"}, "ports": [{"name": "web", "port": 8080, "targetPort": 80}]}),
        },
        Service {
            name: "y/named",
            cluster: cluster(2),
            port: 80,
            backends: &[("y/b", 81)],
            chosen: 0,
            spec: || json!({"selector": {"app": "b"}, "ports": [{"port": 80, "targetPort": "http"}]}),
        },
        Service {
            name: "z/all",
            cluster: cluster(3),
            port: 81,
            backends: &[("z/a", 81), ("z/b", 81), ("z/c", 81)],
            chosen: 1,
            spec: || json!({"selector": {"serves": "yes"}, "ports": [{"port": 81}]}),
        },
        Service {
            name: "y/manual",
            cluster: cluster(4),
            port: 90,
            backends: &[("y/c", 80)],
            chosen: 0,
            spec: || json!({"ports": [{"name": "manual", "port": 90, "targetPort": 80}]}),
        },
    ]
}

/// Which transports Services have.
pub const SERVICE_PROTOCOL: Protocol = Protocol::Tcp;

/// The labels of a pod.
#[must_use]
pub fn labels(pod: &str) -> Value {
    let mut labels = json!({"pod": pod, "app": pod, "serves": "yes"});
    match pod {
        "a" => labels["role"] = json!("web"),
        "b" => labels["role"] = json!("db"),
        _ => {}
    }
    labels
}

/// A pod as the API shows a running one.
#[must_use]
pub fn pod(
    namespace: &str,
    name: &str,
    uid: &str,
    labels: &Value,
    ports_of: &str,
    ips: [IpAddr; 2],
) -> Value {
    let port = |name: String, number: u16, protocol: &str| json!({"name": name, "containerPort": number, "protocol": protocol});
    let mut ports = Vec::new();
    for number in PORTS {
        for protocol in ["TCP", "UDP", "SCTP"] {
            ports.push(port(
                format!("serve-{number}-{}", protocol.to_lowercase()),
                number,
                protocol,
            ));
        }
    }
    // A name that is another number in another pod, and none in the third.
    match ports_of {
        "a" => ports.extend([
            port("http".into(), 80, "TCP"),
            port("dns".into(), 81, "UDP"),
        ]),
        "b" => ports.extend([
            port("http".into(), 81, "TCP"),
            port("dns".into(), 80, "UDP"),
        ]),
        _ => {}
    }
    let mut spec = json!({
        "nodeName": NODE,
        "containers": [{"name": "main", "image": "example/server", "ports": ports}],
    });
    if ports_of == "c" {
        spec["initContainers"] = json!([{
            "name": "proxy", "image": "example/proxy", "restartPolicy": "Always", "ports": [port("side".into(), 81, "TCP")],
        }]);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": uid, "labels": labels},
        "spec": spec,
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "hostIP": node::NODE_V4,
            "hostIPs": [{"ip": node::NODE_V4}, {"ip": node::NODE_V6}],
            "podIP": ips[0],
            "podIPs": [{"ip": ips[0]}, {"ip": ips[1]}],
        },
    })
}

/// What there is beside the pods: node, namespaces, Services and the slice of the one that selects nothing.
#[must_use]
pub fn surroundings() -> Vec<Value> {
    let mut all = vec![json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}},
        "status": {"addresses": [
            {"type": "InternalIP", "address": node::NODE_V4},
            {"type": "InternalIP", "address": node::NODE_V6},
        ]},
    })];
    for namespace in NAMESPACES {
        let mut labels = json!({"kubernetes.io/metadata.name": namespace, "ns": namespace});
        if namespace != "z" {
            labels["zone"] = json!("east");
        }
        all.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}));
    }
    for service in services() {
        let (namespace, name) = service.name.split_once('/').unwrap_or_default();
        let mut spec = (service.spec)();
        spec["clusterIP"] = json!(service.cluster[0]);
        spec["clusterIPs"] = json!(service.cluster);
        spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
        spec["ipFamilyPolicy"] = json!("RequireDualStack");
        spec["type"] = json!("ClusterIP");
        all.push(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace}, "spec": spec,
        }));
    }
    let y_c = addresses(1, 2);
    for (family, address) in ["IPv4", "IPv6"].into_iter().zip(y_c) {
        all.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("manual-{}", family.to_lowercase()), "namespace": "y",
                "labels": {"kubernetes.io/service-name": "manual"},
            },
            "addressType": family,
            "endpoints": [{
                "addresses": [address], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "namespace": "y", "name": "c"},
            }],
            "ports": [{"name": "manual", "port": 80, "protocol": "TCP"}],
        }));
    }
    all
}

/// The policy that opens a direction of which a case says nothing, for strict mode.
#[must_use]
pub fn opener(namespace: &str, direction: &str) -> Value {
    let mut spec = json!({"podSelector": {}, "policyTypes": [direction]});
    spec[direction.to_lowercase()] = json!([{}]);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("zz-open-{}", direction.to_lowercase()), "namespace": namespace},
        "spec": spec,
    })
}
