//! An array of words by endpoint index, mapped into memory: bpf(2) itself has no atomic change of a value.

use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use verdict::layout::ENDPOINT_INDEXES;

use crate::maps::{self, Error};
use crate::pins::Pins;

const BYTES: usize = ENDPOINT_INDEXES as usize * size_of::<u64>();

/// The mapped array; programs and every process that maps it see one memory.
#[derive(Debug)]
pub(crate) struct MappedWords {
    base: NonNull<AtomicU64>,
}

// SAFETY: the mapping is shared memory of atomics; it is unmapped only when the owner is dropped.
unsafe impl Send for MappedWords {}
// SAFETY: as above.
unsafe impl Sync for MappedWords {}

impl MappedWords {
    /// Maps a pinned array of [`ENDPOINT_INDEXES`] words that was made with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// If it is not pinned or cannot be mapped.
    pub(crate) fn open(pins: &Pins, name: &'static str) -> Result<Self, Error> {
        let data = maps::data(pins, name)?;
        let length = NonZeroUsize::new(BYTES).ok_or(Error::Read {
            name,
            detail: "no endpoint indexes".into(),
        })?;
        // SAFETY: a new mapping of a map's file descriptor at an address of the kernel's choice.
        let base = unsafe {
            mmap(
                None,
                length,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                data.fd().as_fd(),
                0,
            )
        }
        .map_err(|e| Error::Read {
            name,
            detail: format!("map into memory: {e}"),
        })?;
        Ok(Self { base: base.cast() })
    }

    /// The word of an endpoint index; `None` if it is out of range.
    pub(crate) fn word(&self, endpoint_index: u32) -> Option<&AtomicU64> {
        if endpoint_index >= ENDPOINT_INDEXES {
            return None;
        }
        // SAFETY: the mapping holds ENDPOINT_INDEXES aligned words and lives as long as `self`.
        Some(unsafe { self.base.add(endpoint_index as usize).as_ref() })
    }
}

impl Drop for MappedWords {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, and no reference into it outlives `self`. Its failure changes nothing.
        let _ = unsafe { munmap(self.base.cast(), BYTES) };
    }
}
