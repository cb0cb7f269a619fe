//! Manifests as users have them: files of YAML or JSON, one object or many, `List`s, dumps of `kubectl get`.
//!
//! What changes the meaning of a policy is an error with its field, as `kubectl apply` has it: an unknown field in a
//! policy's `spec`, an unknown operator, a block that is none. What an API server refuses but cannot be misunderstood is
//! a [`Remark`].

mod cluster_policy;
mod common;
mod network_policy;
mod objects;
mod read;

use std::fmt;

use thiserror::Error;

pub(crate) use common::NAMESPACE_NAME;
pub use read::{is_namespace, read, read_in, read_value};

use super::{
    finding::{Finding, FindingKind},
    model::{Object, ObjectKey},
};
use policy::documents::Fault;

/// One object, and where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The YAML or JSON document in the file, from 1.
    pub document: usize,
    /// Its place in a List, from 0.
    pub item: Option<usize>,
    /// The object.
    pub object: Object,
    /// What an API server would not have taken so.
    pub remarks: Vec<Remark>,
}

/// Something to know about a field that is read all the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// Path of the field, such as `spec.ingress[0].from[1].ipBlock.cidr`.
    pub field: String,
    /// What to know.
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.text)
    }
}

/// A manifest that cannot be used: which one, where, and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}{}{fault}", place(*document, *item, object), if field.is_empty() { String::new() } else { format!("{field}: ") })]
pub struct ManifestError {
    /// The YAML or JSON document in the file, from 1.
    pub document: usize,
    /// Its place in a List, from 0.
    pub item: Option<usize>,
    /// `NetworkPolicy/namespace/name`, as far as it could be seen.
    pub object: String,
    /// Which object, if that much could be read.
    pub key: Option<ObjectKey>,
    /// Path of the field; empty = the manifest as a whole.
    pub field: String,
    /// What is wrong there.
    pub fault: Fault,
}

impl ManifestError {
    /// What to tell the user of the policy.
    pub fn finding(&self) -> Finding {
        Finding {
            field: self.field.clone(),
            kind: FindingKind::InvalidPolicy,
            text: self.fault.to_string(),
        }
    }
}

fn place(document: usize, item: Option<usize>, object: &str) -> String {
    let mut out = format!("document {document}");
    if let Some(item) = item {
        out += &format!(" item {item}");
    }
    if !object.is_empty() {
        out += &format!(" ({object})");
    }
    out + ": "
}
