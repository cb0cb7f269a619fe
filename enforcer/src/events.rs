//! The ring of flow events, and how many were lost.

use aya::maps::{Array, MapData, RingBuf};
use verdict::layout::{ENDPOINT_INDEXES, Event};

use crate::maps::{self, RateValue};
use crate::pins::Pins;

/// Reads events; one reader a node.
pub struct Events {
    ring: RingBuf<MapData>,
    rates: Array<MapData, RateValue>,
}

impl Events {
    /// Opens the pinned ring.
    ///
    /// # Errors
    /// If nothing is loaded.
    pub fn open(pins: &Pins) -> Result<Self, maps::Error> {
        Ok(Self {
            ring: maps::ring(pins, "EVENTS")?,
            rates: maps::array(pins, "RATES")?,
        })
    }

    /// The next event that is there, without waiting. The programs wake nobody before the ring is half full: look again
    /// after a tick.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            if item.len() >= size_of::<Event>() {
                // SAFETY: there are that many bytes, every bit pattern is an `Event`, and it may lie unaligned.
                return Some(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
            }
        }
    }

    /// Events that were not sent, ever: over a limit, or the ring was full.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn lost(
        &self,
        endpoint_indexes: impl IntoIterator<Item = u32>,
    ) -> Result<u64, maps::Error> {
        let mut lost = 0u64;
        for endpoint_index in std::iter::once(0).chain(
            endpoint_indexes
                .into_iter()
                .filter(|endpoint_index| (1..ENDPOINT_INDEXES).contains(endpoint_index)),
        ) {
            lost += self
                .rates
                .get(&endpoint_index, 0)
                .map_err(|e| maps::Error::read("RATES", &e))?
                .0
                .lost;
        }
        Ok(lost)
    }
}
