//! Everything that can make a call fail, in one type, so that [`codes`](crate::codes) can give each its code.

use crate::{config, object, plan, prev, request, wire};

/// A call's failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input is no call.
    #[error(transparent)]
    Wire(#[from] wire::Error),
    /// Variables, configuration or prevResult.
    #[error(transparent)]
    Request(#[from] request::Error),
    /// The pod has an interface that cannot be enforced.
    #[error(transparent)]
    Plan(#[from] plan::Error),
    /// The state store.
    #[error(transparent)]
    Store(#[from] state::Error),
    /// Namespaces and links.
    #[error(transparent)]
    Network(#[from] enforcer::hostnet::Error),
    /// The kernel's version.
    #[error(transparent)]
    Kernel(#[from] enforcer::kernel::Error),
    /// `attachMode: tcx` on a kernel without it.
    #[error("read attachMode: tcx: {0}")]
    Tcx(#[source] enforcer::kernel::Error),
    /// The kernel programs cannot be loaded.
    #[error(transparent)]
    Load(#[from] enforcer::load::Error),
    /// Entries and policy states.
    #[error(transparent)]
    Endpoint(#[from] enforcer::endpoint::Error),
    /// The host set.
    #[error(transparent)]
    Hosts(#[from] enforcer::hosts::Error),
    /// The attachment.
    #[error(transparent)]
    Attach(#[from] enforcer::attach::Error),
    /// What is left over cannot be told.
    #[error(transparent)]
    Orphans(#[from] enforcer::orphans::Error),
    /// CHECK: what stands is not what was made.
    #[error("check {attachment}: {}", differences.join("; "))]
    Differs {
        /// The call.
        attachment: String,
        /// In what.
        differences: Vec<String>,
    },
    /// `onPolicyUnknown: fail`, and it is unknown.
    #[error("learn the policy of pod {pod}: {reason}, and a document could select the pod")]
    PolicyUnknown {
        /// Namespace and name.
        pod: String,
        /// Why it is unknown.
        reason: &'static str,
    },
    /// STATUS: the process may not do what ADD does.
    #[error(
        "use the kernel's network: CAP_NET_ADMIN and CAP_SYS_ADMIN are needed, and this process has not both"
    )]
    NoPrivileges,
    /// STATUS: an ADD would fail.
    #[error("be ready for pods: {0}")]
    NotReady(#[source] Box<Error>),
    /// GC or DEL: some endpoints could not be removed, the others are.
    #[error("remove endpoints: {}", failures.join("; "))]
    Left {
        /// Which and why.
        failures: Vec<String>,
    },
    /// A failure after which something could not be undone.
    #[error("{cause}")]
    Undone {
        /// The failure.
        cause: Box<Error>,
        /// What remains.
        failures: Vec<String>,
    },
    /// A defect: the code panicked. What it had begun is undone.
    #[error("carry out the call: panicked: {0}")]
    Panic(String),
}

impl Error {
    /// An error of what could not be removed, if there is any.
    ///
    /// # Errors
    /// [`Error::Left`], unless `failures` is empty.
    pub fn left(failures: Vec<String>) -> Result<(), Self> {
        if failures.is_empty() {
            Ok(())
        } else {
            Err(Self::Left { failures })
        }
    }

    /// The same, with what could not be undone after it.
    #[must_use]
    pub fn with_undo(self, failures: Vec<String>) -> Self {
        if failures.is_empty() {
            self
        } else {
            Self::Undone {
                cause: Box::new(self),
                failures,
            }
        }
    }
}

impl From<object::WrongType> for Error {
    fn from(error: object::WrongType) -> Self {
        Self::Wire(error.into())
    }
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Self::Request(error.into())
    }
}

impl From<prev::Error> for Error {
    fn from(error: prev::Error) -> Self {
        Self::Request(error.into())
    }
}

impl From<state::lock::Error> for Error {
    fn from(error: state::lock::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<state::node::Error> for Error {
    fn from(error: state::node::Error) -> Self {
        Self::Store(error.into())
    }
}
