//! One sync a store: flock(2) on `sync.lock`, which the kernel gives back when the process ends.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use fs2::FileExt as _;
use state::Store;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("lock {}: another podgate-sync runs on this store; stop it, or give another --state-dir", path.display())]
    Taken { path: PathBuf },
    #[error("lock {}: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
}

pub(crate) fn take(store: &Store) -> Result<File, Error> {
    let path = store.root().join("sync.lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&path)
        .or_else(|_| File::open(&path))
        .map_err(|source| Error::Io {
            path: path.clone(),
            source,
        })?;
    match file.try_lock_exclusive() {
        Ok(()) => Ok(file),
        Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
            Err(Error::Taken { path })
        }
        Err(source) => Err(Error::Io { path, source }),
    }
}
