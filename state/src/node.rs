//! `node.json`, what holds for the whole node, and `node-addresses.json`.
//!
//! Values are looked at one by one: an error names file and field. An absent file, an absent key and `null` are the
//! default. Keys that nobody knows are kept, so that writing the file loses nothing.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{
    Error as StoreError, Locked, Store,
    file::{self, Durability},
    records::to_json,
};

mod values;

pub use values::{EnforcingMode, HostSetExclusion, PortRange, Source, UnknownMode};
use values::{parse_exclusion, parse_range};

/// Bounds of `conntrackCacheTableSize`.
pub const TABLE_SIZES: std::ops::RangeInclusive<u32> = 32_768..=1_048_576;

/// Why `node.json` or `node-addresses.json` cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] file::Error),
    /// It is not JSON.
    #[error("read {}: {source}; correct it or remove it", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What serde said.
        source: serde_json::Error,
    },
    /// A value that cannot be.
    #[error("read {}: {field}: {found} is not {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The key.
        field: &'static str,
        /// What stands there.
        found: String,
        /// What could.
        expected: &'static str,
    },
}

/// `node.json`; what is `None` is not said there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeConfig {
    /// The node's name in the cluster.
    pub node_name: Option<String>,
    /// Mode for ADDs that say none themselves.
    pub enforcing_mode: Option<EnforcingMode>,
    /// Who fills the store.
    pub source: Source,
    /// Flows that the node can track, within [`TABLE_SIZES`].
    pub conntrack_cache_table_size: Option<u32>,
    /// Ports that are no host's service.
    pub node_port_range: PortRange,
    /// What is not the host's though it stands on the host.
    pub host_set_exclude: Vec<HostSetExclusion>,
    /// Keys that nobody knows: to be reported, kept when written.
    pub other: Map<String, Value>,
}

impl NodeConfig {
    /// Read the text of a `node.json`; `path` is for the error.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let json = |source| Error::Json {
            path: path.to_owned(),
            source,
        };
        let mut fields = Fields {
            path,
            map: serde_json::from_slice(bytes).map_err(json)?,
        };
        let config = Self {
            node_name: fields.take("nodeName", "a name of at least one character", |value| {
                value
                    .as_str()
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
            })?,
            enforcing_mode: fields.take(
                "networkPolicyEnforcingMode",
                "strict, standard or none",
                |value| value.as_str()?.parse().ok(),
            )?,
            source: fields
                .take("source", "cluster or files", |value| {
                    match value.as_str()? {
                        "cluster" => Some(Source::Cluster),
                        "files" => Some(Source::Files),
                        _ => None,
                    }
                })?
                .unwrap_or_default(),
            conntrack_cache_table_size: fields.take(
                "conntrackCacheTableSize",
                "a number from 32768 to 1048576",
                |value| {
                    u32::try_from(value.as_u64()?)
                        .ok()
                        .filter(|size| TABLE_SIZES.contains(size))
                },
            )?,
            node_port_range: fields
                .take(
                    "nodePortRange",
                    "two ports such as \"30000-32767\"",
                    |value| parse_range(value.as_str()?),
                )?
                .unwrap_or_default(),
            host_set_exclude: fields
                .take(
                    "hostSetExclude",
                    "a list of addresses, prefixes and interface names",
                    |value| {
                        value
                            .as_array()?
                            .iter()
                            .map(|item| parse_exclusion(item.as_str()?))
                            .collect()
                    },
                )?
                .unwrap_or_default(),
            other: fields.map,
        };
        Ok(config)
    }

    fn to_value(&self) -> Value {
        let mut map = self.other.clone();
        let mut put =
            |key: &str, value: Option<Value>| value.map(|value| map.insert(key.to_owned(), value));
        put("nodeName", self.node_name.as_ref().map(|name| json!(name)));
        put(
            "networkPolicyEnforcingMode",
            self.enforcing_mode.map(|mode| json!(mode.as_str())),
        );
        put(
            "source",
            (self.source != Source::default()).then(|| json!(self.source.as_str())),
        );
        put(
            "conntrackCacheTableSize",
            self.conntrack_cache_table_size.map(|size| json!(size)),
        );
        let range = self.node_port_range;
        put(
            "nodePortRange",
            (range != PortRange::default()).then(|| json!(range.to_string())),
        );
        let excluded: Vec<_> = self
            .host_set_exclude
            .iter()
            .map(ToString::to_string)
            .collect();
        put(
            "hostSetExclude",
            (!excluded.is_empty()).then(|| json!(excluded)),
        );
        Value::Object(map)
    }
}

struct Fields<'a> {
    path: &'a Path,
    map: Map<String, Value>,
}

impl Fields<'_> {
    fn take<T>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        match self.map.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match parse(&value) {
                Some(parsed) => Ok(Some(parsed)),
                None => Err(Error::Field {
                    path: self.path.to_owned(),
                    field,
                    found: value.to_string(),
                    expected,
                }),
            },
        }
    }
}

impl Store {
    /// What holds for the node; all defaults when there is no `node.json`.
    pub fn node_config(&self) -> Result<NodeConfig, Error> {
        let path = self.layout().node();
        match file::read_optional(&path)? {
            Some(bytes) => NodeConfig::parse(&path, &bytes),
            None => Ok(NodeConfig::default()),
        }
    }

    /// The node's addresses as Kubernetes has them; empty when there is no `node-addresses.json`. Names are skipped.
    pub fn node_addresses(&self) -> Result<Vec<IpAddr>, Error> {
        let path = self.layout().node_addresses();
        match file::read_optional(&path)? {
            Some(bytes) => parse_addresses(&path, &bytes),
            None => Ok(Vec::new()),
        }
    }

    /// Write `node-addresses.json`, flushed.
    pub fn write_node_addresses(&self, addresses: &[IpAddr]) -> Result<(), StoreError> {
        let path = self.layout().node_addresses();
        let bytes = to_json(&path, &json!({ "addresses": addresses }))?;
        file::replace(&path, &bytes, Durability::Durable)?;
        Ok(())
    }
}

impl Locked<'_> {
    /// Change `node.json`: read, changed and written under the node's lock, so that two writers lose nothing of each
    /// other. Flushed; nothing is written where nothing changes. Returns what holds from now on.
    ///
    /// # Errors
    /// If the file cannot be read or written, or would not read back: then it stays as it was.
    pub fn update_node_config(
        &self,
        change: impl FnOnce(&mut NodeConfig),
    ) -> Result<NodeConfig, StoreError> {
        let before = self.store.node_config()?;
        let mut config = before.clone();
        change(&mut config);
        if config != before {
            let path = self.store.layout().node();
            let bytes = to_json(&path, &config.to_value())?;
            NodeConfig::parse(&path, &bytes)?;
            file::replace(&path, &bytes, Durability::Durable)?;
        }
        Ok(config)
    }
}

/// Plain addresses, or Kubernetes' `{type, address}`, whose host names are no addresses.
fn parse_addresses(path: &Path, bytes: &[u8]) -> Result<Vec<IpAddr>, Error> {
    let json = |source| Error::Json {
        path: path.to_owned(),
        source,
    };
    let mut fields = Fields {
        path,
        map: serde_json::from_slice(bytes).map_err(json)?,
    };
    let addresses = fields.take("addresses", "a list of addresses", |value| {
        let mut addresses = Vec::new();
        for item in value.as_array()? {
            let kind = item.get("type").and_then(Value::as_str).unwrap_or_default();
            if matches!(kind, "Hostname" | "InternalDNS" | "ExternalDNS") {
                continue;
            }
            let text = item.get("address").unwrap_or(item).as_str()?;
            addresses.push(text.parse().ok()?);
        }
        Some(addresses)
    })?;
    Ok(addresses.unwrap_or_default())
}
