//! Maps over (protocol, port): piecewise constant, in one canonical form, with the fold operations that compiling needs
//! and the decomposition into the kernel's prefixes.

mod prefixes;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

pub use prefixes::PortPrefix;

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

impl fmt::Display for PortMap {
    /// One line: `tcp 80 allow, tcp 8000-8080 deny, * default`; what is not listed is as `*` says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, runs) in self.protocols() {
            for (first, last, verdict) in runs.filter(|(.., verdict)| *verdict != self.others) {
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
