//! Classes of addresses: one walk over all blocks in the order of the prefix tree.
//!
//! A class is kept as the sorted list of groups in which it differs from its family's everything-block. So a policy for
//! everywhere costs one mark and not an entry in every class, and a class belongs to one family (class 0 to both).

use std::collections::HashMap;

use super::groups::{GroupId, Groups};
use crate::{
    prefix::{Family, Prefix, hollow},
    tables::ClassIndex,
};

/// The classes of all addresses.
pub(super) struct Classes {
    /// Class of each block by longest match, without blocks that have the class of what surrounds them.
    pub(super) peers: Vec<(Prefix, ClassIndex)>,
    /// Per class, where it differs from its family's everything-block.
    differences: Vec<Box<[GroupId]>>,
    count: u32,
    /// Per family: groups that hold its everything-block.
    everywhere: [Vec<bool>; 2],
    /// Per family and group: classes that differ in it.
    toggled: [Vec<Vec<ClassIndex>>; 2],
}

impl Classes {
    pub(super) fn of(groups: &Groups<'_>) -> Self {
        let mut events: Vec<Event> = Vec::with_capacity(groups.blocks.len());
        for (block, of) in (0u32..).zip(&groups.blocks) {
            events.push(Event {
                at: of.cidr,
                block,
                enters: true,
            });
            events.extend(of.except.iter().map(|hole| Event {
                at: *hole,
                block,
                enters: false,
            }));
        }
        events.sort_unstable_by_key(|event| event.at);
        let split = events.partition_point(|event| event.at.family() == Family::V4);
        let count = groups.groups.len();
        let mut out = Self {
            peers: Vec::new(),
            differences: vec![Box::default()],
            count: 1,
            everywhere: Default::default(),
            toggled: [vec![Vec::new(); count], vec![Vec::new(); count]],
        };
        for (family, events) in Family::ALL
            .into_iter()
            .zip([&events[..split], &events[split..]])
        {
            out.everywhere[family as usize] = vec![false; count];
            Walk::new(groups, family, &mut out).run(events);
        }
        out.tidy();
        out
    }

    /// Leaves out blocks that smaller ones cover entirely, and then those that have the class of what surrounds them; and
    /// numbers the classes that are left in the order of their first block.
    fn tidy(&mut self) {
        let hollow = hollow(self.peers.iter().map(|(at, _)| *at));
        let mut numbers = vec![None; self.differences.len()];
        numbers[0] = Some(ClassIndex::REST);
        let mut left = 1;
        let mut open: Vec<(Prefix, ClassIndex)> = Vec::new();
        let mut place = 0;
        self.peers.retain_mut(|(at, class)| {
            place += 1;
            if hollow[place - 1] {
                return false;
            }
            while open.pop_if(|(outer, _)| !outer.covers(at)).is_some() {}
            let number = *numbers[class.0 as usize].get_or_insert_with(|| {
                left += 1;
                ClassIndex(left - 1)
            });
            if number == open.last().map_or(ClassIndex::REST, |(_, around)| *around) {
                return false;
            }
            open.push((*at, number));
            *class = number;
            true
        });
        for classes in self.toggled.iter_mut().flatten() {
            classes.retain_mut(|class| {
                numbers[class.0 as usize]
                    .map(|number| *class = number)
                    .is_some()
            });
        }
        self.count = left;
    }

    /// Number of classes, class 0 among them.
    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    /// Whether the group holds the family's everything-block.
    pub(super) fn is_everywhere(&self, family: Family, group: GroupId) -> bool {
        self.everywhere[family as usize][group as usize]
    }

    /// The classes of the family that hold the group where class 0 does not, or do not where it does.
    pub(super) fn toggled(&self, family: Family, group: GroupId) -> &[ClassIndex] {
        &self.toggled[family as usize][group as usize]
    }
}

/// A block begins to hold (its cidr) or no longer does (an except), from here inwards.
#[derive(Clone, Copy)]
struct Event {
    at: Prefix,
    block: u32,
    enters: bool,
}

/// One block of the walk that is open: everything that follows lies inside it.
struct Frame<'e> {
    at: Prefix,
    events: &'e [Event],
    class: ClassIndex,
}

struct Walk<'w, 'g> {
    groups: &'w Groups<'g>,
    family: Family,
    out: &'w mut Classes,
    /// Per block: how many open excepts cover this place.
    holes: Vec<u16>,
    /// Per block: whether its cidr is open.
    open: Vec<bool>,
    /// Per group: how many of its blocks hold this place.
    held: Vec<u32>,
    known: HashMap<Box<[GroupId]>, ClassIndex>,
    /// Class of a parent and what changes -> class; saves building the difference for each of many like blocks.
    steps: HashMap<ClassIndex, HashMap<Box<[GroupId]>, ClassIndex>>,
}

impl<'w, 'g> Walk<'w, 'g> {
    fn new(groups: &'w Groups<'g>, family: Family, out: &'w mut Classes) -> Self {
        let (blocks, count) = (groups.blocks.len(), groups.groups.len());
        Self {
            groups,
            family,
            out,
            holes: vec![0; blocks],
            open: vec![false; blocks],
            held: vec![0; count],
            known: HashMap::from([(Box::default(), ClassIndex::REST)]),
            steps: HashMap::new(),
        }
    }

    fn run(mut self, events: &[Event]) {
        let mut frames: Vec<Frame<'_>> = Vec::new();
        for at_one in events.chunk_by(|a, b| a.at == b.at) {
            let at = at_one[0].at;
            while let Some(frame) = frames.pop_if(|frame| !frame.at.covers(&at)) {
                self.leave(frame.events);
            }
            let parent = frames.last().map_or(ClassIndex::REST, |frame| frame.class);
            let changed = self.enter(at_one);
            let class = if at.len() == 0 {
                for group in changed {
                    self.out.everywhere[self.family as usize][group as usize] = true;
                }
                ClassIndex::REST
            } else {
                let class = self.step(parent, changed);
                if class != parent {
                    self.out.peers.push((at, class));
                }
                class
            };
            frames.push(Frame {
                at,
                events: at_one,
                class,
            });
        }
    }

    /// Opens blocks; returns the groups that hold now and did not before, or the other way round: sorted.
    fn enter(&mut self, events: &[Event]) -> Vec<GroupId> {
        let mut touched: Vec<(GroupId, bool)> = Vec::with_capacity(events.len());
        for event in events {
            let group = self.groups.blocks[event.block as usize].group;
            touched.push((group, self.held[group as usize] > 0));
            self.apply(event, 1);
        }
        // Stable, so that of each group the first, which saw it before any event, stays.
        touched.sort_by_key(|(group, _)| *group);
        touched.dedup_by_key(|(group, _)| *group);
        touched.retain(|(group, before)| (self.held[*group as usize] > 0) != *before);
        touched.into_iter().map(|(group, _)| group).collect()
    }

    fn leave(&mut self, events: &[Event]) {
        for event in events.iter().rev() {
            self.apply(event, -1);
        }
    }

    fn apply(&mut self, event: &Event, by: i32) {
        let block = event.block as usize;
        let group = self.groups.blocks[block].group as usize;
        let before = self.open[block] && self.holes[block] == 0;
        if event.enters {
            self.open[block] = by > 0;
        } else {
            self.holes[block] = self.holes[block].saturating_add_signed(by as i16);
        }
        let after = self.open[block] && self.holes[block] == 0;
        self.held[group] = self.held[group] + u32::from(after) - u32::from(before);
    }

    /// The class that differs from the parent's in the changed groups.
    fn step(&mut self, parent: ClassIndex, changed: Vec<GroupId>) -> ClassIndex {
        if changed.is_empty() {
            return parent;
        }
        let steps = self.steps.entry(parent).or_default();
        if let Some(class) = steps.get(changed.as_slice()) {
            return *class;
        }
        let before = &self.out.differences[parent.0 as usize];
        let difference =
            super::symmetric_difference(before, changed.iter().copied()).into_boxed_slice();
        let class = match self.known.get(&difference) {
            Some(class) => *class,
            None => {
                let class = ClassIndex(self.out.differences.len() as u32);
                for group in &difference {
                    self.out.toggled[self.family as usize][*group as usize].push(class);
                }
                self.out.differences.push(difference.clone());
                self.known.insert(difference, class);
                class
            }
        };
        steps.insert(changed.into(), class);
        class
    }
}
