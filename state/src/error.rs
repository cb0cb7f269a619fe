//! What the store's methods return when they fail, and what scans say about single files.

use std::{fmt, path::PathBuf};

use crate::{file, layout, lock, node, records, watch};

/// Any failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder.
    #[error(transparent)]
    File(#[from] file::Error),
    /// An id that names no file.
    #[error(transparent)]
    Id(#[from] layout::Error),
    /// The node's or the companion's lock.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// `node.json` or `node-addresses.json`.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// An endpoint record.
    #[error(transparent)]
    Record(#[from] records::Error),
    /// The watcher.
    #[error(transparent)]
    Watch(#[from] watch::Error),
    /// A file of the store that is not what it should be.
    #[error("read {problem}")]
    Content {
        /// File and kind of damage.
        problem: Problem,
    },
    /// A value that has no JSON form.
    #[error("encode {}: {source}", path.display())]
    Encode {
        /// The file it was meant for.
        path: PathBuf,
        /// What serde said.
        source: serde_json::Error,
    },
}

impl Error {
    /// The store cannot be changed just now: read-only, full, or denied. What only tidies up may go on without.
    #[must_use]
    pub fn is_unwritable(&self) -> bool {
        self.file().is_some_and(file::Error::is_unwritable)
    }

    /// The store, or the file asked for, is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.file().is_some_and(file::Error::is_missing)
    }

    /// It may succeed a moment later without anybody touching the file: see [`file::Error::is_transient`].
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.file().is_some_and(file::Error::is_transient)
    }

    /// The lock was not free in time.
    #[must_use]
    pub fn is_lock_timeout(&self) -> bool {
        matches!(self, Self::Lock(lock::Error::Timeout { .. }))
    }

    fn file(&self) -> Option<&file::Error> {
        match self {
            Self::File(error)
            | Self::Lock(lock::Error::File(error))
            | Self::Node(node::Error::File(error))
            | Self::Watch(watch::Error::File(error)) => Some(error),
            _ => None,
        }
    }
}

/// One file that a scan could not use. It never hides the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub kind: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.kind)
    }
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProblemKind {
    /// Empty, cut off, or not what its place says: it counts as none.
    #[error("cannot be read as what it should be: {0}")]
    Torn(String),
    /// Written by a newer podgate: left alone.
    #[error("schema {found} is newer than {known}; use the podgate that wrote it, or a newer one")]
    Newer {
        /// The file's schema.
        found: u64,
        /// The newest that this program reads.
        known: u64,
    },
    /// Not root's, or writable by others: not read.
    #[error(
        "owner {uid}, mode {mode:03o}: only what root alone can write is read; chown root and chmod go-w it"
    )]
    Unsafe {
        /// Owner.
        uid: u32,
        /// Permission bits.
        mode: u32,
    },
    /// It is there and the kernel does not give it to us.
    #[error("{0}")]
    Unreadable(String),
}

impl ProblemKind {
    /// Sort a reading error.
    pub(crate) fn of(error: &file::Error) -> Self {
        match *error {
            file::Error::Unsafe { uid, mode, .. } => Self::Unsafe { uid, mode },
            ref other => Self::Unreadable(other.to_string()),
        }
    }
}
