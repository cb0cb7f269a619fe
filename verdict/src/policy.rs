//! What policy says of one flow: peer -> class -> rule -> port set, and the default of the policy state.
//!
//! Peers and rules are read in the version of the policy state's revision ([`crate::layout::Versioned`]).

use crate::env::Env;
use crate::layout::{
    Addr, CLASS_BASE_MASK, Direction, PORT_ALLOW, PORT_DENY, PortKey, PrefixKey, RULE_ALLOW_ALL,
    RULE_DEFAULT_ALL, RULE_DENY_ALL, RULE_NONE, V4,
};
use crate::policy_state::PolicyState;
use crate::reason::Reason;
use crate::scratch::Scratch;

/// A class, its base, everybody else.
const RULES_AT_MOST: u32 = 3;
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
        let Some(class) = class_of(env, policy_state.revision(), &remote, scratch) else {
            return Reason::TableError;
        };
        let Some(says) = rule(env, policy_state, direction, class, scratch) else {
            return Reason::TableError;
        };
        match ports(env, says, direction, scratch) {
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
    let Some(class) = class_of(env, policy_state.revision(), &own, scratch) else {
        return true;
    };
    match rule(env, policy_state, direction, class, scratch) {
        Some(says) => ports(env, says, direction, scratch) == Some(false),
        None => true,
    }
}

/// Class of an address of the flow's family; 0 = everybody else, `None` = the table could not be read.
#[inline(always)]
fn class_of<E: Env>(env: &E, revision: u64, addr: &Addr, scratch: &mut Scratch) -> Option<u32> {
    scratch.peer.family = u32::from(scratch.flow.family);
    scratch.peer.addr = *addr;
    let mut torn = false;
    for _ in 0..TRIES {
        match env.peer(&scratch.peer) {
            Some(value) => match value.class.at(scratch.peer.check(), revision) {
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
        if value.family == scratch.prefix.family
            && (key[0] ^ addr[0]) & mask(value.len, 0) == 0
            && (key[1] ^ addr[1]) & mask(value.len, 32) == 0
            && (key[2] ^ addr[2]) & mask(value.len, 64) == 0
            && (key[3] ^ addr[3]) & mask(value.len, 96) == 0
            && let Some(class) = value.class.at(value.check(), revision)
        {
            return Some(class);
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

/// What the rule set says of a class: its own rule, else that of its base, else that of everybody else. `None` = the
/// table could not be read.
#[inline(always)]
fn rule<E: Env>(
    env: &E,
    policy_state: PolicyState,
    direction: Direction,
    class: u32,
    scratch: &mut Scratch,
) -> Option<u32> {
    scratch.rule.class = class;
    scratch.rule.set = policy_state.set();
    scratch.rule.direction = direction as u8;
    scratch.rule.family = scratch.flow.family;
    for _ in 0..RULES_AT_MOST {
        let says = entry(env, policy_state.revision(), scratch)?;
        if says != RULE_NONE || scratch.rule.class == 0 {
            return Some(says);
        }
        let base = scratch.rule.class & CLASS_BASE_MASK;
        scratch.rule.class = if base == scratch.rule.class { 0 } else { base };
    }
    Some(RULE_NONE)
}

/// What one entry says, [`RULE_NONE`] where there is none. `None` = it could not be read.
#[inline(always)]
fn entry<E: Env>(env: &E, revision: u64, scratch: &Scratch) -> Option<u32> {
    for _ in 0..TRIES {
        let Some(value) = env.rule(&scratch.rule) else {
            return Some(RULE_NONE);
        };
        if let Some(says) = value.says.at(scratch.rule.check(), revision) {
            return Some(says);
        }
    }
    None
}

/// What a rule's value says of the flow's port: `None` = the policy state's default.
#[inline(always)]
fn ports<E: Env>(env: &E, says: u32, direction: Direction, scratch: &mut Scratch) -> Option<bool> {
    match says {
        RULE_NONE => None,
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
