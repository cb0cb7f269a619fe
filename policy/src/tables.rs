//! The tables that a node's policy compiles to: what the kernel's maps hold, with numbers of this compilation in place
//! of the kernel's ids, and with the one text form that golden files and `podgatectl` show.

use std::{collections::BTreeMap, fmt, net::IpAddr};

pub use verdict::Direction;

use crate::{
    documents::Directions,
    portmap::{PortMap, Verdict},
    prefix::{Family, Prefix},
    select::EndpointId,
};

/// Both directions.
pub const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

impl<T> Directions<T> {
    /// The value for one direction.
    pub const fn get(&self, direction: Direction) -> &T {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// The value for one direction, to change it.
    pub const fn get_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }
}

/// A set of addresses that no policy tells apart; 0 = everybody else, of either family. Others are of one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassIndex(pub u32);

impl ClassIndex {
    /// Everybody else.
    pub const REST: Self = Self(0);
}

/// Place of a set in [`Tables::sets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetIndex(pub u32);

/// Place of a port map in [`Tables::port_maps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMapIndex(pub u32);

/// What the tables say of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// Directions that some policy isolates: there `Default` is deny, elsewhere what the mode says.
    pub isolated: Directions<bool>,
    /// Its rules.
    pub set: SetIndex,
}

/// Key of a rule within a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// Direction.
    pub direction: Direction,
    /// Family of the peer.
    pub family: Family,
    /// Class of the peer.
    pub class: ClassIndex,
}

/// The rules that endpoints share. A class without an entry has the entry of class 0 of the direction and family; without
/// that, `Default` everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set {
    /// Rules, without those that say what would hold without them.
    pub rules: BTreeMap<RuleKey, PortMapIndex>,
}

impl Set {
    /// The entry that holds for a class.
    pub fn rule(
        &self,
        direction: Direction,
        family: Family,
        class: ClassIndex,
    ) -> Option<PortMapIndex> {
        let entry = |class| {
            self.rules
                .get(&RuleKey {
                    direction,
                    family,
                    class,
                })
                .copied()
        };
        entry(class).or_else(|| entry(ClassIndex::REST))
    }

    /// Whether any entry is for the direction.
    pub fn has_rules(&self, direction: Direction) -> bool {
        self.rules.keys().any(|key| key.direction == direction)
    }
}

/// Everything that `compile` yields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Every local endpoint, also those that no policy selects.
    pub endpoints: BTreeMap<EndpointId, EndpointPolicy>,
    /// The sets that endpoints name, each once.
    pub sets: Vec<Set>,
    /// The port maps that sets name, each once.
    pub port_maps: Vec<PortMap>,
    /// Class of each block, by longest match, sorted; addresses in none are of class 0. A block of class 0 is a hole in a
    /// larger one. Blocks of length 0 never stand here.
    pub peers: Vec<(Prefix, ClassIndex)>,
    /// Number of classes, class 0 among them.
    pub classes: u32,
}

impl Tables {
    /// The class of an address.
    pub fn class_of(&self, address: IpAddr) -> ClassIndex {
        let exact = Prefix::exact(address);
        (1..=exact.len())
            .rev()
            .find_map(|len| {
                let place = self
                    .peers
                    .binary_search_by_key(&exact.resized(len), |(prefix, _)| *prefix)
                    .ok()?;
                Some(self.peers[place].1)
            })
            .unwrap_or(ClassIndex::REST)
    }

    /// What the tables say, exactly as the kernel looks it up; `None` for an endpoint that is not here.
    pub fn look_up(
        &self,
        endpoint: EndpointId,
        direction: Direction,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<Verdict> {
        let set = &self.sets[self.endpoints.get(&endpoint)?.set.0 as usize];
        let rule = set.rule(direction, Family::of(peer), self.class_of(peer));
        Some(rule.map_or(Verdict::Default, |map| {
            self.port_maps[map.0 as usize].get(protocol, port)
        }))
    }

    /// Whether a packet passes, with the mode's answer for a direction that nothing isolates.
    pub fn allows(
        &self,
        endpoint: EndpointId,
        direction: Direction,
        peer: IpAddr,
        protocol: u8,
        port: u16,
        strict: bool,
    ) -> Option<bool> {
        let isolated = *self.endpoints.get(&endpoint)?.isolated.get(direction);
        Some(
            match self.look_up(endpoint, direction, peer, protocol, port)? {
                Verdict::Allow => true,
                Verdict::Deny => false,
                Verdict::Default => !(isolated || strict),
            },
        )
    }
}

impl fmt::Display for Tables {
    /// Stable lines: endpoints, then sets with their rules written out, then peers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, policy) in &self.endpoints {
            write!(f, "endpoint {} set {}", id.0, policy.set.0)?;
            for direction in DIRECTIONS {
                if *policy.isolated.get(direction) {
                    write!(f, " isolated-{}", direction.name())?;
                }
            }
            writeln!(f)?;
        }
        for (number, set) in self.sets.iter().enumerate() {
            for (key, map) in &set.rules {
                let (direction, class) = (key.direction.name(), key.class.0);
                writeln!(
                    f,
                    "set {number} {direction} {} class {class}: {}",
                    key.family, self.port_maps[map.0 as usize]
                )?;
            }
        }
        for (prefix, class) in &self.peers {
            writeln!(f, "peer {prefix} class {}", class.0)?;
        }
        Ok(())
    }
}
