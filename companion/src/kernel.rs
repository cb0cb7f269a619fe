//! The kernel objects that maintenance looks after: pins, programs, flows. The policy tables are enforcement's.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use enforcer::attach::Programs;
use enforcer::endpoint::Endpoints;
use enforcer::pin_guard::PinGuard;
use enforcer::pins::Pins;
use enforcer::{load, maps};
use state::Store;

/// For so long the node's lock is waited for.
pub(crate) const LOCK: Duration = Duration::from_secs(10);
/// Why the kernel objects could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Map(#[from] maps::Error),
    #[error(transparent)]
    Endpoint(#[from] enforcer::endpoint::Error),
    #[error(transparent)]
    Attach(#[from] enforcer::attach::Error),
    #[error(transparent)]
    PinGuard(#[from] enforcer::pin_guard::Error),
    #[error(transparent)]
    Lock(#[from] state::lock::Error),
}

/// The kernel objects of the node, open.
pub(crate) struct Kernel {
    store: Store,
    pub(crate) pins: Pins,
    stamp: [Option<u64>; 2],
    folders: Option<[Times; 2]>,
    pub(crate) endpoints: Endpoints,
    pub(crate) programs: Programs,
    pin_guard: PinGuard,
}

impl Kernel {
    /// Opens what is loaded and reads what it holds. `None` = nothing is loaded.
    pub(crate) fn open(store: &Store, bpf_dir: &Path) -> Result<Option<Self>, Error> {
        let pins = Pins::new(bpf_dir);
        if !load::is_loaded(&pins) {
            return Ok(None);
        }
        let stamp = stamp(&pins);
        let endpoints = Endpoints::open(bpf_dir)?;
        let (programs, pin_guard) = (Programs::open(&pins)?, PinGuard::open(&pins)?);
        Ok(Some(Self {
            store: store.clone(),
            pins,
            stamp,
            folders: None,
            endpoints,
            programs,
            pin_guard,
        }))
    }

    /// Whether the pins are still those that were opened. Between two thorough looks only the folders' times are looked
    /// at: removing a pin changes them.
    pub(crate) fn is_current(&mut self, thorough: bool) -> bool {
        let folders = folders(&self.pins);
        if !thorough && self.folders.is_some() && self.folders == folders {
            return true;
        }
        let current = self.stamp == stamp(&self.pins) && self.pin_guard.missing().is_empty();
        self.folders = folders.filter(|_| current);
        current
    }

    /// Puts pins back that somebody removed. False = somebody has loaded anew: open that instead.
    pub(crate) fn restore(&mut self, bpf_dir: &Path) -> Result<bool, Error> {
        let locked = self.store.lock(LOCK)?;
        // Of what is left, is it ours?
        let ours = stamp(&self.pins);
        let other = |a: Option<u64>, b: Option<u64>| a.is_some() && a != b;
        if other(ours[0], self.stamp[0]) || other(ours[1], self.stamp[1]) {
            return Ok(false);
        }
        let back = self.pin_guard.restore(&locked, bpf_dir)?;
        self.stamp = stamp(&self.pins);
        if !back.is_empty() {
            tracing::warn!(
                pins = back.len(),
                "somebody removed pins; they are back, with all that they hold"
            );
        }
        Ok(true)
    }
}

/// Inode and time of the last change.
type Times = (u64, i64, i64);

fn folders(pins: &Pins) -> Option<[Times; 2]> {
    let times = |path: PathBuf| {
        fs::metadata(path)
            .ok()
            .map(|m| (m.ino(), m.mtime(), m.mtime_nsec()))
    };
    Some([times(pins.maps())?, times(pins.programs())?])
}

/// What changes when maps or programs are made anew.
fn stamp(pins: &Pins) -> [Option<u64>; 2] {
    let inode = |path: PathBuf| fs::metadata(path).ok().map(|m| m.ino());
    [
        inode(pins.map("POLICY_STATES")),
        inode(pins.program(load::PROGRAM_INGRESS)),
    ]
}
