//! The companion, `podgated`: store -> compile -> maps -> policy states, and what it says about it.
//!
//! Invariants
//! - enforcement never depends on it: with it away the last policy stays in force, and what is not known stays closed;
//! - a policy state flips only after all that it leads to is in the tables; a failed change leaves the old policy in force;
//! - a broken document never blocks another, nothing in the store can end it, a taken port neither;
//! - one thread changes policy (`scheduler`); those beside it tell it of changes, answer questions, or do what policy does
//!   not wait for (flows, `applied/`);
//! - a panic of any thread ends the process.
//!
//! It must not speak to Kubernetes, and not attach or judge by itself: that is `enforcer`'s and `policy`'s.
#![forbid(unsafe_code)]

mod daemon;
mod document_store;
mod enforcement;
mod events;
pub mod flags;
mod flow_sweeper;
mod host_set;
mod http;
mod kernel;
mod local_endpoints;
mod log_file;
mod logging;
mod maintenance;
mod metrics;
mod policy_feed;
mod retry;
mod scheduler;
mod shared;
mod startup;
mod status_writer;
mod store_watch;
mod systemd;
mod threads;
mod upkeep;
mod warnings;

pub use daemon::run;
