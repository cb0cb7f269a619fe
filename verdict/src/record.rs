//! Flow recording: what becomes an entry of the flow table, and what its next packets change in it.

use crate::env::{Env, Flow, Write};
use crate::flow::{FlowVerdict, Kind, STATE_ANSWERED, STATE_FIN_OPENER, STATE_SYN, next_state};
use crate::found::Why;
use crate::layout::{Config, Direction, Endpoint, FlowValue};
use crate::packet::{ECHO_REPLY, proto, tcp};
use crate::reason::Reason;
use crate::scratch::Scratch;

/// Notes the state after a packet that passes.
#[inline(always)]
pub(crate) fn touch<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    flow: &E::FlowRef,
    state: u32,
    opener: Direction,
    direction: Direction,
    scratch: &Scratch,
) {
    let next = next_state(state, &scratch.packet, direction, opener);
    if next != state {
        flow.set_state(next);
        if next & !state & STATE_ANSWERED != 0 {
            env.count_answered(endpoint.endpoint_index, true);
        }
    }
}

/// Records a new flow that is allowed. What cannot be recorded passes all the same, by another name.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
pub(crate) fn record<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    config: &Config,
    now: u32,
    verdict: FlowVerdict,
    why: Why,
    reason: Reason,
    scratch: &mut Scratch,
) -> Reason {
    // A stray RST or SYN ACK leaves no state, and neither does an echo reply that nobody asked for.
    let flags = scratch.packet.tcp_flags;
    if scratch.packet.protocol == proto::TCP
        && (flags & tcp::RST != 0 || flags & tcp::SYN != 0 && flags & tcp::ACK != 0)
        || scratch.packet.echo == ECHO_REPLY
    {
        return reason;
    }
    let mut state = 0;
    if scratch.packet.is_bare_syn() {
        state = STATE_SYN;
    } else if scratch.packet.protocol == proto::TCP && scratch.packet.tcp_flags & tcp::FIN != 0 {
        state = STATE_FIN_OPENER;
    }
    scratch.value = FlowValue {
        verdict: verdict.0,
        seen: now,
        state,
    };
    match why {
        Why::Replace(answered) => {
            if !env.put_flow(&scratch.flow, &scratch.value, Write::Replace) {
                return Reason::TableFull;
            }
            if answered {
                env.count_answered(endpoint.endpoint_index, false);
            }
            reason
        }
        Why::New => {
            let (live, unanswered) = env.share(endpoint.endpoint_index);
            let (all, _) = env.share(0);
            let fair = u64::from(config.fair_share);
            let limit = u64::from(config.flow_limit);
            let short = all >= limit - limit / 4;
            // Whoever may reach the pod can leave flows unanswered; they never take the pod's own half.
            let others = verdict.kind() as u8 == Kind::Policy as u8
                && verdict.opener() as u8 == Direction::Ingress as u8;
            let most = u64::from(config.unanswered_limit) >> u32::from(others);
            if (short && live >= fair) || all >= limit || unanswered >= most {
                return Reason::ShareFull;
            }
            if create(env, endpoint.endpoint_index, scratch) {
                reason
            } else {
                Reason::TableFull
            }
        }
        _ => reason,
    }
}

/// Creates the flow `scratch.flow` with `scratch.value` and counts it; true also where another CPU was first.
#[inline(always)]
pub(crate) fn create<E: Env>(env: &E, endpoint_index: u32, scratch: &Scratch) -> bool {
    if env.put_flow(&scratch.flow, &scratch.value, Write::Create) {
        env.count_made(endpoint_index);
        return true;
    }
    env.flow(&scratch.flow).is_some()
}
