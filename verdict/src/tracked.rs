//! The flow look-up: a packet of a tracked flow has its flow's verdict.

use crate::address::is_host;
use crate::env::{Env, Flow, Write};
use crate::flow::{
    FlowVerdict, Kind, STATE_FIN_OPENER, STATE_FIN_OTHER, STATE_REPLIED, STATE_RST, STATE_SYN,
    expired, stale, timeout_seconds,
};
use crate::found::{Found, Why};
use crate::frame::Meta;
use crate::implicit_allow::{admits, implicit_allow, is_forwarded_port};
use crate::layout::{Config, Direction, Endpoint, FlowValue};
use crate::link_layer::is_to_host;
use crate::nursery::{Nursery as _, check};
use crate::packet::{Packet, proto};
use crate::policy::denies_itself;
use crate::policy_state::PolicyState;
use crate::reason::Reason;
use crate::record::{Tracked, look_up, touch};
use crate::scratch::Scratch;

/// The flow look-up: one in the table for the packets of an assured flow, another in the nursery for the rest. The key stands in `scratch.flow`.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
pub(crate) fn find<E: Env>(
    env: &E,
    meta: &Meta,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    direction: Direction,
    config: &Config,
    now: u32,
    tag: u16,
    scratch: &mut Scratch,
) -> Found {
    let flow = look_up(env, endpoint, config, scratch);
    let (mut verdict, mut seen, mut state) = (FlowVerdict(0), now, 0);
    if let Some(flow) = &flow {
        verdict = FlowVerdict(flow.verdict());
        (seen, state) = (flow.seen(), flow.state());
    }
    let from_opener = verdict.opener() as u8 == direction as u8;
    // No time-out is shorter than what makes a time stamp stale.
    let stale = stale(now, seen, config.hz);
    let timeout = timeout_seconds(scratch.flow.protocol, state);
    let flow = match flow {
        Some(flow)
            if verdict.tag() == tag
                && !(stale && expired(now, seen, config.hz, timeout))
                && !opens_again(&scratch.packet, from_opener, state) =>
        {
            flow
        }
        other => {
            let why = match other {
                None => Why::New,
                Some(_) if verdict.tag() != tag => Why::NoTrack,
                Some(_) => Why::Replace,
            };
            return implicit_allow(
                env,
                meta,
                endpoint,
                policy_state,
                direction,
                config,
                now,
                why,
                scratch,
            );
        }
    };
    if direction as u8 == Direction::Ingress as u8
        && !admits(env, meta, verdict.kind(), &scratch.packet)
    {
        // The tuple is the host's or the pod's own, but this packet came in by a device.
        return Found::Ask(direction, Why::NoTrack);
    }
    if direction as u8 == Direction::Egress as u8
        && verdict.kind() as u8 != Kind::Policy as u8
        && !is_to_host(meta, endpoint, &scratch.packet)
    {
        // The tuple is one with the host, but this frame is for somebody else on the link.
        return Found::Ask(direction, Why::NoTrack);
    }
    if direction as u8 == Direction::Egress as u8
        && (verdict.kind() as u8 == Kind::Hairpin as u8
            || stale && from_opener && verdict.kind() as u8 == Kind::Host as u8)
        && is_forwarded_port(env, config, &scratch.packet)
    {
        // What the host hands on now, or would once its own tracking of this flow has ended, is for policy.
        return Found::Ask(direction, Why::NoTrack);
    }
    let mut allowed = verdict.allowed();
    if verdict.revision() != policy_state.revision() {
        match verdict.kind() {
            Kind::Policy => return Found::Ask(verdict.opener(), Why::Reevaluate(state)),
            Kind::Host | Kind::Hairpin => {
                let remote = scratch.flow.remote;
                if !is_host(env, scratch.flow.family, &remote, scratch) {
                    return Found::Ask(verdict.opener(), Why::Reevaluate(state));
                }
                allowed = true;
                if verdict.kind() as u8 == Kind::Hairpin as u8 {
                    if direction as u8 == Direction::Ingress as u8 {
                        allowed = !denies_itself(env, policy_state, direction, scratch);
                    } else {
                        // What the pod sends itself is evaluated where it arrives; until then its answers go by the verdict before.
                        return if verdict.allowed() {
                            Found::Known(Reason::Tracked)
                        } else {
                            Found::Known(Reason::FlowRefused)
                        };
                    }
                }
            }
            Kind::Neighbour => return Found::Known(Reason::TableError),
        }
        let again = FlowVerdict::new(
            policy_state.revision(),
            scratch.flow.tag(),
            allowed,
            verdict.opener(),
            verdict.kind(),
        );
        verdict = again;
        renew(env, config, &flow, again, now, state, scratch);
    }
    if stale {
        flow.set_seen(now);
    }
    if allowed {
        let reason = touch(
            env, endpoint, config, &flow, verdict, state, direction, now, stale, scratch,
        );
        return Found::Known(reason);
    }
    if !from_opener && is_symmetric(&scratch.packet) {
        // Both sides send from the same port, so each side's packets are its own direction's: what is allowed there goes on.
        return Found::Ask(direction, Why::NoTrack);
    }
    // Kept, as refused, until idle: were it gone, the peer's next packet would open it the other way round.
    Found::Known(Reason::FlowRefused)
}

/// Writes another verdict of a flow: by key in the table, with its check in the nursery.
#[inline(always)]
fn renew<E: Env>(
    env: &E,
    config: &Config,
    flow: &Tracked<E::FlowRef, E::Bucket>,
    verdict: FlowVerdict,
    now: u32,
    state: u32,
    scratch: &mut Scratch,
) {
    match flow {
        Tracked::Table(_) => {
            scratch.value = FlowValue {
                verdict: verdict.0,
                seen: now,
                state,
            };
            env.put_flow(&scratch.flow, &scratch.value, Write::Replace);
        }
        Tracked::Nursery(bucket, slot) => {
            let check = check(&config.nursery_key, scratch.hash, verdict.0);
            bucket.set_verdict(*slot, check, verdict.0);
        }
    }
}

/// UDP from the same port on both sides (gossip, NTP, IKE): either side can have opened it.
#[inline(always)]
const fn is_symmetric(packet: &Packet) -> bool {
    packet.protocol == proto::UDP && packet.src_port_be == packet.dst_port_be
}

/// Whether a packet of a known tuple opens a new connection.
#[inline(always)]
const fn opens_again(packet: &Packet, from_opener: bool, state: u32) -> bool {
    if packet.opens_sctp() {
        return !from_opener;
    }
    if !packet.is_bare_syn() {
        return false;
    }
    if from_opener {
        // The port is used again; a repeated SYN of a connection that is not over is not that.
        state & (STATE_RST | STATE_FIN_OPENER | STATE_FIN_OTHER) != 0
    } else {
        // Simultaneous open: the opener's own SYN is still unanswered.
        state & STATE_SYN == 0 || state & STATE_REPLIED != 0
    }
}
