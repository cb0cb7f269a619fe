//! The running kernel's version: podgate needs 5.10, and takes TCX from 6.6 on.

use std::fmt;

use nix::errno::Errno;

/// The oldest kernel that podgate promises to work on.
pub const OLDEST: KernelVersion = KernelVersion::new(5, 10, 0);
/// The first kernel with TCX links.
pub const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// Why the kernel's version is unknown or not enough.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// uname(2) failed.
    #[error("read kernel version: uname: {0}")]
    Uname(#[source] Errno),
    /// The release does not begin with a version.
    #[error("read kernel version: release {release:?} does not begin with MAJOR.MINOR")]
    Unreadable {
        /// What uname gave.
        release: String,
    },
    /// The kernel is older than what is needed.
    #[error("use kernel {found}: at least {needed} is needed; run a newer kernel on this node")]
    TooOld {
        /// The running kernel.
        found: KernelVersion,
        /// What the caller asked for.
        needed: KernelVersion,
    },
}

/// Major, minor and patch number of a kernel; what follows them in the release does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 of 6.1.0-56-amd64.
    pub major: u32,
    /// 1 of 6.1.0-56-amd64.
    pub minor: u32,
    /// 0 of 6.1.0-56-amd64; 0 where the release has none.
    pub patch: u32,
}

impl KernelVersion {
    /// A version from its three numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// The version of the running kernel.
    ///
    /// # Errors
    /// uname(2) fails, or its release is no version.
    pub fn running() -> Result<Self, Error> {
        let uname = nix::sys::utsname::uname().map_err(Error::Uname)?;
        let release = uname.release().to_string_lossy();
        Self::parse(&release).ok_or_else(|| Error::Unreadable {
            release: release.into_owned(),
        })
    }

    /// Reads the start of a release such as `6.18.44-fc-v669`, `5.10.223` or `6.6+`.
    pub fn parse(release: &str) -> Option<Self> {
        let (major, rest) = leading_number(release)?;
        let (minor, rest) = leading_number(rest.strip_prefix('.')?)?;
        let patch = rest
            .strip_prefix('.')
            .and_then(leading_number)
            .map_or(0, |(patch, _)| patch);
        Some(Self {
            major,
            minor,
            patch,
        })
    }

    /// Whether this kernel is `major.minor` or newer.
    pub fn at_least(self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }

    /// Refuses a kernel older than `needed`.
    ///
    /// # Errors
    /// [`Error::TooOld`] with both versions.
    pub fn require(self, needed: Self) -> Result<Self, Error> {
        if self >= needed {
            Ok(self)
        } else {
            Err(Error::TooOld {
                found: self,
                needed,
            })
        }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_the_field() {
        for (release, version) in [
            ("6.18.44-fc-v669", (6, 18, 44)),
            ("5.10.0-32-amd64", (5, 10, 0)),
            ("5.10.223", (5, 10, 223)),
            ("6.6", (6, 6, 0)),
            ("6.6+", (6, 6, 0)),
            ("6.12-rc1", (6, 12, 0)),
            ("5.15.167.4-microsoft-standard-WSL2", (5, 15, 167)),
            ("4.18.0-553.el8_10.x86_64", (4, 18, 0)),
            ("5.10.x", (5, 10, 0)),
            ("6.1.", (6, 1, 0)),
        ] {
            let (major, minor, patch) = version;
            assert_eq!(
                KernelVersion::parse(release),
                Some(KernelVersion::new(major, minor, patch)),
                "{release}"
            );
        }
    }

    #[test]
    fn what_is_no_version() {
        for release in [
            "",
            "6",
            "6.",
            ".6",
            "six.one",
            "-6.1",
            "+6.1",
            " 6.1",
            "99999999999.1",
            "6.99999999999",
        ] {
            assert_eq!(KernelVersion::parse(release), None, "{release:?}");
        }
    }

    #[test]
    fn too_old_names_both_versions() {
        let old = KernelVersion::new(5, 9, 16);
        assert!(!old.at_least(5, 10));
        assert!(KernelVersion::new(6, 0, 0).at_least(5, 10));
        let error = old.require(OLDEST).unwrap_err().to_string();
        assert!(
            error.contains("5.9.16") && error.contains("5.10.0"),
            "{error}"
        );
        assert!(TCX.require(TCX).is_ok());
    }

    #[test]
    fn running_kernel_is_what_proc_says() {
        let proc = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(
            KernelVersion::running().unwrap(),
            KernelVersion::parse(&proc).unwrap()
        );
    }
}
