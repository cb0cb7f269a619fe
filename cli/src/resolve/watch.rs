//! `--watch`: a pass after every change of the manifests, until a signal ends it.
//!
//! inotify(7) only wakes; what changed is seen by looking at the files again. So nothing that it tells, or fails to tell, can be
//! wrong about more than the moment: a pass is made every minute anyway.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags as Mask, InitFlags, Inotify};

use super::Resolver;
use super::sources::{Input, Sources};
use crate::args::Resolve;
use crate::error::Error;

/// A change is taken once nothing more has come for so long: editors write in steps.
const QUIET: Duration = Duration::from_millis(50);
/// But at the latest after so long.
const AT_LATEST: Duration = Duration::from_secs(1);
/// A pass without any event.
const ANYWAY: Duration = Duration::from_secs(60);

pub(super) fn run(options: &Resolve, sources: &mut Sources) -> Result<ExitCode, Error> {
    if sources.named().iter().any(|name| name == Path::new("-")) {
        return Err(Error::Asked(
            "the standard input cannot be watched: give files or folders".into(),
        ));
    }
    let mut resolver = Resolver::new(options);
    let mut eyes = Eyes::open()?;
    loop {
        // Watched first, then looked at: nothing falls between.
        eyes.watch(sources.named())?;
        let input = sources.read();
        // What is broken was told; what is in force stays until it is mended.
        if resolver.take(&input)
            && let Err(error) = write(&resolver, options, &input)
        {
            eprintln!("podgatectl: {error}");
        }
        eyes.wait()?;
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
struct Eyes {
    inotify: Inotify,
    folders: BTreeSet<PathBuf>,
}

impl Eyes {
    fn open() -> Result<Self, Error> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|errno| Error::Asked(format!("watch: {errno}")))?;
        Ok(Self {
            inotify,
            folders: BTreeSet::new(),
        })
    }

    /// Watches the folders of the files named (editors rename), and all inside the folders named.
    fn watch(&mut self, named: &[PathBuf]) -> Result<(), Error> {
        let mut folders = BTreeSet::new();
        for path in named {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            folders.insert(parent.unwrap_or(Path::new(".")).to_owned());
            inside(path, &mut folders);
        }
        let mask = Mask::IN_CLOSE_WRITE
            | Mask::IN_CREATE
            | Mask::IN_DELETE
            | Mask::IN_MOVED_FROM
            | Mask::IN_MOVED_TO
            | Mask::IN_ATTRIB
            | Mask::IN_ONLYDIR;
        for folder in &folders {
            // A folder made anew under its name needs a new watch; the same one again is only renewed.
            match self.inotify.add_watch(folder, mask) {
                Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => {
                    return Err(Error::Asked(format!("watch {}: {errno}", folder.display())));
                }
            }
        }
        self.folders = folders;
        Ok(())
    }

    /// Waits for a change, and for its end.
    fn wait(&self) -> Result<(), Error> {
        if !self.woken(ANYWAY)? {
            return Ok(());
        }
        let begin = Instant::now();
        while begin.elapsed() < AT_LATEST && self.woken(QUIET)? {}
        Ok(())
    }

    /// Whether anything came within `bound`; what came is thrown away.
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
        loop {
            match self.inotify.read_events() {
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(true),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(told(errno)),
            }
        }
    }
}

/// A folder and those in it.
fn inside(path: &Path, folders: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(path) else {
        return;
    };
    if !folders.insert(path.to_owned()) {
        return;
    }
    for entry in entries.flatten() {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && entry.path().is_dir() {
            inside(&entry.path(), folders);
        }
    }
}
