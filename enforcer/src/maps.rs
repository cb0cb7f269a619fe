//! The pinned maps, typed. aya's marker for plain data is implemented here, on newtypes: `verdict` knows no eBPF.

use std::path::PathBuf;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf};
use verdict::layout;

use crate::pins::Pins;

/// Every pinned map, by its name in the kernel programs (`WORK` is theirs alone).
pub const ALL: &[&str] = &[
    "ENDPOINTS",
    "POLICY_STATES",
    "SOURCES",
    "FLOWS",
    "FRAGMENTS",
    "HOSTS",
    "HOSTPATHS",
    "HOSTPORTS",
    "PEERS",
    "PREFIXES",
    "RULES",
    "PORTS",
    "CONFIG",
    "NURSERY",
    "NURSERY_EMPTY",
    "FLOWS_CREATED",
    "FLOWS_DELETED",
    "PASSED",
    "REASONS",
    "EVENTS",
    "RATES",
    "NODE",
    "CLOCK",
];

/// Why a map could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No pin: nothing is loaded.
    #[error("open map {path}: {detail} (is anything loaded? `podgatectl load` does it)")]
    Open {
        /// The pin.
        path: PathBuf,
        /// Why.
        detail: String,
        /// Whether the pin is missing.
        missing: bool,
    },
    /// A read failed.
    #[error("read map {name}: {detail}")]
    Read {
        /// The map.
        name: &'static str,
        /// Why.
        detail: String,
    },
    /// A write failed.
    #[error("write map {name}: {detail}")]
    Write {
        /// The map.
        name: &'static str,
        /// Why.
        detail: String,
        /// Whether the map has no room.
        full: bool,
        /// Whether the key is there already.
        exists: bool,
    },
}

impl Error {
    pub(crate) fn read(name: &'static str, e: &MapError) -> Self {
        Self::Read {
            name,
            detail: deep(e),
        }
    }

    pub(crate) fn write(name: &'static str, e: &MapError) -> Self {
        let errno = errno(e);
        Self::Write {
            name,
            detail: deep(e),
            full: matches!(errno, Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM)),
            exists: errno == Some(libc::EEXIST),
        }
    }

    /// Whether a map has no room for more.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Write { full: true, .. })
    }

    /// Whether nothing is loaded.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Open { missing: true, .. })
    }
}

/// For how many entries a pinned map was made.
///
/// # Errors
/// If it is not pinned.
pub(crate) fn max_entries(pins: &Pins, name: &'static str) -> Result<u32, Error> {
    let info = aya::maps::MapInfo::from_pin(pins.map(name)).map_err(|e| Error::read(name, &e))?;
    Ok(info.max_entries())
}

/// The error and its causes in one line.
fn deep(e: &(dyn std::error::Error + 'static)) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        text.push_str(": ");
        text.push_str(&c.to_string());
        cause = c.source();
    }
    text
}

/// What was to be deleted may be gone already. (aya tells of a missing key by the errno alone when it deletes.)
pub(crate) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(e) if is_gone(&e) => Ok(()),
        other => other,
    }
}

/// Whether a key is not there.
pub(crate) fn is_gone(e: &MapError) -> bool {
    matches!(e, MapError::KeyNotFound) || errno(e) == Some(libc::ENOENT)
}

/// The errno at the bottom of an error, if there is one.
fn errno(e: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(e);
    while let Some(c) = cause {
        if let Some(io) = c.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        cause = c.source();
    }
    None
}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident($layout:ty);)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            #[repr(transparent)]
            pub struct $name(pub $layout);
            // SAFETY: a transparent newtype of a `repr(C)` layout with explicit padding and no invalid bit patterns
            // (held by the const asserts in `verdict::layout`).
            unsafe impl Pod for $name {}
        )*
    };
}

plain! {
    /// An endpoint entry.
    EndpointValue(layout::Endpoint);
    /// Flow key.
    FlowKey(layout::FlowKey);
    /// Flow value.
    FlowValue(layout::FlowValue);
    /// First fragment's key.
    FragmentKey(layout::FragmentKey);
    /// Key of peers and of the host set.
    PeerKey(layout::PeerKey);
    /// Value of an exact peer.
    PeerValue(layout::PeerValue);
    /// Value of a prefix peer.
    PrefixValue(layout::PrefixValue);
    /// Rule key.
    RuleKey(layout::RuleKey);
    /// Rule value.
    RuleValue(layout::RuleValue);
    /// Settings.
    ConfigValue(layout::Config);
    /// hostPort key.
    HostPortKey(layout::HostPortKey);
    /// A bucket of the nursery.
    NurseryBucket(layout::NurseryBucket);
    /// A counter.
    CounterValue(layout::Counter);
    /// A rate window.
    RateValue(layout::Rate);
    /// Data of a prefix key: family and address.
    PrefixData([u32; 5]);
    /// Data of a source key: endpoint id, family and address.
    SourceData([u32; 6]);
    /// Data of a port key: port set, protocol and port.
    PortData([u32; 2]);
}

/// Key of the prefix trie, as aya takes it.
pub fn prefix_key(key: &layout::PrefixKey) -> Key<PrefixData> {
    let [a, b, c, d] = key.addr.0;
    Key::new(key.prefix_len, PrefixData([key.family, a, b, c, d]))
}

/// Key of the sources trie, as aya takes it.
pub fn source_key(key: &layout::SourceKey) -> Key<SourceData> {
    let [a, b, c, d] = key.addr.0;
    Key::new(
        key.prefix_len,
        SourceData([key.endpoint_id, key.family, a, b, c, d]),
    )
}

/// Key of the ports trie, as aya takes it.
pub fn port_key(key: &layout::PortKey) -> Key<PortData> {
    let ([a, b], [c, d]) = (key.protocol_be.to_ne_bytes(), key.port_be.to_ne_bytes());
    Key::new(
        key.prefix_len,
        PortData([key.port_set, u32::from_ne_bytes([a, b, c, d])]),
    )
}

macro_rules! openers {
    ($($(#[$doc:meta])* $name:ident -> $map:ident<$($arg:ty),*>, $variant:ident $(for [$($g:ident),*])?;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// If it is not pinned, or of another type.
            pub fn $name$(<$($g: Pod),*>)?(pins: &Pins, name: &'static str) -> Result<$map<$($arg),*>, Error> {
                $map::try_from(Map::$variant(data(pins, name)?)).map_err(|e| Error::read(name, &e))
            }
        )*
    };
}

openers! {
    /// Opens a pinned array.
    array -> Array<MapData, V>, Array for [V];
    /// Opens a pinned hash.
    hash -> HashMap<MapData, K, V>, HashMap for [K, V];
    /// Opens a pinned LRU hash.
    lru -> HashMap<MapData, K, V>, LruHashMap for [K, V];
    /// Opens a pinned trie.
    trie -> LpmTrie<MapData, K, V>, LpmTrie for [K, V];
    /// Opens a pinned per-CPU array.
    per_cpu_array -> PerCpuArray<MapData, V>, PerCpuArray for [V];
    /// Opens a pinned per-CPU hash.
    per_cpu_hash -> PerCpuHashMap<MapData, K, V>, PerCpuHashMap for [K, V];
    /// Opens a pinned ring.
    ring -> RingBuf<MapData>, RingBuf;
}

/// Opens a pinned map.
///
/// # Errors
/// If it is not pinned.
pub fn data(pins: &Pins, name: &'static str) -> Result<MapData, Error> {
    let path = pins.map(name);
    MapData::from_pin(&path).map_err(|e| {
        let missing = !path.exists();
        Error::Open {
            path,
            detail: deep(&e),
            missing,
        }
    })
}
