//! When something that failed is tried again: after a short wait, then twice as long, and so on.

use std::time::{Duration, Instant};

/// The next attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    first: Duration,
    most: Duration,
    next: Option<(Instant, Duration)>,
}

impl Retry {
    pub(crate) const fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: None,
        }
    }

    /// Takes notice of how an attempt ended.
    pub(crate) fn take(&mut self, failed: bool, now: Instant) {
        self.next = failed.then(|| {
            let wait = self
                .next
                .map_or(self.first, |(_, wait)| (wait * 2).min(self.most));
            (now + wait, wait)
        });
    }

    /// When it is tried again; `None` = it has not failed.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|at| at <= now)
    }
}
