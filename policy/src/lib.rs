//! Policy, pure: documents of the node in, tables for the kernel out.
//!
//! ```text
//! bytes --documents::read--> Document --sets::assemble--> Policies --Compiler--> plan --> map writes
//!                                                           endpoints --^      Image --^
//! ```
//!
//! The `resolve` crate makes documents of NetworkPolicy and the cluster's objects.
//!
//! Invariants
//! - no I/O, no clock, no randomness, no async: equal inputs give equal outputs, byte for byte;
//! - no panic on any input; a broken document is an error that names the document and the field, never less policy;
//! - what is folded here (tiers, priorities, excepts, overlaps, ranges) costs a packet nothing;
//! - each step of a [`mod@plan`] leaves every endpoint with its old or its new verdict, never a third.
//!
//! It must not know files, maps, sockets, Kubernetes clients or the time; facts of that kind come in as arguments
//! (for example [`select::Facts`]).
#![forbid(unsafe_code)]

pub mod compile;
pub mod compiler;
pub mod documents;
pub mod explain;
#[cfg(any(test, feature = "oracle"))]
pub mod oracle;
pub mod plan;
pub mod portmap;
pub mod prefix;
pub mod select;
pub mod sets;
pub mod tables;
#[cfg(test)]
mod testing;

pub use compile::compile;
pub use compiler::Compiler;
pub use documents::{Document, Identity, Kind, PolicyRef};
pub use explain::explain;
pub use plan::{Image, Plan};
pub use portmap::{PortMap, Verdict};
pub use prefix::{Family, Prefix};
pub use select::{Endpoint, EndpointId, Facts};
pub use sets::{Policies, Policy, PolicyKey, assemble};
pub use tables::{Direction, Tables};
