//! A port map as the kernel's prefixes, and back.

use super::{Pieces, PortMap, Verdict, union};

/// A key of a port set: everything, one protocol, or a block of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortPrefix {
    /// Every protocol.
    Any,
    /// The ports of one protocol whose first `len` bits (0 to 16) are those of `port`.
    Ports {
        /// Protocol number.
        protocol: u8,
        /// The first port of the block.
        port: u16,
        /// Bits, 0 = every port.
        len: u8,
    },
}

impl PortPrefix {
    const fn holds(self, protocol: u8, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Ports {
                protocol: own,
                port: first,
                len,
            } => own == protocol && (len == 0 || (port ^ first) >> (16 - len) == 0),
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Any => 0,
            Self::Ports { len, .. } => len + 1,
        }
    }
}

impl PortMap {
    /// The fewest prefixes that give the map by longest match, with `Default` where none matches; sorted.
    pub fn prefixes(&self) -> Vec<(PortPrefix, Verdict)> {
        let mut out = Vec::new();
        if self.others != Verdict::Default {
            out.push((PortPrefix::Any, self.others));
        }
        for (number, runs) in &self.protocols {
            let tree = Tree::of(runs, 0, 16);
            tree.emit(*number, 0, 0, self.others, &mut out);
        }
        out.sort_unstable();
        out
    }

    /// The map that prefixes give: the way back, and the meaning of [`PortMap::prefixes`].
    pub fn from_prefixes(prefixes: &[(PortPrefix, Verdict)]) -> Self {
        let mut by_length: Vec<_> = prefixes.iter().collect();
        by_length.sort_by_key(|(prefix, _)| prefix.bits());
        by_length
            .into_iter()
            .fold(Self::uniform(Verdict::Default), |map, (prefix, verdict)| {
                let cover = match *prefix {
                    PortPrefix::Any => Pieces::uniform(true),
                    PortPrefix::Ports {
                        protocol,
                        port,
                        len,
                    } => {
                        let last = port | u16::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                        Pieces {
                            others: false,
                            protocols: vec![(protocol, union(vec![(port, last)]))],
                        }
                    }
                };
                map.combine(
                    &cover,
                    |before, covered| if covered { *verdict } else { before },
                )
            })
    }

    /// The verdict by longest match, as the kernel looks it up.
    pub fn look_up(prefixes: &[(PortPrefix, Verdict)], protocol: u8, port: u16) -> Verdict {
        let matching = prefixes
            .iter()
            .filter(|(prefix, _)| prefix.holds(protocol, port));
        matching
            .max_by_key(|(prefix, _)| prefix.bits())
            .map_or(Verdict::Default, |(_, verdict)| *verdict)
    }
}

/// The binary tree over one protocol's ports, cut where a block has one value. The fewest entries come from Draves,
/// King, Venkatachary and Zill, "Constructing Optimal IP Routing Tables" (1999): upwards, each node keeps the values
/// that are best at it; downwards, an entry is made only where what is inherited is not among them.
enum Tree {
    Leaf(Verdict),
    Fork { best: u8, halves: Box<[Tree; 2]> },
}

const fn bit(verdict: Verdict) -> u8 {
    1 << verdict as u8
}

impl Tree {
    fn of(runs: &[(u16, Verdict)], start: u16, bits: u8) -> Self {
        let at = runs.partition_point(|(first, _)| *first <= start) - 1;
        let end = (u32::from(start) + (1 << bits) - 1) as u16;
        if bits == 0 || runs.get(at + 1).is_none_or(|(next, _)| *next > end) {
            return Self::Leaf(runs[at].1);
        }
        let half = bits - 1;
        let halves = Box::new([
            Self::of(runs, start, half),
            Self::of(runs, start + (1 << half), half),
        ]);
        let (a, b) = (halves[0].best(), halves[1].best());
        Self::Fork {
            best: if a & b == 0 { a | b } else { a & b },
            halves,
        }
    }

    const fn best(&self) -> u8 {
        match self {
            Self::Leaf(verdict) => bit(*verdict),
            Self::Fork { best, .. } => *best,
        }
    }

    fn emit(
        &self,
        protocol: u8,
        port: u16,
        len: u8,
        inherited: Verdict,
        out: &mut Vec<(PortPrefix, Verdict)>,
    ) {
        let own = [inherited, Verdict::Default, Verdict::Allow, Verdict::Deny]
            .into_iter()
            .find(|verdict| self.best() & bit(*verdict) != 0)
            .unwrap_or(inherited);
        if own != inherited {
            out.push((
                PortPrefix::Ports {
                    protocol,
                    port,
                    len,
                },
                own,
            ));
        }
        if let Self::Fork { halves, .. } = self {
            halves[0].emit(protocol, port, len + 1, own, out);
            halves[1].emit(protocol, port | (1 << (15 - len)), len + 1, own, out);
        }
    }
}
