//! The file-backed store: the narrow waist between those who write policy and the companion that enforces it.
//!
//! Kubernetes, a person with an editor and a test all speak to podgate by files under one folder, 0700 root. This crate
//! knows where each of them is, who may write it, and how to read and change it so that neither a crash nor a broken
//! neighbour costs anything else.
//!
//! Invariants:
//! - Paths are joined in [`layout`] only; ids are validated and encoded there, identity is a file's *content*.
//! - Every write is a temp file (its name begins with a dot) and a rename; what must outlive a power cut is flushed, file
//!   and folder. A reader sees the old bytes or the new ones.
//! - What is not root's (or the running user's own) or can be written by others is reported and not read, folders
//!   included. Names that begin with a dot are never read.
//! - One bad file never hides another: readers return what is good beside what is not.
//! - Endpoint records change only under the node's lock, shown by a [`Locked`] in the hand.
//! - A store that cannot be written (read-only, full, denied) is told apart: see [`file::Error::is_unwritable`].
//!
//! It must not know eBPF, policy or the network, parse a policy document, log, or hold the lock across a wait.

#![forbid(unsafe_code)]

pub mod applied;
pub mod clock;
pub mod documents;
mod error;
pub mod file;
mod fingerprint;
pub mod layout;
pub mod lock;
pub mod node;
pub mod quarantine;
pub mod records;
mod relpath;
pub mod status;
mod store;
pub mod watch;
pub mod workloads;

pub use clock::boot_id;
pub use documents::{Document, FileState, Listing};
pub use error::{Error, Problem, ProblemKind};
pub use fingerprint::StoreFingerprint;
pub use layout::Layout;
pub use lock::{CompanionLock, Locked};
pub use node::{EnforcingMode, HostSetExclusion, NodeConfig, PortRange, Source};
pub use records::{AttachMode, HostPort, Mode, Phase, Record, Records, Transport};
pub use relpath::RelPath;
pub use status::Index;
pub use store::Store;
pub use workloads::Workload;
