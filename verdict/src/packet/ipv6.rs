//! The IPv6 header and its extension headers.

use crate::frame::{Frame, Head, Meta};
use crate::layout::V6;
use crate::reason::Reason;

use super::number::proto;
use super::read::{Transport, be16, end_of, note_fragment};
use super::{FRAGMENT_LATER, FRAGMENT_NONE, Packet};

/// Most IPv6 extension headers that are read.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// Reads the IPv6 header at `l3` and its extension headers.
#[inline(always)]
pub(super) fn read_v6<F: Frame>(
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
pub(super) const fn is_extension(number: u8) -> bool {
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
pub(super) fn read_extensions<F: Frame>(frame: &F, packet: &mut Packet) -> Result<(), Reason> {
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
