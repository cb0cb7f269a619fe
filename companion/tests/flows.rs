//! Sweeps of the flow table on the real maps.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod node;

use std::net::SocketAddr;

use aya::maps::{Array, HashMap, MapData};
use enforcer::endpoint::Endpoints;
use enforcer::flows::{Flows, Held, Summary};
use enforcer::maps::{self, FlowKey, FlowValue, ShareValue};
use enforcer::pins::Pins;
use node::{Connection, Node};
use state::{AttachMode, Mode};
use verdict::flow::{STATE_ANSWERED, TICK_JIFFIES, ticks};
use verdict::layout::{self, Addr, Share};

struct Table {
    flows: HashMap<MapData, FlowKey, FlowValue>,
    shares: Array<MapData, ShareValue>,
    now: u32,
    hz: u32,
}

impl Table {
    fn open(pins: &Pins) -> Self {
        Self {
            flows: maps::hash(pins, "FLOWS").unwrap(),
            shares: maps::array(pins, "SHARES").unwrap(),
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
        protocol: u8,
        state: u32,
        idle_seconds: u32,
    ) {
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
            let seen = self
                .now
                .wrapping_sub((u64::from(idle_seconds * self.hz) / TICK_JIFFIES) as u32);
            self.flows
                .insert(
                    FlowKey(key),
                    FlowValue(layout::FlowValue {
                        verdict: 1,
                        seen,
                        state,
                    }),
                    1,
                )
                .unwrap();
        }
        for endpoint_index in [0, endpoint_index] {
            let ShareValue(Share { made, answered }) = self.shares.get(&endpoint_index, 0).unwrap();
            let more = if state & STATE_ANSWERED != 0 {
                u64::from(count)
            } else {
                0
            };
            let share = Share {
                made: made + u64::from(count),
                answered: answered + more,
            };
            self.shares
                .set(endpoint_index, ShareValue(share), 0)
                .unwrap();
        }
    }
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
    let real = flows.held(0).unwrap();
    assert!(real.flows > 0);

    let mut table = Table::open(&pins);
    table.make(record.endpoint_index, record.endpoint_id, 3000, 6, 0, 70);
    table.make(
        record.endpoint_index,
        record.endpoint_id,
        2000,
        6,
        STATE_ANSWERED,
        4000,
    );
    table.make(
        record.endpoint_index,
        record.endpoint_id,
        1000,
        17,
        STATE_ANSWERED,
        200,
    );
    table.make(record.endpoint_index, record.endpoint_id, 500, 17, 0, 100);
    // Of an endpoint that is gone: counted for all only.
    table.make(4001, 1_000_000, 700, 17, 0, 1);

    let endpoints = Endpoints::open(&node.bpf).unwrap();
    let summary = flows.sweep(&node.store, &endpoints).unwrap();
    assert_eq!(
        summary,
        Summary {
            before: real.flows + 7200,
            expired: 4000,
            dead: 700,
            shrunk: 0
        }
    );
    let all = Held {
        flows: real.flows + 2500,
        answered: real.answered + 2000,
    };
    assert_eq!(flows.held(0).unwrap(), all);
    assert_eq!(flows.held(record.endpoint_index).unwrap(), all);
    assert_eq!(table.flows.keys().count() as u64, all.flows);
    assert!(kept.works());
    assert_eq!(
        flows.sweep(&node.store, &endpoints).unwrap(),
        Summary {
            before: all.flows,
            ..Summary::default()
        }
    );
}

#[test]
fn a_short_table_takes_from_who_has_too_much_only() {
    let mut node = Node::new();
    node.load();
    let (pod, other) = (node.pod(), node.pod());
    let greedy = node.add(
        &pod,
        "shop",
        "greedy",
        Mode::Standard,
        false,
        AttachMode::Clsact,
    );
    let modest = node.add(
        &other,
        "shop",
        "modest",
        Mode::Standard,
        false,
        AttachMode::Clsact,
    );
    let pins = Pins::new(&node.bpf);
    let mut flows = Flows::open(&pins).unwrap();
    {
        let locked = node.store.lock(node::LONG).unwrap();
        assert!(flows.set_fair_share(&locked, 2).unwrap());
        assert!(!flows.set_fair_share(&locked, 2).unwrap());
    }
    assert_eq!(flows.config().unwrap().fair_share, 4096);
    let mut table = Table::open(&pins);
    table.make(
        greedy.endpoint_index,
        greedy.endpoint_id,
        15_000,
        6,
        STATE_ANSWERED,
        3000,
    );
    table.make(
        greedy.endpoint_index,
        greedy.endpoint_id,
        10_000,
        6,
        STATE_ANSWERED,
        10,
    );
    table.make(
        modest.endpoint_index,
        modest.endpoint_id,
        1_000,
        6,
        STATE_ANSWERED,
        80_000 % 65_536,
    );
    assert!(flows.is_short().unwrap());
    let endpoints = Endpoints::open(&node.bpf).unwrap();
    let summary = flows.sweep(&node.store, &endpoints).unwrap();
    assert_eq!(
        (summary.expired, summary.dead, summary.shrunk),
        (0, 0, 15_000),
        "the idle ones, not those in use"
    );
    assert!(flows.held(modest.endpoint_index).unwrap().flows >= 1_000);
    assert!(!flows.is_short().unwrap());
}

#[test]
fn counters_that_went_wrong_are_put_right() {
    let mut node = Node::new();
    node.load();
    let pod = node.pod();
    let record = node.add(
        &pod,
        "shop",
        "web",
        Mode::Standard,
        false,
        AttachMode::Clsact,
    );
    let pins = Pins::new(&node.bpf);
    let mut flows = Flows::open(&pins).unwrap();
    let mut table = Table::open(&pins);
    table.make(
        record.endpoint_index,
        record.endpoint_id,
        100,
        6,
        STATE_ANSWERED,
        10,
    );
    table
        .shares
        .set(
            record.endpoint_index,
            ShareValue(Share {
                made: 5000,
                answered: 20,
            }),
            0,
        )
        .unwrap();
    let endpoints = Endpoints::open(&node.bpf).unwrap();
    flows.sweep(&node.store, &endpoints).unwrap();
    let held = flows.held(record.endpoint_index).unwrap();
    assert_eq!(
        held.flows,
        table
            .flows
            .keys()
            .filter_map(Result::ok)
            .filter(|k| k.0.endpoint_id == record.endpoint_id)
            .count() as u64
    );
    assert!(held.answered >= 100, "{held:?}");
}
