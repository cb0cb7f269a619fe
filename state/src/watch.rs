//! Ticks when something in the store changes, for a companion that reads it anew.
//!
//! A tick says what to look at again, never what is there. Lost events, new folders and anything unclear are a full pass.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode},
};

use crate::{Layout, RelPath, Store, file};

/// Why the store cannot be watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// inotify refuses.
    #[error("watch {}: {source}; raise fs.inotify.max_user_watches or max_user_instances", path.display())]
    Notify {
        /// The folder.
        path: PathBuf,
        /// What it said.
        source: notify::Error,
    },
}

/// What to look at again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Tick {
    /// One document.
    Document(RelPath),
    /// An endpoint record.
    Pods,
    /// A pod that the store knows.
    Workloads,
    /// `node.json` or `node-addresses.json`.
    Node,
    /// Everything: events were lost, a folder came or went, or the watcher failed.
    Full,
}

/// Watches until dropped.
#[derive(Debug)]
#[must_use = "watching ends when this is dropped"]
pub struct Watcher {
    _inner: RecommendedWatcher,
}

impl Store {
    /// Call `tick`, on a thread of the watcher, for each change; it must not block. Missing folders are made first.
    pub fn watch(&self, tick: impl FnMut(Tick) + Send + 'static) -> Result<Watcher, crate::Error> {
        for folder in self.layout().folders() {
            file::ensure_folder(&folder)?;
        }
        let layout = self.layout().clone();
        let mut tick = tick;
        let watch = |path: &Path, source| Error::Notify {
            path: path.to_owned(),
            source,
        };
        let mut inner = notify::recommended_watcher(move |event| ticks(&layout, event, &mut tick))
            .map_err(|source| watch(self.root(), source))?;
        let watched = [
            (self.root().to_owned(), RecursiveMode::NonRecursive),
            (self.layout().pods(), RecursiveMode::NonRecursive),
            (self.layout().workloads(), RecursiveMode::Recursive),
            (self.layout().policies(), RecursiveMode::Recursive),
        ];
        for (path, mode) in &watched {
            inner
                .watch(path, *mode)
                .map_err(|source| watch(path, source))?;
        }
        Ok(Watcher { _inner: inner })
    }

    /// [`Store::watch`] into a channel.
    pub fn watch_channel(&self) -> Result<(Watcher, mpsc::Receiver<Tick>), crate::Error> {
        let (sender, receiver) = mpsc::channel();
        let watcher = self.watch(move |tick| drop(sender.send(tick)))?;
        Ok((watcher, receiver))
    }
}

fn ticks(layout: &Layout, event: notify::Result<Event>, tick: &mut impl FnMut(Tick)) {
    let Ok(event) = event else {
        return tick(Tick::Full);
    };
    if event.need_rescan() {
        return tick(Tick::Full);
    }
    let folder = match event.kind {
        EventKind::Create(CreateKind::Folder) | EventKind::Remove(RemoveKind::Folder) => true,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Remove(_)
        | EventKind::Modify(ModifyKind::Name(RenameMode::From | RenameMode::To)) => false,
        _ => return,
    };
    for path in &event.paths {
        if let Some(what) = classify(layout, path, folder) {
            tick(what);
        }
    }
}

fn classify(layout: &Layout, path: &Path, folder: bool) -> Option<Tick> {
    let relative = path.strip_prefix(layout.root()).ok()?;
    let hidden = |part: &std::ffi::OsStr| file::is_hidden(part);
    if relative.iter().any(hidden) {
        return None;
    }
    let mut parts = relative.iter();
    let first = parts.next()?;
    let below = parts.next().is_some();
    match first.to_str()? {
        "policies" if !below || folder => Some(Tick::Full),
        "policies" => match relative
            .strip_prefix("policies")
            .ok()?
            .to_str()
            .and_then(RelPath::new)
        {
            Some(path) if path.is_document() => Some(Tick::Document(path)),
            // A folder renamed in or out, or a name that is no text.
            _ => Some(Tick::Full),
        },
        "pods" if below => Some(Tick::Pods),
        "workloads" if below => Some(Tick::Workloads),
        "pods" | "workloads" => Some(Tick::Full),
        "node.json" | "node-addresses.json" => Some(Tick::Node),
        _ => None,
    }
}
