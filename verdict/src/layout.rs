//! Layout of every map key and value: the only place where it is written.
//!
//! `repr(C)`, explicit padding, no bool, enum or Option; `_be` marks network byte order. A change here needs a new
//! [`LAYOUT_VERSION`], which is part of the pin path and of every endpoint record (`scripts/check.sh` holds both
//! together).

use core::mem::{offset_of, size_of};

/// Version of everything in this file; programs and maps of different versions never meet.
pub const LAYOUT_VERSION: u32 = 2;

/// Number of endpoint endpoint indexes; endpoint index 0 stands for "no endpoint" and, in [`Share`], for the whole node.
pub const ENDPOINT_INDEXES: u32 = 4096;

/// Addresses held in the endpoint row itself; further ones are in the `sources` trie.
pub const INLINE_ADDRS: usize = 4;

/// Address family in keys: IPv4.
pub const V4: u8 = 4;
/// Address family in keys: IPv6.
pub const V6: u8 = 6;

/// An address, in network byte order; an IPv4 address stands in the first word, the others are zero.
/// The family is never part of it: every key carries it beside.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub [u32; 4]);

impl Addr {
    /// The unspecified address of either family.
    pub const ZERO: Self = Self([0; 4]);

    /// From the four bytes of an IPv4 address.
    #[inline(always)]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self([u32::from_ne_bytes(b), 0, 0, 0])
    }

    /// From the sixteen bytes of an IPv6 address.
    #[inline(always)]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// From an address of the standard library, with its family.
    pub const fn from_ip(ip: core::net::IpAddr) -> (u8, Self) {
        match ip {
            core::net::IpAddr::V4(a) => (V4, Self::v4(a.octets())),
            core::net::IpAddr::V6(a) => (V6, Self::v6(a.octets())),
        }
    }

    /// To an address of the standard library.
    pub const fn to_ip(self, family: u8) -> core::net::IpAddr {
        let b = self.bytes();
        if family == V4 {
            core::net::IpAddr::V4(core::net::Ipv4Addr::new(b[0], b[1], b[2], b[3]))
        } else {
            core::net::IpAddr::V6(core::net::Ipv6Addr::from_octets(b))
        }
    }

    /// The sixteen bytes in the order of the wire.
    pub const fn bytes(self) -> [u8; 16] {
        let (a, b, c, d) = (
            self.0[0].to_ne_bytes(),
            self.0[1].to_ne_bytes(),
            self.0[2].to_ne_bytes(),
            self.0[3].to_ne_bytes(),
        );
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    /// Equality without a call to `memcmp`, which the kernel programs do not have.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        self.0[0] == other.0[0]
            && self.0[1] == other.0[1]
            && self.0[2] == other.0[2]
            && self.0[3] == other.0[3]
    }

    /// A cheap mix of all bits, for the tags that tell a table value from one of another key.
    #[inline(always)]
    pub const fn mix(&self) -> u32 {
        let a = self.0[0].wrapping_mul(0x9e37_79b1) ^ self.0[1].wrapping_mul(0x85eb_ca77);
        let b = self.0[2].wrapping_mul(0xc2b2_ae3d) ^ self.0[3].wrapping_mul(0x27d4_eb2f);
        a ^ b.rotate_left(13) ^ (a >> 15)
    }
}

/// Direction, always the pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Towards the pod (host veth, TC egress hook).
    Ingress = 0,
    /// From the pod (host veth, TC ingress hook).
    Egress = 1,
}

impl Direction {
    /// The other one.
    #[inline(always)]
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// `ingress` or `egress`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

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
    /// See `ENDPOINT_*`.
    pub flags: u8,
    /// Bit i: `addrs[i]` is used and IPv4; bit i+4: used and IPv6.
    pub families: u8,
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
    /// [`V4`] or [`V6`].
    pub family: u32,
    /// The address.
    pub addr: Addr,
}

impl SourceKey {
    /// Bits before the address.
    pub const FIXED_BITS: u32 = 64;
}

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
    /// [`V4`] or [`V6`].
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
    /// See [`crate::flow::Judged`]: one word, so that it is read whole.
    pub judged: u64,
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
    /// [`V4`] or [`V6`].
    pub family: u8,
    /// Protocol number.
    pub protocol: u8,
    /// [`Direction`].
    pub direction: u8,
    /// Zero.
    pub pad: u8,
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
}

/// Key of the exact peers and of the host set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// [`V4`] or [`V6`].
    pub family: u32,
    /// The address.
    pub addr: Addr,
}

/// Value of an exact peer: one word that is read whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerValue {
    /// Class in the low half, [`PeerValue::check`] of the key in the high half.
    pub word: u64,
}

impl PeerValue {
    /// The value for a class at a key.
    #[inline(always)]
    pub const fn new(key: &PeerKey, class: u32) -> Self {
        Self {
            word: (class as u64) | ((Self::check(key) as u64) << 32),
        }
    }

    /// What tells this key's value from another's.
    #[inline(always)]
    pub const fn check(key: &PeerKey) -> u32 {
        key.addr.mix() ^ key.family
    }

    /// The class, if the word belongs to the key.
    #[inline(always)]
    pub const fn class(self, key: &PeerKey) -> Option<u32> {
        if (self.word >> 32) as u32 == Self::check(key) {
            Some(self.word as u32)
        } else {
            None
        }
    }
}

/// Key of the prefix peers (LPM trie).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixKey {
    /// [`PrefixKey::FIXED_BITS`] plus the length of the prefix; for a look-up, of the whole address.
    pub prefix_len: u32,
    /// [`V4`] or [`V6`].
    pub family: u32,
    /// The address.
    pub addr: Addr,
}

impl PrefixKey {
    /// Bits before the address.
    pub const FIXED_BITS: u32 = 32;
}

/// Value of a prefix peer; it names its prefix, so that a value taken from under a reader is noticed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixValue {
    /// The class.
    pub class: u32,
    /// Length of the prefix, without [`PrefixKey::FIXED_BITS`].
    pub len: u32,
    /// Its network address.
    pub addr: Addr,
    /// [`V4`] or [`V6`].
    pub family: u32,
    /// The class again, written last.
    pub class_again: u32,
}

/// Key of a rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// Class of the peer; 0 = everybody else.
    pub class: u32,
    /// Policy set.
    pub set: u16,
    /// [`Direction`].
    pub direction: u8,
    /// [`V4`] or [`V6`].
    pub family: u8,
}

/// Value of a rule: the number of a port set, or one of `RULE_*`. Never updated while its set is in use.
pub type RuleValue = u32;
/// Every protocol and port is allowed.
pub const RULE_ALLOW_ALL: RuleValue = 0xffff_ffff;
/// Every protocol and port is denied.
pub const RULE_DENY_ALL: RuleValue = 0xffff_fffe;
/// Every protocol and port has the word's default (an entry that hides the class-0 entry).
pub const RULE_DEFAULT_ALL: RuleValue = 0xffff_fffd;
/// Port set numbers are below this.
pub const PORT_SET_LIMIT: u32 = 0x8000_0000;

/// Key of a port set's entry (LPM trie).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey {
    /// 32 = every protocol; 48 = every port of a protocol; 48 + n = the first n bits of the port.
    pub prefix_len: u32,
    /// The port set.
    pub port_set: u32,
    /// Protocol number, in network byte order.
    pub protocol_be: u16,
    /// Port, in network byte order.
    pub port_be: u16,
}

impl PortKey {
    /// Bits of an entry for every protocol.
    pub const ANY_PROTOCOL_BITS: u32 = 32;
    /// Bits of an entry for every port of one protocol.
    pub const ANY_PORT_BITS: u32 = 48;
    /// Bits of an entry for one port, and of a look-up.
    pub const FULL_BITS: u32 = 64;
}

/// Value of a port set's entry: one of `PORT_*`.
pub type PortValue = u32;
/// Allowed.
pub const PORT_ALLOW: PortValue = 1;
/// Denied.
pub const PORT_DENY: PortValue = 2;
/// The word's default (an entry that hides a shorter one).
pub const PORT_DEFAULT: PortValue = 3;

/// Flows made by the programs, per endpoint index; endpoint index 0: all. Written by the programs only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Flows recorded since the endpoint's id began.
    pub made: u64,
    /// Of these, answered.
    pub answered: u64,
}

/// Flows removed by the sweep, per endpoint index; endpoint index 0: all. Written by user space only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows removed.
    pub removed: u64,
    /// Of these, answered ones.
    pub answered: u64,
}

/// The node's settings, one row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Jiffies a second.
    pub hz: u32,
    /// Most flows the table may hold.
    pub flow_limit: u32,
    /// Flows that each endpoint may always hold: a quarter of the table, divided.
    pub fair_share: u32,
    /// Most unanswered flows of one endpoint.
    pub unanswered_limit: u32,
    /// First port of the NodePort range, in host byte order.
    pub node_port_first: u16,
    /// Last port of the NodePort range.
    pub node_port_last: u16,
    /// Events an endpoint may send a second.
    pub events_per_endpoint: u32,
    /// Events the node may send a second.
    pub events_per_node: u32,
    /// Zero.
    pub pad: u32,
}

/// Key of the hostPorts that are not the host's own sockets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPortKey {
    /// Protocol number.
    pub protocol: u16,
    /// Port, in network byte order.
    pub port_be: u16,
}

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
    /// [`V4`], [`V6`], or 0 where the packet was not read so far.
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
    assert!(size_of::<Addr>() == 16);
    assert!(
        size_of::<Endpoint>() == 84
            && offset_of!(Endpoint, mac) == 12
            && offset_of!(Endpoint, addrs) == 20
    );
    assert!(size_of::<SourceKey>() == 28 && offset_of!(SourceKey, addr) == 12);
    assert!(
        size_of::<FlowKey>() == 44
            && offset_of!(FlowKey, echo) == 10
            && offset_of!(FlowKey, remote) == 28
    );
    assert!(size_of::<FlowValue>() == 16 && offset_of!(FlowValue, seen) == 8);
    assert!(size_of::<FragmentKey>() == 44 && offset_of!(FragmentKey, src) == 12);
    assert!(size_of::<PeerKey>() == 20 && size_of::<PeerValue>() == 8);
    assert!(size_of::<PrefixKey>() == 24 && offset_of!(PrefixKey, addr) == 8);
    assert!(size_of::<PrefixValue>() == 32);
    assert!(
        size_of::<RuleKey>() == 8
            && offset_of!(RuleKey, set) == 4
            && offset_of!(RuleKey, family) == 7
    );
    assert!(size_of::<PortKey>() == 12 && offset_of!(PortKey, protocol_be) == 8);
    assert!(size_of::<Share>() == 16 && size_of::<Swept>() == 16 && size_of::<Counter>() == 16);
    assert!(size_of::<Config>() == 32 && size_of::<HostPortKey>() == 4);
    assert!(
        size_of::<Event>() == 64 && offset_of!(Event, src) == 24 && offset_of!(Event, reason) == 63
    );
    assert!(size_of::<Rate>() == 16);
};
