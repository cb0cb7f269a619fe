//! From what the kernel holds ([`Live`]) to what it should hold ([`Tables`]), as an ordered list of single writes.
//!
//! The promise, after *each* write: every endpoint has its old verdict for every packet until its own policy state is written,
//! and its new one from then on. So a change of many documents flips as one, with one store per endpoint, and a plan
//! that stops halfway (a full map) leaves the old policy in force.
//!
//! How: the policy state names the set, the peers' tables name the class, and (set, class) gives the verdict. An address whose
//! class changes must have its old verdict under the old sets and its new one under the new sets. Each class in the
//! kernel gets a *home*: the class of the new tables in which most of its addresses are now. Addresses that are at home
//! stay where they are, and the kernel's class gets the new class's rules under the new sets. All others, and those that
//! come or go, are moved to a class made for this pair of old and new (unless no set can tell it from the canonical one).
//!
//! 1. `prepare`: port sets and rules that nobody reads yet, then peers, longest first. Nobody's verdict changes.
//! 2. `policy states`: each endpoint flips. Where the function is the same the revision stays, so that its flows are not judged again.
//! 3. `settle`: now that nobody uses the old sets, classes that mean the same become one and peers that went are deleted,
//!    shortest first. Nobody's verdict changes.
//! 4. `sweep`: rules, sets and port sets that nobody reads any more. Their numbers rest until a grace period is over.
//!
//! Between the phases lies a grace period ([`Step::Grace`]).

mod differ;
mod live;
mod meanings;
mod numbers;
mod regions;
#[cfg(test)]
mod tests;

use std::fmt;

pub use live::{ClassId, EndpointState, Live, PortSetId, RuleKey, RuleValue, SetId};

use crate::{portmap::PortMap, prefix::Prefix, select::EndpointId, tables::Tables};

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// All entries of a port set, [`PortMap::prefixes`]; nobody reads it yet. If it fails in part: [`Live::spoil`].
    PutPortSet {
        /// Number.
        id: PortSetId,
        /// Contents.
        map: PortMap,
    },
    /// A rule; never over another value.
    PutRule {
        /// Set.
        set: SetId,
        /// Key.
        key: RuleKey,
        /// Value.
        value: RuleValue,
    },
    /// The class of a block: exact addresses in the hash, others in the trie.
    PutPeer {
        /// Block.
        prefix: Prefix,
        /// Class.
        class: ClassId,
    },
    /// The endpoint's policy state: one store that takes mode and the other flags over. `PENDING` goes with it.
    PutPolicyState {
        /// Endpoint.
        endpoint: EndpointId,
        /// Set and flags.
        policy_state: EndpointState,
        /// Take a new revision: the endpoint's verdicts change. Otherwise keep the one it has.
        new_revision: bool,
    },
    /// A block has the class of what surrounds it.
    DeletePeer {
        /// Block.
        prefix: Prefix,
    },
    /// A rule that nobody reads.
    DeleteRule {
        /// Set.
        set: SetId,
        /// Key.
        key: RuleKey,
    },
    /// A port set that nobody reads, with what it holds; `None` = not known, look for its entries.
    DeletePortSet {
        /// Number.
        id: PortSetId,
        /// Contents.
        map: Option<PortMap>,
    },
}

/// A plan; see the module for its phases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Wait before the first write: policy states changed under an earlier plan that did not come to its end.
    pub waits: bool,
    /// Before anything changes for anybody.
    pub prepare: Vec<Write>,
    /// The change.
    pub policy_states: Vec<Write>,
    /// After it, on tables that are read.
    pub settle: Vec<Write>,
    /// After it, on tables that are not.
    pub sweep: Vec<Write>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Make this write, then [`Live::apply`] it; if it fails, stop: a new plan goes on from there.
    Write(&'a Write),
    /// Wait until no program still uses what it read before, then [`Live::grace`].
    Grace,
}

impl Plan {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.phases().iter().all(|phase| phase.is_empty())
    }

    /// Number of writes.
    pub fn len(&self) -> usize {
        self.phases().iter().map(|phase| phase.len()).sum()
    }

    /// Everything in order, with the grace periods: one before the policy states if anything was prepared for them, and one before
    /// each later phase always, since policy states may have changed under an earlier plan that did not come to its end.
    pub fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        let later = [&self.settle, &self.sweep]
            .into_iter()
            .filter(|phase| !phase.is_empty());
        self.steps_to_force().chain(
            later.flat_map(|phase| {
                std::iter::once(Step::Grace).chain(phase.iter().map(Step::Write))
            }),
        )
    }

    /// The new policy is in force once these are done: [`Plan::steps`] up to the last policy state.
    pub fn steps_to_force(&self) -> impl Iterator<Item = Step<'_>> {
        let first = (self.waits && !self.prepare.is_empty()).then_some(Step::Grace);
        let second =
            (!self.prepare.is_empty() && !self.policy_states.is_empty()).then_some(Step::Grace);
        let prepare = first
            .into_iter()
            .chain(self.prepare.iter().map(Step::Write));
        prepare
            .chain(second)
            .chain(self.policy_states.iter().map(Step::Write))
    }

    const fn phases(&self) -> [&Vec<Write>; 4] {
        [
            &self.prepare,
            &self.policy_states,
            &self.settle,
            &self.sweep,
        ]
    }
}

/// Plans the way from `live` to `tables`. Equal tables give an empty plan; what an earlier plan left behind is swept.
///
/// Policy states of endpoints that are not in `tables` are left alone, and so are their sets: [`Live::forget`] them first.
pub fn plan(live: &Live, tables: &Tables) -> Plan {
    differ::plan(live, tables)
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutPortSet { id, map } => write!(f, "put port-set {}: {map}", id.0),
            Self::PutRule { set, key, value } => {
                write!(f, "put rule {}: ", RuleName(*set, *key))?;
                match value {
                    RuleValue::Whole(verdict) => write!(f, "{verdict}"),
                    RuleValue::Ports(id) => write!(f, "port-set {}", id.0),
                }
            }
            Self::PutPeer { prefix, class } => write!(f, "put peer {prefix}: class {}", class.0),
            Self::PutPolicyState {
                endpoint,
                policy_state,
                new_revision,
            } => {
                let revision = if *new_revision {
                    "new revision"
                } else {
                    "same revision"
                };
                write!(
                    f,
                    "put policy state of {}: set {}, flags {:#04x}, {revision}",
                    endpoint.0,
                    policy_state.set.0,
                    policy_state.flags()
                )
            }
            Self::DeletePeer { prefix } => write!(f, "delete peer {prefix}"),
            Self::DeleteRule { set, key } => write!(f, "delete rule {}", RuleName(*set, *key)),
            Self::DeletePortSet { id, .. } => write!(f, "delete port-set {}", id.0),
        }
    }
}

struct RuleName(SetId, RuleKey);

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "set {} {} {} class {}",
            self.0.0,
            self.1.direction.name(),
            self.1.family,
            self.1.class.0
        )
    }
}

impl fmt::Display for Plan {
    /// One line per write, a line `grace` between the phases.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps().try_for_each(|step| match step {
            Step::Write(write) => writeln!(f, "{write}"),
            Step::Grace => writeln!(f, "grace"),
        })
    }
}
