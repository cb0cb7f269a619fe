//! Which of the kernel's numbers stands for what: sets that stay or are made, classes that addresses have meanwhile and
//! in the end.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    live::{ClassId, Live, SetId},
    meanings::Meanings,
    regions::{NewClass, Regions},
};
use crate::{
    prefix::Family,
    tables::{ClassIndex, DIRECTIONS, Set, SetIndex, Tables},
};

/// A pair of an old and a new class.
type Pair = (Family, ClassId, ClassIndex);

/// Numbers of the tables' sets.
#[derive(Default)]
pub(super) struct Sets {
    numbers: Vec<SetId>,
    /// Sets in the kernel that mean what a set of the tables means.
    equal: HashSet<(SetId, SetIndex)>,
    /// Sets in the kernel that go on as one of the tables'.
    stays: BTreeMap<SetId, SetIndex>,
}

impl Sets {
    /// A number for each set: that of an equal set in the kernel, or a new one. `None`: no number is free.
    pub(super) fn of(
        live: &Live,
        tables: &Tables,
        regions: &Regions,
        meanings: &Meanings<'_>,
        used: &BTreeSet<SetId>,
    ) -> Option<Self> {
        let mut out = Self::default();
        let mut users: BTreeMap<(SetIndex, SetId), u32> = BTreeMap::new();
        for (endpoint, policy) in &tables.endpoints {
            if let Some(policy_state) = live.policy_states.get(endpoint) {
                *users.entry((policy.set, policy_state.set)).or_default() += 1;
            }
        }
        let mut best: BTreeMap<SetIndex, (u32, SetId)> = BTreeMap::new();
        for (&(new, old), &count) in &users {
            if !equal(live, regions, meanings, old, &tables.sets[new.0 as usize]) {
                continue;
            }
            out.equal.insert((old, new));
            if old != SetId(0) && best.get(&new).is_none_or(|(most, _)| count > *most) {
                best.insert(new, (count, old));
            }
        }
        let mut taken: BTreeSet<SetId> = used | &live.resting.sets;
        taken.extend(live.sets.keys());
        let mut free = (1..=u16::MAX).map(SetId).filter(|id| !taken.contains(id));
        for (index, set) in (0u32..).map(SetIndex).zip(&tables.sets) {
            let number = match best.get(&index) {
                _ if set.rules.is_empty() => SetId(0),
                Some((_, old)) if !out.stays.contains_key(old) => {
                    out.stays.insert(*old, index);
                    *old
                }
                _ => free.next()?,
            };
            out.numbers.push(number);
        }
        Some(out)
    }

    /// The number of a set; 0 for the one without rules.
    pub(super) fn number(&self, index: SetIndex) -> SetId {
        self.numbers[index.0 as usize]
    }

    /// The set of the tables as which a set in the kernel goes on.
    pub(super) fn stays(&self, set: SetId) -> Option<SetIndex> {
        self.stays.get(&set).copied()
    }

    /// Whether a set in the kernel means what a set of the tables means.
    pub(super) fn are_equal(&self, old: SetId, new: SetIndex) -> bool {
        self.equal.contains(&(old, new))
    }
}

/// Whether a set in the kernel, with the peers as they are, means for every address what a set of the tables means with
/// the peers as they are to be. Only classes that either names can differ, once everybody else is equal.
fn equal(live: &Live, regions: &Regions, meanings: &Meanings<'_>, old: SetId, new: &Set) -> bool {
    let same = |direction, family, was: ClassId, is: ClassIndex| {
        meanings.in_kernel(old, direction, family, was)
            == meanings.in_tables(new, direction, family, is)
    };
    let rest = |direction| {
        Family::ALL
            .into_iter()
            .all(|family| same(direction, family, ClassId(0), ClassIndex::REST))
    };
    DIRECTIONS.into_iter().all(rest)
        && live
            .sets
            .get(&old)
            .into_iter()
            .flatten()
            .filter(|(key, _)| key.class != ClassId(0))
            .all(|(key, _)| {
                let mut partners = regions.partners_of_old(key.family, key.class);
                partners.all(|is| same(key.direction, key.family, key.class, is))
            })
        && new
            .rules
            .keys()
            .filter(|key| key.class != ClassIndex::REST)
            .all(|key| {
                let mut partners = regions.partners_of_new(key.family, key.class);
                partners.all(|was| same(key.direction, key.family, was, key.class))
            })
}

/// Classes for addresses that are not at home, and the classes in which all end.
#[derive(Default)]
pub(super) struct Routes {
    /// Made for the pair.
    pub(super) made: BTreeMap<Pair, ClassId>,
    /// The same by new class.
    standing: HashMap<NewClass, Vec<ClassId>>,
    /// No set in use tells the pair's old class from this one, which is the new one's.
    direct: HashMap<Pair, ClassId>,
    canonical: HashMap<NewClass, ClassId>,
}

impl Routes {
    pub(super) fn of(
        live: &Live,
        regions: &Regions,
        meanings: &Meanings<'_>,
        used: &BTreeSet<SetId>,
    ) -> Self {
        let mut naming: HashMap<(Family, ClassId), Vec<SetId>> = HashMap::new();
        for (set, rules) in live.sets.iter().filter(|(set, _)| used.contains(set)) {
            for key in rules.keys() {
                naming
                    .entry((key.family, key.class))
                    .or_default()
                    .push(*set);
            }
        }
        // Whether no set in use tells two classes apart; one that names neither cannot.
        let alike = |family, one, other| {
            let sets = [one, other]
                .into_iter()
                .filter_map(|class| naming.get(&(family, class)))
                .flatten();
            sets.copied().all(|set| {
                DIRECTIONS.into_iter().all(|direction| {
                    meanings.in_kernel(set, direction, family, one)
                        == meanings.in_kernel(set, direction, family, other)
                })
            })
        };
        let mut taken: BTreeSet<ClassId> = live.peers.values().copied().collect();
        taken.extend(&live.resting.classes);
        taken.extend(
            live.sets
                .values()
                .flat_map(|rules| rules.keys().map(|key| key.class)),
        );
        let mut free = (1..).map(ClassId).filter(|id| !taken.contains(id));

        let mut out = Self {
            canonical: regions.residents.clone(),
            ..Self::default()
        };
        let mut largest: HashMap<NewClass, u32> = HashMap::new();
        for (&(family, old, new), &count) in &regions.pairs {
            if regions.is_home(family, old, new) {
                continue;
            }
            let resident = regions.residents.get(&(family, new)).copied();
            if let Some(resident) = resident.filter(|resident| alike(family, old, *resident)) {
                out.direct.insert((family, old, new), resident);
                continue;
            }
            // 2^32 classes are more than addresses that fit into memory.
            let Some(class) = free.next() else { continue };
            out.made.insert((family, old, new), class);
            out.standing.entry((family, new)).or_default().push(class);
            if resident.is_none() && largest.get(&(family, new)).is_none_or(|most| count > *most) {
                largest.insert((family, new), count);
                out.canonical.insert((family, new), class);
            }
        }
        out
    }

    /// Where the addresses of a pair that is not at home are until everybody has flipped.
    pub(super) fn meanwhile(&self, pair: &Pair) -> Option<ClassId> {
        self.made
            .get(pair)
            .or_else(|| self.direct.get(pair))
            .copied()
    }

    /// The classes made for addresses of a new class.
    pub(super) fn standing_for(
        &self,
        family: Family,
        new: ClassIndex,
    ) -> impl Iterator<Item = ClassId> + '_ {
        self.standing
            .get(&(family, new))
            .into_iter()
            .flatten()
            .copied()
    }

    /// The class in which a class of the tables ends: the largest that is at home there, or the largest that was made.
    /// None for a class that no address has.
    pub(super) fn canonical(&self, family: Family, new: ClassIndex) -> Option<ClassId> {
        self.canonical.get(&(family, new)).copied()
    }
}
