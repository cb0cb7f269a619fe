//! The maps as collections, and [`Env`] over them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use verdict::env::{Env, Flow, Write};
use verdict::layout::{
    Addr, Config, ENDPOINT_INDEXES, Endpoint, FlowKey, FlowValue, FragmentKey, HostPortKey,
    PeerKey, PeerValue, PortKey, PortValue, PrefixKey, PrefixValue, RuleKey, RuleValue, Share,
    SourceKey, Swept,
};
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
    pub rules: BTreeMap<RuleKey, RuleValue>,
    /// Entries that the flow table takes; 0 = refuses all.
    pub flow_capacity: usize,
    sources: Trie<24, u32>,
    prefixes: Trie<20, PrefixValue>,
    ports: Trie<8, PortValue>,
    flows: RefCell<BTreeMap<FlowKey, FlowCell>>,
    fragments: RefCell<BTreeMap<FragmentKey, FlowValue>>,
    shares: RefCell<BTreeMap<u32, Share>>,
    /// Flows removed by the sweep, per endpoint index.
    pub swept: BTreeMap<u32, Swept>,
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
            shares: RefCell::default(),
            swept: BTreeMap::new(),
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
        fair_share: 131_072,
        unanswered_limit: 32_768,
        node_port_first: 30_000,
        node_port_last: 32_767,
        events_per_endpoint: 100,
        events_per_node: 2_000,
        pad: 0,
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

    /// Every flow that is in the table, also those past their time-out.
    pub fn flows(&self) -> Vec<(FlowKey, FlowValue)> {
        self.flows
            .borrow()
            .iter()
            .map(|(k, v)| (*k, v.0.get()))
            .collect()
    }

    /// The flows that an endpoint index's earlier holder made are none of its next one's share.
    pub fn forget_flows_of_index(&mut self, endpoint_index: u32) {
        let made = self
            .shares
            .borrow()
            .get(&endpoint_index)
            .copied()
            .unwrap_or_default();
        self.swept.insert(
            endpoint_index,
            Swept {
                removed: made.made,
                answered: made.answered,
            },
        );
    }

    /// Lets time pass.
    pub fn advance(&mut self, seconds: u32) {
        let hz = self.config.as_ref().map_or(250, |c| c.hz);
        self.jiffies += u64::from(seconds) * u64::from(hz);
    }
}

impl Env for Tables {
    type FlowRef = FlowCell;

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
    fn share(&self, endpoint_index: u32) -> (u64, u64) {
        let share = self
            .shares
            .borrow()
            .get(&endpoint_index)
            .copied()
            .unwrap_or_default();
        let swept = self.swept.get(&endpoint_index).copied().unwrap_or_default();
        // The same arithmetic as in the programs, where both counters are read one after the other.
        let floor = |n: u64| if n > u64::MAX / 2 { 0 } else { n };
        let live = floor(share.made.wrapping_sub(swept.removed));
        (
            live,
            floor(live.wrapping_sub(share.answered.wrapping_sub(swept.answered))),
        )
    }
    fn count_made(&self, endpoint_index: u32) {
        for s in [endpoint_index, 0] {
            self.shares.borrow_mut().entry(s).or_default().made += 1;
        }
    }
    fn count_answered(&self, endpoint_index: u32, answered: bool) {
        for s in [endpoint_index, 0] {
            let mut shares = self.shares.borrow_mut();
            let share = shares.entry(s).or_default();
            share.answered = share
                .answered
                .wrapping_add(if answered { 1 } else { u64::MAX });
        }
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
    fn peer(&self, key: &PeerKey) -> Option<u64> {
        self.peers.get(key).map(|v| v.word)
    }
    fn prefix(&self, key: &PrefixKey) -> Option<PrefixValue> {
        self.prefixes
            .longest(key.prefix_len, prefix_bytes(key))
            .copied()
    }
    fn rule(&self, key: &RuleKey) -> Option<RuleValue> {
        self.rules.get(key).copied()
    }
    fn port(&self, key: &PortKey) -> Option<PortValue> {
        self.ports.longest(key.prefix_len, port_bytes(key)).copied()
    }
}
