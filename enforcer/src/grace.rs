//! Grace periods: waiting until no program still uses what it read before.
//!
//! The kernel promises one thing of this kind to user space: once an update of a map of maps returns, no program still
//! works with the old value, because the update ends with `synchronize_rcu()` (`maybe_wait_bpf_programs`, 4.21 and
//! newer). So a private map of maps with one place is updated here. It takes 9 to 16 ms, which is why it is never waited
//! for under the node's lock, nor between a policy's tables and its policy states. (aya 0.14 makes no maps of maps by itself.)

use std::{
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use nix::errno::Errno;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// The kernel did not let us wait.
#[derive(Debug, thiserror::Error)]
#[error("wait for a grace period: {verb}: {errno}")]
pub struct Error {
    verb: &'static str,
    errno: Errno,
}

/// What one waits with; opened once.
#[derive(Debug)]
pub struct Grace {
    inner: OwnedFd,
    outer: OwnedFd,
}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Grace {
    /// Makes the private maps.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new() -> Result<Self, Error> {
        let inner = create(BPF_MAP_TYPE_ARRAY, 0)?;
        let outer = create(BPF_MAP_TYPE_ARRAY_OF_MAPS, inner.as_raw_fd() as u32)?;
        Ok(Self { inner, outer })
    }

    /// Waits until every program that runs now has ended.
    ///
    /// # Errors
    /// If the kernel refuses; nothing was waited for then.
    pub fn wait(&self) -> Result<(), Error> {
        let (key, value) = (0u32, self.inner.as_raw_fd() as u32);
        let attr = MapUpdate {
            map_fd: self.outer.as_raw_fd() as u32,
            pad: 0,
            key: (&raw const key) as u64,
            value: (&raw const value) as u64,
            flags: 0,
        };
        // SAFETY: the attribute is `repr(C)` without gaps, its two addresses are of policy states that outlive the call, and
        // key and value of these maps are one word each.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_UPDATE_ELEM,
                &raw const attr,
                size_of::<MapUpdate>(),
            )
        };
        if done < 0 {
            Err(Error {
                verb: "update map of maps",
                errno: Errno::last(),
            })
        } else {
            Ok(())
        }
    }
}

fn create(map_type: u32, inner_map_fd: u32) -> Result<OwnedFd, Error> {
    let attr = MapCreate {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd,
    };
    // SAFETY: the attribute is `repr(C)` without gaps and holds no address.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_CREATE,
            &raw const attr,
            size_of::<MapCreate>(),
        )
    };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0);
    match fd {
        // SAFETY: a descriptor that the kernel has just made for us, and nobody else's.
        Some(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        None => Err(Error {
            verb: "make map",
            errno: Errno::last(),
        }),
    }
}
