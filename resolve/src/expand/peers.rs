//! Peers and ports of one rule.

use std::{net::IpAddr, sync::Arc};

use super::{Expansion, View};
use crate::{
    allow::{Block, Entries, PortSet},
    finding::FindingKind,
    model::{ObjectKind, Peer, Pod, PolicyObject, PortMatch, Rule},
};
use policy::{
    documents::PortEntry,
    prefix::{Family, Prefix},
};

/// The ports that a rule gives as numbers.
pub(crate) fn numbers(rule: &Rule) -> PortSet {
    let Some(ports) = &rule.ports else {
        return PortSet::All;
    };
    let entries = ports.iter().filter_map(|port| match port {
        PortMatch::Numbers { protocol, ports } => Some(PortEntry {
            protocol: Some(*protocol),
            ports: *ports,
        }),
        PortMatch::Named { .. } => None,
    });
    PortSet::Some(entries.collect())
}

/// The named ports of a rule, with their places.
pub(super) fn named(rule: &Rule) -> impl Iterator<Item = (usize, &PortMatch, &str)> {
    rule.ports
        .iter()
        .flatten()
        .enumerate()
        .filter_map(|(place, port)| match port {
            PortMatch::Named { name, .. } => Some((place, port, name.as_str())),
            PortMatch::Numbers { .. } => None,
        })
}

/// What one entry of a rule's ports is on a pod, where it is a name.
fn named_on(port: &PortMatch, pod: &Pod) -> impl Iterator<Item = PortEntry> {
    let PortMatch::Named { protocol, name } = port else {
        return Vec::new().into_iter();
    };
    pod.ports
        .iter()
        .filter(|own| own.name == *name && protocol.is_none_or(|p| p == own.protocol))
        .map(|own| PortEntry {
            protocol: Some(own.protocol),
            ports: Some((own.port, own.port)),
        })
        .collect::<Vec<_>>()
        .into_iter()
}

/// The named ports of a rule as numbers of this pod.
pub(super) fn names_on(rule: &Rule, pod: &Pod) -> PortSet {
    PortSet::Some(
        named(rule)
            .flat_map(|(_, port, _)| named_on(port, pod))
            .collect(),
    )
}

impl View<'_> {
    /// The blocks of the peers of a rule.
    pub(super) fn blocks(
        &self,
        kind: ObjectKind,
        rule: &Rule,
        field: &str,
        out: &mut Expansion,
    ) -> Vec<Block> {
        let Some(peers) = &rule.peers else {
            return Family::ALL
                .map(|family| (Prefix::everything(family), Vec::new()))
                .into();
        };
        let mut blocks = Vec::new();
        for (place, peer) in peers.iter().enumerate() {
            let exact = |address: &IpAddr| (Prefix::exact(*address), Vec::new());
            match peer {
                Peer::Pods(_) => {
                    for pod in self.peer_pods(kind, peer, || format!("{field}[{place}]"), out) {
                        blocks.extend(pod.addresses.iter().map(exact));
                    }
                }
                Peer::Block { cidr, except } => blocks.push((*cidr, except.clone())),
                Peer::Networks(networks) => {
                    blocks.extend(networks.iter().map(|cidr| (*cidr, Vec::new())));
                }
                Peer::Nodes(_) => {
                    let addresses = self.node_addresses(peer, || format!("{field}[{place}]"), out);
                    blocks.extend(addresses.iter().map(exact));
                }
                Peer::Domains(_) => {}
            }
        }
        blocks
    }

    /// The pods that a selector makes peers.
    fn peer_pods(
        &self,
        kind: ObjectKind,
        peer: &Peer,
        field: impl Fn() -> String,
        out: &mut Expansion,
    ) -> Vec<&Pod> {
        let Peer::Pods(set) = peer else {
            return Vec::new();
        };
        let selected = self.pods.select(set);
        let may_be = |pod: &&Arc<Pod>| {
            !pod.finished && (!pod.host_network || self.host_network_peers.are_peers(kind))
        };
        if !selected.iter().any(may_be) {
            out.find(
                FindingKind::SelectsNothing,
                field(),
                if selected.is_empty() {
                    "selects no pod"
                } else {
                    "selects no pod that can be a peer: finished ones cannot, nor those of the host's network here"
                },
            );
        }
        let peers: Vec<&Pod> = selected
            .into_iter()
            .filter(|pod| may_be(pod) && pod.is_peer())
            .map(AsRef::as_ref)
            .collect();
        for pod in peers.iter().filter(|pod| pod.host_network) {
            let name = format!("{}/{}", pod.namespace, pod.name);
            let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
            out.find(
                FindingKind::HostNetworkPeer,
                field(),
                format!(
                    "pod {name} is of the host's network: all of its node ({}) is meant",
                    addresses.join(", ")
                ),
            );
            out.host_network.insert(name);
        }
        peers
    }

    fn node_addresses(
        &self,
        peer: &Peer,
        field: impl Fn() -> String,
        out: &mut Expansion,
    ) -> Vec<IpAddr> {
        let Peer::Nodes(selector) = peer else {
            return Vec::new();
        };
        let selected: Vec<_> = self
            .nodes
            .values()
            .filter(|node| selector.matches(Some(&node.labels)))
            .collect();
        if selected.is_empty() {
            out.find(FindingKind::SelectsNothing, field(), "selects no node");
        }
        selected
            .into_iter()
            .flat_map(|node| node.addresses.iter().copied())
            .collect()
    }

    /// Where an egress rule leads: every peer with its own numbers for named ports.
    pub(super) fn towards(
        &self,
        kind: ObjectKind,
        rule: &Rule,
        field: &str,
        out: &mut Expansion,
    ) -> Entries {
        let mut entries = Entries::default();
        let numbers = numbers(rule);
        let mut found: Vec<&str> = Vec::new();
        let mut take = |pod: &Pod,
                        entries: &mut Entries,
                        numbers: &PortSet,
                        within: &dyn Fn(IpAddr) -> bool| {
            let mut ports = numbers.clone();
            for (_, port, name) in named(rule) {
                let on = PortSet::Some(named_on(port, pod).collect());
                if !on.is_nothing() && !found.contains(&name) {
                    found.push(name);
                }
                ports.add(&on);
            }
            for address in pod.addresses.iter().filter(|a| within(**a)) {
                entries.add_address(*address, &ports);
            }
        };
        // A name means a port of a pod, wherever the rule's blocks hold one.
        let mut named_within = |cidr: &Prefix, except: &[Prefix], entries: &mut Entries| {
            let within =
                |address| cidr.holds(address) && !except.iter().any(|hole| hole.holds(address));
            for (_, _, name) in named(rule) {
                let may_be =
                    |pod: &&&Arc<Pod>| !pod.host_network || self.host_network_peers.are_peers(kind);
                for pod in self.pods.with_port(name).iter().filter(may_be) {
                    take(pod, entries, &PortSet::NOTHING, &within);
                }
            }
        };
        match &rule.peers {
            None => {
                for family in Family::ALL {
                    let everything = Prefix::everything(family);
                    entries.add(everything, &[], &numbers);
                    named_within(&everything, &[], &mut entries);
                }
            }
            Some(peers) => {
                for (place, peer) in peers.iter().enumerate() {
                    match peer {
                        Peer::Block { cidr, except } => {
                            entries.add(*cidr, except, &numbers);
                            named_within(cidr, except, &mut entries);
                        }
                        Peer::Networks(networks) => {
                            for cidr in networks {
                                entries.add(*cidr, &[], &numbers);
                                named_within(cidr, &[], &mut entries);
                            }
                        }
                        Peer::Nodes(_) => {
                            for address in
                                self.node_addresses(peer, || format!("{field}.to[{place}]"), out)
                            {
                                entries.add_address(address, &numbers);
                            }
                        }
                        Peer::Pods(_) | Peer::Domains(_) => {}
                    }
                }
                for (place, peer) in peers.iter().enumerate() {
                    for pod in self.peer_pods(kind, peer, || format!("{field}.to[{place}]"), out) {
                        take(pod, &mut entries, &numbers, &|_| true);
                    }
                }
            }
        }
        for (place, _, name) in named(rule) {
            if !found.contains(&name) {
                out.find(
                    FindingKind::NamedPortNotFound,
                    format!("{field}.ports[{place}]"),
                    format!("no peer has a port named {name:?}"),
                );
            }
        }
        entries
    }

    /// Names of ports that no subject has.
    pub(super) fn find_names(
        &self,
        rule: &Rule,
        field: &str,
        subjects: &[&Arc<Pod>],
        out: &mut Expansion,
    ) {
        for (place, port, name) in named(rule) {
            if !subjects
                .iter()
                .any(|pod| named_on(port, pod).next().is_some())
            {
                out.find(
                    FindingKind::NamedPortNotFound,
                    format!("{field}.ports[{place}]"),
                    format!("no selected pod has a port named {name:?}"),
                );
            }
        }
    }
}

/// The blocks that a policy's rules give, with their fields.
pub(super) fn blocks(policy: &PolicyObject) -> Vec<(String, Prefix)> {
    let mut out = Vec::new();
    for (direction, peers_key, rules) in [
        ("ingress", "from", &policy.ingress),
        ("egress", "to", &policy.egress),
    ] {
        for (number, rule) in rules.iter().enumerate() {
            for (place, peer) in rule.peers.iter().flatten().enumerate() {
                let field = || format!("spec.{direction}[{number}].{peers_key}[{place}]");
                match peer {
                    Peer::Block { cidr, .. } => out.push((field() + ".ipBlock", *cidr)),
                    Peer::Networks(networks) => {
                        out.extend(networks.iter().map(|cidr| (field() + ".networks", *cidr)));
                    }
                    _ => {}
                }
            }
        }
    }
    out
}

/// The domain names of a rule.
pub(super) fn domains(rule: &Rule) -> impl Iterator<Item = &String> {
    rule.peers
        .iter()
        .flatten()
        .filter_map(|peer| match peer {
            Peer::Domains(names) => Some(names),
            _ => None,
        })
        .flatten()
}
