//! ARP and ICMPv6 messages of the link: what may pass without policy, and what never may.
//!
//! Each has the one form that its RFC gives it (length, reserved fields, options), so that no payload travels in it, and
//! passes only within the link: a neighbour message to a far address would be forwarded, and is a tunnel.

mod arp;
mod discovery;
mod from_pod;
mod listener;
mod options;
mod to_pod;

pub(crate) use arp::arp;
pub(crate) use discovery::discovery;

use crate::layout::{Addr, Endpoint};
use crate::packet::Packet;

/// Where the ICMPv6 header of a message without extension headers stands: behind Ethernet and IPv6, and a tag.
const BEHIND_IPV6: [u32; 2] = [54, 58];
/// Where it stands behind a hop-by-hop header of eight bytes.
const BEHIND_HOP_BY_HOP: [u32; 2] = [62, 66];

const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const MLD2_REPORT: u8 = 143;

/// Whether the message stands at one of two places.
#[inline(always)]
const fn stands_at(packet: &Packet, places: [u32; 2]) -> bool {
    packet.l4 == places[0] || packet.l4 == places[1]
}

/// Whether a hardware address that stands in a packet is the pod's: byte by byte, for it need not stand on a word.
#[inline(always)]
const fn is_own_mac(endpoint: &Endpoint, mac: [u8; 6]) -> bool {
    let own = &endpoint.mac;
    mac[0] == own[0]
        && mac[1] == own[1]
        && mac[2] == own[2]
        && mac[3] == own[3]
        && mac[4] == own[4]
        && mac[5] == own[5]
}

/// The address that stands at `at` of a message's first bytes.
#[inline(always)]
const fn address_in<const N: usize>(b: &[u8; N], at: usize) -> Addr {
    Addr([
        word(b, at),
        word(b, at + 4),
        word(b, at + 8),
        word(b, at + 12),
    ])
}

#[inline(always)]
const fn word<const N: usize>(b: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// ff02::1.
const ALL_NODES: Addr = Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// ff02::2.
const ALL_ROUTERS: Addr = Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
/// ff02::16.
const ALL_MLD2_ROUTERS: Addr = Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16]);
/// Mask of the last three bytes of an address, in its last word.
const LAST_THREE: u32 = u32::from_ne_bytes([0, 0xff, 0xff, 0xff]);
/// The last word of a solicited-node group, without the three bytes of the address.
const SOLICITED: u32 = u32::from_ne_bytes([0xff, 0, 0, 0]);

/// Whether a group is the solicited-node group of an address (RFC 4291, 2.7.1).
#[inline(always)]
const fn is_solicited_node_of(group: &Addr, addr: &Addr) -> bool {
    group.0[0] == ALL_NODES.0[0]
        && group.0[1] == 0
        && group.0[2] == u32::from_ne_bytes([0, 0, 0, 1])
        && group.0[3] == (addr.0[3] & LAST_THREE) | SOLICITED
}
