//! Loading: once a node, under the node's lock. Maps are pinned first, programs last: who finds the program pins finds
//! everything.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use state::Locked;
use verdict::layout::{Config, NurseryKey};

use crate::bpffs;
use crate::clock;
use crate::kernel::{self, KernelVersion};
use crate::maps::{self, ConfigValue};
use crate::pins::Pins;
use crate::quota;

/// The kernel programs, as `enforcer/build.rs` built them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("PODGATE_BPF_OBJECT"));

/// By which toolchain the kernel programs were built.
pub const TOOLCHAIN: &str = env!("PODGATE_BPF_TOOLCHAIN_USED");

/// Program for packets towards the pod.
pub const PROGRAM_INGRESS: &str = "podgate_ingress";
/// Program for packets from the pod.
pub const PROGRAM_EGRESS: &str = "podgate_egress";
/// Program that tells the kernel's jiffies.
pub const PROGRAM_CLOCK: &str = "podgate_clock";

/// Buckets of one endpoint's nursery: 3,072 flows that are not assured, each bucket made with its first flow.
const NURSERY_BUCKETS: u32 = 256;

/// Flows that the table holds unless told otherwise.
pub const DEFAULT_FLOW_LIMIT: u32 = 524_288;

/// Why loading failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel is too old.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// No bpffs.
    #[error(transparent)]
    Bpffs(#[from] bpffs::Error),
    /// The object, or the verifier's log.
    #[error(
        "load kernel programs: {0} (CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON or root are needed)"
    )]
    Object(#[source] Box<EbpfError>),
    /// One program.
    #[error("load program {name}: {source}")]
    Program {
        /// The program.
        name: &'static str,
        /// Why, with the verifier's log where there is one.
        source: Box<ProgramError>,
    },
    /// Something that the object should hold.
    #[error("load kernel programs: the object has no {0}")]
    Missing(String),
    /// A pin.
    #[error("pin {path}: {detail}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// A map.
    #[error(transparent)]
    Map(#[from] maps::Error),
    /// The kernel's random numbers.
    #[error("read /dev/urandom: {0}")]
    Random(#[source] io::Error),
    /// The kernel's tick.
    #[error(transparent)]
    Clock(#[from] clock::Error),
}

/// What to load with.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Most flows; see `node.json`, `conntrackCacheTableSize`.
    pub flow_limit: u32,
    /// NodePort range, both inclusive.
    pub node_ports: (u16, u16),
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            flow_limit: DEFAULT_FLOW_LIMIT,
            node_ports: (30_000, 32_767),
        }
    }
}

/// What loading did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// Everything was there.
    Present,
    /// Maps and programs were made.
    Fresh,
}

/// Whether everything is pinned.
pub fn is_loaded(pins: &Pins) -> bool {
    [PROGRAM_CLOCK, PROGRAM_EGRESS, PROGRAM_INGRESS]
        .iter()
        .all(|p| pins.program(p).exists())
}

/// Loads and pins, unless everything is pinned. The caller holds the node's lock.
///
/// # Errors
/// See [`Error`]; what was pinned on the way is kept and used by the next try.
pub fn load(_: &Locked<'_>, bpf_dir: &Path, options: LoadOptions) -> Result<Loaded, Error> {
    let pins = Pins::new(bpf_dir);
    if is_loaded(&pins) {
        check_owner(&pins, bpf_dir)?;
        return Ok(Loaded::Present);
    }
    KernelVersion::running()?.require(kernel::OLDEST)?;
    bpffs::ensure(bpf_dir)?;
    for folder in [pins.maps(), pins.programs(), pins.links()] {
        bpffs::make(&folder)?;
    }
    let mut ebpf = open_object(&pins, options)?;
    set_config(&pins, &mut ebpf, options)?;
    for name in [PROGRAM_EGRESS, PROGRAM_INGRESS] {
        let path = pins.program(name);
        if !path.exists() {
            pin_program(&mut ebpf, name, &path)?;
        }
    }
    Ok(Loaded::Fresh)
}

/// Refuses pins that another user may have placed.
///
/// # Errors
/// The folder of the pins, or the one that holds it, is another user's or writable by others.
pub fn check_owner(pins: &Pins, bpf_dir: &Path) -> Result<(), Error> {
    bpffs::check_owner(bpf_dir)?;
    Ok(bpffs::check_owner(pins.root())?)
}

fn open_object(pins: &Pins, options: LoadOptions) -> Result<Ebpf, Error> {
    let paths: BTreeMap<&str, PathBuf> = maps::ALL
        .iter()
        .map(|name| (*name, pins.map(name)))
        .collect();
    let mut loader = EbpfLoader::new();
    loader.map_max_entries("FLOWS", options.flow_limit);
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    loader.load(OBJECT).map_err(|e| Error::Object(Box::new(e)))
}

fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, Error> {
    ebpf.program_mut(name)
        .ok_or_else(|| Error::Missing(format!("program {name}")))?
        .try_into()
        .map_err(|source| Error::Program {
            name,
            source: Box::new(source),
        })
}

fn pin_program(ebpf: &mut Ebpf, name: &'static str, path: &Path) -> Result<(), Error> {
    let program = classifier(ebpf, name)?;
    if program.fd().is_err() {
        program.load().map_err(|source| Error::Program {
            name,
            source: Box::new(source),
        })?;
    }
    program.pin(path).map_err(|e| Error::Pin {
        path: path.to_path_buf(),
        detail: e.to_string(),
    })
}

/// Writes the settings.
fn set_config(pins: &Pins, ebpf: &mut Ebpf, options: LoadOptions) -> Result<(), Error> {
    let path = pins.program(PROGRAM_CLOCK);
    if !path.exists() {
        pin_program(ebpf, PROGRAM_CLOCK, &path)?;
    }
    let hz = clock::hz()?;
    let mut config: Array<MapData, ConfigValue> = maps::array(pins, "CONFIG")?;
    let limit = options.flow_limit;
    // What stands in the nursery is found under the key of its time.
    let nursery_key = match config.get(&0, 0) {
        Ok(ConfigValue(before)) if before.nursery_key != NurseryKey::default() => {
            before.nursery_key
        }
        _ => random_key()?,
    };
    let value = Config {
        hz,
        flow_limit: limit,
        flow_minimum: quota::minimum(limit, 1),
        nursery_mask: NURSERY_BUCKETS - 1,
        node_port_first: options.node_ports.0,
        node_port_last: options.node_ports.1,
        events_per_endpoint: 100,
        events_per_node: 2_000,
        pad: 0,
        nursery_key,
    };
    config
        .set(0, ConfigValue(value), 0)
        .map_err(|e| maps::Error::write("CONFIG", &e).into())
}

/// A new key of the nursery.
fn random_key() -> Result<NurseryKey, Error> {
    let mut bytes = [0u8; 56];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(Error::Random)?;
    let (factor, words) = bytes.split_at(8);
    let mut key = NurseryKey {
        factor: u64::from_ne_bytes(factor.try_into().unwrap_or_default()),
        ..NurseryKey::default()
    };
    for (word, bytes) in key.words.iter_mut().zip(words.chunks_exact(4)) {
        *word = u32::from_ne_bytes(bytes.try_into().unwrap_or_default());
    }
    Ok(key)
}
