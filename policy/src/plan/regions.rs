//! Old and new blocks side by side: where an address was and where it is to be.

use std::collections::{BTreeMap, HashMap};

use super::live::{ClassId, Live};
use crate::{
    prefix::{Family, Prefix, hollow},
    tables::{ClassIndex, Tables},
};

/// A block that stands in the old table, the new one or both, and the classes that hold right inside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) prefix: Prefix,
    pub(super) old: ClassId,
    pub(super) new: ClassIndex,
    pub(super) in_old: bool,
    pub(super) in_new: bool,
    /// Smaller blocks cover it: what it says holds for no address until they go.
    pub(super) hollow: bool,
}

/// A kernel's class of one family. Rules name the family, so that one number in two families is two classes.
pub(super) type OldClass = (Family, ClassId);
/// A class of the new tables in one family.
pub(super) type NewClass = (Family, ClassIndex);

/// All regions, and which old classes meet which new ones.
pub(super) struct Regions {
    /// In the order of the tree.
    pub(super) all: Vec<Region>,
    /// Pairs that some address has, with the number of blocks of the old table among them; those of class 0 included.
    pub(super) pairs: BTreeMap<(Family, ClassId, ClassIndex), u32>,
    partners_of_old: HashMap<OldClass, Vec<ClassIndex>>,
    partners_of_new: HashMap<NewClass, Vec<ClassId>>,
    /// Where most of an old class's blocks are now.
    home: HashMap<OldClass, ClassIndex>,
    /// Of the old classes at home in a new one, the largest; for everybody else always class 0.
    pub(super) residents: HashMap<NewClass, ClassId>,
}

impl Regions {
    pub(super) fn of(live: &Live, tables: &Tables) -> Self {
        let all = merge(live, tables);
        let mut counts: HashMap<(Family, ClassId, ClassIndex), u32> = HashMap::new();
        for family in Family::ALL {
            counts.insert((family, ClassId(0), ClassIndex::REST), 0);
        }
        // Neighbours mostly are of one pair: count runs.
        for run in all.chunk_by(|a, b| pair(a) == pair(b)) {
            if run.iter().any(|region| !region.hollow) {
                let blocks = run.iter().filter(|region| region.in_old && !region.hollow);
                *counts.entry(pair(&run[0])).or_default() += blocks.count() as u32;
            }
        }
        let pairs: BTreeMap<_, _> = counts.into_iter().collect();
        let mut out = Self {
            all,
            pairs: BTreeMap::new(),
            partners_of_old: HashMap::new(),
            partners_of_new: HashMap::new(),
            home: HashMap::new(),
            residents: HashMap::new(),
        };
        let mut most: HashMap<OldClass, u32> = HashMap::new();
        for (&(family, old, new), &count) in &pairs {
            out.partners_of_old
                .entry((family, old))
                .or_default()
                .push(new);
            out.partners_of_new
                .entry((family, new))
                .or_default()
                .push(old);
            // Everybody else is at home with everybody else: those addresses are beyond counting.
            if old == ClassId(0) {
                out.home.insert((family, old), ClassIndex::REST);
            } else if count > most.get(&(family, old)).copied().unwrap_or(0) {
                most.insert((family, old), count);
                out.home.insert((family, old), new);
            }
        }
        let mut largest: HashMap<NewClass, u32> = HashMap::new();
        for (&(family, old, new), &count) in &pairs {
            let at_home = out.home.get(&(family, old)) == Some(&new);
            if at_home && count > largest.get(&(family, new)).copied().unwrap_or(0) {
                largest.insert((family, new), count);
                out.residents.insert((family, new), old);
            }
        }
        for family in Family::ALL {
            out.residents.insert((family, ClassIndex::REST), ClassId(0));
        }
        out.pairs = pairs;
        out
    }

    pub(super) fn is_home(&self, family: Family, old: ClassId, new: ClassIndex) -> bool {
        self.home.get(&(family, old)) == Some(&new)
    }

    /// The old classes whose home is the new one.
    pub(super) fn at_home(
        &self,
        family: Family,
        new: ClassIndex,
    ) -> impl Iterator<Item = ClassId> + '_ {
        self.partners_of_new(family, new)
            .filter(move |old| self.is_home(family, *old, new))
    }

    /// The new classes that addresses of an old one have.
    pub(super) fn partners_of_old(
        &self,
        family: Family,
        old: ClassId,
    ) -> impl Iterator<Item = ClassIndex> + '_ {
        self.partners_of_old
            .get(&(family, old))
            .into_iter()
            .flatten()
            .copied()
    }

    /// The old classes that addresses of a new one have.
    pub(super) fn partners_of_new(
        &self,
        family: Family,
        new: ClassIndex,
    ) -> impl Iterator<Item = ClassId> + '_ {
        self.partners_of_new
            .get(&(family, new))
            .into_iter()
            .flatten()
            .copied()
    }
}

fn pair(region: &Region) -> (Family, ClassId, ClassIndex) {
    (region.prefix.family(), region.old, region.new)
}

fn merge(live: &Live, tables: &Tables) -> Vec<Region> {
    let mut all = Vec::with_capacity(live.peers.len().max(tables.peers.len()));
    let (mut old, mut new) = (live.peers.iter().peekable(), tables.peers.iter().peekable());
    // Blocks that are open at this place of the walk, with their classes.
    let mut open: Vec<(Prefix, ClassId, ClassIndex)> = Vec::new();
    loop {
        let prefix = match (old.peek(), new.peek()) {
            (None, None) => break,
            (Some((p, _)), None) => **p,
            (None, Some((q, _))) => *q,
            (Some((p, _)), Some((q, _))) => *(*p).min(q),
        };
        while open.pop_if(|(outer, ..)| !outer.covers(&prefix)).is_some() {}
        let (old_around, new_around) = open
            .last()
            .map_or((ClassId(0), ClassIndex::REST), |(_, old, new)| (*old, *new));
        let was = old.next_if(|(p, _)| **p == prefix).map(|(_, class)| *class);
        let is = new.next_if(|(q, _)| *q == prefix).map(|(_, class)| *class);
        let region = Region {
            prefix,
            old: was.unwrap_or(old_around),
            new: is.unwrap_or(new_around),
            in_old: was.is_some(),
            in_new: is.is_some(),
            hollow: false,
        };
        open.push((prefix, region.old, region.new));
        all.push(region);
    }
    let hollow = hollow(all.iter().map(|region| region.prefix));
    for (region, hollow) in all.iter_mut().zip(hollow) {
        region.hollow = hollow;
    }
    all
}
