//! Controller and sync on a real API server, without nodes: nothing runs pods, the tests bind them.
//!
//! scripts/kube.sh builds the API server; etcd, openssl and kubectl are the machine's.

#![forbid(unsafe_code)]

mod failures;
mod manifests;
mod policies;
mod support;
