//! The endpoints of this node as policy sees them: records, and what the store knows of their pods.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use policy::{Endpoint, EndpointId};
use state::workloads::Workloads;
use state::{Mode, NodeConfig, Record, Source, Workload};

/// A version of a policy that comes so long after the pod's addresses were known knows the pod.
const CONTROLLER_KNOWS: Duration = Duration::from_secs(5);

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

    /// Whether a controller can have known the pod for a while.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.addresses_since
            .is_some_and(|since| now.duration_since(since) >= CONTROLLER_KNOWS)
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
        let workload = workloads
            .pods
            .get(&(record.pod_namespace.clone(), record.pod_name.clone()))
            .filter(|workload| is_of(workload, &record));
        let addresses = workload.is_some_and(|w| !w.addresses.is_empty());
        let since = before.get(&id).and_then(|local| local.addresses_since);
        let endpoint = Endpoint {
            id,
            namespace: record.pod_namespace.clone(),
            name: record.pod_name.clone(),
            labels: workload
                .map(|w| w.labels.clone())
                .or_else(|| record.labels.clone()),
        };
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

/// Whether a workload is about the pod of the record, and not about a later or earlier one of its name.
fn is_of(workload: &Workload, record: &Record) -> bool {
    match &record.pod_uid {
        Some(uid) => workload.uid.is_empty() || *uid == workload.uid,
        None => true,
    }
}
