//! One policy to what its documents say: pods, blocks, ports.

mod cluster;
mod network;
pub(super) mod peers;
mod routes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    allow::{Block, Entries, PortSet},
    cluster::HostNetworkPeers,
    file::{Line, Member, Set, What},
    finding::{Finding, FindingKind},
    model::{Node, Peer, Pod, PolicyObject},
    pods::Pods,
    services::{ServiceKey, Services},
};
use policy::{documents::Action, prefix::Family};

/// What there is to expand against.
pub(super) struct View<'a> {
    pub(super) pods: &'a Pods,
    pub(super) services: &'a Services,
    pub(super) nodes: &'a BTreeMap<String, Node>,
    /// A Service's address only where every backend is allowed.
    pub(super) strict_services: bool,
    /// What pods of the host's network are as peers.
    pub(super) host_network_peers: HostNetworkPeers,
    /// Documents name the addresses of their pods.
    pub(super) endpoint_addresses: bool,
}

/// What a policy comes to.
#[derive(Debug, Default)]
pub(super) struct Expansion {
    pub(super) sets: Vec<Set>,
    pub(super) findings: Vec<Finding>,
    /// Services whose address is allowed although not every backend is.
    pub(super) wider: BTreeSet<String>,
    /// Peers of the host's network.
    pub(super) host_network: BTreeSet<String>,
    /// Services that were looked at: when one leads elsewhere, this comes out differently.
    pub(super) consulted: BTreeSet<ServiceKey>,
}

impl Expansion {
    fn find(&mut self, kind: FindingKind, field: String, text: impl Into<String>) {
        let finding = Finding {
            field,
            kind,
            text: text.into(),
        };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

impl View<'_> {
    /// Expands a policy.
    pub(super) fn expand(&self, policy: &PolicyObject) -> Expansion {
        let mut out = Expansion::default();
        let subjects: Vec<_> = self
            .pods
            .select(&policy.subject)
            .into_iter()
            .filter(|pod| pod.is_subject())
            .collect();
        if policy.is_ordered() {
            self.cluster(policy, &subjects, &mut out);
        } else {
            self.network(policy, &subjects, &mut out);
        }
        if subjects.is_empty() {
            let field = match policy.is_ordered() {
                true => "spec.subject",
                false => "spec.podSelector",
            };
            out.find(
                FindingKind::SelectsNothing,
                field.to_owned(),
                "selects no pod",
            );
        }
        for (number, rule) in policy.egress.iter().enumerate() {
            for (place, peer) in rule.peers.iter().flatten().enumerate() {
                if matches!(peer, Peer::Domains(_)) {
                    out.find(
                        FindingKind::UnsupportedField,
                        format!("spec.egress[{number}].to[{place}].domainNames"),
                        "is not enforced: it lets nothing pass",
                    );
                }
            }
        }
        self.find_families(policy, &subjects, &mut out);
        self.find_unknown_namespaces(policy, &mut out);
        out.findings.sort_unstable();
        out
    }

    /// Blocks of a family that no subject has an address of.
    fn find_families(&self, policy: &PolicyObject, subjects: &[&Arc<Pod>], out: &mut Expansion) {
        let families: BTreeSet<Family> = subjects
            .iter()
            .flat_map(|pod| &pod.addresses)
            .map(|address| Family::of(*address))
            .collect();
        if families.is_empty() {
            return;
        }
        for (field, block) in peers::blocks(policy) {
            if !families.contains(&block.family()) {
                out.find(
                    FindingKind::NoEffect,
                    field,
                    format!(
                        "{block} has no effect: no selected pod has an {} address",
                        block.family()
                    ),
                );
            }
        }
    }
}

/// Entries as lines of a document.
fn lines(entries: Entries, action: Action) -> impl Iterator<Item = Line> {
    entries
        .into_iter()
        .map(move |((cidr, except), ports): (Block, PortSet)| Line {
            what: What::Block { cidr, except },
            ports,
            action,
        })
}

impl View<'_> {
    /// Pods as documents name them.
    fn names<'p>(&self, pods: impl IntoIterator<Item = &'p Arc<Pod>>) -> Vec<Member> {
        let mut names: Vec<_> = pods
            .into_iter()
            .map(|pod| Member {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                addresses: self
                    .endpoint_addresses
                    .then_some((pod.host_address, pod.primary_address)),
            })
            .collect();
        names.sort_unstable();
        names
    }

    /// Namespaces without an object, where a negative selector would match them if they had no labels.
    fn find_unknown_namespaces(&self, policy: &PolicyObject, out: &mut Expansion) {
        for set in policy.pod_sets() {
            for name in self.pods.left_out(set) {
                let text = format!(
                    "namespace {name} has no object: its labels are not known, so this policy's negative namespace selectors do not match it"
                );
                out.find(FindingKind::UnknownNamespace, "spec".to_owned(), text);
            }
        }
    }
}
