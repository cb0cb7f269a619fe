//! Endpoint records: one file for each interface of each pod under enforcement, written by the plugin under the lock.
//!
//! A record's identity is (container id, interface name), as its content says it; the file name only finds it. A record
//! of an earlier boot is void. A torn or empty one counts as none and goes with the next scan. One of a newer schema is
//! reported and left alone.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Error as StoreError, Layout, Locked, Problem, ProblemKind, Store,
    file::{self, Durability},
};

/// The schema that this program writes, and the newest that it reads.
pub const SCHEMA: u64 = 1;

/// Why a record was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file of this endpoint was written by a newer podgate, is unsafe or cannot be read.
    #[error("read record {0}")]
    Unusable(Problem),
    /// The record claims another boot than this one.
    #[error("write record {container_id}/{ifname}: boot id {boot_id:?} is not this boot's")]
    OtherBoot {
        /// Its container.
        container_id: String,
        /// Its interface.
        ifname: String,
        /// What it says.
        boot_id: String,
    },
}

/// How far an ADD has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Announced; the kernel may have part of it.
    Intended,
    /// Attached and read back.
    Attached,
}

/// What an endpoint does in a direction for which no policy isolates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Deny.
    Strict,
    /// Allow.
    Standard,
}

/// How the programs are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AttachMode {
    /// Filters on a clsact qdisc.
    Clsact,
    /// TCX links, kernel 6.6 and up.
    Tcx,
}

/// A port of the node that leads to a pod: one of the runtime's `portMappings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// Its protocol.
    pub protocol: Transport,
    /// Its number on the node.
    pub port: u16,
}

/// Protocols with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// The protocol's number in an IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// One endpoint. Keys that a later version of this schema adds are kept in `other`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u64,
    /// How far its ADD has come.
    pub phase: Phase,
    /// The boot it belongs to.
    pub boot_id: String,
    /// Name of the network configuration that the ADD came with.
    pub network: String,
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_IFNAME of the call.
    pub cni_ifname: String,
    /// The interface's own name in the pod.
    pub ifname: String,
    /// Namespace of the pod.
    pub pod_namespace: String,
    /// Name of the pod.
    pub pod_name: String,
    /// K8S_POD_UID, where the runtime gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// The pod's labels, where the call brought them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Path of the pod's network namespace.
    pub netns: String,
    /// Index of the host's veth.
    pub ifindex: u32,
    /// Name of the host's veth.
    pub veth: String,
    /// Endpoint id of the endpoint entry, a number of the node that never repeats.
    #[serde(alias = "life")]
    pub endpoint_id: u32,
    /// Index of the endpoint entry, 1 to 4095.
    #[serde(alias = "slot")]
    pub endpoint_index: u32,
    /// The pod's MAC address, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// The pod's addresses on this interface.
    pub addresses: Vec<IpAddr>,
    /// Mode of its ADD.
    pub mode: Mode,
    /// How it is attached.
    pub attach_mode: AttachMode,
    /// Layout version of the maps it stands in.
    pub layout_version: u32,
    /// When the attachment was read back, RFC 3339; absent while intended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached_at: Option<String>,
    /// The same on CLOCK_MONOTONIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached_at_monotonic_ns: Option<u64>,
    /// Whether the pod can send only from its own addresses.
    #[serde(default)]
    pub source_guard: bool,
    /// Prefixes it may send from besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_sources: Vec<String>,
    /// Ports of the node that lead to the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    /// Devices by which the host's own traffic comes back, as its ADD named them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_path_interfaces: Vec<String>,
    /// What later versions of this schema add.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Record {
    /// Whether it is the record of that interface.
    #[must_use]
    pub fn is(&self, container_id: &str, ifname: &str) -> bool {
        self.container_id == container_id && self.ifname == ifname
    }
}

/// What the folder of records holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Records of this boot, by file name.
    pub good: Vec<Record>,
    /// Records of an earlier boot: void.
    pub stale: Vec<Record>,
    /// Files that are none.
    pub problems: Vec<Problem>,
}

impl Store {
    /// Every record. A file that vanishes meanwhile is none.
    pub fn records(&self) -> Result<Records, StoreError> {
        self.records_with("")
    }

    /// The records of one container, by whatever call.
    pub fn container_records(&self, container_id: &str) -> Result<Records, StoreError> {
        let prefix = Layout::record_prefix(container_id)?;
        let mut records = self.records_with(&prefix)?;
        records
            .good
            .retain(|record| record.container_id == container_id);
        records
            .stale
            .retain(|record| record.container_id == container_id);
        Ok(records)
    }

    /// The record of one interface. Void, torn and absent ones are `None`.
    ///
    /// # Errors
    /// A record that cannot be judged: unsafe, unreadable, or of a newer schema.
    pub fn record(&self, container_id: &str, ifname: &str) -> Result<Option<Record>, StoreError> {
        let paths = self.layout().record(container_id, ifname)?;
        match file::check_folder(&self.layout().pods()) {
            Err(file::Error::Missing { .. }) => return Ok(None),
            other => other?,
        }
        for path in paths {
            let found = read_whole(&path)?.filter(|record| record.is(container_id, ifname));
            if let Some(record) = found {
                return Ok(Some(record).filter(|record| record.boot_id == self.boot_id()));
            }
        }
        Ok(None)
    }

    fn records_with(&self, prefix: &str) -> Result<Records, StoreError> {
        let folder = self.layout().pods();
        let mut records = Records::default();
        for name in file::names(&folder, prefix)? {
            match read(folder.join(name)) {
                Ok(None) => {}
                Ok(Some(record)) if record.boot_id == self.boot_id() => records.good.push(record),
                Ok(Some(record)) => records.stale.push(record),
                Err(problem) => records.problems.push(problem),
            }
        }
        Ok(records)
    }
}

impl Locked<'_> {
    /// Write a record. Not flushed: it is void after a reboot.
    pub fn put_record(&self, record: &Record) -> Result<(), StoreError> {
        let store = self.store;
        if record.boot_id != store.boot_id() {
            return Err(Error::OtherBoot {
                container_id: record.container_id.clone(),
                ifname: record.ifname.clone(),
                boot_id: record.boot_id.clone(),
            }
            .into());
        }
        let [plain, taken] = store
            .layout()
            .record(&record.container_id, &record.ifname)?;
        // Where it stands already, so that it never stands twice.
        let path = if holds(&taken, record)? || is_anothers(&plain, record)? {
            taken
        } else {
            plain
        };
        let bytes = to_json(&path, record)?;
        file::replace(&path, &bytes, Durability::Volatile)?;
        Ok(())
    }

    /// Remove a record; `false` when it was not there. Never touches another's, whatever the file name, nor, given a
    /// stale one, its successor of this boot.
    pub fn remove_record(&self, record: &Record) -> Result<bool, StoreError> {
        let mut removed = false;
        for path in self
            .store
            .layout()
            .record(&record.container_id, &record.ifname)?
        {
            if let Ok(Some(found)) = read(path.clone())
                && found.is(&record.container_id, &record.ifname)
                && found.boot_id == record.boot_id
            {
                removed |= file::remove(&path, Durability::Volatile)?;
            }
        }
        Ok(removed)
    }

    /// Remove a file that [`Store::records`] found torn; `false` for any other problem, or when it is whole by now.
    pub fn discard(&self, problem: &Problem) -> Result<bool, StoreError> {
        let ours = problem.path.parent() == Some(&*self.store.layout().pods());
        match read(problem.path.clone()) {
            Err(Problem {
                kind: ProblemKind::Torn(_),
                ..
            }) if ours => Ok(file::remove(&problem.path, Durability::Volatile)?),
            _ => Ok(false),
        }
    }
}

/// Whether the file is the record of this endpoint.
fn holds(path: &Path, record: &Record) -> Result<bool, Error> {
    let found = read_whole(path)?;
    Ok(found.is_some_and(|found| found.is(&record.container_id, &record.ifname)))
}

/// Whether the file is the record of another endpoint.
fn is_anothers(path: &Path, record: &Record) -> Result<bool, Error> {
    let found = read_whole(path)?;
    Ok(found.is_some_and(|found| !found.is(&record.container_id, &record.ifname)))
}

/// A torn record is none; one that cannot be judged is an error.
fn read_whole(path: &Path) -> Result<Option<Record>, Error> {
    match read(path.to_owned()) {
        Err(Problem {
            kind: ProblemKind::Torn(_),
            ..
        }) => Ok(None),
        other => other.map_err(Error::Unusable),
    }
}

fn read(path: PathBuf) -> Result<Option<Record>, Problem> {
    let bytes = match file::read(&path) {
        Ok(bytes) => bytes,
        Err(file::Error::Missing { .. }) => return Ok(None),
        Err(error) => {
            return Err(Problem {
                path,
                kind: ProblemKind::of(&error),
            });
        }
    };
    parse(&bytes)
        .map(Some)
        .map_err(|kind| Problem { path, kind })
}

fn parse(bytes: &[u8]) -> Result<Record, ProblemKind> {
    match serde_json::from_slice::<Record>(bytes) {
        Ok(record) if record.schema == SCHEMA => Ok(record),
        other => {
            check_schema(bytes, SCHEMA)?;
            other.map_err(|error| ProblemKind::Torn(error.to_string()))
        }
    }
}

/// What every file of ours begins with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Head {
    schema: u64,
    pub(crate) boot_id: Option<String>,
}

/// Tell a file of a newer schema from one that is torn.
pub(crate) fn check_schema(bytes: &[u8], known: u64) -> Result<Head, ProblemKind> {
    let head: Head =
        serde_json::from_slice(bytes).map_err(|error| ProblemKind::Torn(error.to_string()))?;
    match head.schema {
        0 => Err(ProblemKind::Torn("schema 0 never was".to_owned())),
        found if found > known => Err(ProblemKind::Newer { found, known }),
        _ => Ok(head),
    }
}

pub(crate) fn to_json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    let encode = |source| StoreError::Encode {
        path: path.to_owned(),
        source,
    };
    let mut bytes = serde_json::to_vec_pretty(value).map_err(encode)?;
    bytes.push(b'\n');
    Ok(bytes)
}
