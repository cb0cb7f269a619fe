//! Local endpoints and policies to [`Tables`].
//!
//! 1. `selection`: which policies select which endpoint; endpoints with equal lists share a *profile*. Policies that
//!    select no local endpoint do not count at all.
//! 2. `groups`: rules of a policy and direction with equal ports, action and place in the order are one *group* with
//!    many blocks; beyond this nothing looks at rules.
//! 3. `classes`: one walk over all blocks in the order of the prefix tree gives each address its *class*: the list of
//!    groups that hold it, kept as the difference to that of the family's everything-block.
//! 4. `fold`: for each profile, direction, family and class that the profile can tell from class 0, the groups folded
//!    into one port map.

mod classes;
pub(crate) mod fold;
pub(crate) mod groups;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use crate::{
    documents::Directions,
    prefix::Family,
    select::{Endpoint, Facts, selection},
    sets::{Policies, Policy},
    tables::{
        ClassIndex, DIRECTIONS, EndpointPolicy, PortMapIndex, RuleKey, Set, SetIndex, Tables,
    },
};
use classes::Classes;
use groups::{GroupId, Groups};

/// Compiles the node's policies for its endpoints. Equal inputs give equal tables.
pub fn compile(endpoints: &[Endpoint], policies: &Policies, facts: &Facts) -> Tables {
    let selected = selection(endpoints, policies, facts);
    let mut active = vec![false; policies.len()];
    for number in selected.iter().flatten() {
        active[*number as usize] = true;
    }
    let listed: Vec<&Policy> = policies.values().map(AsRef::as_ref).collect();
    let groups = Groups::of(&listed, &active);
    let classes = Classes::of(&groups);

    let mut out = Compilation {
        groups: &groups,
        classes: &classes,
        maps: Interned::default(),
        folded: HashMap::new(),
    };
    let mut sets: Interned<Set> = Interned::default();
    let mut profiles: HashMap<&[u32], EndpointPolicy> = HashMap::new();
    let mut compiled = BTreeMap::new();
    for (endpoint, profile) in endpoints.iter().zip(&selected) {
        let policy = *profiles.entry(profile).or_insert_with(|| {
            let isolated = isolated(profile.iter().map(|number| listed[*number as usize]));
            EndpointPolicy {
                isolated,
                set: SetIndex(sets.number(out.set(profile, isolated))),
            }
        });
        compiled.insert(endpoint.id, policy);
    }
    Tables {
        endpoints: compiled,
        sets: sets.values,
        port_maps: out.maps.values,
        classes: classes.count(),
        peers: classes.peers,
    }
}

fn isolated<'a>(policies: impl Iterator<Item = &'a Policy>) -> Directions<bool> {
    policies.fold(Directions::default(), |all, policy| {
        let own = policy.isolates();
        Directions {
            ingress: all.ingress || own.ingress,
            egress: all.egress || own.egress,
        }
    })
}

/// Values that are numbered in the order of their first appearance, each once.
struct Interned<T> {
    values: Vec<T>,
    numbers: HashMap<T, u32>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            numbers: HashMap::new(),
        }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Interned<T> {
    fn number(&mut self, value: T) -> u32 {
        if let Some(number) = self.numbers.get(&value) {
            return *number;
        }
        let number = self.values.len() as u32;
        self.values.push(value.clone());
        self.numbers.insert(value, number);
        number
    }
}

struct Compilation<'a> {
    groups: &'a Groups<'a>,
    classes: &'a Classes,
    maps: Interned<crate::PortMap>,
    /// Port maps by isolation and groups.
    folded: HashMap<(bool, Vec<GroupId>), PortMapIndex>,
}

impl Compilation<'_> {
    /// The rules of a profile.
    fn set(&mut self, profile: &[u32], isolated: Directions<bool>) -> Set {
        let mut rules = BTreeMap::new();
        for direction in DIRECTIONS {
            let own: Vec<GroupId> = profile
                .iter()
                .flat_map(|policy| self.groups.of_policy(*policy, direction))
                .collect();
            for family in Family::ALL {
                self.rules(
                    RuleKey {
                        direction,
                        family,
                        class: ClassIndex::REST,
                    },
                    &own,
                    *isolated.get(direction),
                    &mut rules,
                );
            }
        }
        Set { rules }
    }

    /// The rules of one direction and family.
    fn rules(
        &mut self,
        rest: RuleKey,
        own: &[GroupId],
        isolated: bool,
        rules: &mut BTreeMap<RuleKey, PortMapIndex>,
    ) {
        let everywhere: Vec<GroupId> = own
            .iter()
            .copied()
            .filter(|group| self.classes.is_everywhere(rest.family, *group))
            .collect();
        let nothing = self.fold(isolated, Vec::new());
        let for_rest = self.fold(isolated, everywhere.clone());
        if for_rest != nothing {
            rules.insert(rest, for_rest);
        }
        // Which of our groups each class adds to those of class 0, or takes away.
        let mut toggles: Vec<(ClassIndex, GroupId)> = own
            .iter()
            .flat_map(|group| {
                self.classes
                    .toggled(rest.family, *group)
                    .iter()
                    .map(|class| (*class, *group))
            })
            .collect();
        toggles.sort_unstable();
        for toggled in toggles.chunk_by(|a, b| a.0 == b.0) {
            let groups = symmetric_difference(&everywhere, toggled.iter().map(|(_, group)| *group));
            let map = self.fold(isolated, groups);
            if map != for_rest {
                rules.insert(
                    RuleKey {
                        class: toggled[0].0,
                        ..rest
                    },
                    map,
                );
            }
        }
    }

    fn fold(&mut self, isolated: bool, groups: Vec<GroupId>) -> PortMapIndex {
        let key = (isolated, groups);
        if let Some(map) = self.folded.get(&key) {
            return *map;
        }
        let listed = key.1.iter().map(|id| &self.groups.groups[*id as usize]);
        let map = fold::port_map(listed.collect(), isolated);
        let number = PortMapIndex(self.maps.number(map));
        self.folded.insert(key, number);
        number
    }
}

/// Of two sorted lists, what is in exactly one.
pub(crate) fn symmetric_difference(
    a: &[GroupId],
    b: impl Iterator<Item = GroupId>,
) -> Vec<GroupId> {
    let mut out = Vec::with_capacity(a.len() + 1);
    let mut a = a.iter().copied().peekable();
    for group in b {
        while let Some(before) = a.next_if(|x| *x < group) {
            out.push(before);
        }
        if a.next_if_eq(&group).is_none() {
            out.push(group);
        }
    }
    out.extend(a);
    out
}
