//! Messages of the link from a pod: about its own addresses, to the link, in their one form.

use crate::address::{is_host, is_link_local, is_own};
use crate::env::Env;
use crate::frame::{Frame, Head, Meta};
use crate::layout::{Addr, Endpoint, V6};
use crate::link_layer::is_to_host;
use crate::reason::Reason;
use crate::scratch::Scratch;

use super::listener::report;
use super::{
    ALL_NODES, ALL_ROUTERS, BEHIND_IPV6, MLD_DONE, MLD_QUERY, MLD_REPORT, MLD2_REPORT,
    NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, REDIRECT, ROUTER_ADVERTISEMENT,
    ROUTER_SOLICITATION, address_in, is_own_mac, is_solicited_node_of, options, stands_at,
};

/// An IPv6 header's first word: neither traffic class nor flow label.
const PLAIN: u32 = 0x6000_0000;

#[inline(always)]
pub(super) fn from_pod<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    meta: &Meta,
    endpoint: &Endpoint,
    guard: bool,
    kind: u8,
    scratch: &mut Scratch,
) -> Option<Reason> {
    if kind == ROUTER_ADVERTISEMENT || kind == REDIRECT || kind == MLD_QUERY {
        return Some(Reason::RouterFromPod);
    }
    let src = scratch.packet.src;
    let unspecified = src.same(&Addr::ZERO);
    if guard && !unspecified && !is_own(env, endpoint, V6, &src, scratch) {
        return Some(Reason::SpoofedNeighbour);
    }
    if meta.len != scratch.packet.end || scratch.head.number(Head::IP) != PLAIN {
        return Some(Reason::SpoofedNeighbour);
    }
    if kind == MLD_REPORT || kind == MLD_DONE || kind == MLD2_REPORT {
        return report(frame, endpoint, guard, kind, scratch);
    }
    if scratch.packet.hop_limit != 255 || !stands_at(&scratch.packet, BEHIND_IPV6) {
        return Some(Reason::SpoofedNeighbour);
    }
    if solicits_or_advertises(
        env,
        frame,
        meta,
        endpoint,
        guard,
        kind,
        unspecified,
        scratch,
    ) {
        Some(Reason::Neighbour)
    } else {
        Some(Reason::SpoofedNeighbour)
    }
}

/// Whether a neighbour or router solicitation or a neighbour advertisement has its one form.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
fn solicits_or_advertises<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    meta: &Meta,
    endpoint: &Endpoint,
    guard: bool,
    kind: u8,
    unspecified: bool,
    scratch: &mut Scratch,
) -> bool {
    let (at, dst) = (scratch.packet.l4, scratch.packet.dst);
    let fixed = if kind == ROUTER_SOLICITATION { 8 } else { 24 };
    let length = scratch.packet.end - at;
    if length != fixed && length != fixed + 8 {
        return false;
    }
    if length != fixed {
        let Some((option, value)) = options::one(frame, at + fixed) else {
            return false;
        };
        let right = if kind == NEIGHBOUR_ADVERTISEMENT {
            option == options::TARGET
        } else if unspecified {
            // A nonce is random, by which a pod's own frame that comes back is told.
            option == options::NONCE && kind == NEIGHBOUR_SOLICITATION
        } else {
            option == options::SOURCE
        };
        if !right || guard && option != options::NONCE && !is_own_mac(endpoint, value) {
            return false;
        }
    }
    let mut h = [0u8; 8];
    if !frame.load(at, &mut h) {
        return false;
    }
    // An advertisement has three flags.
    let flags = if kind == NEIGHBOUR_ADVERTISEMENT {
        h[4] & 0x1f
    } else {
        h[4]
    };
    if h[1] | flags | h[5] | h[6] | h[7] != 0 {
        return false;
    }
    if kind == ROUTER_SOLICITATION {
        return dst.same(&ALL_ROUTERS)
            || is_link_local(&dst) && is_to_host(meta, endpoint, &scratch.packet);
    }
    let mut t = [0u8; 16];
    if !frame.load(at + 8, &mut t) {
        return false;
    }
    let target = address_in(&t, 0);
    let claims = kind == NEIGHBOUR_ADVERTISEMENT || unspecified;
    if guard && claims && !is_own(env, endpoint, V6, &target, scratch) {
        return false;
    }
    if kind == NEIGHBOUR_ADVERTISEMENT {
        return !unspecified
            && (dst.same(&ALL_NODES) || is_on_link(env, meta, endpoint, &dst, scratch));
    }
    // Who has it, or whether it is still there (RFC 4861, 7.2.2 and 7.3); a detection of duplicates asks the group.
    is_solicited_node_of(&dst, &target)
        || !unspecified && dst.same(&target) && is_on_link(env, meta, endpoint, &dst, scratch)
}

/// Whether a message to one address stays on the link: the host would forward what is not for itself.
#[inline(always)]
fn is_on_link<E: Env>(
    env: &E,
    meta: &Meta,
    endpoint: &Endpoint,
    dst: &Addr,
    scratch: &mut Scratch,
) -> bool {
    if crate::address::is_group(V6, dst) || scratch.packet.dst_mac.is_group() {
        return false;
    }
    is_link_local(dst)
        || !is_to_host(meta, endpoint, &scratch.packet)
        || is_host(env, V6, dst, scratch)
}
