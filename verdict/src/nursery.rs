//! The nursery: where a flow stands until it is assured, and again once it is closing.
//!
//! A bucket holds [`SLOTS`] flows, half of them for those that the pod opens and half for those that others open, so that
//! neither takes the place of the other. A new flow takes a free slot of its half, else that of an expired, closing,
//! one-exchange or unreplied flow, oldest first: the cost is the same whatever is there, nothing is ever swept before the
//! bucket serves again, and nothing is counted.
//!
//! Slots are written in place while other CPUs read them. Each carries a check over its key and its verdict under a key
//! that only the node knows ([`NurseryKey`]): a slot that two CPUs have mixed belongs to no flow.

use crate::flow::{
    FlowVerdict, STATE_ASSURED, STATE_REPLIED, expired, is_closing, timeout_seconds,
};
use crate::layout::{Direction, FlowKey, NURSERY_SLOTS, NurseryKey};
use crate::packet::proto;

/// Flows of one bucket.
pub const SLOTS: u32 = NURSERY_SLOTS as u32;
/// Of these, flows opened by one direction.
pub const SLOTS_PER_DIRECTION: u32 = SLOTS / 2;

/// A bucket in the table. Each field is read and written by itself; [`check`] tells whether they belong together.
pub trait Nursery {
    /// See [`check`]; 0 = free.
    fn check(&self, slot: u32) -> u64;
    /// See [`FlowVerdict`].
    fn verdict(&self, slot: u32) -> u64;
    /// Time of the last packet.
    fn seen(&self, slot: u32) -> u32;
    /// See `crate::flow::STATE_*`.
    fn state(&self, slot: u32) -> u32;
    /// The bucket's count of flows when this one came.
    fn order(&self, slot: u32) -> u32;
    /// Protocol of the slot's flow.
    fn protocol(&self, slot: u32) -> u8;
    /// Counts one more flow; the count before.
    fn next_order(&self) -> u32;
    /// Notes the time of a packet.
    fn set_seen(&self, slot: u32, seen: u32);
    /// Notes the state.
    fn set_state(&self, slot: u32, state: u32);
    /// Notes check and verdict; a check of 0 frees the slot.
    fn set_verdict(&self, slot: u32, check: u64, verdict: u64);
    /// Fills the rest of a slot.
    fn set_flow(&self, slot: u32, key: &FlowKey, order: u32);
}

/// Hash of a flow's key under the node's key (NH, the inner hash of UMAC): two keys meet with a chance of 2^-32 for
/// whoever does not know it.
#[inline(always)]
pub const fn hash(secret: &NurseryKey, key: &FlowKey) -> u64 {
    let ports = ((key.local_port_be as u32) << 16) | key.remote_port_be as u32;
    let kind = ((key.family as u32) << 24) | ((key.protocol as u32) << 16) | key.echo as u32;
    let (l, r, s) = (&key.local.0, &key.remote.0, &secret.words);
    nh(key.endpoint_id, s[0], ports, s[1])
        .wrapping_add(nh(kind, s[2], l[0], s[3]))
        .wrapping_add(nh(l[1], s[4], l[2], s[5]))
        .wrapping_add(nh(l[3], s[6], r[0], s[7]))
        .wrapping_add(nh(r[1], s[8], r[2], s[9]))
        .wrapping_add(nh(r[3], s[10], 0, s[11]))
}

#[inline(always)]
const fn nh(a: u32, secret_a: u32, b: u32, secret_b: u32) -> u64 {
    (a.wrapping_add(secret_a) as u64) * (b.wrapping_add(secret_b) as u64)
}

/// What a slot carries beside its verdict.
#[inline(always)]
pub const fn check(secret: &NurseryKey, hash: u64, verdict: u64) -> u64 {
    hash ^ verdict.wrapping_mul(secret.factor | 1)
}

/// Key of the bucket: of one endpoint index, so that no endpoint takes another's slots.
#[inline(always)]
pub const fn bucket_key(endpoint_index: u32, hash: u64, mask: u32) -> u32 {
    let mixed = (hash ^ (hash >> 32)) as u32;
    (endpoint_index << 16) | ((mixed.wrapping_mul(0x9e37_79b1) >> 16) & mask & 0xffff)
}

/// The slot that holds a flow.
#[inline(always)]
pub fn find<N: Nursery>(bucket: &N, secret: &NurseryKey, hash: u64) -> Option<u32> {
    let mut slot = 0;
    while slot < SLOTS {
        let verdict = bucket.verdict(slot);
        if bucket.check(slot) == check(secret, hash, verdict) && verdict != 0 {
            return Some(slot);
        }
        slot += 1;
    }
    None
}

/// How soon a flow loses its slot: the class, then the order in which they came.
#[inline(always)]
fn worth<N: Nursery>(bucket: &N, slot: u32, now: u32, hz: u32, next: u32) -> u32 {
    const AGES: u32 = 0xffff;
    if bucket.check(slot) == 0 {
        return 0;
    }
    let (state, protocol) = (bucket.state(slot), bucket.protocol(slot));
    if expired(now, bucket.seen(slot), hz, timeout_seconds(protocol, state)) {
        return 1;
    }
    let class = if !FlowVerdict(bucket.verdict(slot)).allowed() {
        // Kept, as refused: it keeps its peer from opening it the other way round.
        3
    } else if is_closing(state) {
        1
    } else if state & STATE_ASSURED != 0 {
        // In use, and only without a place in the table for the quota.
        4
    } else if state & STATE_REPLIED != 0 && protocol != proto::TCP {
        2
    } else {
        3
    };
    let age = next.wrapping_sub(bucket.order(slot));
    (class << 16) | (AGES - if age < AGES { age } else { AGES - 1 })
}

/// The slot that a new flow opened by `opener` takes.
#[inline(always)]
pub fn victim<N: Nursery>(bucket: &N, opener: Direction, now: u32, hz: u32, next: u32) -> u32 {
    let first = if opener as u8 == Direction::Ingress as u8 {
        0
    } else {
        SLOTS_PER_DIRECTION
    };
    let (mut best, mut least) = (first, u32::MAX);
    let mut i = 0;
    while i < SLOTS_PER_DIRECTION {
        let worth = worth(bucket, first + i, now, hz, next);
        if worth < least {
            (best, least) = (first + i, worth);
        }
        i += 1;
    }
    best
}
