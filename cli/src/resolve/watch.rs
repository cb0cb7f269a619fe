//! `--watch`: a pass after every change of the manifests, until a signal ends it.
//!
//! inotify(7) only wakes; what changed is seen by looking at the files again. So nothing that it tells, or fails to tell, can be
//! wrong about more than the moment: a pass is made every minute anyway.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags as Mask, InitFlags, Inotify, WatchDescriptor};

use super::Resolver;
use super::links::{self, Names};
use super::sources::{Input, Sources};
use crate::args::Resolve;
use crate::error::Error;

/// A change is taken once nothing more has come for so long: editors write in steps.
const QUIET: Duration = Duration::from_millis(50);
/// But at the latest after so long.
const AT_LATEST: Duration = Duration::from_secs(1);
/// A link back up must not go on for ever.
const MAX_COMPONENTS: usize = 64;
/// A pass without any event.
const ANYWAY: Duration = Duration::from_secs(60);

pub(super) fn run(options: &Resolve, sources: &mut Sources) -> Result<ExitCode, Error> {
    if sources.named().iter().any(|name| name == Path::new("-")) {
        return Err(Error::Asked(
            "the standard input cannot be watched: give files or folders".into(),
        ));
    }
    let mut resolver = Resolver::new(options);
    let mut watcher = Watcher::open()?;
    loop {
        // Watched first, then looked at: nothing falls between.
        watcher.watch(sources.named())?;
        let input = sources.read();
        // What is broken was told; what is in force stays until it is mended.
        if resolver.take(&input)
            && let Err(error) = write(&resolver, options, &input)
        {
            eprintln!("podgatectl: {error}");
        }
        watcher.wait()?;
    }
}

fn write(resolver: &Resolver, options: &Resolve, input: &Input) -> Result<(), Error> {
    let plan = resolver.plan(options, input)?;
    if plan.is_empty() {
        return Ok(());
    }
    plan.carry_out()
}

/// What wakes.
struct Watcher {
    inotify: Inotify,
    /// Of folders that are only on the way: the names that matter. Of others everything does.
    names: HashMap<WatchDescriptor, Option<Vec<OsString>>>,
}

impl Watcher {
    fn open() -> Result<Self, Error> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|errno| Error::Asked(format!("watch: {errno}")))?;
        Ok(Self {
            inotify,
            names: HashMap::new(),
        })
    }

    /// Watches all inside the folders named, and every name on the way to a file or folder, through links too: editors
    /// rename, and git-sync swaps a link that stands elsewhere.
    fn watch(&mut self, named: &[PathBuf]) -> Result<(), Error> {
        let mut folders = BTreeSet::new();
        let mut ways = Names::new();
        for path in named {
            links::follow(path, &mut ways);
            inside(path, &mut folders, &mut ways);
        }
        let mask = Mask::IN_CLOSE_WRITE
            | Mask::IN_CREATE
            | Mask::IN_DELETE
            | Mask::IN_MOVED_FROM
            | Mask::IN_MOVED_TO
            | Mask::IN_ATTRIB
            | Mask::IN_ONLYDIR;
        let ways = ways
            .into_iter()
            .map(|(folder, names)| (folder, Some(names)));
        let all = folders.into_iter().map(|folder| (folder, None));
        let mut watched = HashMap::new();
        for (folder, names) in ways.chain(all) {
            // A folder made anew under its name needs a new watch; the same one again is only renewed. Those on the way
            // may be closed to us.
            match self.inotify.add_watch(&folder, mask) {
                Ok(descriptor) => {
                    let entry = watched
                        .entry(descriptor)
                        .or_insert_with(|| Some(Vec::new()));
                    match (entry, names) {
                        (Some(own), Some(names)) => own.extend(names),
                        (entry, None) => *entry = None,
                        (None, _) => {}
                    }
                }
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => {}
                Err(errno) => {
                    return Err(Error::Asked(format!("watch {}: {errno}", folder.display())));
                }
            }
        }
        for gone in self.names.keys().filter(|old| !watched.contains_key(old)) {
            // Its folder may be gone, and the watch with it.
            let _ = self.inotify.rm_watch(*gone);
        }
        self.names = watched;
        Ok(())
    }

    /// Waits for a change, and for its end.
    fn wait(&self) -> Result<(), Error> {
        let begin = Instant::now();
        loop {
            let left = ANYWAY.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            if self.woken(left)? {
                break;
            }
        }
        let begin = Instant::now();
        while begin.elapsed() < AT_LATEST && self.woken(QUIET)? {}
        Ok(())
    }

    /// Whether anything that matters came within `bound`.
    fn woken(&self, bound: Duration) -> Result<bool, Error> {
        let timeout = PollTimeout::try_from(bound).unwrap_or(PollTimeout::MAX);
        let told = |errno: Errno| Error::Asked(format!("watch: {errno}"));
        match poll(
            &mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(told(errno)),
        }
        let mut matters = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    matters |= events.iter().any(|event| {
                        match (self.names.get(&event.wd), &event.name) {
                            (Some(Some(names)), Some(name)) => names.contains(name),
                            // Everything in a folder named; the folder itself; events that were lost.
                            _ => true,
                        }
                    });
                }
                Err(Errno::EAGAIN) => return Ok(matters),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(told(errno)),
            }
        }
    }
}

/// A folder and those in it; and of links in them the way to what they stand for.
fn inside(path: &Path, folders: &mut BTreeSet<PathBuf>, ways: &mut Names) {
    let Ok(entries) = std::fs::read_dir(path) else {
        return;
    };
    if !folders.insert(path.to_owned()) {
        return;
    }
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
            links::follow(&path, ways);
        }
        if path.is_dir() && path.components().count() < MAX_COMPONENTS {
            inside(&path, folders, ways);
        }
    }
}
