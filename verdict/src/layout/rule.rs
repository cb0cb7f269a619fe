//! Rules of rule sets, and the port sets that they name.

use core::mem::{offset_of, size_of};

use super::Versioned;

/// Key of a rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// Class of the peer, or the base of classes; 0 = everybody else.
    pub class: u32,
    /// Rule set.
    pub set: u16,
    /// [`Direction`](crate::layout::Direction).
    pub direction: u8,
    /// [`V4`](crate::layout::V4) or [`V6`](crate::layout::V6).
    pub family: u8,
}

impl RuleKey {
    /// What tells this key's value from another's.
    #[inline(always)]
    pub const fn check(&self) -> u32 {
        let place = ((self.set as u32) << 16) | ((self.direction as u32) << 8) | self.family as u32;
        self.class.wrapping_mul(0x9e37_79b1) ^ place.wrapping_mul(0x85eb_ca77)
    }
}

/// Value of a rule: what it says.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleValue {
    /// The number of a port set, or one of `RULE_*`.
    pub says: Versioned,
}

impl RuleValue {
    /// The value of a rule at a key.
    #[inline(always)]
    pub const fn new(key: &RuleKey, says: u32) -> Self {
        Self {
            says: Versioned::settled(key.check(), says),
        }
    }
}

/// As if the entry was not there.
pub const RULE_NONE: u32 = 0;

/// Every protocol and port is allowed.
pub const RULE_ALLOW_ALL: u32 = 0xffff_ffff;

/// Every protocol and port is denied.
pub const RULE_DENY_ALL: u32 = 0xffff_fffe;

/// Every protocol and port has the word's default (an entry that hides the class-0 entry).
pub const RULE_DEFAULT_ALL: u32 = 0xffff_fffd;

/// Port set numbers are 1 and more, and below this.
pub const PORT_SET_LIMIT: u32 = 0x8000_0000;

/// Key of a port set's entry (LPM trie).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey {
    /// 32 = every protocol; 48 = every port of a protocol; 48 + n = the first n bits of the port.
    pub prefix_len: u32,
    /// The port set.
    pub port_set: u32,
    /// Protocol number, in network byte order.
    pub protocol_be: u16,
    /// Port, in network byte order.
    pub port_be: u16,
}

impl PortKey {
    /// Bits of an entry for every protocol.
    pub const ANY_PROTOCOL_BITS: u32 = 32;
    /// Bits of an entry for every port of one protocol.
    pub const ANY_PORT_BITS: u32 = 48;
    /// Bits of an entry for one port, and of a look-up.
    pub const FULL_BITS: u32 = 64;
}

/// Value of a port set's entry: one of `PORT_*`.
pub type PortValue = u32;

/// Allowed.
pub const PORT_ALLOW: PortValue = 1;

/// Denied.
pub const PORT_DENY: PortValue = 2;

/// The word's default (an entry that hides a shorter one).
pub const PORT_DEFAULT: PortValue = 3;

const _: () = {
    assert!(
        size_of::<RuleValue>() == 24
            && size_of::<RuleKey>() == 8
            && offset_of!(RuleKey, set) == 4
            && offset_of!(RuleKey, family) == 7
    );
    assert!(size_of::<PortKey>() == 12 && offset_of!(PortKey, protocol_be) == 8);
};
