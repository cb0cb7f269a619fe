//! Policy tables, host set, grace periods and the lock's slices on the real kernel.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use enforcer::apply::{Flip, SLICE, Tables, in_slices};
use enforcer::endpoint::{Endpoints, NewEndpoint};
use enforcer::grace::Grace;
use enforcer::hosts::{HostSet, set_host_ports};
use enforcer::load::{LoadOptions, load};
use enforcer::pins::Pins;
use state::Store;
use verdict::PolicyState;
use verdict::layout::{
    Addr, PORT_ALLOW, PeerKey, PeerValue, PortKey, PrefixKey, PrefixValue, RULE_ALLOW_ALL, RuleKey,
    RuleValue, TableWrite, Versioned,
};

const LONG: Duration = Duration::from_secs(10);

struct Scene {
    dir: tempfile::TempDir,
    bpf: PathBuf,
    store: Store,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let name = dir
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_start_matches('.')
            .to_owned();
        let bpf = PathBuf::from(format!("/sys/fs/bpf/podgate-test-{name}"));
        let store = Store::create(dir.path().join("state")).unwrap();
        let options = LoadOptions {
            flow_limit: 32_768,
            ..LoadOptions::default()
        };
        load(&store.lock(LONG).unwrap(), &bpf, options).unwrap();
        Self { dir, bpf, store }
    }

    fn pins(&self) -> Pins {
        Pins::new(&self.bpf)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.bpf);
        let _ = self.dir.path();
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn writes_are_read_back_and_may_be_repeated() {
    let scene = Scene::new();
    let mut tables = Tables::open(&scene.pins()).unwrap();
    let rule = RuleKey {
        class: 7,
        set: 3,
        direction: 1,
        family: 6,
    };
    let port = PortKey {
        prefix_len: PortKey::FULL_BITS,
        port_set: 9,
        protocol_be: 6u16.to_be(),
        port_be: 443u16.to_be(),
    };
    let exact = |address: &str| {
        let (family, addr) = Addr::from_ip(ip(address));
        PeerKey {
            family: u32::from(family),
            addr,
        }
    };
    let block = |address: &str, len: u32| {
        let PeerKey { family, addr } = exact(address);
        PrefixKey {
            prefix_len: PrefixKey::FIXED_BITS + len,
            family,
            addr,
        }
    };
    let peers = [exact("10.0.0.1"), exact("2001:db8::1")];
    let prefixes = [block("10.0.0.0", 8), block("2001:db8::", 32)];
    let versions = |key: &PeerKey| PeerValue {
        class: Versioned::new(key.check(), 5, 6, 77),
    };
    let peer = |key: &PeerKey| TableWrite::Peer(*key, Some(versions(key)));
    let prefix = |key: &PrefixKey| TableWrite::Prefix(*key, Some(PrefixValue::new(key, 7, 8, 77)));
    let mut puts: Vec<TableWrite> = peers.iter().map(peer).collect();
    puts.extend(prefixes.iter().map(prefix));
    puts.push(TableWrite::Rule(
        rule,
        Some(RuleValue::new(&rule, RULE_ALLOW_ALL)),
    ));
    puts.push(TableWrite::Port(port, Some(PORT_ALLOW)));
    let locked = scene.store.lock(LONG).unwrap();
    for write in puts.iter().chain(&puts) {
        tables.write(&locked, write).unwrap();
    }
    let contents = tables.contents().unwrap();
    let of_exact: BTreeSet<_> = contents
        .peers
        .iter()
        .map(|(key, value)| (*key, value.class.at(key.check(), 76), value.class.parts()))
        .collect();
    let expected = peers.map(|key| (key, Some(5), (5, 6, 77)));
    assert_eq!(of_exact, BTreeSet::from(expected));
    let of_blocks: BTreeSet<_> = contents
        .prefixes
        .iter()
        .map(|(key, value)| (*key, value.class.at(value.check(), 77), value.len))
        .collect();
    let expected = [(prefixes[0], Some(8), 8), (prefixes[1], Some(8), 32)];
    assert_eq!(of_blocks, BTreeSet::from(expected));
    assert_eq!(
        (contents.rules, contents.ports),
        (
            vec![(rule, RuleValue::new(&rule, RULE_ALLOW_ALL))],
            vec![(port, PORT_ALLOW)]
        )
    );
    let deletes: Vec<TableWrite> = puts
        .into_iter()
        .map(|put| match put {
            TableWrite::Peer(key, _) => TableWrite::Peer(key, None),
            TableWrite::Prefix(key, _) => TableWrite::Prefix(key, None),
            TableWrite::Rule(key, _) => TableWrite::Rule(key, None),
            TableWrite::Port(key, _) => TableWrite::Port(key, None),
        })
        .collect();
    for write in deletes.iter().chain(&deletes) {
        tables.write(&locked, write).unwrap();
    }
    let contents = tables.contents().unwrap();
    assert!(contents.peers.is_empty() && contents.prefixes.is_empty());
    assert!(contents.rules.is_empty() && contents.ports.is_empty());
}

#[test]
fn policy_states_flip_and_never_anothers() {
    let scene = Scene::new();
    let locked = scene.store.lock(LONG).unwrap();
    let mut endpoints = Endpoints::open(&scene.bpf).unwrap();
    let mut entries = Vec::new();
    for ifindex in [4_000_001, 4_000_002, 4_000_003] {
        let reserved = endpoints.reserve(&locked).unwrap();
        let new = NewEndpoint {
            ifindex,
            mac: [2, 0, 0, 0, 0, 1],
            host_mac: [2, 0, 0, 0, 0, 1],
            addresses: vec![ip("10.0.0.9")],
            extra_sources: vec![],
            source_guard: true,
            flags: PolicyState::PENDING,
        };
        entries.push(endpoints.create(&locked, reserved, &new).unwrap());
    }
    let flip = |entry: usize, endpoint_id: u32, revision: Option<u64>| Flip {
        ifindex: entries[entry].ifindex,
        endpoint_id,
        flags: PolicyState::STRICT,
        set: 4,
        revision,
    };
    let before = endpoints.policy_states.get(entries[2].endpoint_index);
    let revision = endpoints.next_revision(&locked).unwrap();
    let flips = [
        flip(0, entries[0].endpoint_id, Some(revision)),
        flip(1, entries[1].endpoint_id, None),
        flip(2, entries[2].endpoint_id + 100, Some(revision)),
    ];
    let there = flips.map(|flip| Tables::flip(&mut endpoints, &locked, &flip).unwrap());
    assert_eq!(
        there,
        [true, true, false],
        "an endpoint id that is not there"
    );
    assert_eq!(
        endpoints.policy_states.get(entries[2].endpoint_index),
        before
    );
    let (a, b) = (
        endpoints.policy_states.get(entries[0].endpoint_index),
        endpoints.policy_states.get(entries[1].endpoint_index),
    );
    assert_eq!(
        (a.flags(), a.set(), a.revision()),
        (PolicyState::STRICT, 4, revision)
    );
    assert!(
        b.revision() > before.revision(),
        "a pending policy state gets a new revision in any case"
    );
    Tables::flip(
        &mut endpoints,
        &locked,
        &flip(0, entries[0].endpoint_id, None),
    )
    .unwrap();
    assert_eq!(
        endpoints
            .policy_states
            .get(entries[0].endpoint_index)
            .revision(),
        a.revision()
    );
}

#[test]
fn host_set_and_host_ports_hold_exactly_what_is_wanted() {
    let scene = Scene::new();
    let locked = scene.store.lock(LONG).unwrap();
    let mut set = HostSet::open(&scene.pins()).unwrap();
    let first = BTreeSet::from([ip("192.0.2.1"), ip("2001:db8::1")]);
    let changes = set.apply(&locked, &first).unwrap();
    assert_eq!((changes.added.len(), changes.removed.len()), (2, 0));
    assert!(set.apply(&locked, &first).unwrap().is_empty());
    let second = BTreeSet::from([ip("192.0.2.1"), ip("192.0.2.2")]);
    let changes = set.apply(&locked, &second).unwrap();
    assert_eq!(
        (changes.added, changes.removed),
        (vec![ip("192.0.2.2")], vec![ip("2001:db8::1")])
    );
    assert_eq!(set.read().unwrap(), second);
    let ports = BTreeSet::from([(6, 80), (17, 53)]);
    assert!(set_host_ports(&locked, &scene.pins(), &ports).unwrap());
    assert!(!set_host_ports(&locked, &scene.pins(), &ports).unwrap());
    assert!(set_host_ports(&locked, &scene.pins(), &BTreeSet::new()).unwrap());
}

#[test]
fn grace_periods_are_waited_for() {
    let grace = Grace::new().unwrap();
    for _ in 0..3 {
        let begin = Instant::now();
        grace.wait().unwrap();
        println!("grace period: {:?}", begin.elapsed());
    }
}

#[test]
fn a_long_change_lets_others_have_the_lock() {
    let scene = Scene::new();
    let store = scene.store.clone();
    let (begun, wait) = std::sync::mpsc::channel();
    let work = std::thread::spawn(move || {
        let (mut n, begin) = (0u32, Instant::now());
        in_slices::<state::lock::Error>(&store, LONG, |_| {
            if n == 0 {
                begun.send(()).unwrap();
            }
            n += 1;
            std::thread::sleep(Duration::from_micros(100));
            Ok(begin.elapsed() < Duration::from_millis(500))
        })
        .unwrap();
    });
    wait.recv().unwrap();
    // A store of another process: its own idea of when it released the lock.
    let other = Store::open(scene.store.root()).unwrap();
    let begin = Instant::now();
    drop(other.lock(LONG).unwrap());
    let waited = begin.elapsed();
    println!("waited {waited:?}");
    assert!(
        waited < Duration::from_millis(250),
        "{waited:?} while slices are {SLICE:?}"
    );
    work.join().unwrap();
}
