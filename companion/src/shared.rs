//! What the engine lets others know while it works: health, who is who, and counts for the metrics.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Seen by the runtime and by the events' thread.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    inner: Mutex<Known>,
    beat_ns: AtomicU64,
    pub(crate) counts: Counts,
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Why the companion is not ready; `None` = it is.
    pub(crate) unready: Option<Unready>,
    /// Pods by the life of their endpoints.
    pub(crate) pods: Arc<BTreeMap<u32, Pod>>,
    /// Pods by address.
    pub(crate) by_address: Arc<BTreeMap<IpAddr, u32>>,
    /// Documents by condition.
    pub(crate) conditions: BTreeMap<&'static str, u64>,
    /// Files that are broken.
    pub(crate) broken_files: u64,
    pub(crate) generation: u64,
    /// Entries of the policy tables: name, entries.
    pub(crate) tables: [(&'static str, u64); 4],
    pub(crate) faults: u64,
    pub(crate) suspended: bool,
}

/// Why the companion is not ready, in words that name nobody: everybody can read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unready {
    #[error("starting: the store is not read yet")]
    Starting,
    #[error("no maps are loaded yet: `podgatectl load`, or the first ADD")]
    NoMaps,
    #[error(
        "the last change of policy is not applied, the policy before is in force: see `podgatectl status`"
    )]
    NotApplied,
}

/// A local pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) endpoint_index: u32,
    pub(crate) strict: bool,
}

/// What happened so often.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) applied: AtomicU64,
    pub(crate) apply_errors: AtomicU64,
    pub(crate) apply_us: AtomicU64,
    pub(crate) repairs: AtomicU64,
    pub(crate) orphans: AtomicU64,
    pub(crate) swept_expired: AtomicU64,
    pub(crate) swept_dead: AtomicU64,
    pub(crate) swept_shrunk: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) events_lost: AtomicU64,
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // Plain values: a panic elsewhere cannot have left them half written in a way that matters.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    pub(crate) fn known(&self) -> Known {
        self.lock().clone()
    }

    /// Changes it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.lock());
    }

    /// The engine is alive.
    pub(crate) fn beat(&self) {
        self.beat_ns
            .store(state::clock::monotonic_ns(), Ordering::Relaxed);
    }

    /// How long ago it was.
    pub(crate) fn silent_for(&self) -> Duration {
        let beat = self.beat_ns.load(Ordering::Relaxed);
        Duration::from_nanos(state::clock::monotonic_ns().saturating_sub(beat))
    }
}
