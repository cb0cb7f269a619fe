//! What `decide` asks of the world around it: the frame's bytes, the packet's metadata and the tables.

use crate::layout::{
    Addr, Config, Endpoint, FlowKey, FlowValue, FragmentKey, HostPortKey, PeerKey, PortKey,
    PortValue, PrefixKey, PrefixValue, RuleKey, RuleValue, SourceKey,
};
use crate::packet::{Head, Packet};

/// The bytes of a frame, from its Ethernet header on.
pub trait Frame {
    /// Copies `N` bytes at `offset`; false if the frame does not have them. Never changes the frame.
    fn load<const N: usize>(&self, offset: u32, into: &mut [u8; N]) -> bool;

    /// Copies `length` bytes (at most [`HEAD_BYTES`](crate::packet::HEAD_BYTES)) at `offset` into a head; false if the
    /// frame does not have them. One call for what most packets need: in the kernel each costs as much as a look-up.
    fn head(&self, offset: u32, length: u32, into: &mut Head) -> bool {
        let mut byte = [0];
        (0..length).all(|i| self.load(offset + i, &mut byte) && into.set(i, byte[0]))
    }
}

/// What the kernel tells beside the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The host veth.
    pub ifindex: u32,
    /// The interface by which the packet came into the host; 0 = made on the host itself (or re-fragmented there).
    pub ingress_ifindex: u32,
    /// Length of the frame with its Ethernet header; of all segments where GSO applies.
    pub len: u32,
    /// Whether this is a GSO packet.
    pub gso: bool,
    /// Whether a VLAN tag stands beside the bytes.
    pub vlan_present: bool,
    /// The tag control information of that tag.
    pub vlan_tci: u16,
}

/// A flow found in the table; its verdict is read as one word, and only time and state may be written through it.
pub trait Flow {
    /// See [`crate::flow::Judged`].
    fn judged(&self) -> u64;
    /// Time of the last packet.
    fn seen(&self) -> u32;
    /// See `crate::flow::STATE_*`.
    fn state(&self) -> u32;
    /// Notes the time of a packet.
    fn set_seen(&self, seen: u32);
    /// Notes the state.
    fn set_state(&self, state: u32);
}

/// How a flow is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Only if there is none (counts as made).
    Create,
    /// Only if there is one.
    Replace,
}

/// The tables and the few facts that only the host knows.
pub trait Env {
    /// A flow in the table.
    type FlowRef: Flow;

    /// Row of an interface.
    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint>;
    /// Policy policy state of an endpoint index; `None` if the endpoint index is out of range.
    fn policy_state(&self, endpoint_index: u32) -> Option<u64>;
    /// The node's settings.
    fn config(&self) -> Option<&Config>;
    /// Jiffies since boot.
    fn jiffies(&self) -> u64;

    /// A flow.
    fn flow(&self, key: &FlowKey) -> Option<Self::FlowRef>;
    /// Writes a flow by key; false if the table refused it.
    fn put_flow(&self, key: &FlowKey, value: &FlowValue, how: Write) -> bool;
    /// Flows made and answered, less those removed, of an endpoint index (0 = all): (live, unanswered).
    fn share(&self, endpoint_index: u32) -> (u64, u64);
    /// Counts a flow made in the endpoint index and in all.
    fn count_made(&self, endpoint_index: u32);
    /// Counts a flow answered (or, with false, no longer answered) in the endpoint index and in all.
    fn count_answered(&self, endpoint_index: u32, answered: bool);

    /// A first fragment's verdict.
    fn fragment(&self, key: &FragmentKey) -> Option<FlowValue>;
    /// Remembers a first fragment's verdict.
    fn put_fragment(&self, key: &FragmentKey, value: &FlowValue) -> bool;

    /// Whether a further source address belongs to the endpoint.
    fn source(&self, key: &SourceKey) -> bool;
    /// Whether the address is in the host set.
    fn host(&self, key: &PeerKey) -> bool;
    /// Whether the host's own traffic comes back by this interface.
    fn host_path(&self, ifindex: u32) -> bool;
    /// Whether the port is a hostPort of some pod.
    fn host_port(&self, key: &HostPortKey) -> bool;
    /// Whether a socket of the host takes the packet's (new) TCP or UDP flow.
    fn host_socket(&self, packet: &Packet) -> bool;

    /// Class of an exact peer, as the policy state in the table.
    fn peer(&self, key: &PeerKey) -> Option<u64>;
    /// Class of the longest prefix.
    fn prefix(&self, key: &PrefixKey) -> Option<PrefixValue>;
    /// A rule.
    fn rule(&self, key: &RuleKey) -> Option<RuleValue>;
    /// A port set's entry.
    fn port(&self, key: &PortKey) -> Option<PortValue>;
}

/// The working memory of one decision. In the kernel it stands in a per-CPU map: the stack of 512 bytes is for calls.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// What was read.
    pub packet: Packet,
    /// What is embedded in an ICMP error.
    pub inner: Packet,
    /// Key of the flow.
    pub flow: FlowKey,
    /// Value for the flow or fragment.
    pub value: FlowValue,
    /// Key of the first fragment.
    pub fragment: FragmentKey,
    /// Key for peers and the host set.
    pub peer: PeerKey,
    /// Key for the prefix trie.
    pub prefix: PrefixKey,
    /// Key for further sources.
    pub source: SourceKey,
    /// Key for the port trie.
    pub port: PortKey,
    /// Key for the rules.
    pub rule: RuleKey,
    /// The first bytes of the frame.
    pub head: Head,
    /// Buffer for the headers of an embedded packet.
    pub buffer: [u8; 40],
}

impl Work {
    /// Empty.
    pub const fn new() -> Self {
        Self {
            packet: Packet::EMPTY,
            inner: Packet::EMPTY,
            flow: FlowKey {
                endpoint_id: 0,
                local_port_be: 0,
                remote_port_be: 0,
                family: 0,
                protocol: 0,
                echo: 0,
                local: Addr::ZERO,
                remote: Addr::ZERO,
            },
            value: FlowValue {
                judged: 0,
                seen: 0,
                state: 0,
            },
            fragment: FragmentKey {
                endpoint_id: 0,
                id_be: 0,
                family: 0,
                protocol: 0,
                direction: 0,
                pad: 0,
                src: Addr::ZERO,
                dst: Addr::ZERO,
            },
            peer: PeerKey {
                family: 0,
                addr: Addr::ZERO,
            },
            prefix: PrefixKey {
                prefix_len: 0,
                family: 0,
                addr: Addr::ZERO,
            },
            source: SourceKey {
                prefix_len: 0,
                endpoint_id: 0,
                family: 0,
                addr: Addr::ZERO,
            },
            port: PortKey {
                prefix_len: 0,
                port_set: 0,
                protocol_be: 0,
                port_be: 0,
            },
            rule: RuleKey {
                class: 0,
                set: 0,
                direction: 0,
                family: 0,
            },
            head: Head::EMPTY,
            buffer: [0; 40],
        }
    }
}

impl Default for Work {
    fn default() -> Self {
        Self::new()
    }
}

/// The answer for one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Why; tells pass or drop too.
    pub reason: crate::Reason,
    /// The endpoint's endpoint index, 0 where there is none.
    pub endpoint_index: u32,
    /// The endpoint's endpoint id, 0 where there is none.
    pub endpoint_id: u32,
    /// Whether the endpoint wants events.
    pub log: bool,
}

impl Decision {
    /// No endpoint.
    pub const NO_ENDPOINT: Self = Self {
        reason: crate::Reason::NoEndpoint,
        endpoint_index: 0,
        endpoint_id: 0,
        log: false,
    };
}
