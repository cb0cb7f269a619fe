//! Services: where their addresses lead.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    model::{EndpointSlice, Endpoints, Namespaces, Pod, PodSet, Service, Target},
    pods::Pods,
};
use policy::{
    documents::{Labels, Protocol},
    prefix::{Family, Prefix},
    select::{Operator, Requirement, Selector},
};

/// Namespace and name.
pub(super) type ServiceKey = (String, String);

/// A Service as a packet meets it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    /// Cluster addresses.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<RoutePort>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RoutePort {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// Addresses and ports of the backends that are ready; of all, where none is.
    pub(super) backends: BTreeSet<(IpAddr, u16)>,
}

impl Route {
    /// (backend, protocol, target port) of everything that it leads to.
    pub(super) fn targets(&self) -> impl Iterator<Item = (IpAddr, Protocol, u16)> {
        self.ports.iter().flat_map(|port| {
            port.backends
                .iter()
                .map(|(address, target)| (*address, port.protocol, *target))
        })
    }
}

#[derive(Default)]
pub(super) struct Services {
    services: BTreeMap<ServiceKey, Service>,
    /// Slices by Service, then by their own name.
    slices: BTreeMap<ServiceKey, BTreeMap<String, EndpointSlice>>,
    /// Endpoints, by Service.
    endpoints: BTreeMap<ServiceKey, Endpoints>,
    /// The Service that a slice (namespace, name) is of.
    slice_of: BTreeMap<(String, String), String>,
    /// As of the last refresh; Services without cluster addresses lead nowhere that a policy must name.
    routes: BTreeMap<ServiceKey, Arc<Route>>,
    by_backend: BTreeMap<IpAddr, BTreeSet<ServiceKey>>,
    by_address: BTreeMap<IpAddr, BTreeSet<ServiceKey>>,
    /// Services with a port that leads to another number, by that number and by their own.
    by_target: BTreeMap<(Protocol, u16), BTreeSet<ServiceKey>>,
    by_port: BTreeMap<(Protocol, u16), BTreeSet<ServiceKey>>,
    /// Services with a selector: by namespace and one label of it.
    by_label: BTreeMap<(String, String, String), BTreeSet<String>>,
    /// Changed since the last refresh.
    dirty: BTreeSet<ServiceKey>,
}

impl Services {
    /// Puts a Service in, or takes one out; whether anything changed.
    pub(super) fn set(&mut self, key: ServiceKey, service: Option<Service>) -> bool {
        if self.services.get(&key) == service.as_ref() {
            return false;
        }
        if let Some(old) = self.services.remove(&key)
            && let Some(label) = first_label(&key.0, &old.selector)
            && let Some(names) = self.by_label.get_mut(&label)
        {
            names.remove(&key.1);
            if names.is_empty() {
                self.by_label.remove(&label);
            }
        }
        if let Some(service) = service {
            if let Some(label) = first_label(&key.0, &service.selector) {
                self.by_label
                    .entry(label)
                    .or_default()
                    .insert(key.1.clone());
            }
            self.services.insert(key.clone(), service);
        }
        self.dirty.insert(key);
        true
    }

    /// Puts a slice in, or takes one out; whether anything changed.
    pub(super) fn set_slice(
        &mut self,
        key: (String, String),
        slice: Option<EndpointSlice>,
    ) -> bool {
        let old = self.slice_of.get(&key).and_then(|service| {
            self.slices
                .get(&(key.0.clone(), service.clone()))?
                .get(&key.1)
        });
        if old == slice.as_ref() {
            return false;
        }
        if let Some(service) = self.slice_of.remove(&key) {
            let of = (key.0.clone(), service);
            if let Some(slices) = self.slices.get_mut(&of) {
                slices.remove(&key.1);
                if slices.is_empty() {
                    self.slices.remove(&of);
                }
            }
            self.dirty.insert(of);
        }
        if let Some(slice) = slice {
            let of = (key.0.clone(), slice.service.clone());
            self.slice_of.insert(key.clone(), slice.service.clone());
            self.slices
                .entry(of.clone())
                .or_default()
                .insert(key.1, slice);
            self.dirty.insert(of);
        }
        true
    }

    /// Puts Endpoints in, or takes them out; whether anything changed.
    pub(super) fn set_endpoints(&mut self, key: ServiceKey, endpoints: Option<Endpoints>) -> bool {
        if self.endpoints.get(&key) == endpoints.as_ref() {
            return false;
        }
        match endpoints {
            Some(endpoints) => self.endpoints.insert(key.clone(), endpoints),
            None => self.endpoints.remove(&key),
        };
        self.dirty.insert(key);
        true
    }

    /// The endpoints of a Service that follow from no selector: those of slices, or where there is none, of Endpoints.
    fn manual(&self, key: &ServiceKey, has_selector: bool) -> Vec<&EndpointSlice> {
        let slices = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        let slices: Vec<_> = slices
            .filter(|s| !(has_selector && s.of_selector))
            .collect();
        if !slices.is_empty() || has_selector {
            return slices;
        }
        let endpoints = self.endpoints.get(key).into_iter();
        endpoints.flat_map(|of| &of.subsets).collect()
    }

    /// A pod came, went or changed: the Services that select it.
    pub(super) fn pod_changed(&mut self, pod: &Pod) {
        for (key, value) in &pod.labels {
            let label = (pod.namespace.clone(), key.clone(), value.clone());
            for name in self.by_label.get(&label).into_iter().flatten() {
                let service = (pod.namespace.clone(), name.clone());
                if self
                    .services
                    .get(&service)
                    .is_some_and(|s| selects(&s.selector, &pod.labels))
                {
                    self.dirty.insert(service);
                }
            }
        }
    }

    /// Works out anew where changed Services lead; gives those that lead elsewhere, before and after.
    pub(super) fn refresh(&mut self, pods: &Pods) -> Vec<(ServiceKey, Arc<Route>, Arc<Route>)> {
        let mut changes = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let after = Arc::new(self.route(&key, pods));
            let before = self.routes.get(&key).cloned().unwrap_or_default();
            if before == after {
                continue;
            }
            self.index(&key, &before, Put::Out);
            self.index(&key, &after, Put::In);
            if after.addresses.is_empty() {
                self.routes.remove(&key);
            } else {
                self.routes.insert(key.clone(), Arc::clone(&after));
            }
            changes.push((key, before, after));
        }
        changes
    }

    /// Puts a Service's route into the indexes, or takes it out.
    fn index(&mut self, key: &ServiceKey, route: &Route, put: Put) {
        for address in &route.addresses {
            put.put(&mut self.by_address, address, key);
        }
        for port in &route.ports {
            for (address, target) in &port.backends {
                put.put(&mut self.by_backend, address, key);
                if *target != port.port {
                    put.put(&mut self.by_target, &(port.protocol, *target), key);
                    put.put(&mut self.by_port, &(port.protocol, port.port), key);
                }
            }
        }
    }

    fn route(&self, key: &ServiceKey, pods: &Pods) -> Route {
        let Some(service) = self.services.get(key) else {
            return Route::default();
        };
        if service.addresses.is_empty() {
            return Route::default();
        }
        let mut backends: Vec<BTreeMap<(IpAddr, u16), bool>> =
            vec![BTreeMap::new(); service.ports.len()];
        let mut put = |place: usize, address, port, ready: bool| {
            *backends[place].entry((address, port)).or_default() |= ready;
        };
        for slice in self.manual(key, !service.selector.is_empty()) {
            for (place, port) in service.ports.iter().enumerate() {
                // Slices tell ports by the name of the Service's port.
                let targets = slice
                    .ports
                    .iter()
                    .filter(|p| p.name == port.name && p.protocol == port.protocol);
                for target in targets {
                    for (address, ready) in &slice.endpoints {
                        put(place, *address, target.port, *ready);
                    }
                }
            }
        }
        if !service.selector.is_empty() {
            let set = PodSet {
                namespaces: Namespaces::One(key.0.clone()),
                pods: equality(&service.selector),
            };
            for pod in pods.select(&set) {
                if pod.finished {
                    continue;
                }
                let ready = service.publish_not_ready || (pod.ready && !pod.terminating);
                for (place, port) in service.ports.iter().enumerate() {
                    if let Some(target) = target(pod, port.protocol, &port.target) {
                        for address in &pod.addresses {
                            put(place, *address, target, ready);
                        }
                    }
                }
            }
        }
        let ports = service.ports.iter().zip(backends);
        Route {
            addresses: service.addresses.clone(),
            ports: ports
                .map(|(port, backends)| RoutePort {
                    protocol: port.protocol,
                    port: port.port,
                    backends: ready(&backends),
                })
                .collect(),
        }
    }

    pub(super) fn route_of(&self, key: &ServiceKey) -> Option<&Arc<Route>> {
        self.routes.get(key)
    }

    /// Services that lead to an address.
    pub(super) fn leading_to(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        self.by_backend.get(&address).into_iter().flatten()
    }

    /// Services that have an address.
    pub(super) fn with_address(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        self.by_address.get(&address).into_iter().flatten()
    }

    /// Services of which a block with holes holds an address and not every backend, or a backend and not every address:
    /// by the smaller of two ways to find them, so that it costs what differs where most does not.
    pub(super) fn crossing(
        &self,
        block: &Prefix,
        except: &[Prefix],
        found: &mut BTreeSet<ServiceKey>,
    ) {
        let crossing = [
            (&self.by_address, &self.by_backend),
            (&self.by_backend, &self.by_address),
        ];
        for (inside, outside) in crossing {
            let mut within = range_of(inside, block).flat_map(|(_, keys)| keys);
            let around = around(outside, block)
                .chain(except.iter().flat_map(|hole| range_of(outside, hole)));
            let mut around = around.flat_map(|(_, keys)| keys);
            let (mut first, mut second) = (Vec::new(), Vec::new());
            let smaller = loop {
                match (within.next(), around.next()) {
                    (None, _) => break first,
                    (_, None) => break second,
                    (Some(a), Some(b)) => {
                        first.push(a);
                        second.push(b);
                    }
                }
            };
            found.extend(smaller.into_iter().cloned());
        }
    }

    /// Services with a port in a range that leads to another, or is led to from another.
    pub(super) fn shifted(
        &self,
        protocol: Protocol,
        (first, last): (u16, u16),
    ) -> impl Iterator<Item = &ServiceKey> {
        let range = (protocol, first)..=(protocol, last);
        let by_port = self.by_port.range(range.clone());
        by_port
            .chain(self.by_target.range(range))
            .flat_map(|(_, keys)| keys)
    }
}

type ByAddress = BTreeMap<IpAddr, BTreeSet<ServiceKey>>;

fn range_of<'a>(
    map: &'a ByAddress,
    block: &Prefix,
) -> impl Iterator<Item = (&'a IpAddr, &'a BTreeSet<ServiceKey>)> + use<'a> {
    map.range(block.address()..=block.last_address())
}

/// What is of the block's family and outside of it.
fn around<'a>(
    map: &'a ByAddress,
    block: &Prefix,
) -> impl Iterator<Item = (&'a IpAddr, &'a BTreeSet<ServiceKey>)> + use<'a> {
    use std::ops::Bound::{Excluded, Included};
    let all = Prefix::everything(block.family());
    let below = (block.address() > all.address())
        .then(|| map.range((Included(all.address()), Excluded(block.address()))));
    let above = (block.last_address() < all.last_address())
        .then(|| map.range((Excluded(block.last_address()), Included(all.last_address()))));
    below
        .into_iter()
        .flatten()
        .chain(above.into_iter().flatten())
}

/// Those that are ready, in each family on its own; all where none is: then nobody is led anywhere, and the address is
/// known before somebody is.
fn ready(backends: &BTreeMap<(IpAddr, u16), bool>) -> BTreeSet<(IpAddr, u16)> {
    let mut out = BTreeSet::new();
    for family in Family::ALL {
        let of = || {
            backends
                .iter()
                .filter(move |((address, _), _)| Family::of(*address) == family)
        };
        let any = of().any(|(_, ready)| *ready);
        out.extend(
            of().filter(|(_, ready)| **ready || !any)
                .map(|(backend, _)| *backend),
        );
    }
    out
}

/// The number of the pod's port that a Service's port leads to.
fn target(pod: &Pod, protocol: Protocol, target: &Target) -> Option<u16> {
    match target {
        Target::Number(number) => Some(*number),
        Target::Name(name) => pod
            .ports
            .iter()
            .find(|port| !port.init && port.protocol == protocol && port.name == *name)
            .map(|port| port.port),
    }
}

/// Puts a Service under a key of an index, or takes it away.
#[derive(Clone, Copy)]
enum Put {
    In,
    Out,
}

impl Put {
    fn put<K: Ord + Clone>(
        self,
        index: &mut BTreeMap<K, BTreeSet<ServiceKey>>,
        at: &K,
        key: &ServiceKey,
    ) {
        match self {
            Self::In => drop(index.entry(at.clone()).or_default().insert(key.clone())),
            Self::Out => {
                if let Some(keys) = index.get_mut(at) {
                    keys.remove(key);
                    if keys.is_empty() {
                        index.remove(at);
                    }
                }
            }
        }
    }
}

fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

fn first_label(namespace: &str, selector: &Labels) -> Option<(String, String, String)> {
    let (key, value) = selector.iter().next()?;
    Some((namespace.to_owned(), key.clone(), value.clone()))
}

fn equality(labels: &Labels) -> Selector {
    let requirement = |(key, value): (&String, &String)| Requirement {
        key: key.clone(),
        operator: Operator::In([value.clone()].into()),
    };
    Selector {
        requirements: labels.iter().map(requirement).collect(),
    }
}
