//! A log file that can be rotated: by its size, and by anybody who moves it away.
//!
//! It is opened anew when its path leads to another file, and at SIGHUP. Links are not followed and only a regular file is
//! written, so that nobody who can write the folder makes the companion write elsewhere.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

/// Whether the path still leads to the open file is looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// Counts the requests to open log files anew.
static REOPEN: AtomicU64 = AtomicU64::new(0);

/// Has every log file opened anew before its next line: what SIGHUP means.
pub(crate) fn reopen_all() {
    REOPEN.fetch_add(1, Ordering::Relaxed);
}

/// When a log file is rotated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation {
    /// Bytes at which the file becomes `NAME.1`; 0 = never.
    pub(crate) max_bytes: u64,
    /// Older files that are kept; 0 = none.
    pub(crate) backups: u32,
}

/// A log file.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    file: Option<File>,
    bytes: u64,
    looked: Instant,
    reopened: u64,
}

impl LogFile {
    /// Opens it, or makes it, with the folders that it is in.
    pub(crate) fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let mut log = Self {
            path: path.to_owned(),
            rotation,
            file: None,
            bytes: 0,
            looked: Instant::now(),
            reopened: REOPEN.load(Ordering::Relaxed),
        };
        log.ensure()?;
        Ok(log)
    }

    /// Writes whole lines.
    pub(crate) fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.look();
        if self.rotation.max_bytes > 0
            && self.bytes > 0
            && self.bytes + line.len() as u64 > self.rotation.max_bytes
        {
            self.rotate();
        }
        let written = self.ensure().and_then(|file| file.write_all(line));
        match written {
            Ok(()) => self.bytes += line.len() as u64,
            // A file that could not be written may be another one the next time.
            Err(_) => self.file = None,
        }
        written
    }

    /// The open file.
    fn ensure(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            let file = open(&self.path)?;
            self.bytes = file.metadata()?.len();
            self.file = Some(file);
        }
        self.file
            .as_mut()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Lets go of a file that was moved away, or is to be opened anew.
    fn look(&mut self) {
        let asked = REOPEN.load(Ordering::Relaxed);
        if asked == self.reopened && self.looked.elapsed() < LOOK {
            return;
        }
        (self.reopened, self.looked) = (asked, Instant::now());
        let inode = |m: io::Result<fs::Metadata>| m.ok().map(|m| (m.dev(), m.ino()));
        let now = inode(fs::symlink_metadata(&self.path));
        if self
            .file
            .as_ref()
            .is_some_and(|f| inode(f.metadata()) != now)
        {
            self.file = None;
        }
    }

    /// Makes `NAME` to `NAME.1`, `NAME.1` to `NAME.2` and so on; the oldest goes.
    fn rotate(&mut self) {
        self.file = None;
        let backup = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        // What cannot be moved is written on: a log that grows is better than none.
        if self.rotation.backups == 0 {
            let _ = fs::remove_file(&self.path);
            return;
        }
        for n in (1..self.rotation.backups).rev() {
            let _ = fs::rename(backup(n), backup(n + 1));
        }
        let _ = fs::rename(&self.path, backup(1));
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_line(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // A FIFO without a reader must not hold anybody up.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .custom_flags(flags.bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Rotation = Rotation {
        max_bytes: 0,
        backups: 0,
    };

    #[test]
    fn a_file_at_its_size_becomes_a_backup_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/a.log");
        let rotation = Rotation {
            max_bytes: 10,
            backups: 2,
        };
        let mut log = LogFile::open(&path, rotation).unwrap();
        for line in [b"one....\n", b"two....\n", b"three..\n", b"four...\n"] {
            log.write_line(line).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join("sub").join(name)).ok();
        assert_eq!(read("a.log").as_deref(), Some("four...\n"));
        assert_eq!(read("a.log.1").as_deref(), Some("three..\n"));
        assert_eq!(read("a.log.2").as_deref(), Some("two....\n"));
        assert_eq!(read("a.log.3"), None);
    }

    #[test]
    fn the_size_of_an_earlier_run_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        fs::write(&path, "123456789\n").unwrap();
        let rotation = Rotation {
            max_bytes: 12,
            backups: 1,
        };
        let mut log = LogFile::open(&path, rotation).unwrap();
        log.write_line(b"new\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        let before = fs::read_to_string(dir.path().join("a.log.1")).unwrap();
        assert_eq!(before, "123456789\n");
    }

    #[test]
    fn a_file_moved_away_is_begun_anew_at_once_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let mut log = LogFile::open(&path, KEEP).unwrap();
        log.write_line(b"one\n").unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        reopen_all();
        log.write_line(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(
            fs::read_to_string(dir.path().join("moved")).unwrap(),
            "one\n"
        );
    }

    #[test]
    fn neither_links_nor_anything_but_regular_files() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, "").unwrap();
        let link = dir.path().join("link.log");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(LogFile::open(&link, KEEP).is_err());
        let fifo = dir.path().join("fifo.log");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(LogFile::open(&fifo, KEEP).is_err());
        assert!(LogFile::open(dir.path(), KEEP).is_err());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("logs");
        let path = folder.join("a.log");
        let mut log = LogFile::open(&path, KEEP).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "a file where the folder was").unwrap();
        reopen_all();
        assert!(log.write_line(b"lost\n").is_err());
        fs::remove_file(&folder).unwrap();
        log.write_line(b"kept\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept\n");
    }
}
