//! The bounded packet reader: Ethernet, VLAN tags, IPv4 with options, IPv6 with extension headers, the ports.
//!
//! It reads by copy, changes nothing and gives up by name. Whatever it does not understand is not passed.

mod embedded;
mod ipv4;
mod ipv6;
mod number;
mod read;
mod transport;

use crate::layout::{Addr, V4, V6};

pub use embedded::read_embedded;
pub use ipv6::MAX_EXTENSION_HEADERS;
pub use number::{proto, tcp};
pub use read::read;

/// The chunk by which an SCTP association begins.
const SCTP_INIT: u8 = 1;

/// What was read of a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address, where there is a family.
    pub src: Addr,
    /// Destination address, where there is a family.
    pub dst: Addr,
    /// Offset of the transport header.
    pub l4: u32,
    /// End of the packet by its IP header (the frame may be padded).
    pub end: u32,
    /// Fragment identification as on the wire.
    pub fragment_id_be: u32,
    /// Source port, or identifier of an ICMP echo request.
    pub src_port_be: u16,
    /// Destination port, or identifier of an ICMP echo reply.
    pub dst_port_be: u16,
    /// [`V4`], [`V6`], or 0 for ARP.
    pub family: u8,
    /// Protocol of the last header.
    pub protocol: u8,
    /// See `FRAGMENT_*`.
    pub fragment: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// ICMP type, or type of SCTP's first chunk (0, data, where there is none).
    pub message_type: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// 1 if the IPv6 packet has a fragment header, atomic ones included.
    pub fragment_header: u8,
    /// See `ECHO_*`.
    pub echo: u8,
    /// Source MAC address.
    pub src_mac: Mac,
    /// Destination MAC address.
    pub dst_mac: Mac,
}

/// A MAC address as it lies in memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac([u16; 3]);

impl Mac {
    /// Whether it is this address.
    #[inline(always)]
    pub const fn is(self, mac: &[u8; 6]) -> bool {
        self.0[0] == u16::from_ne_bytes([mac[0], mac[1]])
            && self.0[1] == u16::from_ne_bytes([mac[2], mac[3]])
            && self.0[2] == u16::from_ne_bytes([mac[4], mac[5]])
    }

    /// Whether it is a group's.
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0[0].to_ne_bytes()[0] & 1 != 0
    }
}

/// Not a fragment.
pub const FRAGMENT_NONE: u8 = 0;

/// The first of several.
pub const FRAGMENT_FIRST: u8 = 1;

/// A later one: it has no ports.
pub const FRAGMENT_LATER: u8 = 2;

/// No ICMP echo.
pub const ECHO_NONE: u8 = 0;

/// A request.
pub const ECHO_REQUEST: u8 = 1;

/// A reply.
pub const ECHO_REPLY: u8 = 2;

/// An ICMP message of another type.
pub const ECHO_OTHER: u8 = 3;

impl Packet {
    /// Nothing read yet.
    pub const EMPTY: Self = Self {
        src: Addr::ZERO,
        dst: Addr::ZERO,
        l4: 0,
        end: 0,
        fragment_id_be: 0,
        src_port_be: 0,
        dst_port_be: 0,
        family: 0,
        protocol: 0,
        fragment: FRAGMENT_NONE,
        tcp_flags: 0,
        message_type: 0,
        hop_limit: 0,
        fragment_header: 0,
        echo: ECHO_NONE,
        src_mac: Mac([0; 3]),
        dst_mac: Mac([0; 3]),
    };

    /// Makes it unread: without a family nothing else in it means anything. (Written out whole this would be a call of
    /// `memset`, which in the kernel is a loop over bytes.)
    #[inline(always)]
    const fn forget(&mut self) {
        self.family = 0;
        self.src_port_be = 0;
        self.dst_port_be = 0;
    }

    /// Whether this is an ARP packet.
    #[inline(always)]
    pub const fn is_arp(&self) -> bool {
        self.family == 0
    }

    /// Whether this is an ICMP message of the packet's own family.
    #[inline(always)]
    pub const fn is_icmp(&self) -> bool {
        (self.family == V4 && self.protocol == proto::ICMP)
            || (self.family == V6 && self.protocol == proto::ICMPV6)
    }

    /// Whether this is an ICMP error, or the first fragment of one.
    #[inline(always)]
    pub const fn is_icmp_error(&self) -> bool {
        self.is_icmp()
            && self.fragment != FRAGMENT_LATER
            && if self.family == V4 {
                matches!(self.message_type, 3 | 4 | 11 | 12)
            } else {
                self.message_type >= 1 && self.message_type <= 4
            }
    }

    /// Whether this opens an SCTP association; a first fragment that holds no chunk could.
    #[inline(always)]
    pub const fn opens_sctp(&self) -> bool {
        self.protocol == proto::SCTP && self.message_type == SCTP_INIT
    }

    /// Whether this opens a TCP connection.
    #[inline(always)]
    pub const fn is_bare_syn(&self) -> bool {
        self.protocol == proto::TCP && self.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN
    }
}
