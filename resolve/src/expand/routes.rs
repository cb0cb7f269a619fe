//! Services: which of their addresses an egress rule allows.
//!
//! A packet to a Service is judged before its backend is chosen, so the address on the Service's port stands for all its
//! ready backends on their target ports.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{Expansion, View};
use crate::{
    allow::{Entries, Lookup, PortSet},
    finding::FindingKind,
    model::Pod,
    services::{RoutePort, ServiceKey},
};
use policy::{
    documents::{Action, Protocol},
    prefix::Family,
};

/// One family of one port of a Service: what is judged as one.
struct Way<'r> {
    port: &'r RoutePort,
    addresses: Vec<IpAddr>,
    backends: Vec<(IpAddr, u16)>,
}

impl Way<'_> {
    /// Addresses of backends that the entries do not hold.
    fn refused(&self, lookup: &Lookup<'_>) -> BTreeSet<IpAddr> {
        self.backends
            .iter()
            .filter(|(address, port)| !lookup.holds(*address, self.port.protocol, *port))
            .map(|(address, _)| *address)
            .collect()
    }
}

impl View<'_> {
    /// Services that lead to something that the entries hold, without those that need not be named: a block of everything
    /// holds their addresses too.
    fn candidates(&self, entries: &Entries, found: &mut BTreeSet<ServiceKey>) {
        for ((block, except), ports) in entries.iter() {
            match ports {
                _ if block.is_exact() => {
                    found.extend(self.services.leading_to(block.address()).cloned());
                }
                PortSet::All if block.len() == 0 && except.is_empty() => {}
                PortSet::All => found.extend(self.services.leading_into(block).cloned()),
                PortSet::Some(entries) => {
                    for entry in entries {
                        let range = entry.ports.unwrap_or((0, u16::MAX));
                        let protocols = match entry.protocol {
                            Some(protocol) => vec![protocol],
                            None => Protocol::ALL.to_vec(),
                        };
                        for protocol in protocols {
                            found.extend(self.services.leading_to_port(protocol, range).cloned());
                        }
                    }
                }
            }
        }
    }

    /// Calls for each way of each Service.
    fn each_way(&self, keys: &BTreeSet<ServiceKey>, mut call: impl FnMut(&ServiceKey, &Way<'_>)) {
        for key in keys {
            let Some(route) = self.services.route_of(key) else {
                continue;
            };
            for port in &route.ports {
                for family in Family::ALL {
                    let way = Way {
                        port,
                        addresses: route
                            .addresses
                            .iter()
                            .filter(|a| Family::of(**a) == family)
                            .copied()
                            .collect(),
                        backends: port
                            .backends
                            .iter()
                            .filter(|(a, _)| Family::of(*a) == family)
                            .copied()
                            .collect(),
                    };
                    if !way.addresses.is_empty() && !way.backends.is_empty() {
                        call(key, &way);
                    }
                }
            }
        }
    }

    /// The Services' addresses that a NetworkPolicy's entries allow: for everybody, and for each subject those that lead
    /// nowhere but to itself, which no policy can forbid.
    pub(super) fn services_allowed(
        &self,
        entries: &Entries,
        subjects: &[&Arc<Pod>],
        out: &mut Expansion,
    ) -> (Entries, Vec<Entries>) {
        let lookup = Lookup::new(entries);
        let mut found = BTreeSet::new();
        self.candidates(entries, &mut found);
        out.consulted.extend(found.iter().cloned());

        let mut for_all = Entries::default();
        self.each_way(&found, |key, way| {
            let protocol = way.port.protocol;
            let refused = way.refused(&lookup);
            let any = way
                .backends
                .iter()
                .any(|(address, port)| lookup.holds(*address, protocol, *port));
            if !any {
                return;
            }
            for address in &way.addresses {
                if lookup.holds(*address, protocol, way.port.port) {
                    continue;
                }
                let partial = !refused.is_empty();
                if partial {
                    let name = format!("{}/{}", key.0, key.1);
                    let text = |what: &str| {
                        format!(
                            "Service {name} port {}/{} leads to pods that the policy does not allow as well: its address is {what}",
                            way.port.port,
                            protocol.name()
                        )
                    };
                    if self.strict_services {
                        out.find(FindingKind::ServiceWider, "spec.egress".to_owned(), text("not allowed"));
                        continue;
                    }
                    if !only_itself(subjects, &refused) {
                        out.find(FindingKind::ServiceWider, "spec.egress".to_owned(), text("allowed all the same"));
                        out.wider.insert(name);
                    }
                }
                for_all.add_address(*address, &PortSet::one(protocol, way.port.port));
            }
        });

        let mut each = vec![Entries::default(); subjects.len()];
        let everybody = Lookup::new(&for_all);
        let mut by_address: HashMap<IpAddr, Vec<usize>> = HashMap::new();
        for (place, subject) in subjects.iter().enumerate().filter(|(_, s)| s.is_peer()) {
            for address in &subject.addresses {
                by_address.entry(*address).or_default().push(place);
            }
        }
        let found: BTreeSet<ServiceKey> = by_address
            .keys()
            .flat_map(|address| self.services.leading_to(*address))
            .cloned()
            .collect();
        self.each_way(&found, |_, way| {
            let protocol = way.port.protocol;
            let refused = way.refused(&lookup);
            // Whoever is all that is refused stands behind the first of it.
            let Some(first) = refused.first() else {
                return;
            };
            for place in by_address.get(first).into_iter().flatten() {
                let own = &subjects[*place].addresses;
                if !refused.iter().all(|address| own.contains(address)) {
                    continue;
                }
                for address in &way.addresses {
                    if !lookup.holds(*address, protocol, way.port.port)
                        && !everybody.holds(*address, protocol, way.port.port)
                    {
                        let ports = PortSet::one(protocol, way.port.port);
                        each[*place].add_address(*address, &ports);
                    }
                }
            }
        });
        out.consulted.extend(found);
        (for_all, each)
    }

    /// The Services' addresses that ordered rules are about: for each rule those that go with it.
    pub(super) fn services_ordered(
        &self,
        rules: &[(Action, Entries)],
        out: &mut Expansion,
    ) -> Vec<Entries> {
        let lookups: Vec<_> = rules
            .iter()
            .map(|(action, entries)| (*action, Lookup::new(entries)))
            .collect();
        let mut found = BTreeSet::new();
        for (_, entries) in rules {
            self.candidates(entries, &mut found);
        }
        out.consulted.extend(found.iter().cloned());
        let first = |address, protocol, port| {
            lookups
                .iter()
                .position(|(_, lookup)| lookup.holds(address, protocol, port))
        };
        let action = |place: Option<usize>| place.map(|place| lookups[place].0);
        let mut with = vec![Entries::default(); rules.len()];
        self.each_way(&found, |key, way| {
            let protocol = way.port.protocol;
            let places: Vec<Option<usize>> = way
                .backends
                .iter()
                .map(|(address, port)| first(*address, protocol, *port))
                .collect();
            let ranks: BTreeSet<u8> = places.iter().map(|p| rank(action(*p))).collect();
            let chosen = if self.strict_services {
                ranks.first()
            } else {
                ranks.last()
            };
            // The rule that speaks first among those that say what is chosen.
            let place = places
                .iter()
                .filter(|place| Some(&rank(action(**place))) == chosen)
                .min()
                .copied()
                .flatten();
            let differ = ranks.len() > 1;
            for address in &way.addresses {
                let own = first(*address, protocol, way.port.port);
                let spoken = own.is_some_and(|own| place.is_none_or(|place| own <= place));
                if spoken {
                    continue;
                }
                if differ && !self.strict_services {
                    let name = format!("{}/{}", key.0, key.1);
                    out.find(FindingKind::ServiceWider, "spec.egress".to_owned(),
                        format!(
                            "Service {name} port {}/{} leads to pods on which the rules do not agree: the most permissive one holds for its address",
                            way.port.port,
                            protocol.name()
                        ),
                    );
                    out.wider.insert(name);
                }
                if let Some(place) = place {
                    with[place].add_address(*address, &PortSet::one(protocol, way.port.port));
                }
            }
        });
        with
    }
}

/// How much an action lets through; Pass and silence leave it to others.
const fn rank(action: Option<Action>) -> u8 {
    match action {
        Some(Action::Deny) => 0,
        Some(Action::Pass) | None => 1,
        Some(Action::Accept) => 2,
    }
}

/// Whether what is refused is the one subject that there is, which can always reach itself.
fn only_itself(subjects: &[&Arc<Pod>], refused: &BTreeSet<IpAddr>) -> bool {
    match subjects {
        [subject] => subject.is_peer() && refused.iter().all(|a| subject.addresses.contains(a)),
        _ => false,
    }
}
