//! ARP (RFC 826) for IPv4 over Ethernet.

use crate::address::is_own;
use crate::env::Env;
use crate::frame::{Frame, Meta};
use crate::layout::{Addr, Direction, Endpoint, V4};
use crate::reason::Reason;
use crate::scratch::Scratch;

use super::is_own_mac;

/// Bytes of an ARP packet.
const ARP: u32 = 28;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// Evaluates ARP. A pod's own may claim nothing but its own addresses.
#[inline(always)]
pub(crate) fn arp<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    meta: &Meta,
    endpoint: &Endpoint,
    guard: bool,
    direction: Direction,
    scratch: &mut Scratch,
) -> Reason {
    let at = scratch.packet.l4;
    let mut h = [0u8; ARP as usize];
    if !frame.load(at, &mut h) {
        return Reason::Truncated;
    }
    // Ethernet and IPv4, request or reply; everything else that calls itself ARP is nobody's.
    if h[0] != 0
        || h[1] != 1
        || h[2] != 8
        || h[3] != 0
        || h[4] != 6
        || h[5] != 4
        || h[6] != 0
        || (h[7] != REQUEST && h[7] != REPLY)
    {
        return Reason::BadHeader;
    }
    // On a bridge the rest would be a letter to a neighbour.
    if !ends_or_is_padded(frame, at + ARP, meta.len) {
        return Reason::BadHeader;
    }
    // Nobody has to fill in the hardware address that is asked for; what senders put there says nothing (RFC 5227, 2.1).
    let target = [h[18], h[19], h[20], h[21], h[22], h[23]];
    let empty = target[0] | target[1] | target[2] | target[3] | target[4] | target[5] == 0;
    let all = target[0] & target[1] & target[2] & target[3] & target[4] & target[5] == 0xff;
    if !empty && !all && !is_own_mac(endpoint, target) && !scratch.packet.dst_mac.is(&target) {
        return Reason::BadHeader;
    }
    if direction as u8 == Direction::Ingress as u8 || !guard {
        return Reason::Neighbour;
    }
    if !is_own_mac(endpoint, [h[8], h[9], h[10], h[11], h[12], h[13]]) {
        return Reason::SpoofedNeighbour;
    }
    let sender = Addr::v4([h[14], h[15], h[16], h[17]]);
    // 0.0.0.0 is a probe for a duplicate: it claims nothing.
    if sender.same(&Addr::ZERO) || is_own(env, endpoint, V4, &sender, scratch) {
        Reason::Neighbour
    } else {
        Reason::SpoofedNeighbour
    }
}

/// Whether the frame ends where the packet does, or is padded with zeros to the 60 bytes of the shortest Ethernet frame
/// (RFC 894), a tag counted or not.
#[inline(always)]
fn ends_or_is_padded<F: Frame>(frame: &F, end: u32, len: u32) -> bool {
    let mut long = [0u8; 18];
    let mut short = [0u8; 14];
    match len.wrapping_sub(end) {
        0 => return true,
        18 if frame.load(end, &mut long) => {}
        14 if frame.load(end, &mut short) => {}
        _ => return false,
    }
    let mut any = 0;
    for byte in long {
        any |= byte;
    }
    for byte in short {
        any |= byte;
    }
    any == 0
}
