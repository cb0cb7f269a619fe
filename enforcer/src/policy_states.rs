//! The policy state, mapped into memory: bpf(2) itself has no compare-and-swap.

use std::sync::atomic::{AtomicU64, Ordering};

use verdict::PolicyState;
use verdict::layout::ENDPOINT_INDEXES;

use crate::mapped::MappedWords;
use crate::maps::Error;
use crate::pins::Pins;

/// The array of policy state, one an endpoint index.
#[derive(Debug)]
pub struct PolicyStates {
    words: MappedWords,
}

impl PolicyStates {
    /// Maps the pinned array.
    ///
    /// # Errors
    /// If it is not pinned or cannot be mapped.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let words = MappedWords::open(pins, "POLICY_STATES")?;
        Ok(Self { words })
    }

    fn policy_state(&self, endpoint_index: u32) -> Option<&AtomicU64> {
        self.words.word(endpoint_index)
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
