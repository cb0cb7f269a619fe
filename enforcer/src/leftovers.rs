//! What is left over: rows whose interface is gone, records whose endpoint is gone, and the rest that crashes and
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
use verdict::layout::{Counter, Direction, SLOTS};

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
pub enum Leftover {
    /// A row whose interface is gone.
    Row {
        /// Host veth.
        ifindex: u32,
        /// Life.
        life: u32,
    },
    /// A row that no record tells of: nobody can give it a policy any more. Its interface drops from then on.
    Unrecorded {
        /// Host veth.
        ifindex: u32,
        /// Life.
        life: u32,
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
    /// A word of a slot that no row has.
    Word(u32),
    /// Further source addresses of an endpoint that is gone.
    Sources(u32),
    /// Counters of a slot that no row has.
    Counters(u32),
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = |f: &mut fmt::Formatter<'_>, what: &str, r: &Record| {
            write!(
                f,
                "record {}/{} ({}/{}): {what}",
                r.container_id, r.ifname, r.pod_namespace, r.pod_name
            )
        };
        match self {
            Self::Row { ifindex, life } => write!(
                f,
                "row of interface {ifindex} (life {life}): the interface is gone"
            ),
            Self::Unrecorded { ifindex, life } => {
                write!(
                    f,
                    "row of interface {ifindex} (life {life}): no record tells of it"
                )
            }
            Self::Record(r) => record(f, "its interface is gone", r),
            Self::Unfinished(r) => record(f, "its ADD did not come to an end", r),
            Self::EarlierBoot(r) => record(f, "of an earlier boot", r),
            Self::Torn(problem) => write!(f, "record {problem}"),
            Self::Link(path) => write!(f, "link {}: its interface is gone", path.display()),
            Self::Word(slot) => write!(f, "word of slot {slot}: no row has it"),
            Self::Sources(life) => write!(f, "source addresses of life {life}: it is gone"),
            Self::Counters(slot) => write!(f, "counters of slot {slot}: no row has it"),
        }
    }
}

impl Leftover {
    /// Whether it is of a kind that arises in everyday life and is not worth a line in a log.
    pub const fn is_dust(&self) -> bool {
        matches!(self, Self::Sources(_) | Self::Counters(_))
    }
}

/// What stands where: taken once, then asked.
struct Scene {
    endpoints: Option<Endpoints>,
    rows: Vec<Row>,
    links: Vec<Link>,
    records: state::records::Records,
}

impl Scene {
    fn take(store: &Store, bpf_dir: &Path) -> Result<Self, Error> {
        let endpoints = open(bpf_dir)?;
        let rows = endpoints.as_ref().map_or(Ok(Vec::new()), Endpoints::rows)?;
        // Records after rows: an ADD writes its record first. Links last: they are there before either.
        let records = store.records()?;
        let links = hostnet::links()?;
        Ok(Self {
            endpoints,
            rows,
            links,
            records,
        })
    }

    fn has_link(&self, ifindex: u32) -> bool {
        self.links.iter().any(|link| link.ifindex == ifindex)
    }

    fn record_of(&self, row: &Row) -> Option<&Record> {
        self.records
            .good
            .iter()
            .find(|r| r.life == row.life && r.ifindex == row.ifindex)
    }

    /// Whether some record could be that of any row, were it readable.
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
pub fn describe(store: &Store, bpf_dir: &Path) -> Result<Vec<Leftover>, Error> {
    let scene = Scene::take(store, bpf_dir)?;
    let mut found = Vec::new();
    for row in &scene.rows {
        let (ifindex, life) = (row.ifindex, row.life);
        let record = scene.record_of(row);
        if !scene.has_link(ifindex) {
            if record.is_none_or(|record| !stands_in_pod(record)) {
                found.push(Leftover::Row { ifindex, life });
            }
        } else if record.is_none() && !scene.has_riddles() {
            found.push(Leftover::Unrecorded { ifindex, life });
        }
    }
    for record in &scene.records.good {
        let row = scene
            .rows
            .iter()
            .any(|row| row.life == record.life && row.ifindex == record.ifindex);
        if !scene.has_link(record.ifindex) {
            if !stands_in_pod(record) {
                found.push(Leftover::Record(Box::new(record.clone())));
            }
        } else if record.phase == Phase::Intended && !row {
            found.push(Leftover::Unfinished(Box::new(record.clone())));
        }
    }
    found.extend(
        scene
            .records
            .stale
            .iter()
            .map(|record| Leftover::EarlierBoot(Box::new(record.clone()))),
    );
    let torn = scene
        .records
        .problems
        .iter()
        .filter(|p| matches!(p.kind, ProblemKind::Torn(_)));
    found.extend(torn.cloned().map(Leftover::Torn));

    let pins = Pins::new(bpf_dir);
    for (path, ifindex) in link_pins(&pins) {
        if !scene.has_link(ifindex) {
            found.push(Leftover::Link(path));
        }
    }
    if let Some(endpoints) = &scene.endpoints {
        let slots: BTreeSet<u32> = scene.rows.iter().map(|row| row.slot).collect();
        let lives: BTreeSet<u32> = scene.rows.iter().map(|row| row.life).collect();
        let free = (1..SLOTS).filter(|slot| !slots.contains(slot));
        found.extend(
            free.filter(|slot| endpoints.words.get(*slot).0 != 0)
                .map(Leftover::Word),
        );
        found.extend(
            source_lives(&pins)?
                .difference(&lives)
                .copied()
                .map(Leftover::Sources),
        );
        found.extend(
            counted_slots(&pins)?
                .difference(&slots)
                .filter(|s| **s != 0)
                .copied()
                .map(Leftover::Counters),
        );
    }
    Ok(found)
}

/// Removes what is still left over when looked at again, each under the lock for itself. What could not be removed is
/// returned with the reason; the next scan finds it again.
pub fn remove(store: &Store, bpf_dir: &Path, leftovers: &[Leftover]) -> Vec<(Leftover, Error)> {
    let one = |leftover: &Leftover| {
        let locked = store.lock(LOCK)?;
        remove_one(&locked, bpf_dir, leftover)
    };
    leftovers
        .iter()
        .filter_map(|leftover| one(leftover).err().map(|error| (leftover.clone(), error)))
        .collect()
}

fn remove_one(locked: &Locked<'_>, bpf_dir: &Path, leftover: &Leftover) -> Result<(), Error> {
    let pins = Pins::new(bpf_dir);
    let store = locked.store();
    let is_gone = |ifindex: u32| Ok::<_, Error>(hostnet::link_by_index(ifindex)?.is_none());
    let row = |ifindex: u32, life: u32| {
        let Some(mut endpoints) = open(bpf_dir)? else {
            return Ok::<_, Error>(());
        };
        endpoints.delete(locked, ifindex, Some(life))?;
        Ok(())
    };
    let whole = |record: &Record| {
        row(record.ifindex, record.life)?;
        if is_gone(record.ifindex)? {
            forget_links(&pins, record.ifindex)?;
        }
        locked.remove_record(record)?;
        Ok::<_, Error>(())
    };
    let current = |record: &Record| {
        let now = store.record(&record.container_id, &record.ifname)?;
        Ok::<_, Error>(now.filter(|now| now.life == record.life && now.ifindex == record.ifindex))
    };
    match leftover {
        Leftover::Row { ifindex, life } => {
            if is_gone(*ifindex)? {
                row(*ifindex, *life)?;
                forget_links(&pins, *ifindex)?;
            }
        }
        Leftover::Unrecorded { ifindex, life } => {
            let records = store.records()?;
            let known = records
                .good
                .iter()
                .any(|r| r.life == *life && r.ifindex == *ifindex);
            if !known
                && records
                    .problems
                    .iter()
                    .all(|p| matches!(p.kind, ProblemKind::Torn(_)))
            {
                row(*ifindex, *life)?;
            }
        }
        Leftover::Record(record) => {
            if let Some(record) = current(record)?
                && is_gone(record.ifindex)?
                && !stands_in_pod(&record)
            {
                whole(&record)?;
            }
        }
        // Who holds the lock knows that no ADD is under way.
        Leftover::Unfinished(record) => {
            if let Some(record) = current(record)?.filter(|r| r.phase == Phase::Intended) {
                whole(&record)?;
            }
        }
        Leftover::EarlierBoot(record) => {
            if record.boot_id != store.boot_id() {
                locked.remove_record(record)?;
            }
        }
        Leftover::Torn(problem) => {
            locked.discard(problem)?;
        }
        Leftover::Link(path) => {
            if let Some(ifindex) = pinned_ifindex(path)
                && is_gone(ifindex)?
            {
                unpin(path)?;
            }
        }
        Leftover::Word(slot) => {
            if let Some(endpoints) = free(bpf_dir, *slot)? {
                endpoints.words.set(*slot, verdict::PolicyWord(0));
            }
        }
        Leftover::Sources(life) => {
            if let Some(endpoints) = open(bpf_dir)?
                && endpoints.rows()?.iter().all(|row| row.life != *life)
            {
                remove_sources(&pins, *life)?;
            }
        }
        Leftover::Counters(slot) => {
            if free(bpf_dir, *slot)?.is_some() {
                clear_counters(&pins, *slot)?;
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

/// The endpoints, if no row has the slot.
fn free(bpf_dir: &Path, slot: u32) -> Result<Option<Endpoints>, Error> {
    let Some(endpoints) = open(bpf_dir)? else {
        return Ok(None);
    };
    let held = endpoints.rows()?.iter().any(|row| row.slot == slot);
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
    let life = |key: aya::maps::lpm_trie::Key<maps::SourceData>| key.data().0[0];
    Ok(trie
        .keys()
        .map(|key| key.map(life).map_err(|e| maps::Error::read("SOURCES", &e)))
        .collect::<Result<_, _>>()?)
}

fn remove_sources(pins: &Pins, life: u32) -> Result<(), Error> {
    let mut trie = maps::trie::<maps::SourceData, u32>(pins, "SOURCES")?;
    let keys: Vec<_> = trie
        .keys()
        .filter_map(Result::ok)
        .filter(|key| key.data().0[0] == life)
        .collect();
    for key in keys {
        // Gone is gone.
        let _ = trie.remove(&key);
    }
    Ok(())
}

/// Slots that have counters. Whatever passes is counted by reason once at least, so these tell of all.
fn counted_slots(pins: &Pins) -> Result<BTreeSet<u32>, Error> {
    let reasons: PerCpuHashMap<MapData, u32, CounterValue> = maps::per_cpu_hash(pins, "REASONS")?;
    let slot = |key: u32| key >> 16;
    Ok(reasons
        .keys()
        .map(|key| key.map(slot).map_err(|e| maps::Error::read("REASONS", &e)))
        .collect::<Result<_, _>>()?)
}

fn clear_counters(pins: &Pins, slot: u32) -> Result<(), Error> {
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
            .set(slot * 2 + direction as u32, zero, 0)
            .map_err(|e| maps::Error::write("PASSED", &e))?;
    }
    let mut reasons: PerCpuHashMap<MapData, u32, CounterValue> =
        maps::per_cpu_hash(pins, "REASONS")?;
    let keys: Vec<u32> = reasons
        .keys()
        .filter_map(Result::ok)
        .filter(|key| key >> 16 == slot)
        .collect();
    for key in keys {
        // Gone is gone.
        let _ = reasons.remove(&key);
    }
    Ok(())
}
