//! A number in two versions: what holds from a policy revision on, and what held before it.
//!
//! A change of policy writes every entry that it changes once, with both versions, and then flips each endpoint by the
//! one store of its policy state: an endpoint with an older revision still reads what was, everywhere, and one with the
//! new revision reads what is, everywhere. Afterwards the old version is written away.

use core::mem::size_of;

/// A `u32` in two versions. Every word carries a tag of the key and of `since`: words of another key's value, and of two
/// writes of this one, are told apart (a looked-up hash value may be torn or another's).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versioned {
    /// Low half: what holds from `since` on; high half: tag.
    pub new: u64,
    /// Low half: what held before; high half: tag.
    pub old: u64,
    /// Low 40 bits: the revision; above: tag.
    pub since: u64,
}

const SINCE_BITS: u32 = 40;
const SINCE_MASK: u64 = (1 << SINCE_BITS) - 1;

impl Versioned {
    /// One value, whatever the revision. `check` tells the key from others.
    #[inline(always)]
    pub const fn settled(check: u32, value: u32) -> Self {
        Self::new(check, value, value, 0)
    }

    /// `old` for policy states with a revision below `since`, `new` for all others.
    #[inline(always)]
    pub const fn new(check: u32, old: u32, new: u32, since: u64) -> Self {
        let tag = Self::tag(check, since);
        Self {
            new: (new as u64) | ((tag as u64) << 32),
            old: (old as u64) | ((tag.rotate_left(16) as u64) << 32),
            since: (since & SINCE_MASK) | ((check as u64 & 0xff_ffff) << SINCE_BITS),
        }
    }

    #[inline(always)]
    const fn tag(check: u32, since: u64) -> u32 {
        let low = (since as u32).wrapping_mul(0x9e37_79b1);
        check ^ low ^ ((since >> 32) as u32 & 0xff)
    }

    /// What holds under a revision; `None` = the words do not belong together, or not to the key.
    #[inline(always)]
    pub const fn at(&self, check: u32, revision: u64) -> Option<u32> {
        let since = self.since & SINCE_MASK;
        let tag = Self::tag(check, since);
        if (self.since >> SINCE_BITS) as u32 != check & 0xff_ffff
            || (self.new >> 32) as u32 != tag
            || (self.old >> 32) as u32 != tag.rotate_left(16)
        {
            return None;
        }
        Some(if revision >= since {
            self.new as u32
        } else {
            self.old as u32
        })
    }

    /// What held, what holds, and since which revision (0 = settled): for user space, which reads no torn values.
    pub const fn parts(&self) -> (u32, u32, u64) {
        (self.old as u32, self.new as u32, self.since & SINCE_MASK)
    }
}

const _: () = assert!(size_of::<Versioned>() == 24);
