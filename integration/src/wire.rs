//! What the traffic helper and the harness both know: the generator's packet and the helper's report lines.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// First bytes of a generator's packet.
pub const MAGIC: [u8; 8] = *b"PDGTFLOW";

/// Length of a generator's packet.
pub const STAMP_LEN: usize = 24;

/// A generator's payload: magic, sequence number, monotonic time of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Counts from 0 per destination.
    pub sequence: u64,
    /// `CLOCK_MONOTONIC` in nanoseconds right before the packet was handed to the kernel.
    pub sent_ns: u64,
}

impl Stamp {
    /// The payload's bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; STAMP_LEN] {
        let mut bytes = [0; STAMP_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[16..].copy_from_slice(&self.sent_ns.to_be_bytes());
        bytes
    }

    /// The stamp in a payload, if it is one.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            payload
                .get(at..at + 8)?
                .try_into()
                .ok()
                .map(u64::from_be_bytes)
        };
        (payload.get(..8)? == MAGIC).then_some(())?;
        Some(Self {
            sequence: word(8)?,
            sent_ns: word(16)?,
        })
    }
}

/// What a receiver saw from one source address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceCount {
    /// Packets with a stamp.
    pub packets: u64,
    /// Smallest and largest sequence number.
    pub first_sequence: u64,
    /// Largest sequence number.
    pub last_sequence: u64,
    /// Earliest sending time seen.
    pub first_sent_ns: u64,
    /// Latest sending time seen.
    pub last_sent_ns: u64,
    /// Packets without a stamp.
    pub others: u64,
}

impl SourceCount {
    /// Counts one packet.
    pub fn count(&mut self, stamp: Stamp) {
        if self.packets == 0 {
            (self.first_sequence, self.first_sent_ns) = (stamp.sequence, stamp.sent_ns);
        }
        self.packets += 1;
        self.first_sequence = self.first_sequence.min(stamp.sequence);
        self.first_sent_ns = self.first_sent_ns.min(stamp.sent_ns);
        self.last_sequence = self.last_sequence.max(stamp.sequence);
        self.last_sent_ns = self.last_sent_ns.max(stamp.sent_ns);
    }

    /// How many packets between the first and the last that came did not come.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let span = self.last_sequence - self.first_sequence + 1;
        if self.packets == 0 {
            0
        } else {
            span.saturating_sub(self.packets)
        }
    }
}

/// What a receiver saw, by source address in text form.
pub type SinkReport = BTreeMap<String, SourceCount>;

/// What a generator did towards one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FloodReport {
    /// Packets that the kernel took.
    pub sent: u64,
    /// Packets that it refused (no route yet, queue full).
    pub refused: u64,
    /// When the first and the last taken packet were sent.
    pub first_sent_ns: u64,
    /// When the last taken packet was sent.
    pub last_sent_ns: u64,
}

/// `CLOCK_MONOTONIC` now, in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    match nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) {
        Ok(time) => {
            u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000
                + u64::try_from(time.tv_nsec()).unwrap_or(0)
        }
        Err(error) => panic!("read CLOCK_MONOTONIC: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_the_wire() {
        let stamp = Stamp {
            sequence: 7,
            sent_ns: u64::MAX - 1,
        };
        assert_eq!(Stamp::parse(&stamp.to_bytes()), Some(stamp));
        assert_eq!(Stamp::parse(&stamp.to_bytes()[..20]), None);
        assert_eq!(Stamp::parse(b"hello"), None);
    }

    #[test]
    fn a_count_keeps_the_latest_stamp_whatever_the_order_and_knows_what_is_missing() {
        let mut count = SourceCount::default();
        assert_eq!(count.lost(), 0);
        for (sequence, sent_ns) in [(5, 50), (3, 30), (9, 90), (4, 40)] {
            count.count(Stamp { sequence, sent_ns });
        }
        assert_eq!(
            (
                count.packets,
                count.first_sequence,
                count.last_sent_ns,
                count.lost()
            ),
            (4, 3, 90, 3)
        );
    }
}
