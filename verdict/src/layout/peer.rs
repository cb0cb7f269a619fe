//! Peers: addresses and prefixes, each with its peer class.

use core::mem::{offset_of, size_of};

use super::{Addr, Versioned};

/// Key of the exact peers and of the host set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// [`V4`](crate::layout::V4) or [`V6`](crate::layout::V6).
    pub family: u32,
    /// The address.
    pub addr: Addr,
}

impl PeerKey {
    /// What tells this key's value from another's.
    #[inline(always)]
    pub const fn check(&self) -> u32 {
        self.addr.mix() ^ self.family
    }
}

/// Value of an exact peer: its peer class.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerValue {
    /// The class.
    pub class: Versioned,
}

impl PeerValue {
    /// The value for a class at a key.
    #[inline(always)]
    pub const fn new(key: &PeerKey, class: u32) -> Self {
        Self {
            class: Versioned::settled(key.check(), class),
        }
    }
}

/// The upper bits of a peer class name its base: the large groups of addresses that hold it. A rule set has a rule for a
/// base, and one for a class only where that differs; base 0 is everybody else's.
pub const CLASS_BASE_MASK: u32 = u32::MAX << CLASS_BITS;

/// Bits of a class within its base; all zero = the class is the base.
pub const CLASS_BITS: u32 = 20;

/// Key of the prefix peers (LPM trie).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixKey {
    /// [`PrefixKey::FIXED_BITS`] plus the length of the prefix; for a look-up, of the whole address.
    pub prefix_len: u32,
    /// [`V4`](crate::layout::V4) or [`V6`](crate::layout::V6).
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
    pub class: Versioned,
    /// Length of the prefix, without [`PrefixKey::FIXED_BITS`].
    pub len: u32,
    /// [`V4`](super::V4) or [`V6`](super::V6).
    pub family: u32,
    /// Its network address.
    pub addr: Addr,
}

impl PrefixValue {
    /// The value for a class at a prefix.
    pub const fn new(key: &PrefixKey, old: u32, new: u32, since: u64) -> Self {
        let mut value = Self {
            class: Versioned::settled(0, 0),
            len: key.prefix_len - PrefixKey::FIXED_BITS,
            family: key.family,
            addr: key.addr,
        };
        value.class = Versioned::new(value.check(), old, new, since);
        value
    }

    /// What tells this prefix's value from another's.
    #[inline(always)]
    pub const fn check(&self) -> u32 {
        self.addr.mix() ^ self.family ^ (self.len << 8)
    }
}

const _: () = {
    assert!(size_of::<PeerKey>() == 20 && size_of::<PeerValue>() == 24);
    assert!(size_of::<PrefixKey>() == 24 && offset_of!(PrefixKey, addr) == 8);
    assert!(size_of::<PrefixValue>() == 48);
};
