//! Atomic replacement and guarded reading of single files.
//!
//! A temp file is named `.<name>.<pid>.<clock>.<counter>.tmp` in the folder of its target: the leading dot hides it from every
//! reader, and [`sweep_temps`] removes what a crash left.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, OFlag, fallocate},
    libc,
    unistd::{geteuid, syncfs},
};

mod error;

pub use error::Error;

/// How much one file may hold; beyond it the file is refused unread.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Mode bits that let somebody else write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Whether a write must outlive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Flush the file before the rename and the folder after it.
    Durable,
    /// No flush: void after a reboot anyway.
    Volatile,
}

/// Write `bytes` so that a reader finds the old content or the new, never part of it. Mode 0600. A missing folder is made.
pub fn replace(path: &Path, bytes: &[u8], durability: Durability) -> Result<(), Error> {
    let folder = parent(path)?;
    let temp = match write_temp(path, bytes, durability) {
        Err(Error::Missing { .. }) => {
            ensure_folder(folder)?;
            write_temp(path, bytes, durability)?
        }
        other => other?,
    };
    if let Err(source) = fs::rename(&temp, path) {
        let _ = fs::remove_file(&temp);
        return Err(Error::io("replace", path, source));
    }
    match durability {
        Durability::Durable => sync_folder(folder),
        Durability::Volatile => Ok(()),
    }
}

/// From so many files on, one flush of the whole file system is cheaper than one of each file.
const FLUSH_TOGETHER: usize = 16;

/// [`replace`] several files of one folder and remove others, flushed together. The first error ends it; what was done
/// before that stays, and doing it all again is right.
pub(crate) fn replace_all(
    folder: &Path,
    put: &[(PathBuf, Vec<u8>)],
    gone: &[PathBuf],
) -> Result<(), Error> {
    let together = put.len() >= FLUSH_TOGETHER;
    let durability = if together {
        Durability::Volatile
    } else {
        Durability::Durable
    };
    let mut temps = Vec::with_capacity(put.len());
    let written = put.iter().try_for_each(|(path, bytes)| {
        temps.push((write_temp(path, bytes, durability)?, path));
        Ok(())
    });
    let flushed = written.and_then(|()| {
        if !together {
            return Ok(());
        }
        File::open(folder)
            .and_then(|folder| Ok(syncfs(folder)?))
            .map_err(|source| Error::io("flush", folder, source))
    });
    let mut renamed = flushed;
    for (temp, path) in temps {
        if renamed.is_ok() {
            renamed = fs::rename(&temp, path).map_err(|source| Error::io("replace", path, source));
        }
        if renamed.is_err() {
            let _ = fs::remove_file(&temp);
        }
    }
    renamed?;
    for path in gone {
        remove(path, Durability::Volatile)?;
    }
    sync_folder(folder)
}

/// Remove a file; `false` when it was not there.
pub fn remove(path: &Path, durability: Durability) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(Error::io("remove", path, source)),
    }
    if durability == Durability::Durable {
        sync_folder(parent(path)?)?;
    }
    Ok(true)
}

/// Flush a folder's entries. A file system that cannot (EINVAL) needs no flush.
pub fn sync_folder(folder: &Path) -> Result<(), Error> {
    let file = File::open(folder).map_err(|source| Error::io("open", folder, source))?;
    match file.sync_all() {
        Err(source) if source.raw_os_error() != Some(libc::EINVAL) => {
            Err(Error::io("flush", folder, source))
        }
        _ => Ok(()),
    }
}

/// Make a folder (mode 0700) and those above it where they are missing; new ones are flushed.
pub(crate) fn ensure_folder(folder: &Path) -> Result<(), Error> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = parent(folder)?;
    ensure_folder(above)?;
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Ok(()) => sync_folder(above),
        // Somebody was quicker, or something else stands there.
        Err(_) if folder.is_dir() => Ok(()),
        Err(source) => Err(Error::io("create", folder, source)),
    }
}

/// Read a whole file after checking, on the open descriptor, that it is a regular file only its owner could write.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    read_bounded(path, MAX_FILE_BYTES)
}

/// [`read`] with another bound.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    // Not to hang on a pipe without a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(|source| Error::io("open", path, source))?;
    let metadata = file
        .metadata()
        .map_err(|source| Error::io("stat", path, source))?;
    if !metadata.is_file() {
        return Err(Error::NotAFile {
            path: path.to_owned(),
        });
    }
    check_owner(path, &metadata)?;
    let too_large = || Error::TooLarge {
        path: path.to_owned(),
        limit,
    };
    if metadata.len() > limit {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(
        usize::try_from(metadata.len())
            .map_err(|_| too_large())?
            .saturating_add(1),
    );
    // It may grow meanwhile.
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::io("read", path, source))?;
    if bytes.len() as u64 > limit {
        return Err(too_large());
    }
    Ok(bytes)
}

/// [`read`], `None` when the file is not there.
pub fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Refuse what somebody other than root (or ourselves) owns or could write.
pub fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), Error> {
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let trusted = uid == 0 || uid == geteuid().as_raw();
    if trusted && mode & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(Error::Unsafe {
        path: path.to_owned(),
        uid,
        mode,
    })
}

/// Refuse a folder that is none, or that others could write. A symbolic link to a folder is followed.
pub(crate) fn check_folder(folder: &Path) -> Result<(), Error> {
    let metadata = fs::metadata(folder).map_err(|source| Error::io("stat", folder, source))?;
    if !metadata.is_dir() {
        return Err(Error::NotAFolder {
            path: folder.to_owned(),
        });
    }
    check_owner(folder, &metadata)
}

/// The plain names (no leading dot) in a folder that begin with `prefix`, sorted; empty when the folder is not there.
pub(crate) fn names(folder: &Path, prefix: &str) -> Result<Vec<OsString>, Error> {
    match check_folder(folder) {
        Err(Error::Missing { .. }) => return Ok(Vec::new()),
        other => other?,
    }
    let read = |source| Error::io("list", folder, source);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        if !is_hidden(&name) && name.as_encoded_bytes().starts_with(prefix.as_bytes()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Names that begin with a dot are never read.
#[must_use]
pub(crate) fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&b'.')
}

/// Remove our temp files older than `age` from a folder and, `depth` levels down, those in it: a crash left them.
/// Returns how many.
pub fn sweep_temps(folder: &Path, depth: usize, age: Duration) -> Result<usize, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(source) => return Err(Error::io("list", folder, source)),
    };
    let mut removed = 0;
    for entry in entries.flatten() {
        // Of the entry itself: a link is not followed. What vanished meanwhile needs no sweeping.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() && depth > 0 && !is_hidden(&entry.file_name()) {
            removed += sweep_temps(&entry.path(), depth - 1, age)?;
        }
        let old = metadata
            .modified()
            .is_ok_and(|modified| modified.elapsed().unwrap_or_default() >= age);
        if metadata.is_file()
            && old
            && is_temp(&entry.file_name())
            && remove(&entry.path(), Durability::Volatile)?
        {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether a name is one of [`temp_path`]'s; other people's hidden files are left alone.
fn is_temp(name: &OsStr) -> bool {
    let Some(name) = name
        .to_str()
        .and_then(|name| name.strip_prefix('.')?.strip_suffix(".tmp"))
    else {
        return false;
    };
    let number = |part: &str| part.parse::<u64>().is_ok();
    let mut parts = name.rsplit('.');
    (0..3).all(|_| parts.next().is_some_and(number)) && parts.next().is_some()
}

fn write_temp(path: &Path, bytes: &[u8], durability: Durability) -> Result<PathBuf, Error> {
    let temp = temp_path(path)?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&temp)
        .and_then(|mut file| {
            reserve(&file, bytes.len())?;
            file.write_all(bytes)?;
            if durability == Durability::Durable {
                file.sync_all()
            } else {
                Ok(())
            }
        });
    if let Err(source) = written {
        let _ = fs::remove_file(&temp);
        return Err(Error::io("write", path, source));
    }
    Ok(temp)
}

/// Give the file its blocks now: ext4 starts writing out a file that is renamed over another while it has none, which
/// costs ten times the rest of a replacement. Where it cannot be done, nothing is lost; a full disk shows at once.
fn reserve(file: &File, bytes: usize) -> io::Result<()> {
    let Ok(length) = i64::try_from(bytes) else {
        return Ok(());
    };
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Err(Errno::ENOSPC) => Err(Errno::ENOSPC.into()),
        _ => Ok(()),
    }
}

/// Never the same twice in one pid namespace; the clock tells two containers apart.
fn temp_path(path: &Path) -> Result<PathBuf, Error> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    /// So much of the target's name that the temp name stays below NAME_MAX.
    const KEPT: usize = 150;
    let name = path.file_name().ok_or_else(|| Error::NotAFile {
        path: path.to_owned(),
    })?;
    let name = name.to_string_lossy();
    let kept: String = name.chars().filter(char::is_ascii).take(KEPT).collect();
    let (pid, count) = (std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let clock = crate::clock::monotonic_ns();
    Ok(parent(path)?.join(format!(".{kept}.{pid}.{clock}.{count}.tmp")))
}

fn parent(path: &Path) -> Result<&Path, Error> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(folder) => Ok(folder),
        None => Err(Error::NotAFile {
            path: path.to_owned(),
        }),
    }
}
