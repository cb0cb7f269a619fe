//! What follows from the answer of policy: the flow is recorded, evaluated anew, or left alone.

use crate::env::{Env, Write};
use crate::flow::{FlowVerdict, Kind, STATE_ANSWERED, next_state};
use crate::found::Why;
use crate::layout::{Config, Direction, Endpoint, FlowValue};
use crate::policy_state::PolicyState;
use crate::reason::Reason;
use crate::record::record;
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
            // Pending says nothing about the flow: it is verdict when the policy is known.
            if matches!(answer, Reason::Pending | Reason::TableError) {
                return answer;
            }
            let mut next = state;
            if allowed {
                next = next_state(state, &scratch.packet, direction, asked);
                if next & !state & STATE_ANSWERED != 0 {
                    env.count_answered(endpoint.endpoint_index, true);
                }
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
            env.put_flow(&scratch.flow, &scratch.value, Write::Replace);
            if allowed {
                Reason::Tracked
            } else {
                Reason::FlowRefused
            }
        }
        Why::New | Why::Replace(_) => {
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
            record(env, endpoint, config, now, verdict, why, answer, scratch)
        }
    }
}
