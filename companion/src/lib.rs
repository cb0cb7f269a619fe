//! The companion, `podgated`: store -> compile -> maps -> policy states, and what it says about it.
//!
//! Invariants
//! - enforcement never depends on it: with it away the last policy stays in force, and what is not known stays closed;
//! - a policy state flips only after all that it leads to is in the tables; a failed change leaves the old policy in force;
//! - a broken document never blocks another, nothing in the store can end it, a taken port neither;
//! - one engine thread changes things; the runtime beside it only tells it of changes and answers questions.
//!
//! It must not speak to Kubernetes, and not attach or judge by itself: that is `enforcer`'s and `policy`'s.
#![forbid(unsafe_code)]

mod daemon;
mod enforcement;
mod engine;
mod events;
pub mod flags;
mod http;
mod intake;
mod kernel;
mod local;
mod log_file;
mod logging;
mod metrics;
mod shared;
mod systemd;
mod threads;

pub use daemon::run;
