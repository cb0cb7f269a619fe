//! Works a plan out; the module above says how and why.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    Plan, Write,
    live::{ClassId, EndpointState, Live, PortSetId, RuleKey, RuleValue, Rules, SetId},
    meanings::Meanings,
    numbers::{Routes, Sets},
    regions::Regions,
};
use crate::{
    portmap::{PortMap, Verdict},
    tables::{self, ClassIndex, DIRECTIONS, PortMapIndex, SetIndex, Tables},
};

/// Rules by set.
type BySet = BTreeMap<SetId, Rules>;

/// Everything that is known before the first write.
struct Differ<'a> {
    live: &'a Live,
    tables: &'a Tables,
    regions: Regions,
    meanings: Meanings<'a>,
    /// Sets that some policy state names.
    used: BTreeSet<SetId>,
    sets: Sets,
    routes: Routes,
}

pub(super) fn plan(live: &Live, tables: &Tables) -> Plan {
    let regions = Regions::of(live, tables);
    let meanings = Meanings::of(live, tables);
    let used: BTreeSet<SetId> = live
        .policy_states
        .values()
        .map(|policy_state| policy_state.set)
        .filter(|set| *set != SetId(0))
        .collect();
    let Some(sets) = Sets::of(live, tables, &regions, &meanings, &used) else {
        // No number is free: sweep what can be swept and come again.
        let held = live
            .sets
            .iter()
            .filter(|(set, _)| used.contains(set))
            .map(|(set, rules)| (*set, rules.clone()));
        return Plan {
            sweep: sweep(live, &held.collect(), &BySet::new(), &[]),
            ..Plan::default()
        };
    };
    let routes = Routes::of(live, &regions, &meanings, &used);
    Differ {
        live,
        tables,
        regions,
        meanings,
        used,
        sets,
        routes,
    }
    .plan()
}

impl Differ<'_> {
    fn plan(&self) -> Plan {
        let mut rules = Written::default();
        self.new_rules(&mut rules);
        self.rules_of_made_classes(&mut rules);
        let mut plan = Plan {
            waits: self.live.flipped,
            ..Plan::default()
        };
        let port_sets = rules.port_sets.iter().map(|(id, map)| Write::PutPortSet {
            id: *id,
            map: map.clone(),
        });
        plan.prepare.extend(port_sets);
        for (set, written) in &rules.written {
            let there = self.live.sets.get(set);
            let news = written
                .iter()
                .filter(|(key, value)| there.and_then(|r| r.get(key)) != Some(value));
            plan.prepare.extend(news.map(|(key, value)| Write::PutRule {
                set: *set,
                key: *key,
                value: *value,
            }));
        }
        self.peers(&mut plan);
        self.policy_states(&mut plan);
        // Sets of endpoints that the tables do not know stay as they are.
        let strangers = self
            .live
            .policy_states
            .iter()
            .filter(|(id, _)| !self.tables.endpoints.contains_key(id));
        for (_, policy_state) in strangers {
            if let Some(own) = self.live.sets.get(&policy_state.set) {
                rules
                    .kept
                    .entry(policy_state.set)
                    .or_insert_with(|| own.clone());
            }
        }
        plan.sweep = sweep(self.live, &rules.kept, &rules.written, &rules.port_sets);
        plan
    }

    /// Sets of the tables: in a new set, every class that stands for one of the tables', now and until the plan is done;
    /// in one that stays, only what stays in the end.
    fn new_rules(&self, out: &mut Written) {
        for (index, set) in (0u32..).map(SetIndex).zip(&self.tables.sets) {
            let target = self.sets.number(index);
            let stays = self
                .sets
                .stays(target)
                .and_then(|_| self.live.sets.get(&target));
            for (key, map) in &set.rules {
                // A class that no address has needs no rules.
                let Some(last) = self.routes.canonical(key.family, key.class) else {
                    continue;
                };
                let rule = |class| RuleKey {
                    direction: key.direction,
                    family: key.family,
                    class,
                };
                if let Some(rules) = stays {
                    // Where it is not there, the class is one that was made, and gets its rule from the one it was made of.
                    if let Some(value) = rules.get(&rule(last)) {
                        out.kept
                            .entry(target)
                            .or_default()
                            .insert(rule(last), *value);
                    }
                    continue;
                }
                let value = self.value(*map, out);
                out.kept
                    .entry(target)
                    .or_default()
                    .insert(rule(last), value);
                let written = out.written.entry(target).or_default();
                written.insert(rule(last), value);
                // What stands for everybody else needs no entry of its own.
                if key.class != ClassIndex::REST {
                    let at_home = self.regions.at_home(key.family, key.class);
                    let made = self.routes.standing_for(key.family, key.class);
                    written.extend(at_home.chain(made).map(|class| (rule(class), value)));
                }
            }
        }
    }

    /// Old sets, and those that stay: a class made for a pair has what its old class has.
    fn rules_of_made_classes(&self, out: &mut Written) {
        for (&(family, old, new), &class) in &self.routes.made {
            // Everybody else's entry holds for it without one of its own.
            if old == ClassId(0) {
                continue;
            }
            let lasts = self.routes.canonical(family, new) == Some(class);
            for &set in &self.used {
                let Some(rules) = self.live.sets.get(&set) else {
                    continue;
                };
                for direction in DIRECTIONS {
                    let Some(value) = rules.get(&RuleKey {
                        direction,
                        family,
                        class: old,
                    }) else {
                        continue;
                    };
                    let key = RuleKey {
                        direction,
                        family,
                        class,
                    };
                    out.written.entry(set).or_default().insert(key, *value);
                    let wanted = || {
                        let index = self.sets.stays(set)?;
                        let key = tables::RuleKey {
                            direction,
                            family,
                            class: new,
                        };
                        self.tables.sets[index.0 as usize].rules.get(&key)
                    };
                    if lasts && wanted().is_some() {
                        out.kept.entry(set).or_default().insert(key, *value);
                    }
                }
            }
        }
    }

    /// The value for a port map of the tables; a port set that is not there yet is noted.
    fn value(&self, index: PortMapIndex, out: &mut Written) -> RuleValue {
        if let Some(value) = out.values.get(&index) {
            return *value;
        }
        let map = &self.tables.port_maps[index.0 as usize];
        let value = match (map.as_uniform(), self.meanings.port_set(index)) {
            (Some(verdict), _) => RuleValue::Whole(verdict),
            (None, Some(id)) => RuleValue::Ports(id),
            (None, None) => {
                let first = out.port_sets.last().map_or(0, |(id, _)| id.0) + 1;
                let taken = |id: &PortSetId| {
                    self.live.port_sets.contains_key(id) || self.live.resting.port_sets.contains(id)
                };
                match (first..verdict::layout::PORT_SET_LIMIT)
                    .map(PortSetId)
                    .find(|id| !taken(id))
                {
                    Some(id) => {
                        out.port_sets.push((id, map.clone()));
                        RuleValue::Ports(id)
                    }
                    // 2^31 port sets are more than rules that fit into memory; deny is what stays right.
                    None => RuleValue::Whole(Verdict::Deny),
                }
            }
        };
        out.values.insert(index, value);
        value
    }

    fn peers(&self, plan: &mut Plan) {
        let (mut puts, mut deletes, mut moves) = (Vec::new(), Vec::new(), Vec::new());
        for region in &self.regions.all {
            let family = region.prefix.family();
            let pair = (family, region.old, region.new);
            let class = self.routes.canonical(family, region.new);
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
                self.routes.meanwhile(&pair).unwrap_or(region.old)
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

    fn policy_states(&self, plan: &mut Plan) {
        for (endpoint, policy) in &self.tables.endpoints {
            let set = &self.tables.sets[policy.set.0 as usize];
            let mut policy_state = EndpointState {
                set: self.sets.number(policy.set),
                isolated: policy.isolated,
                ..EndpointState::default()
            };
            for direction in DIRECTIONS {
                *policy_state.rules.get_mut(direction) = set.has_rules(direction);
            }
            let before = self.live.policy_states.get(endpoint);
            if before == Some(&policy_state) {
                continue;
            }
            let same = before.is_some_and(|b| {
                b.isolated == policy_state.isolated && self.sets.are_equal(b.set, policy.set)
            });
            plan.policy_states.push(Write::PutPolicyState {
                endpoint: *endpoint,
                policy_state,
                new_revision: !same,
            });
        }
    }
}

/// Rules as they are worked out.
#[derive(Default)]
struct Written {
    /// To be put before anybody flips.
    written: BySet,
    /// To be there when all is done.
    kept: BySet,
    /// Port sets to be put, in the order of their numbers.
    port_sets: Vec<(PortSetId, PortMap)>,
    values: HashMap<PortMapIndex, RuleValue>,
}

/// Deletes all rules but `kept`, of those there are and those `written`, and the port sets that no kept rule names.
fn sweep(
    live: &Live,
    kept: &BySet,
    written: &BySet,
    new_port_sets: &[(PortSetId, PortMap)],
) -> Vec<Write> {
    let mut out = Vec::new();
    let sets: BTreeSet<SetId> = live.sets.keys().chain(written.keys()).copied().collect();
    for set in sets {
        let there = [live.sets.get(&set), written.get(&set)]
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
    let old = live.port_sets.iter().map(|(id, map)| (*id, map.clone()));
    let new = new_port_sets
        .iter()
        .map(|(id, map)| (*id, Some(map.clone())));
    let gone = old.chain(new).filter(|(id, _)| !named.contains(id));
    out.extend(gone.map(|(id, map)| Write::DeletePortSet { id, map }));
    out
}
