//! `podgate-controller` and `podgate-sync`: the Kubernetes API on one side, PolicyEndpoint objects and the node's store on the other.
//!
//! ```text
//! NetworkPolicy, Pod, ...  --watch-->  resolve  --server-side apply-->  PolicyEndpoint   (controller, one leader a cluster)
//! PolicyEndpoint, this node's pods  --watch-->  documents, then workloads in the store   (sync, one a node)
//! ```
//!
//! Invariants
//! - what is removed, from the API or from the store, is what a complete list lacks: no error, short answer or restart removes anything;
//! - a pod's file in `workloads/` is written after every document that could select the pod;
//! - an object or file that already says what it should is not written;
//! - without the API, or with a store that cannot be written, everything stays as it is and is tried again.
//!
//! It must not know eBPF, the kernel or the plugin, and no other crate knows the Kubernetes API.

#![forbid(unsafe_code)]

mod api;
mod args;
mod contacts;
mod controller;
mod documents;
mod http;
mod inputs;
mod metrics;
mod start;
mod sync;

/// The field manager of the controller's writes.
pub(crate) const FIELD_MANAGER: &str = "podgate-controller";

pub use args::{ControllerArgs, HostNetworkPeers, SyncArgs};
pub use start::{run_controller, run_sync};
