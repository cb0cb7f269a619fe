//! The flow table from user space: what has expired, who holds too much, what is free.
//!
//! Sweeping gives memory back and nothing else waits for it: an expired flow is ignored at look-up, swept or not. A sweep
//! takes no lock, holds a slice of the table at a time and rests between two of them. Each flow that it deletes is looked
//! at again right before.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, HashMap, MapData};
use state::Locked;
use verdict::flow::{TICK_JIFFIES, expired, ticks, timeout_seconds};
use verdict::layout::{Config, FlowValue, NURSERY_SLOTS};

use crate::batch;
use crate::clock;
use crate::endpoint::{self, Endpoints};
use crate::load;
use crate::maps::{self, ConfigValue, FlowKey, NurseryBucket};
use crate::pins::Pins;
use crate::quota::{self, Counts, Quota};

/// A flow is swept so long after its time-out: the packet that comes in this very moment deals with it itself.
const MARGIN_SECONDS: u32 = 5;
/// Flows, and buckets of the nursery, of one slice.
const SLICE: usize = 2048;
const SLICE_OF_BUCKETS: usize = 128;

/// Why flows could not be swept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A map.
    #[error(transparent)]
    Map(#[from] maps::Error),
    /// The entries.
    #[error(transparent)]
    Endpoint(#[from] endpoint::Error),
    /// The kernel's clock.
    #[error(transparent)]
    Clock(#[from] load::Error),
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Flows in the table when it began.
    pub before: u64,
    /// Removed: past their time-out.
    pub expired: u64,
    /// Removed: of endpoints that are gone.
    pub dead: u64,
    /// Removed: the table being short, of those endpoints that hold most.
    pub shrunk: u64,
    /// Buckets of the nursery given back.
    pub buckets: u64,
}

/// The flow table.
pub struct Flows {
    pins: Pins,
    flows: HashMap<MapData, FlowKey, maps::FlowValue>,
    data: MapData,
    nursery: HashMap<MapData, u32, NurseryBucket>,
    nursery_data: MapData,
    quota: Quota,
    config: Array<MapData, ConfigValue>,
}

/// Which endpoints there are, by endpoint id.
struct Owners<'a> {
    endpoints: &'a Endpoints,
    indexes: BTreeMap<u32, u32>,
    gone: BTreeSet<u32>,
}

impl<'a> Owners<'a> {
    fn read(endpoints: &'a Endpoints) -> Result<Self, Error> {
        let indexes = endpoints
            .entries()?
            .into_iter()
            .map(|entry| (entry.endpoint_id, entry.endpoint_index))
            .collect();
        Ok(Self {
            endpoints,
            indexes,
            gone: BTreeSet::new(),
        })
    }

    /// The endpoint index of a flow's endpoint; `None` if it is gone. An endpoint made since the entries were read has
    /// flows too, so they are read again for an id that is not known.
    fn index(&mut self, endpoint_id: u32) -> Result<Option<u32>, Error> {
        if !self.indexes.contains_key(&endpoint_id) && !self.gone.contains(&endpoint_id) {
            self.indexes.extend(
                self.endpoints
                    .entries()?
                    .into_iter()
                    .map(|entry| (entry.endpoint_id, entry.endpoint_index)),
            );
            if !self.indexes.contains_key(&endpoint_id) {
                self.gone.insert(endpoint_id);
            }
        }
        Ok(self.indexes.get(&endpoint_id).copied())
    }
}

/// What a pass saw and did at one endpoint index.
#[derive(Clone, Copy, Default)]
struct Seen {
    kept: u64,
    deleted: u64,
}

impl Flows {
    /// Opens the pinned table.
    ///
    /// # Errors
    /// If nothing is loaded.
    pub fn open(pins: &Pins) -> Result<Self, maps::Error> {
        Ok(Self {
            pins: pins.clone(),
            flows: maps::hash(pins, "FLOWS")?,
            data: maps::data(pins, "FLOWS")?,
            nursery: maps::hash(pins, "NURSERY")?,
            nursery_data: maps::data(pins, "NURSERY")?,
            quota: Quota::open(pins)?,
            config: maps::array(pins, "CONFIG")?,
        })
    }

    /// Assured flows of an endpoint index by the counters; endpoint index 0 = all.
    pub fn held(&self, endpoint_index: u32) -> u64 {
        self.quota.held(endpoint_index)
    }

    /// The settings.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn config(&self) -> Result<Config, maps::Error> {
        Ok(self
            .config
            .get(&0, 0)
            .map_err(|e| maps::Error::read("CONFIG", &e))?
            .0)
    }

    /// Whether the table is short: a newcomer would not find its minimum for long.
    ///
    /// # Errors
    /// If the settings cannot be read.
    pub fn is_short(&self) -> Result<bool, maps::Error> {
        let limit = u64::from(self.config()?.flow_limit);
        Ok(self.held(0) > limit / 2 + limit / 8)
    }

    /// Sets what each of so many endpoints may always hold. True if it changed.
    ///
    /// # Errors
    /// If the settings cannot be written.
    pub fn set_minimum(&mut self, _: &Locked<'_>, endpoints: usize) -> Result<bool, maps::Error> {
        if self.has_minimum(endpoints)? {
            return Ok(false);
        }
        let config = self.config()?;
        let value = ConfigValue(Config {
            flow_minimum: quota::minimum(config.flow_limit, endpoints),
            ..config
        });
        self.config
            .set(0, value, 0)
            .map_err(|e| maps::Error::write("CONFIG", &e))?;
        Ok(true)
    }

    /// Whether the minimum is right for so many endpoints.
    ///
    /// # Errors
    /// If the settings cannot be read.
    pub fn has_minimum(&self, endpoints: usize) -> Result<bool, maps::Error> {
        let config = self.config()?;
        Ok(config.flow_minimum == quota::minimum(config.flow_limit, endpoints))
    }

    /// Removes what has expired and what belongs to endpoints that are gone, puts the counters right, and gives the
    /// nursery's unused buckets back. Calls `rest` between two slices.
    ///
    /// # Errors
    /// If the table cannot be read or written; what was removed is counted.
    pub fn sweep(
        &mut self,
        endpoints: &Endpoints,
        rest: &mut dyn FnMut(),
    ) -> Result<Summary, Error> {
        let hz = self.config()?.hz;
        let now = ticks(clock::jiffies(&self.pins)?);
        let mut owners = Owners::read(endpoints)?;
        let before: Vec<(u32, Counts)> = std::iter::once(0)
            .chain(owners.indexes.values().copied())
            .map(|index| (index, self.quota.counts(index)))
            .collect();
        let mut summary = Summary {
            before: self.held(0),
            ..Summary::default()
        };
        let mut seen: BTreeMap<u32, Seen> = BTreeMap::new();
        let (flows, quota) = (&mut self.flows, &self.quota);
        batch::for_each(
            &self.data,
            "FLOWS",
            SLICE,
            |keys: &[FlowKey], values: &[maps::FlowValue]| {
                for (key, value) in keys.iter().zip(values) {
                    let index = owners.index(key.0.endpoint_id)?;
                    let over = index.is_none() || is_over(key, &value.0, now, hz);
                    let deleted = over
                        && delete(flows, key, |v| index.is_none() || is_over(key, v, now, hz))?;
                    if deleted {
                        quota.count_deleted(index.unwrap_or(0), 1);
                        match index {
                            None => summary.dead += 1,
                            Some(_) => summary.expired += 1,
                        }
                    }
                    for index in [Some(0), index].into_iter().flatten() {
                        let seen = seen.entry(index).or_default();
                        seen.deleted += u64::from(deleted);
                        seen.kept += u64::from(!deleted);
                    }
                }
                rest();
                Ok::<_, Error>(())
            },
        )?;
        for (index, counts) in before {
            let more = correction(
                counts,
                self.quota.counts(index),
                seen.get(&index).copied().unwrap_or_default(),
            );
            if more != 0 {
                self.quota.correct(index, more);
            }
        }
        summary.buckets = self.sweep_nursery(&owners, now, hz, rest)?;
        Ok(summary)
    }

    /// Gives back the nursery's buckets whose flows have all expired, and those of endpoint indexes that nobody holds.
    fn sweep_nursery(
        &mut self,
        owners: &Owners<'_>,
        now: u32,
        hz: u32,
        rest: &mut dyn FnMut(),
    ) -> Result<u64, Error> {
        let held: BTreeSet<u32> = owners.indexes.values().copied().collect();
        let unused = |key: u32, bucket: &NurseryBucket| {
            !held.contains(&(key >> 16)) || is_unused(bucket, now, hz)
        };
        let nursery = &mut self.nursery;
        let mut buckets = 0;
        batch::for_each(
            &self.nursery_data,
            "NURSERY",
            SLICE_OF_BUCKETS,
            |keys: &[u32], values: &[NurseryBucket]| {
                for (key, bucket) in keys.iter().zip(values) {
                    if unused(*key, bucket)
                        && nursery.get(key, 0).is_ok_and(|now| unused(*key, &now))
                        && nursery.remove(key).is_ok()
                    {
                        buckets += 1;
                    }
                }
                rest();
                Ok::<_, Error>(())
            },
        )?;
        Ok(buckets)
    }

    /// Where the table is short, takes from those endpoints that hold most, longest idle first, in use or not, until all
    /// hold half of the table. Nobody loses any who holds no more than the mean. Calls `rest` between two slices.
    ///
    /// # Errors
    /// If the table cannot be read or written; what was removed is counted.
    pub fn shrink(&mut self, endpoints: &Endpoints, rest: &mut dyn FnMut()) -> Result<u64, Error> {
        let limit = u64::from(self.config()?.flow_limit);
        let now = ticks(clock::jiffies(&self.pins)?);
        let owners = Owners::read(endpoints)?;
        let held: Vec<u64> = owners
            .indexes
            .values()
            .map(|index| self.held(*index))
            .collect();
        let level = quota::level(&held, limit / 2);
        let mut beyond: BTreeMap<u32, Beyond> = owners
            .indexes
            .iter()
            .filter_map(|(id, index)| {
                let excess = self.held(*index).saturating_sub(level);
                (excess > 0).then(|| (*id, Beyond::new(*index, excess)))
            })
            .collect();
        if beyond.is_empty() {
            return Ok(0);
        }
        batch::for_each(
            &self.data,
            "FLOWS",
            SLICE,
            |keys: &[FlowKey], values: &[maps::FlowValue]| {
                for (key, value) in keys.iter().zip(values) {
                    if let Some(beyond) = beyond.get_mut(&key.0.endpoint_id) {
                        beyond.ages[age_class(now, value.0.seen)] += 1;
                    }
                }
                rest();
                Ok::<_, Error>(())
            },
        )?;
        beyond.values_mut().for_each(Beyond::find_cut);
        let (flows, quota) = (&mut self.flows, &self.quota);
        let mut shrunk = 0;
        batch::for_each(
            &self.data,
            "FLOWS",
            SLICE,
            |keys: &[FlowKey], values: &[maps::FlowValue]| {
                for (key, value) in keys.iter().zip(values) {
                    let Some(beyond) = beyond.get_mut(&key.0.endpoint_id) else {
                        continue;
                    };
                    let class = age_class(now, value.0.seen);
                    if beyond.takes(class) && delete(flows, key, |_| true)? {
                        beyond.taken(class);
                        quota.count_deleted(beyond.endpoint_index, 1);
                        shrunk += 1;
                    }
                }
                rest();
                Ok::<_, Error>(())
            },
        )?;
        Ok(shrunk)
    }
}

/// Deletes a flow if it still is what it was; false if it is gone or is not.
fn delete(
    flows: &mut HashMap<MapData, FlowKey, maps::FlowValue>,
    key: &FlowKey,
    still: impl FnOnce(&FlowValue) -> bool,
) -> Result<bool, Error> {
    match flows.get(key, 0) {
        Ok(maps::FlowValue(value)) if still(&value) => {}
        Ok(_) => return Ok(false),
        Err(e) if maps::is_gone(&e) => return Ok(false),
        Err(e) => return Err(Error::Map(maps::Error::read("FLOWS", &e))),
    }
    match flows.remove(key) {
        Ok(()) => Ok(true),
        Err(e) if maps::is_gone(&e) => Ok(false),
        Err(e) => Err(Error::Map(maps::Error::write("FLOWS", &e))),
    }
}

/// Ages by powers of two, each in eight parts.
const AGE_CLASSES: usize = 33 * 8;

/// The class of a flow's idle time: the higher, the longer it has been idle.
fn age_class(now: u32, seen: u32) -> usize {
    let age = now.wrapping_sub(seen);
    // A time stamp from another CPU may lie a little ahead.
    if age == 0 || age > u32::MAX / 2 {
        return 0;
    }
    let log = age.ilog2();
    let part = if log >= 3 {
        (age >> (log - 3)) & 7
    } else {
        (age << (3 - log)) & 7
    };
    (log as usize + 1) * 8 + part as usize
}

/// An endpoint that holds more than its level, and by how much.
struct Beyond {
    endpoint_index: u32,
    left: u64,
    ages: [u64; AGE_CLASSES],
    cut: usize,
    at_cut: u64,
}

impl Beyond {
    fn new(endpoint_index: u32, excess: u64) -> Self {
        Self {
            endpoint_index,
            left: excess,
            ages: [0; AGE_CLASSES],
            cut: AGE_CLASSES,
            at_cut: 0,
        }
    }

    /// Finds the class from which on flows go, and how many of that class itself.
    fn find_cut(&mut self) {
        let mut left = self.left;
        for (class, flows) in self.ages.iter().enumerate().rev() {
            if *flows >= left {
                (self.cut, self.at_cut) = (class, left);
                return;
            }
            left -= flows;
        }
        (self.cut, self.at_cut) = (0, left);
    }

    fn takes(&self, class: usize) -> bool {
        self.left > 0 && (class > self.cut || class == self.cut && self.at_cut > 0)
    }

    fn taken(&mut self, class: usize) {
        self.left -= 1;
        if class == self.cut {
            self.at_cut -= 1;
        }
    }
}

/// By how many flows the counters say too few (or, below zero, too many) after a pass.
///
/// What is there now is at least what the pass kept, less what others deleted meanwhile, and at most that and what was
/// created meanwhile.
fn correction(before: Counts, now: Counts, seen: Seen) -> i64 {
    // Somebody else's endpoint index by now.
    if now.created < before.created || now.deleted < before.deleted {
        return 0;
    }
    let by_others = (now.deleted - before.deleted).saturating_sub(seen.deleted);
    let least = seen.kept.saturating_sub(by_others) as i64;
    let most = (seen.kept + (now.created - before.created)) as i64;
    // Below zero too.
    let held = now.created.wrapping_sub(now.deleted) as i64;
    held.clamp(least, most.max(least)) - held
}

fn is_over(key: &FlowKey, value: &FlowValue, now: u32, hz: u32) -> bool {
    let timeout = timeout_seconds(key.0.protocol, value.state);
    expired(now, value.seen, hz, timeout + MARGIN_SECONDS)
}

fn is_unused(bucket: &NurseryBucket, now: u32, hz: u32) -> bool {
    let bucket = &bucket.0;
    (0..NURSERY_SLOTS).all(|slot| {
        let value = FlowValue {
            verdict: bucket.verdict[slot],
            seen: bucket.seen[slot],
            state: bucket.state[slot],
        };
        bucket.check[slot] == 0 || is_over(&FlowKey(bucket.keys[slot]), &value, now, hz)
    })
}

/// Seconds since a flow's last packet.
pub fn idle_seconds(now_jiffies: u64, value: &FlowValue, hz: u32) -> u64 {
    let age = ticks(now_jiffies).wrapping_sub(value.seen);
    if age > u32::MAX / 2 {
        0
    } else {
        u64::from(age) * TICK_JIFFIES / u64::from(hz.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_put_right_within_what_is_known() {
        let counts = |created, deleted| Counts { created, deleted };
        let seen = |kept, deleted| Seen { kept, deleted };
        // Nothing moved but what the pass deleted: exactly what it kept.
        assert_eq!(correction(counts(10, 2), counts(10, 2), seen(5, 0)), -3);
        assert_eq!(correction(counts(10, 2), counts(10, 5), seen(5, 3)), 0);
        assert_eq!(correction(counts(10, 8), counts(10, 8), seen(5, 0)), 3);
        // Three were created meanwhile: between 5 and 8 is possible.
        assert_eq!(correction(counts(10, 4), counts(13, 4), seen(5, 0)), -1);
        assert_eq!(correction(counts(10, 7), counts(13, 7), seen(5, 0)), 0);
        assert_eq!(correction(counts(10, 9), counts(13, 9), seen(5, 0)), 1);
        assert_eq!(correction(counts(10, 30), counts(10, 30), seen(5, 0)), 25);
        // Two were deleted by others meanwhile: between 3 and 5 is possible.
        assert_eq!(correction(counts(10, 5), counts(10, 7), seen(5, 0)), 0);
    }

    #[test]
    fn the_longest_idle_go_first_and_no_more_than_are_beyond() {
        let mut beyond = Beyond::new(1, 5);
        for age in [1, 2, 3, 1000, 1000, 1000, 1000, 5000, 5000] {
            beyond.ages[age_class(10_000, 10_000 - age)] += 1;
        }
        beyond.find_cut();
        let mut taken = 0;
        for age in [1000, 1, 1000, 2, 1000, 5000, 3, 1000, 5000] {
            let class = age_class(10_000, 10_000 - age);
            if beyond.takes(class) {
                beyond.taken(class);
                taken += 1;
                assert!(age >= 1000);
            }
        }
        assert_eq!(taken, 5);
    }

    #[test]
    fn age_classes_follow_the_age() {
        let mut last = 0;
        for age in 0..5000 {
            let class = age_class(1_000_000, 1_000_000 - age);
            assert!(class >= last, "{age}");
            last = class;
        }
        assert!(age_class(u32::MAX / 2, 0) < AGE_CLASSES);
        assert_eq!(age_class(10, 12), 0);
    }
}
