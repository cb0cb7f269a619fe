//! Counters, events and their rate limit.

use core::mem::{offset_of, size_of};

use super::{Addr, Direction};

/// Key of a counter by reason: endpoint index, direction and reason in one word.
#[inline(always)]
pub const fn counter_key(endpoint_index: u32, direction: Direction, reason: crate::Reason) -> u32 {
    (endpoint_index << 16) | ((direction as u32) << 8) | reason as u32
}

/// A counter; per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets, by the segments of a GSO packet.
    pub packets: u64,
    /// Bytes, with the Ethernet header.
    pub bytes: u64,
}

/// What a program tells about one verdict, in the event ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Host veth.
    pub ifindex: u32,
    /// Id of the endpoint; 0 where there is none.
    pub endpoint_id: u32,
    /// Endpoint index of the endpoint.
    pub endpoint_index: u32,
    /// Bytes of the packet.
    pub bytes: u32,
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port.
    pub src_port_be: u16,
    /// Destination port.
    pub dst_port_be: u16,
    /// [`V4`](crate::layout::V4), [`V6`](crate::layout::V6), or 0 where the packet was not read so far.
    pub family: u8,
    /// Protocol number.
    pub protocol: u8,
    /// [`Direction`].
    pub direction: u8,
    /// [`crate::Reason`].
    pub reason: u8,
}

/// Window of the event rate limit, per endpoint index; endpoint index 0: all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Second in which `sent` counts.
    pub second: u32,
    /// Events sent in it.
    pub sent: u32,
    /// Events not sent for the limit or a full ring, ever.
    pub lost: u64,
}

const _: () = {
    assert!(size_of::<Counter>() == 16 && size_of::<Rate>() == 16);
    assert!(
        size_of::<Event>() == 64 && offset_of!(Event, src) == 24 && offset_of!(Event, reason) == 63
    );
};
