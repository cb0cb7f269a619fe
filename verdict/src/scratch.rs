//! The working memory of one decision.

use crate::frame::Head;
use crate::layout::{
    Addr, FlowKey, FlowValue, FragmentKey, PeerKey, PortKey, PrefixKey, RuleKey, SourceKey,
};
use crate::packet::Packet;

/// The working memory of one decision. In the kernel it stands in a per-CPU map: the stack of 512 bytes is for calls.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// What was read.
    pub packet: Packet,
    /// What is embedded in an ICMP error.
    pub inner: Packet,
    /// Key of the flow.
    pub flow: FlowKey,
    /// Value for the flow or fragment.
    pub value: FlowValue,
    /// [`crate::nursery::hash`] of the flow, once it has been looked for there.
    pub hash: u64,
    /// Where the flow was found: a slot of its bucket, or see `crate::record::PLACE_*`.
    pub place: u32,
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

impl Scratch {
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
                verdict: 0,
                seen: 0,
                state: 0,
            },
            hash: 0,
            place: 0,
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

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}
