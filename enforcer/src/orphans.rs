//! What is left over: entries whose interface is gone, records whose endpoint is gone, and the rest that crashes and
//! reboots leave behind. One module for the CNI's GC without a list, for the companion and for the tests' clean-up.
//!
//! [`describe`] only looks and takes no lock; [`remove`] looks at each thing again under the lock before it goes, for an
//! ADD or DEL may have been half way. Only what the kernel shows to be gone counts as gone: an interface that this
//! namespace does not have, but whose other end still stands in the pod, means that *we* are in the wrong namespace.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray, PerCpuHashMap};
use aya::util::nr_cpus;
use state::{Locked, Phase, Problem, ProblemKind, Record, Store};
use verdict::layout::{Counter, Direction, ENDPOINT_INDEXES};

use crate::endpoint::{self, Endpoints, Row};
use crate::hostnet::{self, Link};
use crate::load;
use crate::maps::{self, CounterValue};
use crate::pins::Pins;

/// For so long the node's lock is waited for.
const LOCK: Duration = Duration::from_secs(10);

/// Why a scan could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel objects.
    #[error(transparent)]
    Endpoint(#[from] endpoint::Error),
    /// A map.
    #[error(transparent)]
    Map(#[from] maps::Error),
    /// Netlink.
    #[error(transparent)]
    Net(#[from] hostnet::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] state::Error),
    /// The node's lock.
    #[error(transparent)]
    Lock(#[from] state::lock::Error),
    /// A pin.
    #[error("remove pin {path}: {source}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// One thing that is left over.
#[derive(Clone, Debug, PartialEq)]
pub enum Orphan {
    /// An entry whose interface is gone.
    Row {
        /// Host veth.
        ifindex: u32,
        /// Life.
        endpoint_id: u32,
    },
    /// An entry that no record tells of: nobody can give it a policy any more. Its interface drops from then on.
    Unrecorded {
        /// Host veth.
        ifindex: u32,
        /// Life.
        endpoint_id: u32,
    },
    /// A record whose interface is gone.
    Record(Box<Record>),
    /// A record of an ADD that ended before it had attached.
    Unfinished(Box<Record>),
    /// A record of an earlier boot.
    EarlierBoot(Box<Record>),
    /// A record that cannot be read.
    Torn(Problem),
    /// A TCX link whose interface is gone.
    Link(PathBuf),
    /// A policy state of an endpoint index that no entry has.
    PolicyState(u32),
    /// Further source addresses of an endpoint that is gone.
    Sources(u32),
    /// Counters of an endpoint index that no entry has.
    Counters(u32),
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = |f: &mut fmt::Formatter<'_>, what: &str, r: &Record| {
            write!(
                f,
                "record {}/{} ({}/{}): {what}",
                r.container_id, r.ifname, r.pod_namespace, r.pod_name
            )
        };
        match self {
            Self::Row {
                ifindex,
                endpoint_id,
            } => write!(
                f,
                "entry of interface {ifindex} (endpoint_id {endpoint_id}): the interface is gone"
            ),
            Self::Unrecorded {
                ifindex,
                endpoint_id,
            } => {
                write!(
                    f,
                    "entry of interface {ifindex} (endpoint_id {endpoint_id}): no record tells of it"
                )
            }
            Self::Record(r) => record(f, "its interface is gone", r),
            Self::Unfinished(r) => record(f, "its ADD did not come to an end", r),
            Self::EarlierBoot(r) => record(f, "of an earlier boot", r),
            Self::Torn(problem) => write!(f, "record {problem}"),
            Self::Link(path) => write!(f, "link {}: its interface is gone", path.display()),
            Self::PolicyState(endpoint_index) => write!(
                f,
                "policy_state of endpoint_index {endpoint_index}: no entry has it"
            ),
            Self::Sources(endpoint_id) => write!(
                f,
                "source addresses of endpoint_id {endpoint_id}: it is gone"
            ),
            Self::Counters(endpoint_index) => write!(
                f,
                "counters of endpoint_index {endpoint_index}: no entry has it"
            ),
        }
    }
}

impl Orphan {
    /// Whether it is of a kind that arises in everyday life and is not worth a line in a log.
    pub const fn is_dust(&self) -> bool {
        matches!(self, Self::Sources(_) | Self::Counters(_))
    }
}

/// What stands where: taken once, then asked.
struct Snapshot {
    endpoints: Option<Endpoints>,
    entries: Vec<Row>,
    links: Vec<Link>,
    records: state::records::Records,
}

impl Snapshot {
    fn take(store: &Store, bpf_dir: &Path) -> Result<Self, Error> {
        let endpoints = open(bpf_dir)?;
        let entries = endpoints
            .as_ref()
            .map_or(Ok(Vec::new()), Endpoints::entries)?;
        // Records after entries: an ADD writes its record first. Links last: they are there before either.
        let records = store.records()?;
        let links = hostnet::links()?;
        Ok(Self {
            endpoints,
            entries,
            links,
            records,
        })
    }

    fn has_link(&self, ifindex: u32) -> bool {
        self.links.iter().any(|link| link.ifindex == ifindex)
    }

    fn record_of(&self, entry: &Row) -> Option<&Record> {
        self.records
            .good
            .iter()
            .find(|r| r.endpoint_id == entry.endpoint_id && r.ifindex == entry.ifindex)
    }

    /// Whether some record could be that of any entry, were it readable.
    fn has_riddles(&self) -> bool {
        self.records
            .problems
            .iter()
            .any(|p| !matches!(p.kind, ProblemKind::Torn(_)))
    }
}

/// What is left over now, as far as can be told without the lock.
///
/// # Errors
/// If store or kernel cannot be asked.
pub fn describe(store: &Store, bpf_dir: &Path) -> Result<Vec<Orphan>, Error> {
    let snapshot = Snapshot::take(store, bpf_dir)?;
    let mut found = Vec::new();
    for entry in &snapshot.entries {
        let (ifindex, endpoint_id) = (entry.ifindex, entry.endpoint_id);
        let record = snapshot.record_of(entry);
        if !snapshot.has_link(ifindex) {
            if record.is_none_or(|record| !stands_in_pod(record)) {
                found.push(Orphan::Row {
                    ifindex,
                    endpoint_id,
                });
            }
        } else if record.is_none() && !snapshot.has_riddles() {
            found.push(Orphan::Unrecorded {
                ifindex,
                endpoint_id,
            });
        }
    }
    for record in &snapshot.records.good {
        let entry = snapshot.entries.iter().any(|entry| {
            entry.endpoint_id == record.endpoint_id && entry.ifindex == record.ifindex
        });
        if !snapshot.has_link(record.ifindex) {
            if !stands_in_pod(record) {
                found.push(Orphan::Record(Box::new(record.clone())));
            }
        } else if record.phase == Phase::Intended && !entry {
            found.push(Orphan::Unfinished(Box::new(record.clone())));
        }
    }
    found.extend(
        snapshot
            .records
            .stale
            .iter()
            .map(|record| Orphan::EarlierBoot(Box::new(record.clone()))),
    );
    let torn = snapshot
        .records
        .problems
        .iter()
        .filter(|p| matches!(p.kind, ProblemKind::Torn(_)));
    found.extend(torn.cloned().map(Orphan::Torn));

    let pins = Pins::new(bpf_dir);
    for (path, ifindex) in link_pins(&pins) {
        if !snapshot.has_link(ifindex) {
            found.push(Orphan::Link(path));
        }
    }
    if let Some(endpoints) = &snapshot.endpoints {
        let endpoint_indexes: BTreeSet<u32> = snapshot
            .entries
            .iter()
            .map(|entry| entry.endpoint_index)
            .collect();
        let lives: BTreeSet<u32> = snapshot
            .entries
            .iter()
            .map(|entry| entry.endpoint_id)
            .collect();
        let free = (1..ENDPOINT_INDEXES)
            .filter(|endpoint_index| !endpoint_indexes.contains(endpoint_index));
        found.extend(
            free.filter(|endpoint_index| endpoints.policy_states.get(*endpoint_index).0 != 0)
                .map(Orphan::PolicyState),
        );
        found.extend(
            source_lives(&pins)?
                .difference(&lives)
                .copied()
                .map(Orphan::Sources),
        );
        found.extend(
            counted_indexes(&pins)?
                .difference(&endpoint_indexes)
                .filter(|s| **s != 0)
                .copied()
                .map(Orphan::Counters),
        );
    }
    Ok(found)
}

/// Removes what is still left over when looked at again, each under the lock for itself. What could not be removed is
/// returned with the reason; the next scan finds it again.
pub fn remove(store: &Store, bpf_dir: &Path, orphans: &[Orphan]) -> Vec<(Orphan, Error)> {
    let one = |orphan: &Orphan| {
        let locked = store.lock(LOCK)?;
        remove_one(&locked, bpf_dir, orphan)
    };
    orphans
        .iter()
        .filter_map(|orphan| one(orphan).err().map(|error| (orphan.clone(), error)))
        .collect()
}

fn remove_one(locked: &Locked<'_>, bpf_dir: &Path, orphan: &Orphan) -> Result<(), Error> {
    let pins = Pins::new(bpf_dir);
    let store = locked.store();
    let is_gone = |ifindex: u32| Ok::<_, Error>(hostnet::link_by_index(ifindex)?.is_none());
    let entry = |ifindex: u32, endpoint_id: u32| {
        let Some(mut endpoints) = open(bpf_dir)? else {
            return Ok::<_, Error>(());
        };
        endpoints.delete(locked, ifindex, Some(endpoint_id))?;
        Ok(())
    };
    let whole = |record: &Record| {
        entry(record.ifindex, record.endpoint_id)?;
        if is_gone(record.ifindex)? {
            forget_links(&pins, record.ifindex)?;
        }
        locked.remove_record(record)?;
        Ok::<_, Error>(())
    };
    let current =
        |record: &Record| {
            let now = store.record(&record.container_id, &record.ifname)?;
            Ok::<_, Error>(now.filter(|now| {
                now.endpoint_id == record.endpoint_id && now.ifindex == record.ifindex
            }))
        };
    match orphan {
        Orphan::Row {
            ifindex,
            endpoint_id,
        } => {
            if is_gone(*ifindex)? {
                entry(*ifindex, *endpoint_id)?;
                forget_links(&pins, *ifindex)?;
            }
        }
        Orphan::Unrecorded {
            ifindex,
            endpoint_id,
        } => {
            let records = store.records()?;
            let known = records
                .good
                .iter()
                .any(|r| r.endpoint_id == *endpoint_id && r.ifindex == *ifindex);
            if !known
                && records
                    .problems
                    .iter()
                    .all(|p| matches!(p.kind, ProblemKind::Torn(_)))
            {
                entry(*ifindex, *endpoint_id)?;
            }
        }
        Orphan::Record(record) => {
            if let Some(record) = current(record)?
                && is_gone(record.ifindex)?
                && !stands_in_pod(&record)
            {
                whole(&record)?;
            }
        }
        // Who holds the lock knows that no ADD is under way.
        Orphan::Unfinished(record) => {
            if let Some(record) = current(record)?.filter(|r| r.phase == Phase::Intended) {
                whole(&record)?;
            }
        }
        Orphan::EarlierBoot(record) => {
            if record.boot_id != store.boot_id() {
                locked.remove_record(record)?;
            }
        }
        Orphan::Torn(problem) => {
            locked.discard(problem)?;
        }
        Orphan::Link(path) => {
            if let Some(ifindex) = pinned_ifindex(path)
                && is_gone(ifindex)?
            {
                unpin(path)?;
            }
        }
        Orphan::PolicyState(endpoint_index) => {
            if let Some(endpoints) = free(bpf_dir, *endpoint_index)? {
                endpoints
                    .policy_states
                    .set(*endpoint_index, verdict::PolicyState(0));
            }
        }
        Orphan::Sources(endpoint_id) => {
            if let Some(endpoints) = open(bpf_dir)?
                && endpoints
                    .entries()?
                    .iter()
                    .all(|entry| entry.endpoint_id != *endpoint_id)
            {
                remove_sources(&pins, *endpoint_id)?;
            }
        }
        Orphan::Counters(endpoint_index) => {
            if free(bpf_dir, *endpoint_index)?.is_some() {
                clear_counters(&pins, *endpoint_index)?;
            }
        }
    }
    Ok(())
}

/// `None` = nothing is loaded.
fn open(bpf_dir: &Path) -> Result<Option<Endpoints>, Error> {
    if !load::is_loaded(&Pins::new(bpf_dir)) {
        return Ok(None);
    }
    Ok(Some(Endpoints::open(bpf_dir)?))
}

/// The endpoints, if no entry has the endpoint index.
fn free(bpf_dir: &Path, endpoint_index: u32) -> Result<Option<Endpoints>, Error> {
    let Some(endpoints) = open(bpf_dir)? else {
        return Ok(None);
    };
    let held = endpoints
        .entries()?
        .iter()
        .any(|entry| entry.endpoint_index == endpoint_index);
    Ok(Some(endpoints).filter(|_| !held))
}

/// Whether the pod still has the interface: then its other end is somewhere, and it is us who do not see it.
fn stands_in_pod(record: &Record) -> bool {
    let path = Path::new(&record.netns);
    if !hostnet::netns_exists(path).unwrap_or(false) {
        return false;
    }
    let (name, mac) = (record.ifname.clone(), record.mac.clone());
    hostnet::in_netns(path, move || hostnet::link_by_name(&name)).is_ok_and(|link| {
        link.is_ok_and(|link| {
            let text = link.mac.map(|m| m.map(|b| format!("{b:02x}")).join(":"));
            text.is_some_and(|text| text == mac.to_ascii_lowercase())
        })
    })
}

/// The pins of TCX links, with the interface that their names tell.
fn link_pins(pins: &Pins) -> Vec<(PathBuf, u32)> {
    let entries = fs::read_dir(pins.links()).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| pinned_ifindex(&entry.path()).map(|ifindex| (entry.path(), ifindex)))
        .collect()
}

fn pinned_ifindex(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.split_once('_')?.0.parse().ok()
}

fn forget_links(pins: &Pins, ifindex: u32) -> Result<(), Error> {
    [Direction::Ingress, Direction::Egress]
        .into_iter()
        .try_for_each(|direction| unpin(&pins.link(ifindex, direction)))
}

fn unpin(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Pin {
            path: path.to_path_buf(),
            source,
        }),
        _ => Ok(()),
    }
}

fn source_lives(pins: &Pins) -> Result<BTreeSet<u32>, Error> {
    let trie = maps::trie::<maps::SourceData, u32>(pins, "SOURCES")?;
    let endpoint_id = |key: aya::maps::lpm_trie::Key<maps::SourceData>| key.data().0[0];
    Ok(trie
        .keys()
        .map(|key| {
            key.map(endpoint_id)
                .map_err(|e| maps::Error::read("SOURCES", &e))
        })
        .collect::<Result<_, _>>()?)
}

fn remove_sources(pins: &Pins, endpoint_id: u32) -> Result<(), Error> {
    let mut trie = maps::trie::<maps::SourceData, u32>(pins, "SOURCES")?;
    let keys: Vec<_> = trie
        .keys()
        .filter_map(Result::ok)
        .filter(|key| key.data().0[0] == endpoint_id)
        .collect();
    for key in keys {
        // Gone is gone.
        let _ = trie.remove(&key);
    }
    Ok(())
}

/// Endpoint indexes that have counters. Whatever passes is counted by reason once at least, so these tell of all.
fn counted_indexes(pins: &Pins) -> Result<BTreeSet<u32>, Error> {
    let reasons: PerCpuHashMap<MapData, u32, CounterValue> = maps::per_cpu_hash(pins, "REASONS")?;
    let endpoint_index = |key: u32| key >> 16;
    Ok(reasons
        .keys()
        .map(|key| {
            key.map(endpoint_index)
                .map_err(|e| maps::Error::read("REASONS", &e))
        })
        .collect::<Result<_, _>>()?)
}

fn clear_counters(pins: &Pins, endpoint_index: u32) -> Result<(), Error> {
    let mut passed: PerCpuArray<MapData, CounterValue> = maps::per_cpu_array(pins, "PASSED")?;
    let cpus = nr_cpus().map_err(|(_, e)| maps::Error::Read {
        name: "PASSED",
        detail: e.to_string(),
    })?;
    for direction in [Direction::Ingress, Direction::Egress] {
        let zero = vec![CounterValue(Counter::default()); cpus];
        let zero = zero.try_into().map_err(|e: io::Error| maps::Error::Read {
            name: "PASSED",
            detail: e.to_string(),
        })?;
        passed
            .set(endpoint_index * 2 + direction as u32, zero, 0)
            .map_err(|e| maps::Error::write("PASSED", &e))?;
    }
    let mut reasons: PerCpuHashMap<MapData, u32, CounterValue> =
        maps::per_cpu_hash(pins, "REASONS")?;
    let keys: Vec<u32> = reasons
        .keys()
        .filter_map(Result::ok)
        .filter(|key| key >> 16 == endpoint_index)
        .collect();
    for key in keys {
        // Gone is gone.
        let _ = reasons.remove(&key);
    }
    Ok(())
}
