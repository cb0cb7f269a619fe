//! What follows from the answer of policy: the flow is recorded, evaluated anew, or left alone.

use crate::env::{Env, Write};
use crate::flow::{FlowVerdict, Kind, next_state};
use crate::found::Why;
use crate::layout::{Config, Direction, Endpoint, FlowValue};
use crate::nursery::{self, Nursery as _};
use crate::policy_state::PolicyState;
use crate::reason::Reason;
use crate::record::{PLACE_TABLE, record};
use crate::scratch::Scratch;

/// Carries out what policy answered.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
pub(crate) fn commit_verdict<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    config: &Config,
    now: u32,
    asked: Direction,
    direction: Direction,
    why: Why,
    answer: Reason,
    scratch: &mut Scratch,
) -> Reason {
    let allowed = !answer.is_drop();
    match why {
        Why::Error => {
            if allowed {
                Reason::IcmpRelated
            } else {
                Reason::IcmpUnrelated
            }
        }
        Why::NoTrack => answer,
        Why::Reevaluate(state) => {
            // Pending says nothing about the flow: it is evaluated when the policy is known.
            if matches!(answer, Reason::Pending | Reason::TableError) {
                return answer;
            }
            let mut next = state;
            if allowed {
                next = next_state(state, &scratch.packet, direction, asked);
            }
            let verdict = FlowVerdict::new(
                policy_state.revision(),
                scratch.flow.tag(),
                allowed,
                asked,
                Kind::Policy,
            );
            scratch.value = FlowValue {
                verdict: verdict.0,
                seen: now,
                state: next,
            };
            if scratch.place == PLACE_TABLE {
                env.put_flow(&scratch.flow, &scratch.value, Write::Replace);
            } else {
                renew_in_nursery(env, endpoint, config, scratch);
            }
            if allowed {
                Reason::Tracked
            } else {
                Reason::FlowRefused
            }
        }
        Why::New | Why::Replace => {
            if !allowed {
                return answer;
            }
            let verdict = FlowVerdict::new(
                policy_state.revision(),
                scratch.flow.tag(),
                true,
                asked,
                Kind::Policy,
            );
            record(env, endpoint, config, now, verdict, answer, scratch)
        }
    }
}

/// Writes the value `scratch.value` into the slot in which the flow was found.
#[inline(always)]
fn renew_in_nursery<E: Env>(env: &E, endpoint: &Endpoint, config: &Config, scratch: &Scratch) {
    let (secret, hash, value) = (&config.nursery_key, scratch.hash, &scratch.value);
    let key = nursery::bucket_key(endpoint.endpoint_index, hash, config.nursery_mask);
    let Some(bucket) = env.bucket(key) else {
        return;
    };
    let slot = env.reload(&scratch.place);
    // Another flow may have taken the slot meanwhile.
    let before = bucket.verdict(slot);
    if bucket.check(slot) == nursery::check(secret, hash, before) {
        bucket.set_seen(slot, value.seen);
        bucket.set_state(slot, value.state);
        bucket.set_verdict(
            slot,
            nursery::check(secret, hash, value.verdict),
            value.verdict,
        );
    }
}
