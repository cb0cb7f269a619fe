//! Layout of every map key and value: the only place where it is written, one file a concern.
//!
//! `repr(C)`, explicit padding, no bool, enum or Option; `_be` marks network byte order. A change here needs a new
//! [`LAYOUT_VERSION`], which is part of the pin path and of every endpoint record (`scripts/check.sh` holds both
//! together).

mod addr;
mod endpoint;
mod event;
mod flow;
mod host;
mod peer;
mod rule;
mod versioned;
mod write;

pub use addr::Addr;
pub use endpoint::{
    ENDPOINT_GUARD, ENDPOINT_INDEXES, ENDPOINT_MORE_SOURCES, Endpoint, INLINE_ADDRS, SOURCE_EXTRA,
    SOURCE_OWN, SourceKey,
};
pub use event::{Counter, Event, Rate, counter_key};
pub use flow::{
    ECHO_ASKED_BY_OTHER, ECHO_ASKED_BY_POD, FlowKey, FlowValue, FragmentKey, ICMP_PAIR,
    NURSERY_SLOTS, NurseryBucket, NurseryKey,
};
pub use host::{Config, HostPortKey};
pub use peer::{CLASS_BASE_MASK, CLASS_BITS, PeerKey, PeerValue, PrefixKey, PrefixValue};
pub use rule::{
    PORT_ALLOW, PORT_DEFAULT, PORT_DENY, PORT_SET_LIMIT, PortKey, PortValue, RULE_ALLOW_ALL,
    RULE_DEFAULT_ALL, RULE_DENY_ALL, RULE_NONE, RuleKey, RuleValue,
};
pub use versioned::Versioned;
pub use write::TableWrite;

/// Version of everything in this folder; programs and maps of different versions never meet.
pub const LAYOUT_VERSION: u32 = 2;

/// Address family in keys: IPv4.
pub const V4: u8 = 4;

/// Address family in keys: IPv6.
pub const V6: u8 = 6;

/// Direction, always the pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Towards the pod (host veth, TC egress hook).
    Ingress = 0,
    /// From the pod (host veth, TC ingress hook).
    Egress = 1,
}

impl Direction {
    /// The other one.
    #[inline(always)]
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// `ingress` or `egress`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}
