//! The maps as collections, and [`Env`] over them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use verdict::env::{Env, Flow, Write};
use verdict::layout::{
    Addr, Config, ENDPOINT_INDEXES, Endpoint, FlowKey, FlowValue, FragmentKey, HostPortKey,
    NURSERY_SLOTS, NurseryBucket, NurseryKey, PeerKey, PeerValue, PortKey, PortValue, PrefixKey,
    PrefixValue, RuleKey, RuleValue, SourceKey,
};
use verdict::nursery::Nursery;
use verdict::packet::Packet;

use crate::trie::Trie;

/// A flow in the model's table.
#[derive(Clone, Debug)]
pub struct FlowCell(Rc<Cell<FlowValue>>);

impl Flow for FlowCell {
    fn verdict(&self) -> u64 {
        self.0.get().verdict
    }
    fn seen(&self) -> u32 {
        self.0.get().seen
    }
    fn state(&self) -> u32 {
        self.0.get().state
    }
    fn set_seen(&self, seen: u32) {
        self.0.set(FlowValue {
            seen,
            ..self.0.get()
        });
    }
    fn set_state(&self, state: u32) {
        self.0.set(FlowValue {
            state,
            ..self.0.get()
        });
    }
}

/// A bucket of the model's nursery.
#[derive(Clone, Debug)]
pub struct BucketCell(Rc<RefCell<NurseryBucket>>);

impl Default for BucketCell {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(NurseryBucket {
            check: [0; NURSERY_SLOTS],
            verdict: [0; NURSERY_SLOTS],
            seen: [0; NURSERY_SLOTS],
            state: [0; NURSERY_SLOTS],
            order: [0; NURSERY_SLOTS],
            next: 0,
            pad: 0,
            spare: 0,
            keys: [FlowKey::default(); NURSERY_SLOTS],
        })))
    }
}

impl Nursery for BucketCell {
    fn check(&self, slot: u32) -> u64 {
        self.0.borrow().check[slot as usize]
    }
    fn verdict(&self, slot: u32) -> u64 {
        self.0.borrow().verdict[slot as usize]
    }
    fn seen(&self, slot: u32) -> u32 {
        self.0.borrow().seen[slot as usize]
    }
    fn state(&self, slot: u32) -> u32 {
        self.0.borrow().state[slot as usize]
    }
    fn order(&self, slot: u32) -> u32 {
        self.0.borrow().order[slot as usize]
    }
    fn protocol(&self, slot: u32) -> u8 {
        self.0.borrow().keys[slot as usize].protocol
    }
    fn next_order(&self) -> u32 {
        let mut bucket = self.0.borrow_mut();
        bucket.next = bucket.next.wrapping_add(1);
        bucket.next.wrapping_sub(1)
    }
    fn set_seen(&self, slot: u32, seen: u32) {
        self.0.borrow_mut().seen[slot as usize] = seen;
    }
    fn set_state(&self, slot: u32, state: u32) {
        self.0.borrow_mut().state[slot as usize] = state;
    }
    fn set_verdict(&self, slot: u32, check: u64, verdict: u64) {
        let mut bucket = self.0.borrow_mut();
        bucket.check[slot as usize] = check;
        bucket.verdict[slot as usize] = verdict;
    }
    fn set_flow(&self, slot: u32, key: &FlowKey, order: u32) {
        let mut bucket = self.0.borrow_mut();
        bucket.keys[slot as usize] = *key;
        bucket.order[slot as usize] = order;
    }
}

/// Every table of the node. What the programs only read is plain; what they write has its own cell.
#[derive(Debug)]
pub struct Tables {
    /// Endpoint rows by ifindex.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// Policy states by endpoint index.
    pub policy_states: BTreeMap<u32, u64>,
    /// The node's settings; `None` stands for a map that cannot be read.
    pub config: Option<Config>,
    /// Jiffies since boot.
    pub jiffies: u64,
    /// The host set.
    pub hosts: BTreeSet<PeerKey>,
    /// Interfaces by which the host's own traffic comes back.
    pub host_paths: BTreeSet<u32>,
    /// hostPorts of pods.
    pub host_ports: BTreeSet<HostPortKey>,
    /// Ports at which the host has a socket: protocol, port in host byte order.
    pub sockets: BTreeSet<(u8, u16)>,
    /// Exact peers, as the policy states in the table.
    pub peers: BTreeMap<PeerKey, PeerValue>,
    /// Rules.
    pub rules: BTreeMap<RuleKey, u32>,
    /// Entries that the flow table takes; 0 = refuses all.
    pub flow_capacity: usize,
    sources: Trie<24, u32>,
    prefixes: Trie<20, PrefixValue>,
    ports: Trie<8, PortValue>,
    flows: RefCell<BTreeMap<FlowKey, FlowCell>>,
    fragments: RefCell<BTreeMap<FragmentKey, FlowValue>>,
    nursery: RefCell<BTreeMap<u32, BucketCell>>,
    held: RefCell<BTreeMap<u32, u64>>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            endpoints: BTreeMap::new(),
            policy_states: BTreeMap::new(),
            config: Some(Self::CONFIG),
            jiffies: 1_000_000,
            hosts: BTreeSet::new(),
            host_paths: BTreeSet::new(),
            host_ports: BTreeSet::new(),
            sockets: BTreeSet::new(),
            peers: BTreeMap::new(),
            rules: BTreeMap::new(),
            flow_capacity: usize::MAX,
            sources: Trie::default(),
            prefixes: Trie::default(),
            ports: Trie::default(),
            flows: RefCell::default(),
            fragments: RefCell::default(),
            nursery: RefCell::default(),
            held: RefCell::default(),
        }
    }
}

fn bytes_of<const N: usize>(words: &[u32], addr: Addr) -> [u8; N] {
    let mut out = [0; N];
    let all = words
        .iter()
        .flat_map(|w| w.to_ne_bytes())
        .chain(addr.bytes());
    out.iter_mut().zip(all).for_each(|(o, b)| *o = b);
    out
}

fn prefix_bytes(key: &PrefixKey) -> [u8; 20] {
    bytes_of(&[key.family], key.addr)
}

fn source_bytes(key: &SourceKey) -> [u8; 24] {
    bytes_of(&[key.endpoint_id, key.family], key.addr)
}

fn port_bytes(key: &PortKey) -> [u8; 8] {
    let ([a, b, c, d], [e, f], [g, h]) = (
        key.port_set.to_ne_bytes(),
        key.protocol_be.to_ne_bytes(),
        key.port_be.to_ne_bytes(),
    );
    [a, b, c, d, e, f, g, h]
}

impl Tables {
    /// The settings unless told otherwise.
    pub const CONFIG: Config = Config {
        hz: 250,
        flow_limit: 524_288,
        flow_minimum: 262_144,
        nursery_mask: 255,
        node_port_first: 30_000,
        node_port_last: 32_767,
        events_per_endpoint: 100,
        events_per_node: 2_000,
        pad: 0,
        nursery_key: NurseryKey {
            factor: 0x9e37_79b9_7f4a_7c15,
            words: [
                0x243f_6a88,
                0x85a3_08d3,
                0x1319_8a2e,
                0x0370_7344,
                0xa409_3822,
                0x299f_31d0,
                0x082e_fa98,
                0xec4e_6c89,
                0x4528_21e6,
                0x38d0_1377,
                0xbe54_66cf,
                0x34e9_0c6c,
            ],
        },
    };

    /// Puts a prefix of peers in, or takes it out.
    pub fn set_prefix(&mut self, key: &PrefixKey, value: Option<PrefixValue>) {
        match value {
            Some(value) => self
                .prefixes
                .insert(key.prefix_len, prefix_bytes(key), value),
            None => self.prefixes.remove(key.prefix_len, prefix_bytes(key)),
        }
    }

    /// Puts a further source of an endpoint in.
    pub fn add_source(&mut self, key: &SourceKey, value: u32) {
        self.sources
            .insert(key.prefix_len, source_bytes(key), value);
    }

    /// Puts an entry of a port set in.
    pub fn set_port(&mut self, key: &PortKey, value: Option<PortValue>) {
        match value {
            Some(value) => self.ports.insert(key.prefix_len, port_bytes(key), value),
            None => self.ports.remove(key.prefix_len, port_bytes(key)),
        }
    }

    /// Every flow that is in the table or in the nursery, also those past their time-out.
    pub fn flows(&self) -> Vec<(FlowKey, FlowValue)> {
        let table = self.flows.borrow();
        let nursery = self.nursery.borrow();
        let young = nursery.values().flat_map(|cell| {
            let bucket = cell.0.borrow();
            let slot = |slot: usize| {
                let value = FlowValue {
                    verdict: bucket.verdict[slot],
                    seen: bucket.seen[slot],
                    state: bucket.state[slot],
                };
                (bucket.check[slot] != 0).then_some((bucket.keys[slot], value))
            };
            (0..NURSERY_SLOTS).filter_map(slot).collect::<Vec<_>>()
        });
        table
            .iter()
            .map(|(k, v)| (*k, v.0.get()))
            .chain(young)
            .collect()
    }

    /// Assured flows, which alone stand in the table.
    pub fn assured(&self) -> usize {
        self.flows.borrow().len()
    }

    /// The flows that an endpoint index's earlier holder has are none of its next one's.
    pub fn forget_flows_of_index(&mut self, endpoint_index: u32) {
        self.held.borrow_mut().insert(endpoint_index, 0);
        self.nursery
            .borrow_mut()
            .retain(|key, _| key >> 16 != endpoint_index);
    }

    /// Lets time pass.
    pub fn advance(&mut self, seconds: u32) {
        let hz = self.config.as_ref().map_or(250, |c| c.hz);
        self.jiffies += u64::from(seconds) * u64::from(hz);
    }
}

impl Env for Tables {
    type FlowRef = FlowCell;
    type Bucket = BucketCell;

    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint> {
        self.endpoints.get(&ifindex)
    }
    fn policy_state(&self, endpoint_index: u32) -> Option<u64> {
        (endpoint_index < ENDPOINT_INDEXES).then(|| {
            self.policy_states
                .get(&endpoint_index)
                .copied()
                .unwrap_or(0)
        })
    }
    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }
    fn jiffies(&self) -> u64 {
        self.jiffies
    }
    fn flow(&self, key: &FlowKey) -> Option<FlowCell> {
        self.flows.borrow().get(key).cloned()
    }
    fn put_flow(&self, key: &FlowKey, value: &FlowValue, how: Write) -> bool {
        let mut flows = self.flows.borrow_mut();
        match (how, flows.get(key)) {
            (Write::Replace, Some(flow)) => {
                flow.0.set(*value);
                true
            }
            (Write::Create, None) if flows.len() < self.flow_capacity => {
                flows.insert(*key, FlowCell(Rc::new(Cell::new(*value))));
                true
            }
            _ => false,
        }
    }
    fn delete_flow(&self, key: &FlowKey) -> bool {
        self.flows.borrow_mut().remove(key).is_some()
    }
    fn flows_held(&self, endpoint_index: u32) -> u64 {
        self.held
            .borrow()
            .get(&endpoint_index)
            .copied()
            .unwrap_or(0)
    }
    fn count_created(&self, endpoint_index: u32) {
        for index in [endpoint_index, 0] {
            *self.held.borrow_mut().entry(index).or_default() += 1;
        }
    }
    fn count_deleted(&self, endpoint_index: u32) {
        for index in [endpoint_index, 0] {
            let mut held = self.held.borrow_mut();
            let held = held.entry(index).or_default();
            *held = held.saturating_sub(1);
        }
    }
    fn bucket(&self, key: u32) -> Option<BucketCell> {
        self.nursery.borrow().get(&key).cloned()
    }
    fn make_bucket(&self, key: u32) -> Option<BucketCell> {
        let mut nursery = self.nursery.borrow_mut();
        (nursery.len() < self.flow_capacity).then(|| nursery.entry(key).or_default().clone())
    }
    fn reload(&self, number: &u32) -> u32 {
        *number
    }
    fn fragment(&self, key: &FragmentKey) -> Option<FlowValue> {
        self.fragments.borrow().get(key).copied()
    }
    fn put_fragment(&self, key: &FragmentKey, value: &FlowValue) -> bool {
        self.fragments.borrow_mut().insert(*key, *value);
        true
    }
    fn source(&self, key: &SourceKey) -> Option<u32> {
        self.sources
            .longest(key.prefix_len, source_bytes(key))
            .copied()
    }
    fn host(&self, key: &PeerKey) -> bool {
        self.hosts.contains(key)
    }
    fn host_path(&self, ifindex: u32) -> bool {
        self.host_paths.contains(&ifindex)
    }
    fn host_port(&self, key: &HostPortKey) -> bool {
        self.host_ports.contains(key)
    }
    fn host_socket(&self, packet: &Packet) -> bool {
        self.sockets
            .contains(&(packet.protocol, u16::from_be(packet.dst_port_be)))
    }
    fn peer(&self, key: &PeerKey) -> Option<PeerValue> {
        self.peers.get(key).copied()
    }
    fn prefix(&self, key: &PrefixKey) -> Option<PrefixValue> {
        self.prefixes
            .longest(key.prefix_len, prefix_bytes(key))
            .copied()
    }
    fn rule(&self, key: &RuleKey) -> Option<RuleValue> {
        let says = self.rules.get(key)?;
        Some(RuleValue::new(key, *says))
    }
    fn port(&self, key: &PortKey) -> Option<PortValue> {
        self.ports.longest(key.prefix_len, port_bytes(key)).copied()
    }
}
