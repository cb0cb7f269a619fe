//! Random documents out of bytes, as text of the store: few addresses, ports, pods and policies, so that everything overlaps.
//! The fuzzer of the compiler takes them from here too.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};
use verdict_testkit::generate::Source;

/// An address that documents and packets have in common.
pub(crate) fn address(source: &mut Source<'_>) -> IpAddr {
    let net = u16::from(source.byte() % 4);
    let host = u16::from(source.pick(&[0u8, 1, 2, 3, 4, 7, 10, 126, 127, 128, 129, 254, 255]));
    match source.byte() % 16 {
        0..=5 => IpAddr::from([10, 9, net as u8, host as u8]),
        6..=11 => IpAddr::from([0xfd09, 0, 0, 0, 0, 0, net, host]),
        12 => IpAddr::from([192, 0, 2, host as u8]),
        13 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host]),
        14 => IpAddr::from([10, 96, 0, host as u8]),
        _ => IpAddr::from([0xfd96, 0, 0, 0, 0, 0, 0, host]),
    }
}

/// Ports that documents and packets have in common.
pub(crate) const PORTS: [u16; 14] = [
    80, 79, 81, 443, 53, 22, 1, 8080, 30080, 32767, 32768, 40000, 65534, 65535,
];

fn length(source: &mut Source<'_>, address: IpAddr) -> u8 {
    let v4 = source.pick(&[32u8, 32, 32, 31, 30, 29, 25, 24, 24, 22, 16, 8, 1, 0]);
    match address {
        IpAddr::V4(_) => v4,
        // The last group takes the part of IPv4's last byte.
        IpAddr::V6(_) => match v4 {
            0 | 1 => v4,
            8 | 16 => v4 * 4,
            _ => v4 + 96,
        },
    }
}

fn block(source: &mut Source<'_>) -> (IpAddr, u8) {
    let address = address(source);
    let length = length(source, address);
    (network(address, length), length)
}

/// The address without its host bits.
fn network(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(a) & mask).into())
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(a) & mask).into())
        }
    }
}

fn rule(source: &mut Source<'_>, cluster: bool) -> Value {
    let (address, length) = block(source);
    let mut rule = json!({"cidr": format!("{address}/{length}")});
    let holes: Vec<String> = (0..source.byte() % 3)
        .filter_map(|_| {
            let (hole, more) = block(source);
            let inside = hole.is_ipv4() == address.is_ipv4()
                && more >= length
                && network(hole, length) == address;
            inside.then(|| format!("{hole}/{more}"))
        })
        .collect();
    if !holes.is_empty() {
        rule["except"] = json!(holes);
    }
    let ports: Vec<Value> = (0..source.pick(&[0u8, 0, 1, 1, 2, 4]))
        .map(|_| port(source))
        .collect();
    if !ports.is_empty() {
        rule["ports"] = json!(ports);
    }
    if cluster {
        rule["action"] = json!(source.pick(&["Accept", "Deny", "Pass"]));
    }
    rule
}

fn port(source: &mut Source<'_>) -> Value {
    let mut entry = json!({});
    if !source.rarely(4) {
        entry["protocol"] = json!(source.pick(&["TCP", "TCP", "UDP", "SCTP"]));
    }
    if !source.rarely(4) {
        let (one, other) = (source.pick(&PORTS), source.pick(&PORTS));
        entry["port"] = json!(one.min(other));
        if source.rarely(2) {
            entry["endPort"] = json!(one.max(other));
        }
    }
    entry
}

fn rules(source: &mut Source<'_>, cluster: bool) -> Vec<Value> {
    (0..source.byte() % 4)
        .map(|_| rule(source, cluster))
        .collect()
}

fn selector(source: &mut Source<'_>) -> Value {
    let value = source.pick(&["a", "b"]);
    match source.byte() % 6 {
        0 => json!({}),
        1 => json!({"matchLabels": {"app": value}}),
        2 => {
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [value]}]})
        }
        3 => json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
        4 => json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}),
        _ => {
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a", value]}]})
        }
    }
}

/// One document, with its name.
fn document(source: &mut Source<'_>) -> (String, Value) {
    let tier = source.pick(&["", "", "", "Admin", "Admin", "Baseline"]);
    let cluster = !tier.is_empty();
    let (policy, part) = (source.byte() % 3, source.byte() % 4);
    let name = format!("p{policy}-{part}");
    let pods: Vec<Value> = (0..source.byte() % 4)
        .map(|_| {
            let name = format!("pod-{}", source.byte() % 4);
            json!({"name": name, "namespace": "default", "podIP": "10.0.0.2", "hostIP": "10.0.0.1"})
        })
        .collect();
    let mut annotations = json!({});
    if source.rarely(10) {
        annotations["podgate.dev/group"] = json!("g");
    }
    let mut spec = json!({
        "podSelectorEndpoints": pods,
        "ingress": rules(source, cluster),
        "egress": rules(source, cluster),
    });
    if cluster {
        spec["policyRef"] = json!({"name": format!("p{policy}")});
        spec["tier"] = json!(tier);
        spec["priority"] = json!(source.byte() % 3);
        // One policy in three holds in list order.
        if policy == 0 || source.rarely(2) {
            annotations["podgate.dev/ordered"] = json!("true");
        }
    } else {
        spec["policyRef"] = json!({"name": format!("p{policy}"), "namespace": "default"});
        let isolation = source.pick(&[&[][..], &["Ingress"], &["Egress"], &["Ingress", "Egress"]]);
        spec["podIsolation"] = json!(isolation);
        if source.rarely(3) {
            spec["podSelector"] = selector(source);
        }
    }
    let kind = if cluster {
        "ClusterPolicyEndpoint"
    } else {
        "PolicyEndpoint"
    };
    let mut metadata = json!({"name": name, "annotations": annotations});
    if !cluster {
        metadata["namespace"] = json!("default");
    }
    let document = json!({
        "apiVersion": "networking.k8s.aws/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec,
    });
    (format!("{kind}/{name}"), document)
}

/// Documents with names of their own, as one `List`.
pub(crate) fn documents(source: &mut Source<'_>) -> Value {
    let documents: BTreeMap<String, Value> =
        (0..source.byte() % 8).map(|_| document(source)).collect();
    let items: Vec<Value> = documents.into_values().collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}
