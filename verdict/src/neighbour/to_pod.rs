//! Messages of the link towards a pod: what has not its one form, or did not begin on this link, is for policy.

use crate::address::{is_group, is_link_local, is_own};
use crate::env::Env;
use crate::frame::{Frame, Meta};
use crate::layout::{Addr, Endpoint, V6};
use crate::reason::Reason;
use crate::scratch::Scratch;

use super::listener::is_plain_query;
use super::{
    BEHIND_IPV6, MLD_DONE, MLD_QUERY, MLD_REPORT, MLD2_REPORT, NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION, ROUTER_ADVERTISEMENT, address_in, options, stands_at,
};

#[inline(always)]
pub(super) fn to_pod<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    meta: &Meta,
    endpoint: &Endpoint,
    guard: bool,
    kind: u8,
    scratch: &mut Scratch,
) -> Option<Reason> {
    // Routers listen to these. To a pod they would be letters, past the policy of who sends them.
    if kind == MLD_REPORT || kind == MLD_DONE || kind == MLD2_REPORT {
        return Some(Reason::NotForPod);
    }
    let hops = if kind == MLD_QUERY { 1 } else { 255 };
    if scratch.packet.hop_limit != hops || meta.len != scratch.packet.end {
        return None;
    }
    let dst = scratch.packet.dst;
    if guard && !is_group(V6, &dst) && !is_own(env, endpoint, V6, &dst, scratch) {
        return Some(Reason::NotForPod);
    }
    let passes = match kind {
        MLD_QUERY => is_link_local(&scratch.packet.src) && is_plain_query(frame, scratch),
        ROUTER_ADVERTISEMENT => {
            is_link_local(&scratch.packet.src)
                && stands_at(&scratch.packet, BEHIND_IPV6)
                && scratch.packet.end - scratch.packet.l4 >= 16
                && options::of_router(frame, scratch.packet.l4 + 16, scratch.packet.end)
        }
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => is_plain(frame, kind, scratch),
        _ => false,
    };
    if passes {
        Some(Reason::Neighbour)
    } else {
        None
    }
}

/// Whether a neighbour solicitation or advertisement has its one form: target, at most one option, nothing reserved.
#[inline(always)]
fn is_plain<F: Frame>(frame: &F, kind: u8, scratch: &Scratch) -> bool {
    let packet = &scratch.packet;
    let mut h = [0u8; 24];
    if !stands_at(packet, BEHIND_IPV6) || !frame.load(packet.l4, &mut h) {
        return false;
    }
    let advertises = kind == NEIGHBOUR_ADVERTISEMENT;
    let flags = if advertises { h[4] & 0x1f } else { h[4] };
    if h[1] | flags | h[5] | h[6] | h[7] != 0 || crate::address::is_group(V6, &address_in(&h, 8)) {
        return false;
    }
    match packet.end - packet.l4 {
        24 => true,
        32 => match options::one(frame, packet.l4 + 24) {
            Some((options::TARGET, _)) => advertises,
            Some((options::SOURCE, _)) => !advertises,
            Some((options::NONCE, _)) => !advertises && packet.src.same(&Addr::ZERO),
            _ => false,
        },
        _ => false,
    }
}
