//! Which ICMP messages are of the link, and by which rules each direction goes.

use crate::env::Env;
use crate::frame::{Frame, Meta};
use crate::layout::{Direction, Endpoint, V4};
use crate::packet::proto;
use crate::reason::Reason;
use crate::scratch::Scratch;

use super::from_pod::from_pod;
use super::to_pod::to_pod;
use super::{MLD_QUERY, MLD2_REPORT, REDIRECT};

const REDIRECT_V4: u8 = 5;
const ROUTER_ADVERTISEMENT_V4: u8 = 9;

/// Evaluates the ICMP messages of the link; `None` where the packet is none of them or is for policy.
#[inline(always)]
pub(crate) fn discovery<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    meta: &Meta,
    endpoint: &Endpoint,
    guard: bool,
    direction: Direction,
    scratch: &mut Scratch,
) -> Option<Reason> {
    let p = &scratch.packet;
    let kind = p.message_type;
    if p.family == V4 {
        let router =
            p.protocol == proto::ICMP && (kind == REDIRECT_V4 || kind == ROUTER_ADVERTISEMENT_V4);
        return if router && direction as u8 == Direction::Egress as u8 {
            Some(Reason::RouterFromPod)
        } else {
            None
        };
    }
    if p.protocol != proto::ICMPV6 {
        return None;
    }
    if !((MLD_QUERY..=REDIRECT).contains(&kind) || kind == MLD2_REPORT) {
        return None;
    }
    // Fragments of these are never legal, nor is the header alone (RFC 6980).
    if p.fragment_header != 0 {
        return Some(Reason::SpoofedNeighbour);
    }
    match direction {
        Direction::Ingress => to_pod(env, frame, meta, endpoint, guard, kind, scratch),
        Direction::Egress => from_pod(env, frame, meta, endpoint, guard, kind, scratch),
    }
}
