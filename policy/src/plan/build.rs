//! Works a plan out: what differs between the image and the compiler, and whom that concerns.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use verdict::layout::{RULE_ALLOW_ALL, RULE_DEFAULT_ALL, RULE_DENY_ALL, RULE_NONE};

use super::{Entry, Image, Phase, Place, Plan, Sizes, image};
use crate::{
    compiler::{Compiler, RuleAt, RuleSetId},
    portmap::{PortMap, Verdict},
    prefix::{Family, Prefix},
    tables::DIRECTIONS,
};

/// What a rule said, and what it is to say.
type Change = (Option<u32>, Option<u32>);

struct Builder<'a> {
    compiler: &'a mut Compiler,
    image: &'a mut Image,
    entries: Vec<Entry>,
    /// Rules that differ.
    rules: BTreeMap<(RuleSetId, RuleAt), Change>,
    new_port_sets: Vec<(u32, Arc<PortMap>)>,
    new_numbers: HashMap<Arc<PortMap>, u32>,
    /// Classes between which addresses move.
    moves: BTreeSet<(Family, u32, u32)>,
}

pub(super) fn plan(compiler: &mut Compiler, image: &mut Image) -> Plan {
    compiler.settle();
    let mut builder = Builder {
        compiler,
        image,
        entries: Vec::new(),
        rules: BTreeMap::new(),
        new_port_sets: Vec::new(),
        new_numbers: HashMap::new(),
        moves: BTreeSet::new(),
    };
    builder.peers();
    builder.rules();
    builder.finish()
}

impl Builder<'_> {
    fn peers(&mut self) {
        let mut blocks: BTreeSet<Prefix> = self.compiler.dirty().prefixes.clone();
        blocks.extend(&self.image.unsettled);
        if self.image.restored {
            blocks.extend(self.image.peers.keys());
            blocks.extend(self.compiler.peers().map(|(at, _)| at));
        }
        for at in blocks {
            let (had, has) = (self.image.peers.get(&at).copied(), self.compiler.peer(at));
            let (old, new) = (self.image.class_of(at), self.compiler.class_of(at));
            if old != new {
                self.moves.insert((at.family(), old, new));
            }
            let unsettled = self.image.unsettled.contains(&at);
            if had == has && !unsettled {
                continue;
            }
            if had.is_none() && has.is_none() && !unsettled {
                continue;
            }
            let versioned = old != new;
            self.entries.push(Entry {
                place: Place::Peer(at),
                old,
                new,
                prepared: versioned || had.is_none() || unsettled,
                versioned,
                there: had.is_some(),
                stays: has.is_some(),
            });
        }
    }

    fn rules(&mut self) {
        let dirty = self.compiler.dirty().clone();
        let mut sets = dirty.sets;
        if self.image.restored {
            sets.extend(self.image.rules.keys());
            sets.extend(self.compiler.rule_sets());
        }
        for set in &sets {
            let mut old = self.image.rules.get(set).cloned().unwrap_or_default();
            for (at, map) in self.compiler.rules(*set) {
                let new = self.value(&map);
                self.differs(*set, at, old.remove(&at), Some(new));
            }
            for (at, says) in old {
                self.differs(*set, at, Some(says), None);
            }
        }
        let single = dirty
            .rules
            .into_iter()
            .chain(self.image.unsettled_rules.clone());
        for (set, at) in single.collect::<BTreeSet<_>>() {
            if sets.contains(&set) {
                continue;
            }
            let old = self.image.rules.get(&set).and_then(|rules| rules.get(&at));
            let old = old.copied();
            let new = self.compiler.rule(set, at).map(|map| self.value(&map));
            self.differs(set, at, old, new);
        }
    }

    fn differs(&mut self, set: RuleSetId, at: RuleAt, old: Option<u32>, new: Option<u32>) {
        if old != new || self.image.unsettled_rules.contains(&(set, at)) {
            self.rules.insert((set, at), (old, new));
        }
    }

    /// The number that stands for a port map in a rule; one that no port set has yet is made.
    fn value(&mut self, map: &Arc<PortMap>) -> u32 {
        match map.as_uniform() {
            Some(Verdict::Allow) => return RULE_ALLOW_ALL,
            Some(Verdict::Deny) => return RULE_DENY_ALL,
            Some(Verdict::Default) => return RULE_DEFAULT_ALL,
            None => {}
        }
        let known = self.image.port_set_of.get(map);
        if let Some(number) = known.or_else(|| self.new_numbers.get(map)) {
            return *number;
        }
        let number = self.image.free_port_set();
        self.new_numbers.insert(Arc::clone(map), number);
        self.new_port_sets.push((number, Arc::clone(map)));
        number
    }

    fn finish(mut self) -> Plan {
        let mut uses: HashMap<u32, i64> = HashMap::new();
        let mut swept_rules = Vec::new();
        let mut changed: BTreeSet<RuleSetId> = BTreeSet::new();
        let live: BTreeSet<RuleSetId> = self.compiler.rule_sets().collect();
        for (&(set, at), &(old, new)) in &self.rules {
            if let Some(old) = old {
                *uses.entry(old).or_default() -= 1;
            }
            if !live.contains(&set) || !self.compiler.is_class_alive(at.family, at.class) {
                // Nobody with the new revision reads it.
                if old.is_some() {
                    swept_rules.push((set, at));
                }
                continue;
            }
            if let Some(new) = new {
                *uses.entry(new).or_default() += 1;
            }
            let dirty = self.compiler.dirty();
            let born =
                dirty.born_sets.contains(&set) || dirty.born.contains(&(at.family, at.class));
            let versioned = old.is_some() || self.image.restored || !born;
            if versioned && old.is_none() && new.is_none() {
                continue;
            }
            if versioned {
                changed.insert(set);
            }
            self.entries.push(Entry {
                place: Place::Rule(set, at),
                old: old.unwrap_or(RULE_NONE),
                new: new.unwrap_or(RULE_NONE),
                prepared: true,
                versioned,
                there: old.is_some(),
                stays: new.is_some(),
            });
        }
        let ports: Vec<Entry> = self
            .new_port_sets
            .iter()
            .flat_map(|(id, map)| {
                map.prefixes().into_iter().map(|(prefix, verdict)| Entry {
                    place: Place::Port(*id, prefix, verdict),
                    old: 0,
                    new: 0,
                    prepared: true,
                    versioned: false,
                    there: false,
                    stays: true,
                })
            })
            .collect();
        // Port sets before the rules that name them, rules before the peers that lead to them.
        let peers = std::mem::replace(&mut self.entries, ports);
        let (peers, rules): (Vec<Entry>, Vec<Entry>) = peers
            .into_iter()
            .partition(|entry| matches!(entry.place, Place::Peer(_)));
        self.entries.extend(rules);
        self.entries.extend(peers);

        self.tell_apart(&mut changed);
        let states = self.states(&changed);
        let dead_port_sets = self.dead_port_sets(&uses);
        let mut sweep: Vec<Place> = swept_rules
            .iter()
            .map(|(set, at)| Place::Rule(*set, *at))
            .collect();
        for id in &dead_port_sets {
            let whole = self.image.port_sets.get(id).map(|map| map.prefixes());
            let entries = whole.or_else(|| self.image.broken_port_sets.get(id).cloned());
            let entries = entries.unwrap_or_default().into_iter();
            sweep.extend(entries.map(|(prefix, verdict)| Place::Port(*id, prefix, verdict)));
        }
        let mut needs = Sizes::default();
        for entry in self.entries.iter().filter(|e| e.prepared && !e.there) {
            *needs.of(entry.place) += 1;
        }
        Plan {
            phase: Phase::Revision,
            failed: false,
            since: 0,
            versioned: self.entries.iter().any(|entry| entry.versioned),
            entries: self.entries,
            states,
            sweep,
            new_port_sets: self.new_port_sets,
            dead_port_sets,
            swept_rules,
            needs,
        }
    }

    /// Adds the sets that tell the old class of some address from its new one.
    fn tell_apart(&self, changed: &mut BTreeSet<RuleSetId>) {
        let candidates: BTreeSet<RuleSetId> = if self.image.restored {
            self.compiler.rule_sets().collect()
        } else {
            self.compiler.dirty().touched.clone()
        };
        for set in candidates {
            if changed.contains(&set) {
                continue;
            }
            let now = |at: RuleAt| match self.rules.get(&(set, at)) {
                Some((_, new)) => *new,
                None => self.image.rules.get(&set)?.get(&at).copied(),
            };
            let differs = self.moves.iter().any(|(family, old, new)| {
                DIRECTIONS.into_iter().any(|direction| {
                    let at = |class| RuleAt {
                        direction,
                        family: *family,
                        class,
                    };
                    self.image.says(set, at(*old)) != image::look_up(at(*new), now)
                })
            });
            if differs {
                changed.insert(set);
            }
        }
    }

    fn states(
        &self,
        changed: &BTreeSet<RuleSetId>,
    ) -> Vec<(crate::EndpointId, crate::compiler::EndpointState)> {
        let all = self.compiler.endpoints();
        all.filter_map(|id| {
            let state = self.compiler.state(id)?;
            let same = self.image.states.get(&id) == Some(&state);
            (!same || changed.contains(&state.set)).then_some((id, state))
        })
        .collect()
    }

    /// Port sets that no rule names any more.
    fn dead_port_sets(&self, uses: &HashMap<u32, i64>) -> BTreeSet<u32> {
        let left = |id: &u32| {
            let now = self.image.port_set_uses.get(id).copied().unwrap_or(0);
            i64::from(now) + uses.get(id).copied().unwrap_or(0)
        };
        let image = &self.image;
        let known = |id: &&u32| {
            image.port_sets.contains_key(*id) || image.broken_port_sets.contains_key(*id)
        };
        let all: BTreeSet<u32> = if image.restored || !image.broken_port_sets.is_empty() {
            let broken = image.broken_port_sets.keys();
            image.port_sets.keys().chain(broken).copied().collect()
        } else {
            uses.keys().filter(known).copied().collect()
        };
        all.into_iter().filter(|id| left(id) <= 0).collect()
    }
}

/// Everything that the plan prepared is in the kernel: from here on the image is what the plan leads to.
pub(super) fn commit(plan: &Plan, image: &mut Image) {
    for (id, map) in &plan.new_port_sets {
        image.port_sets.insert(*id, Arc::clone(map));
        image.port_set_of.insert(Arc::clone(map), *id);
    }
    for entry in &plan.entries {
        match entry.place {
            Place::Peer(at) => image.put_peer(at, entry.stays.then_some(entry.new)),
            Place::Rule(set, at) => {
                let says = entry.stays.then_some(entry.new);
                put_rule(image, set, at, says);
            }
            Place::Port(..) => {}
        }
    }
    for (set, at) in &plan.swept_rules {
        put_rule(image, *set, *at, None);
    }
    for id in &plan.dead_port_sets {
        if let Some(map) = image.port_sets.remove(id) {
            image.port_set_of.remove(&map);
        }
        image.broken_port_sets.remove(id);
        image.port_set_uses.remove(id);
        image.resting_port_sets.insert(*id);
    }
    image.restored = false;
    image.unsettled.clear();
    image.unsettled_rules.clear();
}

fn put_rule(image: &mut Image, set: RuleSetId, at: RuleAt, says: Option<u32>) {
    let rules = image.rules.entry(set).or_default();
    let before = match says {
        Some(says) => rules.insert(at, says),
        None => rules.remove(&at),
    };
    if rules.is_empty() {
        image.rules.remove(&set);
    }
    if let Some(before) = before
        && let Some(uses) = image.port_set_uses.get_mut(&before)
    {
        *uses = uses.saturating_sub(1);
    }
    if let Some(says) = says {
        *image.port_set_uses.entry(says).or_default() += 1;
    }
}
