//! What the kernel has: counters by endpoint and reason, flows, pod interfaces without enforcement.

use std::collections::{BTreeMap, BTreeSet};

use verdict::layout::{Counter, ENDPOINT_INDEXES};
use verdict::{Direction, Reason};

use crate::endpoint::{self, Endpoints};
use crate::hostnet;
use crate::maps::{self, CounterValue};
use crate::pins::Pins;
use crate::quota::Quota;

/// What was counted for one endpoint index.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Assured flows in the table.
    pub flows: u64,
    /// All that passed, tracked packets included.
    pub passed: Counter,
    /// All but tracked packets, by direction and reason.
    pub reasons: BTreeMap<(Direction, Reason), Counter>,
}

impl Counted {
    /// All that was dropped.
    pub fn dropped(&self) -> Counter {
        let mut sum = Counter::default();
        for ((_, reason), counter) in &self.reasons {
            if reason.is_drop() {
                add(&mut sum, counter);
            }
        }
        sum
    }
}

fn add(to: &mut Counter, counter: &Counter) {
    to.packets += counter.packets;
    to.bytes += counter.bytes;
}

/// Counters by endpoint index, of the endpoint indexes that have any; endpoint index 0 = packets of interfaces without an entry.
///
/// # Errors
/// If a map cannot be read.
pub fn counters(pins: &Pins) -> Result<BTreeMap<u32, Counted>, maps::Error> {
    let mut all: BTreeMap<u32, Counted> = BTreeMap::new();
    let reasons = maps::per_cpu_hash::<u32, CounterValue>(pins, "REASONS")?;
    for entry in reasons.iter() {
        let (key, values) = entry.map_err(|e| maps::Error::read("REASONS", &e))?;
        let Some(reason) = Reason::from_number(key as u8) else {
            continue;
        };
        let direction = if (key >> 8) as u8 == Direction::Ingress as u8 {
            Direction::Ingress
        } else {
            Direction::Egress
        };
        let counter = all
            .entry(key >> 16)
            .or_default()
            .reasons
            .entry((direction, reason))
            .or_default();
        values.iter().for_each(|v| add(counter, &v.0));
    }
    let passed = maps::per_cpu_array::<CounterValue>(pins, "PASSED")?;
    let quota = Quota::open(pins)?;
    // Every packet that passes but is not tracked has a reason too, so endpoint indexes without one have nothing.
    for (endpoint_index, counted) in all.range_mut(..ENDPOINT_INDEXES) {
        for index in [endpoint_index * 2, endpoint_index * 2 + 1] {
            let values = passed
                .get(&index, 0)
                .map_err(|e| maps::Error::read("PASSED", &e))?;
            values.iter().for_each(|v| add(&mut counted.passed, &v.0));
        }
        counted.flows = quota.held(*endpoint_index);
    }
    Ok(all)
}

/// Why pod interfaces without enforcement could not be looked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The entries.
    #[error(transparent)]
    Endpoint(#[from] endpoint::Error),
    /// The interfaces.
    #[error(transparent)]
    Net(#[from] hostnet::Error),
}

/// Veth ends in the host's namespace whose peer is in another namespace and that have no endpoint entry.
///
/// # Errors
/// If entries or interfaces cannot be read.
pub fn without_enforcement(endpoints: &Endpoints) -> Result<Vec<hostnet::Link>, Error> {
    let entries: BTreeSet<u32> = endpoints
        .entries()?
        .into_iter()
        .map(|r| r.ifindex)
        .collect();
    let mut links = hostnet::links()?;
    links.retain(|l| {
        l.kind.as_deref() == Some("veth")
            && l.peer_netnsid.is_some()
            && !entries.contains(&l.ifindex)
    });
    Ok(links)
}
