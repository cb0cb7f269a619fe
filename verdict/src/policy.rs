//! What policy says of one flow: peer -> class -> rule -> port set, and the default of the policy state.

use crate::env::{Env, Work};
use crate::layout::{
    Direction, PORT_ALLOW, PORT_DENY, PeerValue, PortKey, PrefixKey, RULE_ALLOW_ALL,
    RULE_DEFAULT_ALL, RULE_DENY_ALL, V4,
};
use crate::policy_state::PolicyState;
use crate::reason::Reason;

/// How often a value that was taken from under the reader is read again.
const TRIES: u32 = 2;

/// Judges the flow in `work.flow` as if `direction` opened it. The reason tells the verdict.
#[inline(always)]
pub fn judge<E: Env>(
    env: &E,
    policy_state: PolicyState,
    direction: Direction,
    work: &mut Work,
) -> Reason {
    if policy_state.has(PolicyState::SUSPENDED) {
        return Reason::Suspended;
    }
    if policy_state.has(PolicyState::PENDING) {
        return Reason::Pending;
    }
    if policy_state.has_rules(direction) {
        let Some(class) = class_of(env, work) else {
            return Reason::TableError;
        };
        match rule(env, policy_state.set(), direction, class, work) {
            Some(true) => return Reason::PolicyAllowed,
            Some(false) => return Reason::PolicyDenied,
            None => {}
        }
    }
    if policy_state.isolated(direction) {
        Reason::PolicyDenied
    } else if policy_state.has(PolicyState::STRICT) {
        Reason::StrictDefault
    } else {
        Reason::DefaultAllowed
    }
}

/// Class of the flow's remote address; 0 = everybody else, `None` = the table could not be read.
#[inline(always)]
fn class_of<E: Env>(env: &E, work: &mut Work) -> Option<u32> {
    work.peer.family = u32::from(work.flow.family);
    work.peer.addr = work.flow.remote;
    let mut torn = false;
    for _ in 0..TRIES {
        match env.peer(&work.peer) {
            Some(word) => match (PeerValue { word }).class(&work.peer) {
                Some(class) => return Some(class),
                None => torn = true,
            },
            None => {
                torn = false;
                break;
            }
        }
    }
    if torn {
        return None;
    }
    work.prefix.prefix_len = PrefixKey::FIXED_BITS + if work.flow.family == V4 { 32 } else { 128 };
    work.prefix.family = u32::from(work.flow.family);
    work.prefix.addr = work.flow.remote;
    for _ in 0..TRIES {
        let Some(value) = env.prefix(&work.prefix) else {
            return Some(0);
        };
        let key = &work.prefix.addr.0;
        let addr = &value.addr.0;
        if value.class == value.class_again
            && value.family == work.prefix.family
            && (key[0] ^ addr[0]) & mask(value.len, 0) == 0
            && (key[1] ^ addr[1]) & mask(value.len, 32) == 0
            && (key[2] ^ addr[2]) & mask(value.len, 64) == 0
            && (key[3] ^ addr[3]) & mask(value.len, 96) == 0
        {
            return Some(value.class);
        }
    }
    None
}

/// Mask, as it lies in memory, of the policy state that begins at bit `from` of an address.
#[inline(always)]
const fn mask(len: u32, from: u32) -> u32 {
    if len <= from {
        0
    } else if len - from >= 32 {
        u32::MAX
    } else {
        (u32::MAX << (32 - (len - from))).to_be()
    }
}

/// What the set's rules say: `None` = the policy state's default.
#[inline(always)]
fn rule<E: Env>(
    env: &E,
    set: u16,
    direction: Direction,
    class: u32,
    work: &mut Work,
) -> Option<bool> {
    work.rule.class = class;
    work.rule.set = set;
    work.rule.direction = direction as u8;
    work.rule.family = work.flow.family;
    let mut found = env.rule(&work.rule);
    if found.is_none() && class != 0 {
        work.rule.class = 0;
        found = env.rule(&work.rule);
    }
    match found? {
        RULE_ALLOW_ALL => Some(true),
        RULE_DENY_ALL => Some(false),
        RULE_DEFAULT_ALL => None,
        port_set => {
            work.port.prefix_len = PortKey::FULL_BITS;
            work.port.port_set = port_set;
            work.port.protocol_be = u16::from(work.flow.protocol).to_be();
            // The identifier of an echo is no port.
            work.port.port_be = match direction {
                _ if work.flow.echo != 0 => 0,
                Direction::Ingress => work.flow.local_port_be,
                Direction::Egress => work.flow.remote_port_be,
            };
            match env.port(&work.port)? {
                PORT_ALLOW => Some(true),
                PORT_DENY => Some(false),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn masks() {
        assert_eq!(mask(0, 0), 0);
        assert_eq!(mask(24, 0).to_ne_bytes(), [255, 255, 255, 0]);
        assert_eq!(mask(32, 0), u32::MAX);
        assert_eq!(mask(33, 32).to_ne_bytes(), [128, 0, 0, 0]);
        assert_eq!(mask(128, 96), u32::MAX);
    }
}
