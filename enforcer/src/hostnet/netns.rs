//! Network namespaces: identity, and running a closure inside one.

use std::{
    any::Any,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::statfs::{FsType, fstatfs},
};

use super::Error;

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
/// The namespace of the calling *thread*; `/proc/self` would be that of the main one.
const OWN: &str = "/proc/thread-self/ns/net";

/// Identity of a network namespace for as long as it lives (inode numbers are used again).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// Device of nsfs.
    pub dev: u64,
    /// Inode within nsfs, as `net:[N]` shows it.
    pub ino: u64,
}

/// An open network namespace; holding it keeps the namespace alive.
#[derive(Debug)]
pub(super) struct Netns {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// The calling thread's own.
    pub(super) fn own() -> Result<Self, Error> {
        Self::open(Path::new(OWN))
    }

    /// The one that `path` is bound to; anything else at the path is refused.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Netns {
            verb: "open",
            path: path.to_owned(),
            source,
        };
        // O_NONBLOCK: a FIFO put in the path's place must not hold us.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(fail)?;
        let kind = fstatfs(&file)
            .map_err(|errno| fail(errno.into()))?
            .filesystem_type();
        if kind != NSFS_MAGIC {
            return Err(fail(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a namespace",
            )));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    pub(super) fn id(&self) -> Result<NetnsId, Error> {
        let meta = self.file.metadata().map_err(|source| Error::Netns {
            verb: "look at",
            path: self.path.clone(),
            source,
        })?;
        Ok(NetnsId {
            dev: meta.dev(),
            ino: meta.ino(),
        })
    }

    /// Runs `work` in this namespace, on a thread of its own which ends with it: whatever `work` does, the
    /// caller's thread is where it was.
    pub(super) fn run<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send,
        F: FnOnce() -> T + Send,
    {
        let fail = |verb, source| Error::Netns {
            verb,
            path: self.path.clone(),
            source,
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || {
                    setns(&self.file, CloneFlags::CLONE_NEWNET)?;
                    Ok::<T, Errno>(work())
                })
                .map_err(|source| fail("start a thread for", source))?;
            match thread.join() {
                Ok(done) => done.map_err(|errno| fail("enter", errno.into())),
                Err(panic) => Err(Error::Panicked {
                    path: self.path.clone(),
                    message: message(&*panic),
                }),
            }
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` inside the namespace at `path` and hands back what it returned.
///
/// The caller's thread keeps its own namespace, also when `work` panics; a panic comes back as an error.
///
/// # Errors
/// The path is no network namespace, it cannot be entered, or `work` panicked.
pub fn in_netns<T, F>(path: &Path, work: F) -> Result<T, Error>
where
    T: Send,
    F: FnOnce() -> T + Send,
{
    Netns::open(path)?.run(work)
}

/// The namespace at `path`.
///
/// # Errors
/// The path cannot be opened or is no namespace.
pub fn netns_id(path: &Path) -> Result<NetnsId, Error> {
    Netns::open(path)?.id()
}

/// The namespace of the calling thread.
///
/// # Errors
/// /proc is not there.
pub fn current_netns_id() -> Result<NetnsId, Error> {
    Netns::own()?.id()
}

/// Whether a network namespace is bound to `path`. A plain file that once was its mount point is none.
///
/// # Errors
/// It cannot be told (no permission, for one): never taken for "gone".
pub fn netns_exists(path: &Path) -> Result<bool, Error> {
    match Netns::open(path) {
        Ok(_) => Ok(true),
        Err(Error::Netns { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::InvalidInput
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
