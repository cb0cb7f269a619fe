//! One write to the policy tables: the words in which a plan, its executor and the kernel's maps speak.

use super::{PeerKey, PeerValue, PortKey, PortValue, PrefixKey, PrefixValue, RuleKey, RuleValue};

/// One entry is put, or deleted (`None`; it may be gone already).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableWrite {
    /// An exact peer (`PEERS`).
    Peer(PeerKey, Option<PeerValue>),
    /// A prefix peer (`PREFIXES`).
    Prefix(PrefixKey, Option<PrefixValue>),
    /// A rule (`RULES`).
    Rule(RuleKey, Option<RuleValue>),
    /// An entry of a port set (`PORTS`).
    Port(PortKey, Option<PortValue>),
}
