//! ADD's wait for the companion, and what becomes of an endpoint whose policy is not known in time. Without the lock.

use std::{
    thread,
    time::{Duration, Instant},
};

use enforcer::endpoint::Endpoints;
use state::Store;
use verdict::PolicyState;

use crate::{config::OnPolicyUnknown, error::Error, execute::Standing, request::AddRequest};

/// Between two looks at a policy state: it is a read from mapped memory.
const LOOK: Duration = Duration::from_micros(200);
/// Between two looks at whether the companion lives, which costs system calls.
const LIFE_SIGN: Duration = Duration::from_millis(50);

/// Waits until the policy states of all endpoints are decided: `policyWait` at most, not at all while no companion is there. What
/// is pending then becomes what `onPolicyUnknown` says.
///
/// # Errors
/// [`Error::PolicyUnknown`], where `onPolicyUnknown` is `fail`.
pub fn for_policy(
    request: &AddRequest,
    store: &Store,
    endpoints: &Endpoints,
    standing: &[Standing],
) -> Result<(), Error> {
    let is_pending = |endpoint: &&Standing| {
        endpoints
            .policy_states
            .get(endpoint.endpoint_index)
            .has(PolicyState::PENDING)
    };
    let begin = Instant::now();
    let mut next_sign = begin;
    let reason = loop {
        if standing.iter().find(is_pending).is_none() {
            tracing::debug!(waited = ?begin.elapsed(), "policy known");
            return Ok(());
        }
        let now = Instant::now();
        if now >= next_sign {
            if !store.companion_alive() {
                break "no companion is there";
            }
            next_sign = now + LIFE_SIGN;
        }
        let left = request
            .config
            .policy_wait
            .saturating_sub(now.duration_since(begin));
        if left.is_zero() {
            break "policyWait is over";
        }
        thread::sleep(left.min(LOOK));
    };
    for endpoint in standing.iter().filter(is_pending) {
        let ifindex = endpoint.ifindex;
        match request.config.on_policy_unknown {
            OnPolicyUnknown::Deny => tracing::warn!(
                ifindex,
                "{reason}; closed until the companion knows its policy"
            ),
            OnPolicyUnknown::Allow => allow(endpoints, *endpoint, reason)?,
            OnPolicyUnknown::Fail => {
                let pod = format!("{}/{}", request.pod.namespace, request.pod.name);
                return Err(Error::PolicyUnknown { pod, reason });
            }
        }
    }
    Ok(())
}

/// Takes `pending` away and leaves the mode. Where the companion is faster its policy state stands; where the endpoint is gone by
/// now its endpoint index may be another's, and its policy state, whose revision is unique, with it.
fn allow(endpoints: &Endpoints, endpoint: Standing, reason: &str) -> Result<(), Error> {
    let policy_state = endpoints.policy_states.get(endpoint.endpoint_index);
    let is_ours = endpoints
        .entry(endpoint.ifindex)?
        .is_some_and(|entry| entry.endpoint_id == endpoint.endpoint_id);
    if is_ours && policy_state.has(PolicyState::PENDING) {
        let decided = policy_state.with_flags(policy_state.flags() & !PolicyState::PENDING);
        if endpoints
            .policy_states
            .swap(endpoint.endpoint_index, policy_state, decided)
            .is_ok()
        {
            tracing::warn!(
                ifindex = endpoint.ifindex,
                "{reason}; open as the mode says until the companion knows its policy"
            );
        }
    }
    Ok(())
}
