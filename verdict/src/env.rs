//! What `decide` asks of the world around it: the tables and the few facts that only the host knows.

use crate::layout::{
    Config, Endpoint, FlowKey, FlowValue, FragmentKey, HostPortKey, PeerKey, PortKey, PortValue,
    PrefixKey, PrefixValue, RuleKey, RuleValue, SourceKey,
};
use crate::packet::Packet;

/// A flow found in the table; its verdict is read as one word, and only time and state may be written through it.
pub trait Flow {
    /// See [`crate::flow::FlowVerdict`].
    fn verdict(&self) -> u64;
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

    /// Endpoint entry of an interface.
    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint>;
    /// Policy state of an endpoint index; `None` if the endpoint index is out of range.
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

    /// What a further source address is to the endpoint: `SOURCE_OWN`, `SOURCE_EXTRA`, or none of its own.
    fn source(&self, key: &SourceKey) -> Option<u32>;
    /// Whether the address is in the host set.
    fn host(&self, key: &PeerKey) -> bool;
    /// Whether the host's own traffic comes back by this interface.
    fn host_path(&self, ifindex: u32) -> bool;
    /// Whether the port is a hostPort of some pod.
    fn host_port(&self, key: &HostPortKey) -> bool;
    /// Whether a socket of the host takes the packet's (new) TCP or UDP flow.
    fn host_socket(&self, packet: &Packet) -> bool;

    /// Class of an exact peer, as the word in the table.
    fn peer(&self, key: &PeerKey) -> Option<u64>;
    /// Class of the longest prefix.
    fn prefix(&self, key: &PrefixKey) -> Option<PrefixValue>;
    /// A rule.
    fn rule(&self, key: &RuleKey) -> Option<RuleValue>;
    /// A port set's entry.
    fn port(&self, key: &PortKey) -> Option<PortValue>;
}
