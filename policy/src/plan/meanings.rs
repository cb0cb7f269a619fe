//! What rules mean, by contents: numbers that are equal where verdicts are, across the kernel's numbers and the tables'.

use std::collections::{BTreeMap, HashMap};

use super::live::{ClassId, Live, PortSetId, RuleKey, RuleValue, SetId};
use crate::{
    portmap::{PortMap, Verdict},
    prefix::Family,
    tables::{ClassIndex, Direction, PortMapIndex, Set, Tables},
};

/// Number of a meaning; 0 to 2 are those of one verdict everywhere.
pub(super) type Meaning = u32;

/// Meanings of everything in the kernel and in the tables.
pub(super) struct Meanings<'a> {
    live: &'a Live,
    of_map: Vec<Meaning>,
    of_port_set: BTreeMap<PortSetId, Meaning>,
    port_set_of: HashMap<Meaning, PortSetId>,
}

const DEFAULT: Meaning = Verdict::Default as Meaning;

/// Numbers port maps by their contents.
#[derive(Default)]
struct Numbers<'a> {
    known: HashMap<&'a PortMap, Meaning>,
    count: Meaning,
}

impl<'a> Numbers<'a> {
    fn of(&mut self, map: &'a PortMap) -> Meaning {
        if let Some(verdict) = map.as_uniform() {
            return verdict as Meaning;
        }
        if let Some(meaning) = self.known.get(map) {
            return *meaning;
        }
        let meaning = self.other();
        self.known.insert(map, meaning);
        meaning
    }

    /// A meaning that nothing else has.
    const fn other(&mut self) -> Meaning {
        self.count += 1;
        Verdict::Deny as Meaning + self.count
    }
}

impl<'a> Meanings<'a> {
    pub(super) fn of(live: &'a Live, tables: &'a Tables) -> Self {
        let mut numbers = Numbers::default();
        let of_map = tables.port_maps.iter().map(|map| numbers.of(map)).collect();
        let (mut of_port_set, mut port_set_of) = (BTreeMap::new(), HashMap::new());
        for (id, map) in &live.port_sets {
            // What was written in part means nothing that anything else means.
            let meaning = match map {
                Some(map) => numbers.of(map),
                None => numbers.other(),
            };
            of_port_set.insert(*id, meaning);
            port_set_of.entry(meaning).or_insert(*id);
        }
        Self {
            live,
            of_map,
            of_port_set,
            port_set_of,
        }
    }

    /// A port set in the kernel that means what a port map of the tables means.
    pub(super) fn port_set(&self, map: PortMapIndex) -> Option<PortSetId> {
        self.port_set_of.get(&self.of_map[map.0 as usize]).copied()
    }

    /// What a set in the kernel means for a class.
    pub(super) fn in_kernel(
        &self,
        set: SetId,
        direction: Direction,
        family: Family,
        class: ClassId,
    ) -> Meaning {
        let rules = self.live.sets.get(&set);
        let entry = |class| {
            rules.and_then(|rules| {
                rules.get(&RuleKey {
                    direction,
                    family,
                    class,
                })
            })
        };
        match entry(class).or_else(|| entry(ClassId(0))) {
            None => DEFAULT,
            Some(RuleValue::Whole(verdict)) => *verdict as Meaning,
            // A port set that is not there says nothing anywhere.
            Some(RuleValue::Ports(id)) => self.of_port_set.get(id).copied().unwrap_or(DEFAULT),
        }
    }

    /// What a set of the tables means for a class.
    pub(super) fn in_tables(
        &self,
        set: &Set,
        direction: Direction,
        family: Family,
        class: ClassIndex,
    ) -> Meaning {
        set.rule(direction, family, class)
            .map_or(DEFAULT, |map| self.of_map[map.0 as usize])
    }
}
