//! Maps over (protocol, port): piecewise constant, in one canonical form, with the fold operations that compiling needs
//! and the decomposition into the kernel's prefixes.

use std::{collections::BTreeMap, fmt};

use crate::documents::{PortEntry, Protocol};

/// What a table says about a packet. `Default` = what the policy word says: isolation or mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// As the word says.
    #[default]
    Default,
    /// Pass.
    Allow,
    /// Drop.
    Deny,
}

impl Verdict {
    /// `default`, `allow` or `deny`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Ports of one protocol: runs that begin at the given port and reach to the next; the first begins at 0 and neighbours
/// differ.
type Runs<V> = Vec<(u16, V)>;

/// A total map from (protocol, port) to a value. A protocol that is not listed has `others` at every port, and one that
/// has just that is not listed: equal maps are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pieces<V> {
    others: V,
    protocols: Vec<(u8, Runs<V>)>,
}

/// The verdicts of one (set, direction, family, class).
pub type PortMap = Pieces<Verdict>;

impl<V: Copy + Eq> Pieces<V> {
    /// One value everywhere.
    pub const fn uniform(value: V) -> Self {
        Self {
            others: value,
            protocols: Vec::new(),
        }
    }

    /// The value, if it is the same everywhere.
    pub fn as_uniform(&self) -> Option<V> {
        self.protocols.is_empty().then_some(self.others)
    }

    /// The value of protocols that are not listed.
    pub const fn others(&self) -> V {
        self.others
    }

    /// The protocols that differ from the others: number and runs as (first port, last port, value).
    pub fn protocols(
        &self,
    ) -> impl Iterator<Item = (u8, impl Iterator<Item = (u16, u16, V)> + '_)> + '_ {
        self.protocols.iter().map(|(number, runs)| {
            let runs = runs.iter().enumerate().map(|(i, (first, value))| {
                let last = runs.get(i + 1).map_or(u16::MAX, |(next, _)| next - 1);
                (*first, last, *value)
            });
            (*number, runs)
        })
    }

    /// The value at a protocol and port; protocols without ports are asked with port 0.
    pub fn get(&self, protocol: u8, port: u16) -> V {
        match self
            .protocols
            .binary_search_by_key(&protocol, |(number, _)| *number)
        {
            Err(_) => self.others,
            Ok(place) => {
                let runs = &self.protocols[place].1;
                runs[runs.partition_point(|(first, _)| *first <= port) - 1].1
            }
        }
    }

    /// Both maps put together, point by point.
    pub fn combine<W: Copy + Eq, X: Copy + Eq>(
        &self,
        other: &Pieces<W>,
        mut f: impl FnMut(V, W) -> X,
    ) -> Pieces<X> {
        let others = f(self.others, other.others);
        let mut protocols = Vec::new();
        let (mut a, mut b) = (
            self.protocols.iter().peekable(),
            other.protocols.iter().peekable(),
        );
        let (a_others, b_others) = ([(0, self.others)], [(0, other.others)]);
        loop {
            let number = match (a.peek(), b.peek()) {
                (None, None) => break,
                (Some((m, _)), None) => *m,
                (None, Some((n, _))) => *n,
                (Some((m, _)), Some((n, _))) => *m.min(n),
            };
            let left = a
                .next_if(|(m, _)| *m == number)
                .map_or(&a_others[..], |(_, runs)| runs);
            let right = b
                .next_if(|(n, _)| *n == number)
                .map_or(&b_others[..], |(_, runs)| runs);
            let runs = zip(left, right, &mut f);
            if !matches!(runs[..], [(_, value)] if value == others) {
                protocols.push((number, runs));
            }
        }
        Pieces { others, protocols }
    }
}

fn zip<V: Copy, W: Copy, X: Copy + Eq>(
    a: &[(u16, V)],
    b: &[(u16, W)],
    f: &mut impl FnMut(V, W) -> X,
) -> Runs<X> {
    let mut out: Runs<X> = Vec::with_capacity(a.len().max(b.len()));
    let (mut i, mut j) = (0, 0);
    let mut port = 0;
    loop {
        let value = f(a[i].1, b[j].1);
        if out.last().is_none_or(|(_, last)| *last != value) {
            out.push((port, value));
        }
        port = match (a.get(i + 1), b.get(j + 1)) {
            (None, None) => return out,
            (Some((p, _)), None) => *p,
            (None, Some((q, _))) => *q,
            (Some((p, _)), Some((q, _))) => *p.min(q),
        };
        i += usize::from(a.get(i + 1).is_some_and(|(p, _)| *p == port));
        j += usize::from(b.get(j + 1).is_some_and(|(q, _)| *q == port));
    }
}

impl Pieces<bool> {
    /// What a port list covers; the empty list covers everything.
    pub fn covered(entries: &[PortEntry]) -> Self {
        if entries.is_empty()
            || entries
                .iter()
                .any(|e| e.protocol.is_none() && e.ports.is_none())
        {
            return Self::uniform(true);
        }
        let mut ranges: BTreeMap<u8, Vec<(u16, u16)>> = BTreeMap::new();
        for entry in entries {
            let all = Protocol::ALL;
            let protocols = entry
                .protocol
                .as_ref()
                .map_or(&all[..], std::slice::from_ref);
            for protocol in protocols {
                ranges
                    .entry(protocol.number())
                    .or_default()
                    .push(entry.ports.unwrap_or((0, u16::MAX)));
            }
        }
        let protocols = ranges
            .into_iter()
            .map(|(number, ranges)| (number, union(ranges)))
            .collect();
        Self {
            others: false,
            protocols,
        }
    }
}

fn union(mut ranges: Vec<(u16, u16)>) -> Runs<bool> {
    ranges.sort_unstable();
    let mut runs: Runs<bool> = vec![(0, false)];
    let mut end: Option<u16> = None;
    for (first, last) in ranges {
        match end {
            // Touches or overlaps the run before.
            Some(before) if first <= before.saturating_add(1) => {
                if last > before {
                    runs.pop();
                    end = Some(last);
                } else {
                    continue;
                }
            }
            _ => {
                if first == 0 {
                    runs.clear();
                }
                runs.push((first, true));
                end = Some(last);
            }
        }
        if let Some(next) = last.checked_add(1) {
            runs.push((next, false));
        }
    }
    runs
}

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

impl fmt::Display for PortMap {
    /// One line: `tcp 80 allow, tcp 8000-8080 deny, * default`; what the rest of a protocol has, stands as `tcp *`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, runs) in self.protocols() {
            for (first, last, verdict) in runs {
                match number {
                    6 => f.write_str("tcp")?,
                    17 => f.write_str("udp")?,
                    132 => f.write_str("sctp")?,
                    other => write!(f, "proto-{other}")?,
                }
                match (first, last) {
                    (0, u16::MAX) => write!(f, " * {verdict}, ")?,
                    _ if first == last => write!(f, " {first} {verdict}, ")?,
                    _ => write!(f, " {first}-{last} {verdict}, ")?,
                }
            }
        }
        write!(f, "* {}", self.others)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::testing;

    fn tcp(ranges: &[(u16, u16)]) -> PortMap {
        let entries: Vec<_> = ranges
            .iter()
            .map(|r| PortEntry {
                protocol: Some(Protocol::Tcp),
                ports: Some(*r),
            })
            .collect();
        let nothing = PortMap::uniform(Verdict::Default);
        nothing.combine(&Pieces::covered(&entries), |_, held| {
            if held {
                Verdict::Allow
            } else {
                Verdict::Default
            }
        })
    }

    #[test]
    fn ranges_touch_overlap_and_reach_the_ends() {
        assert_eq!(tcp(&[(80, 80), (81, 90), (85, 86)]), tcp(&[(80, 90)]));
        assert_eq!(tcp(&[(0, 5), (6, u16::MAX)]), tcp(&[(0, u16::MAX)]));
        assert_eq!(
            tcp(&[(65535, 65535), (0, 0)]).to_string(),
            "tcp 0 allow, tcp 1-65534 default, tcp 65535 allow, * default"
        );
        assert_eq!(
            tcp(&[]).as_uniform(),
            Some(Verdict::Allow),
            "the empty list is everything"
        );
        assert_eq!(
            (tcp(&[(80, 90)]).get(6, 90), tcp(&[(80, 90)]).get(6, 91)),
            (Verdict::Allow, Verdict::Default)
        );
        assert_eq!(tcp(&[(80, 90)]).get(17, 85), Verdict::Default);
    }

    #[test]
    fn few_prefixes() {
        let lens = |map: &PortMap| map.prefixes().len();
        assert_eq!(lens(&tcp(&[(80, 80)])), 1);
        assert_eq!(lens(&tcp(&[(0, u16::MAX)])), 1);
        // All but one port: everything, and a hole; not sixteen blocks.
        assert_eq!(lens(&tcp(&[(0, 79), (81, u16::MAX)])), 2);
        assert_eq!(lens(&tcp(&[(1, u16::MAX)])), 2);
        assert_eq!(lens(&PortMap::uniform(Verdict::Deny)), 1);
        assert_eq!(lens(&PortMap::uniform(Verdict::Default)), 0);
    }

    fn port_map() -> impl Strategy<Value = PortMap> {
        let verdict = || select(vec![Verdict::Default, Verdict::Allow, Verdict::Deny]);
        let number = select(vec![1u8, 6, 17, 132]);
        let run = (
            number,
            any::<u16>(),
            prop_oneof![0u16..3, any::<u16>()],
            verdict(),
        );
        (verdict(), vec(run, 0..12)).prop_map(|(others, runs)| {
            runs.into_iter().fold(
                PortMap::uniform(others),
                |map, (number, first, more, verdict)| {
                    let range = vec![(first, first.saturating_add(more))];
                    let cover = Pieces {
                        others: false,
                        protocols: vec![(number, union(range))],
                    };
                    map.combine(&cover, |before, held| if held { verdict } else { before })
                },
            )
        })
    }

    proptest! {
        #![proptest_config(testing::cases(100))]

        #[test]
        fn prefixes_are_the_map(map in port_map(), questions in vec((any::<u8>(), any::<u16>()), 20)) {
            let prefixes = map.prefixes();
            let edges = map.protocols().flat_map(|(n, runs)| runs.flat_map(move |(a, b, _)| [(n, a), (n, b)]).collect::<Vec<_>>());
            for (protocol, port) in edges.chain(questions) {
                prop_assert_eq!(PortMap::look_up(&prefixes, protocol, port), map.get(protocol, port));
            }
            prop_assert_eq!(PortMap::from_prefixes(&prefixes), map);
        }

        #[test]
        fn combine_is_pointwise(a in port_map(), b in port_map(), questions in vec((any::<u8>(), any::<u16>()), 20)) {
            let both = a.combine(&b, |x, y| (x, y));
            for (protocol, port) in questions.into_iter().chain([(6, 0), (6, u16::MAX), (17, 80), (132, 1), (1, 0)]) {
                prop_assert_eq!(both.get(protocol, port), (a.get(protocol, port), b.get(protocol, port)));
            }
            // Canonical: what says the same is the same.
            prop_assert_eq!(a.combine(&b, |x, _| x), a);
            prop_assert_eq!(both.combine(&both, |(_, y), _| y), b);
        }
    }
}
