//! What policy says of one flow: peer -> class -> rule -> port set, and the default of the policy state.

use crate::env::Env;
use crate::layout::{
    Addr, Direction, PORT_ALLOW, PORT_DENY, PeerValue, PortKey, PrefixKey, RULE_ALLOW_ALL,
    RULE_DEFAULT_ALL, RULE_DENY_ALL, V4,
};
use crate::policy_state::PolicyState;
use crate::reason::Reason;
use crate::scratch::Scratch;

/// How often a value that was taken from under the reader is read again.
const TRIES: u32 = 2;

/// Evaluates policy for the flow in `scratch.flow` as if `direction` opened it. The reason tells the verdict.
#[inline(always)]
pub(crate) fn evaluate_policy<E: Env>(
    env: &E,
    policy_state: PolicyState,
    direction: Direction,
    scratch: &mut Scratch,
) -> Reason {
    if policy_state.has(PolicyState::SUSPENDED) {
        return Reason::Suspended;
    }
    if policy_state.has(PolicyState::PENDING) {
        return Reason::Pending;
    }
    if policy_state.has_rules(direction) {
        let remote = scratch.flow.remote;
        let Some(class) = class_of(env, &remote, scratch) else {
            return Reason::TableError;
        };
        match rule(env, policy_state.set(), direction, class, scratch) {
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

/// Whether a rule refuses what the pod sends to itself by way of a Service, whose source is the pod whatever address the node puts
/// in its place. A NetworkPolicy never does: what it does not allow is the default's to refuse, and no rule's. A
/// ClusterNetworkPolicy does (its Deny is a rule).
#[inline(always)]
pub(crate) fn denies_itself<E: Env>(
    env: &E,
    policy_state: PolicyState,
    direction: Direction,
    scratch: &mut Scratch,
) -> bool {
    if policy_state.has(PolicyState::SUSPENDED | PolicyState::PENDING)
        || !policy_state.has_rules(direction)
    {
        return false;
    }
    let own = scratch.flow.local;
    match class_of(env, &own, scratch) {
        Some(class) => rule(env, policy_state.set(), direction, class, scratch) == Some(false),
        None => true,
    }
}

/// Class of an address of the flow's family; 0 = everybody else, `None` = the table could not be read.
#[inline(always)]
fn class_of<E: Env>(env: &E, addr: &Addr, scratch: &mut Scratch) -> Option<u32> {
    scratch.peer.family = u32::from(scratch.flow.family);
    scratch.peer.addr = *addr;
    let mut torn = false;
    for _ in 0..TRIES {
        match env.peer(&scratch.peer) {
            Some(word) => match (PeerValue { word }).class(&scratch.peer) {
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
    scratch.prefix.prefix_len =
        PrefixKey::FIXED_BITS + if scratch.flow.family == V4 { 32 } else { 128 };
    scratch.prefix.family = u32::from(scratch.flow.family);
    scratch.prefix.addr = *addr;
    for _ in 0..TRIES {
        let Some(value) = env.prefix(&scratch.prefix) else {
            return Some(0);
        };
        let key = &scratch.prefix.addr.0;
        let addr = &value.addr.0;
        if value.class == value.class_again
            && value.family == scratch.prefix.family
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
    scratch: &mut Scratch,
) -> Option<bool> {
    scratch.rule.class = class;
    scratch.rule.set = set;
    scratch.rule.direction = direction as u8;
    scratch.rule.family = scratch.flow.family;
    let mut found = env.rule(&scratch.rule);
    if found.is_none() && class != 0 {
        scratch.rule.class = 0;
        found = env.rule(&scratch.rule);
    }
    match found? {
        RULE_ALLOW_ALL => Some(true),
        RULE_DENY_ALL => Some(false),
        RULE_DEFAULT_ALL => None,
        port_set => {
            scratch.port.prefix_len = PortKey::FULL_BITS;
            scratch.port.port_set = port_set;
            scratch.port.protocol_be = u16::from(scratch.flow.protocol).to_be();
            // The identifier of an echo is no port.
            scratch.port.port_be = match direction {
                _ if scratch.flow.echo != 0 => 0,
                Direction::Ingress => scratch.flow.local_port_be,
                Direction::Egress => scratch.flow.remote_port_be,
            };
            match env.port(&scratch.port)? {
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
