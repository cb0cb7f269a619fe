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

/// Protocols and ports of one address.
pub(super) type Ports = BTreeSet<(Protocol, u16)>;

impl PortSet {
    /// Whether it holds any of these.
    pub(super) fn holds_any(&self, ports: &Ports) -> bool {
        ports
            .iter()
            .any(|(protocol, port)| self.holds(*protocol, *port))
    }

    /// The same without these. What has no ports (ICMP) goes with them: documents cannot say "everything but a port".
    pub(super) fn without(&self, ports: &Ports) -> Self {
        let all = Protocol::ALL.map(|protocol| PortEntry {
            protocol: Some(protocol),
            ports: None,
        });
        let entries: Vec<PortEntry> = match self {
            Self::All => all.into(),
            Self::Some(entries) => entries.iter().copied().collect(),
        };
        let mut out = BTreeSet::new();
        for entry in entries {
            for protocol in Protocol::ALL {
                if entry.protocol.is_some_and(|own| own != protocol) {
                    continue;
                }
                let cuts = ports.range((protocol, 0)..=(protocol, u16::MAX));
                let cuts: Vec<u16> = cuts.map(|(_, port)| *port).collect();
                if cuts.is_empty() {
                    let protocol = Some(protocol);
                    out.insert(PortEntry { protocol, ..entry });
                    continue;
                }
                let (mut first, last) = entry.ports.unwrap_or((1, u16::MAX));
                let mut put = |first: u16, last: u16| {
                    if first <= last {
                        out.insert(PortEntry {
                            protocol: Some(protocol),
                            ports: Some((first, last)),
                        });
                    }
                };
                let mut over = false;
                for cut in cuts
                    .into_iter()
                    .filter(|cut| (first..=last).contains(cut))
                    .collect::<Vec<_>>()
                {
                    if cut > first {
                        put(first, cut - 1);
                    }
                    match cut.checked_add(1) {
                        Some(next) => first = next,
                        None => over = true,
                    }
                }
                if !over {
                    put(first, last);
                }
            }
        }
        Self::Some(out)
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

    /// Takes ports of addresses out of every block that holds them; what names an address exactly means it.
    pub(super) fn cut(&mut self, cuts: &BTreeMap<IpAddr, Ports>) {
        if cuts.is_empty() {
            return;
        }
        let mut out = Self::default();
        for ((block, mut except), ports) in std::mem::take(&mut self.by_block) {
            if !block.is_exact() {
                let here = cuts.range(block.address()..=block.last_address());
                for (address, cut) in here {
                    if ports.holds_any(cut) && !except.iter().any(|hole| hole.holds(*address)) {
                        except.push(Prefix::exact(*address));
                        out.add_address(*address, &ports.without(cut));
                    }
                }
                except.sort_unstable();
            }
            out.add(block, &except, &ports);
        }
        *self = out;
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
        self.names(address, protocol, port) || self.covers(address, protocol, port)
    }

    /// Whether an entry for the address itself holds it.
    pub(super) fn names(&self, address: IpAddr, protocol: Protocol, port: u16) -> bool {
        let exact = self.by_prefix.get(&Prefix::exact(address));
        exact.is_some_and(|entries| entries.iter().any(|(_, ports)| ports.holds(protocol, port)))
    }

    /// Whether a block, the address among others, holds it.
    pub(super) fn covers(&self, address: IpAddr, protocol: Protocol, port: u16) -> bool {
        let family = Family::of(address);
        let most = Prefix::exact(address).len();
        self.lengths
            .range((family, 0)..(family, most))
            .filter_map(|(_, len)| self.by_prefix.get(&Prefix::new(address, *len)))
            .flatten()
            .any(|(except, ports)| {
                ports.holds(protocol, port) && !except.iter().any(|hole| hole.holds(address))
            })
    }
}
