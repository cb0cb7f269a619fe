//! The bounded packet reader: Ethernet, VLAN tags, IPv4 with options, IPv6 with extension headers, the ports.
//!
//! It reads by copy, changes nothing and gives up by name. Whatever it does not understand is not passed.

use crate::env::{Frame, Meta};
use crate::layout::{Addr, V4, V6};
use crate::reason::Reason;

/// IP protocol and next-header numbers.
pub mod proto {
    #![allow(missing_docs, reason = "the names are IANA's")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT: u8 = 59;
    pub const DESTINATION: u8 = 60;
    pub const MOBILITY: u8 = 135;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;
    pub const SCTP: u8 = 132;
    pub const UDPLITE: u8 = 136;
    pub const DCCP: u8 = 33;
}

/// TCP flags.
pub mod tcp {
    #![allow(missing_docs, reason = "the names are TCP's")]
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// Most IPv6 extension headers that are read.
pub const MAX_EXTENSION_HEADERS: usize = 8;
/// VLAN id, without priority.
const VLAN_ID: u16 = 0x0fff;
/// A GSO packet above this has no length in its IP header.
const MAX_LENGTH: u32 = 0xffff;

/// What was read of a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: Addr,
    /// Destination address.
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
    /// ICMP type.
    pub icmp_type: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// 1 if the IPv6 packet has a fragment header, atomic ones included.
    pub fragment_header: u8,
    /// See `ECHO_*`.
    pub echo: u8,
    /// Source MAC address.
    pub src_mac: [u8; 6],
    /// Destination MAC address.
    pub dst_mac: [u8; 6],
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
        icmp_type: 0,
        hop_limit: 0,
        fragment_header: 0,
        echo: ECHO_NONE,
        src_mac: [0; 6],
        dst_mac: [0; 6],
    };

    /// Whether this is an ARP packet.
    #[inline(always)]
    pub const fn is_arp(&self) -> bool {
        self.family == 0
    }

    /// Whether this is an ICMP message of the packet's own family.
    #[inline(always)]
    pub const fn is_icmp(&self) -> bool {
        (self.family == V4 && self.protocol == proto::ICMP) || (self.family == V6 && self.protocol == proto::ICMPV6)
    }

    /// Whether this is an ICMP error.
    #[inline(always)]
    pub const fn is_icmp_error(&self) -> bool {
        self.is_icmp()
            && self.fragment == FRAGMENT_NONE
            && if self.family == V4 {
                matches!(self.icmp_type, 3 | 4 | 11 | 12)
            } else {
                self.icmp_type >= 1 && self.icmp_type <= 4
            }
    }

    /// Whether this opens a TCP connection.
    #[inline(always)]
    pub const fn is_bare_syn(&self) -> bool {
        self.protocol == proto::TCP && self.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN
    }
}

#[inline(always)]
fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

/// Reads a frame into `packet`. `buffer` is working memory.
///
/// # Errors
/// The reason by which the frame is dropped.
#[inline(always)]
pub fn read<F: Frame>(frame: &F, meta: &Meta, packet: &mut Packet, buffer: &mut [u8; 40]) -> Result<(), Reason> {
    *packet = Packet::EMPTY;
    let mut eth = [0u8; 14];
    if !frame.load(0, &mut eth) {
        return Err(Reason::Truncated);
    }
    packet.dst_mac = [eth[0], eth[1], eth[2], eth[3], eth[4], eth[5]];
    packet.src_mac = [eth[6], eth[7], eth[8], eth[9], eth[10], eth[11]];
    let mut ethertype = be16(eth[12], eth[13]);
    let mut l3 = 14u32;

    // Priority tags (id 0) are stripped by the receiver and the packet is delivered; tags with an id are not ours.
    if meta.vlan_present && meta.vlan_tci & VLAN_ID != 0 {
        return Err(Reason::Vlan);
    }
    if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
        let mut tag = [0u8; 4];
        if !frame.load(l3, &mut tag) {
            return Err(Reason::Truncated);
        }
        ethertype = be16(tag[2], tag[3]);
        if be16(tag[0], tag[1]) & VLAN_ID != 0 || ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
            return Err(Reason::Vlan);
        }
        l3 = 18;
    }

    match ethertype {
        ETHERTYPE_IPV4 => read_v4(frame, meta.len, meta.gso, l3, packet, buffer),
        ETHERTYPE_IPV6 => read_v6(frame, meta.len, meta.gso, l3, packet, buffer),
        ETHERTYPE_ARP => {
            packet.l4 = l3;
            packet.end = meta.len;
            Ok(())
        }
        _ => Err(Reason::UnknownEthertype),
    }
}

/// Reads the IPv4 header at `l3` and what follows it.
#[inline(always)]
fn read_v4<F: Frame>(
    frame: &F,
    len: u32,
    gso: bool,
    l3: u32,
    packet: &mut Packet,
    buffer: &mut [u8; 40],
) -> Result<(), Reason> {
    let mut h = [0u8; 20];
    if !frame.load(l3, &mut h) {
        return Err(Reason::Truncated);
    }
    let header = u32::from(h[0] & 0x0f) * 4;
    if h[0] >> 4 != 4 || header < 20 {
        return Err(Reason::BadHeader);
    }
    let total = u32::from(be16(h[2], h[3]));
    packet.end = end_of(len, gso, l3, total, header)?;
    packet.family = V4;
    packet.protocol = h[9];
    packet.hop_limit = h[8];
    packet.src = Addr::v4([h[12], h[13], h[14], h[15]]);
    packet.dst = Addr::v4([h[16], h[17], h[18], h[19]]);
    packet.l4 = l3 + header;
    if header > 20 {
        read_v4_options(frame, l3 + 20, l3 + header)?;
    }
    packet.fragment_id_be = u32::from(u16::from_ne_bytes([h[4], h[5]]));
    let fragment = be16(h[6], h[7]);
    note_fragment(packet, fragment & 0x1fff, fragment & 0x2000 != 0)?;
    read_transport(frame, packet, buffer)
}

/// Looks for source routes in IPv4 options: they lead to another destination than the one that is judged.
///
/// The options are not walked (that costs the verifier more than it has) but searched for anything that could be such
/// an option; another option whose data look like one is refused with it.
#[inline(always)]
fn read_v4_options<F: Frame>(frame: &F, from: u32, end: u32) -> Result<(), Reason> {
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let mut route = false;
    for word in 0..10 {
        let at = from + word * 4;
        if at >= end {
            break;
        }
        let mut bytes = [0u8; 4];
        if !frame.load(at, &mut bytes) {
            return Err(Reason::Truncated);
        }
        for byte in bytes {
            if route && byte >= 3 && byte <= 39 {
                return Err(Reason::BadHeader);
            }
            route = byte == LOOSE_SOURCE_ROUTE || byte == STRICT_SOURCE_ROUTE;
        }
    }
    Ok(())
}

/// Reads the IPv6 header at `l3`, its extension headers and what follows them.
#[inline(always)]
fn read_v6<F: Frame>(
    frame: &F,
    len: u32,
    gso: bool,
    l3: u32,
    packet: &mut Packet,
    buffer: &mut [u8; 40],
) -> Result<(), Reason> {
    let h: &mut [u8; 40] = buffer;
    if !frame.load(l3, h) {
        return Err(Reason::Truncated);
    }
    if h[0] >> 4 != 6 {
        return Err(Reason::BadHeader);
    }
    let payload = u32::from(be16(h[4], h[5]));
    packet.family = V6;
    packet.hop_limit = h[7];
    packet.src = Addr::v6([
        h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15], h[16], h[17], h[18], h[19], h[20], h[21], h[22], h[23],
    ]);
    packet.dst = Addr::v6([
        h[24], h[25], h[26], h[27], h[28], h[29], h[30], h[31], h[32], h[33], h[34], h[35], h[36], h[37], h[38], h[39],
    ]);
    let mut next = h[6];
    // Length 0 is legal for a jumbogram made by GSO, with a hop-by-hop header (to 6.x) or without one.
    let total = if payload == 0 && gso { 0 } else { payload + 40 };
    packet.end = end_of(len, gso, l3, total, 40)?;

    let mut offset = l3 + 40;
    let mut rank = 0u8;
    for count in 0..=MAX_EXTENSION_HEADERS {
        let (least_rank, unit) = match next {
            proto::HOP_BY_HOP => (1, 8),
            proto::ROUTING => (3, 8),
            proto::FRAGMENT => (4, 0),
            proto::AH => (5, 4),
            proto::DESTINATION => (rank, 8),
            proto::MOBILITY | proto::HIP | proto::SHIM6 => return Err(Reason::ExtensionHeaders),
            _ => {
                packet.protocol = next;
                packet.l4 = offset;
                return read_transport(frame, packet, buffer);
            }
        };
        if count == MAX_EXTENSION_HEADERS {
            break;
        }
        // Hop-by-hop only first, then each kind at most once and in the order of RFC 8200 4.1; destination options
        // may stand anywhere.
        if next != proto::DESTINATION {
            if least_rank <= rank {
                return Err(Reason::ExtensionHeaders);
            }
            rank = least_rank;
        } else if rank == 0 {
            rank = 1;
        }
        let mut e = [0u8; 8];
        if offset + 8 > packet.end || !frame.load(offset, &mut e) {
            return Err(Reason::Truncated);
        }
        let this = next;
        next = e[0];
        // A routing header that is still to be used leads to another destination than the one that is judged.
        if this == proto::ROUTING && e[3] != 0 {
            return Err(Reason::ExtensionHeaders);
        }
        if this == proto::FRAGMENT {
            packet.fragment_header = 1;
            packet.fragment_id_be = u32::from_ne_bytes([e[4], e[5], e[6], e[7]]);
            let fragment = be16(e[2], e[3]);
            note_fragment(packet, fragment >> 3, fragment & 1 != 0)?;
            offset += 8;
            if packet.fragment == FRAGMENT_LATER {
                packet.protocol = next;
                packet.l4 = offset;
                return read_transport(frame, packet, buffer);
            }
        } else {
            let length = if unit == 4 { (u32::from(e[1]) + 2) * 4 } else { (u32::from(e[1]) + 1) * 8 };
            offset += length;
            if offset > packet.end {
                return Err(Reason::Truncated);
            }
        }
    }
    Err(Reason::ExtensionHeaders)
}

/// End of the IP packet in the frame, from its total length.
#[inline(always)]
fn end_of(len: u32, gso: bool, l3: u32, total: u32, header: u32) -> Result<u32, Reason> {
    if len < l3 + header {
        return Err(Reason::Truncated);
    }
    let carried = len - l3;
    if gso {
        // The header of a GSO packet tells the whole length, or 0 where that does not fit.
        if total == 0 && carried > MAX_LENGTH || total == carried {
            return Ok(len);
        }
        return Err(Reason::BadHeader);
    }
    if total < header {
        return Err(Reason::BadHeader);
    }
    if total > carried {
        return Err(Reason::Truncated);
    }
    Ok(l3 + total)
}

#[inline(always)]
fn note_fragment(packet: &mut Packet, offset_units: u16, more: bool) -> Result<(), Reason> {
    if offset_units != 0 {
        packet.fragment = FRAGMENT_LATER;
        // A later fragment must not lie over the ports and flags of the first (RFC 1858, RFC 3128).
        if u32::from(offset_units) * 8 < 24 && packet.family == V4 && packet.protocol == proto::TCP {
            return Err(Reason::TinyFragment);
        }
        if offset_units < 3 && packet.family == V6 {
            return Err(Reason::TinyFragment);
        }
    } else if more {
        packet.fragment = FRAGMENT_FIRST;
    }
    Ok(())
}

/// Bytes of the transport header that must be there.
#[inline(always)]
const fn least_transport(protocol: u8) -> u32 {
    match protocol {
        proto::TCP => 20,
        proto::SCTP | proto::DCCP => 12,
        proto::UDP | proto::UDPLITE | proto::ICMP | proto::ICMPV6 => 8,
        _ => 0,
    }
}

/// Reads ports, flags, type and identifier.
#[inline(always)]
fn read_transport<F: Frame>(frame: &F, packet: &mut Packet, buffer: &mut [u8; 40]) -> Result<(), Reason> {
    if packet.l4 > packet.end {
        return Err(Reason::Truncated);
    }
    if packet.fragment == FRAGMENT_LATER {
        return Ok(());
    }
    // An IPv6 protocol in IPv4 and the other way round has no meaning that could be judged by its ports.
    let least = least_transport(packet.protocol);
    if packet.end - packet.l4 < least {
        return Err(if packet.fragment == FRAGMENT_FIRST { Reason::TinyFragment } else { Reason::Truncated });
    }
    if least == 0 {
        return Ok(());
    }
    let mut h = [0u8; 8];
    if !frame.load(packet.l4, &mut h) {
        return Err(Reason::Truncated);
    }
    match packet.protocol {
        proto::ICMP | proto::ICMPV6 => {
            packet.icmp_type = h[0];
            note_echo(packet, u16::from_ne_bytes([h[4], h[5]]));
        }
        _ => {
            packet.src_port_be = u16::from_ne_bytes([h[0], h[1]]);
            packet.dst_port_be = u16::from_ne_bytes([h[2], h[3]]);
        }
    }
    if packet.protocol == proto::TCP {
        let flags: &mut [u8; 40] = buffer;
        let mut two = [0u8; 2];
        if !frame.load(packet.l4 + 12, &mut two) {
            return Err(Reason::Truncated);
        }
        flags[0] = two[0];
        // The header's own length, and flags that no stack sends together.
        let header = u32::from(two[0] >> 4) * 4;
        if header < 20 || header > packet.end - packet.l4 && packet.fragment == FRAGMENT_NONE {
            return Err(Reason::BadHeader);
        }
        packet.tcp_flags = two[1];
        if two[1] & tcp::SYN != 0 && two[1] & (tcp::FIN | tcp::RST) != 0 {
            return Err(Reason::BadHeader);
        }
    }
    Ok(())
}

/// The identifier of an echo is the port of the side that asks.
#[inline(always)]
fn note_echo(packet: &mut Packet, id: u16) {
    if !packet.is_icmp() {
        return;
    }
    let (request, reply) = if packet.family == V4 { (8, 0) } else { (128, 129) };
    if packet.icmp_type == request {
        packet.echo = ECHO_REQUEST;
        packet.src_port_be = id;
    } else if packet.icmp_type == reply {
        packet.echo = ECHO_REPLY;
        packet.dst_port_be = id;
    }
}

/// Reads the packet embedded in the ICMP error that `outer` is: its addresses, protocol and ports.
/// The embedded packet is cut off, so its lengths mean nothing.
///
/// # Errors
/// [`Reason::IcmpUnrelated`] where it cannot be told what the error is about.
#[inline(always)]
pub fn read_embedded<F: Frame>(
    frame: &F,
    outer: &Packet,
    inner: &mut Packet,
    buffer: &mut [u8; 40],
) -> Result<(), Reason> {
    *inner = Packet::EMPTY;
    let l3 = outer.l4 + 8;
    inner.end = outer.end;
    inner.family = outer.family;
    if outer.family == V4 {
        let mut h = [0u8; 20];
        if l3 + 20 > outer.end || !frame.load(l3, &mut h) {
            return Err(Reason::IcmpUnrelated);
        }
        let header = u32::from(h[0] & 0x0f) * 4;
        if h[0] >> 4 != 4 || header < 20 || be16(h[6], h[7]) & 0x1fff != 0 {
            return Err(Reason::IcmpUnrelated);
        }
        inner.protocol = h[9];
        inner.src = Addr::v4([h[12], h[13], h[14], h[15]]);
        inner.dst = Addr::v4([h[16], h[17], h[18], h[19]]);
        inner.l4 = l3 + header;
    } else {
        let h: &mut [u8; 40] = buffer;
        if l3 + 40 > outer.end || !frame.load(l3, h) {
            return Err(Reason::IcmpUnrelated);
        }
        if h[0] >> 4 != 6 {
            return Err(Reason::IcmpUnrelated);
        }
        inner.src = Addr::v6([
            h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15], h[16], h[17], h[18], h[19], h[20], h[21], h[22],
            h[23],
        ]);
        inner.dst = Addr::v6([
            h[24], h[25], h[26], h[27], h[28], h[29], h[30], h[31], h[32], h[33], h[34], h[35], h[36], h[37], h[38],
            h[39],
        ]);
        inner.protocol = h[6];
        inner.l4 = l3 + 40;
        // One fragment header is looked through: what was too big is often a first fragment.
        if inner.protocol == proto::FRAGMENT {
            let mut e = [0u8; 8];
            if !frame.load(inner.l4, &mut e) || be16(e[2], e[3]) >> 3 != 0 {
                return Err(Reason::IcmpUnrelated);
            }
            inner.protocol = e[0];
            inner.l4 += 8;
        }
    }
    if least_transport(inner.protocol) == 0 {
        return Ok(());
    }
    let mut p = [0u8; 8];
    if inner.l4 + 8 > outer.end || !frame.load(inner.l4, &mut p) {
        return Err(Reason::IcmpUnrelated);
    }
    if inner.is_icmp() {
        inner.icmp_type = p[0];
        note_echo(inner, u16::from_ne_bytes([p[4], p[5]]));
        if inner.echo == ECHO_NONE {
            // An error about an error or a neighbour message is nobody's.
            return Err(Reason::IcmpUnrelated);
        }
    } else {
        inner.src_port_be = u16::from_ne_bytes([p[0], p[1]]);
        inner.dst_port_be = u16::from_ne_bytes([p[2], p[3]]);
    }
    Ok(())
}
