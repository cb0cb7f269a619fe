//! `resolve`, held to the specification: from manifests to documents, through the reader of documents and the
//! compiler, to what a pod may reach.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster_policies;
mod faults;
mod harness;
mod incremental;
mod manifests;
mod naive;
mod network_policies;
mod output;
mod random;
mod services;
