//! Peer classes and their bases, with the numbers that the kernel knows them by.
//!
//! A class is the sorted list of groups in which it differs from the whole family. Its *base* is the part of that list
//! that consists of large groups. The number of a class holds its base's in the upper bits, so that a rule set needs a rule
//! for a class only where small groups make it differ from its base.

use std::collections::{BTreeSet, HashMap};

use verdict::layout::CLASS_BITS;

use super::GroupId;
use crate::prefix::Family;

const BASES: u32 = 1 << (u32::BITS - CLASS_BITS);
const WITHIN: u32 = (1 << CLASS_BITS) - 1;

/// A list of groups of one family.
type Key = (Family, Box<[GroupId]>);

#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) groups: Box<[GroupId]>,
    /// The base's number in its place; 0 = none.
    pub(super) base: u32,
    /// Nodes of the tree that have it; of a base: classes.
    uses: u32,
}

/// Classes by number; a base is one whose lower bits are zero, and may be a class itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    classes: HashMap<(Family, u32), Class>,
    numbers: HashMap<Key, u32>,
    bases: HashMap<Key, u32>,
    base_of: HashMap<(Family, u32), Class>,
    next: u32,
    next_base: u32,
    /// Numbers that programs may still be using.
    retired: BTreeSet<u32>,
    retired_bases: BTreeSet<u32>,
}

/// A class or base that came or went.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) number: u32,
    pub(super) family: Family,
    pub(super) groups: Box<[GroupId]>,
    pub(super) base_groups: Box<[GroupId]>,
    pub(super) born: bool,
}

impl Classes {
    pub(super) fn get(&self, family: Family, number: u32) -> Option<&Class> {
        if number & WITHIN == 0 {
            return self.base_of.get(&(family, number));
        }
        self.classes.get(&(family, number))
    }

    /// The groups of a base; none for number 0.
    pub(super) fn base_groups(&self, family: Family, base: u32) -> &[GroupId] {
        self.base_of
            .get(&(family, base))
            .map_or(&[], |base| &base.groups)
    }

    /// One more user of the class of a list of groups; its number. `hint`: the number to take where it is free.
    pub(super) fn take(
        &mut self,
        family: Family,
        groups: Vec<GroupId>,
        large: impl Fn(GroupId) -> bool,
        hint: u32,
        events: &mut Vec<Event>,
    ) -> u32 {
        if groups.is_empty() {
            return 0;
        }
        let key = (family, groups.into_boxed_slice());
        if let Some(&number) = self.numbers.get(&key) {
            self.add_use(family, number, 1);
            return number;
        }
        let large: Vec<GroupId> = key.1.iter().copied().filter(|g| large(*g)).collect();
        let base = self.take_base(family, large, hint & !WITHIN, events);
        let is_base = base != 0 && self.base_groups(family, base).len() == key.1.len();
        if is_base {
            // The base's use by its own class is taken already.
            self.numbers.insert(key, base);
            return base;
        }
        let taken = |n: u32, this: &Self| {
            n & WITHIN == 0
                || this.retired.contains(&(n & WITHIN))
                || this.classes.contains_key(&(family, base | n & WITHIN))
        };
        let mut number = hint & WITHIN;
        if hint & !WITHIN != base || taken(number, self) {
            loop {
                self.next = self.next.wrapping_add(1) & WITHIN;
                if !taken(self.next, self) {
                    break;
                }
            }
            number = self.next;
        }
        let number = base | number;
        events.push(Event {
            number,
            family,
            groups: key.1.clone(),
            base_groups: self.base_groups(family, base).into(),
            born: true,
        });
        let class = Class {
            groups: key.1.clone(),
            base,
            uses: 1,
        };
        self.classes.insert((family, number), class);
        self.numbers.insert(key, number);
        number
    }

    fn take_base(
        &mut self,
        family: Family,
        groups: Vec<GroupId>,
        hint: u32,
        events: &mut Vec<Event>,
    ) -> u32 {
        if groups.is_empty() {
            return 0;
        }
        let key = (family, groups.into_boxed_slice());
        if let Some(&number) = self.bases.get(&key) {
            if let Some(base) = self.base_of.get_mut(&(family, number)) {
                base.uses += 1;
            }
            return number;
        }
        let taken = |n: u32, this: &Self| {
            n == 0
                || this.retired_bases.contains(&(n >> CLASS_BITS))
                || this.base_of.contains_key(&(family, n))
        };
        let mut number = hint;
        if taken(number, self) {
            let free = (1..BASES)
                .map(|step| 1 + (self.next_base + step) % (BASES - 1))
                .find(|n| !taken(n << CLASS_BITS, self));
            // Without a base all rules are by class: right, and more of them.
            let Some(free) = free else { return 0 };
            self.next_base = free - 1;
            number = free << CLASS_BITS;
        }
        events.push(Event {
            number,
            family,
            groups: key.1.clone(),
            base_groups: Box::default(),
            born: true,
        });
        let base = Class {
            groups: key.1.clone(),
            base: 0,
            uses: 1,
        };
        self.base_of.insert((family, number), base);
        self.bases.insert(key, number);
        number
    }

    fn add_use(&mut self, family: Family, number: u32, by: u32) {
        let class = if number & WITHIN == 0 {
            self.base_of.get_mut(&(family, number))
        } else {
            self.classes.get_mut(&(family, number))
        };
        if let Some(class) = class {
            class.uses += by;
        }
    }

    /// One user less.
    pub(super) fn give_back(&mut self, family: Family, number: u32, events: &mut Vec<Event>) {
        if number == 0 {
            return;
        }
        if number & WITHIN == 0 {
            return self.give_back_base(family, number, events);
        }
        let Some(class) = self.classes.get_mut(&(family, number)) else {
            return;
        };
        class.uses -= 1;
        if class.uses > 0 {
            return;
        }
        let Some(class) = self.classes.remove(&(family, number)) else {
            return;
        };
        self.retired.insert(number & WITHIN);
        events.push(Event {
            number,
            family,
            groups: class.groups.clone(),
            base_groups: self.base_groups(family, class.base).into(),
            born: false,
        });
        self.numbers.remove(&(family, class.groups));
        if class.base != 0 {
            self.give_back_base(family, class.base, events);
        }
    }

    fn give_back_base(&mut self, family: Family, number: u32, events: &mut Vec<Event>) {
        let Some(base) = self.base_of.get_mut(&(family, number)) else {
            return;
        };
        base.uses -= 1;
        if base.uses > 0 {
            return;
        }
        let Some(base) = self.base_of.remove(&(family, number)) else {
            return;
        };
        self.retired_bases.insert(number >> CLASS_BITS);
        events.push(Event {
            number,
            family,
            groups: base.groups.clone(),
            base_groups: Box::default(),
            born: false,
        });
        let key = (family, base.groups);
        self.bases.remove(&key);
        self.numbers.remove(&key);
    }

    /// No program uses a number that was given back: it may be taken again.
    pub(super) fn release(&mut self) {
        self.retired.clear();
        self.retired_bases.clear();
    }
}
