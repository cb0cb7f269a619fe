//! The node's lock as a token, and the companion's sign of life.
//!
//! Both are flock(2) on a file that is never removed: the kernel lets go when the holder dies, and it works on a store
//! that is mounted read-only. Who holds it is asked of `/proc/locks`, so nothing is written and the pid is right in every
//! pid namespace. The lock is held for one endpoint's change or one slice of a table, never across a wait.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use fs2::FileExt as _;

use crate::{Store, clock, file};

/// Between two tries. flock knows no time-out; a signal or a thread would be more than the wait is worth.
const POLL: Duration = Duration::from_micros(200);
/// A process that held the lock a moment ago lets those who poll go first, or they would starve behind its slices.
const YIELD: Duration = Duration::from_micros(500);
/// A probe of `companion_alive` holds the companion's lock for an instant.
const PROBE_GRACE: Duration = Duration::from_millis(500);

/// What went wrong with a lock.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else kept it.
    #[error("lock {}: held for more than {waited:?} by {holder}; try again, or look at that process", path.display())]
    Timeout {
        /// The lock file.
        path: PathBuf,
        /// How long we waited.
        waited: Duration,
        /// Who has it.
        holder: Holder,
    },
    /// The lock file cannot be opened or locked.
    #[error(transparent)]
    File(#[from] file::Error),
}

/// Who holds a lock, as far as the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The process, in our pid namespace; `None` when it is not in it or has just let go.
    pub pid: Option<u32>,
    /// Its command name.
    pub command: Option<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.pid, &self.command) {
            (Some(pid), Some(command)) => write!(f, "pid {pid} ({command})"),
            (Some(pid), None) => write!(f, "pid {pid}"),
            (None, _) => f.write_str("a process that is not in this pid namespace, or gone again"),
        }
    }
}

/// Proof that the node's lock is held; given back when dropped.
#[derive(Debug)]
#[must_use = "the lock is given back at once"]
pub struct Locked<'a> {
    pub(crate) store: &'a Store,
    file: File,
}

impl Locked<'_> {
    /// The store that is locked.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.store
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // Not left to close: a child between fork and exec would keep it.
        let _ = fs2::FileExt::unlock(&self.file);
        self.store
            .released_ns()
            .store(clock::monotonic_ns(), Ordering::Relaxed);
    }
}

/// The companion's sign of life, or podgate-sync's: held until dropped.
#[derive(Debug)]
#[must_use = "the program counts as away once this is dropped"]
pub struct CompanionLock {
    file: File,
}

impl Drop for CompanionLock {
    fn drop(&mut self) {
        let _ = fs2::FileExt::unlock(&self.file);
    }
}

impl Store {
    /// Take the node's lock, waiting for at most `timeout`. A process that asks again at once lets others go first.
    pub fn lock(&self, timeout: Duration) -> Result<Locked<'_>, Error> {
        let since = Duration::from_nanos(
            clock::monotonic_ns().saturating_sub(self.released_ns().load(Ordering::Relaxed)),
        );
        if since < YIELD {
            thread::sleep(YIELD - since);
        }
        let file = acquire(&self.layout().lock(), timeout)?;
        Ok(Locked { store: self, file })
    }

    /// Become the companion: the lock that says one is alive.
    pub fn companion_lock(&self) -> Result<CompanionLock, Error> {
        let file = acquire(&self.layout().companion_lock(), PROBE_GRACE)?;
        Ok(CompanionLock { file })
    }

    /// Become this store's podgate-sync. The error names who is.
    pub fn sync_lock(&self) -> Result<CompanionLock, Error> {
        let file = acquire(&self.layout().sync_lock(), PROBE_GRACE)?;
        Ok(CompanionLock { file })
    }

    /// Whether a companion lives. A lock that cannot be looked at counts as none.
    #[must_use]
    pub fn companion_alive(&self) -> bool {
        is_held(&self.layout().companion_lock())
    }

    /// Whether a podgate-sync fills this store. A lock that cannot be looked at counts as none.
    #[must_use]
    pub fn sync_alive(&self) -> bool {
        is_held(&self.layout().sync_lock())
    }

    /// Who holds the node's lock.
    #[must_use]
    pub fn lock_holder(&self) -> Holder {
        holder(&self.layout().lock())
    }
}

/// Whether some process holds a lock.
fn is_held(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    // Shared, so that two who ask do not see each other.
    match fs2::FileExt::try_lock_shared(&file) {
        Ok(()) => {
            let _ = fs2::FileExt::unlock(&file);
            false
        }
        Err(error) => is_contended(&error),
    }
}

fn acquire(path: &Path, timeout: Duration) -> Result<File, Error> {
    let start = Instant::now();
    loop {
        let file = open(path)?;
        loop {
            match file.try_lock_exclusive() {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if !is_contended(&error) => {
                    return Err(file::Error::io("lock", path, error).into());
                }
                Err(_) if start.elapsed() >= timeout => {
                    return Err(Error::Timeout {
                        path: path.to_owned(),
                        waited: timeout,
                        holder: holder(path),
                    });
                }
                Err(_) => thread::sleep(POLL),
            }
        }
        // Somebody may have removed the file meanwhile: a lock on a nameless file excludes nobody.
        if is_named(&file, path) {
            return Ok(file);
        }
    }
}

/// For writing where it must be made, for reading where the store is read-only: flock takes either.
fn open(path: &Path) -> Result<File, file::Error> {
    match File::open(path) {
        Ok(file) => return Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(file::Error::io("open", path, source)),
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| file::Error::io("create", path, source))
}

fn is_named(file: &File, path: &Path) -> bool {
    let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => id(ours) == id(named),
        _ => false,
    }
}

fn is_contended(error: &io::Error) -> bool {
    error.raw_os_error() == fs2::lock_contended_error().raw_os_error()
}

fn holder(path: &Path) -> Holder {
    let pid = fs::metadata(path).ok().and_then(|metadata| {
        let locks = fs::read_to_string("/proc/locks").ok()?;
        flock_pid(&locks, metadata.dev(), metadata.ino())
    });
    let command = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    Holder {
        pid,
        command: command.map(|command| command.trim().to_owned()),
    }
}

/// Lines such as `1: FLOCK  ADVISORY  WRITE 708 fe:00:1052 0 EOF`; those with `->` only wait. The device's number is the
/// superblock's, which on some file systems is not what stat(2) says: then the inode alone decides.
fn flock_pid(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let device = format!(
        "{:02x}:{:02x}",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device)
    );
    let mut by_inode = None;
    for line in locks.lines() {
        let mut words = line.split_ascii_whitespace().skip(1);
        if words.next() != Some("FLOCK") {
            continue;
        }
        let (Some(pid), Some(file)) = (words.nth(2), words.next()) else {
            continue;
        };
        let Some((held_device, held_inode)) = file.rsplit_once(':') else {
            continue;
        };
        if held_inode.parse() != Ok(inode) {
            continue;
        }
        let pid = pid.parse().ok().filter(|pid| *pid != 0);
        if held_device == device {
            return pid;
        }
        by_inode = by_inode.or(pid);
    }
    by_inode
}
