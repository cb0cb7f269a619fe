//! The BPF file system under our pins.
//!
//! A bpffs is mounted only where the mount reaches the mount namespace of pid 1. Elsewhere (under
//! `ip netns exec`, say) it would end with the calling process, the pins with it, and the next ADD would load
//! everything a second time.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where a bpffs belongs.
const USUAL: &str = "/sys/fs/bpf";
/// Inode of the first pid namespace (`PROC_PID_INIT_INO`), in which pid 1 is the node's own.
const FIRST_PID_NS: u64 = 0xefff_fffc;

/// Why there is no bpffs under a directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path is not absolute and plain.
    #[error("use BPF directory {path}: an absolute path without .. is needed")]
    NotAbsolute {
        /// The path asked for.
        path: PathBuf,
    },
    /// Something could not be looked at or made.
    #[error("{verb} {path}: {source}")]
    Io {
        /// Verb and object.
        verb: &'static str,
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is none, and a mount from here would not be seen by the node.
    #[error(
        "use BPF directory {path}: no bpffs there, and one mounted from here would not reach pid 1's mount namespace ({reason}); run `mount -t bpf bpf {mount_point}` on the node"
    )]
    OutOfReach {
        /// The directory asked for.
        path: PathBuf,
        /// Where a bpffs would be mounted.
        mount_point: PathBuf,
        /// Why the mount would not be seen.
        reason: &'static str,
    },
    /// The mount was refused.
    #[error(
        "mount bpffs on {mount_point}: {errno}; run `mount -t bpf bpf {mount_point}` on the node"
    )]
    Mount {
        /// Where.
        mount_point: PathBuf,
        /// What the kernel said.
        errno: Errno,
    },
}

/// Makes sure that `dir` is a directory on a bpffs, mounting one if the mount reaches the node.
///
/// The caller holds the node's lock: two mounts on one place would hide each other's pins.
///
/// # Errors
/// See [`Error`]; nothing is mounted or made outside a bpffs where it cannot be used.
pub fn ensure(dir: &Path) -> Result<(), Error> {
    let plain = dir
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !dir.is_absolute() || !plain {
        return Err(Error::NotAbsolute {
            path: dir.to_owned(),
        });
    }
    if !is_bpffs(existing(dir)?)? {
        let usual = Path::new(USUAL);
        let mount_point = if dir.starts_with(usual) { usual } else { dir };
        if let Some(reason) = out_of_reach(mount_point)? {
            let (path, mount_point) = (dir.to_owned(), mount_point.to_owned());
            return Err(Error::OutOfReach {
                path,
                mount_point,
                reason,
            });
        }
        make(mount_point)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(
            Some("bpf"),
            mount_point,
            Some("bpf"),
            flags,
            Some("mode=0700"),
        )
        .map_err(|errno| Error::Mount {
            mount_point: mount_point.to_owned(),
            errno,
        })?;
    }
    make(dir)
}

/// Whether `dir` exists and is on a bpffs.
///
/// # Errors
/// It cannot be looked at.
pub fn is_ready(dir: &Path) -> Result<bool, Error> {
    Ok(existing(dir)? == dir && is_bpffs(dir)?)
}

/// The deepest part of the path that is there.
fn existing(dir: &Path) -> Result<&Path, Error> {
    for part in dir.ancestors() {
        match fs::metadata(part) {
            Ok(_) => return Ok(part),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(fail("look at", part, source)),
        }
    }
    Ok(Path::new("/"))
}

fn is_bpffs(path: &Path) -> Result<bool, Error> {
    let stat = statfs(path).map_err(|errno| fail("look at file system of", path, errno.into()))?;
    Ok(stat.filesystem_type() == BPF_FS_MAGIC)
}

fn make(dir: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| fail("create directory", dir, source))
}

/// Why a mount on `point` would not be seen in pid 1's mount namespace; none = it would.
fn out_of_reach(point: &Path) -> Result<Option<&'static str>, Error> {
    let group = peer_group(&read("/proc/self/mountinfo")?, existing(point)?);
    if namespace("/proc/self/ns/pid")? != FIRST_PID_NS {
        // Pid 1 may be a container's. Only a mount that is shared (Bidirectional) leaves it.
        return Ok(match group {
            Some(_) => None,
            None => Some("this is a container and the mount is not shared with the node"),
        });
    }
    if namespace("/proc/self/ns/mnt")? == namespace("/proc/1/ns/mnt")? {
        return Ok(None);
    }
    let Some(group) = group else {
        return Ok(Some(
            "this is a mount namespace of its own, as under `ip netns exec`",
        ));
    };
    let shared = peer_groups(&read("/proc/1/mountinfo")?).any(|(_, theirs)| theirs == group);
    Ok((!shared)
        .then_some("this is a mount namespace of its own that shares with another one only"))
}

fn namespace(path: &str) -> Result<u64, Error> {
    let meta = fs::metadata(path).map_err(|source| fail("look at", Path::new(path), source))?;
    Ok(meta.ino())
}

fn read(path: &str) -> Result<String, Error> {
    // Mount points may hold any bytes; those that concern us are plain.
    let bytes = fs::read(path).map_err(|source| fail("read", Path::new(path), source))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The peer group of the mount that holds `path`, if it is shared.
fn peer_group(mountinfo: &str, path: &Path) -> Option<u32> {
    let mut best: Option<(usize, Option<u32>)> = None;
    for (point, group) in mounts(mountinfo) {
        let depth = Path::new(&point).components().count();
        // A later mount on the same point covers the earlier one.
        if path.starts_with(&point) && best.is_none_or(|(deepest, _)| depth >= deepest) {
            best = Some((depth, group));
        }
    }
    best.and_then(|(_, group)| group)
}

fn peer_groups(mountinfo: &str) -> impl Iterator<Item = (String, u32)> {
    mounts(mountinfo).filter_map(|(point, group)| Some((point, group?)))
}

/// Mount point and peer group of each line (proc_pid_mountinfo(5)).
fn mounts(mountinfo: &str) -> impl Iterator<Item = (String, Option<u32>)> {
    mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let point = unescape(fields.nth(4)?);
        let group = fields
            .skip(1)
            .take_while(|field| *field != "-")
            .find_map(|field| field.strip_prefix("shared:")?.parse().ok());
        Some((point, group))
    })
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(field.to_owned(), |text, (escape, plain)| {
        text.replace(escape, plain)
    })
}

fn fail(verb: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        verb,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
22 21 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
23 22 0:21 / /sys/fs/bpf rw - bpf bpf rw,mode=700
24 21 0:22 / /with\\040space rw master:3 - tmpfs tmpfs rw
25 24 0:23 / /with\\040space rw shared:9 master:3 - tmpfs tmpfs rw
broken line
";

    #[test]
    fn the_deepest_and_latest_mount_decides() {
        assert_eq!(peer_group(MOUNTINFO, Path::new("/var/lib")), Some(1));
        assert_eq!(peer_group(MOUNTINFO, Path::new("/sys/fs")), Some(7));
        assert_eq!(
            peer_group(MOUNTINFO, Path::new("/sys/fs/bpf/podgate")),
            None
        );
        assert_eq!(peer_group(MOUNTINFO, Path::new("/sysfs")), Some(1));
        assert_eq!(peer_group(MOUNTINFO, Path::new("/with space/x")), Some(9));
    }

    #[test]
    fn paths_that_could_mean_another_place_are_refused() {
        for path in ["", "bpf", "/sys/fs/bpf/../x"] {
            assert!(
                matches!(ensure(Path::new(path)), Err(Error::NotAbsolute { .. })),
                "{path:?}"
            );
        }
    }
}
