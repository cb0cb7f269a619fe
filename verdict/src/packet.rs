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

/// The chunk by which an SCTP association begins.
const SCTP_INIT: u8 = 1;

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

/// Bytes of a frame that are read at once: Ethernet, IPv6 and TCP up to its flags.
pub const HEAD_BYTES: u32 = 70;
/// A [`Head`] has room for any length under this mask: so the verifier of 5.10 sees that a length fits.
pub const HEAD_MASK: u32 = 0x7f;
/// Words of a [`Head`].
const HEAD_WORDS: usize = (Head::FRONT + HEAD_MASK).div_ceil(4) as usize;

/// The first bytes of a frame, from the third byte on: so the IP header behind an Ethernet header lies on words, and an
/// address is read as words and not byte by byte (the BPF target has no unaligned loads).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Head(pub [u32; HEAD_WORDS]);

impl Head {
    /// Nothing read yet.
    pub const EMPTY: Self = Self([0; HEAD_WORDS]);
    /// The byte at which the frame begins.
    pub const FRONT: u32 = 2;
    /// The word at which an IP header begins.
    const IP: usize = 4;
    /// The word behind an IPv4 header without options.
    const BEHIND_V4: usize = 9;
    /// The word behind an IPv6 header.
    const BEHIND_V6: usize = 14;

    /// Puts byte `at` of the frame in; false if there is no room for it.
    pub(crate) const fn set(&mut self, at: u32, byte: u8) -> bool {
        let at = (at + Self::FRONT) as usize;
        if at / 4 >= HEAD_WORDS {
            return false;
        }
        let mut bytes = self.0[at / 4].to_ne_bytes();
        bytes[at % 4] = byte;
        self.0[at / 4] = u32::from_ne_bytes(bytes);
        true
    }

    /// A word's halves, each as it lies in memory.
    #[inline(always)]
    const fn halves(&self, word: usize) -> (u16, u16) {
        let [a, b, c, d] = self.0[word].to_ne_bytes();
        (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))
    }

    /// A word as a number.
    #[inline(always)]
    const fn number(&self, word: usize) -> u32 {
        u32::from_be(self.0[word])
    }

    /// IPv6 address from a word on.
    #[inline(always)]
    const fn addr(&self, word: usize) -> Addr {
        Addr([
            self.0[word],
            self.0[word + 1],
            self.0[word + 2],
            self.0[word + 3],
        ])
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

    /// Whether this is an ICMP error.
    #[inline(always)]
    pub const fn is_icmp_error(&self) -> bool {
        self.is_icmp()
            && self.fragment == FRAGMENT_NONE
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

#[inline(always)]
fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

/// Where the transport header stands.
#[derive(Clone, Copy)]
enum Transport {
    /// In the head, behind an IPv4 header without options.
    BehindV4,
    /// In the head, behind an IPv6 header without extension headers.
    BehindV6,
    /// Somewhere in the frame.
    Far,
}

/// Reads a frame into `packet`; `head` is working memory.
///
/// # Errors
/// The reason by which the frame is dropped.
#[inline(always)]
pub fn read<F: Frame>(
    frame: &F,
    meta: &Meta,
    packet: &mut Packet,
    head: &mut Head,
) -> Result<(), Reason> {
    packet.forget();
    let mut l3 = 14u32;
    if !read_head(frame, meta.len, l3, head) {
        return Err(Reason::Truncated);
    }
    let ((_, d0), (d1, d2)) = (head.halves(0), head.halves(1));
    let ((s0, s1), (s2, ethertype)) = (head.halves(2), head.halves(3));
    packet.dst_mac = Mac([d0, d1, d2]);
    packet.src_mac = Mac([s0, s1, s2]);
    let mut ethertype = u16::from_be(ethertype);

    // Priority tags (id 0) are stripped by the receiver and the packet is delivered; tags with an id are not ours.
    if meta.vlan_present && meta.vlan_tci & VLAN_ID != 0 {
        return Err(Reason::Vlan);
    }
    if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
        l3 = 18;
        if meta.len < l3 {
            return Err(Reason::Truncated);
        }
        let tag = head.number(Head::IP);
        ethertype = tag as u16;
        if (tag >> 16) as u16 & VLAN_ID != 0
            || ethertype == ETHERTYPE_VLAN
            || ethertype == ETHERTYPE_QINQ
        {
            return Err(Reason::Vlan);
        }
        // The head again, without the tag: what follows lies where it does without one.
        if !read_head(frame, meta.len, l3, head) {
            return Err(Reason::Truncated);
        }
    }

    let transport = match ethertype {
        ETHERTYPE_IPV4 => read_v4(frame, meta, l3, packet, head)?,
        ETHERTYPE_IPV6 => read_v6(frame, meta, l3, packet, head)?,
        ETHERTYPE_ARP => {
            packet.l4 = l3;
            packet.end = meta.len;
            return Ok(());
        }
        _ => return Err(Reason::UnknownEthertype),
    };
    read_transport(frame, transport, packet, head)
}

/// Reads the head so that what begins at `l3` lies at [`Head::IP`].
#[inline(always)]
fn read_head<F: Frame>(frame: &F, len: u32, l3: u32, head: &mut Head) -> bool {
    if len < l3 {
        return false;
    }
    let left = len - (l3 - 14);
    frame.head(
        l3 - 14,
        if left < HEAD_BYTES { left } else { HEAD_BYTES },
        head,
    )
}

/// Reads the IPv4 header at `l3`.
#[inline(always)]
fn read_v4<F: Frame>(
    frame: &F,
    meta: &Meta,
    l3: u32,
    packet: &mut Packet,
    head: &Head,
) -> Result<Transport, Reason> {
    if meta.len < l3 + 20 {
        return Err(Reason::Truncated);
    }
    let first = head.number(Head::IP);
    let header = ((first >> 24) & 0x0f) * 4;
    if first >> 28 != 4 || header < 20 {
        return Err(Reason::BadHeader);
    }
    packet.end = end_of(meta.len, meta.gso, l3, first & 0xffff, header)?;
    let (id, fragment) = head.halves(Head::IP + 1);
    let third = head.number(Head::IP + 2);
    packet.family = V4;
    packet.protocol = (third >> 16) as u8;
    packet.hop_limit = (third >> 24) as u8;
    packet.src = Addr([head.0[Head::IP + 3], 0, 0, 0]);
    packet.dst = Addr([head.0[Head::IP + 4], 0, 0, 0]);
    packet.l4 = l3 + header;
    packet.fragment_id_be = id as u32;
    packet.fragment_header = 0;
    let fragment = u16::from_be(fragment);
    note_fragment(packet, fragment & 0x1fff, fragment & 0x2000 != 0)?;
    if header == 20 {
        return Ok(Transport::BehindV4);
    }
    read_v4_options(frame, l3 + 20, l3 + header)?;
    Ok(Transport::Far)
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
            if route && (3..=39).contains(&byte) {
                return Err(Reason::BadHeader);
            }
            route = byte == LOOSE_SOURCE_ROUTE || byte == STRICT_SOURCE_ROUTE;
        }
    }
    Ok(())
}

/// Reads the IPv6 header at `l3` and its extension headers.
#[inline(always)]
fn read_v6<F: Frame>(
    frame: &F,
    meta: &Meta,
    l3: u32,
    packet: &mut Packet,
    head: &Head,
) -> Result<Transport, Reason> {
    if meta.len < l3 + 40 {
        return Err(Reason::Truncated);
    }
    let second = head.number(Head::IP + 1);
    if head.number(Head::IP) >> 28 != 6 {
        return Err(Reason::BadHeader);
    }
    let payload = second >> 16;
    // Length 0 is legal for a jumbogram made by GSO, with a hop-by-hop header (to 6.x) or without one.
    let total = if payload == 0 && meta.gso {
        0
    } else {
        payload + 40
    };
    packet.end = end_of(meta.len, meta.gso, l3, total, 40)?;
    packet.family = V6;
    packet.hop_limit = second as u8;
    packet.src = head.addr(Head::IP + 2);
    packet.dst = head.addr(Head::IP + 6);
    packet.l4 = l3 + 40;
    packet.fragment = FRAGMENT_NONE;
    packet.fragment_header = 0;
    packet.protocol = (second >> 8) as u8;
    if !is_extension(packet.protocol) {
        return Ok(Transport::BehindV6);
    }
    read_extensions(frame, packet)?;
    Ok(Transport::Far)
}

/// Whether a number is that of an IPv6 extension header.
#[inline(always)]
const fn is_extension(number: u8) -> bool {
    matches!(
        number,
        proto::HOP_BY_HOP
            | proto::ROUTING
            | proto::FRAGMENT
            | proto::AH
            | proto::DESTINATION
            | proto::MOBILITY
            | proto::HIP
            | proto::SHIM6
    )
}

/// Walks the extension headers from `packet.l4` on, whose first is `packet.protocol`, to the transport header.
#[inline(always)]
fn read_extensions<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), Reason> {
    let mut next = packet.protocol;
    let mut offset = packet.l4;
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
                return Ok(());
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
                return Ok(());
            }
        } else {
            let length = if unit == 4 {
                (u32::from(e[1]) + 2) * 4
            } else {
                (u32::from(e[1]) + 1) * 8
            };
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
        if u32::from(offset_units) * 8 < 24 && packet.family == V4 && packet.protocol == proto::TCP
        {
            return Err(Reason::TinyFragment);
        }
        if offset_units < 3 && packet.family == V6 {
            return Err(Reason::TinyFragment);
        }
    } else {
        packet.fragment = if more { FRAGMENT_FIRST } else { FRAGMENT_NONE };
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

/// What tells one packet of a flow from another.
struct Marks {
    tcp_flags: u8,
    message_type: u8,
    echo: u8,
}

/// Reads ports, flags, type and identifier.
#[inline(always)]
fn read_transport<F: Frame>(
    frame: &F,
    transport: Transport,
    packet: &mut Packet,
    head: &mut Head,
) -> Result<(), Reason> {
    let mut marks = Marks {
        tcp_flags: 0,
        message_type: 0,
        echo: ECHO_NONE,
    };
    let result = read_marks(frame, transport, packet, head, &mut marks);
    packet.tcp_flags = marks.tcp_flags;
    packet.message_type = marks.message_type;
    packet.echo = marks.echo;
    result
}

#[inline(always)]
fn read_marks<F: Frame>(
    frame: &F,
    transport: Transport,
    packet: &mut Packet,
    head: &mut Head,
    marks: &mut Marks,
) -> Result<(), Reason> {
    if packet.l4 > packet.end {
        return Err(Reason::Truncated);
    }
    if packet.fragment == FRAGMENT_LATER {
        return Ok(());
    }
    // An IPv6 protocol in IPv4 and the other way round has no meaning that could be judged by its ports.
    let least = least_transport(packet.protocol);
    if packet.end - packet.l4 < least {
        return Err(if packet.fragment == FRAGMENT_FIRST {
            Reason::TinyFragment
        } else {
            Reason::Truncated
        });
    }
    if least == 0 {
        return Ok(());
    }
    // Where the head holds the header, it holds all that is read of it: `end` is within the frame.
    let behind_v6 = match transport {
        Transport::BehindV4 => false,
        Transport::BehindV6 => true,
        Transport::Far => {
            load_transport(frame, packet, head)?;
            false
        }
    };
    // One index or the other, not a computed one: the verifier of 5.10 need not follow it.
    let ((first, second), third, fourth) = if behind_v6 {
        (
            head.halves(Head::BEHIND_V6),
            head.halves(Head::BEHIND_V6 + 1),
            head.halves(Head::BEHIND_V6 + 3),
        )
    } else {
        (
            head.halves(Head::BEHIND_V4),
            head.halves(Head::BEHIND_V4 + 1),
            head.halves(Head::BEHIND_V4 + 3),
        )
    };
    if packet.protocol == proto::ICMP || packet.protocol == proto::ICMPV6 {
        marks.message_type = first.to_ne_bytes()[0];
        marks.echo = note_echo(packet, marks.message_type, third.0);
        return Ok(());
    }
    packet.src_port_be = first;
    packet.dst_port_be = second;
    if packet.protocol == proto::TCP {
        // The header's own length, and flags that no stack sends together.
        let [offset, flags] = fourth.0.to_ne_bytes();
        let header = u32::from(offset >> 4) * 4;
        if header < 20 || header > packet.end - packet.l4 && packet.fragment == FRAGMENT_NONE {
            return Err(Reason::BadHeader);
        }
        marks.tcp_flags = flags;
        if flags & tcp::SYN != 0 && flags & (tcp::FIN | tcp::RST) != 0 {
            return Err(Reason::BadHeader);
        }
    }
    if packet.protocol == proto::SCTP {
        marks.message_type = if has_chunk(packet) {
            fourth.0.to_ne_bytes()[0]
        } else if packet.fragment == FRAGMENT_FIRST {
            SCTP_INIT
        } else {
            0
        };
    }
    Ok(())
}

/// Whether an SCTP packet has the header of a chunk.
#[inline(always)]
const fn has_chunk(packet: &Packet) -> bool {
    packet.end - packet.l4 >= 16
}

/// Loads what is read of a transport header that is not in the head, to where it stands behind a plain IPv4 header.
#[inline(always)]
fn load_transport<F: Frame>(frame: &F, packet: &Packet, head: &mut Head) -> Result<(), Reason> {
    let mut h = [0u8; 8];
    if !frame.load(packet.l4, &mut h) {
        return Err(Reason::Truncated);
    }
    head.0[Head::BEHIND_V4] = u32::from_ne_bytes([h[0], h[1], h[2], h[3]]);
    head.0[Head::BEHIND_V4 + 1] = u32::from_ne_bytes([h[4], h[5], h[6], h[7]]);
    if packet.protocol == proto::TCP || packet.protocol == proto::SCTP && has_chunk(packet) {
        let mut h = [0u8; 4];
        if !frame.load(packet.l4 + 12, &mut h) {
            return Err(Reason::Truncated);
        }
        head.0[Head::BEHIND_V4 + 3] = u32::from_ne_bytes(h);
    }
    Ok(())
}

/// The identifier of an echo is the port of the side that asks; the mark of the message's type.
#[inline(always)]
fn note_echo(packet: &mut Packet, message_type: u8, id: u16) -> u8 {
    if !packet.is_icmp() {
        return ECHO_NONE;
    }
    let (request, reply) = if packet.family == V4 {
        (8, 0)
    } else {
        (128, 129)
    };
    if message_type == request {
        packet.src_port_be = id;
        ECHO_REQUEST
    } else if message_type == reply {
        packet.dst_port_be = id;
        ECHO_REPLY
    } else {
        ECHO_OTHER
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
    inner.forget();
    inner.echo = ECHO_NONE;
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
            h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15], h[16], h[17], h[18], h[19],
            h[20], h[21], h[22], h[23],
        ]);
        inner.dst = Addr::v6([
            h[24], h[25], h[26], h[27], h[28], h[29], h[30], h[31], h[32], h[33], h[34], h[35],
            h[36], h[37], h[38], h[39],
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
        inner.echo = note_echo(inner, p[0], u16::from_ne_bytes([p[4], p[5]]));
        if inner.echo != ECHO_REQUEST && inner.echo != ECHO_REPLY {
            // An error about an error or a neighbour message is nobody's.
            return Err(Reason::IcmpUnrelated);
        }
    } else {
        inner.src_port_be = u16::from_ne_bytes([p[0], p[1]]);
        inner.dst_port_be = u16::from_ne_bytes([p[2], p[3]]);
    }
    Ok(())
}
