//! The one decision function: what a packet meets, in the order of ARCHITECTURE.md's first path.

use crate::address::{is_group, is_mapped, is_own};
use crate::commit::commit_verdict;
use crate::env::Env;
use crate::flow::ticks;
use crate::found::Found;
use crate::fragment::{later_fragment, note_first};
use crate::frame::{Frame, Meta};
use crate::icmp_error::icmp_error;
use crate::layout::{Direction, ENDPOINT_GUARD, ENDPOINT_INDEXES, Endpoint, V6};
use crate::link_layer::link_layer;
use crate::neighbour::{arp, discovery};
use crate::packet::{FRAGMENT_FIRST, FRAGMENT_LATER, read};
use crate::policy::evaluate_policy;
use crate::policy_state::PolicyState;
use crate::reason::Reason;
use crate::scratch::Scratch;
use crate::tracked::find;

/// The answer for one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Why; tells pass or drop too.
    pub reason: Reason,
    /// The endpoint index, 0 where there is none.
    pub endpoint_index: u32,
    /// The endpoint id, 0 where there is none.
    pub endpoint_id: u32,
    /// Whether the endpoint wants events.
    pub log: bool,
}

impl Decision {
    /// No endpoint.
    pub const NO_ENDPOINT: Self = Self {
        reason: Reason::NoEndpoint,
        endpoint_index: 0,
        endpoint_id: 0,
        log: false,
    };
}

/// Decides about one frame at one hook of one host veth.
#[inline(always)]
pub fn decide<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    meta: &Meta,
    direction: Direction,
    scratch: &mut Scratch,
) -> Decision {
    let Some(endpoint) = env.endpoint(meta.ifindex) else {
        return Decision::NO_ENDPOINT;
    };
    let (endpoint_index, endpoint_id) = (endpoint.endpoint_index, endpoint.endpoint_id);
    if endpoint.ifindex != meta.ifindex || endpoint_index == 0 || endpoint_index >= ENDPOINT_INDEXES
    {
        return Decision::NO_ENDPOINT;
    }
    let Some(policy_state) = env.policy_state(endpoint_index) else {
        return Decision::NO_ENDPOINT;
    };
    let policy_state = PolicyState(policy_state);
    // Revisions begin at 1: a policy state without one is of an endpoint index that nobody holds.
    if policy_state.revision() == 0 {
        return Decision::NO_ENDPOINT;
    }
    let mut reason = packet(env, frame, meta, direction, endpoint, policy_state, scratch);
    if reason.is_drop() && policy_state.has(PolicyState::SUSPENDED) {
        reason = Reason::Suspended;
    }
    Decision {
        reason,
        endpoint_index,
        endpoint_id,
        log: policy_state.has(PolicyState::LOG),
    }
}

#[inline(always)]
fn packet<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    meta: &Meta,
    direction: Direction,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    scratch: &mut Scratch,
) -> Reason {
    if let Err(reason) = read(frame, meta, &mut scratch.packet, &mut scratch.head) {
        return reason;
    }
    let guard = endpoint.flags & ENDPOINT_GUARD != 0;
    if let Some(reason) = link_layer(endpoint, direction, guard, &scratch.packet) {
        return reason;
    }
    if scratch.packet.is_arp() {
        return arp(env, frame, meta, endpoint, guard, direction, scratch);
    }
    if scratch.packet.family == V6
        && (is_mapped(&scratch.packet.src.0) || is_mapped(&scratch.packet.dst.0))
    {
        return Reason::MappedAddress;
    }
    if let Some(reason) = discovery(env, frame, meta, endpoint, guard, direction, scratch) {
        return reason;
    }
    // Written well before the look-up reads it: a wide load right behind narrow stores waits for them.
    scratch
        .flow
        .fill(endpoint.endpoint_id, &scratch.packet, direction);
    let tag = scratch.flow.tag();
    if guard {
        let (address, wrong) = match direction {
            Direction::Egress => (scratch.packet.src, Reason::SpoofedAddress),
            Direction::Ingress => (scratch.packet.dst, Reason::NotForPod),
        };
        // On a bridge a frame reaches whose MAC address it has, whatever address its sender's policy was asked about.
        let of_a_group = direction as u8 == Direction::Ingress as u8
            && is_group(scratch.packet.family, &address);
        if !of_a_group && !is_own(env, endpoint, scratch.packet.family, &address, scratch) {
            return wrong;
        }
    }
    let Some(config) = env.config() else {
        return Reason::TableError;
    };
    let now = ticks(env.jiffies());
    if scratch.packet.fragment == FRAGMENT_LATER {
        return later_fragment(
            env,
            meta,
            endpoint,
            policy_state,
            direction,
            config.hz,
            now,
            scratch,
        );
    }

    let found = if scratch.packet.is_icmp_error() {
        icmp_error(
            env,
            frame,
            endpoint,
            policy_state,
            direction,
            config,
            now,
            scratch,
        )
    } else {
        find(
            env,
            meta,
            endpoint,
            policy_state,
            direction,
            config,
            now,
            tag,
            scratch,
        )
    };
    let reason = match found {
        Found::Known(reason) => reason,
        Found::Ask(asked, why) => {
            let answer = evaluate_policy(env, policy_state, asked, scratch);
            commit_verdict(
                env,
                endpoint,
                policy_state,
                config,
                now,
                asked,
                direction,
                why,
                answer,
                scratch,
            )
        }
    };
    if scratch.packet.fragment == FRAGMENT_FIRST && !reason.is_drop() {
        note_first(env, meta, endpoint, policy_state, direction, now, scratch);
    }
    reason
}
