//! What changed in the store, as inotify tells it. A thread only waits for the descriptor; the scheduler reads the events
//! itself, whenever it must know that it has seen all that came before.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use state::Store;
use state::watch::{self, Tick, Watcher};

use crate::retry::Retry;

/// The store is watched anew after an error, and looked through, so soon.
const AGAIN: Duration = Duration::from_millis(200);
const AGAIN_AT_MOST: Duration = Duration::from_secs(5);

/// Everything that is known to have happened.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) ticks: BTreeSet<Tick>,
    /// All that happened before this moment (CLOCK_MONOTONIC) is in `ticks` or was in earlier ones. `None` = that cannot
    /// be said.
    pub(crate) until_ns: Option<u64>,
}

/// See the module.
pub(crate) struct StoreWatch {
    watcher: Watcher,
    /// Not everything is watched: watching is begun anew.
    broken: Retry,
    drained: Sender<()>,
    told: bool,
    error: Option<String>,
}

/// The other half, for a thread of its own.
pub(crate) struct Waiter {
    descriptor: OwnedFd,
    drained: Receiver<()>,
}

impl StoreWatch {
    /// Watches the store from now on.
    ///
    /// # Errors
    /// If it cannot be watched.
    pub(crate) fn start(store: &Store) -> Result<(Self, Waiter), watch::Error> {
        let watcher = store.watch()?;
        let descriptor = watcher.as_fd().try_clone_to_owned().map_err(|source| {
            watch::Error::File(state::file::Error::io("watch", store.root(), source))
        })?;
        let (drained, waits) = mpsc::channel();
        let watch = Self {
            watcher,
            broken: Retry::new(AGAIN, AGAIN_AT_MOST),
            drained,
            told: false,
            error: None,
        };
        let waiter = Waiter {
            descriptor,
            drained: waits,
        };
        Ok((watch, waiter))
    }

    /// The thread said that there is something to read.
    pub(crate) fn wake(&mut self) {
        self.told = true;
    }

    /// Reads all that is there. An error stays until everything is watched again, whatever events come meanwhile.
    pub(crate) fn read(&mut self, now: Instant) -> Seen {
        let mut seen = Seen::default();
        if self.broken.is_due(now) {
            seen.ticks.insert(Tick::Full);
            let done = self.watcher.rebuild();
            self.take(done.err(), now);
        }
        // All that happened before this moment is among what is read now.
        let at_ns = state::clock::monotonic_ns();
        match self.watcher.read() {
            Ok(mut ticks) => seen.ticks.append(&mut ticks),
            Err(error) => {
                seen.ticks.insert(Tick::Full);
                self.take(Some(error), now);
            }
        }
        seen.until_ns = self.error.is_none().then_some(at_ns);
        if std::mem::take(&mut self.told) {
            // The thread ends only when the process does.
            let _ = self.drained.send(());
        }
        seen
    }

    fn take(&mut self, error: Option<watch::Error>, now: Instant) {
        self.broken.take(error.is_some(), now);
        self.error = error.map(|error| error.to_string());
    }

    /// Why not everything is watched.
    pub(crate) fn error(&self) -> Option<String> {
        self.error.clone()
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.broken.due()
    }
}

impl Waiter {
    /// Calls `tell` whenever there is something to read, and then waits until it was read. Ends when `tell` says so.
    pub(crate) fn run(self, mut tell: impl FnMut() -> bool) {
        loop {
            let mut descriptors = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
            match poll(&mut descriptors, PollTimeout::NONE) {
                Ok(_) if !tell() => return,
                Ok(_) => {
                    if self.drained.recv().is_err() {
                        return;
                    }
                }
                // Interrupted; anything else is a broken descriptor, which the full passes make up for.
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!("wait for changes of the store: {error}");
                    std::thread::sleep(AGAIN_AT_MOST);
                }
            }
        }
    }
}
