//! When a change of a policy counts: unmarked documents once 100 ms have passed without a further change, 1 s at most;
//! removals alone after 50 ms, because editors rename. Each policy settles by itself, so that one that is rewritten all the
//! time holds up nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use policy::Identity;
use state::RelPath;

/// Without a further change for so long, unmarked documents count.
const QUIET: Duration = Duration::from_millis(100);
/// At most so long.
const AT_MOST: Duration = Duration::from_secs(1);
/// A removal counts after so long.
const REMOVAL: Duration = Duration::from_millis(50);

/// The changes of one policy, or of one file, that wait.
#[derive(Debug)]
pub(super) struct Settling {
    /// Tells this wait from later ones of the same policy.
    pub(super) number: u64,
    first: Instant,
    last: Instant,
    /// Which documents of which files; whether something is left of each, or it is removed.
    changes: BTreeMap<(RelPath, Option<Identity>), bool>,
}

impl Settling {
    pub(super) fn new(number: u64, now: Instant) -> Self {
        Self {
            number,
            first: now,
            last: now,
            changes: BTreeMap::new(),
        }
    }

    pub(super) fn change(
        &mut self,
        path: RelPath,
        identity: Option<Identity>,
        stands: bool,
        now: Instant,
    ) {
        self.last = now;
        self.changes.insert((path, identity), stands);
    }

    /// A document is again as it was, or counts already. True if nothing is left that waits.
    pub(super) fn forget(&mut self, path: &RelPath, identity: Option<&Identity>) -> bool {
        self.changes.remove(&(path.clone(), identity.cloned()));
        self.changes.is_empty()
    }

    /// When the changes count.
    pub(super) fn due(&self) -> Instant {
        let wait = if self.changes.values().any(|stands| *stands) {
            QUIET
        } else {
            REMOVAL
        };
        (self.last + wait).min(self.first + AT_MOST)
    }

    /// Whether the changes count even if there are further ones.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.first + AT_MOST <= now
    }

    pub(super) fn has_removals(&self) -> bool {
        self.changes.values().any(|stands| !stands)
    }

    pub(super) fn files(&self) -> BTreeSet<RelPath> {
        self.changes.keys().map(|(path, _)| path.clone()).collect()
    }

    pub(super) fn changes(self) -> impl Iterator<Item = (RelPath, Option<Identity>)> {
        self.changes.into_keys()
    }
}
