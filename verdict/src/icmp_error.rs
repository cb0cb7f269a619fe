//! ICMP errors: they pass for the tracked flow that they are about.

use crate::address::is_host;
use crate::env::{Env, Flow};
use crate::flow::{FlowVerdict, Kind, expired, timeout_seconds};
use crate::found::{Found, Why};
use crate::frame::Frame;
use crate::layout::{Config, Direction, Endpoint};
use crate::packet::{FRAGMENT_NONE, read_embedded};
use crate::policy_state::PolicyState;
use crate::reason::Reason;
use crate::record::look_up;
use crate::scratch::Scratch;

/// An ICMP error passes for a tracked flow that is allowed: the embedded packet came from where the error goes to.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
pub(crate) fn icmp_error<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    direction: Direction,
    config: &Config,
    now: u32,
    scratch: &mut Scratch,
) -> Found {
    // Put together again it would be about something that no first fragment need show.
    if scratch.packet.fragment != FRAGMENT_NONE {
        return Found::Known(Reason::FragmentedError);
    }
    if let Err(reason) = read_embedded(
        frame,
        &scratch.packet,
        &mut scratch.inner,
        &mut scratch.buffer,
    ) {
        return Found::Known(reason);
    }
    if !scratch.inner.src.same(&scratch.packet.dst) {
        return Found::Known(Reason::IcmpUnrelated);
    }
    scratch
        .flow
        .fill(endpoint.endpoint_id, &scratch.inner, direction.reverse());
    let Some(flow) = look_up(env, endpoint, config, scratch) else {
        return Found::Known(Reason::IcmpUnrelated);
    };
    let verdict = FlowVerdict(flow.verdict());
    let (seen, state) = (flow.seen(), flow.state());
    if verdict.tag() != scratch.flow.tag()
        || expired(
            now,
            seen,
            config.hz,
            timeout_seconds(scratch.flow.protocol, state),
        )
    {
        return Found::Known(Reason::IcmpUnrelated);
    }
    if verdict.revision() == policy_state.revision() {
        let related = if verdict.allowed() {
            Reason::IcmpRelated
        } else {
            Reason::IcmpUnrelated
        };
        return Found::Known(related);
    }
    match verdict.kind() {
        Kind::Policy => Found::Ask(verdict.opener(), Why::Error),
        Kind::Host | Kind::Hairpin => {
            let remote = scratch.flow.remote;
            let still = is_host(env, scratch.flow.family, &remote, scratch);
            Found::Known(if still {
                Reason::IcmpRelated
            } else {
                Reason::IcmpUnrelated
            })
        }
        Kind::Neighbour => Found::Known(Reason::IcmpUnrelated),
    }
}
