//! The metadata of an object, as far as it is needed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An object as the API sent it.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    /// Its metadata.
    pub(crate) meta: Meta,
    /// All of it, as JSON.
    pub(crate) json: Box<str>,
}

/// What is read of `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    /// Of the spec; 0 where the kind has none.
    pub(crate) generation: i64,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) owner_references: Vec<OwnerReference>,
    pub(crate) managed_fields: Vec<ManagedFields>,
}

/// An owner of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OwnerReference {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) controller: bool,
    pub(crate) block_owner_deletion: bool,
}

/// Who wrote fields of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct ManagedFields {
    pub(crate) manager: String,
}

impl Meta {
    /// The object's key among those of its resource.
    pub(crate) fn key(&self) -> (String, String) {
        (self.namespace.clone(), self.name.clone())
    }

    /// The mark `podgate.dev/policy-generation` of a policy: `UID/GENERATION`.
    pub(crate) fn policy_generation(&self) -> String {
        format!("{}/{}", self.uid, self.generation)
    }
}
