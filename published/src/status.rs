//! What the companion says about itself in `status/`: the types, for those who read them (`podgatectl`, tests).
//!
//! | file | type | written |
//! |---|---|---|
//! | `companion.json` | [`Companion`] | after every pass that changed something |
//! | `documents.json` | [`Documents`] | when a document's condition changed |
//! | `endpoints.json` | [`Endpoints`] | when an endpoint's policy changed |
//!
//! All of them carry `schema` and `bootId` beside these keys and are void after a reboot.

use std::collections::BTreeMap;

use policy::documents::Condition;
use serde::{Deserialize, Serialize};
use state::{Mode, Store, StoreFingerprint};

const COMPANION: &str = "companion";
const DOCUMENTS: &str = "documents";
const ENDPOINTS: &str = "endpoints";

/// The companion itself: `status/companion.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Companion {
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// Counts the versions of policy that came into force; grows while it runs and over restarts.
    pub generation: u64,
    /// What the store held when it was last looked at and all of it was applied: see [`Companion::has_applied`].
    pub applied: StoreFingerprint,
    /// Everything that was in the store at this moment (CLOCK_MONOTONIC, nanoseconds) is applied or has a condition.
    pub applied_until_ns: u64,
    /// Changes wait to settle (unmarked documents, removals).
    pub settling: bool,
    /// Whether maps are loaded; without them compiled counts as applied.
    pub maps: Maps,
    /// Why the last change could not be applied; the policy before is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `--enable-network-policy=false`: nothing is dropped.
    pub suspended: bool,
    /// Whether flow events are on.
    pub events: bool,
    /// Pod interfaces whose attachment was found broken, with what is wrong, and could not be repaired.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub faults: BTreeMap<u32, String>,
    /// What is wrong with files that are no documents (records, workloads, node files).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// Fill of the policy tables.
    pub tables: Tables,
}

/// Whether the kernel objects are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Maps {
    /// Not loaded: policy is compiled only.
    #[default]
    Absent,
    /// In use.
    Loaded,
}

/// Entries in the policy tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tables {
    /// Exact peers.
    pub peers: usize,
    /// Prefix peers.
    pub prefixes: usize,
    /// Rules.
    pub rules: usize,
    /// Port sets.
    pub port_sets: usize,
}

/// How the documents stand: `status/documents.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Documents {
    /// Every document that is in force or was found, sorted by identity and file.
    pub documents: Vec<Document>,
    /// Files in which something cannot be told to be a document, sorted by path below `policies/`.
    pub files: Vec<File>,
}

/// How one document stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// `PolicyEndpoint/namespace/name` or `ClusterPolicyEndpoint/name`.
    pub identity: String,
    /// The file, below `policies/`.
    pub file: String,
    /// The policy it is a part of, `NetworkPolicy/namespace/name`.
    pub policy: String,
    /// How it stands.
    pub condition: Condition,
    /// What to know about it; empty where there is nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// SHA-256 of the version that is in force, in its canonical form; absent where none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Local endpoints that its policy selects.
    #[serde(default)]
    pub endpoints: usize,
}

/// A file that is not (only) documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Below `policies/`.
    pub path: String,
    /// Always [`Condition::Broken`].
    pub condition: Condition,
    /// What is wrong.
    pub message: String,
}

/// What is in force for each endpoint: `status/endpoints.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoints {
    /// Sorted by endpoint id.
    pub endpoints: Vec<Endpoint>,
}

/// What is in force for one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its endpoint id.
    #[serde(alias = "life")]
    pub endpoint_id: u32,
    /// Its endpoint index.
    #[serde(alias = "slot")]
    pub endpoint_index: u32,
    /// Host veth.
    pub ifindex: u32,
    /// Container.
    pub container_id: String,
    /// Interface in the pod.
    pub ifname: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Mode.
    pub mode: Mode,
    /// The companion's generation in which its policy last changed.
    pub generation: u64,
    /// Digest of the policies that select it, in the versions in force.
    pub digest: String,
    /// The policies that select it.
    pub policies: Vec<String>,
    /// Isolated towards the pod.
    pub isolated_ingress: bool,
    /// Isolated from the pod.
    pub isolated_egress: bool,
    /// Whether what applies is known; until then its policy state stays pending.
    pub known: bool,
}

impl Companion {
    /// Whether all that the store held at a moment is applied or has a condition. Take `fingerprint` and `at_ns`
    /// ([`state::clock::monotonic_ns`]) once, then ask again with each new status until it says yes.
    pub fn has_applied(&self, fingerprint: &StoreFingerprint, at_ns: u64) -> bool {
        self.error.is_none()
            && (self.applied_until_ns >= at_ns || (!self.settling && self.applied == *fingerprint))
    }

    /// Reads it; `None` = no companion has run in this boot.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(store: &Store) -> Result<Option<Self>, state::Error> {
        store.read_status(COMPANION)
    }

    /// Writes it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, store: &Store) -> Result<(), state::Error> {
        store.write_status(COMPANION, self)
    }
}

impl Documents {
    /// Reads it; `None` = no companion has run in this boot.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(store: &Store) -> Result<Option<Self>, state::Error> {
        store.read_status(DOCUMENTS)
    }

    /// Writes it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, store: &Store) -> Result<(), state::Error> {
        store.write_status(DOCUMENTS, self)
    }
}

impl Endpoints {
    /// Reads it; `None` = no companion has run in this boot.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(store: &Store) -> Result<Option<Self>, state::Error> {
        store.read_status(ENDPOINTS)
    }

    /// Writes it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, store: &Store) -> Result<(), state::Error> {
        store.write_status(ENDPOINTS, self)
    }
}
