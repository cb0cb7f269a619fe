//! Endpoint rows and their words: what the programs know of one interface of one pod.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, MapData, PerCpuValues};
use ipnetwork::IpNetwork;
use state::Locked;
use verdict::layout::{
    Addr, Counter, ENDPOINT_GUARD, ENDPOINT_MORE_SOURCES, Endpoint, INLINE_ADDRS, SLOTS, SourceKey,
    Swept, V4, counter_key,
};
use verdict::{Direction, PolicyWord, Reason};

use crate::maps::{self, CounterValue, EndpointValue, ShareValue, SweptValue};
use crate::pins::Pins;
use crate::words::Words;

/// Why an endpoint could not be made, read or deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A map.
    #[error(transparent)]
    Map(#[from] maps::Error),
    /// Every slot is held.
    #[error("make endpoint: all {} slots are held", SLOTS - 1)]
    NoSlot,
    /// Another row is there.
    #[error("make endpoint of interface {ifindex}: it has a row already (life {life})")]
    Exists {
        /// Host veth.
        ifindex: u32,
        /// Life of the row that is there.
        life: u32,
    },
}

impl Error {
    /// Whether a table has no room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Map(e) => e.is_full(),
            Self::NoSlot => true,
            Self::Exists { .. } => false,
        }
    }

    /// Whether nothing is loaded.
    pub fn is_not_loaded(&self) -> bool {
        matches!(self, Self::Map(e) if e.is_missing())
    }
}

/// What an endpoint is made of.
#[derive(Clone, Debug)]
pub struct NewEndpoint {
    /// Host veth.
    pub ifindex: u32,
    /// MAC address of the pod's end.
    pub mac: [u8; 6],
    /// The pod's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Further sources it may send from.
    pub extra_sources: Vec<IpNetwork>,
    /// Whether it may send from these only.
    pub source_guard: bool,
    /// Flags of its first word (`PolicyWord::PENDING`, or the mode).
    pub flags: u64,
}

/// An endpoint as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Host veth.
    pub ifindex: u32,
    /// Slot.
    pub slot: u32,
    /// Number of its life.
    pub life: u32,
    /// All of it.
    pub endpoint: Endpoint,
}

/// A slot and a life that a new endpoint will have; nothing in the kernel tells of it yet but the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Slot.
    pub slot: u32,
    /// Number of its life.
    pub life: u32,
}

/// The endpoint rows, the words and the node's counters.
pub struct Endpoints {
    pins: Pins,
    rows: HashMap<MapData, u32, EndpointValue>,
    node: Array<MapData, u64>,
    /// The policy words.
    pub words: Words,
}

const LAST_LIFE: u32 = 0;
const LAST_EPOCH: u32 = 1;

impl Endpoints {
    /// Opens what is pinned below a folder on a bpffs.
    ///
    /// # Errors
    /// If nothing is loaded.
    pub fn open(bpf_dir: impl AsRef<Path>) -> Result<Self, Error> {
        let pins = Pins::new(bpf_dir);
        Ok(Self {
            rows: maps::hash(&pins, "ENDPOINTS")?,
            node: maps::array(&pins, "NODE")?,
            words: Words::open(&pins)?,
            pins,
        })
    }

    /// The pins these were opened from.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    fn next(&mut self, counter: u32) -> Result<u64, Error> {
        let last = self
            .node
            .get(&counter, 0)
            .map_err(|e| maps::Error::read("NODE", &e))?;
        let next = last + 1;
        self.node
            .set(counter, next, 0)
            .map_err(|e| maps::Error::write("NODE", &e))?;
        Ok(next)
    }

    /// An epoch that no word of this node ever had.
    ///
    /// # Errors
    /// If the counter cannot be read or written.
    pub fn next_epoch(&mut self, _: &Locked<'_>) -> Result<u64, Error> {
        self.next(LAST_EPOCH)
    }

    /// Chooses slot and life for a new endpoint, so that its record can stand before its row does.
    ///
    /// # Errors
    /// If every slot is held.
    pub fn reserve(&mut self, _: &Locked<'_>) -> Result<Reserved, Error> {
        // Lives are u32 in the keys: a node that starts four thousand million pods in one boot is not met.
        let life = self.next(LAST_LIFE)? as u32;
        let slot = self.words.free_slot(life).ok_or(Error::NoSlot)?;
        Ok(Reserved { slot, life })
    }

    /// Makes an endpoint: its further sources, its word, then its row. Undo is [`Self::delete`].
    ///
    /// # Errors
    /// If there is a row or no room; nothing is left of it then.
    pub fn create(
        &mut self,
        locked: &Locked<'_>,
        reserved: Reserved,
        new: &NewEndpoint,
    ) -> Result<Row, Error> {
        if let Some(row) = self.row(new.ifindex)? {
            return Err(Error::Exists {
                ifindex: new.ifindex,
                life: row.life,
            });
        }
        let Reserved { slot, life } = reserved;
        let epoch = self.next_epoch(locked)?;
        let endpoint = row_of(new, slot, life);
        self.forget_flows_of_slot(slot)?;
        if endpoint.flags & ENDPOINT_MORE_SOURCES != 0
            && let Err(e) = self.put_sources(new, life)
        {
            self.delete_sources(life);
            return Err(e);
        }
        self.words.set(slot, PolicyWord::new(new.flags, 0, epoch));
        // BPF_NOEXIST: rows are never updated.
        if let Err(e) = self.rows.insert(new.ifindex, EndpointValue(endpoint), 1) {
            self.words.set(slot, PolicyWord(0));
            self.delete_sources(life);
            return Err(maps::Error::write("ENDPOINTS", &e).into());
        }
        Ok(Row {
            ifindex: new.ifindex,
            slot,
            life,
            endpoint,
        })
    }

    /// The row of an interface.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn row(&self, ifindex: u32) -> Result<Option<Row>, Error> {
        match self.rows.get(&ifindex, 0) {
            Ok(EndpointValue(e)) => Ok(Some(Row {
                ifindex,
                slot: e.slot,
                life: e.life,
                endpoint: e,
            })),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(e) => Err(maps::Error::read("ENDPOINTS", &e).into()),
        }
    }

    /// Every row.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn rows(&self) -> Result<Vec<Row>, Error> {
        let mut all = Vec::new();
        for entry in self.rows.iter() {
            let (ifindex, EndpointValue(e)) =
                entry.map_err(|e| maps::Error::read("ENDPOINTS", &e))?;
            all.push(Row {
                ifindex,
                slot: e.slot,
                life: e.life,
                endpoint: e,
            });
        }
        all.sort_by_key(|r| r.ifindex);
        Ok(all)
    }

    /// Deletes the row of an interface if it is of the given life (or of any), and gives its slot back.
    /// The filters stay: without a row they drop. False if there is no such row.
    ///
    /// # Errors
    /// If the map cannot be read or written.
    pub fn delete(
        &mut self,
        _: &Locked<'_>,
        ifindex: u32,
        life: Option<u32>,
    ) -> Result<bool, Error> {
        let Some(row) = self.row(ifindex)? else {
            return Ok(false);
        };
        if life.is_some_and(|l| l != row.life) {
            return Ok(false);
        }
        maps::gone(self.rows.remove(&ifindex)).map_err(|e| maps::Error::write("ENDPOINTS", &e))?;
        self.words.set(row.slot, PolicyWord(0));
        if row.endpoint.flags & ENDPOINT_MORE_SOURCES != 0 {
            self.delete_sources(row.life);
        }
        self.forget_counters_of_slot(row.slot);
        Ok(true)
    }

    /// Waits until the word of a slot is not pending any more; the word found at the end.
    pub fn wait_decided(&self, slot: u32, timeout: Duration) -> PolicyWord {
        let begin = Instant::now();
        loop {
            let word = self.words.get(slot);
            let left = timeout.saturating_sub(begin.elapsed());
            if !word.has(PolicyWord::PENDING) || left.is_zero() {
                return word;
            }
            std::thread::sleep(left.min(Duration::from_micros(500)));
        }
    }

    /// The flows of the slot's earlier holder are none of the new one's.
    fn forget_flows_of_slot(&self, slot: u32) -> Result<(), Error> {
        let shares: Array<_, ShareValue> = maps::array(&self.pins, "SHARES")?;
        let mut swept: Array<_, SweptValue> = maps::array(&self.pins, "SWEPT")?;
        let ShareValue(made) = shares
            .get(&slot, 0)
            .map_err(|e| maps::Error::read("SHARES", &e))?;
        let value = Swept {
            removed: made.made,
            answered: made.answered,
        };
        swept
            .set(slot, SweptValue(value), 0)
            .map_err(|e| maps::Error::write("SWEPT", &e).into())
    }

    /// Best effort: the slot's next holder would begin with another pod's numbers, which harms nobody.
    fn forget_counters_of_slot(&self, slot: u32) {
        if let Ok(mut reasons) = maps::per_cpu_hash::<u32, CounterValue>(&self.pins, "REASONS") {
            for reason in Reason::ALL {
                for direction in [Direction::Ingress, Direction::Egress] {
                    let _ = reasons.remove(&counter_key(slot, direction, *reason));
                }
            }
        }
        if let (Ok(mut passed), Ok(cpus)) = (
            maps::per_cpu_array::<CounterValue>(&self.pins, "PASSED"),
            aya::util::nr_cpus(),
        ) {
            for index in [slot * 2, slot * 2 + 1] {
                if let Ok(zero) =
                    PerCpuValues::try_from(vec![CounterValue(Counter::default()); cpus])
                {
                    let _ = passed.set(index, zero, 0);
                }
            }
        }
    }

    fn put_sources(&self, new: &NewEndpoint, life: u32) -> Result<(), Error> {
        let mut trie = maps::trie(&self.pins, "SOURCES")?;
        let own = new
            .addresses
            .iter()
            .skip(INLINE_ADDRS)
            .map(|ip| IpNetwork::from(*ip));
        for network in own.chain(new.extra_sources.iter().copied()) {
            let (family, addr) = Addr::from_ip(network.network());
            let key = SourceKey {
                prefix_len: SourceKey::FIXED_BITS + u32::from(network.prefix()),
                life,
                family: u32::from(family),
                addr,
            };
            trie.insert(&maps::source_key(&key), 1u32, 0)
                .map_err(|e| maps::Error::write("SOURCES", &e))?;
        }
        Ok(())
    }

    /// Best effort: an entry that stays belongs to a life that never comes again.
    fn delete_sources(&self, life: u32) {
        let Ok(mut trie) = maps::trie::<maps::SourceData, u32>(&self.pins, "SOURCES") else {
            return;
        };
        let keys: Vec<_> = trie
            .keys()
            .filter_map(Result::ok)
            .filter(|k| k.data().0[0] == life)
            .collect();
        for key in keys {
            let _ = trie.remove(&key);
        }
    }
}

fn row_of(new: &NewEndpoint, slot: u32, life: u32) -> Endpoint {
    let mut endpoint = Endpoint {
        ifindex: new.ifindex,
        slot,
        life,
        mac: new.mac,
        flags: if new.source_guard { ENDPOINT_GUARD } else { 0 },
        families: 0,
        addrs: [Addr::ZERO; INLINE_ADDRS],
    };
    for (i, ip) in new.addresses.iter().take(INLINE_ADDRS).enumerate() {
        let (family, addr) = Addr::from_ip(*ip);
        endpoint.addrs[i] = addr;
        endpoint.families |= if family == V4 {
            1 << i
        } else {
            1 << (i + INLINE_ADDRS)
        };
    }
    if new.addresses.len() > INLINE_ADDRS || !new.extra_sources.is_empty() {
        endpoint.flags |= ENDPOINT_MORE_SOURCES;
    }
    endpoint
}
