//! What can go wrong in talking to the kernel about the network.

use std::{fmt, io, path::PathBuf};

use netlink_packet_core::DecodeError;
use nix::errno::Errno;

use super::{Hook, QdiscKind};

/// What was asked of the kernel: `verb`, and of which interface (0 = none in particular).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// Verb and object, such as `put egress filter`.
    pub verb: &'static str,
    /// The interface, or 0.
    pub ifindex: u32,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ifindex {
            0 => f.write_str(self.verb),
            ifindex => write!(f, "{} on interface {ifindex}", self.verb),
        }
    }
}

/// An error of [`hostnet`](crate::hostnet).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A network namespace could not be opened, looked at or entered.
    #[error("{verb} network namespace {path}: {source}")]
    Netns {
        /// `open`, `enter`, ...
        verb: &'static str,
        /// The namespace's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pod's namespace is the one that we are in.
    #[error(
        "use network namespace {path}: it is the host's own; a pod on the host's network is not enforced"
    )]
    HostNetns {
        /// The namespace's path.
        path: PathBuf,
    },
    /// The closure run in a namespace panicked; its thread is gone and with it the namespace.
    #[error("run in network namespace {path}: panicked: {message}")]
    Panicked {
        /// The namespace's path.
        path: PathBuf,
        /// The panic's message.
        message: String,
    },
    /// A netlink socket could not be had or used.
    #[error("{verb} netlink socket: {source}")]
    Socket {
        /// `open`, `send to`, ...
        verb: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{op}: {errno}{}", Detail(.detail))]
    Refused {
        /// What was asked.
        op: Op,
        /// The kernel's error number.
        errno: Errno,
        /// The kernel's own words (extended acknowledgement), or empty.
        detail: String,
    },
    /// The answer cannot be read.
    #[error("{op}: cannot read the kernel's answer: {source}")]
    Malformed {
        /// What was asked.
        op: Op,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The answer breaks the protocol: wrong sequence, cut off, or missing.
    #[error("{op}: unexpected netlink answer: {detail}")]
    Protocol {
        /// What was asked.
        op: Op,
        /// What was unexpected.
        detail: &'static str,
    },
    /// What was listed kept changing while it was listed.
    #[error("{op}: interrupted by changes {attempts} times in a row; try again")]
    Interrupted {
        /// What was asked.
        op: Op,
        /// How often it was tried.
        attempts: u32,
    },
    /// There is no interface of this name.
    #[error("find interface {name:?}: {errno}")]
    NoSuchName {
        /// The name.
        name: String,
        /// The kernel's error number.
        errno: Errno,
    },
    /// Another qdisc has the place of clsact.
    #[error(
        "put clsact on interface {ifindex}: qdisc {kind} stands there; remove it, or put the plugin that made it (bandwidth) before podgate"
    )]
    QdiscInTheWay {
        /// The interface.
        ifindex: u32,
        /// What is there.
        kind: QdiscKind,
    },
    /// What stands on the interface is not what was seen before, so it is left alone.
    #[error("replace the ingress qdisc of interface {ifindex}: {detail}")]
    NotBandwidth {
        /// The interface.
        ifindex: u32,
        /// What differs.
        detail: &'static str,
    },
    /// The kernel has no TCX (it came with 6.6).
    #[error(
        "attach by TCX on interface {ifindex} ({hook}): this kernel has no TCX; 6.6 or newer is needed, or attachMode clsact"
    )]
    NoTcx {
        /// The interface.
        ifindex: u32,
        /// The hook.
        hook: Hook,
    },
}

impl Error {
    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } | Self::NoSuchName { errno, .. } => Some(*errno),
            Self::Netns { source, .. } | Self::Socket { source, .. } => {
                source.raw_os_error().map(Errno::from_raw)
            }
            _ => None,
        }
    }

    /// Whether the kernel says that the interface is gone.
    pub fn is_gone(&self) -> bool {
        self.errno() == Some(Errno::ENODEV)
    }
}

struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            Ok(())
        } else {
            write!(f, " ({})", self.0)
        }
    }
}
