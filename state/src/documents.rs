//! The folder of policy documents: what is there, without reading it.
//!
//! [`Store::scan_documents`] costs one stat(2) a file, so the plugin can afford it in an ADD. Texts are read one at a time
//! with [`Store::read_document`], which checks owner, mode, kind and size again on the open file.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sha2::{Digest as _, Sha256};

use crate::{
    Error, RelPath, Store,
    file::{self, Durability},
    relpath::is_document,
};

/// Folders inside folders that are looked into.
pub const MAX_DEPTH: usize = 16;
/// Time stamps of files move in steps of the kernel's tick (at most 10 ms); two writes in one look the same.
const RACY: Duration = Duration::from_millis(50);

/// What stat(2) says of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Document {
    /// Bytes.
    pub size: u64,
    /// Modified, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Changed in any way, nanoseconds since 1970.
    pub ctime_ns: i128,
    /// Inode number: an atomic replacement has a new one.
    pub inode: u64,
}

impl Document {
    fn of(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Self {
            size: metadata.size(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    /// Whether a write in place after `read_at` would show in the stamp. Where not, read it again a moment later even if
    /// the stamp stays.
    #[must_use]
    pub fn is_settled(&self, read_at: SystemTime) -> bool {
        let read_at = read_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        i128::try_from(read_at.saturating_sub(RACY).as_nanos())
            .is_ok_and(|settled| self.ctime_ns < settled)
    }
}

/// What a path below `policies/` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileState {
    /// A document; its text comes from [`Store::read_document`].
    Readable(Document),
    /// Not root's, or writable by others: not read. What it held stays in force. A folder too.
    Unsafe {
        /// Owner.
        uid: u32,
        /// Permission bits.
        mode: u32,
    },
    /// It is there and yields nothing readable. What it held stays in force. A folder too.
    Broken(String),
    /// The kernel did not let us look (no descriptors, an I/O error): nothing is known of it. What it held stays in force,
    /// and the look is to be tried again, for no change of the file need follow. A folder too.
    Failed(String),
}

/// What is below `policies/`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Documents, and folders that are not looked into.
    pub files: BTreeMap<RelPath, FileState>,
    /// A digest of path, size, times, inode and state of all of them: equal for equal contents, in whatever order they
    /// were taken. One file more or less costs one file's digest.
    pub digest: String,
    /// Sum of the digests of all files, from which `digest` is rendered.
    sum: u128,
}

impl Listing {
    /// The state of a path: its own, or that of a folder above it that is not looked into. `None` = it is gone.
    #[must_use]
    pub fn state_of(&self, path: &RelPath) -> Option<&FileState> {
        let closed = |state: &&FileState| !matches!(state, FileState::Readable(_));
        let above = || {
            let mut folders = path.ancestors().chain([""]);
            folders.find_map(|folder| self.files.get(folder).filter(closed))
        };
        self.files.get(path).or_else(above)
    }

    /// Take one path's new state (`None` = gone) and make the digest fit. Returns whether anything changed.
    pub fn update(&mut self, path: &RelPath, state: Option<FileState>) -> bool {
        if self.files.get(path) == state.as_ref() {
            return false;
        }
        if let Some(before) = self.files.get(path) {
            self.sum = self.sum.wrapping_sub(file_digest(path, before));
        }
        match state {
            Some(state) => {
                self.sum = self.sum.wrapping_add(file_digest(path, &state));
                self.files.insert(path.clone(), state);
            }
            None => {
                self.files.remove(path);
            }
        }
        self.digest = render(self.sum);
        true
    }

    fn of(files: BTreeMap<RelPath, FileState>) -> Self {
        let sum = files.iter().fold(0u128, |sum, (path, state)| {
            sum.wrapping_add(file_digest(path, state))
        });
        Self {
            digest: render(sum),
            files,
            sum,
        }
    }
}

impl Store {
    /// List `policies/**`. One bad file or folder never hides the others.
    ///
    /// # Errors
    /// None for what is below: a `policies/` that is itself unsafe or unreadable is the entry with the empty path.
    pub fn scan_documents(&self) -> Result<Listing, Error> {
        let mut files = BTreeMap::new();
        scan(&self.layout().policies(), &RelPath::root(), 0, &mut files);
        Ok(Listing::of(files))
    }

    /// One path of the listing anew, without a scan: for what the watcher names. `None` = gone, or never listed.
    #[must_use]
    pub fn stat_document(&self, path: &RelPath) -> Option<FileState> {
        if !path.is_document() {
            return None;
        }
        match self.check_above(path) {
            Ok(()) => {
                let path = self.layout().document(path);
                judge(&path, fs::symlink_metadata(&path))
            }
            Err(file::Error::Missing { .. }) => None,
            Err(error) => Some(bad(&error)),
        }
    }

    /// The text of a document.
    pub fn read_document(&self, path: &RelPath) -> Result<Vec<u8>, Error> {
        self.check_above(path)?;
        Ok(file::read(&self.layout().document(path))?)
    }

    /// Every folder above a document must be safe: who can write one can put any file there.
    fn check_above(&self, path: &RelPath) -> Result<(), file::Error> {
        let policies = self.layout().policies();
        file::check_folder(&policies)?;
        path.ancestors().try_for_each(|folder| {
            let path = policies.join(folder);
            let metadata = fs::symlink_metadata(&path)
                .map_err(|source| file::Error::io("stat", &path, source))?;
            if metadata.is_dir() {
                return file::check_owner(&path, &metadata);
            }
            // Nothing is below a file; what is below a link is not looked at.
            Err(if metadata.is_symlink() {
                file::Error::NotAFolder { path }
            } else {
                file::Error::Missing { op: "list", path }
            })
        })
    }

    /// Write the one file that holds a policy of the cluster with all its parts, flushed.
    pub fn put_cluster_policy(
        &self,
        namespace: &str,
        policy: &str,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let path = self.layout().cluster_policy(namespace, policy)?;
        Ok(file::replace(&path, bytes, Durability::Durable)?)
    }

    /// Remove it; `false` when it was not there.
    pub fn remove_cluster_policy(&self, namespace: &str, policy: &str) -> Result<bool, Error> {
        Ok(file::remove(
            &self.layout().cluster_policy(namespace, policy)?,
            Durability::Durable,
        )?)
    }
}

impl crate::Layout {
    /// The file of a document.
    #[must_use]
    pub fn document(&self, path: &RelPath) -> PathBuf {
        self.policies().join(path.as_str())
    }
}

fn scan(folder: &Path, relative: &RelPath, depth: usize, files: &mut BTreeMap<RelPath, FileState>) {
    let entries = match file::check_folder(folder).and_then(|()| {
        fs::read_dir(folder).map_err(|source| file::Error::io("list", folder, source))
    }) {
        Ok(entries) => entries,
        Err(file::Error::Missing { .. }) => return,
        Err(error) => {
            files.insert(relative.clone(), bad(&error));
            return;
        }
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                files.insert(
                    relative.clone(),
                    FileState::Failed(format!("cannot be listed: {error}")),
                );
                return;
            }
        };
        let name = entry.file_name();
        if file::is_hidden(&name) {
            continue;
        }
        let path = relative.child(&name);
        if let Some(state) = listed(&entry, &name, &path, depth, files) {
            files.insert(path, state);
        }
    }
}

/// What an entry of a folder adds to the listing by itself; a folder is looked into.
fn listed(
    entry: &fs::DirEntry,
    name: &OsStr,
    path: &RelPath,
    depth: usize,
    files: &mut BTreeMap<RelPath, FileState>,
) -> Option<FileState> {
    if is_document(name) {
        if name.to_str().is_none() {
            return Some(FileState::Broken("its name is not UTF-8".to_owned()));
        }
        return judge(&entry.path(), entry.metadata());
    }
    let kind = entry.file_type().ok()?;
    if kind.is_symlink() && entry.path().is_dir() {
        return Some(FileState::Broken(
            "a link to a folder is not followed".to_owned(),
        ));
    }
    if kind.is_dir() && depth >= MAX_DEPTH {
        let reason = format!("more than {MAX_DEPTH} folders deep");
        return Some(FileState::Broken(reason));
    }
    if kind.is_dir() {
        scan(&entry.path(), path, depth + 1, files);
    }
    None
}

/// What one path is, by what lstat(2) says of it. `None` = nothing there. A link is followed; one that leads nowhere is
/// broken, not gone.
fn judge(path: &Path, found: io::Result<Metadata>) -> Option<FileState> {
    let broken = |reason: String| Some(FileState::Broken(reason));
    let unseen =
        |error: io::Error| Some(FileState::Failed(format!("cannot be looked at: {error}")));
    let metadata = match found {
        Ok(link) if link.is_symlink() => match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if is_gone(&error) => return broken("a link that leads nowhere".to_owned()),
            Err(error) => return unseen(error),
        },
        Ok(metadata) => metadata,
        Err(error) if is_gone(&error) => return None,
        Err(error) => return unseen(error),
    };
    if metadata.is_dir() {
        return broken("a folder with the name of a document".to_owned());
    }
    if !metadata.is_file() {
        return broken("not a regular file".to_owned());
    }
    if let Err(error) = file::check_owner(path, &metadata) {
        return Some(bad(&error));
    }
    if metadata.len() > file::MAX_FILE_BYTES {
        return broken(format!("more than {} bytes", file::MAX_FILE_BYTES));
    }
    Some(FileState::Readable(Document::of(&metadata)))
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn bad(error: &file::Error) -> FileState {
    match *error {
        file::Error::Unsafe { uid, mode, .. } => FileState::Unsafe { uid, mode },
        ref other if other.is_transient() => FileState::Failed(other.to_string()),
        ref other => FileState::Broken(other.to_string()),
    }
}

/// The digest of one file. Summed up, and not chained, so that a change of one file among ten thousand costs one digest.
fn file_digest(path: &RelPath, state: &FileState) -> u128 {
    let mut digest = Sha256::new();
    digest.update((path.as_str().len() as u64).to_le_bytes());
    digest.update(path.as_str().as_bytes());
    match state {
        FileState::Readable(document) => {
            digest.update([0]);
            digest.update(document.size.to_le_bytes());
            digest.update(document.mtime_ns.to_le_bytes());
            digest.update(document.ctime_ns.to_le_bytes());
            digest.update(document.inode.to_le_bytes());
        }
        FileState::Unsafe { uid, mode } => {
            digest.update([1]);
            digest.update(uid.to_le_bytes());
            digest.update(mode.to_le_bytes());
        }
        FileState::Broken(reason) => {
            digest.update([2]);
            digest.update(reason.as_bytes());
        }
        FileState::Failed(reason) => {
            digest.update([3]);
            digest.update(reason.as_bytes());
        }
    }
    let mut first = [0u8; 16];
    first.copy_from_slice(&digest.finalize()[..16]);
    u128::from_le_bytes(first)
}

fn render(sum: u128) -> String {
    format!("{sum:032x}")
}
