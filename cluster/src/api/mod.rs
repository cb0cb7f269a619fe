//! The Kubernetes API as both programs use it: lists, watches, server-side apply and the Lease.
//!
//! Objects travel as the JSON text that the API sent, because `resolve` reads manifests; only [`Meta`] is read here.

mod access;
mod error;
mod lease;
mod meta;
mod resource;
mod watch;

pub(crate) use access::Access;
pub(crate) use error::{Error, Verb};
pub(crate) use lease::{LEASE_DURATION, Lease};
pub(crate) use meta::{Meta, OwnerReference, Raw};
pub(crate) use resource::{Resource, Scope};
pub(crate) use watch::{Query, Update, follow};
