//! The IPv4 header and its options.

use crate::frame::{Frame, Head, Meta};
use crate::layout::{Addr, V4};
use crate::reason::Reason;

use super::Packet;
use super::read::{Transport, end_of, note_fragment};

/// Reads the IPv4 header at `l3`.
#[inline(always)]
pub(super) fn read_v4<F: Frame>(
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
    // Type, length and pointer (RFC 791). Whoever takes a longer one than there is room for takes it as a route.
    const LEAST_ROUTE: u8 = 3;
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
            if route && byte >= LEAST_ROUTE {
                return Err(Reason::BadHeader);
            }
            route = byte == LOOSE_SOURCE_ROUTE || byte == STRICT_SOURCE_ROUTE;
        }
    }
    Ok(())
}
