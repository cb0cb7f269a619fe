//! Fragments: later ones follow the verdict of their first.

use crate::env::Env;
use crate::flow::{FlowVerdict, Kind, TIMEOUT_FRAGMENT, expired};
use crate::frame::Meta;
use crate::layout::{Direction, Endpoint, FlowValue};
use crate::policy_state::PolicyState;
use crate::reason::Reason;
use crate::scratch::Scratch;

/// A later fragment follows its first, by the same way: what is let in because the host sends it cannot be completed by others.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
pub(crate) fn later_fragment<E: Env>(
    env: &E,
    meta: &Meta,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    direction: Direction,
    hz: u32,
    now: u32,
    scratch: &mut Scratch,
) -> Reason {
    scratch
        .fragment
        .fill(endpoint.endpoint_id, &scratch.packet, direction);
    let Some(value) = env.fragment(&scratch.fragment) else {
        return Reason::FragmentWithoutFirst;
    };
    let verdict = FlowVerdict(value.verdict);
    if verdict.revision() == policy_state.revision()
        && verdict.tag() == scratch.fragment.tag()
        && verdict.allowed()
        && value.state == meta.ingress_ifindex
        && !expired(now, value.seen, hz, TIMEOUT_FRAGMENT)
    {
        Reason::LaterFragment
    } else {
        Reason::FragmentWithoutFirst
    }
}

/// Remembers a first fragment that passes, and the interface by which it came.
#[inline(always)]
pub(crate) fn note_first<E: Env>(
    env: &E,
    meta: &Meta,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    direction: Direction,
    now: u32,
    scratch: &mut Scratch,
) {
    scratch
        .fragment
        .fill(endpoint.endpoint_id, &scratch.packet, direction);
    let verdict = FlowVerdict::new(
        policy_state.revision(),
        scratch.fragment.tag(),
        true,
        direction,
        Kind::Policy,
    );
    scratch.value = FlowValue {
        verdict: verdict.0,
        seen: now,
        state: meta.ingress_ifindex,
    };
    env.put_fragment(&scratch.fragment, &scratch.value);
}
