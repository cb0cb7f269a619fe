//! Reading a hash map by buckets (`BPF_MAP_LOOKUP_BATCH`, 5.6 and newer): half a million flows in a few hundred calls
//! instead of a million, and no entry is seen twice or missed because another was deleted.

use std::mem::size_of;
use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::Pod;
use aya::maps::MapData;
use nix::errno::Errno;

use crate::maps;

const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
/// A bucket that does not fit into so many is not a hash map any more.
const LAST_SIZE: usize = 1 << 20;

#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}
const _: () = assert!(size_of::<Batch>() == 56);

/// Calls `take` with the entries of some buckets at a time, `at_once` of them or a little more.
///
/// # Errors
/// If the kernel refuses, and those of `take`.
pub(crate) fn for_each<K: Pod, V: Pod, E: From<maps::Error>>(
    map: &MapData,
    name: &'static str,
    at_once: usize,
    mut take: impl FnMut(&[K], &[V]) -> Result<(), E>,
) -> Result<(), E> {
    let info = map.info().map_err(|e| maps::Error::Read {
        name,
        detail: e.to_string(),
    })?;
    if info.key_size() as usize != size_of::<K>() || info.value_size() as usize != size_of::<V>() {
        return Err(maps::Error::Read {
            name,
            detail: "its entries have another size".into(),
        }
        .into());
    }
    let fd = map.fd().as_fd().as_raw_fd() as u32;
    let mut size = at_once;
    let mut keys: Vec<K> = Vec::new();
    let mut values: Vec<V> = Vec::new();
    let mut cursor: Option<u64> = None;
    loop {
        keys.reserve(size);
        values.reserve(size);
        let (from, mut next) = (cursor.unwrap_or(0), 0u64);
        let mut attr = Batch {
            in_batch: if cursor.is_some() {
                (&raw const from) as u64
            } else {
                0
            },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: size as u32,
            map_fd: fd,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute is `repr(C)` without gaps; its addresses are of two words and of two buffers with room
        // for `size` entries of the sizes that the map has (asked above), and all of them outlive the call. The kernel
        // writes the count back into the attribute.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attr,
                size_of::<Batch>(),
            )
        };
        let errno = (done < 0).then(Errno::last);
        match errno {
            // A bucket with more entries than there is room for.
            Some(Errno::ENOSPC) if size < LAST_SIZE => {
                size *= 2;
                continue;
            }
            Some(errno) if errno != Errno::ENOENT => {
                return Err(maps::Error::Read {
                    name,
                    detail: errno.to_string(),
                }
                .into());
            }
            _ => {}
        }
        let count = (attr.count as usize).min(size);
        // SAFETY: the kernel has filled `count` entries of both, for which there is room, and `Pod` types are valid
        // with any bytes.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        take(&keys, &values)?;
        keys.clear();
        values.clear();
        if errno.is_some() {
            return Ok(());
        }
        cursor = Some(next);
    }
}
