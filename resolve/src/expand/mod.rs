//! One policy to what its documents say: pods, blocks, ports.

mod cluster;
mod network;
mod peers;
mod routes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    allow::{Block, Entries, PortSet},
    file::{Line, Set, Warning, What},
    model::{Node, Pod, PolicyObject},
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
}

/// What a policy comes to.
#[derive(Debug, Default)]
pub(super) struct Expansion {
    pub(super) sets: Vec<Set>,
    pub(super) warnings: Vec<Warning>,
    /// Services whose address is allowed although not every backend is.
    pub(super) wider: BTreeSet<String>,
    /// Services that were looked at: when one leads elsewhere, this comes out differently.
    pub(super) consulted: BTreeSet<ServiceKey>,
}

impl Expansion {
    fn warn(&mut self, field: String, text: impl Into<String>) {
        let warning = Warning {
            field,
            text: text.into(),
        };
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
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
            out.warn(field.to_owned(), "selects no pod");
        }
        self.warn_about_families(policy, &subjects, &mut out);
        out.warnings.sort_unstable();
        out
    }

    /// Blocks of a family that no subject has an address of.
    fn warn_about_families(
        &self,
        policy: &PolicyObject,
        subjects: &[&Arc<Pod>],
        out: &mut Expansion,
    ) {
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
                out.warn(
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

/// Pods as documents name them.
fn names<'a>(pods: impl IntoIterator<Item = &'a Arc<Pod>>) -> Vec<(String, String)> {
    let mut names: Vec<_> = pods
        .into_iter()
        .map(|pod| (pod.namespace.clone(), pod.name.clone()))
        .collect();
    names.sort_unstable();
    names
}
