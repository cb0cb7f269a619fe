//! Steps as lines: for golden files and the trace log.

use std::fmt;

use verdict::layout::{
    CLASS_BASE_MASK, CLASS_BITS, PORT_ALLOW, PORT_DENY, PrefixKey, RULE_ALLOW_ALL,
    RULE_DEFAULT_ALL, RULE_DENY_ALL, RULE_NONE, TableWrite, V6, Versioned,
};

use super::{Step, keys};
use crate::{portmap::PortPrefix, tables::DIRECTIONS};

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revision => write!(f, "take a revision"),
            Self::Write(one) => table(f, one),
            Self::State {
                endpoint,
                state,
                revision,
            } => {
                let (id, set) = (endpoint.0, state.set.0);
                write!(f, "put policy state of {id}: set {set}")?;
                for direction in DIRECTIONS {
                    if *state.isolated.get(direction) {
                        write!(f, " isolated-{}", direction.name())?;
                    }
                    if *state.rules.get(direction) {
                        write!(f, " rules-{}", direction.name())?;
                    }
                }
                write!(f, ", revision {revision}")
            }
            Self::Grace => write!(f, "grace"),
            Self::Done => write!(f, "done"),
        }
    }
}

fn table(f: &mut fmt::Formatter<'_>, one: &TableWrite) -> fmt::Result {
    match one {
        TableWrite::Peer(key, value) => {
            let address = key.addr.to_ip(key.family as u8);
            entry(
                f,
                &format!("peer {address}"),
                value.map(|v| v.class),
                in_class,
            )
        }
        TableWrite::Prefix(key, value) => {
            let address = key.addr.to_ip(key.family as u8);
            let len = key.prefix_len - PrefixKey::FIXED_BITS;
            entry(
                f,
                &format!("peer {address}/{len}"),
                value.map(|v| v.class),
                in_class,
            )
        }
        TableWrite::Rule(key, value) => {
            let direction = if key.direction == 0 {
                "ingress"
            } else {
                "egress"
            };
            let family = if key.family == V6 { "v6" } else { "v4" };
            let name = format!(
                "rule set {} {direction} {family} class {}",
                key.set,
                class(key.class)
            );
            entry(f, &name, value.map(|v| v.says), says)
        }
        TableWrite::Port(key, value) => {
            let name = match keys::port_prefix(key) {
                PortPrefix::Any => format!("port-set {} any", key.port_set),
                PortPrefix::Ports {
                    protocol,
                    port,
                    len,
                } => format!(
                    "port-set {} protocol {protocol} port {port}/{len}",
                    key.port_set
                ),
            };
            match value {
                None => write!(f, "delete {name}"),
                Some(PORT_ALLOW) => write!(f, "put {name}: allow"),
                Some(PORT_DENY) => write!(f, "put {name}: deny"),
                Some(_) => write!(f, "put {name}: default"),
            }
        }
    }
}

fn entry(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    value: Option<Versioned>,
    word: impl Fn(u32) -> String,
) -> fmt::Result {
    match value.map(|value| value.parts()) {
        None => write!(f, "delete {name}"),
        Some((_, new, 0)) => write!(f, "put {name}: {}", word(new)),
        Some((old, new, since)) => write!(
            f,
            "put {name}: {}, before revision {since} {}",
            word(new),
            word(old)
        ),
    }
}

/// Base and class; a class that is its base has no number of its own.
fn class(class: u32) -> String {
    match (class >> CLASS_BITS, class & !CLASS_BASE_MASK) {
        (0, own) => own.to_string(),
        (base, 0) => format!("base-{base}"),
        (base, own) => format!("{own} of base-{base}"),
    }
}

fn in_class(number: u32) -> String {
    format!("class {}", class(number))
}

fn says(says: u32) -> String {
    match says {
        RULE_NONE => "nothing".into(),
        RULE_ALLOW_ALL => "allow".into(),
        RULE_DENY_ALL => "deny".into(),
        RULE_DEFAULT_ALL => "default".into(),
        id => format!("port-set {id}"),
    }
}
