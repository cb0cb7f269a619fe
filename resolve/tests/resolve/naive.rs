//! The answer straight from the manifests, written from the specification of NetworkPolicy and of ClusterNetworkPolicy. It
//! shares nothing with `resolve`: it reads JSON, and asks each rule about each packet.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::Value;

/// A cluster as a list of manifests.
pub(crate) struct Naive<'a> {
    pub(crate) objects: &'a [Value],
    pub(crate) strict_services: bool,
}

/// A packet's other side and its destination port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) protocol: &'static str,
    pub(crate) port: u64,
}

/// How a rule has to name an address: in any way, or the address itself and not a block around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Naming {
    Any,
    Itself,
}

/// A block of more than one address.
fn is_wide(cidr: &Value) -> bool {
    cidr.as_str()
        .is_some_and(|cidr| !cidr.ends_with(if cidr.contains(':') { "/128" } else { "/32" }))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    fn rules(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
    fn peers(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }
    fn policy_type(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"]
        .as_str()
        .unwrap_or("default")
}

fn host_network(pod: &Value) -> bool {
    pod["spec"]["hostNetwork"] == true
}

fn finished(pod: &Value) -> bool {
    matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    )
}

fn has_address(pod: &Value, address: IpAddr) -> bool {
    list(&pod["status"]["podIPs"]).any(|ip| ip["ip"].as_str().unwrap().parse() == Ok(address))
}

/// Every requirement of the selector holds; an absent selector asks for nothing.
fn selector_matches(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str());
    equal
        && list(&selector["matchExpressions"]).all(|expression| {
            let value = labels.get(expression["key"].as_str().unwrap());
            let among =
                |value: &String| list(&expression["values"]).any(|v| v.as_str() == Some(value));
            match expression["operator"].as_str().unwrap() {
                "In" => value.is_some_and(among),
                "NotIn" => !value.is_some_and(among),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("operator {other}"),
            }
        })
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    object["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
        .collect()
}

fn in_block(cidr: &Value, address: IpAddr) -> bool {
    let (base, len) = cidr.as_str().unwrap().split_once('/').unwrap();
    let len: u32 = len.parse().unwrap();
    match (base.parse().unwrap(), address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            len == 0 || (u32::from(base) ^ u32::from(address)) >> (32 - len) == 0
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            len == 0 || (u128::from(base) ^ u128::from(address)) >> (128 - len) == 0
        }
        _ => false,
    }
}

impl<'a> Naive<'a> {
    fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |o| o["kind"] == kind)
    }

    fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> = self
            .of_kind("Namespace")
            .filter(|o| o["metadata"]["name"] == name)
            .flat_map(labels)
            .collect();
        all.insert("kubernetes.io/metadata.name".to_owned(), name.to_owned());
        all
    }

    /// Whether a selector takes a namespace. One without an object has labels that nobody knows: it is in no selection
    /// that asks for the absence of something.
    fn namespace_matches(&self, selector: &Value, name: &str) -> bool {
        let has_object = self
            .of_kind("Namespace")
            .any(|o| o["metadata"]["name"] == name);
        let asks_for_absence = list(&selector["matchExpressions"]).any(|e| {
            e["key"] != "kubernetes.io/metadata.name"
                && (e["operator"] == "NotIn" || e["operator"] == "DoesNotExist")
        });
        selector_matches(selector, &self.namespace_labels(name))
            && (has_object || !asks_for_absence)
    }

    /// Pods whose address this is, finished ones left out. Those of the host's network have their node's.
    fn pods_at(&self, address: IpAddr) -> impl Iterator<Item = &'a Value> {
        self.of_kind("Pod")
            .filter(move |p| !finished(p) && has_address(p, address))
    }

    /// The same, as the cluster-wide kinds of policy.networking.k8s.io select them: none of the host's network.
    fn own_pods_at(&self, address: IpAddr) -> impl Iterator<Item = &'a Value> {
        self.pods_at(address).filter(|p| !host_network(p))
    }

    /// Whether a pod may exchange a packet with an address, in a direction; where no policy speaks, it may.
    pub(crate) fn allows(
        &self,
        pod: &Value,
        direction: Direction,
        address: IpAddr,
        packet: Packet,
    ) -> bool {
        if host_network(pod) {
            return true;
        }
        match self.tier("Admin", pod, direction, address, packet) {
            Some("Accept") => return true,
            Some("Deny") => return false,
            _ => {}
        }
        let isolating: Vec<&Value> = self
            .of_kind("NetworkPolicy")
            .filter(|policy| {
                namespace_of(policy) == namespace_of(pod)
                    && selector_matches(&policy["spec"]["podSelector"], &labels(pod))
                    && isolates(policy, direction)
            })
            .collect();
        if !isolating.is_empty() {
            return isolating.iter().any(|policy| {
                if direction == Direction::Egress && !self.backends(address, packet).is_empty() {
                    return self.policy_allows_service(policy, pod, address, packet);
                }
                self.policy_allows(policy, pod, direction, address, packet, Naming::Any)
            });
        }
        self.tier("Baseline", pod, direction, address, packet) != Some("Deny")
    }

    fn policy_allows(
        &self,
        policy: &Value,
        pod: &Value,
        direction: Direction,
        address: IpAddr,
        packet: Packet,
        naming: Naming,
    ) -> bool {
        list(&policy["spec"][direction.rules()]).any(|rule| {
            let peers = &rule[direction.peers()];
            let anybody = list(peers).next().is_none();
            let itself = |peer: &Value| naming == Naming::Any || !is_wide(&peer["ipBlock"]["cidr"]);
            ((anybody && naming == Naming::Any)
                || list(peers).any(|peer| itself(peer) && self.peer_matches(peer, policy, address)))
                && self.ports_match(&rule["ports"], pod, direction, address, packet)
        })
    }

    fn peer_matches(&self, peer: &Value, policy: &Value, address: IpAddr) -> bool {
        if let Some(block) = peer.get("ipBlock") {
            return in_block(&block["cidr"], address)
                && !list(&block["except"]).any(|hole| in_block(hole, address));
        }
        self.pods_at(address).any(|pod| {
            let namespace = match peer.get("namespaceSelector") {
                None => namespace_of(pod) == namespace_of(policy),
                Some(selector) => self.namespace_matches(selector, namespace_of(pod)),
            };
            namespace && selector_matches(&peer["podSelector"], &labels(pod))
        })
    }

    /// A named port is one of the pod that the packet goes to.
    fn ports_match(
        &self,
        ports: &Value,
        pod: &Value,
        direction: Direction,
        address: IpAddr,
        packet: Packet,
    ) -> bool {
        if list(ports).next().is_none() {
            return true;
        }
        list(ports).any(|entry| {
            if entry["protocol"].as_str().unwrap_or("TCP") != packet.protocol {
                return false;
            }
            match &entry["port"] {
                Value::Null => true,
                Value::Number(first) => {
                    let first = first.as_u64().unwrap();
                    let last = entry["endPort"].as_u64().unwrap_or(first);
                    (first..=last).contains(&packet.port)
                }
                Value::String(name) => self.has_named(name, pod, direction, address, packet),
                other => panic!("port {other}"),
            }
        })
    }

    fn has_named(
        &self,
        name: &str,
        pod: &Value,
        direction: Direction,
        address: IpAddr,
        packet: Packet,
    ) -> bool {
        let has = |pod: &Value| {
            ["containers", "initContainers"].iter().any(|of| {
                list(&pod["spec"][of])
                    .flat_map(|container| list(&container["ports"]))
                    .any(|port| {
                        port["name"] == name
                            && port["protocol"].as_str().unwrap_or("TCP") == packet.protocol
                            && port["containerPort"] == packet.port
                    })
            })
        };
        match direction {
            Direction::Ingress => has(pod),
            Direction::Egress => self.pods_at(address).any(has),
        }
    }

    /// What the policies of a tier say, by priority; at equal priority Deny before Accept before Pass.
    fn tier(
        &self,
        tier: &str,
        pod: &Value,
        direction: Direction,
        address: IpAddr,
        packet: Packet,
    ) -> Option<&'a str> {
        let mut speaking: Vec<(u64, u8, &str)> = self
            .of_kind("ClusterNetworkPolicy")
            .filter(|policy| {
                policy["spec"]["tier"] == tier && self.in_set(&policy["spec"]["subject"], pod)
            })
            .filter_map(|policy| {
                let action = self.first_action(policy, pod, direction, address, packet)?;
                let rank = ["Deny", "Accept", "Pass"].iter().position(|a| *a == action);
                let priority = policy["spec"]["priority"].as_u64().unwrap();
                Some((priority, u8::try_from(rank.unwrap()).unwrap(), action))
            })
            .collect();
        speaking.sort_unstable();
        speaking.first().map(|(_, _, action)| *action)
    }

    /// Whether a pod is in `namespaces` or `pods`.
    fn in_set(&self, set: &Value, pod: &Value) -> bool {
        let namespace = namespace_of(pod);
        match set.get("namespaces") {
            Some(selector) => self.namespace_matches(selector, namespace),
            None => {
                self.namespace_matches(&set["pods"]["namespaceSelector"], namespace)
                    && selector_matches(&set["pods"]["podSelector"], &labels(pod))
            }
        }
    }

    /// The first rule that matches, by its place.
    fn first_rule(
        &self,
        policy: &'a Value,
        pod: &Value,
        direction: Direction,
        address: IpAddr,
        packet: Packet,
        naming: Naming,
    ) -> Option<usize> {
        list(&policy["spec"][direction.rules()]).position(|rule| {
            let naming = match rule["action"] == "Deny" {
                true => Naming::Any,
                false => naming,
            };
            list(&rule[direction.peers()])
                .any(|peer| self.cluster_peer_matches(peer, address, naming))
                && self.protocols_match(&rule["protocols"], pod, direction, address, packet)
        })
    }

    fn first_action(
        &self,
        policy: &'a Value,
        pod: &Value,
        direction: Direction,
        address: IpAddr,
        packet: Packet,
    ) -> Option<&'a str> {
        let action = |place: usize| {
            policy["spec"][direction.rules()][place]["action"]
                .as_str()
                .unwrap()
        };
        let backends = self.backends(address, packet);
        // Behind a Service's address its backends decide, but for rules that name the address itself, and refusals.
        let naming = match backends.is_empty() || direction == Direction::Ingress {
            true => Naming::Any,
            false => Naming::Itself,
        };
        let own = self.first_rule(policy, pod, direction, address, packet, naming);
        if direction == Direction::Ingress {
            return own.map(action);
        }
        // A Service's address stands for its backends: the most permissive (or strictest) of what they get.
        let rank = |place: &Option<usize>| match place.map(action) {
            Some("Deny") => 0,
            Some("Accept") => 2,
            _ => 1,
        };
        let backends: Vec<Option<usize>> = backends
            .into_iter()
            .map(|(backend, port)| {
                let packet = Packet { port, ..packet };
                self.first_rule(policy, pod, direction, backend, packet, Naming::Any)
            })
            .collect();
        let chosen = match self.strict_services {
            true => backends.iter().map(rank).min(),
            false => backends.iter().map(rank).max(),
        };
        let led = backends
            .iter()
            .filter(|place| Some(rank(place)) == chosen)
            .min()
            .copied()
            .flatten();
        match (own, led) {
            (Some(own), Some(led)) => Some(action(own.min(led))),
            (own, led) => own.or(led).map(action),
        }
    }

    fn cluster_peer_matches(&self, peer: &Value, address: IpAddr, naming: Naming) -> bool {
        if let Some(networks) = peer.get("networks") {
            return list(networks).any(|network| {
                in_block(network, address) && (naming == Naming::Any || !is_wide(network))
            });
        }
        if let Some(selector) = peer.get("nodes") {
            return self.of_kind("Node").any(|node| {
                selector_matches(selector, &labels(node))
                    && list(&node["status"]["addresses"])
                        .any(|a| a["address"].as_str().unwrap().parse() == Ok(address))
            });
        }
        self.own_pods_at(address).any(|pod| self.in_set(peer, pod))
    }

    fn protocols_match(
        &self,
        protocols: &Value,
        pod: &Value,
        direction: Direction,
        address: IpAddr,
        packet: Packet,
    ) -> bool {
        if list(protocols).next().is_none() {
            return true;
        }
        list(protocols).any(|entry| {
            if let Some(name) = entry.get("destinationNamedPort") {
                let on_host =
                    direction == Direction::Egress && self.own_pods_at(address).next().is_none();
                return !on_host
                    && self.has_named(name.as_str().unwrap(), pod, direction, address, packet);
            }
            let Some(transport) = entry.get(packet.protocol.to_lowercase()) else {
                return false;
            };
            let port = &transport["destinationPort"];
            match (port["number"].as_u64(), port.get("range")) {
                (Some(number), _) => number == packet.port,
                (None, Some(range)) => (range["start"].as_u64().unwrap()
                    ..=range["end"].as_u64().unwrap())
                    .contains(&packet.port),
                (None, None) => true,
            }
        })
    }

    /// Where a packet to a Service's address goes: ready backends of the address's family, all where none is ready.
    fn backends(&self, address: IpAddr, packet: Packet) -> Vec<(IpAddr, u64)> {
        let mut out = Vec::new();
        for service in self.of_kind("Service") {
            let spec = &service["spec"];
            if list(&spec["clusterIPs"]).all(|ip| ip == "None") {
                continue;
            }
            let balancers = list(&service["status"]["loadBalancer"]["ingress"])
                .filter(|entry| entry["ipMode"] != "Proxy" && entry.get("ip").is_some())
                .map(|entry| &entry["ip"]);
            let here = list(&spec["clusterIPs"])
                .chain(list(&spec["externalIPs"]))
                .chain(balancers)
                .any(|ip| ip.as_str().unwrap().parse() == Ok(address));
            if !here {
                continue;
            }
            for port in list(&service["spec"]["ports"]) {
                if port["protocol"].as_str().unwrap_or("TCP") != packet.protocol
                    || port["port"] != packet.port
                {
                    continue;
                }
                let all = self.endpoints(service, port, packet);
                let of_family = all
                    .into_iter()
                    .filter(|(backend, ..)| backend.is_ipv4() == address.is_ipv4())
                    .collect::<Vec<_>>();
                let any_ready = of_family.iter().any(|(.., ready)| *ready);
                out.extend(
                    of_family
                        .into_iter()
                        .filter(|(.., ready)| *ready || !any_ready)
                        .map(|(backend, port, _)| (backend, port)),
                );
            }
        }
        out
    }

    fn endpoints(&self, service: &Value, port: &Value, packet: Packet) -> Vec<(IpAddr, u64, bool)> {
        let wanted: BTreeMap<String, String> = service["spec"]["selector"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
            .collect();
        let mut out = Vec::new();
        let mut slices = 0;
        for slice in self.of_kind("EndpointSlice") {
            let label = |name: &str| slice["metadata"]["labels"][name].as_str();
            if namespace_of(slice) != namespace_of(service)
                || label("kubernetes.io/service-name") != service["metadata"]["name"].as_str()
                || (!wanted.is_empty()
                    && label("endpointslice.kubernetes.io/managed-by")
                        == Some("endpointslice-controller.k8s.io"))
            {
                continue;
            }
            slices += 1;
            for slice_port in list(&slice["ports"]) {
                if slice_port["name"] == port["name"]
                    && slice_port["protocol"].as_str().unwrap_or("TCP") == packet.protocol
                {
                    for endpoint in list(&slice["endpoints"]) {
                        for address in list(&endpoint["addresses"]) {
                            out.push((
                                address.as_str().unwrap().parse().unwrap(),
                                slice_port["port"].as_u64().unwrap(),
                                endpoint["conditions"]["ready"] != false,
                            ));
                        }
                    }
                }
            }
        }
        if wanted.is_empty() {
            let old = self.of_kind("Endpoints").filter(|e| {
                slices == 0
                    && namespace_of(e) == namespace_of(service)
                    && e["metadata"]["name"] == service["metadata"]["name"]
            });
            for subset in old.flat_map(|e| list(&e["subsets"])) {
                let ports = list(&subset["ports"]).filter(|p| {
                    p["name"] == port["name"]
                        && p["protocol"].as_str().unwrap_or("TCP") == packet.protocol
                });
                for port in ports {
                    for (key, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                        for address in list(&subset[key]) {
                            out.push((
                                address["ip"].as_str().unwrap().parse().unwrap(),
                                port["port"].as_u64().unwrap(),
                                ready,
                            ));
                        }
                    }
                }
            }
            return out;
        }
        for pod in self.of_kind("Pod") {
            let own = labels(pod);
            if namespace_of(pod) != namespace_of(service)
                || finished(pod)
                || !wanted.iter().all(|(k, v)| own.get(k) == Some(v))
            {
                continue;
            }
            let target = match &port["targetPort"] {
                Value::Null => port["port"].as_u64(),
                Value::String(name) => list(&pod["spec"]["containers"])
                    .chain(
                        list(&pod["spec"]["initContainers"])
                            .filter(|c| c["restartPolicy"] == "Always"),
                    )
                    .flat_map(|c| list(&c["ports"]))
                    .find(|p| {
                        p["name"] == *name
                            && p["protocol"].as_str().unwrap_or("TCP") == packet.protocol
                    })
                    .and_then(|p| p["containerPort"].as_u64()),
                number => number.as_u64(),
            };
            let not_ready = list(&pod["status"]["conditions"])
                .any(|c| c["type"] == "Ready" && c["status"] != "True")
                || pod["metadata"].get("deletionTimestamp").is_some();
            for ip in list(&pod["status"]["podIPs"]) {
                if let Some(target) = target {
                    out.push((
                        ip["ip"].as_str().unwrap().parse().unwrap(),
                        target,
                        !not_ready,
                    ));
                }
            }
        }
        out
    }

    /// The Service's address is allowed where a backend is (strict: where all are), and where it leads to the pod itself only.
    fn policy_allows_service(
        &self,
        policy: &Value,
        pod: &Value,
        address: IpAddr,
        packet: Packet,
    ) -> bool {
        let backends = self.backends(address, packet);
        let allowed = |(backend, port): &(IpAddr, u64)| {
            let packet = Packet {
                port: *port,
                ..packet
            };
            self.policy_allows(
                policy,
                pod,
                Direction::Egress,
                *backend,
                packet,
                Naming::Any,
            )
        };
        // Whoever names the Service's own address means it.
        if self.policy_allows(
            policy,
            pod,
            Direction::Egress,
            address,
            packet,
            Naming::Itself,
        ) {
            return true;
        }
        let itself = |(backend, _): &(IpAddr, u64)| !finished(pod) && has_address(pod, *backend);
        let all = !backends.is_empty() && backends.iter().all(|b| allowed(b) || itself(b));
        all || (!self.strict_services && backends.iter().any(allowed))
    }
}

/// The policy speaks about the direction: it says so, or it says nothing and then it does for ingress, and for egress where
/// it has rules for it.
fn isolates(policy: &Value, direction: Direction) -> bool {
    let spec = &policy["spec"];
    let types: Vec<&str> = list(&spec["policyTypes"])
        .map(|t| t.as_str().unwrap())
        .collect();
    if types.is_empty() {
        return direction == Direction::Ingress || list(&spec["egress"]).next().is_some();
    }
    types.contains(&direction.policy_type())
}
