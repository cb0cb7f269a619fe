//! ARP and ICMPv6 messages of the link: what may pass without policy, and what never may.
//!
//! They pass only within the link: a neighbour message to a far address would be forwarded, and is a tunnel.

use crate::address::{is_group, is_host, is_link_local, is_link_multicast, is_own};
use crate::env::{Env, Flow};
use crate::flow::{FlowVerdict, Kind, TIMEOUT_OTHER, expired, ticks};
use crate::frame::{Frame, Meta};
use crate::layout::{Addr, Direction, Endpoint, FlowValue, V4, V6};
use crate::packet::proto;
use crate::reason::Reason;
use crate::record::create;
use crate::scratch::Scratch;

const REDIRECT_V4: u8 = 5;
const ROUTER_ADVERTISEMENT_V4: u8 = 9;
const MLD_QUERY: u8 = 130;
const MLD_REPORT: u8 = 131;
const MLD_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const MLD2_REPORT: u8 = 143;

/// Longest frame of ARP: what Ethernet pads to, and a tag.
const MOST_ARP: u32 = 64;
/// Longest frame of a pod's neighbour or router solicitation or advertisement: its addresses, two options, and something in front.
const MOST_DISCOVERY: u32 = 128;
/// Most options of such a message.
const MOST_OPTIONS: u32 = 4;

/// Whether a hardware address that stands in a packet is the pod's: byte by byte, for it need not stand on a word.
#[inline(always)]
fn is_own_mac(endpoint: &Endpoint, mac: [u8; 6]) -> bool {
    let own = &endpoint.mac;
    mac[0] == own[0]
        && mac[1] == own[1]
        && mac[2] == own[2]
        && mac[3] == own[3]
        && mac[4] == own[4]
        && mac[5] == own[5]
}

/// Judges ARP. A pod's own may claim nothing but its own addresses.
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
    // Behind the 28 bytes there is padding at most: on a bridge the rest would be a letter to a neighbour.
    if meta.len > MOST_ARP {
        return Reason::BadHeader;
    }
    let mut h = [0u8; 28];
    if !frame.load(scratch.packet.l4, &mut h) {
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
        || (h[7] != 1 && h[7] != 2)
    {
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

/// Judges the ICMP messages of the link; `None` where the packet is none of them or has to be verdict by policy.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
pub(crate) fn discovery<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    meta: &Meta,
    endpoint: &Endpoint,
    guard: bool,
    direction: Direction,
    revision: u64,
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
        // Routers listen to these. To a pod they would be letters, of any length and past the policy of who sends them.
        Direction::Ingress if matches!(kind, MLD_REPORT | MLD_DONE | MLD2_REPORT) => {
            Some(Reason::NotForPod)
        }
        Direction::Ingress => {
            let on_link = match kind {
                NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT | ROUTER_ADVERTISEMENT => {
                    p.hop_limit == 255
                }
                MLD_QUERY => p.hop_limit == 1,
                _ => false,
            };
            if !on_link {
                return None;
            }
            if kind != MLD_QUERY && !is_link_local(&p.src) && !p.src.same(&Addr::ZERO) {
                remember(env, endpoint, direction, revision, scratch);
            }
            Some(Reason::Neighbour)
        }
        Direction::Egress => Some(from_pod(env, frame, meta, endpoint, guard, kind, scratch)),
    }
}

#[inline(always)]
fn from_pod<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    meta: &Meta,
    endpoint: &Endpoint,
    guard: bool,
    kind: u8,
    scratch: &mut Scratch,
) -> Reason {
    if kind == ROUTER_ADVERTISEMENT || kind == REDIRECT || kind == MLD_QUERY {
        return Reason::RouterFromPod;
    }
    let src = scratch.packet.src;
    let dst = scratch.packet.dst;
    let unspecified = src.same(&Addr::ZERO);
    if guard && !unspecified && !is_own(env, endpoint, V6, &src, scratch) {
        return Reason::SpoofedNeighbour;
    }
    if kind == MLD_REPORT || kind == MLD_DONE || kind == MLD2_REPORT {
        return if scratch.packet.hop_limit == 1 && is_group(V6, &dst) {
            Reason::Neighbour
        } else {
            Reason::SpoofedNeighbour
        };
    }
    if scratch.packet.hop_limit != 255 || meta.len > MOST_DISCOVERY {
        return Reason::SpoofedNeighbour;
    }
    if kind == NEIGHBOUR_SOLICITATION || kind == NEIGHBOUR_ADVERTISEMENT {
        let mut t = [0u8; 24];
        if !frame.load(scratch.packet.l4, &mut t) {
            return Reason::Truncated;
        }
        let target = Addr::v6([
            t[8], t[9], t[10], t[11], t[12], t[13], t[14], t[15], t[16], t[17], t[18], t[19],
            t[20], t[21], t[22], t[23],
        ]);
        let claims = kind == NEIGHBOUR_ADVERTISEMENT || unspecified;
        if guard && claims && !is_own(env, endpoint, V6, &target, scratch) {
            return Reason::SpoofedNeighbour;
        }
    }
    let fixed = if kind == ROUTER_SOLICITATION { 8 } else { 24 };
    if guard
        && !own_link_layer(
            frame,
            endpoint,
            scratch.packet.l4 + fixed,
            scratch.packet.end,
        )
    {
        return Reason::SpoofedNeighbour;
    }
    if is_link_local(&dst)
        || is_link_multicast(&dst)
        || is_host(env, V6, &dst, scratch)
        || known(env, endpoint, scratch)
    {
        Reason::Neighbour
    } else {
        Reason::SpoofedNeighbour
    }
}

/// Whether the options of a discovery message, which stand between two offsets, name no link-layer address but the pod's.
#[inline(always)]
fn own_link_layer<F: Frame>(frame: &F, endpoint: &Endpoint, from: u32, end: u32) -> bool {
    const SOURCE: u8 = 1;
    const TARGET: u8 = 2;
    let mut at = from;
    for _ in 0..MOST_OPTIONS {
        if at == end {
            return true;
        }
        let mut o = [0u8; 8];
        if at + 8 > end || !frame.load(at, &mut o) || o[1] == 0 {
            return false;
        }
        let link_layer = o[0] == SOURCE || o[0] == TARGET;
        let own = o[1] == 1 && is_own_mac(endpoint, [o[2], o[3], o[4], o[5], o[6], o[7]]);
        if link_layer && !own {
            return false;
        }
        at += u32::from(o[1]) * 8;
    }
    at == end
}

/// Key of what is remembered about a neighbour: no packet has it, for neighbour messages never become flows.
#[inline(always)]
fn neighbour_key(endpoint: &Endpoint, direction: Direction, scratch: &mut Scratch) {
    scratch
        .flow
        .fill(endpoint.endpoint_id, &scratch.packet, direction);
    scratch.flow.local = Addr::ZERO;
    scratch.flow.local_port_be = u16::MAX;
    scratch.flow.remote_port_be = u16::MAX;
    scratch.flow.echo = 0;
}

/// Remembers a neighbour with a global address: its messages came with hop limit 255, so it is on the link, and the
/// pod may answer it.
#[inline(always)]
fn remember<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    direction: Direction,
    revision: u64,
    scratch: &mut Scratch,
) {
    neighbour_key(endpoint, direction, scratch);
    let now = ticks(env.jiffies());
    if let Some(flow) = env.flow(&scratch.flow) {
        flow.set_seen(now);
        return;
    }
    scratch.value = FlowValue {
        verdict: FlowVerdict::new(
            revision,
            scratch.flow.tag(),
            true,
            Direction::Ingress,
            Kind::Neighbour,
        )
        .0,
        seen: now,
        state: 0,
    };
    // Bounded like all that somebody else can make without an answer of the pod's: it never takes the pod's own half.
    let (_, unanswered) = env.share(endpoint.endpoint_index);
    if env
        .config()
        .is_some_and(|c| unanswered < u64::from(c.unanswered_limit) / 2)
    {
        create(env, endpoint.endpoint_index, scratch);
    }
}

#[inline(always)]
fn known<E: Env>(env: &E, endpoint: &Endpoint, scratch: &mut Scratch) -> bool {
    neighbour_key(endpoint, Direction::Egress, scratch);
    let Some(flow) = env.flow(&scratch.flow) else {
        return false;
    };
    let verdict = FlowVerdict(flow.verdict());
    let hz = match env.config() {
        Some(c) => c.hz,
        None => return false,
    };
    verdict.kind() as u8 == Kind::Neighbour as u8
        && verdict.tag() == scratch.flow.tag()
        && !expired(ticks(env.jiffies()), flow.seen(), hz, TIMEOUT_OTHER)
}
