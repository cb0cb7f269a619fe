//! Sweeps of the flow table on the real maps.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod node;

use std::net::SocketAddr;

use aya::maps::{HashMap, MapData};
use enforcer::endpoint::Endpoints;
use enforcer::flows::{Flows, Summary};
use enforcer::maps::{self, FlowKey, FlowValue, NurseryBucket};
use enforcer::pins::Pins;
use enforcer::quota::Quota;
use node::{Connection, Node};
use state::{AttachMode, Mode, Record};
use verdict::flow::{STATE_ASSURED, STATE_FIN_OPENER, STATE_FIN_OTHER, TICK_JIFFIES, ticks};
use verdict::layout::{self, Addr};

const TCP: u8 = 6;
const UDP: u8 = 17;

struct Table {
    flows: HashMap<MapData, FlowKey, FlowValue>,
    quota: Quota,
    now: u32,
    hz: u32,
}

impl Table {
    fn open(pins: &Pins) -> Self {
        Self {
            flows: maps::hash(pins, "FLOWS").unwrap(),
            quota: Quota::open(pins).unwrap(),
            now: ticks(enforcer::clock::jiffies(pins).unwrap()),
            hz: Flows::open(pins).unwrap().config().unwrap().hz,
        }
    }

    /// As the programs make flows: entries, and counted.
    fn make(
        &mut self,
        endpoint_index: u32,
        endpoint_id: u32,
        count: u16,
        flow: (u8, u32),
        idle_seconds: u32,
    ) {
        let (protocol, state) = flow;
        for port in 0..count {
            let key = layout::FlowKey {
                endpoint_id,
                local_port_be: port.to_be(),
                remote_port_be: (idle_seconds as u16).to_be(),
                family: layout::V4,
                protocol,
                local: Addr::v4([10, 0, 0, state as u8]),
                remote: Addr::v4([10, 0, 0, 9]),
                ..Default::default()
            };
            let age = u64::from(idle_seconds) * u64::from(self.hz) / TICK_JIFFIES;
            let value = layout::FlowValue {
                verdict: 1,
                seen: self.now.wrapping_sub(age as u32),
                state,
            };
            self.flows
                .insert(FlowKey(key), FlowValue(value), 1)
                .unwrap();
        }
        self.quota.count_created(endpoint_index, u64::from(count));
    }

    fn make_for(&mut self, record: &Record, count: u16, flow: (u8, u32), idle_seconds: u32) {
        self.make(
            record.endpoint_index,
            record.endpoint_id,
            count,
            flow,
            idle_seconds,
        );
    }

    fn count_of(&self, record: &Record) -> u64 {
        let keys = self.flows.keys().filter_map(Result::ok);
        keys.filter(|k| k.0.endpoint_id == record.endpoint_id)
            .count() as u64
    }
}

fn add(node: &mut Node, name: &str) -> Record {
    let pod = node.pod();
    node.add(
        &pod,
        "shop",
        name,
        Mode::Standard,
        false,
        AttachMode::Clsact,
    )
}

#[test]
fn what_has_expired_goes_and_is_counted() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    let record = node.add(
        &pod,
        "shop",
        "web",
        Mode::Standard,
        false,
        AttachMode::Clsact,
    );
    let mut kept = Connection::open(&client, &pod, SocketAddr::new(pod.v4, 80));
    assert!(kept.works());
    let pins = Pins::new(&node.bpf);
    let mut flows = Flows::open(&pins).unwrap();
    let real = flows.held(0);
    assert!(real > 0, "an established connection stands in the table");

    let mut table = Table::open(&pins);
    table.make_for(&record, 3000, (TCP, 0), 70);
    table.make_for(
        &record,
        1000,
        (TCP, STATE_ASSURED | STATE_FIN_OPENER | STATE_FIN_OTHER),
        70,
    );
    table.make_for(&record, 2000, (TCP, STATE_ASSURED), 4000);
    table.make_for(&record, 1000, (UDP, STATE_ASSURED), 200);
    table.make_for(&record, 500, (UDP, STATE_ASSURED), 100);
    // Of an endpoint that is gone: counted for all only.
    table.make(0, 1_000_000, 700, (UDP, 0), 1);

    let endpoints = Endpoints::open(&node.bpf).unwrap();
    let mut slices = 0;
    let summary = flows.sweep(&endpoints, &mut || slices += 1).unwrap();
    assert_eq!(
        summary,
        Summary {
            before: real + 8200,
            expired: 5000,
            dead: 700,
            buckets: summary.buckets,
            shrunk: 0
        }
    );
    assert!(slices >= 4, "8,200 flows in slices: {slices}");
    assert_eq!(flows.held(0), real + 2500);
    assert_eq!(flows.held(record.endpoint_index), real + 2500);
    assert_eq!(table.flows.keys().count() as u64, real + 2500);
    assert!(kept.works());
    let again = flows.sweep(&endpoints, &mut || {}).unwrap();
    assert_eq!((again.expired, again.dead), (0, 0));
}

#[test]
fn a_short_table_takes_from_who_holds_most_only() {
    let mut node = Node::new();
    node.load();
    let (greedy, modest) = (add(&mut node, "greedy"), add(&mut node, "modest"));
    let pins = Pins::new(&node.bpf);
    let mut flows = Flows::open(&pins).unwrap();
    {
        let locked = node.store.lock(node::LONG).unwrap();
        assert!(flows.set_minimum(&locked, 2).unwrap());
        assert!(!flows.set_minimum(&locked, 2).unwrap());
    }
    assert_eq!(flows.config().unwrap().flow_minimum, 8192);
    let mut table = Table::open(&pins);
    table.make_for(&greedy, 15_000, (TCP, STATE_ASSURED), 3000);
    table.make_for(&greedy, 6_000, (TCP, STATE_ASSURED), 10);
    // Idle for longer than any of the others.
    table.make_for(&modest, 1_000, (TCP, STATE_ASSURED), 60_000);
    assert!(flows.is_short().unwrap());
    let endpoints = Endpoints::open(&node.bpf).unwrap();
    let shrunk = flows.shrink(&endpoints, &mut || {}).unwrap();
    assert_eq!(shrunk, 21_000 + 1_000 - 16_384);
    assert_eq!(table.count_of(&modest), 1_000);
    assert_eq!(flows.held(greedy.endpoint_index), table.count_of(&greedy));
    let young = table.flows.iter().filter_map(Result::ok).filter(|(k, v)| {
        k.0.endpoint_id == greedy.endpoint_id && table.now.wrapping_sub(v.0.seen) < 2000
    });
    assert_eq!(
        young.count(),
        6_000,
        "the longest idle ones, not those in use"
    );
    assert!(!flows.is_short().unwrap());
    assert_eq!(flows.shrink(&endpoints, &mut || {}).unwrap(), 0);
}

#[test]
fn counters_that_went_wrong_are_put_right() {
    let mut node = Node::new();
    node.load();
    let record = add(&mut node, "web");
    let pins = Pins::new(&node.bpf);
    let mut flows = Flows::open(&pins).unwrap();
    let mut table = Table::open(&pins);
    table.make_for(&record, 100, (TCP, STATE_ASSURED), 10);
    table.quota.count_created(record.endpoint_index, 4900);
    let endpoints = Endpoints::open(&node.bpf).unwrap();
    flows.sweep(&endpoints, &mut || {}).unwrap();
    assert_eq!(flows.held(record.endpoint_index), table.count_of(&record));
    table.quota.count_deleted(record.endpoint_index, 4900);
    flows.sweep(&endpoints, &mut || {}).unwrap();
    assert_eq!(flows.held(record.endpoint_index), table.count_of(&record));
    assert_eq!(flows.held(0), table.flows.keys().count() as u64);
}

#[test]
fn buckets_that_nobody_uses_are_given_back() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    let record = node.add(
        &pod,
        "shop",
        "web",
        Mode::Standard,
        false,
        AttachMode::Clsact,
    );
    let _open = Connection::open(&client, &pod, SocketAddr::new(pod.v4, 80));
    let pins = Pins::new(&node.bpf);
    let mut nursery: HashMap<_, u32, NurseryBucket> = maps::hash(&pins, "NURSERY").unwrap();
    let of_pod = |key: &u32| key >> 16 == record.endpoint_index;
    let (key, bucket) = nursery
        .iter()
        .filter_map(Result::ok)
        .find(|(k, _)| of_pod(k))
        .unwrap();
    // Of an endpoint index that nobody holds.
    nursery.insert((4001 << 16) | 7, bucket, 0).unwrap();
    // One flow that has expired, one that has not.
    let now = ticks(enforcer::clock::jiffies(&pins).unwrap());
    let hour = 3600 * Flows::open(&pins).unwrap().config().unwrap().hz / TICK_JIFFIES as u32;
    let spare = key ^ 1;
    let mut old = bucket;
    old.0.check[0] = 1;
    (old.0.seen, old.0.state) = ([now.wrapping_sub(hour); 12], [0; 12]);
    nursery.insert(spare, old, 0).unwrap();
    let mut used = old;
    used.0.seen[0] = now;
    let other = key ^ 2;
    nursery.insert(other, used, 0).unwrap();
    let endpoints = Endpoints::open(&node.bpf).unwrap();
    let mut flows = Flows::open(&pins).unwrap();
    flows.sweep(&endpoints, &mut || {}).unwrap();
    assert!(nursery.get(&((4001 << 16) | 7), 0).is_err());
    assert!(nursery.get(&spare, 0).is_err());
    assert!(nursery.get(&other, 0).is_ok());
}
