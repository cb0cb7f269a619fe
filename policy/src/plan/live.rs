//! What the kernel holds now, with the kernel's own numbers.

use std::collections::{BTreeMap, BTreeSet};

use verdict::PolicyState;

use super::Write;
use crate::{
    documents::Directions,
    portmap::{PortMap, Verdict},
    prefix::{Family, Prefix},
    select::EndpointId,
    tables::{DIRECTIONS, Direction},
};

/// Number of a class; 0 = everybody else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u32);

/// Number of a policy set; 0 = the set without rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub u16);

/// Number of a port set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSetId(pub u32);

/// Key of a rule within a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// Direction.
    pub direction: Direction,
    /// Family of the peer.
    pub family: Family,
    /// Class of the peer.
    pub class: ClassId,
}

/// Value of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleValue {
    /// One verdict for every protocol and port; `Default` hides the entry of class 0.
    Whole(Verdict),
    /// As the port set says, and the policy state's default where it says nothing.
    Ports(PortSetId),
}

/// The part of the policy state that policy decides: set and flags. Mode, pending, suspension, logging and the revision are
/// the executor's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointState {
    /// The set.
    pub set: SetId,
    /// Directions that some policy isolates.
    pub isolated: Directions<bool>,
    /// Directions for which the set has rules.
    pub rules: Directions<bool>,
}

impl EndpointState {
    /// The flags that this decides; all others stay as they are.
    pub const FLAGS: u64 = PolicyState::ISOLATED_INGRESS
        | PolicyState::ISOLATED_EGRESS
        | PolicyState::RULES_INGRESS
        | PolicyState::RULES_EGRESS;

    /// As flags of a [`PolicyState`].
    pub fn flags(&self) -> u64 {
        let flag = |set: bool, flag: u64| if set { flag } else { 0 };
        flag(self.isolated.ingress, PolicyState::ISOLATED_INGRESS)
            | flag(self.isolated.egress, PolicyState::ISOLATED_EGRESS)
            | flag(self.rules.ingress, PolicyState::RULES_INGRESS)
            | flag(self.rules.egress, PolicyState::RULES_EGRESS)
    }

    /// Out of a [`PolicyState`].
    pub fn of(policy_state: PolicyState) -> Self {
        let mut out = Self {
            set: SetId(policy_state.set()),
            ..Self::default()
        };
        for direction in DIRECTIONS {
            *out.isolated.get_mut(direction) = policy_state.isolated(direction);
            *out.rules.get_mut(direction) = policy_state.has_rules(direction);
        }
        out
    }
}

/// The rules of one set.
pub(super) type Rules = BTreeMap<RuleKey, RuleValue>;

/// The maps' contents, kept beside the maps: [`Live::apply`] after each write that succeeded, and only then. It is built
/// again from a dump by applying a write for each entry found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    pub(super) peers: BTreeMap<Prefix, ClassId>,
    pub(super) sets: BTreeMap<SetId, Rules>,
    /// `None`: written or deleted in part, to be swept and never to be used.
    pub(super) port_sets: BTreeMap<PortSetId, Option<PortMap>>,
    pub(super) policy_states: BTreeMap<EndpointId, EndpointState>,
    pub(super) resting: Resting,
    /// An endpoint left its set since the last grace period: packets may still be judged by it.
    pub(super) flipped: bool,
}

/// Numbers that programs may still be using although no table names them any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resting {
    pub(super) classes: BTreeSet<ClassId>,
    pub(super) sets: BTreeSet<SetId>,
    pub(super) port_sets: BTreeSet<PortSetId>,
}

impl Live {
    /// Takes notice of a write that was made.
    pub fn apply(&mut self, write: &Write) {
        match write {
            Write::PutPortSet { id, map } => {
                self.port_sets.insert(*id, Some(map.clone()));
            }
            Write::DeletePortSet { id, .. } => {
                self.port_sets.remove(id);
                self.resting.port_sets.insert(*id);
            }
            Write::PutRule { set, key, value } => {
                self.sets.entry(*set).or_default().insert(*key, *value);
            }
            Write::DeleteRule { set, key } => {
                if let Some(rules) = self.sets.get_mut(set) {
                    rules.remove(key);
                    if rules.is_empty() {
                        self.sets.remove(set);
                        self.resting.sets.insert(*set);
                    }
                }
                self.resting.classes.insert(key.class);
            }
            Write::PutPeer { prefix, class } => {
                if let Some(before) = self.peers.insert(*prefix, *class) {
                    self.resting.classes.insert(before);
                }
            }
            Write::DeletePeer { prefix } => {
                if let Some(before) = self.peers.remove(prefix) {
                    self.resting.classes.insert(before);
                }
            }
            Write::PutPolicyState {
                endpoint,
                policy_state,
                ..
            } => {
                if let Some(before) = self.policy_states.insert(*endpoint, *policy_state) {
                    self.resting.sets.insert(before.set);
                    self.flipped |= before.set != policy_state.set && before.set != SetId(0);
                }
            }
        }
    }

    /// Takes notice of a port set that was put or deleted only in part, because a write failed: it is never used and goes
    /// with the next plan.
    pub fn spoil(&mut self, id: PortSetId) {
        self.port_sets.insert(id, None);
    }

    /// A grace period is over: no program still uses what it read before. Numbers at rest may be used again.
    pub fn grace(&mut self) {
        self.resting = Resting::default();
        self.flipped = false;
    }

    /// The endpoint's endpoint index is free or another's: its policy state is no longer there.
    pub fn forget(&mut self, endpoint: EndpointId) {
        if let Some(policy_state) = self.policy_states.remove(&endpoint) {
            self.resting.sets.insert(policy_state.set);
        }
    }

    /// The policy state of an endpoint, if policy has written it.
    pub fn policy_state(&self, endpoint: EndpointId) -> Option<EndpointState> {
        self.policy_states.get(&endpoint).copied()
    }

    /// The endpoints whose policy state policy has written.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointId> + '_ {
        self.policy_states.keys().copied()
    }

    /// What the kernel's tables say by this picture: for tests, and for tools that show a live node.
    pub fn look_up(
        &self,
        endpoint: EndpointId,
        direction: Direction,
        peer: std::net::IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<Verdict> {
        let policy_state = self.policy_states.get(&endpoint)?;
        if !policy_state.rules.get(direction) {
            return Some(Verdict::Default);
        }
        let exact = Prefix::exact(peer);
        let class = (0..=exact.len())
            .rev()
            .find_map(|len| self.peers.get(&exact.resized(len)));
        let class = class.copied().unwrap_or_default();
        let rules = self.sets.get(&policy_state.set);
        let entry = |class| {
            let key = RuleKey {
                direction,
                family: exact.family(),
                class,
            };
            rules.and_then(|rules| rules.get(&key)).copied()
        };
        Some(match entry(class).or_else(|| entry(ClassId(0))) {
            None => Verdict::Default,
            Some(RuleValue::Whole(verdict)) => verdict,
            Some(RuleValue::Ports(id)) => match self.port_sets.get(&id) {
                Some(Some(map)) => map.get(protocol, port),
                _ => Verdict::Default,
            },
        })
    }

    /// Numbers of entries: exact peers, prefix peers, rules, port sets.
    pub fn sizes(&self) -> [usize; 4] {
        let exact = self.peers.keys().filter(|prefix| prefix.is_exact()).count();
        [
            exact,
            self.peers.len() - exact,
            self.sets.values().map(BTreeMap::len).sum(),
            self.port_sets.len(),
        ]
    }
}
