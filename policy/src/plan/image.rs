//! What the policy tables in the kernel hold, kept beside them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use verdict::layout::{
    CLASS_BASE_MASK, PORT_SET_LIMIT, PortKey, PortValue, RULE_ALLOW_ALL, RULE_DEFAULT_ALL,
    RULE_DENY_ALL, RULE_NONE,
};

use super::keys;
use crate::{
    compiler::{EndpointState, Hints, RuleAt, RuleSetId},
    portmap::{PortMap, PortPrefix, Verdict},
    prefix::{Family, Prefix},
    select::EndpointId,
    tables::Direction,
};

/// Numbers of entries in the tables, in the order exact peers, prefix peers, rules, entries of port sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// `PEERS`.
    pub peers: usize,
    /// `PREFIXES`.
    pub prefixes: usize,
    /// `RULES`.
    pub rules: usize,
    /// `PORTS`.
    pub ports: usize,
}

/// The tables' contents, settled: what holds for every endpoint once the plan that is on its way is done. A plan brings
/// it forward; after a restart it is built from what the tables hold.
#[derive(Clone, Debug, Default)]
pub struct Image {
    pub(super) peers: BTreeMap<Prefix, u32>,
    /// How many blocks of a family have a length.
    lengths: BTreeMap<(Family, u8), usize>,
    pub(super) rules: BTreeMap<RuleSetId, BTreeMap<RuleAt, u32>>,
    /// Whole port sets by number.
    pub(super) port_sets: BTreeMap<u32, Arc<PortMap>>,
    pub(super) port_set_of: HashMap<Arc<PortMap>, u32>,
    /// How many rules name a port set.
    pub(super) port_set_uses: HashMap<u32, u32>,
    pub(super) states: BTreeMap<EndpointId, EndpointState>,
    /// Entries in the kernel, those included that a plan still has to delete.
    pub(super) entries: Sizes,
    /// Read from the kernel and not yet gone over by a plan.
    pub(super) restored: bool,
    /// Entries found in two versions, from a plan that came to no end.
    pub(super) unsettled: BTreeSet<Prefix>,
    pub(super) unsettled_rules: BTreeSet<(RuleSetId, RuleAt)>,
    /// Port sets of which not all is known to be there: to be deleted.
    pub(super) broken_port_sets: BTreeMap<u32, Vec<(PortPrefix, Verdict)>>,
    pub(super) last_port_set: u32,
    pub(super) resting_port_sets: BTreeSet<u32>,
}

impl Image {
    /// Begins from what the tables hold: see [`Image::found_peer`] and the like.
    pub fn restored() -> Self {
        Self {
            restored: true,
            ..Self::default()
        }
    }

    /// A block was found. `unsettled`: in two versions.
    pub fn found_peer(&mut self, at: Prefix, class: u32, unsettled: bool) {
        self.put_peer(at, Some(class));
        if unsettled {
            self.unsettled.insert(at);
        }
        if at.is_exact() {
            self.entries.peers += 1;
        } else {
            self.entries.prefixes += 1;
        }
    }

    /// A rule was found.
    pub fn found_rule(&mut self, set: RuleSetId, at: RuleAt, says: u32, unsettled: bool) {
        self.entries.rules += 1;
        self.rules.entry(set).or_default().insert(at, says);
        *self.port_set_uses.entry(says).or_default() += 1;
        if unsettled {
            self.unsettled_rules.insert((set, at));
        }
    }

    /// All entries of port sets were found.
    pub fn found_ports(&mut self, ports: impl IntoIterator<Item = (PortKey, PortValue)>) {
        let mut sets: BTreeMap<u32, Vec<(PortPrefix, Verdict)>> = BTreeMap::new();
        for (key, value) in ports {
            self.entries.ports += 1;
            let entry = (keys::port_prefix(&key), keys::port_verdict(value));
            sets.entry(key.port_set).or_default().push(entry);
        }
        for (id, mut entries) in sets {
            let map = PortMap::from_prefixes(&entries);
            let order = |entry: &(PortPrefix, Verdict)| keys::port_key(0, entry.0);
            let mut canonical = map.prefixes();
            canonical.sort_by_key(order);
            entries.sort_by_key(order);
            if canonical == entries && !self.port_set_of.contains_key(&map) {
                let map = Arc::new(map);
                self.port_set_of.insert(Arc::clone(&map), id);
                self.port_sets.insert(id, map);
            } else {
                self.broken_port_sets.insert(id, entries);
            }
        }
    }

    /// A policy state was found that policy has written.
    pub fn found_state(&mut self, endpoint: EndpointId, state: EndpointState) {
        self.states.insert(endpoint, state);
    }

    /// Its policy state is not policy's, or not there any more.
    pub fn forget(&mut self, endpoint: EndpointId) {
        self.states.remove(&endpoint);
    }

    /// The policy state of an endpoint, if policy has written it.
    pub fn state(&self, endpoint: EndpointId) -> Option<EndpointState> {
        self.states.get(&endpoint).copied()
    }

    /// The endpoints whose policy state policy has written.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointId> + '_ {
        self.states.keys().copied()
    }

    /// Entries in the kernel.
    pub const fn entries(&self) -> Sizes {
        self.entries
    }

    /// Number of port sets.
    pub fn port_sets(&self) -> usize {
        self.port_sets.len() + self.broken_port_sets.len()
    }

    /// What the compiler goes on with.
    pub fn hints(&self) -> Hints {
        Hints {
            peers: self.peers.iter().map(|(at, class)| (*at, *class)).collect(),
            sets: self.states.iter().map(|(id, s)| (*id, s.set)).collect(),
        }
    }

    /// The class of a block by longest match.
    pub(super) fn class_of(&self, at: Prefix) -> u32 {
        let of_lengths = (at.family(), 1)..=(at.family(), at.len());
        let lengths = self.lengths.range(of_lengths).rev();
        lengths
            .filter_map(|((_, len), _)| self.peers.get(&at.resized(*len)).copied())
            .next()
            .unwrap_or(0)
    }

    pub(super) fn put_peer(&mut self, at: Prefix, class: Option<u32>) {
        let place = (at.family(), at.len());
        let before = match class {
            Some(class) => self.peers.insert(at, class),
            None => self.peers.remove(&at),
        };
        match (before, class) {
            (None, Some(_)) => *self.lengths.entry(place).or_default() += 1,
            (Some(_), None) => {
                if let Some(count) = self.lengths.get_mut(&place) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&place);
                    }
                }
            }
            _ => {}
        }
    }

    /// What a set says of a class, by the three look-ups of a packet.
    pub(super) fn says(&self, set: RuleSetId, at: RuleAt) -> u32 {
        let rules = self.rules.get(&set);
        look_up(at, |at| rules?.get(&at).copied())
    }

    /// What the tables say: for tests, and for tools that show a live node.
    pub fn look_up(
        &self,
        endpoint: EndpointId,
        direction: Direction,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<Verdict> {
        let state = self.states.get(&endpoint)?;
        if !state.rules.get(direction) {
            return Some(Verdict::Default);
        }
        let says = self.says(
            state.set,
            RuleAt {
                direction,
                family: Family::of(peer),
                class: self.class_of(Prefix::exact(peer)),
            },
        );
        Some(match says {
            RULE_ALLOW_ALL => Verdict::Allow,
            RULE_DENY_ALL => Verdict::Deny,
            id => self
                .port_sets
                .get(&id)
                .map_or(Verdict::Default, |map| map.get(protocol, port)),
        })
    }

    /// A number for a port set that no table and no program knows.
    pub(super) fn free_port_set(&mut self) -> u32 {
        loop {
            self.last_port_set = (self.last_port_set + 1) % PORT_SET_LIMIT;
            let id = self.last_port_set;
            if id != RULE_NONE
                && !self.port_sets.contains_key(&id)
                && !self.broken_port_sets.contains_key(&id)
                && !self.resting_port_sets.contains(&id)
            {
                return id;
            }
        }
    }
}

/// A class's own rule, else its base's, else everybody else's.
pub(super) fn look_up(at: RuleAt, entry: impl Fn(RuleAt) -> Option<u32>) -> u32 {
    let base = at.class & CLASS_BASE_MASK;
    [at.class, base, 0]
        .into_iter()
        .find_map(|class| entry(RuleAt { class, ..at }).filter(|says| *says != RULE_NONE))
        .unwrap_or(RULE_DEFAULT_ALL)
}
