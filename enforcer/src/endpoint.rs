//! Endpoint entries and their policy states: what the programs know of one interface of one pod.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, MapData, PerCpuValues};
use ipnetwork::IpNetwork;
use state::Locked;
use verdict::layout::{
    Addr, Counter, ENDPOINT_GUARD, ENDPOINT_INDEXES, ENDPOINT_MORE_SOURCES, Endpoint, INLINE_ADDRS,
    SOURCE_EXTRA, SOURCE_OWN, SourceKey, V4, counter_key,
};
use verdict::{Direction, PolicyState, Reason};

use crate::maps::{self, ConfigValue, CounterValue, EndpointValue, NurseryBucket};
use crate::pins::Pins;
use crate::policy_states::PolicyStates;
use crate::quota::Quota;

/// Why an endpoint could not be made, read or deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A map.
    #[error(transparent)]
    Map(#[from] maps::Error),
    /// Every endpoint index is held.
    #[error("make endpoint: all {} endpoint indexes are held", ENDPOINT_INDEXES - 1)]
    NoFreeIndex,
    /// Another entry is there.
    #[error(
        "make endpoint of interface {ifindex}: it has a entry already (endpoint_id {endpoint_id})"
    )]
    Exists {
        /// Host veth.
        ifindex: u32,
        /// Life of the entry that is there.
        endpoint_id: u32,
    },
}

impl Error {
    /// Whether a table has no room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Map(e) => e.is_full(),
            Self::NoFreeIndex => true,
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
    /// MAC address of the host on the pod's link.
    pub host_mac: [u8; 6],
    /// The pod's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Further sources it may send from.
    pub extra_sources: Vec<IpNetwork>,
    /// Whether it may send from these only.
    pub source_guard: bool,
    /// Flags of its first policy state (`PolicyState::PENDING`, or the mode).
    pub flags: u64,
}

/// An endpoint as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Host veth.
    pub ifindex: u32,
    /// Endpoint index.
    pub endpoint_index: u32,
    /// Number of its endpoint id.
    pub endpoint_id: u32,
    /// All of it.
    pub endpoint: Endpoint,
}

/// An endpoint index and an endpoint id that a new endpoint will have; nothing in the kernel tells of it yet but the counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Endpoint index.
    pub endpoint_index: u32,
    /// Number of its endpoint id.
    pub endpoint_id: u32,
}

/// The endpoint entries, the policy states and the node's counters.
pub struct Endpoints {
    pins: Pins,
    entries: HashMap<MapData, u32, EndpointValue>,
    node: Array<MapData, u64>,
    /// The policy state.
    pub policy_states: PolicyStates,
}

const LAST_ENDPOINT_ID: u32 = 0;
const LAST_REVISION: u32 = 1;

impl Endpoints {
    /// Opens what is pinned below a folder on a bpffs.
    ///
    /// # Errors
    /// If nothing is loaded.
    pub fn open(bpf_dir: impl AsRef<Path>) -> Result<Self, Error> {
        let pins = Pins::new(bpf_dir);
        Ok(Self {
            entries: maps::hash(&pins, "ENDPOINTS")?,
            node: maps::array(&pins, "NODE")?,
            policy_states: PolicyStates::open(&pins)?,
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

    /// An revision that no policy state of this node ever had.
    ///
    /// # Errors
    /// If the counter cannot be read or written.
    pub fn next_revision(&mut self, _: &Locked<'_>) -> Result<u64, Error> {
        self.next(LAST_REVISION)
    }

    /// Chooses endpoint index and endpoint id for a new endpoint, so that its record can stand before its entry does.
    ///
    /// # Errors
    /// If every endpoint index is held.
    pub fn reserve(&mut self, _: &Locked<'_>) -> Result<Reserved, Error> {
        // Lives are u32 in the keys: a node that starts four thousand million pods in one boot is not met.
        let endpoint_id = self.next(LAST_ENDPOINT_ID)? as u32;
        let endpoint_index = self
            .policy_states
            .free_index(endpoint_id)
            .ok_or(Error::NoFreeIndex)?;
        Ok(Reserved {
            endpoint_index,
            endpoint_id,
        })
    }

    /// Makes an endpoint: its further sources, its policy state, then its entry. Undo is [`Self::delete`].
    ///
    /// # Errors
    /// If there is an entry or no room; nothing is left of it then.
    pub fn create(
        &mut self,
        locked: &Locked<'_>,
        reserved: Reserved,
        new: &NewEndpoint,
    ) -> Result<Row, Error> {
        if let Some(entry) = self.entry(new.ifindex)? {
            return Err(Error::Exists {
                ifindex: new.ifindex,
                endpoint_id: entry.endpoint_id,
            });
        }
        let Reserved {
            endpoint_index,
            endpoint_id,
        } = reserved;
        let revision = self.next_revision(locked)?;
        let endpoint = entry_of(new, endpoint_index, endpoint_id);
        self.forget_flows_of_index(endpoint_index)?;
        if endpoint.flags & ENDPOINT_MORE_SOURCES != 0
            && let Err(e) = self.put_sources(new, endpoint_id)
        {
            self.delete_sources(endpoint_id);
            return Err(e);
        }
        self.policy_states
            .set(endpoint_index, PolicyState::new(new.flags, 0, revision));
        // BPF_NOEXIST: entries are never updated.
        if let Err(e) = self.entries.insert(new.ifindex, EndpointValue(endpoint), 1) {
            self.policy_states.set(endpoint_index, PolicyState(0));
            self.delete_sources(endpoint_id);
            return Err(maps::Error::write("ENDPOINTS", &e).into());
        }
        Ok(Row {
            ifindex: new.ifindex,
            endpoint_index,
            endpoint_id,
            endpoint,
        })
    }

    /// The entry of an interface.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn entry(&self, ifindex: u32) -> Result<Option<Row>, Error> {
        match self.entries.get(&ifindex, 0) {
            Ok(EndpointValue(e)) => Ok(Some(Row {
                ifindex,
                endpoint_index: e.endpoint_index,
                endpoint_id: e.endpoint_id,
                endpoint: e,
            })),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(e) => Err(maps::Error::read("ENDPOINTS", &e).into()),
        }
    }

    /// Every entry.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn entries(&self) -> Result<Vec<Row>, Error> {
        let mut all = Vec::new();
        for entry in self.entries.iter() {
            let (ifindex, EndpointValue(e)) =
                entry.map_err(|e| maps::Error::read("ENDPOINTS", &e))?;
            all.push(Row {
                ifindex,
                endpoint_index: e.endpoint_index,
                endpoint_id: e.endpoint_id,
                endpoint: e,
            });
        }
        all.sort_by_key(|r| r.ifindex);
        Ok(all)
    }

    /// Deletes the entry of an interface if it is of the given endpoint id (or of any), and gives its endpoint index back.
    /// The filters stay: without an entry they drop. False if there is no such entry.
    ///
    /// # Errors
    /// If the map cannot be read or written.
    pub fn delete(
        &mut self,
        _: &Locked<'_>,
        ifindex: u32,
        endpoint_id: Option<u32>,
    ) -> Result<bool, Error> {
        let Some(entry) = self.entry(ifindex)? else {
            return Ok(false);
        };
        if endpoint_id.is_some_and(|l| l != entry.endpoint_id) {
            return Ok(false);
        }
        maps::gone(self.entries.remove(&ifindex))
            .map_err(|e| maps::Error::write("ENDPOINTS", &e))?;
        self.policy_states.set(entry.endpoint_index, PolicyState(0));
        if entry.endpoint.flags & ENDPOINT_MORE_SOURCES != 0 {
            self.delete_sources(entry.endpoint_id);
        }
        self.forget_counters_of_index(entry.endpoint_index);
        self.forget_nursery_of_index(entry.endpoint_index);
        Ok(true)
    }

    /// Waits until the policy state of an endpoint index is not pending any more; the policy state found at the end.
    pub fn wait_decided(&self, endpoint_index: u32, timeout: Duration) -> PolicyState {
        let begin = Instant::now();
        loop {
            let policy_state = self.policy_states.get(endpoint_index);
            let left = timeout.saturating_sub(begin.elapsed());
            if !policy_state.has(PolicyState::PENDING) || left.is_zero() {
                return policy_state;
            }
            std::thread::sleep(left.min(Duration::from_micros(500)));
        }
    }

    /// The flows of the endpoint index's earlier holder are none of the new one's.
    fn forget_flows_of_index(&self, endpoint_index: u32) -> Result<(), Error> {
        Quota::open(&self.pins)?.forget(endpoint_index);
        Ok(())
    }

    /// Gives back the nursery of an endpoint index. Best effort: what is left serves the index's next holder, or is swept.
    fn forget_nursery_of_index(&self, endpoint_index: u32) {
        let (Ok(mut nursery), Ok(config)) = (
            maps::hash::<u32, NurseryBucket>(&self.pins, "NURSERY"),
            maps::array::<ConfigValue>(&self.pins, "CONFIG"),
        ) else {
            return;
        };
        let mask = config.get(&0, 0).map_or(0, |c| c.0.nursery_mask);
        for bucket in 0..=mask.min(0xffff) {
            let _ = nursery.remove(&((endpoint_index << 16) | bucket));
        }
    }

    /// Best effort: the endpoint index's next holder would begin with another pod's numbers, which harms nobody.
    fn forget_counters_of_index(&self, endpoint_index: u32) {
        if let Ok(mut reasons) = maps::per_cpu_hash::<u32, CounterValue>(&self.pins, "REASONS") {
            for reason in Reason::ALL {
                for direction in [Direction::Ingress, Direction::Egress] {
                    let _ = reasons.remove(&counter_key(endpoint_index, direction, *reason));
                }
            }
        }
        if let (Ok(mut passed), Ok(cpus)) = (
            maps::per_cpu_array::<CounterValue>(&self.pins, "PASSED"),
            aya::util::nr_cpus(),
        ) {
            for index in [endpoint_index * 2, endpoint_index * 2 + 1] {
                if let Ok(zero) =
                    PerCpuValues::try_from(vec![CounterValue(Counter::default()); cpus])
                {
                    let _ = passed.set(index, zero, 0);
                }
            }
        }
    }

    fn put_sources(&self, new: &NewEndpoint, endpoint_id: u32) -> Result<(), Error> {
        let mut trie = maps::trie(&self.pins, "SOURCES")?;
        let own = new
            .addresses
            .iter()
            .skip(INLINE_ADDRS)
            .map(|ip| (IpNetwork::from(*ip), SOURCE_OWN));
        let extra = new.extra_sources.iter().map(|net| (*net, SOURCE_EXTRA));
        // An own address that is named as an extra source too stays an own one.
        for (network, value) in extra.chain(own) {
            let (family, addr) = Addr::from_ip(network.network());
            let key = SourceKey {
                prefix_len: SourceKey::FIXED_BITS + u32::from(network.prefix()),
                endpoint_id,
                family: u32::from(family),
                addr,
            };
            trie.insert(&maps::source_key(&key), value, 0)
                .map_err(|e| maps::Error::write("SOURCES", &e))?;
        }
        Ok(())
    }

    /// Best effort: an entry that stays belongs to an endpoint id that never comes again.
    fn delete_sources(&self, endpoint_id: u32) {
        let Ok(mut trie) = maps::trie::<maps::SourceData, u32>(&self.pins, "SOURCES") else {
            return;
        };
        let keys: Vec<_> = trie
            .keys()
            .filter_map(Result::ok)
            .filter(|k| k.data().0[0] == endpoint_id)
            .collect();
        for key in keys {
            let _ = trie.remove(&key);
        }
    }
}

fn entry_of(new: &NewEndpoint, endpoint_index: u32, endpoint_id: u32) -> Endpoint {
    let mut endpoint = Endpoint {
        ifindex: new.ifindex,
        endpoint_index,
        endpoint_id,
        mac: new.mac,
        host_mac: new.host_mac,
        flags: if new.source_guard { ENDPOINT_GUARD } else { 0 },
        families: 0,
        pad: [0; 2],
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
