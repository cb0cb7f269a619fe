//! The node's policy, kept compiled: told what changed, it says which entries of the tables may differ now.
//!
//! [`mod@crate::compile`] does the same for a whole node at once and remembers nothing; tests hold both to each other.
//!
//! - An endpoint has a *profile*: the policies that select it, in the versions that hold for it. Endpoints with equal
//!   profiles share a *rule set*.
//! - A policy's rules with equal effect are a *group*. A new version of a policy keeps the groups of the old one where it
//!   can, so that a peer that came or went concerns one address, and other ports concern rules and no address.
//! - `tree` knows which groups hold an address, `classes` numbers the lists of groups.

mod classes;
mod policies;
mod rules;
mod slab;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use self::classes::{Classes, Event};
use self::policies::{Group, PolicyEntry};
use self::slab::Slab;
use self::tree::Tree;
use crate::{
    documents::Directions,
    portmap::PortMap,
    prefix::{Family, Prefix},
    select::EndpointId,
    sets::Policy,
    tables::{DIRECTIONS, Direction},
};

/// Number of a group.
type GroupId = u32;
/// Number of a policy in one version, or in several one after the other.
type PolicyNo = u32;

/// Number of a rule set in the kernel; 0 = without rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleSetId(pub u16);

/// Place of a rule within its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleAt {
    /// Direction.
    pub direction: Direction,
    /// Family of the peer.
    pub family: Family,
    /// Number of the peer class or of a base; 0 = everybody else.
    pub class: u32,
}

/// What policy decides of one endpoint's policy state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointState {
    /// The rule set.
    pub set: RuleSetId,
    /// Directions that some policy isolates.
    pub isolated: Directions<bool>,
    /// Directions for which the set may have rules.
    pub rules: Directions<bool>,
}

impl EndpointState {
    /// Nothing passes, in either direction.
    pub const CLOSED: Self = Self {
        set: RuleSetId(0),
        isolated: Directions {
            ingress: true,
            egress: true,
        },
        rules: Directions {
            ingress: false,
            egress: false,
        },
    };
}

/// Rules that endpoints with one profile share.
#[derive(Clone, Debug)]
struct RuleSet {
    id: RuleSetId,
    profile: Vec<PolicyNo>,
    endpoints: u32,
}

/// Numbers that the kernel uses already, to go on with where contents are the same: after a restart.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Class of a block.
    pub peers: HashMap<Prefix, u32>,
    /// Rule set of an endpoint.
    pub sets: HashMap<EndpointId, RuleSetId>,
}

/// Entries that may differ from what they were when changes were taken last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dirty {
    pub(crate) prefixes: BTreeSet<Prefix>,
    /// Sets whose rules may all differ.
    pub(crate) sets: BTreeSet<RuleSetId>,
    /// Single rules.
    pub(crate) rules: BTreeSet<(RuleSetId, RuleAt)>,
    /// Sets that may tell the old and new class of a prefix apart.
    pub(crate) touched: BTreeSet<RuleSetId>,
    /// Classes and bases without a user before.
    pub(crate) born: BTreeSet<(Family, u32)>,
    /// Sets that were not there before.
    pub(crate) born_sets: BTreeSet<RuleSetId>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Compiler {
    policies: Slab<PolicyEntry>,
    by_version: HashMap<usize, PolicyNo>,
    groups: Slab<Group>,
    tree: Tree,
    classes: Classes,
    sets: Slab<RuleSet>,
    by_profile: HashMap<Vec<PolicyNo>, u32>,
    set_numbers: HashMap<RuleSetId, u32>,
    last_set: u16,
    retired_sets: BTreeSet<RuleSetId>,
    endpoints: BTreeMap<EndpointId, u32>,
    closed: BTreeSet<EndpointId>,
    folded: HashMap<(bool, Vec<GroupId>), Arc<PortMap>>,
    dirty: Dirty,
    hints: Hints,
    /// Where blocks began or ended since classes were worked out.
    changed_at: BTreeSet<Prefix>,
    /// Groups that are gone, once classes are worked out.
    dead_groups: Vec<GroupId>,
}

impl Compiler {
    /// Begins with the numbers of an earlier run.
    pub fn with_hints(hints: Hints) -> Self {
        Self {
            hints,
            ..Self::default()
        }
    }

    /// The policies, in these versions, that hold for an endpoint.
    pub fn assign(&mut self, endpoint: EndpointId, profile: &[Arc<Policy>]) {
        let mut numbers: Vec<PolicyNo> = profile.iter().map(|p| self.policy(p)).collect();
        numbers.sort_unstable();
        let set = match self.by_profile.get(&numbers) {
            Some(set) => *set,
            None => self.make_set(numbers, endpoint),
        };
        self.closed.remove(&endpoint);
        let before = self.endpoints.insert(endpoint, set);
        if let Some(set) = self.sets.get_mut(set) {
            set.endpoints += 1;
        }
        if let Some(before) = before {
            self.leave_set(before);
        }
    }

    /// Nothing passes, in either direction: for an endpoint whose policy cannot be put in force.
    pub fn close(&mut self, endpoint: EndpointId) {
        self.assign(endpoint, &[]);
        self.closed.insert(endpoint);
    }

    /// The endpoint is gone.
    pub fn remove(&mut self, endpoint: EndpointId) {
        self.closed.remove(&endpoint);
        if let Some(before) = self.endpoints.remove(&endpoint) {
            self.leave_set(before);
        }
    }

    /// The endpoints that there are.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointId> + '_ {
        self.endpoints.keys().copied()
    }

    /// What is to be in force for an endpoint.
    pub fn state(&self, endpoint: EndpointId) -> Option<EndpointState> {
        let set = self.sets.get(*self.endpoints.get(&endpoint)?)?;
        if self.closed.contains(&endpoint) {
            return Some(EndpointState::CLOSED);
        }
        let mut rules = Directions::default();
        for direction in DIRECTIONS {
            *rules.get_mut(direction) =
                set.id != RuleSetId(0) && self.groups_of(set, direction).next().is_some();
        }
        Some(EndpointState {
            set: set.id,
            isolated: self.isolated(set),
            rules,
        })
    }

    fn isolated(&self, set: &RuleSet) -> Directions<bool> {
        let policies = set.profile.iter().filter_map(|no| self.policies.get(*no));
        policies.fold(Directions::default(), |all, policy| Directions {
            ingress: all.ingress || policy.isolates.ingress,
            egress: all.egress || policy.isolates.egress,
        })
    }

    fn make_set(&mut self, profile: Vec<PolicyNo>, endpoint: EndpointId) -> u32 {
        let has_rules = profile
            .iter()
            .filter_map(|no| self.policies.get(*no))
            .any(|policy| policy.groups.iter().any(|groups| !groups.is_empty()));
        let id = if has_rules {
            self.free_set(endpoint)
        } else {
            RuleSetId(0)
        };
        let number = self.sets.insert(RuleSet {
            id,
            profile: profile.clone(),
            endpoints: 0,
        });
        for policy in &profile {
            if let Some(policy) = self.policies.get_mut(*policy) {
                policy.sets.insert(number);
            }
        }
        if id != RuleSetId(0) {
            self.set_numbers.insert(id, number);
            self.dirty.sets.insert(id);
            self.dirty.born_sets.insert(id);
        }
        self.by_profile.insert(profile, number);
        number
    }

    fn free_set(&mut self, endpoint: EndpointId) -> RuleSetId {
        let taken = |id: &RuleSetId, this: &Self| {
            *id == RuleSetId(0)
                || this.set_numbers.contains_key(id)
                || this.retired_sets.contains(id)
        };
        if let Some(id) = self.hints.sets.get(&endpoint).copied()
            && !taken(&id, self)
        {
            return id;
        }
        // There are fewer endpoints than numbers: one is free, unless they all rest; then the set without rules denies
        // what would be allowed until the next change.
        for _ in 0..=u16::MAX {
            self.last_set = self.last_set.wrapping_add(1);
            let id = RuleSetId(self.last_set);
            if !taken(&id, self) {
                return id;
            }
        }
        RuleSetId(0)
    }

    fn leave_set(&mut self, number: u32) {
        let Some(set) = self.sets.get_mut(number) else {
            return;
        };
        set.endpoints -= 1;
        if set.endpoints > 0 {
            return;
        }
        let Some(set) = self.sets.remove(number) else {
            return;
        };
        self.by_profile.remove(&set.profile);
        if set.id != RuleSetId(0) {
            self.set_numbers.remove(&set.id);
            self.retired_sets.insert(set.id);
            self.dirty.sets.insert(set.id);
        }
        for policy in set.profile {
            self.leave_policy(policy, number);
        }
    }

    /// What may differ since [`Compiler::committed`].
    pub(crate) const fn dirty(&self) -> &Dirty {
        &self.dirty
    }

    /// What differed is in force.
    pub(crate) fn committed(&mut self) {
        self.dirty = Dirty::default();
        self.hints = Hints::default();
    }

    /// No program uses what is in no table any more: numbers may be used again.
    pub(crate) fn release(&mut self) {
        self.retired_sets.clear();
        self.classes.release();
    }

    /// The class of a block that is to stand in the tables: only where it differs from that of what surrounds it.
    pub(crate) fn peer(&self, at: Prefix) -> Option<u32> {
        let class = self.tree.nodes.get(&at)?.class;
        (at.len() > 0 && class != self.tree.class_around(at)).then_some(class)
    }

    /// The class of a block by longest match.
    pub(crate) fn class_of(&self, at: Prefix) -> u32 {
        self.tree.class_of(at)
    }

    /// Every block that is to stand in the tables.
    pub fn peers(&self) -> impl Iterator<Item = (Prefix, u32)> + '_ {
        let blocks = self.tree.nodes.keys();
        blocks.filter_map(|at| Some((*at, self.peer(*at)?)))
    }

    /// The rule sets with rules.
    pub fn rule_sets(&self) -> impl Iterator<Item = RuleSetId> + '_ {
        self.set_numbers.keys().copied()
    }

    /// Whether some address has the class, or some class the base.
    pub(crate) fn is_class_alive(&self, family: Family, number: u32) -> bool {
        number == 0 || self.classes.get(family, number).is_some()
    }

    /// Changes the blocks of groups; their classes follow in [`Compiler::settle`].
    fn change_blocks(&mut self, changes: &policies::Blocks) {
        for edge in &changes.removed {
            self.tree.remove(*edge);
            self.changed_at.insert(edge.at);
        }
        for edge in &changes.added {
            self.tree.add(*edge);
            self.changed_at.insert(edge.at);
        }
        // A block of the whole family is known to its group; what lies below asks it.
        for group in &changes.groups {
            self.refresh_everywhere(*group);
        }
    }

    /// Works out the classes of what changed.
    pub(crate) fn settle(&mut self) {
        let mut events = Vec::new();
        let mut done: Option<Prefix> = None;
        for root in std::mem::take(&mut self.changed_at) {
            if done.is_some_and(|done| done.covers(&root)) {
                continue;
            }
            if root.len() == 0 {
                // Only groups that have excepts below are concerned, and each except is a root of its own.
                self.prune(root, &mut events);
                continue;
            }
            done = Some(root);
            let below: Vec<Prefix> = self.tree.below(root).collect();
            self.dirty.prefixes.insert(root);
            for at in below {
                self.classify(at, &mut events);
            }
        }
        self.classes_changed(events);
        for group in std::mem::take(&mut self.dead_groups) {
            self.groups.remove(group);
        }
    }

    fn prune(&mut self, at: Prefix, events: &mut Vec<Event>) -> bool {
        match self.tree.prune(at) {
            Some(class) => {
                self.classes.give_back(at.family(), class, events);
                true
            }
            None => false,
        }
    }

    /// Works out the class of a node anew.
    fn classify(&mut self, at: Prefix, events: &mut Vec<Event>) {
        self.dirty.prefixes.insert(at);
        let family = at.family();
        let before = self.tree.nodes.get(&at).map_or(0, |node| node.class);
        let groups = &self.groups;
        let whole = |id: GroupId| {
            groups.get(id).map_or((false, Vec::new()), |g| {
                g.everywhere[family as usize].clone()
            })
        };
        let held = self.tree.held(at, whole);
        let toggled: Vec<GroupId> = held
            .into_iter()
            .filter(|(id, held)| {
                groups
                    .get(*id)
                    .is_some_and(|g| *held != g.is_everywhere(family))
            })
            .map(|(id, _)| id)
            .collect();
        let old: Vec<GroupId> = self
            .classes
            .get(family, before)
            .map(|class| class.groups.to_vec())
            .unwrap_or_default();
        if old != toggled {
            let differing = crate::compile::symmetric_difference(&old, toggled.iter().copied());
            self.touch(&differing);
        }
        if self.prune(at, events) {
            return;
        }
        if old == toggled {
            return;
        }
        let hint = self.hints.peers.get(&at).copied().unwrap_or(0);
        let groups = &self.groups;
        let large = |id: GroupId| groups.get(id).is_some_and(|g| g.large);
        let class = self.classes.take(family, toggled, large, hint, events);
        self.classes.give_back(family, before, events);
        if let Some(node) = self.tree.nodes.get_mut(&at) {
            node.class = class;
        }
    }

    /// The sets of these groups may tell classes apart that were one.
    fn touch(&mut self, groups: &[GroupId]) {
        for group in groups {
            let Some(policy) = self
                .groups
                .get(*group)
                .and_then(|g| self.policies.get(g.policy))
            else {
                continue;
            };
            let sets = policy.sets.iter().filter_map(|set| self.sets.get(*set));
            self.dirty.touched.extend(sets.map(|set| set.id));
        }
    }

    /// Rules of classes that came or went.
    fn classes_changed(&mut self, events: Vec<Event>) {
        for event in events {
            if event.born {
                self.dirty.born.insert((event.family, event.number));
            }
            // A class has rules in the sets of the groups by which it differs from its base.
            let small = event
                .groups
                .iter()
                .filter(|id| event.base_groups.binary_search(id).is_err());
            for id in small {
                let Some(group) = self.groups.get_mut(*id) else {
                    continue;
                };
                let place = (event.family, event.number);
                if event.born {
                    group.classes.insert(place);
                } else {
                    group.classes.remove(&place);
                }
                let (direction, policy) = (group.direction, group.policy);
                let Some(policy) = self.policies.get(policy) else {
                    continue;
                };
                for set in policy.sets.iter().filter_map(|set| self.sets.get(*set)) {
                    self.dirty.rules.insert((
                        set.id,
                        RuleAt {
                            direction,
                            family: event.family,
                            class: event.number,
                        },
                    ));
                }
            }
        }
    }
}
