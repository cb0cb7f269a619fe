//! What enforcement is told, and what it answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::documents::Directions;
use policy::{Endpoint, EndpointId, Policy, PolicyKey};

/// A version of a policy that comes so long after the pod's addresses were known knows the pod.
const CONTROLLER_KNOWS: Duration = Duration::from_secs(5);

/// A local endpoint, as enforcement needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalEndpoint {
    /// Id, name and labels: what policies select by.
    pub(crate) endpoint: Endpoint,
    /// Host veth.
    pub(crate) ifindex: u32,
    /// Place of its policy state.
    pub(crate) endpoint_index: u32,
    /// Whether a direction that no policy isolates denies.
    pub(crate) strict: bool,
    /// Whether `pending` may be taken away: false while something that could select the endpoint is still to come.
    pub(crate) known: bool,
    /// Since when its workload shows addresses.
    pub(crate) addresses_since: Option<Instant>,
}

impl LocalEndpoint {
    pub(crate) const fn id(&self) -> EndpointId {
        self.endpoint.id
    }

    /// Whether a controller can have known the pod for a while.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.addresses_since
            .is_some_and(|since| now.duration_since(since) >= CONTROLLER_KNOWS)
    }
}

/// A change of what is to be in force. What it does not name stays as it was.
#[derive(Clone, Debug, Default)]
pub(crate) struct EnforcementDelta {
    /// Endpoints that came or changed.
    pub(crate) endpoints: Vec<LocalEndpoint>,
    /// Endpoints that went.
    pub(crate) gone: Vec<EndpointId>,
    /// Policies that came or changed (contents), or went (`None`).
    pub(crate) policies: Vec<(PolicyKey, Option<Arc<Policy>>)>,
}

/// What came of a change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Writes to maps and policy states.
    pub(crate) writes: usize,
    /// Endpoints whose policy state was written.
    pub(crate) changed: BTreeSet<EndpointId>,
    /// What failed. What was in force stays in force, and [`super::Enforcement::due`] says when it is tried again.
    pub(crate) error: Option<String>,
}

/// What does not fit into the kernel's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TooLarge {
    /// Policies of which this version is not in force.
    pub(crate) policies: BTreeSet<PolicyKey>,
    /// Endpoints that keep what they had, or are closed if they had nothing.
    pub(crate) endpoints: BTreeSet<EndpointId>,
}

/// What is in force for one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointView {
    /// Whether it is decided: policy, and not `pending`, is in force for it.
    pub(crate) decided: bool,
    /// Directions that some policy isolates.
    pub(crate) isolated: Directions<bool>,
    /// The policies that select it, in the versions that are in force, in the order of their keys.
    pub(crate) policies: Vec<Arc<Policy>>,
}
