//! What a rule set says of a class.

use std::sync::Arc;

use super::{Compiler, GroupId, RuleAt, RuleSet, RuleSetId};
use crate::{
    compile::fold,
    portmap::{PortMap, Verdict},
    prefix::Family,
    tables::{DIRECTIONS, Direction},
};

impl Compiler {
    pub(super) fn groups_of<'a>(
        &'a self,
        set: &'a RuleSet,
        direction: Direction,
    ) -> impl Iterator<Item = GroupId> + 'a {
        let policies = set.profile.iter().filter_map(|no| self.policies.get(*no));
        policies.flat_map(move |policy| policy.groups[direction as usize].iter().copied())
    }

    /// The rule that is to stand at a place; `None` = none, what is more general says the same.
    pub(crate) fn rule(&mut self, id: RuleSetId, at: RuleAt) -> Option<Arc<PortMap>> {
        let set = self.sets.get(*self.set_numbers.get(&id)?)?;
        let mut own: Vec<GroupId> = self.groups_of(set, at.direction).collect();
        own.sort_unstable();
        let isolated = *self.isolated(set).get(at.direction);
        self.rule_of(&own, isolated, at)
    }

    fn rule_of(&mut self, own: &[GroupId], isolated: bool, at: RuleAt) -> Option<Arc<PortMap>> {
        let (of, more_general) = if at.class == 0 {
            (
                self.says(own, isolated, at.family, &[]),
                Arc::new(PortMap::uniform(Verdict::Default)),
            )
        } else {
            let class = self.classes.get(at.family, at.class)?;
            let groups = class.groups.clone();
            let base: Box<[GroupId]> = self.classes.base_groups(at.family, class.base).into();
            let of = self.says(own, isolated, at.family, &groups);
            (of, self.says(own, isolated, at.family, &base))
        };
        (of != more_general).then_some(of)
    }

    /// All rules of a set.
    pub(crate) fn rules(&mut self, id: RuleSetId) -> Vec<(RuleAt, Arc<PortMap>)> {
        let Some(set) = self.set_numbers.get(&id).and_then(|no| self.sets.get(*no)) else {
            return Vec::new();
        };
        let isolated = self.isolated(set);
        let own = DIRECTIONS.map(|direction| {
            let mut own: Vec<GroupId> = self.groups_of(set, direction).collect();
            own.sort_unstable();
            own
        });
        let mut out = Vec::new();
        for direction in DIRECTIONS {
            let own = &own[direction as usize];
            let mut places: Vec<(Family, u32)> = Family::ALL.map(|f| (f, 0)).to_vec();
            let groups = own.iter().filter_map(|id| self.groups.get(*id));
            places.extend(groups.flat_map(|group| group.classes.iter().copied()));
            places.sort_unstable();
            places.dedup();
            for (family, class) in places {
                let at = RuleAt {
                    direction,
                    family,
                    class,
                };
                if let Some(map) = self.rule_of(own, *isolated.get(direction), at) {
                    out.push((at, map));
                }
            }
        }
        out
    }

    /// What these groups say of addresses of a class, which differs from the whole family in `toggled`.
    fn says(
        &mut self,
        own: &[GroupId],
        isolated: bool,
        family: Family,
        toggled: &[GroupId],
    ) -> Arc<PortMap> {
        let held: Vec<GroupId> = own
            .iter()
            .copied()
            .filter(|id| {
                let group = self.groups.get(*id);
                let everywhere = group.is_some_and(|g| g.is_everywhere(family));
                everywhere != toggled.binary_search(id).is_ok()
            })
            .collect();
        let key = (isolated, held);
        if let Some(map) = self.folded.get(&key) {
            return Arc::clone(map);
        }
        let listed = key.1.iter().filter_map(|id| self.groups.get(*id));
        let map = fold::port_map(listed.map(|g| &g.rules).collect(), isolated);
        let map = Arc::new(map);
        self.folded.insert(key, Arc::clone(&map));
        map
    }
}
