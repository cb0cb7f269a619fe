//! Endpoint entries: what the kernel knows of one enforced interface, and its further source addresses.

use core::mem::{offset_of, size_of};

use super::Addr;

/// Number of endpoint indexes; endpoint index 0 stands for "no endpoint" and, in the arrays of flows, for the whole node.
pub const ENDPOINT_INDEXES: u32 = 4096;

/// Addresses held in the endpoint row itself; further ones are in the `sources` trie.
pub const INLINE_ADDRS: usize = 4;

/// Row of an endpoint; key: ifindex of the host veth (u32). Created once, never updated, deleted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The key again: a row that was taken away under a reader may hold another endpoint's bytes.
    pub ifindex: u32,
    /// Index into words, shares and counters; 1..[`ENDPOINT_INDEXES`].
    pub endpoint_index: u32,
    /// Number of this endpoint's id, from a counter of the node that never repeats.
    pub endpoint_id: u32,
    /// MAC address of the pod's end.
    pub mac: [u8; 6],
    /// MAC address of the host on the pod's link: the bridge's where the host veth is its port, else the host veth's own.
    pub host_mac: [u8; 6],
    /// See `ENDPOINT_*`.
    pub flags: u8,
    /// Bit i: `addrs[i]` is used and IPv4; bit i+4: used and IPv6.
    pub families: u8,
    /// Zero.
    pub pad: [u8; 2],
    /// The pod's own addresses.
    pub addrs: [Addr; INLINE_ADDRS],
}

/// The source guard is on.
pub const ENDPOINT_GUARD: u8 = 1;

/// The `sources` trie holds more addresses of this endpoint.
pub const ENDPOINT_MORE_SOURCES: u8 = 2;

/// Key of the `sources` trie: further source addresses of an endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceKey {
    /// [`SourceKey::FIXED_BITS`] plus the length of the prefix.
    pub prefix_len: u32,
    /// Id of the endpoint.
    pub endpoint_id: u32,
    /// [`V4`](crate::layout::V4) or [`V6`](crate::layout::V6).
    pub family: u32,
    /// The address.
    pub addr: Addr,
}

/// Value of a `sources` entry: one of the pod's own addresses beyond those in its endpoint entry.
pub const SOURCE_OWN: u32 = 1;
/// Value of a `sources` entry: what it may send from besides (`extraSources`).
pub const SOURCE_EXTRA: u32 = 2;

impl SourceKey {
    /// Bits before the address.
    pub const FIXED_BITS: u32 = 64;
}

const _: () = {
    assert!(
        size_of::<Endpoint>() == 92
            && offset_of!(Endpoint, mac) == 12
            && offset_of!(Endpoint, addrs) == 28
    );
    assert!(size_of::<SourceKey>() == 28 && offset_of!(SourceKey, addr) == 12);
};
