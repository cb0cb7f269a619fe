//! Why a verb failed; the words say what to do next.

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The store.
    #[error("{0}")]
    State(#[from] state::Error),
    /// The store's `node.json`.
    #[error("{0}")]
    Node(#[from] state::node::Error),
    /// The node's lock.
    #[error("{0}")]
    Lock(#[from] state::lock::Error),
    /// Loading.
    #[error("{0}")]
    Load(#[from] enforcer::load::Error),
    /// A map.
    #[error("{0}")]
    Map(#[from] enforcer::maps::Error),
    /// The endpoints.
    #[error("{0}")]
    Endpoint(#[from] enforcer::endpoint::Error),
    /// The attachments.
    #[error("{0}")]
    Attach(#[from] enforcer::attach::Error),
    /// What the kernel has.
    #[error("{0}")]
    Observe(#[from] enforcer::observe::Error),
    /// Network interfaces.
    #[error("{0}")]
    Net(#[from] enforcer::hostnet::Error),
    /// A file of the user's.
    #[error("{verb} {}: {source}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// With what.
        path: std::path::PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A file that is replaced or removed.
    #[error("{0}")]
    File(#[from] state::file::Error),
    /// Printing.
    #[error("print: {0}")]
    Output(#[from] std::io::Error),
    /// Encoding.
    #[error("encode output: {0}")]
    Encode(String),
    /// What was asked for.
    #[error("{0}")]
    Asked(String),
}

impl Error {
    pub(crate) fn io(verb: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io {
            verb,
            path: path.to_owned(),
            source,
        }
    }
}
