//! What is known of a packet's flow before policy is asked, and what policy is asked for.

use crate::layout::Direction;
use crate::reason::Reason;

/// What is known of a packet's flow before policy is asked.
pub(crate) enum Found {
    /// Nothing more to ask.
    Known(Reason),
    /// Ask policy as if this direction opened the flow.
    Ask(Direction, Why),
}

/// What policy is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// A new flow; no entry stands in its place.
    New,
    /// A new flow in the place of an old one.
    Replace,
    /// A verdict for this packet alone.
    NoTrack,
    /// A tracked flow whose revision has passed; with its state.
    Reevaluate(u32),
    /// An ICMP error about a tracked flow whose revision has passed.
    Error,
}
