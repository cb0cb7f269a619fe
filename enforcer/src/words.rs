//! The policy words, mapped into memory: bpf(2) itself has no compare-and-swap.

use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use verdict::PolicyWord;
use verdict::layout::SLOTS;

use crate::maps::{self, Error};
use crate::pins::Pins;

const BYTES: usize = SLOTS as usize * size_of::<u64>();
const NAME: &str = "WORDS";

/// The array of policy words, one a slot.
#[derive(Debug)]
pub struct Words {
    base: NonNull<AtomicU64>,
}

// SAFETY: the mapping is shared memory of atomics; it is unmapped only when the owner is dropped.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the pinned array.
    ///
    /// # Errors
    /// If it is not pinned or cannot be mapped.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let data = maps::data(pins, NAME)?;
        let length = NonZeroUsize::new(BYTES).ok_or(Error::Read {
            name: NAME,
            detail: "no slots".into(),
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
            name: NAME,
            detail: format!("map into memory: {e}"),
        })?;
        Ok(Self { base: base.cast() })
    }

    fn word(&self, slot: u32) -> Option<&AtomicU64> {
        if slot >= SLOTS {
            return None;
        }
        // SAFETY: the mapping holds SLOTS aligned words and lives as long as `self`.
        Some(unsafe { self.base.add(slot as usize).as_ref() })
    }

    /// The word of a slot; a slot out of range has none and reads as 0, which enforces a drop.
    pub fn get(&self, slot: u32) -> PolicyWord {
        PolicyWord(self.word(slot).map_or(0, |w| w.load(Ordering::Acquire)))
    }

    /// Stores a word.
    pub fn set(&self, slot: u32, word: PolicyWord) {
        if let Some(w) = self.word(slot) {
            w.store(word.0, Ordering::Release);
        }
    }

    /// Stores a word if the slot still holds another one; the one found otherwise.
    ///
    /// # Errors
    /// The word that was there instead.
    pub fn swap(&self, slot: u32, from: PolicyWord, to: PolicyWord) -> Result<(), PolicyWord> {
        match self.word(slot) {
            Some(w) => w
                .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
                .map(|_| ())
                .map_err(PolicyWord),
            None => Err(PolicyWord(0)),
        }
    }

    /// A slot that nobody holds, looked for from a start on.
    pub(crate) fn free_slot(&self, start: u32) -> Option<u32> {
        let usable = SLOTS - 1;
        (0..usable)
            .map(|i| 1 + (start.wrapping_add(i)) % usable)
            .find(|slot| self.get(*slot).0 == 0)
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, and no reference into it outlives `self`. Its failure changes nothing.
        let _ = unsafe { munmap(self.base.cast(), BYTES) };
    }
}
