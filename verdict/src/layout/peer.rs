//! Peers: addresses and prefixes, each with its peer class.

use core::mem::{offset_of, size_of};

use super::Addr;

/// Key of the exact peers and of the host set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// [`V4`] or [`V6`].
    pub family: u32,
    /// The address.
    pub addr: Addr,
}

/// Value of an exact peer: one word that is read whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerValue {
    /// Class in the low half, [`PeerValue::check`] of the key in the high half.
    pub word: u64,
}

impl PeerValue {
    /// The value for a class at a key.
    #[inline(always)]
    pub const fn new(key: &PeerKey, class: u32) -> Self {
        Self {
            word: (class as u64) | ((Self::check(key) as u64) << 32),
        }
    }

    /// What tells this key's value from another's.
    #[inline(always)]
    pub const fn check(key: &PeerKey) -> u32 {
        key.addr.mix() ^ key.family
    }

    /// The class, if the word belongs to the key.
    #[inline(always)]
    pub const fn class(self, key: &PeerKey) -> Option<u32> {
        if (self.word >> 32) as u32 == Self::check(key) {
            Some(self.word as u32)
        } else {
            None
        }
    }
}

/// Key of the prefix peers (LPM trie).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixKey {
    /// [`PrefixKey::FIXED_BITS`] plus the length of the prefix; for a look-up, of the whole address.
    pub prefix_len: u32,
    /// [`V4`] or [`V6`].
    pub family: u32,
    /// The address.
    pub addr: Addr,
}

impl PrefixKey {
    /// Bits before the address.
    pub const FIXED_BITS: u32 = 32;
}

/// Value of a prefix peer; it names its prefix, so that a value taken from under a reader is noticed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixValue {
    /// The class.
    pub class: u32,
    /// Length of the prefix, without [`PrefixKey::FIXED_BITS`].
    pub len: u32,
    /// Its network address.
    pub addr: Addr,
    /// [`V4`] or [`V6`].
    pub family: u32,
    /// The class again, written last.
    pub class_again: u32,
}

const _: () = {
    assert!(size_of::<PeerKey>() == 20 && size_of::<PeerValue>() == 8);
    assert!(size_of::<PrefixKey>() == 24 && offset_of!(PrefixKey, addr) == 8);
    assert!(size_of::<PrefixValue>() == 32);
};
