//! The policy state: one u64 per endpoint, read once per packet before any table, changed by one atomic store.

use crate::layout::Direction;

/// Flags, set and revision of one endpoint at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct PolicyState(pub u64);

impl PolicyState {
    /// What applies is not known yet: only the always-pass list passes.
    pub const PENDING: u64 = 1;
    /// A direction that nothing isolates denies.
    pub const STRICT: u64 = 1 << 1;
    /// Some policy isolates the pod for ingress.
    pub const ISOLATED_INGRESS: u64 = 1 << 2;
    /// Some policy isolates the pod for egress.
    pub const ISOLATED_EGRESS: u64 = 1 << 3;
    /// The set has rules for ingress.
    pub const RULES_INGRESS: u64 = 1 << 4;
    /// The set has rules for egress.
    pub const RULES_EGRESS: u64 = 1 << 5;
    /// Enforcement is suspended: nothing is dropped.
    pub const SUSPENDED: u64 = 1 << 6;
    /// New flows and drops are told in the event ring.
    pub const LOG: u64 = 1 << 7;
    /// All flags.
    pub const FLAGS: u64 = 0xff;

    const SET_SHIFT: u32 = 8;
    const REVISION_SHIFT: u32 = 24;
    /// Most bits of an revision.
    pub const REVISION_BITS: u32 = 40;

    /// Put together.
    pub const fn new(flags: u64, set: u16, revision: u64) -> Self {
        Self(
            (flags & Self::FLAGS)
                | ((set as u64) << Self::SET_SHIFT)
                | (revision << Self::REVISION_SHIFT),
        )
    }

    /// All flags.
    #[inline(always)]
    pub const fn flags(self) -> u64 {
        self.0 & Self::FLAGS
    }

    /// Whether a flag is set.
    #[inline(always)]
    pub const fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// The policy set.
    #[inline(always)]
    pub const fn set(self) -> u16 {
        (self.0 >> Self::SET_SHIFT) as u16
    }

    /// The revision.
    #[inline(always)]
    pub const fn revision(self) -> u64 {
        self.0 >> Self::REVISION_SHIFT
    }

    /// The same with other flags.
    #[must_use]
    pub const fn with_flags(self, flags: u64) -> Self {
        Self((self.0 & !Self::FLAGS) | (flags & Self::FLAGS))
    }

    /// Whether the set has rules for the direction.
    #[inline(always)]
    pub const fn has_rules(self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.has(Self::RULES_INGRESS),
            Direction::Egress => self.has(Self::RULES_EGRESS),
        }
    }

    /// Whether a policy isolates the pod for the direction.
    #[inline(always)]
    pub const fn isolated(self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.has(Self::ISOLATED_INGRESS),
            Direction::Egress => self.has(Self::ISOLATED_EGRESS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        let w = PolicyState::new(
            PolicyState::STRICT | PolicyState::LOG,
            0xabcd,
            (1 << 40) - 1,
        );
        assert_eq!(
            (w.flags(), w.set(), w.revision()),
            (
                PolicyState::STRICT | PolicyState::LOG,
                0xabcd,
                (1 << 40) - 1
            )
        );
        assert_eq!(w.with_flags(PolicyState::PENDING).set(), 0xabcd);
    }
}
