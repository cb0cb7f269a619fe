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
    unistd::geteuid,
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
    /// A bpffs takes no names with dots (nor does it say so).
    #[error("use BPF directory {path}: a bpffs takes no names with a dot; choose another name")]
    Dotted {
        /// The path asked for.
        path: PathBuf,
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
    /// Another user owns the directory or may write into it.
    #[error(
        "use BPF directory {path}: owner uid {owner}, mode {mode:o}; it must be a directory of root's that nobody else can write to: remove it, or `chown root` and `chmod 0700` it"
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
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
    if let Some(mount_point) = missing(dir)? {
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
    make(dir)?;
    check_owner(dir)
}

/// Refuses a directory in which another user can place or replace pins: a bpffs of mode 1777 lets anyone make the
/// directory before podgate does.
///
/// # Errors
/// It is not a directory (a link is not followed), belongs to another user, or others may write to it.
pub fn check_owner(dir: &Path) -> Result<(), Error> {
    let meta = fs::symlink_metadata(dir).map_err(|source| fail("look at", dir, source))?;
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    if meta.is_dir() && owner == geteuid().as_raw() && mode & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::NotOurs {
        path: dir.to_owned(),
        owner,
        mode,
    })
}

/// Whether [`ensure`] would find or mount a bpffs; changes nothing.
///
/// # Errors
/// What [`ensure`] would refuse before it mounts anything.
pub fn check(dir: &Path) -> Result<(), Error> {
    missing(dir)?;
    if existing(dir)? == dir {
        check_owner(dir)?;
    }
    Ok(())
}

/// Where a bpffs has to be mounted for `dir`; `None` = it is on one.
fn missing(dir: &Path) -> Result<Option<&Path>, Error> {
    let plain = dir
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !dir.is_absolute() || !plain {
        return Err(Error::NotAbsolute {
            path: dir.to_owned(),
        });
    }
    if is_bpffs(existing(dir)?)? {
        return Ok(None);
    }
    let usual = Path::new(USUAL);
    let mount_point = if dir.starts_with(usual) { usual } else { dir };
    match out_of_reach(mount_point)? {
        None => Ok(Some(mount_point)),
        Some(reason) => Err(Error::OutOfReach {
            path: dir.to_owned(),
            mount_point: mount_point.to_owned(),
            reason,
        }),
    }
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

/// Makes a directory, and those above it, that only root can use, whatever the caller's umask.
pub(crate) fn make(dir: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| fail("create directory", dir, source))
}

/// Why a mount on `point` would not be seen in pid 1's mount namespace; none = it would.
///
/// Read from the two mountinfo files alone: ids of mounts are unique over all namespaces, and /proc/1/ns/mnt
/// takes a right to trace pid 1 that not every root has.
fn out_of_reach(point: &Path) -> Result<Option<&'static str>, Error> {
    let own = read("/proc/self/mountinfo")?;
    let Some(holder) = holder(&own, existing(point)?) else {
        return Ok(Some(
            "the mount that holds it is not in /proc/self/mountinfo",
        ));
    };
    let pid_ns = Path::new("/proc/self/ns/pid");
    let pid_ns = fs::metadata(pid_ns).map_err(|source| fail("look at", pid_ns, source))?;
    if pid_ns.ino() != FIRST_PID_NS {
        // Pid 1 may be the container's own. Only a mount that is shared (Bidirectional) leaves it.
        let private = "this is a container and the mount is not shared with the node";
        return Ok(holder.group.is_none().then_some(private));
    }
    let nodes = read("/proc/1/mountinfo")?;
    let reached = mounts(&nodes).any(|mount| {
        mount.id == holder.id || (mount.group.is_some() && mount.group == holder.group)
    });
    let private = "this is a mount namespace of its own, as under `ip netns exec`";
    Ok((!reached).then_some(private))
}

fn read(path: &str) -> Result<String, Error> {
    // Mount points may hold any bytes; those that concern us are plain.
    let bytes = fs::read(path).map_err(|source| fail("read", Path::new(path), source))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct MountLine {
    id: u32,
    point: PathBuf,
    /// The peer group, where the mount is shared.
    group: Option<u32>,
}

impl MountLine {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let point = PathBuf::from(unescape(fields.nth(3)?));
        let group = fields
            .skip(1)
            .take_while(|field| *field != "-")
            .find_map(|field| field.strip_prefix("shared:")?.parse().ok());
        Some(Self { id, point, group })
    }
}

fn mounts(mountinfo: &str) -> impl Iterator<Item = MountLine> {
    mountinfo.lines().filter_map(MountLine::parse)
}

/// The mount that holds `path`: the deepest, and of several on one point the last, which covers the others.
fn holder(mountinfo: &str, path: &Path) -> Option<MountLine> {
    mounts(mountinfo)
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
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
    let path = path.to_owned();
    // A bpffs does not even look up such names.
    let dotted = path.as_os_str().as_encoded_bytes().contains(&b'.');
    if dotted && source.raw_os_error() == Some(libc::EPERM) {
        return Error::Dotted { path };
    }
    Error::Io { verb, path, source }
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
        let of = |path| holder(MOUNTINFO, Path::new(path)).map(|mount| (mount.id, mount.group));
        assert_eq!(of("/var/lib"), Some((21, Some(1))));
        assert_eq!(of("/sys/fs"), Some((22, Some(7))));
        assert_eq!(of("/sys/fs/bpf/podgate"), Some((23, None)));
        assert_eq!(of("/sysfs"), Some((21, Some(1))));
        assert_eq!(of("/with space/x"), Some((25, Some(9))));
        assert_eq!(holder("", Path::new("/")), None);
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
