//! Rules with equal effect, put together.

use std::{collections::HashMap, ops::Range, sync::Arc};

use crate::{
    documents::{Action, Ports, Tier},
    portmap::Pieces,
    prefix::Prefix,
    sets::Policy,
    tables::{DIRECTIONS, Direction},
};

/// Number of a group; groups of one policy and direction are numbered in a row.
pub(crate) type GroupId = u32;

/// Where a group stands among the others: tier, then priority, then policy, then place in an ordered policy's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Rank {
    pub(crate) tier: Tier,
    pub(crate) priority: u16,
    pub(crate) policy: u32,
    /// Place in the list of an ordered policy; `None` = Deny before Accept before Pass.
    pub(crate) order: Option<u32>,
}

/// One group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) rank: Rank,
    pub(crate) action: Action,
    pub(crate) ports: Pieces<bool>,
}

/// A block of a group.
pub(crate) struct Block<'a> {
    pub(crate) group: GroupId,
    pub(crate) cidr: Prefix,
    pub(crate) except: &'a [Prefix],
}

/// All groups of the policies that count.
#[derive(Default)]
pub(crate) struct Groups<'a> {
    pub(crate) groups: Vec<Group>,
    pub(crate) blocks: Vec<Block<'a>>,
    /// Per policy: ranges of group numbers, ingress and egress.
    ranges: Vec<[Range<GroupId>; 2]>,
}

impl<'a> Groups<'a> {
    pub(crate) fn of(policies: &[&'a Policy], active: &[bool]) -> Self {
        let mut out = Self::default();
        for (number, policy) in policies.iter().enumerate() {
            let ranges = DIRECTIONS.map(|direction| {
                let start = out.groups.len() as GroupId;
                if active[number] {
                    out.add(number as u32, policy, direction);
                }
                start..out.groups.len() as GroupId
            });
            out.ranges.push(ranges);
        }
        out
    }

    pub(crate) fn of_policy(&self, policy: u32, direction: Direction) -> Range<GroupId> {
        self.ranges[policy as usize][direction as usize].clone()
    }

    fn add(&mut self, number: u32, policy: &'a Policy, direction: Direction) {
        let ordered = policy.ordered();
        let mut known: HashMap<(Rank, Action, &'a Ports), GroupId> = HashMap::new();
        // The rule before, and its group: rules in a row mostly share their list.
        let mut last: Option<(Rank, Action, &'a Ports, GroupId)> = None;
        let mut order = 0;
        for document in &policy.documents {
            for rule in document.rules(direction) {
                let mut rank = Rank {
                    tier: document.tier,
                    priority: document.priority,
                    policy: number,
                    order: None,
                };
                if ordered && document.tier != Tier::NetworkPolicy {
                    // A run of rules with one effect takes one place.
                    let goes_on = last.is_some_and(|(before, action, ports, _)| {
                        let same_tier =
                            (before.tier, before.priority) == (rank.tier, rank.priority);
                        same_tier && action == rule.action && ports == &rule.ports
                    });
                    order += u32::from(!goes_on);
                    rank.order = Some(order);
                }
                let group = match last {
                    Some((r, action, ports, group))
                        if r == rank
                            && action == rule.action
                            && Arc::ptr_eq(ports, &rule.ports) =>
                    {
                        group
                    }
                    _ => *known
                        .entry((rank, rule.action, &rule.ports))
                        .or_insert_with(|| {
                            self.groups.push(Group {
                                rank,
                                action: rule.action,
                                ports: Pieces::covered(&rule.ports),
                            });
                            (self.groups.len() - 1) as GroupId
                        }),
                };
                last = Some((rank, rule.action, &rule.ports, group));
                self.blocks.push(Block {
                    group,
                    cidr: rule.cidr,
                    except: &rule.except,
                });
            }
        }
    }
}
