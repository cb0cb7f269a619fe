//! Plans carried out step by step on a model of the maps, against whole compilations.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use verdict::layout::{self, PeerKey, PortKey, PrefixKey, RuleKey, TableWrite};

use super::*;
use crate::{
    Family, Policies, Tables, compile,
    documents::{Directions, Document},
    portmap::Verdict,
    select::{Endpoint, EndpointId, Facts},
    tables::{DIRECTIONS, Direction},
    testing,
};

/// The maps, and the policy states with their revisions.
#[derive(Clone, Default)]
struct Maps {
    peers: BTreeMap<PeerKey, layout::PeerValue>,
    prefixes: BTreeMap<PrefixKey, layout::PrefixValue>,
    rules: BTreeMap<RuleKey, layout::RuleValue>,
    ports: BTreeMap<PortKey, u32>,
    states: BTreeMap<EndpointId, (EndpointState, u64)>,
}

/// Isolation, and the port map for each direction and address.
type Function = Option<(Directions<bool>, Vec<PortMap>)>;

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

impl Maps {
    fn write(&mut self, write: TableWrite) {
        match write {
            TableWrite::Peer(key, value) => put(&mut self.peers, key, value),
            TableWrite::Prefix(key, value) => put(&mut self.prefixes, key, value),
            TableWrite::Rule(key, value) => put(&mut self.rules, key, value),
            TableWrite::Port(key, value) => put(&mut self.ports, key, value),
        }
    }

    fn len(&self) -> usize {
        self.peers.len() + self.prefixes.len() + self.rules.len() + self.ports.len()
    }

    /// What is in two versions, or should be.
    fn unsettled(&self) -> usize {
        let peers = self.peers.values().filter(|v| v.class.parts().2 != 0);
        let prefixes = self.prefixes.values().filter(|v| v.class.parts().2 != 0);
        let rules = self.rules.values().filter(|v| v.says.parts().2 != 0);
        peers.count() + prefixes.count() + rules.count()
    }

    fn class(&self, address: IpAddr, revision: u64) -> u32 {
        let (family, addr) = layout::Addr::from_ip(address);
        let family = u32::from(family);
        let key = PeerKey { family, addr };
        if let Some(value) = self.peers.get(&key) {
            return value.class.at(key.check(), revision).expect("whole");
        }
        let exact = Prefix::exact(address);
        let holding = self.prefixes.iter().filter(|(key, _)| {
            let len = (key.prefix_len - PrefixKey::FIXED_BITS) as u8;
            key.family == family && Prefix::new(key.addr.to_ip(family as u8), len).covers(&exact)
        });
        holding
            .max_by_key(|(key, _)| key.prefix_len)
            .map_or(0, |(_, value)| {
                value.class.at(value.check(), revision).expect("whole")
            })
    }

    fn map(
        &self,
        set: u16,
        direction: Direction,
        address: IpAddr,
        class: u32,
        revision: u64,
    ) -> PortMap {
        let family = if address.is_ipv4() {
            layout::V4
        } else {
            layout::V6
        };
        let says = [class, class & layout::CLASS_BASE_MASK, 0]
            .into_iter()
            .find_map(|class| {
                let key = RuleKey {
                    class,
                    set,
                    direction: direction as u8,
                    family,
                };
                let says = self
                    .rules
                    .get(&key)?
                    .says
                    .at(key.check(), revision)
                    .expect("whole");
                (says != layout::RULE_NONE).then_some(says)
            });
        match says {
            None | Some(layout::RULE_DEFAULT_ALL) => PortMap::uniform(Verdict::Default),
            Some(layout::RULE_ALLOW_ALL) => PortMap::uniform(Verdict::Allow),
            Some(layout::RULE_DENY_ALL) => PortMap::uniform(Verdict::Deny),
            Some(id) => {
                let entries: Vec<_> = self
                    .ports
                    .iter()
                    .filter(|(key, _)| key.port_set == id)
                    .map(|(key, value)| (keys::port_prefix(key), keys::port_verdict(*value)))
                    .collect();
                assert!(!entries.is_empty(), "port set {id} is not there");
                PortMap::from_prefixes(&entries)
            }
        }
    }

    /// What an endpoint gets whose packet reads the policy state, the peers and the rules at three moments.
    fn function([states, peers, rules]: [&Self; 3], id: EndpointId) -> Function {
        let (state, revision) = *states.states.get(&id)?;
        let mut out = Vec::new();
        for direction in DIRECTIONS {
            for address in testing::addresses() {
                out.push(if *state.rules.get(direction) {
                    let class = peers.class(address, revision);
                    rules.map(state.set.0, direction, address, class, revision)
                } else {
                    PortMap::uniform(Verdict::Default)
                });
            }
        }
        Some((state.isolated, out))
    }
}

fn wanted(tables: &Tables, endpoint: EndpointId) -> Function {
    let policy = tables.endpoints.get(&endpoint)?;
    let set = &tables.sets[policy.set.0 as usize];
    let mut out = Vec::new();
    for direction in DIRECTIONS {
        for address in testing::addresses() {
            let rule = set.rule(direction, Family::of(address), tables.class_of(address));
            let nothing = PortMap::uniform(Verdict::Default);
            out.push(rule.map_or(nothing, |map| tables.port_maps[map.0 as usize].clone()));
        }
    }
    Some((policy.isolated, out))
}

/// A node whose policy is put in force by plans.
struct Node {
    endpoints: Vec<Endpoint>,
    compiler: Compiler,
    image: Image,
    maps: Maps,
    policies: Policies,
    profiles: HashMap<EndpointId, Vec<Arc<crate::Policy>>>,
    revision: u64,
}

/// How a plan is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    /// This write fails, and what was done is undone.
    Fails(usize),
}

impl Node {
    fn new() -> Self {
        Self {
            endpoints: testing::endpoints(),
            compiler: Compiler::default(),
            image: Image::default(),
            maps: Maps::default(),
            policies: Policies::new(),
            profiles: HashMap::new(),
            revision: 0,
        }
    }

    fn compile(&mut self, documents: &[Arc<Document>]) {
        let mut next = testing::policies(documents);
        for (key, policy) in &mut next {
            match self.policies.get(key) {
                Some(before) if before.documents == policy.documents => {
                    *policy = Arc::clone(before);
                }
                Some(before) => self.compiler.replace(before, policy),
                None => {}
            }
        }
        self.policies = next;
        for endpoint in &self.endpoints {
            let selecting = self.policies.values();
            let profile: Vec<_> = selecting
                .filter(|policy| policy.selects(endpoint, &Facts::default()))
                .cloned()
                .collect();
            if self.profiles.get(&endpoint.id) != Some(&profile) {
                self.compiler.assign(endpoint.id, &profile);
                self.profiles.insert(endpoint.id, profile);
            }
        }
    }

    /// Takes the node to what the documents say, and holds every step to the promise. The numbers of writes and of
    /// policy states.
    fn go(&mut self, documents: &[Arc<Document>], end: End) -> (usize, usize) {
        self.compile(documents);
        let tables = compile(&self.endpoints, &self.policies, &Facts::default());
        self.carry_out(&tables, end)
    }

    fn carry_out(&mut self, tables: &Tables, end: End) -> (usize, usize) {
        let ids: Vec<EndpointId> = self.endpoints.iter().map(|e| e.id).collect();
        let before: Vec<Function> = ids
            .iter()
            .map(|id| Maps::function([&self.maps; 3], *id))
            .collect();
        let after: Vec<Function> = ids.iter().map(|id| wanted(tables, *id)).collect();
        let mut plan = Plan::new(&mut self.compiler, &mut self.image, &[]);
        let mut flipped: Vec<bool> = ids
            .iter()
            .map(|id| !plan.endpoints().any(|e| e == *id))
            .collect();
        for ((flipped, id), (was, is)) in flipped.iter().zip(&ids).zip(before.iter().zip(&after)) {
            assert!(
                !flipped || was == is,
                "endpoint {} changes without a policy state",
                id.0
            );
        }
        let (mut writes, mut states) = (0, 0);
        let mut moments = vec![self.maps.clone()];
        let mut flips = vec![flipped.clone()];
        loop {
            let taken = match plan.next() {
                Step::Done => break,
                Step::Revision => {
                    self.revision += 1;
                    Taken::Revision(self.revision)
                }
                Step::Write(_) if end == End::Fails(writes) && states == 0 && !plan.failed() => {
                    Taken::Failed
                }
                Step::Write(write) => {
                    writes += 1;
                    self.maps.write(write);
                    Taken::Done
                }
                Step::State {
                    endpoint,
                    state,
                    revision,
                } => {
                    states += 1;
                    self.maps.states.insert(endpoint, (state, revision));
                    let place = ids.iter().position(|id| *id == endpoint).unwrap();
                    flipped[place] = true;
                    Taken::Done
                }
                Step::Grace => {
                    moments.clear();
                    flips.clear();
                    Taken::Done
                }
            };
            plan.took(taken, &mut self.compiler, &mut self.image);
            moments.push(self.maps.clone());
            flips.push(flipped.clone());
            // A packet on its way since any moment after the last grace period.
            let last = moments.len() - 1;
            let turns = [(last, last), (0, last), (0, last / 2), (last / 2, last)];
            for (i, j) in [(last, last), turns[(writes + states) % 4]] {
                for (place, id) in ids.iter().enumerate() {
                    let now = Maps::function([&moments[i], &moments[j], &moments[last]], *id);
                    let expected = if flips[i][place] {
                        &after[place]
                    } else {
                        &before[place]
                    };
                    assert!(
                        now == *expected,
                        "endpoint {} at {i} {j} {last}, after {writes} writes and {states} states:\n{now:?}\n{expected:?}",
                        id.0
                    );
                }
            }
        }
        assert_eq!(self.image.entries.peers, self.maps.peers.len());
        assert_eq!(self.image.entries.prefixes, self.maps.prefixes.len());
        assert_eq!(self.image.entries.rules, self.maps.rules.len());
        assert_eq!(self.image.entries.ports, self.maps.ports.len());
        assert_eq!(self.maps.unsettled(), 0);
        if !plan.failed() {
            let again = Plan::new(&mut self.compiler, &mut self.image, &[]);
            assert!(again.is_empty(), "{again:?}");
        }
        (writes, states)
    }

    /// As the companion does after a restart.
    fn restart(&mut self) {
        let mut image = Image::restored();
        for (key, value) in &self.maps.peers {
            let at = Prefix::exact(key.addr.to_ip(key.family as u8));
            image.found_peer(at, value.class.parts().1, false);
        }
        for (key, value) in &self.maps.prefixes {
            let len = (key.prefix_len - PrefixKey::FIXED_BITS) as u8;
            let at = Prefix::new(key.addr.to_ip(key.family as u8), len);
            image.found_peer(at, value.class.parts().1, false);
        }
        for (key, value) in &self.maps.rules {
            let (set, at) = rule_at(key).unwrap();
            image.found_rule(set, at, value.says.parts().1, false);
        }
        image.found_ports(self.maps.ports.iter().map(|(key, value)| (*key, *value)));
        for (id, (state, _)) in &self.maps.states {
            image.found_state(*id, *state);
        }
        self.compiler = Compiler::with_hints(image.hints());
        self.image = image;
        self.profiles.clear();
        self.policies.clear();
    }
}

proptest! {
    #![proptest_config(testing::cases(5))]

    #[test]
    fn each_step_gives_old_or_new(worlds in prop::collection::vec(testing::documents(), 1..5)) {
        let mut node = Node::new();
        for documents in &worlds {
            node.go(documents, End::Whole);
        }
        node.go(&[], End::Whole);
        prop_assert_eq!(node.maps.len(), 0);
    }

    #[test]
    fn what_fails_is_undone_and_taken_up(
        worlds in prop::collection::vec((testing::documents(), 0usize..40), 2..5),
    ) {
        let mut node = Node::new();
        for (documents, stop) in &worlds {
            node.go(documents, End::Fails(*stop));
            node.go(documents, End::Whole);
        }
    }

    #[test]
    fn a_restart_changes_nothing_and_goes_on(
        first in testing::documents(),
        second in testing::documents(),
    ) {
        let mut node = Node::new();
        node.go(&first, End::Whole);
        node.restart();
        let (_, states) = node.go(&first, End::Whole);
        prop_assert_eq!(states, 0);
        node.restart();
        node.go(&second, End::Whole);
    }

    #[test]
    fn small_changes(documents in testing::documents(), drop in any::<prop::sample::Index>(), add in testing::document()) {
        let mut node = Node::new();
        let mut next = documents.clone();
        if !next.is_empty() {
            next.remove(drop.index(next.len()));
        }
        next.retain(|d| d.identity != add.identity);
        next.push(Arc::new(add));
        for documents in [&documents, &next, &documents] {
            node.go(documents, End::Whole);
        }
    }
}
