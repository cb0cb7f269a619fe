//! Flow quotas: how many assured flows each endpoint holds, and how many it may always hold.
//!
//! `FLOWS_CREATED` and `FLOWS_DELETED` are counted by the programs and by the sweep, both atomically, so nobody needs the
//! node's lock for them. Flows in the nursery are not counted: they take nobody's place in the table.

use std::sync::atomic::Ordering::Relaxed;

use crate::mapped::MappedWords;
use crate::maps::Error;
use crate::pins::Pins;

/// Least minimum of an endpoint.
const LEAST: u32 = 64;

/// The counters.
#[derive(Debug)]
pub struct Quota {
    created: MappedWords,
    deleted: MappedWords,
}

/// The counters of one endpoint index at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) created: u64,
    pub(crate) deleted: u64,
}

impl Counts {
    /// Flows held. The counters are read one after the other: below zero is a moment, not a number.
    pub(crate) fn held(self) -> u64 {
        u64::try_from(self.created.wrapping_sub(self.deleted) as i64).unwrap_or(0)
    }
}

impl Quota {
    /// Maps the pinned counters.
    ///
    /// # Errors
    /// If nothing is loaded.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            created: MappedWords::open(pins, "FLOWS_CREATED")?,
            deleted: MappedWords::open(pins, "FLOWS_DELETED")?,
        })
    }

    pub(crate) fn counts(&self, endpoint_index: u32) -> Counts {
        let read = |words: &MappedWords| words.word(endpoint_index).map_or(0, |w| w.load(Relaxed));
        Counts {
            deleted: read(&self.deleted),
            created: read(&self.created),
        }
    }

    /// Flows in the table of an endpoint index; endpoint index 0 = all.
    pub fn held(&self, endpoint_index: u32) -> u64 {
        self.counts(endpoint_index).held()
    }

    /// Counts flows that were put into the table, of one endpoint index and of all.
    pub fn count_created(&self, endpoint_index: u32, flows: u64) {
        count(&self.created, endpoint_index, flows);
    }

    /// Counts flows that were taken out of the table, of one endpoint index (0 = of an endpoint that is gone) and of all.
    pub fn count_deleted(&self, endpoint_index: u32, flows: u64) {
        count(&self.deleted, endpoint_index, flows);
    }

    /// Puts the count of one endpoint index right, that of the others aside.
    pub(crate) fn correct(&self, endpoint_index: u32, more: i64) {
        if let Some(word) = self.deleted.word(endpoint_index) {
            word.fetch_sub(more as u64, Relaxed);
        }
    }

    /// The flows of the endpoint index's earlier holder are none of the next one's.
    pub fn forget(&self, endpoint_index: u32) {
        if let (Some(created), Some(deleted)) = (
            self.created.word(endpoint_index),
            self.deleted.word(endpoint_index),
        ) {
            deleted.store(created.load(Relaxed), Relaxed);
        }
    }
}

fn count(words: &MappedWords, endpoint_index: u32, flows: u64) {
    let indexes: &[u32] = if endpoint_index == 0 {
        &[0]
    } else {
        &[endpoint_index, 0]
    };
    for index in indexes {
        if let Some(word) = words.word(*index) {
            word.fetch_add(flows, Relaxed);
        }
    }
}

/// Flows that each of so many endpoints may always hold: half of the table, divided.
pub fn minimum(flow_limit: u32, endpoints: usize) -> u32 {
    let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX).max(1);
    (flow_limit / 2 / endpoints).max(LEAST)
}

/// The level to which the largest holders are cut so that all together hold at most `room`; nobody below it loses any.
/// It is never below the mean of `room`.
pub(crate) fn level(held: &[u64], room: u64) -> u64 {
    let mut held = held.to_vec();
    held.sort_unstable();
    let (mut left, mut holders) = (room, held.len() as u64);
    for flows in held {
        if flows.saturating_mul(holders) > left {
            return left / holders;
        }
        left -= flows;
        holders -= 1;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimum_is_half_of_the_table_divided() {
        assert_eq!(minimum(32_768, 0), 16_384);
        assert_eq!(minimum(32_768, 4), 4096);
        assert_eq!(minimum(32_768, 100_000), 64);
    }

    #[test]
    fn the_largest_lose_first_and_nobody_below_the_mean() {
        assert_eq!(level(&[], 100), u64::MAX);
        assert_eq!(level(&[10, 20, 30], 100), u64::MAX);
        assert_eq!(level(&[1000, 10, 20], 100), 70);
        assert_eq!(level(&[1000, 900, 10], 100), 45);
        assert_eq!(level(&[1000, 1000], 100), 50);
        assert_eq!(level(&[1000, 0], 100), 100);
    }
}
