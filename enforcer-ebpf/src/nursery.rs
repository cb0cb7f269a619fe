//! The nursery's buckets, written in place.

use core::arch::asm;
use core::ptr::{read_volatile, write_volatile};

use verdict::layout::{FlowKey, NURSERY_SLOTS, NurseryBucket};
use verdict::nursery::Nursery;

/// A bucket in the map.
#[derive(Clone, Copy)]
pub(crate) struct Bucket(pub(crate) *mut NurseryBucket);

/// The same number, below 16 for the verifier. Right before each use: 5.10 forgets the bounds of a number that went
/// through the stack, and the compiler computes an element's offset before it compares, unless it cannot see through.
#[inline(always)]
fn bounded(slot: u32) -> usize {
    let mut slot = u64::from(slot);
    // SAFETY: arithmetic on one register; not `pure`, so that it stays where it is.
    unsafe { asm!("{slot} &= 15", slot = inout(reg) slot, options(nomem, nostack)) };
    slot as usize
}

macro_rules! field {
    ($bucket:expr, $slot:expr, $field:ident: $type:ty) => {{
        let slot = bounded($slot);
        if slot >= NURSERY_SLOTS {
            None
        } else {
            // SAFETY: a map value stays mapped while the program runs; only an element's address is taken, within bounds.
            Some(unsafe { (&raw mut (*$bucket.0).$field).cast::<$type>().add(slot) })
        }
    }};
}

#[inline(always)]
fn read<T: Copy + Default>(at: Option<*mut T>) -> T {
    match at {
        // SAFETY: an aligned element of a map value; what other CPUs write meanwhile is told by the check.
        Some(at) => unsafe { read_volatile(at) },
        None => T::default(),
    }
}

#[inline(always)]
fn write<T>(at: Option<*mut T>, value: T) {
    if let Some(at) = at {
        // SAFETY: as above.
        unsafe { write_volatile(at, value) };
    }
}

impl Nursery for Bucket {
    #[inline(always)]
    fn check(&self, slot: u32) -> u64 {
        read::<u64>(field!(self, slot, check: u64))
    }
    #[inline(always)]
    fn verdict(&self, slot: u32) -> u64 {
        read::<u64>(field!(self, slot, verdict: u64))
    }
    #[inline(always)]
    fn seen(&self, slot: u32) -> u32 {
        read::<u32>(field!(self, slot, seen: u32))
    }
    #[inline(always)]
    fn state(&self, slot: u32) -> u32 {
        read::<u32>(field!(self, slot, state: u32))
    }
    #[inline(always)]
    fn order(&self, slot: u32) -> u32 {
        read::<u32>(field!(self, slot, order: u32))
    }
    #[inline(always)]
    fn protocol(&self, slot: u32) -> u8 {
        let key: Option<*mut FlowKey> = field!(self, slot, keys: FlowKey);
        // SAFETY: as above.
        read::<u8>(key.map(|key| unsafe { &raw mut (*key).protocol }))
    }
    #[inline(always)]
    fn next_order(&self) -> u32 {
        // SAFETY: as above; CPUs that meet here give two flows the same number, which harms nobody.
        unsafe {
            let next = &raw mut (*self.0).next;
            let order = read_volatile(next);
            write_volatile(next, order.wrapping_add(1));
            order
        }
    }
    #[inline(always)]
    fn set_seen(&self, slot: u32, seen: u32) {
        write::<u32>(field!(self, slot, seen: u32), seen);
    }
    #[inline(always)]
    fn set_state(&self, slot: u32, state: u32) {
        write::<u32>(field!(self, slot, state: u32), state);
    }
    #[inline(always)]
    fn set_verdict(&self, slot: u32, check: u64, verdict: u64) {
        write::<u64>(field!(self, slot, verdict: u64), verdict);
        write::<u64>(field!(self, slot, check: u64), check);
    }
    #[inline(always)]
    fn set_flow(&self, slot: u32, key: &FlowKey, order: u32) {
        write::<u32>(field!(self, slot, order: u32), order);
        let at: Option<*mut FlowKey> = field!(self, slot, keys: FlowKey);
        if let Some(at) = at {
            // SAFETY: as above.
            unsafe { *at = *key };
        }
    }
}
