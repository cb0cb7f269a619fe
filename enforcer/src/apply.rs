//! Policy tables: single writes by the layouts of `verdict`, and their contents read back.
//!
//! Who calls it keeps the order (`policy::plan`): what is put is read by nobody yet or means the same as before, then
//! the policy states flip (see [`Tables::flip`]), then what nobody reads any more goes. So a write that fails leaves the old
//! policy in force, and every write may be repeated.
//!
//! Where a grace period is needed: *after* the policy states, before anything that the old policy states lead to is changed, and again
//! before numbers are used anew. Between tables and policy states none is needed: a program reads its policy state first and once, so one
//! that has the new policy state began after every table write had returned, and one that has the old policy state finds all that the old
//! policy state leads to still there. (Each update of a map is one pointer change under RCU: a look-up finds old or new.)

use std::net::IpAddr;
use std::time::{Duration, Instant};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, MapData};
use state::{Locked, Store};
use verdict::PolicyState;
use verdict::layout::{
    Addr, PeerKey, PeerValue, PortKey, PortValue, PrefixKey, PrefixValue, RuleKey, RuleValue, V4,
};

use crate::endpoint::{self, Endpoints};
use crate::maps::{self, PortData, PrefixData, port_key, prefix_key};
use crate::pins::Pins;

/// For so long the node's lock is held at most before others get it.
pub const SLICE: Duration = Duration::from_millis(2);

/// One write to the policy tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Class of a block: exact addresses into the hash, others into the trie.
    PutPeer {
        /// Network address.
        address: IpAddr,
        /// Length of the prefix.
        len: u8,
        /// Class.
        class: u32,
    },
    /// The block has the class of what surrounds it.
    DeletePeer {
        /// Network address.
        address: IpAddr,
        /// Length of the prefix.
        len: u8,
    },
    /// A rule.
    PutRule {
        /// Key.
        key: RuleKey,
        /// Value.
        value: RuleValue,
    },
    /// No rule.
    DeleteRule {
        /// Key.
        key: RuleKey,
    },
    /// An entry of a port set.
    PutPort {
        /// Key.
        key: PortKey,
        /// Value.
        value: PortValue,
    },
    /// No entry.
    DeletePort {
        /// Key.
        key: PortKey,
    },
}

/// What the tables hold.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Address, length and class of each block.
    pub peers: Vec<(IpAddr, u8, u32)>,
    /// Rules.
    pub rules: Vec<(RuleKey, RuleValue)>,
    /// Entries of port sets.
    pub ports: Vec<(PortKey, PortValue)>,
}

/// The policy tables.
pub struct Tables {
    peers: HashMap<MapData, maps::PeerKey, maps::PeerValue>,
    prefixes: LpmTrie<MapData, PrefixData, maps::PrefixValue>,
    rules: HashMap<MapData, maps::RuleKey, u32>,
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
    /// Policy set.
    pub set: u16,
    /// Take a new revision: verdicts change. A pending or empty policy state always gets one.
    pub new_revision: bool,
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

    /// Makes one write. What is to be deleted may be gone already.
    ///
    /// # Errors
    /// If the kernel refuses; the table is as before then.
    pub fn write(&mut self, _: &Locked<'_>, write: &Write) -> Result<(), maps::Error> {
        let (name, done) = match *write {
            Write::PutPeer {
                address,
                len,
                class,
            } if is_exact(address, len) => {
                let key = exact_key(address);
                let value = maps::PeerValue(PeerValue::new(&key, class));
                ("PEERS", self.peers.insert(maps::PeerKey(key), value, 0))
            }
            Write::PutPeer {
                address,
                len,
                class,
            } => {
                let (family, addr) = Addr::from_ip(address);
                let value = PrefixValue {
                    class,
                    len: u32::from(len),
                    addr,
                    family: u32::from(family),
                    class_again: class,
                };
                let key = prefix_key(&trie_key(address, len));
                (
                    "PREFIXES",
                    self.prefixes.insert(&key, maps::PrefixValue(value), 0),
                )
            }
            Write::DeletePeer { address, len } if is_exact(address, len) => (
                "PEERS",
                maps::gone(self.peers.remove(&maps::PeerKey(exact_key(address)))),
            ),
            Write::DeletePeer { address, len } => (
                "PREFIXES",
                maps::gone(self.prefixes.remove(&prefix_key(&trie_key(address, len)))),
            ),
            Write::PutRule { key, value } => {
                ("RULES", self.rules.insert(maps::RuleKey(key), value, 0))
            }
            Write::DeleteRule { key } => {
                ("RULES", maps::gone(self.rules.remove(&maps::RuleKey(key))))
            }
            Write::PutPort { key, value } => {
                ("PORTS", self.ports.insert(&port_key(&key), value, 0))
            }
            Write::DeletePort { key } => ("PORTS", maps::gone(self.ports.remove(&port_key(&key)))),
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
            let address = key.addr.to_ip(key.family as u8);
            all.peers.push((address, bits(address), value.word as u32));
        }
        for entry in self.prefixes.iter() {
            let (key, maps::PrefixValue(value)) =
                entry.map_err(|e| maps::Error::read("PREFIXES", &e))?;
            let PrefixData([family, a, b, c, d]) = key.data();
            let len = key.prefix_len().saturating_sub(PrefixKey::FIXED_BITS) as u8;
            all.peers
                .push((Addr([a, b, c, d]).to_ip(family as u8), len, value.class));
        }
        for entry in self.rules.iter() {
            let (maps::RuleKey(key), value) = entry.map_err(|e| maps::Error::read("RULES", &e))?;
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

    /// Flips policy states: after this the new policy is in force. Endpoints that are gone are returned, their policy states untouched.
    ///
    /// All policy states that change in one call get one revision: it is new for each of them.
    ///
    /// # Errors
    /// If an revision cannot be had or an entry cannot be read; the policy states before the failing one have flipped.
    pub fn flip(
        endpoints: &mut Endpoints,
        locked: &Locked<'_>,
        flips: &[Flip],
    ) -> Result<Vec<Flip>, endpoint::Error> {
        let (mut gone, mut revision) = (Vec::new(), None);
        for flip in flips {
            let Some(entry) = endpoints
                .entry(flip.ifindex)?
                .filter(|entry| entry.endpoint_id == flip.endpoint_id)
            else {
                gone.push(*flip);
                continue;
            };
            let before = endpoints.policy_states.get(entry.endpoint_index);
            let fresh =
                flip.new_revision || before.has(PolicyState::PENDING) || before.revision() == 0;
            let number = match (fresh, revision) {
                (false, _) => before.revision(),
                (true, Some(number)) => number,
                (true, None) => *revision.insert(endpoints.next_revision(locked)?),
            };
            endpoints.policy_states.set(
                entry.endpoint_index,
                PolicyState::new(flip.flags, flip.set, number),
            );
        }
        Ok(gone)
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

const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

const fn is_exact(address: IpAddr, len: u8) -> bool {
    len >= bits(address)
}

const fn exact_key(address: IpAddr) -> PeerKey {
    let (family, addr) = Addr::from_ip(address);
    PeerKey {
        family: family as u32,
        addr,
    }
}

const fn trie_key(address: IpAddr, len: u8) -> PrefixKey {
    let (family, addr) = Addr::from_ip(address);
    PrefixKey {
        prefix_len: PrefixKey::FIXED_BITS + len as u32,
        family: family as u32,
        addr,
    }
}

/// The number of a family in keys.
pub const fn family_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => verdict::layout::V6,
    }
}
