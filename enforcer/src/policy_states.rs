//! The policy state, mapped into memory: bpf(2) itself has no compare-and-swap.

use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use verdict::PolicyState;
use verdict::layout::ENDPOINT_INDEXES;

use crate::maps::{self, Error};
use crate::pins::Pins;

const BYTES: usize = ENDPOINT_INDEXES as usize * size_of::<u64>();
const NAME: &str = "POLICY_STATES";

/// The array of policy state, one an endpoint index.
#[derive(Debug)]
pub struct PolicyStates {
    base: NonNull<AtomicU64>,
}

// SAFETY: the mapping is shared memory of atomics; it is unmapped only when the owner is dropped.
unsafe impl Send for PolicyStates {}
// SAFETY: as above.
unsafe impl Sync for PolicyStates {}

impl PolicyStates {
    /// Maps the pinned array.
    ///
    /// # Errors
    /// If it is not pinned or cannot be mapped.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let data = maps::data(pins, NAME)?;
        let length = NonZeroUsize::new(BYTES).ok_or(Error::Read {
            name: NAME,
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
            name: NAME,
            detail: format!("map into memory: {e}"),
        })?;
        Ok(Self { base: base.cast() })
    }

    fn policy_state(&self, endpoint_index: u32) -> Option<&AtomicU64> {
        if endpoint_index >= ENDPOINT_INDEXES {
            return None;
        }
        // SAFETY: the mapping holds ENDPOINT_INDEXES aligned words and lives as long as `self`.
        Some(unsafe { self.base.add(endpoint_index as usize).as_ref() })
    }

    /// The policy state of an endpoint index; an endpoint index out of range has none and reads as 0, which enforces a drop.
    pub fn get(&self, endpoint_index: u32) -> PolicyState {
        PolicyState(
            self.policy_state(endpoint_index)
                .map_or(0, |w| w.load(Ordering::Acquire)),
        )
    }

    /// Stores a policy state.
    pub fn set(&self, endpoint_index: u32, policy_state: PolicyState) {
        if let Some(w) = self.policy_state(endpoint_index) {
            w.store(policy_state.0, Ordering::Release);
        }
    }

    /// Stores a policy state if the endpoint index still holds another one; the one found otherwise.
    ///
    /// # Errors
    /// The policy state that was there instead.
    pub fn swap(
        &self,
        endpoint_index: u32,
        from: PolicyState,
        to: PolicyState,
    ) -> Result<(), PolicyState> {
        match self.policy_state(endpoint_index) {
            Some(w) => w
                .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
                .map(|_| ())
                .map_err(PolicyState),
            None => Err(PolicyState(0)),
        }
    }

    /// An endpoint index that nobody holds, looked for from a start on.
    pub(crate) fn free_index(&self, start: u32) -> Option<u32> {
        let usable = ENDPOINT_INDEXES - 1;
        (0..usable)
            .map(|i| 1 + (start.wrapping_add(i)) % usable)
            .find(|endpoint_index| self.get(*endpoint_index).0 == 0)
    }
}

impl Drop for PolicyStates {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, and no reference into it outlives `self`. Its failure changes nothing.
        let _ = unsafe { munmap(self.base.cast(), BYTES) };
    }
}
