//! Flow recording: a new flow goes into the nursery, an assured one into the table, a closing one back.

use crate::env::{Env, Flow, Write};
use crate::flow::{
    FlowVerdict, STATE_ASSURED, STATE_FIN_OPENER, STATE_SYN, is_closing, next_state,
};
use crate::layout::{Config, Direction, Endpoint, FlowValue};
use crate::nursery::{self, Nursery, SLOTS};
use crate::packet::{ECHO_REPLY, proto, tcp};
use crate::reason::Reason;
use crate::scratch::Scratch;

/// `Scratch::place`: the flow stands in the table.
pub(crate) const PLACE_TABLE: u32 = 0x100;
/// `Scratch::place`: there is no such flow.
pub(crate) const PLACE_NONE: u32 = 0x101;

/// A flow that was found.
pub(crate) enum Tracked<F, B> {
    /// In the table.
    Table(F),
    /// In this slot of its bucket of the nursery.
    Nursery(B, u32),
}

impl<F: Flow, B: Nursery> Flow for Tracked<F, B> {
    #[inline(always)]
    fn verdict(&self) -> u64 {
        match self {
            Self::Table(flow) => flow.verdict(),
            Self::Nursery(bucket, slot) => bucket.verdict(*slot),
        }
    }
    #[inline(always)]
    fn seen(&self) -> u32 {
        match self {
            Self::Table(flow) => flow.seen(),
            Self::Nursery(bucket, slot) => bucket.seen(*slot),
        }
    }
    #[inline(always)]
    fn state(&self) -> u32 {
        match self {
            Self::Table(flow) => flow.state(),
            Self::Nursery(bucket, slot) => bucket.state(*slot),
        }
    }
    #[inline(always)]
    fn set_seen(&self, seen: u32) {
        match self {
            Self::Table(flow) => flow.set_seen(seen),
            Self::Nursery(bucket, slot) => bucket.set_seen(*slot, seen),
        }
    }
    #[inline(always)]
    fn set_state(&self, state: u32) {
        match self {
            Self::Table(flow) => flow.set_state(state),
            Self::Nursery(bucket, slot) => bucket.set_state(*slot, state),
        }
    }
}

/// Looks for the flow `scratch.flow` in the table, then in the nursery; notes where it stands.
#[inline(always)]
pub(crate) fn look_up<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    config: &Config,
    scratch: &mut Scratch,
) -> Option<Tracked<E::FlowRef, E::Bucket>> {
    if let Some(flow) = env.flow(&scratch.flow) {
        scratch.place = PLACE_TABLE;
        return Some(Tracked::Table(flow));
    }
    look_up_nursery(env, endpoint, config, scratch)
        .map(|(bucket, slot)| Tracked::Nursery(bucket, slot))
}

/// Looks for the flow `scratch.flow` in the nursery alone.
#[inline(always)]
pub(crate) fn look_up_nursery<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    config: &Config,
    scratch: &mut Scratch,
) -> Option<(E::Bucket, u32)> {
    scratch.hash = nursery::hash(&config.nursery_key, &scratch.flow);
    scratch.place = PLACE_NONE;
    let key = nursery::bucket_key(endpoint.endpoint_index, scratch.hash, config.nursery_mask);
    let bucket = env.bucket(key)?;
    scratch.place = nursery::find(&bucket, &config.nursery_key, scratch.hash)?;
    let slot = env.reload(&scratch.place);
    Some((bucket, slot))
}

/// Puts the flow `scratch.flow` into the nursery: into the slot where it was found, or that of a flow that is worth less.
#[inline(always)]
pub(crate) fn place<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    config: &Config,
    now: u32,
    verdict: FlowVerdict,
    state: u32,
    scratch: &mut Scratch,
) -> bool {
    let (secret, hash) = (&config.nursery_key, scratch.hash);
    let key = nursery::bucket_key(endpoint.endpoint_index, hash, config.nursery_mask);
    let Some(bucket) = env.bucket(key).or_else(|| env.make_bucket(key)) else {
        return false;
    };
    let order = bucket.next_order();
    if scratch.place >= SLOTS {
        scratch.place = nursery::victim(&bucket, verdict.opener(), now, config.hz, order);
    }
    let slot = env.reload(&scratch.place);
    bucket.set_verdict(slot, 0, 0);
    bucket.set_flow(slot, &scratch.flow, order);
    bucket.set_seen(slot, now);
    bucket.set_state(slot, state);
    bucket.set_verdict(slot, nursery::check(secret, hash, verdict.0), verdict.0);
    true
}

/// Notes the state after a packet that passes, and moves the flow where it belongs then.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
pub(crate) fn touch<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    config: &Config,
    flow: &Tracked<E::FlowRef, E::Bucket>,
    verdict: FlowVerdict,
    state: u32,
    direction: Direction,
    now: u32,
    stale: bool,
    scratch: &mut Scratch,
) -> Reason {
    let next = next_state(state, &scratch.packet, direction, verdict.opener());
    match flow {
        Tracked::Table(flow) => {
            if next == state {
                return Reason::Tracked;
            }
            flow.set_state(next);
            if is_closing(next) {
                demote(env, endpoint, config, now, verdict, next, scratch);
            }
        }
        Tracked::Nursery(bucket, slot) => {
            if next != state {
                bucket.set_state(*slot, next);
            }
            let assured = next & STATE_ASSURED != 0 && !is_closing(next);
            if assured && (next != state || stale) {
                if !promote(env, endpoint, config, now, verdict, next, scratch) {
                    return Reason::ShareFull;
                }
                bucket.set_verdict(*slot, 0, 0);
            }
        }
    }
    Reason::Tracked
}

/// Moves an assured flow from the nursery into the table, within its endpoint's quota.
#[inline(always)]
fn promote<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    config: &Config,
    now: u32,
    verdict: FlowVerdict,
    state: u32,
    scratch: &mut Scratch,
) -> bool {
    // One half of the table is for whoever comes first, the other is everybody's minimum.
    if env.flows_held(endpoint.endpoint_index) >= u64::from(config.flow_minimum)
        && env.flows_held(0) >= u64::from(config.flow_limit / 2)
    {
        return false;
    }
    scratch.value = FlowValue {
        verdict: verdict.0,
        seen: now,
        state,
    };
    if env.put_flow(&scratch.flow, &scratch.value, Write::Create) {
        env.count_created(endpoint.endpoint_index);
        return true;
    }
    // Another CPU was first, or the table is full.
    env.flow(&scratch.flow).is_some()
}

/// Moves a closing flow from the table back into the nursery: the table holds what is in use, also when nobody sweeps it.
#[inline(always)]
fn demote<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    config: &Config,
    now: u32,
    verdict: FlowVerdict,
    state: u32,
    scratch: &mut Scratch,
) {
    scratch.hash = nursery::hash(&config.nursery_key, &scratch.flow);
    scratch.place = PLACE_NONE;
    if place(env, endpoint, config, now, verdict, state, scratch) {
        delete(env, endpoint, scratch);
    }
}

/// Deletes the flow `scratch.flow` from the table.
#[inline(always)]
fn delete<E: Env>(env: &E, endpoint: &Endpoint, scratch: &Scratch) {
    if env.delete_flow(&scratch.flow) {
        env.count_deleted(endpoint.endpoint_index);
    }
}

/// Records a new flow that is allowed. What cannot be recorded passes all the same, by another name.
#[inline(always)]
pub(crate) fn record<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    config: &Config,
    now: u32,
    verdict: FlowVerdict,
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
    if scratch.place == PLACE_TABLE {
        // The old flow's place in the table is given back: the new one is not assured yet.
        scratch.hash = nursery::hash(&config.nursery_key, &scratch.flow);
        delete(env, endpoint, scratch);
    }
    if place(env, endpoint, config, now, verdict, state, scratch) {
        reason
    } else {
        Reason::TableFull
    }
}
