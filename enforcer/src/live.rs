//! `verdict::Env` over the pinned maps, from user space: what `podgatectl explain` asks `decide()` with.
//!
//! It reads only. Every packet is a new flow to it: it asks what policy says now, not what a live connection carries.

use std::cell::RefCell;
use std::fs;

use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, MapData, MapError};
use verdict::env::{Env, Flow, Write};
use verdict::layout::{self, Config, Endpoint, PortValue, PrefixValue as Prefix, V4};
use verdict::nursery::Nursery;
use verdict::packet::{Packet, proto};

use crate::maps::{
    self, ConfigValue, EndpointValue, Error, HostPortKey, PeerKey, PeerValue, PortData, PrefixData,
    PrefixValue, RuleKey, RuleValue, SourceData, port_key, prefix_key, source_key,
};
use crate::pins::Pins;
use crate::policy_states::PolicyStates;

/// The pinned tables, as they are now.
pub struct Live {
    endpoint: Option<Endpoint>,
    config: Option<Config>,
    policy_states: PolicyStates,
    sources: LpmTrie<MapData, SourceData, u32>,
    hosts: HashMap<MapData, PeerKey, u32>,
    host_paths: HashMap<MapData, u32, u32>,
    host_ports: HashMap<MapData, HostPortKey, u32>,
    peers: HashMap<MapData, PeerKey, PeerValue>,
    prefixes: LpmTrie<MapData, PrefixData, PrefixValue>,
    rules: HashMap<MapData, RuleKey, RuleValue>,
    ports: LpmTrie<MapData, PortData, PortValue>,
    failure: RefCell<Option<Error>>,
}

/// No flow is ever found here.
pub enum NoFlow {}

impl Flow for NoFlow {
    fn verdict(&self) -> u64 {
        match *self {}
    }
    fn seen(&self) -> u32 {
        match *self {}
    }
    fn state(&self) -> u32 {
        match *self {}
    }
    fn set_seen(&self, _: u32) {}
    fn set_state(&self, _: u32) {}
}

/// A bucket that takes every flow and keeps none.
pub struct NoBucket;

impl Nursery for NoBucket {
    fn check(&self, _: u32) -> u64 {
        0
    }
    fn verdict(&self, _: u32) -> u64 {
        0
    }
    fn seen(&self, _: u32) -> u32 {
        0
    }
    fn state(&self, _: u32) -> u32 {
        0
    }
    fn order(&self, _: u32) -> u32 {
        0
    }
    fn protocol(&self, _: u32) -> u8 {
        0
    }
    fn next_order(&self) -> u32 {
        0
    }
    fn set_seen(&self, _: u32, _: u32) {}
    fn set_state(&self, _: u32, _: u32) {}
    fn set_verdict(&self, _: u32, _: u64, _: u64) {}
    fn set_flow(&self, _: u32, _: &layout::FlowKey, _: u32) {}
}

impl Live {
    /// Opens the tables for the endpoint of one host veth.
    ///
    /// # Errors
    /// If nothing is loaded.
    pub fn open(pins: &Pins, ifindex: u32) -> Result<Self, Error> {
        let entries: HashMap<_, u32, EndpointValue> = maps::hash(pins, "ENDPOINTS")?;
        let config: Array<_, ConfigValue> = maps::array(pins, "CONFIG")?;
        Ok(Self {
            endpoint: found("ENDPOINTS", entries.get(&ifindex, 0))?.map(|v| v.0),
            config: found("CONFIG", config.get(&0, 0))?.map(|v| v.0),
            policy_states: PolicyStates::open(pins)?,
            sources: maps::trie(pins, "SOURCES")?,
            hosts: maps::hash(pins, "HOSTS")?,
            host_paths: maps::hash(pins, "HOSTPATHS")?,
            host_ports: maps::hash(pins, "HOSTPORTS")?,
            peers: maps::hash(pins, "PEERS")?,
            prefixes: maps::trie(pins, "PREFIXES")?,
            rules: maps::hash(pins, "RULES")?,
            ports: maps::trie(pins, "PORTS")?,
            failure: RefCell::new(None),
        })
    }

    /// The first table that could not be read, if any: an answer given before is worth nothing.
    pub fn failure(&self) -> Option<Error> {
        self.failure.borrow_mut().take()
    }

    fn note<T>(&self, name: &'static str, result: Result<T, MapError>) -> Option<T> {
        found(name, result).unwrap_or_else(|e| {
            self.failure.borrow_mut().get_or_insert(e);
            None
        })
    }

    fn has<K: Pod>(&self, name: &'static str, map: &HashMap<MapData, K, u32>, key: &K) -> bool {
        self.note(name, map.get(key, 0)).is_some()
    }
}

fn found<T>(name: &'static str, result: Result<T, MapError>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(e) => Err(Error::read(name, &e)),
    }
}

impl Env for Live {
    type FlowRef = NoFlow;
    type Bucket = NoBucket;

    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint> {
        self.endpoint.as_ref().filter(|e| e.ifindex == ifindex)
    }
    fn policy_state(&self, endpoint_index: u32) -> Option<u64> {
        Some(self.policy_states.get(endpoint_index).0)
    }
    fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }
    fn jiffies(&self) -> u64 {
        0
    }
    fn flow(&self, _: &layout::FlowKey) -> Option<NoFlow> {
        None
    }
    fn put_flow(&self, _: &layout::FlowKey, _: &layout::FlowValue, _: Write) -> bool {
        true
    }
    fn delete_flow(&self, _: &layout::FlowKey) -> bool {
        false
    }
    fn flows_held(&self, _: u32) -> u64 {
        0
    }
    fn count_created(&self, _: u32) {}
    fn count_deleted(&self, _: u32) {}
    fn bucket(&self, _: u32) -> Option<NoBucket> {
        None
    }
    fn make_bucket(&self, _: u32) -> Option<NoBucket> {
        Some(NoBucket)
    }
    fn reload(&self, number: &u32) -> u32 {
        *number
    }
    fn fragment(&self, _: &layout::FragmentKey) -> Option<layout::FlowValue> {
        None
    }
    fn put_fragment(&self, _: &layout::FragmentKey, _: &layout::FlowValue) -> bool {
        true
    }
    fn source(&self, key: &layout::SourceKey) -> Option<u32> {
        self.note("SOURCES", self.sources.get(&source_key(key), 0))
    }
    fn host(&self, key: &layout::PeerKey) -> bool {
        self.has("HOSTS", &self.hosts, &PeerKey(*key))
    }
    fn host_path(&self, ifindex: u32) -> bool {
        self.has("HOSTPATHS", &self.host_paths, &ifindex)
    }
    fn host_port(&self, key: &layout::HostPortKey) -> bool {
        self.has("HOSTPORTS", &self.host_ports, &HostPortKey(*key))
    }
    fn host_socket(&self, packet: &Packet) -> bool {
        let port = u16::from_be(packet.dst_port_be);
        let files: &[&str] = match (packet.protocol, packet.family) {
            (proto::TCP, V4) => &["tcp", "tcp6"],
            (proto::TCP, _) => &["tcp6"],
            (_, V4) => &["udp", "udp6"],
            _ => &["udp6"],
        };
        files.iter().any(|f| {
            let listing = fs::read_to_string(format!("/proc/net/{f}")).unwrap_or_default();
            has_socket(&listing, port, packet.protocol == proto::TCP)
        })
    }
    fn peer(&self, key: &layout::PeerKey) -> Option<layout::PeerValue> {
        self.note("PEERS", self.peers.get(&PeerKey(*key), 0))
            .map(|v| v.0)
    }
    fn prefix(&self, key: &layout::PrefixKey) -> Option<Prefix> {
        self.note("PREFIXES", self.prefixes.get(&prefix_key(key), 0))
            .map(|v| v.0)
    }
    fn rule(&self, key: &layout::RuleKey) -> Option<layout::RuleValue> {
        self.note("RULES", self.rules.get(&RuleKey(*key), 0))
            .map(|v| v.0)
    }
    fn port(&self, key: &layout::PortKey) -> Option<PortValue> {
        self.note("PORTS", self.ports.get(&port_key(key), 0))
    }
}

/// Whether a listing of `/proc/net` has a socket that takes new packets at a port.
fn has_socket(listing: &str, port: u16, tcp: bool) -> bool {
    const LISTEN: &str = "0A";
    listing.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields
            .next()
            .and_then(|l| l.rsplit_once(':'))
            .and_then(|(_, p)| u16::from_str_radix(p, 16).ok());
        let state = fields.nth(1);
        local == Some(port) && (!tcp || state == Some(LISTEN))
    })
}

#[cfg(test)]
mod tests {
    use super::has_socket;

    #[test]
    fn listeners_are_found_by_port() {
        let listing = "  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 0:0\n   \
                       1: 0100007F:2000 0100007F:1F90 01 0:0\n";
        assert!(has_socket(listing, 8080, true));
        assert!(!has_socket(listing, 8192, true));
        assert!(has_socket(listing, 8192, false));
        assert!(!has_socket("", 8192, false));
    }
}
