//! Sets of ports, and rules by the address that they are about.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use policy::{
    documents::{PortEntry, Protocol},
    prefix::{Family, Prefix},
};

/// What of an address a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PortSet {
    /// Everything, protocols without ports included.
    All,
    /// These; possibly nothing.
    Some(BTreeSet<PortEntry>),
}

impl PortSet {
    pub(super) const NOTHING: Self = Self::Some(BTreeSet::new());

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::Some(entries) if entries.is_empty())
    }

    pub(super) fn one(protocol: Protocol, port: u16) -> Self {
        Self::Some(
            [PortEntry {
                protocol: Some(protocol),
                ports: Some((port, port)),
            }]
            .into(),
        )
    }

    /// Everything stays everything, whatever comes to it.
    pub(super) fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (_, Self::All) => *self = Self::All,
            (Self::Some(own), Self::Some(entries)) => own.extend(entries.iter().copied()),
        }
    }

    pub(super) fn holds(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Some(entries) => entries.iter().any(|entry| {
                entry.protocol.is_none_or(|own| own == protocol)
                    && entry
                        .ports
                        .is_none_or(|(first, last)| (first..=last).contains(&port))
            }),
        }
    }
}

/// A block and its holes.
pub(super) type Block = (Prefix, Vec<Prefix>);

/// Blocks and what of them is meant, one entry a block: equal blocks are one entry with the ports of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entries {
    by_block: BTreeMap<Block, PortSet>,
}

impl Entries {
    pub(super) fn add(&mut self, block: Prefix, except: &[Prefix], ports: &PortSet) {
        if !ports.is_nothing() {
            self.by_block
                .entry((block, except.to_vec()))
                .or_insert(PortSet::NOTHING)
                .add(ports);
        }
    }

    pub(super) fn add_address(&mut self, address: IpAddr, ports: &PortSet) {
        self.add(Prefix::exact(address), &[], ports);
    }

    pub(super) fn add_all(&mut self, other: Self) {
        for ((block, except), ports) in other.by_block {
            self.add(block, &except, &ports);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Block, &PortSet)> {
        self.by_block.iter()
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = (Block, PortSet)> {
        self.by_block.into_iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_block.is_empty()
    }
}

/// Entries, to be asked about addresses.
pub(super) struct Lookup<'a> {
    by_prefix: HashMap<Prefix, Vec<(&'a [Prefix], &'a PortSet)>>,
    /// Lengths that there are.
    lengths: BTreeSet<(Family, u8)>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(entries: &'a Entries) -> Self {
        let mut out = Self {
            by_prefix: HashMap::new(),
            lengths: BTreeSet::new(),
        };
        for ((block, except), ports) in entries.iter() {
            out.lengths.insert((block.family(), block.len()));
            out.by_prefix
                .entry(*block)
                .or_default()
                .push((except, ports));
        }
        out
    }

    pub(super) fn holds(&self, address: IpAddr, protocol: Protocol, port: u16) -> bool {
        let family = Family::of(address);
        self.lengths
            .range((family, 0)..=(family, u8::MAX))
            .filter_map(|(_, len)| self.by_prefix.get(&Prefix::new(address, *len)))
            .flatten()
            .any(|(except, ports)| {
                ports.holds(protocol, port) && !except.iter().any(|hole| hole.holds(address))
            })
    }
}
