//! From policy's terms to the keys of the tables, and back.

use verdict::layout::{
    self, Addr, PORT_ALLOW, PORT_DEFAULT, PORT_DENY, PeerKey, PeerValue, PortKey, PortValue,
    PrefixKey, PrefixValue, RuleKey, RuleValue, TableWrite, Versioned,
};

use crate::{
    compiler::{RuleAt, RuleSetId},
    portmap::{PortPrefix, Verdict},
    prefix::{Family, Prefix},
    tables::Direction,
};

/// A number in two versions: before, from a revision on, and that revision; 0 = settled.
pub(super) type Versions = (u32, u32, u64);

/// A block's class, put or deleted.
pub(super) fn peer(at: Prefix, class: Option<Versions>) -> TableWrite {
    let (family, addr) = Addr::from_ip(at.address());
    let family = u32::from(family);
    if at.is_exact() {
        let key = PeerKey { family, addr };
        let value = |(old, new, since)| PeerValue {
            class: Versioned::new(key.check(), old, new, since),
        };
        return TableWrite::Peer(key, class.map(value));
    }
    let key = PrefixKey {
        prefix_len: PrefixKey::FIXED_BITS + u32::from(at.len()),
        family,
        addr,
    };
    let value = |(old, new, since)| PrefixValue::new(&key, old, new, since);
    TableWrite::Prefix(key, class.map(value))
}

/// A rule, put or deleted.
pub(super) fn rule(set: RuleSetId, at: RuleAt, says: Option<Versions>) -> TableWrite {
    let key = RuleKey {
        class: at.class,
        set: set.0,
        direction: at.direction as u8,
        family: match at.family {
            Family::V4 => layout::V4,
            Family::V6 => layout::V6,
        },
    };
    let value = |(old, new, since)| RuleValue {
        says: Versioned::new(key.check(), old, new, since),
    };
    TableWrite::Rule(key, says.map(value))
}

/// The place of a rule by its key; `None` = nothing that a plan writes.
pub fn rule_at(key: &RuleKey) -> Option<(RuleSetId, RuleAt)> {
    let direction = match key.direction {
        0 => Direction::Ingress,
        1 => Direction::Egress,
        _ => return None,
    };
    let family = match key.family {
        layout::V4 => Family::V4,
        layout::V6 => Family::V6,
        _ => return None,
    };
    let class = key.class;
    Some((
        RuleSetId(key.set),
        RuleAt {
            direction,
            family,
            class,
        },
    ))
}

/// An entry of a port set, put or deleted.
pub(super) fn port(set: u32, prefix: PortPrefix, verdict: Option<Verdict>) -> TableWrite {
    let value = |verdict| match verdict {
        Verdict::Allow => PORT_ALLOW,
        Verdict::Deny => PORT_DENY,
        Verdict::Default => PORT_DEFAULT,
    };
    TableWrite::Port(port_key(set, prefix), verdict.map(value))
}

pub(super) fn port_key(port_set: u32, prefix: PortPrefix) -> PortKey {
    match prefix {
        PortPrefix::Any => PortKey {
            prefix_len: PortKey::ANY_PROTOCOL_BITS,
            port_set,
            protocol_be: 0,
            port_be: 0,
        },
        PortPrefix::Ports {
            protocol,
            port,
            len,
        } => PortKey {
            prefix_len: PortKey::ANY_PORT_BITS + u32::from(len),
            port_set,
            protocol_be: u16::from(protocol).to_be(),
            port_be: port.to_be(),
        },
    }
}

pub(super) fn port_prefix(key: &PortKey) -> PortPrefix {
    if key.prefix_len < PortKey::ANY_PORT_BITS {
        return PortPrefix::Any;
    }
    PortPrefix::Ports {
        protocol: u16::from_be(key.protocol_be) as u8,
        port: u16::from_be(key.port_be),
        len: (key.prefix_len - PortKey::ANY_PORT_BITS) as u8,
    }
}

pub(super) const fn port_verdict(value: PortValue) -> Verdict {
    match value {
        PORT_ALLOW => Verdict::Allow,
        PORT_DENY => Verdict::Deny,
        _ => Verdict::Default,
    }
}
