//! Policy tables: single writes by the layouts of `verdict`, and their contents read back.
//!
//! Who calls it keeps the order (`policy::plan`): entries are written in two versions, then the policy states flip (see
//! [`Tables::flip`]), then old versions and what nobody reads any more go. So a write that fails leaves the old policy in
//! force, and every write may be repeated. Each update of a map is one pointer change under RCU: a look-up finds old or new.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, MapData};
use state::{Locked, Store};
use verdict::PolicyState;
use verdict::layout::{
    Addr, PeerKey, PeerValue, PortKey, PortValue, PrefixKey, PrefixValue, RuleKey, RuleValue,
    TableWrite, V4,
};

use crate::endpoint::{self, Endpoints};
use crate::maps::{self, PortData, PrefixData, port_key, prefix_key};
use crate::pins::Pins;

/// For so long the node's lock is held at most before others get it.
pub const SLICE: Duration = Duration::from_millis(2);

/// What the tables hold.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Exact peers.
    pub peers: Vec<(PeerKey, PeerValue)>,
    /// Prefix peers.
    pub prefixes: Vec<(PrefixKey, PrefixValue)>,
    /// Rules.
    pub rules: Vec<(RuleKey, RuleValue)>,
    /// Entries of port sets.
    pub ports: Vec<(PortKey, PortValue)>,
}

/// How many entries the tables take at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// `PEERS`.
    pub peers: usize,
    /// `PREFIXES`.
    pub prefixes: usize,
    /// `RULES`.
    pub rules: usize,
    /// `PORTS`.
    pub ports: usize,
}

/// The policy tables.
pub struct Tables {
    peers: HashMap<MapData, maps::PeerKey, maps::PeerValue>,
    prefixes: LpmTrie<MapData, PrefixData, maps::PrefixValue>,
    rules: HashMap<MapData, maps::RuleKey, maps::RuleValue>,
    ports: LpmTrie<MapData, PortData, u32>,
}

/// A policy state that is to be written: whose, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// Host veth of the endpoint.
    pub ifindex: u32,
    /// Its endpoint id: another's policy state is never written.
    pub endpoint_id: u32,
    /// Flags, all of them.
    pub flags: u64,
    /// Rule set.
    pub set: u16,
    /// Revision; `None` = the one it has, or a new one where it is pending or empty.
    pub revision: Option<u64>,
}

impl Tables {
    /// Opens the pinned tables.
    ///
    /// # Errors
    /// If nothing is loaded.
    pub fn open(pins: &Pins) -> Result<Self, maps::Error> {
        Ok(Self {
            peers: maps::hash(pins, "PEERS")?,
            prefixes: maps::trie(pins, "PREFIXES")?,
            rules: maps::hash(pins, "RULES")?,
            ports: maps::trie(pins, "PORTS")?,
        })
    }

    /// How many entries the tables take. A trie is left one short: before 6.13 a full one refuses to replace an entry.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn capacity(pins: &Pins) -> Result<Capacity, maps::Error> {
        let of = |name| {
            let info = maps::data(pins, name)?.info();
            let info = info.map_err(|e| maps::Error::read(name, &e))?;
            Ok::<usize, maps::Error>(info.max_entries() as usize)
        };
        Ok(Capacity {
            peers: of("PEERS")?,
            prefixes: of("PREFIXES")?.saturating_sub(1),
            rules: of("RULES")?,
            ports: of("PORTS")?.saturating_sub(1),
        })
    }

    /// Makes one write. What is to be deleted may be gone already.
    ///
    /// # Errors
    /// If the kernel refuses; the table is as before then.
    pub fn write(&mut self, _: &Locked<'_>, write: &TableWrite) -> Result<(), maps::Error> {
        let (name, done) = match *write {
            TableWrite::Peer(key, value) => ("PEERS", {
                let key = maps::PeerKey(key);
                match value {
                    Some(value) => self.peers.insert(key, maps::PeerValue(value), 0),
                    None => maps::gone(self.peers.remove(&key)),
                }
            }),
            TableWrite::Prefix(key, value) => ("PREFIXES", {
                let key = prefix_key(&key);
                match value {
                    Some(value) => self.prefixes.insert(&key, maps::PrefixValue(value), 0),
                    None => maps::gone(self.prefixes.remove(&key)),
                }
            }),
            TableWrite::Rule(key, value) => ("RULES", {
                let key = maps::RuleKey(key);
                match value {
                    Some(value) => self.rules.insert(key, maps::RuleValue(value), 0),
                    None => maps::gone(self.rules.remove(&key)),
                }
            }),
            TableWrite::Port(key, value) => ("PORTS", {
                let key = port_key(&key);
                match value {
                    Some(value) => self.ports.insert(&key, value, 0),
                    None => maps::gone(self.ports.remove(&key)),
                }
            }),
        };
        done.map_err(|e| maps::Error::write(name, &e))
    }

    /// Reads everything. Only who holds the companion's lock writes here, so nothing moves meanwhile.
    ///
    /// # Errors
    /// If a table cannot be read.
    pub fn contents(&self) -> Result<Contents, maps::Error> {
        let mut all = Contents::default();
        for entry in self.peers.iter() {
            let (maps::PeerKey(key), maps::PeerValue(value)) =
                entry.map_err(|e| maps::Error::read("PEERS", &e))?;
            all.peers.push((key, value));
        }
        for entry in self.prefixes.iter() {
            let (key, maps::PrefixValue(value)) =
                entry.map_err(|e| maps::Error::read("PREFIXES", &e))?;
            let PrefixData([family, a, b, c, d]) = key.data();
            let key = PrefixKey {
                prefix_len: key.prefix_len(),
                family,
                addr: Addr([a, b, c, d]),
            };
            all.prefixes.push((key, value));
        }
        for entry in self.rules.iter() {
            let (maps::RuleKey(key), maps::RuleValue(value)) =
                entry.map_err(|e| maps::Error::read("RULES", &e))?;
            all.rules.push((key, value));
        }
        for entry in self.ports.iter() {
            let (key, value) = entry.map_err(|e| maps::Error::read("PORTS", &e))?;
            let PortData([port_set, rest]) = key.data();
            let [a, b, c, d] = rest.to_ne_bytes();
            let key = PortKey {
                prefix_len: key.prefix_len(),
                port_set,
                protocol_be: u16::from_ne_bytes([a, b]),
                port_be: u16::from_ne_bytes([c, d]),
            };
            all.ports.push((key, value));
        }
        Ok(all)
    }

    /// Writes a policy state: after this the new policy is in force for its endpoint. False = the endpoint is gone.
    ///
    /// # Errors
    /// If a revision cannot be had or the entry cannot be read; the policy state is as before then.
    pub fn flip(
        endpoints: &mut Endpoints,
        locked: &Locked<'_>,
        flip: &Flip,
    ) -> Result<bool, endpoint::Error> {
        let Some(entry) = endpoints
            .entry(flip.ifindex)?
            .filter(|entry| entry.endpoint_id == flip.endpoint_id)
        else {
            return Ok(false);
        };
        let before = endpoints.policy_states.get(entry.endpoint_index);
        let revision = match flip.revision {
            Some(revision) => revision,
            None if before.has(PolicyState::PENDING) || before.revision() == 0 => {
                endpoints.next_revision(locked)?
            }
            None => before.revision(),
        };
        let after = PolicyState::new(flip.flags, flip.set, revision);
        endpoints.policy_states.set(entry.endpoint_index, after);
        Ok(true)
    }
}

/// Does work under the node's lock in slices of at most [`SLICE`], so that an ADD never waits for a whole table.
///
/// `work` is called again and again with the lock; it does one small thing and tells whether there is more.
///
/// # Errors
/// What `work` says, or that the lock was not free in time.
pub fn in_slices<E: From<state::lock::Error>>(
    store: &Store,
    timeout: Duration,
    mut work: impl FnMut(&Locked<'_>) -> Result<bool, E>,
) -> Result<(), E> {
    loop {
        let locked = store.lock(timeout)?;
        let begin = Instant::now();
        while begin.elapsed() < SLICE {
            if !work(&locked)? {
                return Ok(());
            }
        }
    }
}

/// The number of a family in keys.
pub const fn family_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => verdict::layout::V6,
    }
}
