//! The log: a file, for stdout belongs to the result. Nothing here may make a call fail.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
    sync::Mutex,
};

use nix::{fcntl::OFlag, unistd::geteuid};
use tracing::level_filters::LevelFilter;

use crate::config::Logging;

/// Beyond this the file is put aside under the name with `.1` behind it, so a node without logrotate keeps its disk.
const KEEP: u64 = 16 << 20;

/// Starts logging for this process. A file that cannot be opened means stderr, which libcni shows with an error.
pub fn start(logging: &Logging) {
    if logging.level == LevelFilter::OFF {
        return;
    }
    let builder = tracing_subscriber::fmt()
        .with_max_level(logging.level)
        .with_ansi(false)
        .with_target(false);
    // Somebody else's subscriber (a test's) is as good.
    let _ = match logging.file.as_deref().map(|path| (path, open(path))) {
        Some((_, Ok(file))) => builder.with_writer(Mutex::new(file)).try_init(),
        Some((path, Err(error))) => {
            let started = builder.with_writer(io::stderr).try_init();
            tracing::warn!("open log {}: {error}; logging to stderr", path.display());
            started
        }
        None => builder.with_writer(io::stderr).try_init(),
    };
}

/// Opens for appending, so that lines of concurrent calls stay whole.
///
/// # Errors
/// The path is a symbolic link, is not a regular file, or belongs to another user. The plugin runs as root: it must not
/// write through a link that another user placed, nor wait for the reader of a FIFO (open(2): `O_NOFOLLOW`, `O_NONBLOCK`).
fn open(path: &Path) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
            .open(path)
    };
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder)?;
            open()?
        }
        opened => opened?,
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if meta.uid() != geteuid().as_raw() {
        return Err(io::Error::other(format!(
            "the file belongs to uid {}, not to the plugin's user",
            meta.uid()
        )));
    }
    if meta.len() < KEEP {
        return Ok(file);
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    std::fs::rename(path, aside)?;
    open()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_long_log_is_put_aside_and_folders_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/plugin.log");
        open(&path).unwrap().write_all(b"one\n").unwrap();
        open(&path).unwrap().write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(KEEP)
            .unwrap();
        open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(
            std::fs::metadata(folder.path().join("a/b/plugin.log.1"))
                .unwrap()
                .len(),
            KEEP
        );
    }

    #[test]
    fn links_fifos_devices_and_files_of_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("target"), "before").unwrap();
        std::os::unix::fs::symlink(at("target"), at("link")).unwrap();
        std::os::unix::fs::symlink(at("nothing"), at("dangling")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(at("foreign"), "before").unwrap();
        std::os::unix::fs::chown(at("foreign"), Some(65_534), None).unwrap();
        for name in ["link", "dangling", "fifo", "foreign"] {
            assert!(open(&at(name)).is_err(), "{name}");
        }
        assert!(open(Path::new("/dev/null")).is_err());
        assert_eq!(std::fs::read(at("target")).unwrap(), b"before");
        assert!(!at("nothing").exists());
    }

    #[test]
    fn what_cannot_be_opened_is_an_error_and_nothing_else() {
        assert!(open(Path::new("/proc/no/such/file.log")).is_err());
        assert!(open(Path::new("/")).is_err());
    }
}
