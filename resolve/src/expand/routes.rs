//! Services: which of their addresses an egress rule allows.
//!
//! A packet to a Service is judged before its backend is chosen, so the address on the Service's port stands for all its
//! ready backends on their target ports.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{Expansion, View};
use crate::{
    allow::{Entries, Lookup, PortSet, Ports},
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
    /// Services of which the entries may hold the address otherwise than the backends.
    fn candidates(&self, entries: &Entries, found: &mut BTreeSet<ServiceKey>) {
        for ((block, except), ports) in entries.iter() {
            if block.is_exact() {
                found.extend(self.services.leading_to(block.address()).cloned());
                found.extend(self.services.with_address(block.address()).cloned());
                continue;
            }
            self.services.crossing(block, except, found);
            let PortSet::Some(entries) = ports else {
                continue;
            };
            for entry in entries {
                let range = entry.ports.unwrap_or((0, u16::MAX));
                for protocol in Protocol::ALL {
                    if entry.protocol.is_none_or(|own| own == protocol) {
                        found.extend(self.services.shifted(protocol, range).cloned());
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

    /// Makes a NetworkPolicy's entries hold a Service's address where they hold its backends: takes it out of blocks or
    /// puts it in. Gives, for each subject, the addresses that lead nowhere but to itself, which no policy can forbid.
    pub(super) fn services_allowed(
        &self,
        entries: &mut Entries,
        subjects: &[&Arc<Pod>],
        out: &mut Expansion,
    ) -> Vec<Entries> {
        let lookup = Lookup::new(entries);
        let mut found = BTreeSet::new();
        self.candidates(entries, &mut found);
        out.consulted.extend(found.iter().cloned());

        let mut added = Entries::default();
        let mut cuts: BTreeMap<IpAddr, Ports> = BTreeMap::new();
        self.each_way(&found, |key, way| {
            let (protocol, port) = (way.port.protocol, way.port.port);
            let refused = way.refused(&lookup);
            let partial = !refused.is_empty();
            let any = way
                .backends
                .iter()
                .any(|(address, port)| lookup.holds(*address, protocol, *port));
            let name = format!("{}/{}", key.0, key.1);
            let tell = |what: &str, out: &mut Expansion| {
                out.find(
                    FindingKind::ServiceWider,
                    "spec.egress".to_owned(),
                    format!(
                        "Service {name} port {port}/{} leads to pods that the policy does not allow{}: its address is {what}",
                        protocol.name(),
                        if any { " as well" } else { "" },
                    ),
                );
            };
            for address in &way.addresses {
                let named = lookup.names(*address, protocol, port);
                let covered = lookup.covers(*address, protocol, port);
                let allowed = match (partial, named) {
                    (false, _) => true,
                    (true, true) => {
                        tell("named by the policy, and allowed", out);
                        out.wider.insert(name.clone());
                        true
                    }
                    (true, false) if !any => false,
                    (true, false) if self.strict_services => {
                        tell("not allowed", out);
                        false
                    }
                    (true, false) => {
                        if !only_itself(subjects, &refused) {
                            tell("allowed all the same", out);
                            out.wider.insert(name.clone());
                        }
                        true
                    }
                };
                match (allowed, named || covered) {
                    (true, false) => {
                        added.add_address(*address, &PortSet::one(protocol, port));
                    }
                    (false, true) => {
                        cuts.entry(*address).or_default().insert((protocol, port));
                    }
                    _ => {}
                }
            }
        });
        // Found by the entries as the policy gives them.
        let (own, services) = self.own_services(subjects, &lookup, &cuts, &added);
        drop(lookup);
        out.consulted.extend(services);
        entries.cut(&cuts);
        entries.add_all(added);
        own
    }

    /// For each subject, addresses of Services that lead only to itself beside what is allowed; and the Services that were
    /// looked at.
    fn own_services(
        &self,
        subjects: &[&Arc<Pod>],
        lookup: &Lookup<'_>,
        cuts: &BTreeMap<IpAddr, Ports>,
        added: &Entries,
    ) -> (Vec<Entries>, BTreeSet<ServiceKey>) {
        let mut each = vec![Entries::default(); subjects.len()];
        let everybody = Lookup::new(added);
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
            let (protocol, port) = (way.port.protocol, way.port.port);
            let refused = way.refused(lookup);
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
                    let cut = cuts
                        .get(address)
                        .is_some_and(|ports| ports.contains(&(protocol, port)));
                    let held = lookup.holds(*address, protocol, port) && !cut;
                    if !held && !everybody.holds(*address, protocol, port) {
                        each[*place].add_address(*address, &PortSet::one(protocol, port));
                    }
                }
            }
        });
        (each, found)
    }

    /// Makes the first of ordered rules that speaks about a Service's address the one that its backends meet: takes the
    /// address out of rules before it, or puts it in. A rule that names the address itself means it, and Deny is never
    /// taken away. Gives for each rule the addresses that go with it.
    pub(super) fn services_ordered(
        &self,
        rules: &mut [(Action, Entries)],
        out: &mut Expansion,
    ) -> Vec<Entries> {
        let lookups: Vec<_> = rules
            .iter()
            .map(|(action, entries)| (*action, Lookup::new(entries)))
            .collect();
        let mut found = BTreeSet::new();
        for (_, entries) in rules.iter() {
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
        let mut cuts: Vec<BTreeMap<IpAddr, Ports>> = vec![BTreeMap::new(); rules.len()];
        self.each_way(&found, |key, way| {
            let (protocol, port) = (way.port.protocol, way.port.port);
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
            let led = places
                .iter()
                .filter(|place| Some(&rank(action(**place))) == chosen)
                .min()
                .copied()
                .flatten();
            let differ = ranks.len() > 1;
            for address in &way.addresses {
                let own = lookups.iter().position(|(action, lookup)| {
                    lookup.names(*address, protocol, port)
                        || (*action == Action::Deny && lookup.covers(*address, protocol, port))
                });
                if own.is_some_and(|own| led.is_none_or(|led| own <= led)) {
                    cut_before(&mut cuts, &lookups, own, *address, (protocol, port));
                    continue;
                }
                cut_before(&mut cuts, &lookups, led, *address, (protocol, port));
                if differ && !self.strict_services {
                    let name = format!("{}/{}", key.0, key.1);
                    out.find(
                        FindingKind::ServiceWider,
                        "spec.egress".to_owned(),
                        format!(
                            "Service {name} port {port}/{} leads to pods on which the rules do not agree: the most permissive one holds for its address",
                            protocol.name()
                        ),
                    );
                    out.wider.insert(name);
                }
                if let Some(led) = led
                    && !lookups[led].1.holds(*address, protocol, port)
                {
                    with[led].add_address(*address, &PortSet::one(protocol, port));
                }
            }
        });
        drop(lookups);
        for ((_, entries), cuts) in rules.iter_mut().zip(&cuts) {
            entries.cut(cuts);
        }
        with
    }
}

/// Takes an address out of the rules before one, or out of all where none speaks.
fn cut_before(
    cuts: &mut [BTreeMap<IpAddr, Ports>],
    lookups: &[(Action, Lookup<'_>)],
    before: Option<usize>,
    address: IpAddr,
    port: (Protocol, u16),
) {
    let most = before.unwrap_or(lookups.len());
    for (cuts, (_, lookup)) in cuts.iter_mut().zip(lookups).take(most) {
        if lookup.covers(address, port.0, port.1) {
            cuts.entry(address).or_default().insert(port);
        }
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
