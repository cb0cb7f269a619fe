//! What the kernel refuses, sorted by what a caller can do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::libc;

/// What could not be done with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system is mounted read-only.
    #[error("{op} {}: the file system is read-only; mount it writable or set another stateDir", path.display())]
    ReadOnly {
        /// What was tried.
        op: &'static str,
        /// On which file or folder.
        path: PathBuf,
    },
    /// No space, no inode or no quota left.
    #[error("{op} {}: no space left; free some on its file system", path.display())]
    NoSpace {
        /// What was tried.
        op: &'static str,
        /// On which file or folder.
        path: PathBuf,
    },
    /// The kernel forbids it: not root, or an immutable file.
    #[error("{op} {}: permission denied; run as root and check lsattr", path.display())]
    Denied {
        /// What was tried.
        op: &'static str,
        /// On which file or folder.
        path: PathBuf,
    },
    /// It is not there.
    #[error("{op} {}: not found", path.display())]
    Missing {
        /// What was tried.
        op: &'static str,
        /// On which file or folder.
        path: PathBuf,
    },
    /// Somebody else could have written it.
    #[error(
        "read {}: owner {uid}, mode {mode:03o}: only what root alone can write is read; chown root and chmod go-w it",
        path.display()
    )]
    Unsafe {
        /// The file or folder.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds more than [`MAX_FILE_BYTES`](super::MAX_FILE_BYTES).
    #[error("read {}: more than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
    /// A directory, socket, pipe or device where a file should be.
    #[error("read {}: not a regular file", path.display())]
    NotAFile {
        /// What is there.
        path: PathBuf,
    },
    /// A file where a folder should be.
    #[error("read {}: not a folder", path.display())]
    NotAFolder {
        /// What is there.
        path: PathBuf,
    },
    /// Anything else the kernel said.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// Sort the kernel's error into what a caller can act on.
    #[must_use]
    pub fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.raw_os_error() {
            Some(libc::EROFS) => Self::ReadOnly { op, path },
            Some(libc::ENOSPC | libc::EDQUOT) => Self::NoSpace { op, path },
            Some(libc::EACCES | libc::EPERM) => Self::Denied { op, path },
            Some(libc::ENOENT) => Self::Missing { op, path },
            _ => Self::Io { op, path, source },
        }
    }

    /// The store cannot be changed at all just now (read-only, full, denied): what only had to tidy up may go on.
    #[must_use]
    pub fn is_unwritable(&self) -> bool {
        matches!(
            self,
            Self::ReadOnly { .. } | Self::NoSpace { .. } | Self::Denied { .. }
        )
    }

    /// The kernel refused what it may grant a moment later, without anybody touching the file (no descriptors, no memory, an
    /// I/O error, a refused permission that is given back to the process): to be tried again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::ReadOnly { .. } | Self::NoSpace { .. } | Self::Denied { .. } | Self::Io { .. }
        )
    }

    /// The file or folder is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}
