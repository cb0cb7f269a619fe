//! What `decide` asks of the world around it: the tables and the few facts that only the host knows.

use crate::layout::{
    Config, Endpoint, FlowKey, FlowValue, FragmentKey, HostPortKey, PeerKey, PeerValue, PortKey,
    PortValue, PrefixKey, PrefixValue, RuleKey, RuleValue, SourceKey,
};
use crate::nursery::Nursery;
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
    /// Only if there is none.
    Create,
    /// Only if there is one.
    Replace,
}

/// The tables and the few facts that only the host knows.
pub trait Env {
    /// A flow in the table.
    type FlowRef: Flow;
    /// A bucket of the nursery.
    type Bucket: Nursery;

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
    /// Deletes a flow; false if it was not there.
    fn delete_flow(&self, key: &FlowKey) -> bool;
    /// Flows in the table of an endpoint index (0 = all), by the counters.
    fn flows_held(&self, endpoint_index: u32) -> u64;
    /// Counts a flow created in the endpoint index and in all.
    fn count_created(&self, endpoint_index: u32);
    /// Counts a flow deleted in the endpoint index and in all.
    fn count_deleted(&self, endpoint_index: u32);
    /// A bucket of the nursery.
    fn bucket(&self, key: u32) -> Option<Self::Bucket>;
    /// A bucket of the nursery, made if it is not there; `None` if the table refused it.
    fn make_bucket(&self, key: u32) -> Option<Self::Bucket>;
    /// A number that stands in the scratch memory, read from there: the verifier is to see one number of a range instead of
    /// following each by itself.
    fn reload(&self, number: &u32) -> u32;

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

    /// Class of an exact peer.
    fn peer(&self, key: &PeerKey) -> Option<PeerValue>;
    /// Class of the longest prefix.
    fn prefix(&self, key: &PrefixKey) -> Option<PrefixValue>;
    /// A rule.
    fn rule(&self, key: &RuleKey) -> Option<RuleValue>;
    /// A port set's entry.
    fn port(&self, key: &PortKey) -> Option<PortValue>;
}
