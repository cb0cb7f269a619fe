//! Room in the tables is counted before it is used.
//!
//! Where a change does not fit, the largest of the policies whose version is not in force yet is held back: endpoints
//! that it selects keep what they had of it, and an endpoint that had nothing yet is closed. Everything else goes
//! through. What is held is tried again with every change.

use std::collections::BTreeSet;
use std::sync::Arc;

use policy::plan::{Plan, Sizes};
use policy::{EndpointId, Policy};

use super::{Enforcement, Error, LocalEndpoint, TooLarge};

/// A policy that does not fit.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The version that is not in force.
    version: Arc<Policy>,
    /// Endpoints that it selects and that had no policy in force: nothing passes.
    closed: BTreeSet<EndpointId>,
}

impl Held {
    pub(super) fn closes(&self, id: EndpointId) -> bool {
        self.closed.contains(&id)
    }
}

impl Enforcement {
    /// What does not fit into the kernel's tables.
    #[expect(dead_code, reason = "for the conditions, which are being rebuilt")]
    pub(crate) fn too_large(&self) -> TooLarge {
        let endpoints = self.endpoints.iter().filter(|(_, local)| {
            let mut held = self.held.values();
            held.any(|held| held.version.selects(&local.endpoint, &self.facts))
        });
        TooLarge {
            policies: self.held.keys().cloned().collect(),
            endpoints: endpoints.map(|(id, _)| *id).collect(),
        }
    }

    pub(super) fn is_closed(&self, local: &LocalEndpoint) -> bool {
        self.held.values().any(|held| held.closes(local.id()))
    }

    /// Whether some table is so full that what is to be deleted should go first.
    pub(super) fn is_filling_up(&self) -> bool {
        self.kernel.as_ref().is_some_and(|kernel| {
            let doubled = add(kernel.image.entries(), kernel.image.entries());
            short_of(doubled, kernel.capacity).is_some()
        })
    }

    /// A plan for which there is room; `None` = without kernel objects.
    pub(super) fn plan_that_fits(&mut self) -> Result<Option<Plan>, Error> {
        loop {
            let Some(kernel) = &mut self.kernel else {
                return Ok(None);
            };
            let plan = Plan::new(&mut self.compiler, &mut kernel.image, &self.leftover);
            let needs = add(kernel.image.entries(), plan.needs());
            let Some(table) = short_of(needs, kernel.capacity) else {
                return Ok(Some(plan));
            };
            if !self.hold_largest(table) {
                // Nothing is left to hold back: the kernel says what does not fit.
                return Ok(Some(plan));
            }
        }
    }

    /// Holds back the largest policy whose version is not in force. False = there is none.
    pub(super) fn hold_largest(&mut self, table: &'static str) -> bool {
        let is_new = |policy: &Arc<Policy>| {
            let before = self.in_force.get(&policy.key);
            before.is_none_or(|before| !Arc::ptr_eq(before, policy))
        };
        let candidates = self
            .compiled
            .values()
            .filter(|policy| is_new(policy) && self.compiler.has(policy));
        let Some(policy) = candidates.max_by_key(|policy| size(policy)).cloned() else {
            return false;
        };
        if self.told_held.insert(policy.key.clone()) {
            tracing::warn!(
                policy = %policy.key,
                entries = size(&policy),
                table,
                "TooLarge: what was in force of it stays; give the node fewer or smaller policies"
            );
        }
        let before = self.in_force.get(&policy.key).cloned();
        let concerned = self.compile_policy(&policy.key, before.clone());
        let mut closed = BTreeSet::new();
        if before.is_none() {
            let had_nothing = concerned.iter().filter(|id| !self.decided.contains(id));
            closed.extend(had_nothing);
        }
        self.held.insert(
            policy.key.clone(),
            Held {
                version: policy,
                closed,
            },
        );
        self.compile_endpoints(&concerned.into_iter().collect());
        true
    }
}

/// About how many entries a policy needs: its blocks, with what they except, and the ports of its rules.
fn size(policy: &Policy) -> usize {
    let documents = policy.documents.iter();
    let rules = documents.flat_map(|d| d.ingress.iter().chain(&d.egress));
    rules
        .map(|rule| 1 + rule.except.len() + rule.ports.len())
        .sum()
}

fn add(a: Sizes, b: Sizes) -> Sizes {
    Sizes {
        peers: a.peers + b.peers,
        prefixes: a.prefixes + b.prefixes,
        rules: a.rules + b.rules,
        ports: a.ports + b.ports,
    }
}

/// The table in which there is no room for so many entries.
fn short_of(entries: Sizes, capacity: enforcer::apply::Capacity) -> Option<&'static str> {
    [
        ("PEERS", entries.peers, capacity.peers),
        ("PREFIXES", entries.prefixes, capacity.prefixes),
        ("RULES", entries.rules, capacity.rules),
        ("PORTS", entries.ports, capacity.ports),
    ]
    .into_iter()
    .find(|(_, entries, capacity)| entries > capacity)
    .map(|(table, ..)| table)
}
