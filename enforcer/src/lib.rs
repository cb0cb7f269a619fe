//! The user half of the enforcement: load and pin, attach and read back, endpoint entries and policy state, table
//! changes, observation. The only crate with namespaces, netlink and unsafe code (beside the kernel programs).
//!
//! Invariants
//! - one set of kernel objects a node, pinned under the layout's version; every change of it takes the node's lock;
//! - the entry and the policy state stand before the filters do, and "attached" means read back from the kernel;
//! - filters and links pass into the kernel's hands: nothing here takes them off by being dropped.
//!
//! It knows no policy documents: those are compiled by `policy` and come in as map writes.

pub mod apply;
pub mod attach;
mod batch;
pub mod bpffs;
pub mod clock;
pub mod endpoint;
pub mod events;
pub mod flows;
pub mod grace;
pub mod hostnet;
pub mod hosts;
pub mod kernel;
pub mod live;
pub mod load;
mod mapped;
pub mod maps;
pub mod memory;
pub mod observe;
pub mod orphans;
pub mod pin_guard;
pub mod pins;
pub mod policy_states;
pub mod quota;
pub mod repair;
pub mod settings;
