//! Ticks when something in the store changes, for a companion that reads it anew.
//!
//! A tick says what to look at again, never what is there. Lost events, folders that come or go and anything unclear are
//! a full pass. A new folder is watched *before* its full pass is told, so nothing falls between.
//!
//! inotify(7) itself, by nix, and not the `notify` crate: that one always watches IN_OPEN and IN_MODIFY too, so the
//! companion's own reading would wake it, and it tells of a new folder before it watches it.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags as Mask, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};

use crate::{Layout, RelPath, Store, documents, file};

/// Why the store cannot be watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// inotify has no room.
    #[error("watch {}: {errno}; raise the sysctls fs.inotify.max_user_watches and max_user_instances", path.display())]
    Limit {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// Anything else the kernel said.
    #[error("watch {}: {errno}", path.display())]
    Inotify {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
    /// A folder of the store cannot be made.
    #[error(transparent)]
    File(#[from] file::Error),
}

impl Error {
    fn new(path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        match errno {
            Errno::ENOSPC | Errno::EMFILE | Errno::ENOMEM => Self::Limit { path, errno },
            errno => Self::Inotify { path, errno },
        }
    }
}

/// What to look at again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tick {
    /// Everything: events were lost, or a folder came or went.
    Full,
    /// `node.json` or `node-addresses.json`.
    Node,
    /// An endpoint record.
    Pods,
    /// A pod that the store knows.
    Workloads,
    /// One document.
    Document(RelPath),
}

/// Watches the store until dropped. Its descriptor is readable when there are ticks (for tokio's `AsyncFd`).
#[derive(Debug)]
#[must_use = "watching ends when this is dropped"]
pub struct Watcher {
    inotify: Inotify,
    layout: Layout,
    watched: HashMap<WatchDescriptor, PathBuf>,
}

/// A file is new or changed by rename or by the end of writing; links and folders show only as created; a change of
/// owner or mode decides whether a file is read at all.
const CHANGES: Mask = Mask::IN_MOVED_TO
    .union(Mask::IN_CLOSE_WRITE)
    .union(Mask::IN_DELETE)
    .union(Mask::IN_MOVED_FROM)
    .union(Mask::IN_CREATE)
    .union(Mask::IN_ATTRIB);
const FOLDER: Mask = Mask::IN_ONLYDIR.union(Mask::IN_DONT_FOLLOW);
/// The store's own folder went away under us.
const LOST: Mask = Mask::IN_IGNORED
    .union(Mask::IN_DELETE_SELF)
    .union(Mask::IN_MOVE_SELF)
    .union(Mask::IN_UNMOUNT);
/// So many reads of 4 KiB before the ticks are given out.
const MAX_READS: usize = 256;

impl Store {
    /// Watch the store from now on. Missing folders are made first.
    pub fn watch(&self) -> Result<Watcher, Error> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|errno| Error::new(self.root(), errno))?;
        let mut watcher = Watcher {
            inotify,
            layout: self.layout().clone(),
            watched: HashMap::new(),
        };
        watcher.rebuild()?;
        Ok(watcher)
    }
}

impl Watcher {
    /// Watch everything anew, making missing folders: for after an error, together with a full pass.
    pub fn rebuild(&mut self) -> Result<(), Error> {
        for (watch, _) in self.watched.drain() {
            // Gone already, where its folder is.
            let _ = self.inotify.rm_watch(watch);
        }
        for folder in self.layout.folders() {
            file::ensure_folder(&folder)?;
        }
        // The store's folder and those of it may be links to where the space is; those inside may not.
        let base = CHANGES.union(Mask::IN_ONLYDIR);
        let root = base.union(Mask::IN_DELETE_SELF).union(Mask::IN_MOVE_SELF);
        self.add(self.layout.root().to_owned(), root)?;
        self.add(self.layout.pods(), base)?;
        for tree in [self.layout.workloads(), self.layout.policies()] {
            self.add(tree.clone(), base)?;
            self.add_folders_in(&tree, 0)?;
        }
        Ok(())
    }

    /// The ticks there are, without waiting; each once, [`Tick::Full`] alone when it is among them.
    ///
    /// # Errors
    /// Something is not watched. The caller makes a full pass, goes on with its slow ones and tries
    /// [`Watcher::rebuild`] again.
    pub fn read(&mut self) -> Result<BTreeSet<Tick>, Error> {
        let mut ticks = BTreeSet::new();
        for _ in 0..MAX_READS {
            match self.inotify.read_events() {
                Ok(events) => events
                    .into_iter()
                    .try_for_each(|event| self.take(event, &mut ticks))?,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::new(self.layout.root(), errno)),
            }
        }
        if ticks.contains(&Tick::Full) {
            ticks = BTreeSet::from([Tick::Full]);
        }
        Ok(ticks)
    }

    /// [`Watcher::read`], waiting for a tick for at most `timeout`; empty when there was none.
    pub fn wait(&mut self, timeout: Duration) -> Result<BTreeSet<Tick>, Error> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(
            &mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(_) | Err(Errno::EINTR) => self.read(),
            Err(errno) => Err(Error::new(self.layout.root(), errno)),
        }
    }

    fn take(&mut self, event: InotifyEvent, ticks: &mut BTreeSet<Tick>) -> Result<(), Error> {
        if event.mask.contains(Mask::IN_Q_OVERFLOW) {
            ticks.insert(Tick::Full);
            return self.rebuild();
        }
        // An event of a watch that was taken off meanwhile.
        let Some(folder) = self.watched.get(&event.wd) else {
            return Ok(());
        };
        let Some(name) = event.name else {
            let root = folder == self.layout.root();
            if event.mask.contains(Mask::IN_IGNORED) {
                self.watched.remove(&event.wd);
            }
            // Of the folders below, the one above tells.
            if root && event.mask.intersects(LOST) {
                ticks.insert(Tick::Full);
                return self.rebuild();
            }
            if event.mask.contains(Mask::IN_ATTRIB) {
                ticks.insert(Tick::Full);
            }
            return Ok(());
        };
        if file::is_hidden(&name) {
            return Ok(());
        }
        let path = folder.join(&name);
        if event.mask.contains(Mask::IN_ISDIR) {
            return self.take_folder(&path, event.mask, ticks);
        }
        // What is being written is told when it is closed; a link is never written.
        if event.mask.contains(Mask::IN_CREATE) && !is_link(&path) {
            return Ok(());
        }
        if let Some(tick) = classify(&self.layout, &path) {
            ticks.insert(tick);
        }
        Ok(())
    }

    fn take_folder(
        &mut self,
        path: &Path,
        mask: Mask,
        ticks: &mut BTreeSet<Tick>,
    ) -> Result<(), Error> {
        let ours = [
            self.layout.pods(),
            self.layout.workloads(),
            self.layout.policies(),
        ];
        if !ours.iter().any(|folder| path.starts_with(folder)) {
            return Ok(());
        }
        ticks.insert(Tick::Full);
        if mask.intersects(Mask::IN_MOVED_FROM.union(Mask::IN_DELETE)) {
            let inotify = &self.inotify;
            self.watched.retain(|watch, folder| {
                let gone = folder.starts_with(path);
                if gone {
                    let _ = inotify.rm_watch(*watch);
                }
                !gone
            });
        }
        if ours.iter().any(|folder| path == folder) {
            // One of the store's own: there again, or made again.
            return self.rebuild();
        }
        if mask.intersects(Mask::IN_MOVED_TO.union(Mask::IN_CREATE)) {
            let depth = path
                .strip_prefix(self.layout.root())
                .map_or(0, |relative| relative.iter().count());
            self.add(path.to_owned(), CHANGES.union(FOLDER))?;
            self.add_folders_in(path, depth.saturating_sub(1))?;
        }
        Ok(())
    }

    fn add_folders_in(&mut self, folder: &Path, depth: usize) -> Result<(), Error> {
        if depth >= documents::MAX_DEPTH {
            return Ok(());
        }
        // What cannot be listed has no readable documents either; the scan says so.
        let Ok(entries) = fs::read_dir(folder) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && !file::is_hidden(&entry.file_name())
            {
                self.add(entry.path(), CHANGES.union(FOLDER))?;
                self.add_folders_in(&entry.path(), depth + 1)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, folder: PathBuf, mask: Mask) -> Result<(), Error> {
        match self.inotify.add_watch(&folder, mask) {
            Ok(watch) => {
                self.watched.insert(watch, folder);
                Ok(())
            }
            // It is gone again, and that has an event of its own.
            Err(Errno::ENOENT | Errno::ENOTDIR) if folder != self.layout.root() => Ok(()),
            Err(errno) => Err(Error::new(&folder, errno)),
        }
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl AsRawFd for Watcher {
    fn as_raw_fd(&self) -> RawFd {
        self.inotify.as_fd().as_raw_fd()
    }
}

/// A symbolic link, or one more name of a file that is written already.
fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

fn classify(layout: &Layout, path: &Path) -> Option<Tick> {
    let relative = path.strip_prefix(layout.root()).ok()?;
    let mut parts = relative.iter();
    let first = parts.next()?;
    let below = parts.as_path();
    let inside = !below.as_os_str().is_empty();
    match first.as_bytes() {
        b"node.json" | b"node-addresses.json" => Some(Tick::Node),
        b"pods" if inside => Some(Tick::Pods),
        b"workloads" if inside => Some(Tick::Workloads),
        b"policies" if inside => match below.to_str().and_then(RelPath::new) {
            Some(path) if path.is_document() => Some(Tick::Document(path)),
            // A link, perhaps to a folder, or a name that is no text.
            _ => Some(Tick::Full),
        },
        // A link or file where a folder should be.
        b"pods" | b"workloads" | b"policies" => Some(Tick::Full),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn paths_become_ticks() {
        let layout = Layout::new("/s");
        let tick = |path: &str| classify(&layout, Path::new(path));
        let document = |path| Some(Tick::Document(RelPath::new(path).unwrap()));
        assert_eq!(tick("/s/node.json"), Some(Tick::Node));
        assert_eq!(tick("/s/pods/a_eth0.json"), Some(Tick::Pods));
        assert_eq!(tick("/s/workloads/ns/pod.json"), Some(Tick::Workloads));
        assert_eq!(tick("/s/policies/a.yaml"), document("a.yaml"));
        assert_eq!(
            tick("/s/policies/cluster/ns/p.json"),
            document("cluster/ns/p.json")
        );
        assert_eq!(tick("/s/policies/link"), Some(Tick::Full));
        assert_eq!(tick("/s/policies"), Some(Tick::Full));
        assert_eq!(tick("/s/lock"), None);
        assert_eq!(tick("/elsewhere/node.json"), None);
        assert_eq!(
            classify(
                &layout,
                &Path::new("/s/policies").join(OsStr::from_bytes(b"\xff.yaml"))
            ),
            Some(Tick::Full)
        );
    }
}
