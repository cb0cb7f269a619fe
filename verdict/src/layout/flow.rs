//! Tracked flows, first fragments, and how many flows an endpoint has.

use core::mem::{offset_of, size_of};

use super::Addr;

/// Key of a tracked flow, from the pod's point of view, so that both directions have the same key.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// Id of the endpoint.
    pub endpoint_id: u32,
    /// Port of the pod's side; 0 where the protocol has none. The identifier of an ICMP echo is the port of the side
    /// that asks.
    pub local_port_be: u16,
    /// Port of the other side.
    pub remote_port_be: u16,
    /// [`V4`](crate::layout::V4) or [`V6`](crate::layout::V6).
    pub family: u8,
    /// Protocol number of the packet's last header.
    pub protocol: u8,
    /// See `ECHO_ASKED_*` and [`ICMP_PAIR`]; 0 for all that is no ICMP.
    pub echo: u16,
    /// Address of the pod's side.
    pub local: Addr,
    /// Address of the other side.
    pub remote: Addr,
}

/// An ICMP echo that the pod asks: one that the other side asks is another flow, also with the same identifier.
pub const ECHO_ASKED_BY_POD: u16 = 1;

/// An ICMP echo that the other side asks.
pub const ECHO_ASKED_BY_OTHER: u16 = 2;

/// Other ICMP: this and half the type, rounded up. A request and its reply (13 and 14 and so on; 139 and 140) are one flow,
/// and no other type is of it.
pub const ICMP_PAIR: u16 = 0x100;

/// Value of a tracked flow and of a first fragment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowValue {
    /// See [`crate::flow::FlowVerdict`]: one word, so that it is read whole.
    pub verdict: u64,
    /// Time of the last packet, in [`crate::flow::TICK_JIFFIES`] jiffies.
    pub seen: u32,
    /// See `crate::flow::STATE_*`; of a first fragment the interface by which it came.
    pub state: u32,
}

/// Key of a first fragment's verdict.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey {
    /// Id of the endpoint.
    pub endpoint_id: u32,
    /// Identification (IPv4: 16 bits), as on the wire.
    pub id_be: u32,
    /// [`V4`](crate::layout::V4) or [`V6`](crate::layout::V6).
    pub family: u8,
    /// Protocol number.
    pub protocol: u8,
    /// [`Direction`](crate::layout::Direction).
    pub direction: u8,
    /// Zero.
    pub pad: u8,
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
}

/// Flows of one bucket of the nursery.
pub const NURSERY_SLOTS: usize = 12;

/// A bucket of the nursery, see [`crate::nursery`]; key: [`crate::nursery::bucket_key`]. Written in place.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NurseryBucket {
    /// Of each slot, the flow. First, so that a slot number below 16, which is all that a verifier may know of one, stays
    /// within the value for every field.
    pub keys: [FlowKey; NURSERY_SLOTS],
    /// Of each slot, [`crate::nursery::check`]; 0 = free.
    pub check: [u64; NURSERY_SLOTS],
    /// Of each slot, [`crate::flow::FlowVerdict`].
    pub verdict: [u64; NURSERY_SLOTS],
    /// Of each slot, the time of the last packet.
    pub seen: [u32; NURSERY_SLOTS],
    /// Of each slot, `crate::flow::STATE_*`.
    pub state: [u32; NURSERY_SLOTS],
    /// Of each slot, `next` when its flow came.
    pub order: [u32; NURSERY_SLOTS],
    /// Flows that have come into the bucket; it comes round.
    pub next: u32,
    /// Zero.
    pub pad: u32,
    /// Zero: what lies behind the last field for the slot numbers that a verifier takes for possible.
    pub spare: u64,
}

/// What makes the nursery's places and checks unpredictable: random, of this node, since its maps were made.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct NurseryKey {
    /// Factor of the verdict.
    pub factor: u64,
    /// What is added to the words of a flow's key.
    pub words: [u32; 12],
}

/// Nobody is shown it.
impl core::fmt::Debug for NurseryKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("NurseryKey(..)")
    }
}

const _: () = {
    assert!(
        size_of::<FlowKey>() == 44
            && offset_of!(FlowKey, echo) == 10
            && offset_of!(FlowKey, remote) == 28
    );
    assert!(size_of::<FlowValue>() == 16 && offset_of!(FlowValue, seen) == 8);
    assert!(size_of::<FragmentKey>() == 44 && offset_of!(FragmentKey, src) == 12);
    assert!(size_of::<NurseryBucket>() == 880 && offset_of!(NurseryBucket, order) + 16 * 4 == 880);
    assert!(size_of::<NurseryKey>() == 56);
};
