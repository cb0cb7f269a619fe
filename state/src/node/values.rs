//! The values of `node.json`.

use std::{fmt, str::FromStr};

use ipnetwork::IpNetwork;

/// `networkPolicyEnforcingMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EnforcingMode {
    /// Deny where no policy isolates.
    Strict,
    /// Allow where no policy isolates.
    #[default]
    Standard,
    /// Not attached at all.
    None,
}

impl EnforcingMode {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Standard => "standard",
            Self::None => "none",
        }
    }
}

impl fmt::Display for EnforcingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A mode that is none of the three.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse networkPolicyEnforcingMode {0:?}: not strict, standard or none")]
pub struct UnknownMode(pub String);

impl FromStr for EnforcingMode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        [Self::Strict, Self::Standard, Self::None]
            .into_iter()
            .find(|mode| text.eq_ignore_ascii_case(mode.as_str()))
            .ok_or_else(|| UnknownMode(text.to_owned()))
    }
}

/// Where documents come from, and so whether a pod must be known before its policy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Source {
    /// `podgate-sync` fills the store.
    Cluster,
    /// People, `resolve` and tests do.
    #[default]
    Files,
}

impl Source {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Files => "files",
        }
    }
}

/// Ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl PortRange {
    /// Kubernetes' default for node ports.
    pub const NODE_PORTS: Self = Self {
        first: 30_000,
        last: 32_767,
    };

    /// Whether a port is in it.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self::NODE_PORTS
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// What `hostSetExclude` may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostSetExclusion {
    /// An address or prefix.
    Network(IpNetwork),
    /// All addresses of a device, by its name.
    Interface(String),
}

impl fmt::Display for HostSetExclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Interface(name) => f.write_str(name),
        }
    }
}

pub(super) fn parse_range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-')?;
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let range = PortRange {
        first: port(first)?,
        last: port(last)?,
    };
    (range.first <= range.last).then_some(range)
}

pub(super) fn parse_exclusion(text: &str) -> Option<HostSetExclusion> {
    if let Ok(network) = text.parse() {
        return Some(HostSetExclusion::Network(network));
    }
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':');
    // A name without a letter is a mistyped address.
    let name = text.len() <= 15
        && text.bytes().all(plain)
        && text.bytes().any(|byte| byte.is_ascii_alphabetic());
    name.then(|| HostSetExclusion::Interface(text.to_owned()))
}
