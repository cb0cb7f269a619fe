//! The endpoints of this node as policy sees them: records, and what the store knows of their pods.

use std::collections::BTreeMap;
use std::time::Instant;

use policy::{Endpoint, EndpointId};
use state::workloads::Workloads;
use state::{Mode, NodeConfig, Record, Source};

/// One local endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) record: Record,
    pub(crate) endpoint: Endpoint,
    /// Whether what applies to it can be told: not before the store knows the pod, where a cluster fills the store.
    pub(crate) known: bool,
    /// Since when its workload shows addresses.
    pub(crate) addresses_since: Option<Instant>,
}

impl Local {
    pub(crate) fn id(&self) -> EndpointId {
        self.endpoint.id
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.record.mode == Mode::Strict
    }
}

/// The endpoints of records.
pub(crate) fn gather(
    records: Vec<Record>,
    workloads: &Workloads,
    config: &NodeConfig,
    before: &BTreeMap<EndpointId, Local>,
    now: Instant,
) -> BTreeMap<EndpointId, Local> {
    let mut all = BTreeMap::new();
    for record in records {
        if record.endpoint_id == 0 {
            continue;
        }
        let id = EndpointId(record.endpoint_id);
        let workload = published::pod::workload(workloads, &record);
        let addresses = workload.is_some_and(|w| !w.addresses.is_empty());
        let since = before.get(&id).and_then(|local| local.addresses_since);
        let endpoint = published::pod::endpoint(&record, workload);
        let known = config.source == Source::Files || workload.is_some();
        let addresses_since = addresses.then(|| since.unwrap_or(now));
        all.insert(
            id,
            Local {
                record,
                endpoint,
                known,
                addresses_since,
            },
        );
    }
    all
}
