//! `enforcer::hostnet` and `enforcer::bpffs` on the real kernel: run as root.
//!
//! Each test is a "host" namespace of its own with random names, so all run beside each other. What the crate
//! says is held against `ip`, `tc`, the kernel's fdinfo and packets.
//! Tests whose names begin with `kernel_` are what `scripts/vm-test.sh` runs on other kernels.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a test crate: a step that fails fails its test, and nothing of it is public"
)]

mod attach;
mod bandwidth;
mod bpffs;
mod cost;
mod discovery;
mod filters;
mod links;
mod netns;
mod program;
mod tcx;
mod watch;
mod world;
