//! Multicast listener discovery (RFC 2710, RFC 3810): a pod's reports, and the queries that it gets.

use crate::frame::Frame;
use crate::layout::{Addr, ENDPOINT_MORE_SOURCES, Endpoint};
use crate::reason::Reason;
use crate::scratch::Scratch;

use super::{
    ALL_MLD2_ROUTERS, ALL_ROUTERS, BEHIND_HOP_BY_HOP, LAST_THREE, MLD_DONE, MLD2_REPORT,
    address_in, stands_at,
};

/// Most records of a report that passes without policy: solicited-node groups of a pod's addresses and a few names.
const MOST_RECORDS: u32 = 8;

/// Whether the packet has the one hop-by-hop header of these messages: router alert, and padding.
#[inline(always)]
pub(super) fn has_router_alert<F: Frame>(frame: &F, scratch: &Scratch) -> bool {
    let mut h = [0u8; 8];
    if !stands_at(&scratch.packet, BEHIND_HOP_BY_HOP) || !frame.load(scratch.packet.l4 - 8, &mut h)
    {
        return false;
    }
    // Next header ICMPv6, eight bytes; router alert for MLD (5, 2, 0, 0) and PadN (1, 0) in either order.
    h[0] == 58
        && h[1] == 0
        && (h[2] == 5 && h[3] == 2 && h[4] == 0 && h[5] == 0 && h[6] == 1 && h[7] == 0
            || h[2] == 1 && h[3] == 0 && h[4] == 5 && h[5] == 2 && h[6] == 0 && h[7] == 0)
}

/// Evaluates a pod's report; a report of the second version with sources, or of more than a few groups, is for policy.
#[inline(always)]
pub(super) fn report<F: Frame>(
    frame: &F,
    endpoint: &Endpoint,
    guard: bool,
    kind: u8,
    scratch: &Scratch,
) -> Option<Reason> {
    let packet = &scratch.packet;
    let (at, dst) = (packet.l4, packet.dst);
    let mut h = [0u8; 8];
    if packet.hop_limit != 1 || !has_router_alert(frame, scratch) || !frame.load(at, &mut h) {
        return Some(Reason::SpoofedNeighbour);
    }
    let length = packet.end - at;
    if h[1] | h[4] | h[5] != 0 {
        return Some(Reason::SpoofedNeighbour);
    }
    if kind != MLD2_REPORT {
        let mut g = [0u8; 16];
        if length != 24 || h[6] | h[7] != 0 || !frame.load(at + 8, &mut g) {
            return Some(Reason::SpoofedNeighbour);
        }
        let group = address_in(&g, 0);
        let to = if kind == MLD_DONE { ALL_ROUTERS } else { group };
        return Some(
            if dst.same(&to) && is_plain_group(endpoint, guard, &group) {
                Reason::Neighbour
            } else {
                Reason::SpoofedNeighbour
            },
        );
    }
    if !dst.same(&ALL_MLD2_ROUTERS) {
        return Some(Reason::SpoofedNeighbour);
    }
    let records = u32::from(u16::from_be_bytes([h[6], h[7]]));
    if records == 0 || records > MOST_RECORDS || length != 8 + records * 20 {
        return None;
    }
    for record in 0..MOST_RECORDS {
        if record == records {
            break;
        }
        let mut r = [0u8; 20];
        if !frame.load(at + 8 + record * 20, &mut r) {
            return Some(Reason::Truncated);
        }
        // Type 1 to 6; neither auxiliary data nor sources.
        let plain = r[0] >= 1 && r[0] <= 6 && r[1] | r[2] | r[3] == 0;
        if !plain || !is_plain_group(endpoint, guard, &address_in(&r, 4)) {
            return None;
        }
    }
    Some(Reason::Neighbour)
}

/// Whether a group says nothing but its name: a permanent one with a short number (RFC 3307), or the solicited-node group of
/// one of the pod's addresses.
#[inline(always)]
fn is_plain_group(endpoint: &Endpoint, guard: bool, group: &Addr) -> bool {
    let first = group.0[0].to_ne_bytes();
    let third = group.0[2].to_ne_bytes();
    let last = group.0[3].to_ne_bytes();
    if first[0] != 0xff
        || first[1] > 0x0f
        || first[2] | first[3] != 0
        || group.0[1] != 0
        || third[0] | third[1] | third[2] != 0
        || third[3] > 1
    {
        return false;
    }
    if third[3] == 1 && last[0] == 0xff {
        return !guard
            || endpoint.flags & ENDPOINT_MORE_SOURCES != 0
            || is_node_of(endpoint, 0, group)
            || is_node_of(endpoint, 1, group)
            || is_node_of(endpoint, 2, group)
            || is_node_of(endpoint, 3, group);
    }
    third[3] == 0 && last[0] == 0 && last[1] <= 1
}

/// Whether a solicited-node group is that of one of the pod's addresses.
#[inline(always)]
const fn is_node_of(endpoint: &Endpoint, which: usize, group: &Addr) -> bool {
    (endpoint.families >> 4) & (1 << which) != 0
        && (endpoint.addrs[which].0[3] ^ group.0[3]) & LAST_THREE == 0
}

/// Whether a query has its one form: general, or about the group that it is sent to; without sources.
#[inline(always)]
pub(super) fn is_plain_query<F: Frame>(frame: &F, scratch: &Scratch) -> bool {
    let packet = &scratch.packet;
    let mut q = [0u8; 24];
    if !has_router_alert(frame, scratch) || !frame.load(packet.l4, &mut q) {
        return false;
    }
    let length = packet.end - packet.l4;
    if length == 28 {
        let mut sources = [0u8; 2];
        if !frame.load(packet.l4 + 26, &mut sources) || sources[0] | sources[1] != 0 {
            return false;
        }
    } else if length != 24 {
        return false;
    }
    let group = address_in(&q, 8);
    q[1] | q[6] | q[7] == 0 && (group.same(&Addr::ZERO) || group.same(&packet.dst))
}
