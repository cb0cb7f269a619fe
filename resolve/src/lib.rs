//! NetworkPolicy in, documents out: what a Network Policy Controller has to get right, without the API around it.
//!
//! ```text
//! bytes --manifest::read--> Object --Cluster::apply/remove--> Cluster --resolve--> Changes: policy files, workload files
//! ```
//!
//! Invariants
//! - a rule becomes neither wider nor narrower: what differs from pod to pod (the number of a named port, a pod behind
//!   its own Service) goes into documents of a group, which select by name only;
//! - the same objects give the same bytes, whatever the order and the history in which they came;
//! - a change touches the policies that name what changed, and its cost follows them, not the cluster.
//!
//! Choices where the specification is silent
//! - "Any peer" is always written for both families: a pod can have addresses of a family that its status does not show
//!   (egress-cni's).
//! - A packet to a Service is judged by what its ready backends get: in a block that holds the Service's address and not
//!   the backends, the address is a hole. Where only some are allowed, the address is (strict: is not), and that is a
//!   finding. A rule that names exactly the Service's address means it; a cluster rule that denies it does too.
//! - A namespace without its object has labels that nobody knows: it matches no negative selector, and that is a finding.
#![forbid(unsafe_code)]

mod allow;
mod cluster;
mod expand;
mod file;
mod finding;
pub mod manifest;
mod model;
mod pods;
mod services;
mod watch;

pub use cluster::{
    Changes, Cluster, HostNetworkPeers, Options, PolicyChange, Workload, WorkloadChange,
};
pub use file::{
    MANAGED_BY, MANAGED_BY_VALUE, Marks, POLICY_GENERATION, PolicyFile, file_name, is_managed,
};
pub use finding::{Finding, FindingKind};
pub use model::{
    EndpointSlice, Endpoints, Namespace, Node, Object, ObjectKey, ObjectKind, Pod, PolicyObject,
    Service,
};
