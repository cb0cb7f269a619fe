//! What a user should be told about a policy: a kind that events and conditions bear, the field, and a sentence.

use std::fmt;

/// What kind of finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// A selector of pods, namespaces or nodes selects nothing.
    SelectsNothing,
    /// No pod has a port of this name.
    NamedPortNotFound,
    /// A field that podgate cannot enforce; it lets nothing pass.
    UnsupportedField,
    /// The manifest is not valid.
    InvalidPolicy,
    /// A Service's address is decided otherwise than some of its backends.
    ServiceWider,
    /// A pod of the host's network is a peer: its whole node is meant.
    HostNetworkPeer,
    /// A namespace without its object: its labels are not known, so it matches no negative selector.
    UnknownNamespace,
    /// Something else that has no effect.
    NoEffect,
}

impl FindingKind {
    /// The reason of an Event, the type of a condition.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SelectsNothing => "SelectsNothing",
            Self::NamedPortNotFound => "NamedPortNotFound",
            Self::UnsupportedField => "UnsupportedField",
            Self::InvalidPolicy => "InvalidPolicy",
            Self::ServiceWider => "ServiceWider",
            Self::HostNetworkPeer => "HostNetworkPeer",
            Self::UnknownNamespace => "UnknownNamespace",
            Self::NoEffect => "NoEffect",
        }
    }

    /// Whether it belongs into `status.conditions` of the documents rather than into an Event.
    pub const fn is_condition(self) -> bool {
        matches!(self, Self::ServiceWider | Self::HostNetworkPeer)
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something about a policy that has no effect, or another one than it seems to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path of the field, such as `spec.ingress[0].from[1]`; empty = the policy as a whole.
    pub field: String,
    /// What kind.
    pub kind: FindingKind,
    /// What to know.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.text)
    }
}
