//! What is in force for one endpoint, from what the companion has published: no other policy is parsed.

use std::collections::BTreeSet;
use std::sync::Arc;

use policy::documents::{self, Document};
use policy::{Endpoint, Facts, Policies, assemble};
use state::{Record, Store};

use crate::status::Endpoints;
use crate::{SelectorOverrides, pod};

/// What is in force for one endpoint.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The endpoint, with the labels that count.
    pub endpoint: Endpoint,
    /// The policies that select it.
    pub policies: Policies,
    /// The selectors that no longer count for it.
    pub facts: Facts,
}

/// What is in force for an endpoint. No policies where the companion has not decided about it yet.
///
/// # Errors
/// If what is published, or the pod's workload, cannot be read.
pub fn for_endpoint(store: &Store, record: &Record) -> Result<InForce, state::Error> {
    let workload = pod::read_workload(store, record)?;
    let endpoint = pod::endpoint(record, workload.as_ref());
    let names = selecting(store, record.endpoint_id)?;
    let mut policies = assemble(documents_of(store, &names)?, &Policies::new()).policies;
    let overrides = SelectorOverrides::read(store)?.unwrap_or_default();
    let facts = overrides.facts(&policies, |id| id == endpoint.id);
    // One policy may have several groups, of which others are for other pods.
    policies.retain(|_, policy| policy.selects(&endpoint, &facts));
    Ok(InForce {
        endpoint,
        policies,
        facts,
    })
}

/// The policies that select an endpoint, as they are published.
fn selecting(store: &Store, endpoint_id: u32) -> Result<BTreeSet<String>, state::Error> {
    let published = Endpoints::read(store)?.unwrap_or_default().endpoints;
    let of_it = |e: &crate::status::Endpoint| e.endpoint_id == endpoint_id;
    let found = published.into_iter().find(of_it);
    Ok(found.map_or_else(BTreeSet::new, |e| e.policies.into_iter().collect()))
}

/// The documents of policies, in the versions in force.
fn documents_of(
    store: &Store,
    policies: &BTreeSet<String>,
) -> Result<Vec<Arc<Document>>, state::Error> {
    let mut all = Vec::new();
    for policy in policies {
        if let Some(applied) = store.applied_policy(policy)? {
            let read = documents::read(&applied.bytes).documents.into_iter();
            all.extend(read.filter_map(Result::ok).map(Arc::new));
        }
    }
    Ok(all)
}
