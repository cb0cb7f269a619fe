//! Plans executed write by write on a model of the maps.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use proptest::prelude::*;

use super::*;
use crate::{
    compile,
    documents::{Directions, Document},
    portmap::Verdict,
    prefix::Family,
    select::{Endpoint, EndpointId, Facts},
    tables::{DIRECTIONS, Direction, Tables},
    testing,
};

fn tables(documents: &[Arc<Document>], endpoints: &[Endpoint]) -> Tables {
    compile(endpoints, &testing::policies(documents), &Facts::default())
}

/// Isolation and, for each direction and address, the number of the port map; `None` = it has no policy state yet.
type Function = Option<(Directions<bool>, Vec<usize>)>;

/// An eye of its own on the maps: port maps by number, so that functions compare quickly.
#[derive(Default)]
struct Eye {
    maps: HashMap<PortMap, usize>,
}

impl Eye {
    fn number(&mut self, map: &PortMap) -> usize {
        let next = self.maps.len();
        *self.maps.entry(map.clone()).or_insert(next)
    }

    fn functions(&mut self, live: &Live, ids: &[EndpointId]) -> Vec<Function> {
        self.in_flight([live; 3], ids)
    }

    /// What a packet gets that reads the policy state, the peers and the rules at three moments.
    fn in_flight(
        &mut self,
        [policy_states, peers, rules]: [&Live; 3],
        ids: &[EndpointId],
    ) -> Vec<Function> {
        let addresses = testing::addresses();
        let classes: Vec<ClassId> = addresses
            .iter()
            .map(|address| {
                let holding = peers
                    .peers
                    .iter()
                    .filter(|(prefix, _)| prefix.holds(*address));
                holding
                    .max_by_key(|(prefix, _)| prefix.len())
                    .map_or(ClassId(0), |(_, class)| *class)
            })
            .collect();
        ids.iter()
            .map(|id| {
                let policy_state = policy_states.policy_state(*id)?;
                let mut out = Vec::new();
                for direction in DIRECTIONS {
                    for (address, class) in addresses.iter().zip(&classes) {
                        out.push(self.live_map(
                            rules,
                            policy_state,
                            direction,
                            Family::of(*address),
                            *class,
                        ));
                    }
                }
                Some((policy_state.isolated, out))
            })
            .collect()
    }

    fn live_map(
        &mut self,
        live: &Live,
        policy_state: EndpointState,
        direction: Direction,
        family: Family,
        class: ClassId,
    ) -> usize {
        let entry = |class| {
            live.sets.get(&policy_state.set)?.get(&RuleKey {
                direction,
                family,
                class,
            })
        };
        let rule = entry(class)
            .or_else(|| entry(ClassId(0)))
            .filter(|_| *policy_state.rules.get(direction));
        let map = match rule {
            None => PortMap::uniform(Verdict::Default),
            Some(RuleValue::Whole(verdict)) => PortMap::uniform(*verdict),
            Some(RuleValue::Ports(id)) => live.port_sets[id]
                .clone()
                .expect("a port set in use is whole"),
        };
        self.number(&map)
    }

    fn wanted(&mut self, tables: &Tables, endpoint: EndpointId) -> Function {
        let policy = tables.endpoints.get(&endpoint)?;
        let set = &tables.sets[policy.set.0 as usize];
        let mut out = Vec::new();
        for direction in DIRECTIONS {
            for address in testing::addresses() {
                let rule = set.rule(direction, Family::of(address), tables.class_of(address));
                let nothing = PortMap::uniform(Verdict::Default);
                out.push(
                    self.number(rule.map_or(&nothing, |map| &tables.port_maps[map.0 as usize])),
                );
            }
        }
        Some((policy.isolated, out))
    }
}

/// Runs a plan up to `stop` writes; every write keeps the promise.
fn run(live: &mut Live, tables: &Tables, plan: &Plan, stop: usize) {
    let ids: Vec<EndpointId> = tables.endpoints.keys().copied().collect();
    let mut eye = Eye::default();
    let before = eye.functions(live, &ids);
    let after: Vec<Function> = ids.iter().map(|id| eye.wanted(tables, *id)).collect();
    let mut flipped: Vec<bool> = ids
        .iter()
        .map(|id| {
            !plan
                .policy_states
                .iter()
                .any(|w| matches!(w, Write::PutPolicyState { endpoint, .. } if endpoint == id))
        })
        .collect();
    for ((id, stays), (was, is)) in ids.iter().zip(&flipped).zip(before.iter().zip(&after)) {
        assert!(
            !stays || was == is,
            "endpoint {} changes without a word",
            id.0
        );
    }
    let mut revisions = 0;
    // What packets that have not ended may have read, with who had flipped then.
    let mut moments = vec![(live.clone(), flipped.clone())];
    for (number, step) in plan.steps().enumerate() {
        if number == stop {
            return;
        }
        match step {
            Step::Grace => {
                still_in_flight(&mut eye, &moments, &ids, &before, &after);
                moments.clear();
                live.grace();
            }
            Step::Write(write) => {
                never_over_another(live, write);
                live.apply(write);
                if let Write::PutPolicyState {
                    endpoint,
                    new_revision,
                    ..
                } = write
                {
                    let place = ids.iter().position(|id| id == endpoint).unwrap();
                    flipped[place] = true;
                    assert_eq!(
                        *new_revision,
                        before[place] != after[place],
                        "revision of {}",
                        endpoint.0
                    );
                    revisions += 1;
                }
            }
        }
        moments.push((live.clone(), flipped.clone()));
        let now = eye.functions(live, &ids);
        for (place, id) in ids.iter().enumerate() {
            let expected = if flipped[place] {
                &after[place]
            } else {
                &before[place]
            };
            assert!(
                &now[place] == expected,
                "endpoint {} after step {number}: {step:?}\n{plan}",
                id.0
            );
        }
    }
    still_in_flight(&mut eye, &moments, &ids, &before, &after);
    assert!(revisions <= ids.len());
}

/// A packet that reads its policy state at one moment, its peer's class at a later and the rule at a still later one, with no
/// grace period between, has the verdict that its policy state stands for.
fn still_in_flight(
    eye: &mut Eye,
    moments: &[(Live, Vec<bool>)],
    ids: &[EndpointId],
    before: &[Function],
    after: &[Function],
) {
    let Some(end) = moments.len().checked_sub(1) else {
        return;
    };
    for [i, j, k] in [
        [0, 0, end],
        [0, end, end],
        [0, end / 2, end],
        [end / 2, end / 2, end],
        [0, end / 3, end / 2],
    ] {
        let now = eye.in_flight([&moments[i].0, &moments[j].0, &moments[k].0], ids);
        for place in 0..ids.len() {
            let expected = if moments[i].1[place] {
                &after[place]
            } else {
                &before[place]
            };
            assert!(
                &now[place] == expected,
                "endpoint {} in flight at {i}, {j}, {k} of {end}",
                ids[place].0
            );
        }
    }
}

/// Rules, port sets: what is there is never changed in place; nothing at rest is used.
fn never_over_another(live: &Live, write: &Write) {
    match write {
        Write::PutRule { set, key, value } => {
            let there = live.sets.get(set).and_then(|rules| rules.get(key));
            assert!(there.is_none_or(|v| v == value), "{write}");
            assert!(
                !live.resting.sets.contains(set) || live.sets.contains_key(set),
                "{write}"
            );
        }
        Write::PutPortSet { id, .. } => {
            assert!(
                !live.port_sets.contains_key(id) && !live.resting.port_sets.contains(id),
                "{write}"
            );
        }
        _ => {}
    }
}

/// What is in the kernel is what a fresh compilation would put there, but for the numbers.
fn same_as_fresh(live: &Live, tables: &Tables) {
    let peers: Vec<_> = live.peers.keys().copied().collect();
    let fresh: Vec<_> = tables.peers.iter().map(|(prefix, _)| *prefix).collect();
    assert_eq!(peers, fresh);
    let mut classes = BTreeMap::new();
    let mut back = BTreeMap::new();
    for ((prefix, id), (_, index)) in live.peers.iter().zip(&tables.peers) {
        assert_eq!(classes.entry(*id).or_insert(*index), index);
        assert_eq!(back.entry((prefix.family(), *index)).or_insert(*id), id);
    }
    let used: BTreeSet<_> = live
        .policy_states
        .values()
        .map(|w| w.set)
        .filter(|s| s.0 != 0)
        .collect();
    assert_eq!(
        used,
        live.sets.keys().copied().collect(),
        "sets without users, or the other way round"
    );
    let rules: usize = tables.sets.iter().map(|s| s.rules.len()).sum();
    assert_eq!(live.sizes()[2], rules);
    let maps = tables.port_maps.iter().enumerate().filter(|(index, map)| {
        map.as_uniform().is_none()
            && tables
                .sets
                .iter()
                .any(|s| s.rules.values().any(|m| m.0 as usize == *index))
    });
    assert_eq!(live.sizes()[3], maps.count());
}

proptest! {
    #![proptest_config(testing::cases(10))]

    #[test]
    fn each_write_gives_old_or_new(worlds in prop::collection::vec(testing::documents(), 1..4)) {
        let endpoints = testing::endpoints();
        let mut live = Live::default();
        for documents in &worlds {
            let tables = tables(documents, &endpoints);
            let plan = plan(&live, &tables);
            run(&mut live, &tables, &plan, usize::MAX);
            same_as_fresh(&live, &tables);
            prop_assert!(super::plan(&live, &tables).is_empty());
        }
    }

    #[test]
    fn a_plan_that_stops_is_taken_up(
        worlds in prop::collection::vec((testing::documents(), 0usize..60), 2..5),
        last in testing::documents(),
    ) {
        let endpoints = testing::endpoints();
        let mut live = Live::default();
        for (documents, stop) in &worlds {
            let tables = tables(documents, &endpoints);
            let plan = plan(&live, &tables);
            run(&mut live, &tables, &plan, *stop);
        }
        let tables = tables(&last, &endpoints);
        let plan = plan(&live, &tables);
        run(&mut live, &tables, &plan, usize::MAX);
        same_as_fresh(&live, &tables);
        prop_assert!(super::plan(&live, &tables).is_empty());
    }

    #[test]
    fn small_changes(documents in testing::documents(), drop in any::<prop::sample::Index>(), add in testing::document()) {
        let endpoints = testing::endpoints();
        let mut live = Live::default();
        let mut next = documents.clone();
        if !next.is_empty() {
            next.remove(drop.index(next.len()));
        }
        next.retain(|d| d.identity != add.identity);
        next.push(Arc::new(add));
        for documents in [&documents, &next, &documents] {
            let tables = tables(documents, &endpoints);
            let plan = plan(&live, &tables);
            run(&mut live, &tables, &plan, usize::MAX);
            same_as_fresh(&live, &tables);
        }
    }
}

/// A pod with one rule, whose blocks are given.
fn with_blocks(blocks: &[&str]) -> Vec<Arc<Document>> {
    let rules: Vec<_> = blocks
        .iter()
        .map(|block| format!("{{cidr: {block}}}"))
        .collect();
    let text = format!(
        "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {{name: p}}\nspec:\n  \
         podSelectorEndpoints: [{{name: pod-0}}]\n  ingress: [{}]\n",
        rules.join(", ")
    );
    crate::documents::read(text.as_bytes())
        .good()
        .cloned()
        .map(Arc::new)
        .collect()
}

/// Takes a node through versions of a document; gives the number of writes and of new revisions of the last.
fn change(versions: &[&[&str]]) -> (usize, usize) {
    let endpoints = testing::endpoints();
    let mut live = Live::default();
    let mut last = (0, 0);
    for blocks in versions {
        let tables = tables(&with_blocks(blocks), &endpoints);
        let plan = plan(&live, &tables);
        run(&mut live, &tables, &plan, usize::MAX);
        same_as_fresh(&live, &tables);
        let revisions = plan
            .policy_states
            .iter()
            .filter(|w| {
                matches!(
                    w,
                    Write::PutPolicyState {
                        new_revision: true,
                        ..
                    }
                )
            })
            .count();
        last = (plan.len(), revisions);
    }
    last
}

#[test]
fn the_same_addresses_in_other_blocks_are_no_change() {
    assert_eq!(
        change(&[&["10.0.0.0/31"], &["10.0.0.0/32", "10.0.0.1/32"]]).1,
        0
    );
    assert_eq!(
        change(&[&["10.0.0.0/32", "10.0.0.1/32"], &["10.0.0.0/31"]]).1,
        0
    );
    assert_eq!(
        change(&[&["10.0.0.0/24"], &["10.0.0.0/24", "10.0.0.7"]]),
        (0, 0),
        "a block within a block of the same rule"
    );
    assert_eq!(change(&[&["10.0.0.0/31"], &["10.0.0.0/32"]]).1, 1);
}

#[test]
fn writes_follow_the_change() {
    let blocks: Vec<String> = (0..200).map(|i| format!("10.0.1.{i}")).collect();
    let before: Vec<&str> = blocks.iter().map(String::as_str).collect();
    let after = [&before[..], &["10.0.2.1"]].concat();
    // The rule under two classes, the peer, the policy state; then the peer's final class, and two rules gone.
    assert_eq!(change(&[&before, &after]), (7, 1));
    assert_eq!(change(&[&after, &before]), (7, 1));
    assert_eq!(change(&[&before, &before]), (0, 0));
}

#[test]
fn after_words_without_a_grace_period_the_next_plan_waits() {
    let endpoints = testing::endpoints();
    let mut live = Live::default();
    let [one, two, three] = [["10.0.0.1"], ["10.0.0.2"], ["10.0.0.3"]]
        .map(|blocks| tables(&with_blocks(&blocks), &endpoints));
    let first = plan(&live, &one);
    run(&mut live, &one, &first, usize::MAX);
    let second = plan(&live, &two);
    assert!(!second.waits);
    run(&mut live, &two, &second, second.steps_to_force().count());
    let third = plan(&live, &three);
    assert_eq!(third.steps().next(), Some(Step::Grace));
    run(&mut live, &three, &third, usize::MAX);
    same_as_fresh(&live, &three);
}
