//! The flow table from user space: sweeping what has expired, fair shares, what is free.
//!
//! Sweeping only gives memory and shares back: a flow past its time-out is none at look-up, swept or not. Each removal
//! is counted in `SWEPT` (of the endpoint index, and of endpoint index 0 for all), which user space alone writes, under the node's lock; the
//! programs count what they make. A whole pass sees what really is there and puts the counters right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aya::maps::{Array, HashMap, MapData};
use state::{Locked, Store};
use verdict::flow::{STATE_ANSWERED, TICK_JIFFIES, expired, ticks, timeout_seconds};
use verdict::layout::{Config, FlowValue, Share, Swept};

use crate::apply::in_slices;
use crate::batch;
use crate::clock;
use crate::endpoint::{self, Endpoints};
use crate::load;
use crate::maps::{self, ConfigValue, FlowKey, ShareValue, SweptValue};
use crate::pins::Pins;

const LOCK: Duration = Duration::from_secs(10);
/// A flow is swept so long after its time-out: the packet that revives it in this very moment finds it.
const MARGIN_SECONDS: u32 = 5;
/// Idle flows beyond the fair share go first when the table is short; those that are in use never do.
const IDLE_SECONDS: u32 = 60;

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
    /// The node's lock.
    #[error(transparent)]
    Lock(#[from] state::lock::Error),
}

/// Flows of one endpoint, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// In the table.
    pub flows: u64,
    /// Of these, answered.
    pub answered: u64,
}

impl Held {
    /// Not answered.
    pub fn unanswered(&self) -> u64 {
        self.flows.saturating_sub(self.answered)
    }
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
    /// Removed: idle and beyond their endpoint's share, the table being short.
    pub shrunk: u64,
}

/// The flow table.
pub struct Flows {
    pins: Pins,
    flows: HashMap<MapData, FlowKey, maps::FlowValue>,
    data: MapData,
    shares: Array<MapData, ShareValue>,
    swept: Array<MapData, SweptValue>,
    config: Array<MapData, ConfigValue>,
}

/// An endpoint as the sweep needs it.
#[derive(Clone, Copy)]
struct Owner {
    ifindex: u32,
    endpoint_index: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Expired,
    Dead,
    Shrunk,
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
            shares: maps::array(pins, "SHARES")?,
            swept: maps::array(pins, "SWEPT")?,
            config: maps::array(pins, "CONFIG")?,
        })
    }

    fn share(&self, endpoint_index: u32) -> Result<(Share, Swept), maps::Error> {
        let made = self
            .shares
            .get(&endpoint_index, 0)
            .map_err(|e| maps::Error::read("SHARES", &e))?
            .0;
        let swept = self
            .swept
            .get(&endpoint_index, 0)
            .map_err(|e| maps::Error::read("SWEPT", &e))?
            .0;
        Ok((made, swept))
    }

    /// Flows of an endpoint index by the counters; endpoint index 0 = all.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn held(&self, endpoint_index: u32) -> Result<Held, maps::Error> {
        let (made, swept) = self.share(endpoint_index)?;
        // The counters are read one after the other: below zero is a moment, not a number.
        let less = |a: u64, b: u64| a.wrapping_sub(b) as i64;
        let positive = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(Held {
            flows: positive(less(made.made, swept.removed)),
            answered: positive(less(made.answered, swept.answered)),
        })
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

    /// Whether the table is so full that no endpoint may take more than its share.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn is_short(&self) -> Result<bool, maps::Error> {
        let limit = u64::from(self.config()?.flow_limit);
        Ok(self.held(0)?.flows >= limit - limit / 4)
    }

    /// Keeps the fair share at a quarter of the table, divided by the endpoints. True if it changed.
    ///
    /// # Errors
    /// If the settings cannot be written.
    pub fn set_fair_share(
        &mut self,
        _: &Locked<'_>,
        endpoints: usize,
    ) -> Result<bool, maps::Error> {
        let config = self.config()?;
        let fair_share = fair_share(config.flow_limit, endpoints);
        if config.fair_share == fair_share {
            return Ok(false);
        }
        let value = ConfigValue(Config {
            fair_share,
            ..config
        });
        self.config
            .set(0, value, 0)
            .map_err(|e| maps::Error::write("CONFIG", &e))?;
        Ok(true)
    }

    /// Whether the fair share is right for so many endpoints.
    ///
    /// # Errors
    /// If the settings cannot be read.
    pub fn has_fair_share(&self, endpoints: usize) -> Result<bool, maps::Error> {
        let config = self.config()?;
        Ok(config.fair_share == fair_share(config.flow_limit, endpoints))
    }

    /// Removes what has expired and what belongs to endpoints that are gone; where the table is short, also flows that
    /// are idle and beyond the fair share of their endpoint, longest idle first. Then puts the counters right.
    ///
    /// # Errors
    /// If the table cannot be read or written; what was removed is counted.
    pub fn sweep(&mut self, store: &Store, endpoints: &Endpoints) -> Result<Summary, Error> {
        let config = self.config()?;
        let owners: BTreeMap<u32, Owner> = endpoints
            .entries()?
            .into_iter()
            .map(|entry| {
                (
                    entry.endpoint_id,
                    Owner {
                        ifindex: entry.ifindex,
                        endpoint_index: entry.endpoint_index,
                    },
                )
            })
            .collect();
        let mut counters = vec![(0, self.share(0)?)];
        for owner in owners.values() {
            counters.push((owner.endpoint_index, self.share(owner.endpoint_index)?));
        }
        let now = ticks(clock::jiffies(&self.pins)?);
        let mut summary = Summary {
            before: self.held(0)?.flows,
            ..Summary::default()
        };

        let (mut doomed, mut seen) = (Vec::new(), BTreeMap::<u32, Held>::new());
        batch::for_each(
            &self.data,
            "FLOWS",
            |key: &FlowKey, value: &maps::FlowValue| {
                let why = match owners.get(&key.0.endpoint_id) {
                    None => Some(Why::Dead),
                    Some(_) => is_over(key, &value.0, now, config.hz).then_some(Why::Expired),
                };
                match why {
                    Some(why) => doomed.push((*key, why)),
                    None => {
                        let answered = u64::from(value.0.state & STATE_ANSWERED != 0);
                        for endpoint_index in [
                            0,
                            owners
                                .get(&key.0.endpoint_id)
                                .map_or(0, |o| o.endpoint_index),
                        ] {
                            let held = seen.entry(endpoint_index).or_default();
                            held.flows += 1;
                            held.answered += answered;
                        }
                    }
                }
            },
        )?;
        // An entry made since the entries were read has flows too; those of an endpoint id that has no entry now either are dead.
        let found = doomed.len();
        let lives: BTreeSet<u32> = endpoints
            .entries()?
            .into_iter()
            .map(|entry| entry.endpoint_id)
            .collect();
        doomed.retain(|(key, why)| *why != Why::Dead || !lives.contains(&key.0.endpoint_id));
        self.remove(
            store,
            endpoints,
            &owners,
            doomed,
            now,
            config.hz,
            &mut summary,
        )?;
        let removed = summary.expired + summary.dead;
        if removed == found as u64 {
            self.put_right(store, &counters, &seen)?;
        }
        if self.is_short()? {
            let extra = self.beyond_share(&owners, &config, now)?;
            self.remove(
                store,
                endpoints,
                &owners,
                extra,
                now,
                config.hz,
                &mut summary,
            )?;
        }
        Ok(summary)
    }

    /// Idle flows of endpoints that hold more than their fair share, as many as are beyond it, longest idle first.
    fn beyond_share(
        &self,
        owners: &BTreeMap<u32, Owner>,
        config: &Config,
        now: u32,
    ) -> Result<Vec<(FlowKey, Why)>, Error> {
        let mut idle: BTreeMap<u32, Vec<(u32, FlowKey)>> = BTreeMap::new();
        let mut beyond = BTreeMap::new();
        for (endpoint_id, owner) in owners {
            let flows = self.held(owner.endpoint_index)?.flows;
            let more = flows.saturating_sub(u64::from(config.fair_share));
            if more > 0 {
                beyond.insert(*endpoint_id, more as usize);
            }
        }
        batch::for_each(
            &self.data,
            "FLOWS",
            |key: &FlowKey, value: &maps::FlowValue| {
                let age = now.wrapping_sub(value.0.seen);
                if beyond.contains_key(&key.0.endpoint_id)
                    && expired(now, value.0.seen, config.hz, IDLE_SECONDS)
                {
                    idle.entry(key.0.endpoint_id).or_default().push((age, *key));
                }
            },
        )?;
        let mut extra = Vec::new();
        for (endpoint_id, mut flows) in idle {
            flows.sort_unstable_by_key(|(age, _)| std::cmp::Reverse(*age));
            flows.truncate(beyond.get(&endpoint_id).copied().unwrap_or(0));
            extra.extend(flows.into_iter().map(|(_, key)| (key, Why::Shrunk)));
        }
        Ok(extra)
    }

    /// Removes flows, each looked at again, and counts them, in slices of the lock.
    #[allow(
        clippy::too_many_arguments,
        reason = "one pass; a struct would only rename them"
    )]
    fn remove(
        &mut self,
        store: &Store,
        endpoints: &Endpoints,
        owners: &BTreeMap<u32, Owner>,
        doomed: Vec<(FlowKey, Why)>,
        now: u32,
        hz: u32,
        summary: &mut Summary,
    ) -> Result<(), Error> {
        let mut rest = doomed.into_iter();
        in_slices(store, LOCK, |_| {
            let Some((key, why)) = rest.next() else {
                return Ok(false);
            };
            let value = match self.flows.get(&key, 0) {
                Ok(maps::FlowValue(value)) => value,
                Err(e) if maps::is_gone(&e) => return Ok(true),
                Err(e) => return Err(Error::Map(maps::Error::read("FLOWS", &e))),
            };
            let still = match why {
                Why::Expired => is_over(&key, &value, now, hz),
                Why::Shrunk => expired(now, value.seen, hz, IDLE_SECONDS),
                Why::Dead => true,
            };
            if !still {
                return Ok(true);
            }
            match self.flows.remove(&key) {
                Ok(()) => {}
                Err(e) if maps::is_gone(&e) => return Ok(true),
                Err(e) => return Err(Error::Map(maps::Error::write("FLOWS", &e))),
            }
            let answered = u64::from(value.state & STATE_ANSWERED != 0);
            self.count(0, answered)?;
            // The endpoint index of an endpoint that is gone has been given its counters anew, or will be.
            if let Some(owner) = owners.get(&key.0.endpoint_id)
                && endpoints
                    .entry(owner.ifindex)?
                    .is_some_and(|entry| entry.endpoint_id == key.0.endpoint_id)
            {
                self.count(owner.endpoint_index, answered)?;
            }
            match why {
                Why::Expired => summary.expired += 1,
                Why::Dead => summary.dead += 1,
                Why::Shrunk => summary.shrunk += 1,
            }
            Ok(true)
        })
    }

    fn count(&mut self, endpoint_index: u32, answered: u64) -> Result<(), maps::Error> {
        let SweptValue(mut swept) = self
            .swept
            .get(&endpoint_index, 0)
            .map_err(|e| maps::Error::read("SWEPT", &e))?;
        swept.removed = swept.removed.wrapping_add(1);
        swept.answered = swept.answered.wrapping_add(answered);
        self.swept
            .set(endpoint_index, SweptValue(swept), 0)
            .map_err(|e| maps::Error::write("SWEPT", &e))
    }

    /// Compares counters with what was seen. Where nothing was made meanwhile they must agree; elsewhere what is there
    /// is at least what was seen and at most that and what was made since.
    fn put_right(
        &mut self,
        store: &Store,
        before: &[(u32, (Share, Swept))],
        seen: &BTreeMap<u32, Held>,
    ) -> Result<(), Error> {
        for (endpoint_index, (made_before, swept_before)) in before {
            let _locked = store.lock(LOCK)?;
            let (made, swept) = self.share(*endpoint_index)?;
            // Somebody else's endpoint index by now.
            if made.made < made_before.made || swept.removed < swept_before.removed {
                continue;
            }
            let seen = seen.get(endpoint_index).copied().unwrap_or_default();
            let right = correct(made_before, &made, &swept, seen);
            if right != swept {
                self.swept
                    .set(*endpoint_index, SweptValue(right), 0)
                    .map_err(|e| maps::Error::write("SWEPT", &e))?;
            }
        }
        Ok(())
    }
}

fn correct(before: &Share, made: &Share, swept: &Swept, seen: Held) -> Swept {
    let since = made.made.wrapping_sub(before.made);
    let live = made.made.wrapping_sub(swept.removed) as i64;
    let (least, most) = (seen.flows as i64, seen.flows.saturating_add(since) as i64);
    let mut right = *swept;
    if live < least || live > most {
        right.removed = made.made.wrapping_sub(live.clamp(least, most) as u64);
    }
    if since == 0 && made.answered == before.answered {
        right.answered = made.answered.wrapping_sub(seen.answered);
    }
    right
}

fn fair_share(limit: u32, endpoints: usize) -> u32 {
    let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX).max(1);
    (limit / 4 / endpoints).max(1)
}

fn is_over(key: &FlowKey, value: &FlowValue, now: u32, hz: u32) -> bool {
    expired(
        now,
        value.seen,
        hz,
        timeout_seconds(key.0.protocol, value.state) + MARGIN_SECONDS,
    )
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
        let share = |made, answered| Share { made, answered };
        let swept = |removed, answered| Swept { removed, answered };
        let held = |flows, answered| Held { flows, answered };
        // Nothing moved: exactly what was seen.
        assert_eq!(
            correct(&share(10, 6), &share(10, 6), &swept(2, 1), held(5, 4)),
            swept(5, 2)
        );
        assert_eq!(
            correct(&share(10, 6), &share(10, 6), &swept(5, 2), held(5, 4)),
            swept(5, 2)
        );
        // Three were made meanwhile: between 5 and 8 is possible.
        assert_eq!(
            correct(&share(10, 6), &share(13, 6), &swept(7, 2), held(5, 4)),
            swept(7, 2)
        );
        assert_eq!(
            correct(&share(10, 6), &share(13, 6), &swept(2, 2), held(5, 4)),
            swept(5, 2)
        );
        assert_eq!(
            correct(&share(10, 6), &share(13, 6), &swept(12, 2), held(5, 4)),
            swept(8, 2)
        );
    }

    #[test]
    fn shares_are_a_quarter_divided() {
        assert_eq!(fair_share(32_768, 0), 8192);
        assert_eq!(fair_share(32_768, 250), 32);
        assert_eq!(fair_share(32_768, 100_000), 1);
    }
}
