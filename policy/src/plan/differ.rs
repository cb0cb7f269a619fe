//! Works a plan out; the module above says how and why.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    Plan, Write,
    live::{ClassId, Live, PortSetId, RuleKey, RuleValue, SetId, Word},
    regions::{NewClass, Regions},
};
use crate::{
    portmap::{PortMap, Verdict},
    prefix::Family,
    tables::{ClassIndex, DIRECTIONS, Direction, PortMapIndex, Set, SetIndex, Tables},
};

/// Number of a rule's meaning, by contents: two rules mean the same if these are equal.
type Meaning = u32;

/// A pair of an old and a new class.
type Pair = (Family, ClassId, ClassIndex);

pub(super) struct Differ<'a> {
    live: &'a Live,
    tables: &'a Tables,
    regions: Regions,
    /// Meaning of each port map of the tables, and of each port set in the kernel.
    of_map: Vec<Meaning>,
    of_port_set: BTreeMap<PortSetId, Meaning>,
    of_verdict: [Meaning; 3],
    /// Port sets in the kernel, by meaning.
    port_set_of: HashMap<Meaning, PortSetId>,
    /// Sets that some word names.
    used: BTreeSet<SetId>,
}

impl<'a> Differ<'a> {
    pub(super) fn new(live: &'a Live, tables: &'a Tables) -> Self {
        let mut meanings: HashMap<&PortMap, Meaning> = HashMap::new();
        let whole = [Verdict::Default, Verdict::Allow, Verdict::Deny].map(PortMap::uniform);
        let mut count = 0;
        let mut next = || {
            count += 1;
            count - 1
        };
        let of_verdict = [next(), next(), next()];
        let whole_meaning = |map: &PortMap| {
            whole
                .iter()
                .position(|w| w == map)
                .map(|place| of_verdict[place])
        };
        let mut of_map = Vec::with_capacity(tables.port_maps.len());
        for map in &tables.port_maps {
            let meaning = whole_meaning(map)
                .unwrap_or_else(|| *meanings.entry(map).or_insert_with(&mut next));
            of_map.push(meaning);
        }
        let mut of_port_set = BTreeMap::new();
        let mut port_set_of = HashMap::new();
        for (id, map) in &live.port_sets {
            // What was written in part means nothing that anything else means.
            let meaning = match map {
                None => next(),
                Some(map) => {
                    let meaning = whole_meaning(map)
                        .unwrap_or_else(|| *meanings.entry(map).or_insert_with(&mut next));
                    port_set_of.entry(meaning).or_insert(*id);
                    meaning
                }
            };
            of_port_set.insert(*id, meaning);
        }
        Self {
            live,
            tables,
            regions: Regions::of(live, tables),
            of_map,
            of_port_set,
            of_verdict,
            port_set_of,
            used: live
                .words
                .values()
                .map(|word| word.set)
                .filter(|set| *set != SetId(0))
                .collect(),
        }
    }

    pub(super) fn plan(mut self) -> Plan {
        let Some(sets) = self.sets() else {
            // No number is free: sweep what can be swept and come again.
            let held = self
                .used
                .iter()
                .map(|set| (*set, self.rules_of(*set).cloned().unwrap_or_default()))
                .collect();
            return Plan {
                sweep: self.sweep(&held, &BTreeMap::new(), &[]),
                ..Plan::default()
            };
        };
        let routes = self.routes();
        let canonical = self.canonical(&routes);

        let mut plan = Plan::default();
        let mut values: HashMap<PortMapIndex, RuleValue> = HashMap::new();
        let mut kept: BTreeMap<SetId, BTreeMap<RuleKey, RuleValue>> = BTreeMap::new();
        let mut written: BTreeMap<SetId, BTreeMap<RuleKey, RuleValue>> = BTreeMap::new();
        let mut new_port_sets = Vec::new();

        // New sets: every class that stands for one of the tables', now and until the plan is done.
        for (index, set) in self.tables.sets.iter().enumerate() {
            let Some(target) = sets.of(SetIndex(index as u32)) else {
                continue;
            };
            let fresh = !self.used.contains(&target);
            for (key, map) in &set.rules {
                // A class that no address has needs no rules.
                let Some(&final_class) = canonical.get(&(key.family, key.class)) else {
                    continue;
                };
                let mut ids: BTreeSet<ClassId> = BTreeSet::from([final_class]);
                // What stands for everybody else needs no entry of its own.
                if fresh && key.class != ClassIndex::REST {
                    ids.extend(self.regions.residents(key.family, key.class));
                    ids.extend(routes.standing_for(key.family, key.class));
                }
                for class in ids {
                    let rule = RuleKey {
                        direction: key.direction,
                        family: key.family,
                        class,
                    };
                    let value = match self
                        .rules_of(target)
                        .filter(|_| !fresh)
                        .and_then(|r| r.get(&rule))
                    {
                        Some(value) => *value,
                        None => *values
                            .entry(*map)
                            .or_insert_with(|| value_of(&self, *map, &mut new_port_sets)),
                    };
                    if fresh {
                        written.entry(target).or_default().insert(rule, value);
                    }
                    if class == final_class {
                        kept.entry(target).or_default().insert(rule, value);
                    }
                }
            }
        }
        // Old sets, and those that stay: a class made for a pair has what its old class has.
        for (&(family, old, _), &class) in &routes.made {
            if old == ClassId(0) {
                continue;
            }
            for &set in &self.used {
                for direction in DIRECTIONS {
                    let value = self.rules_of(set).and_then(|r| {
                        r.get(&RuleKey {
                            direction,
                            family,
                            class: old,
                        })
                    });
                    if let Some(value) = value {
                        let key = RuleKey {
                            direction,
                            family,
                            class,
                        };
                        written.entry(set).or_default().insert(key, *value);
                        if let Some(kept) = kept.get_mut(&set).and_then(|rules| rules.get_mut(&key))
                        {
                            *kept = *value;
                        }
                    }
                }
            }
        }
        plan.prepare
            .extend(new_port_sets.iter().map(|(id, map)| Write::PutPortSet {
                id: *id,
                map: map.clone(),
            }));
        for (set, rules) in &written {
            let before = self.rules_of(*set);
            let news = rules
                .iter()
                .filter(|(key, value)| before.and_then(|r| r.get(key)) != Some(value));
            plan.prepare.extend(news.map(|(key, value)| Write::PutRule {
                set: *set,
                key: *key,
                value: *value,
            }));
        }
        self.peers(&routes, &canonical, &mut plan);
        self.words(&sets, &mut plan);

        // Sets of endpoints that the tables do not know stay as they are.
        let known = &self.tables.endpoints;
        for word in self
            .live
            .words
            .iter()
            .filter(|(id, _)| !known.contains_key(id))
            .map(|(_, word)| word)
        {
            if word.set != SetId(0) && !kept.contains_key(&word.set) {
                kept.insert(
                    word.set,
                    self.rules_of(word.set).cloned().unwrap_or_default(),
                );
            }
        }
        plan.sweep = self.sweep(&kept, &written, &new_port_sets);
        plan
    }

    fn rules_of(&self, set: SetId) -> Option<&'a BTreeMap<RuleKey, RuleValue>> {
        self.live.sets.get(&set)
    }

    fn meaning(&self, value: RuleValue) -> Meaning {
        match value {
            RuleValue::Whole(verdict) => self.of_verdict[verdict as usize],
            // A port set that is not there says nothing anywhere.
            RuleValue::Ports(id) => self
                .of_port_set
                .get(&id)
                .copied()
                .unwrap_or(self.of_verdict[0]),
        }
    }

    /// What a set in the kernel means for a class.
    fn old_meaning(
        &self,
        set: SetId,
        direction: Direction,
        family: Family,
        class: ClassId,
    ) -> Meaning {
        let rules = self.rules_of(set);
        let entry = |class| {
            rules.and_then(|rules| {
                rules.get(&RuleKey {
                    direction,
                    family,
                    class,
                })
            })
        };
        entry(class)
            .or_else(|| entry(ClassId(0)))
            .map_or(self.of_verdict[0], |value| self.meaning(*value))
    }

    /// What a set of the tables means for a class.
    fn new_meaning(
        &self,
        set: &Set,
        direction: Direction,
        family: Family,
        class: ClassIndex,
    ) -> Meaning {
        set.rule(direction, family, class)
            .map_or(self.of_verdict[0], |map| self.of_map[map.0 as usize])
    }

    /// Whether a set in the kernel, with the peers as they are, means for every address what a set of the tables means
    /// with the peers as they are to be. Only classes that either names can differ, once everybody else is equal.
    fn equal(&self, old: SetId, new: &Set) -> bool {
        let rest = (ClassId(0), ClassIndex::REST);
        let same = |direction, family, (was, is): (ClassId, ClassIndex)| {
            self.old_meaning(old, direction, family, was)
                == self.new_meaning(new, direction, family, is)
        };
        DIRECTIONS.iter().all(|direction| {
            Family::ALL
                .iter()
                .all(|family| same(*direction, *family, rest))
        }) && self.rules_of(old).into_iter().flatten().all(|(key, _)| {
            let partners = self.regions.partners_of_old.get(&(key.family, key.class));
            key.class == ClassId(0)
                || partners
                    .into_iter()
                    .flatten()
                    .all(|is| same(key.direction, key.family, (key.class, *is)))
        }) && new.rules.keys().all(|key| {
            let partners = self.regions.partners_of_new.get(&(key.family, key.class));
            key.class == ClassIndex::REST
                || partners
                    .into_iter()
                    .flatten()
                    .all(|was| same(key.direction, key.family, (*was, key.class)))
        })
    }

    /// A number for each set of the tables: that of an equal set in the kernel, or a new one. `None`: no number is free.
    fn sets(&self) -> Option<Sets> {
        let mut out = Sets::default();
        let mut users: BTreeMap<(SetIndex, SetId), u32> = BTreeMap::new();
        for (endpoint, policy) in &self.tables.endpoints {
            if let Some(word) = self.live.words.get(endpoint) {
                *users.entry((policy.set, word.set)).or_default() += 1;
            }
        }
        let mut best: BTreeMap<SetIndex, (u32, SetId)> = BTreeMap::new();
        for (&(new, old), &count) in &users {
            if !self.equal(old, &self.tables.sets[new.0 as usize]) {
                continue;
            }
            out.equal.insert((old, new));
            if old != SetId(0) && best.get(&new).is_none_or(|(most, _)| count > *most) {
                best.insert(new, (count, old));
            }
        }
        let mut taken: BTreeSet<SetId> = &self.used | &self.live.resting.sets;
        taken.extend(self.live.sets.keys());
        let mut free = (1..=u16::MAX).map(SetId).filter(|id| !taken.contains(id));
        let mut stays = HashSet::new();
        for (place, set) in self.tables.sets.iter().enumerate() {
            let index = SetIndex(place as u32);
            let number = match best.get(&index) {
                _ if set.rules.is_empty() => SetId(0),
                Some((_, old)) if stays.insert(*old) => *old,
                _ => free.next()?,
            };
            out.numbers.push(number);
        }
        Some(out)
    }

    /// Where the addresses of each pair are until everybody has flipped.
    fn routes(&mut self) -> Routes {
        let mut routes = Routes::default();
        let mut naming: HashMap<(Family, ClassId), Vec<SetId>> = HashMap::new();
        for set in &self.used {
            for key in self
                .rules_of(*set)
                .into_iter()
                .flatten()
                .map(|(key, _)| key)
            {
                naming
                    .entry((key.family, key.class))
                    .or_default()
                    .push(*set);
            }
        }
        let mut taken: BTreeSet<ClassId> = self.live.peers.values().copied().collect();
        taken.extend(&self.live.resting.classes);
        taken.extend(
            self.live
                .sets
                .values()
                .flat_map(|rules| rules.keys().map(|key| key.class)),
        );
        taken.insert(ClassId(0));
        let mut free = (1..).map(ClassId).filter(|id| !taken.contains(id));
        for &(family, old, new) in self.regions.pairs.keys() {
            if self.regions.is_home(family, old, new) {
                continue;
            }
            let resident = match new {
                ClassIndex::REST => Some(ClassId(0)),
                _ => self.regions.resident.get(&(family, new)).copied(),
            };
            let direct = resident.filter(|resident| {
                let sets = [old, *resident]
                    .into_iter()
                    .filter_map(|class| naming.get(&(family, class)))
                    .flatten();
                sets.copied().all(|set| {
                    DIRECTIONS.into_iter().all(|direction| {
                        self.old_meaning(set, direction, family, old)
                            == self.old_meaning(set, direction, family, *resident)
                    })
                })
            });
            match direct {
                Some(resident) => {
                    routes.direct.insert((family, old, new), resident);
                }
                None => {
                    // 2^32 classes are more than addresses that fit into memory.
                    let Some(class) = free.next() else { continue };
                    routes.made.insert((family, old, new), class);
                    routes
                        .standing
                        .entry((family, new))
                        .or_default()
                        .push(class);
                }
            }
        }
        routes
    }

    /// The class in which each class of the tables ends: the largest that is at home there, or the largest that was made.
    fn canonical(&self, routes: &Routes) -> HashMap<NewClass, ClassId> {
        let mut out: HashMap<NewClass, ClassId> = self.regions.resident.clone();
        for family in Family::ALL {
            out.insert((family, ClassIndex::REST), ClassId(0));
        }
        let mut largest: HashMap<NewClass, u32> = HashMap::new();
        for (pair, class) in &routes.made {
            let new = (pair.0, pair.2);
            let count = self.regions.pairs.get(pair).copied().unwrap_or(0) + 1;
            if pair.2 != ClassIndex::REST
                && !self.regions.resident.contains_key(&new)
                && count > largest.get(&new).copied().unwrap_or(0)
            {
                largest.insert(new, count);
                out.insert(new, *class);
            }
        }
        out
    }

    fn peers(&self, routes: &Routes, canonical: &HashMap<NewClass, ClassId>, plan: &mut Plan) {
        let (mut puts, mut deletes, mut moves) = (Vec::new(), Vec::new(), Vec::new());
        for region in &self.regions.all {
            let family = region.prefix.family();
            let pair = (family, region.old, region.new);
            let class = canonical.get(&(family, region.new)).copied();
            if region.hollow {
                // It says nothing to anybody before the smaller blocks are deleted.
                match (region.in_new, class) {
                    (true, Some(class)) if !region.in_old || class != region.old => {
                        moves.push(Write::PutPeer {
                            prefix: region.prefix,
                            class,
                        });
                    }
                    (false, _) => deletes.push(region.prefix),
                    _ => {}
                }
                continue;
            }
            let meanwhile = if self.regions.is_home(family, region.old, region.new) {
                region.old
            } else {
                routes.of(&pair).unwrap_or(region.old)
            };
            if !region.in_old || meanwhile != region.old {
                puts.push(Write::PutPeer {
                    prefix: region.prefix,
                    class: meanwhile,
                });
            }
            if !region.in_new {
                deletes.push(region.prefix);
                continue;
            }
            if let Some(class) = class.filter(|class| *class != meanwhile) {
                moves.push(Write::PutPeer {
                    prefix: region.prefix,
                    class,
                });
            }
        }
        let length = |write: &Write| match write {
            Write::PutPeer { prefix, .. } => std::cmp::Reverse(prefix.len()),
            _ => std::cmp::Reverse(0),
        };
        puts.sort_by_key(length);
        moves.sort_by_key(length);
        deletes.sort_by_key(|prefix| prefix.len());
        plan.prepare.extend(puts);
        plan.settle.extend(moves);
        plan.settle.extend(
            deletes
                .into_iter()
                .map(|prefix| Write::DeletePeer { prefix }),
        );
    }

    fn words(&self, sets: &Sets, plan: &mut Plan) {
        for (endpoint, policy) in &self.tables.endpoints {
            let set = &self.tables.sets[policy.set.0 as usize];
            let mut word = Word {
                set: sets.numbers[policy.set.0 as usize],
                isolated: policy.isolated,
                ..Word::default()
            };
            for direction in DIRECTIONS {
                *word.rules.get_mut(direction) = set.has_rules(direction);
            }
            let before = self.live.words.get(endpoint);
            if before == Some(&word) {
                continue;
            }
            let same = before.is_some_and(|b| {
                b.isolated == word.isolated && sets.equal.contains(&(b.set, policy.set))
            });
            plan.words.push(Write::PutWord {
                endpoint: *endpoint,
                word,
                new_epoch: !same,
            });
        }
    }

    /// Deletes all rules but `kept`, of those there are and those `written`, and the port sets that no kept rule names.
    fn sweep(
        &self,
        kept: &BTreeMap<SetId, BTreeMap<RuleKey, RuleValue>>,
        written: &BTreeMap<SetId, BTreeMap<RuleKey, RuleValue>>,
        new_port_sets: &[(PortSetId, PortMap)],
    ) -> Vec<Write> {
        let mut out = Vec::new();
        let sets: BTreeSet<SetId> = self
            .live
            .sets
            .keys()
            .chain(written.keys())
            .copied()
            .collect();
        for set in sets {
            let there = [self.rules_of(set), written.get(&set)]
                .into_iter()
                .flatten()
                .flat_map(BTreeMap::keys);
            let keys: BTreeSet<RuleKey> = there.copied().collect();
            let wanted = kept.get(&set);
            let gone = keys
                .into_iter()
                .filter(|key| wanted.is_none_or(|rules| !rules.contains_key(key)));
            out.extend(gone.map(|key| Write::DeleteRule { set, key }));
        }
        let named: HashSet<PortSetId> = kept
            .values()
            .flat_map(BTreeMap::values)
            .filter_map(|value| match value {
                RuleValue::Ports(id) => Some(*id),
                RuleValue::Whole(_) => None,
            })
            .collect();
        let old = self
            .live
            .port_sets
            .iter()
            .map(|(id, map)| (*id, map.clone()));
        let new = new_port_sets
            .iter()
            .map(|(id, map)| (*id, Some(map.clone())));
        let gone = old.chain(new).filter(|(id, _)| !named.contains(id));
        out.extend(gone.map(|(id, map)| Write::DeletePortSet { id, map }));
        out
    }
}

/// The value for a port map of the tables; a port set that is not there yet is noted in `new`.
fn value_of(
    differ: &Differ<'_>,
    index: PortMapIndex,
    new: &mut Vec<(PortSetId, PortMap)>,
) -> RuleValue {
    let map = &differ.tables.port_maps[index.0 as usize];
    if let Some(verdict) = map.as_uniform() {
        return RuleValue::Whole(verdict);
    }
    if let Some(id) = differ.port_set_of.get(&differ.of_map[index.0 as usize]) {
        return RuleValue::Ports(*id);
    }
    let taken = |id: &PortSetId| {
        differ.live.port_sets.contains_key(id) || differ.live.resting.port_sets.contains(id)
    };
    let first = new.last().map_or(0, |(id, _)| id.0);
    let id = (first + 1..verdict::layout::PORT_SET_LIMIT)
        .map(PortSetId)
        .find(|id| !taken(id));
    match id {
        Some(id) => {
            new.push((id, map.clone()));
            RuleValue::Ports(id)
        }
        // 2^31 port sets are more than rules that fit into memory; deny is what stays right.
        None => RuleValue::Whole(Verdict::Deny),
    }
}

/// Numbers of the tables' sets.
#[derive(Default)]
struct Sets {
    numbers: Vec<SetId>,
    /// Sets in the kernel that mean what a set of the tables means.
    equal: HashSet<(SetId, SetIndex)>,
}

impl Sets {
    /// The number, unless it is that of the set without rules.
    fn of(&self, index: SetIndex) -> Option<SetId> {
        self.numbers
            .get(index.0 as usize)
            .copied()
            .filter(|set| *set != SetId(0))
    }
}

/// Classes for addresses that are not at home.
#[derive(Default)]
struct Routes {
    /// Made for the pair.
    made: BTreeMap<Pair, ClassId>,
    /// The same by new class.
    standing: HashMap<NewClass, Vec<ClassId>>,
    /// No set in use tells the pair's old class from this one, which is the new one's.
    direct: HashMap<Pair, ClassId>,
}

impl Routes {
    fn of(&self, pair: &Pair) -> Option<ClassId> {
        self.made
            .get(pair)
            .or_else(|| self.direct.get(pair))
            .copied()
    }

    /// The classes made for addresses of a new class.
    fn standing_for(&self, family: Family, new: ClassIndex) -> impl Iterator<Item = ClassId> + '_ {
        self.standing
            .get(&(family, new))
            .into_iter()
            .flatten()
            .copied()
    }
}
