//! Policies in their versions, as groups with blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::tree::{BlockId, Edge};
use super::{Compiler, GroupId, PolicyNo};
use crate::{
    compile::groups::{Group as Rules, Groups},
    documents::Directions,
    prefix::{Family, Prefix},
    sets::Policy,
    tables::{DIRECTIONS, Direction},
};

/// From so many blocks on a group is large: classes take it into their base.
const LARGE: usize = 64;
/// A large group with fewer blocks is not any more.
const NO_LONGER_LARGE: usize = 32;

/// A policy that some rule set names.
#[derive(Clone, Debug)]
pub(super) struct PolicyEntry {
    pub(super) version: Arc<Policy>,
    pub(super) isolates: Directions<bool>,
    /// Its groups, ingress and egress.
    pub(super) groups: [Vec<GroupId>; 2],
    /// The rule sets that name it.
    pub(super) sets: BTreeSet<u32>,
}

/// A group of rules.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) policy: PolicyNo,
    pub(super) direction: Direction,
    pub(super) rules: Rules,
    /// By family: whether a block without excepts is of the whole family, and those with excepts that are.
    pub(super) everywhere: [(bool, Vec<BlockId>); 2],
    pub(super) large: bool,
    /// Blocks with excepts, by contents; the same one may be there several times.
    blocks: BTreeMap<(Prefix, Vec<Prefix>), (BlockId, u32)>,
    last_block: BlockId,
    /// Number of blocks.
    size: usize,
    /// Classes, and bases, that this group makes differ from their base.
    pub(super) classes: BTreeSet<(Family, u32)>,
}

impl Group {
    pub(super) fn is_everywhere(&self, family: Family) -> bool {
        let (plain, blocks) = &self.everywhere[family as usize];
        *plain || !blocks.is_empty()
    }
}

/// Begins and ends of blocks that come and go.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    pub(super) added: Vec<Edge>,
    pub(super) removed: Vec<Edge>,
    pub(super) groups: BTreeSet<GroupId>,
}

/// One group of a version: its rules, and its blocks sorted.
struct Wanted<'a> {
    rules: &'a Rules,
    direction: Direction,
    blocks: Vec<(Prefix, &'a [Prefix])>,
}

impl Wanted<'_> {
    fn everywhere(&self) -> [bool; 2] {
        Family::ALL.map(|family| {
            let whole = Prefix::everything(family);
            self.blocks.iter().any(|(at, _)| *at == whole)
        })
    }
}

fn wanted<'a>(groups: &'a Groups<'a>) -> Vec<Wanted<'a>> {
    let mut out: Vec<Wanted<'a>> = Vec::with_capacity(groups.groups.len());
    for direction in DIRECTIONS {
        let range = groups.of_policy(0, direction);
        out.extend(range.map(|id| Wanted {
            rules: &groups.groups[id as usize],
            direction,
            blocks: Vec::new(),
        }));
    }
    for block in &groups.blocks {
        if block.except.iter().any(|hole| hole.covers(&block.cidr)) {
            continue;
        }
        out[block.group as usize]
            .blocks
            .push((block.cidr, block.except));
    }
    for one in &mut out {
        one.blocks.sort_unstable();
    }
    out
}

impl Compiler {
    /// The number of a version, which is taken up if it is new.
    pub(super) fn policy(&mut self, version: &Arc<Policy>) -> PolicyNo {
        let place = Arc::as_ptr(version) as usize;
        if let Some(number) = self.by_version.get(&place) {
            return *number;
        }
        let number = self.policies.insert(PolicyEntry {
            version: Arc::clone(version),
            isolates: version.isolates(),
            groups: [Vec::new(), Vec::new()],
            sets: BTreeSet::new(),
        });
        self.by_version.insert(place, number);
        self.put_groups(number, version);
        number
    }

    /// A new version takes the place of an old one, wherever that holds.
    pub fn replace(&mut self, old: &Arc<Policy>, new: &Arc<Policy>) {
        let (was, is) = (Arc::as_ptr(old) as usize, Arc::as_ptr(new) as usize);
        if was == is || self.by_version.contains_key(&is) {
            return;
        }
        let Some(number) = self.by_version.remove(&was) else {
            return;
        };
        self.by_version.insert(is, number);
        let Some(entry) = self.policies.get_mut(number) else {
            return;
        };
        let (had_rules, sets) = (
            entry.groups.iter().any(|groups| !groups.is_empty()),
            entry.sets.clone(),
        );
        entry.version = Arc::clone(new);
        let isolates = new.isolates();
        let isolation_changed = std::mem::replace(&mut entry.isolates, isolates) != isolates;
        self.put_groups(number, new);
        if isolation_changed {
            self.all_rules_of(number);
        }
        let has_rules = self
            .policies
            .get(number)
            .is_some_and(|entry| entry.groups.iter().any(|groups| !groups.is_empty()));
        if had_rules != has_rules {
            sets.into_iter().for_each(|set| self.renumber(set));
        }
    }

    /// Whether a version is in use.
    pub fn has(&self, version: &Arc<Policy>) -> bool {
        self.by_version
            .contains_key(&(Arc::as_ptr(version) as usize))
    }

    pub(super) fn leave_policy(&mut self, number: PolicyNo, set: u32) {
        let Some(entry) = self.policies.get_mut(number) else {
            return;
        };
        entry.sets.remove(&set);
        if !entry.sets.is_empty() {
            return;
        }
        let place = Arc::as_ptr(&entry.version) as usize;
        let groups = std::mem::take(&mut entry.groups);
        let mut blocks = Blocks::default();
        for id in groups.iter().flatten() {
            self.empty_group(*id, &mut blocks);
        }
        self.change_blocks(&blocks);
        self.dead_groups.extend(groups.iter().flatten());
        self.folded.clear();
        self.by_version.remove(&place);
        self.policies.remove(number);
    }

    /// Brings a policy's groups to what a version says.
    fn put_groups(&mut self, number: PolicyNo, version: &Arc<Policy>) {
        let listed = [version.as_ref()];
        let groups = Groups::of(&listed, &[true]);
        let mut wanted: Vec<Option<Wanted<'_>>> = wanted(&groups).into_iter().map(Some).collect();
        let old = self
            .policies
            .get(number)
            .map(|entry| entry.groups.clone())
            .unwrap_or_default();
        let mut left: Vec<GroupId> = old.iter().flatten().copied().collect();
        let mut pairs: Vec<(GroupId, usize)> = Vec::new();
        // First those with the same effect, then others of the same direction: only their rules change.
        for same_effect in [true, false] {
            left.retain(|id| {
                let Some(group) = self.groups.get(*id) else {
                    return false;
                };
                let fits = |one: &Wanted<'_>| {
                    one.direction == group.direction
                        && (!same_effect || same_rules(one.rules, &group.rules))
                        && one.everywhere() == Family::ALL.map(|family| group.is_everywhere(family))
                        && is_large(one.blocks.len(), group.large) == group.large
                };
                let place = (0..wanted.len()).find(|place| {
                    let free = !pairs.iter().any(|(_, taken)| taken == place);
                    free && wanted[*place].as_ref().is_some_and(fits)
                });
                match place {
                    Some(place) => {
                        pairs.push((*id, place));
                        false
                    }
                    None => true,
                }
            });
        }
        let mut blocks = Blocks::default();
        let mut rules_changed = !left.is_empty();
        for id in &left {
            self.empty_group(*id, &mut blocks);
        }
        let mut ids: BTreeMap<usize, GroupId> = BTreeMap::new();
        for (id, place) in pairs {
            let Some(one) = wanted[place].take() else {
                continue;
            };
            rules_changed |= self.refill_group(id, number, &one, &mut blocks);
            ids.insert(place, id);
        }
        for (place, one) in wanted.iter().enumerate() {
            let Some(one) = one else { continue };
            rules_changed = true;
            let id = self.groups.insert(Group {
                policy: number,
                direction: one.direction,
                rules: renumbered(one.rules, number),
                everywhere: Default::default(),
                large: is_large(one.blocks.len(), false),
                blocks: BTreeMap::new(),
                last_block: 0,
                size: 0,
                classes: BTreeSet::new(),
            });
            self.refill_group(id, number, one, &mut blocks);
            ids.insert(place, id);
        }
        if let Some(entry) = self.policies.get_mut(number) {
            let of = |direction| {
                let range = groups.of_policy(0, direction);
                range.filter_map(|place| ids.get(&(place as usize)).copied())
            };
            entry.groups = DIRECTIONS.map(|direction| of(direction).collect());
        }
        if rules_changed {
            self.folded.clear();
        }
        self.change_blocks(&blocks);
        self.dead_groups.extend(left);
        if rules_changed {
            self.all_rules_of(number);
        }
    }

    /// All rules of the sets that name a policy may differ.
    fn all_rules_of(&mut self, number: PolicyNo) {
        let Some(entry) = self.policies.get(number) else {
            return;
        };
        let sets = entry.sets.iter().filter_map(|set| self.sets.get(*set));
        self.dirty.sets.extend(sets.map(|set| set.id));
    }

    /// Gives a group the blocks and rules of a version; whether its rules differ.
    fn refill_group(
        &mut self,
        id: GroupId,
        number: PolicyNo,
        one: &Wanted<'_>,
        out: &mut Blocks,
    ) -> bool {
        let Some(group) = self.groups.get_mut(id) else {
            return false;
        };
        out.groups.insert(id);
        let changed = !same_rules(one.rules, &group.rules);
        if changed {
            group.rules = renumbered(one.rules, number);
        }
        let old = std::mem::take(&mut group.blocks);
        group.size = one.blocks.len();
        let mut gone = old;
        for run in one.blocks.chunk_by(|a, b| a == b) {
            let (cidr, except) = run[0];
            let key = (cidr, except.to_vec());
            let (block, had) = gone.remove(&key).unwrap_or_else(|| {
                if except.is_empty() {
                    return (0, 0);
                }
                group.last_block += 1;
                (group.last_block, 0)
            });
            let count = if except.is_empty() {
                run.len() as u32
            } else {
                1
            };
            let times = count.abs_diff(had);
            let edges = edges(id, block, cidr, except);
            for _ in 0..times {
                if count > had {
                    out.added.extend(edges.iter().copied());
                } else {
                    out.removed.extend(edges.iter().copied());
                }
            }
            group.blocks.insert(key, (block, count));
        }
        for ((cidr, except), (block, count)) in gone {
            for _ in 0..count {
                out.removed.extend(edges(id, block, cidr, &except));
            }
        }
        changed
    }

    fn empty_group(&mut self, id: GroupId, out: &mut Blocks) {
        let Some(group) = self.groups.get_mut(id) else {
            return;
        };
        out.groups.insert(id);
        for ((cidr, except), (block, count)) in std::mem::take(&mut group.blocks) {
            for _ in 0..count {
                out.removed.extend(edges(id, block, cidr, &except));
            }
        }
    }

    pub(super) fn refresh_everywhere(&mut self, id: GroupId) {
        let everywhere = Family::ALL.map(|family| self.tree.everywhere(family, id));
        if let Some(group) = self.groups.get_mut(id) {
            group.everywhere = everywhere;
        }
    }

    /// A set gets, or loses, its number because its policies have rules now, or none any more.
    fn renumber(&mut self, number: u32) {
        let Some(set) = self.sets.get(number) else {
            return;
        };
        let has_rules = set
            .profile
            .iter()
            .filter_map(|no| self.policies.get(*no))
            .any(|policy| policy.groups.iter().any(|groups| !groups.is_empty()));
        let id = set.id;
        let is = super::RuleSetId(0);
        if has_rules && id == is {
            let fresh = self.free_set(crate::select::EndpointId(0));
            if let Some(set) = self.sets.get_mut(number) {
                set.id = fresh;
            }
            if fresh != is {
                self.set_numbers.insert(fresh, number);
                self.dirty.sets.insert(fresh);
                self.dirty.born_sets.insert(fresh);
            }
        }
    }
}

/// What tells groups of one version apart, the policy's number aside.
fn same_rules(one: &Rules, other: &Rules) -> bool {
    let place = |r: &Rules| (r.rank.tier, r.rank.priority, r.rank.order, r.action);
    place(one) == place(other) && one.ports == other.ports
}

fn renumbered(rules: &Rules, policy: PolicyNo) -> Rules {
    let mut out = rules.clone();
    out.rank.policy = policy;
    out
}

const fn is_large(blocks: usize, was: bool) -> bool {
    blocks >= LARGE || (was && blocks >= NO_LONGER_LARGE)
}

fn edges(group: GroupId, block: BlockId, cidr: Prefix, except: &[Prefix]) -> Vec<Edge> {
    let edge = |at, enters| Edge {
        at,
        group,
        block,
        enters,
    };
    let begin = std::iter::once(edge(cidr, true));
    begin
        .chain(except.iter().map(|hole| edge(*hole, false)))
        .collect()
}
