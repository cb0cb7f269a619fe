//! Who names a pod, a namespace, an address: the indexes that let a change touch the policies it concerns and no other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    net::IpAddr,
};

use super::{
    allow::PortSet,
    expand::peers,
    model::{Namespaces, Peer, Pod, PodSet, PolicyObject, PortMatch, Rule},
    pods::{NamespaceLabels, Pods, pivot},
    services::Route,
};
use policy::{
    documents::Labels,
    prefix::{Family, Prefix},
    select::Selector,
};

/// A policy's number.
pub(super) type PolicyId = u32;

/// What a set of pods can be found by: something that every pod of it has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Handle {
    /// A label, in one namespace or in any.
    Label(Option<String>, String, String),
    /// The namespace.
    Namespace(String),
    /// A label of the namespace.
    NamespaceLabel(String, String),
    /// Nothing in particular.
    Any,
}

impl Handle {
    fn of_set(set: &PodSet) -> Vec<Self> {
        match (&set.namespaces, pivot(&set.pods)) {
            (namespaces, Some((key, values))) => {
                let namespace = match namespaces {
                    Namespaces::One(name) => Some(name.clone()),
                    Namespaces::Select(_) => None,
                };
                let label =
                    |value: &String| Self::Label(namespace.clone(), key.clone(), value.clone());
                values.iter().map(label).collect()
            }
            (Namespaces::One(name), None) => vec![Self::Namespace(name.clone())],
            (Namespaces::Select(selector), None) => Self::of_namespaces(selector),
        }
    }

    fn of_namespaces(selector: &Selector) -> Vec<Self> {
        match pivot(selector) {
            Some((key, values)) => values
                .iter()
                .map(|value| Self::NamespaceLabel(key.clone(), value.clone()))
                .collect(),
            None => vec![Self::Any],
        }
    }
}

/// The rest of an egress rule about a block: its holes and its ports.
type BlockRule = (Vec<Prefix>, PortSet);

/// Lists of what policies have under a key.
#[derive(Debug)]
struct Index<K, V>(HashMap<K, BTreeMap<PolicyId, Vec<V>>>);

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq, V> Index<K, V> {
    fn put(&mut self, key: K, id: PolicyId, value: V) {
        self.0
            .entry(key)
            .or_default()
            .entry(id)
            .or_default()
            .push(value);
    }

    fn remove(&mut self, key: &K, id: PolicyId) {
        if let Some(policies) = self.0.get_mut(key) {
            policies.remove(&id);
            if policies.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn under(&self, key: &K) -> impl Iterator<Item = (PolicyId, &V)> {
        let policies = self.0.get(key).into_iter().flatten();
        policies.flat_map(|(id, values)| values.iter().map(|value| (*id, value)))
    }
}

#[derive(Default)]
pub(super) struct Watch {
    sets: Index<Handle, PodSet>,
    namespaces: Index<Handle, Selector>,
    port_names: Index<String, ()>,
    blocks: Index<Prefix, BlockRule>,
    /// Lengths of blocks, with how many there are.
    lengths: BTreeMap<(Family, u8), usize>,
    /// Policies with nodes as peers.
    nodes: BTreeMap<PolicyId, Vec<Selector>>,
}

impl Watch {
    pub(super) fn add(&mut self, id: PolicyId, policy: &PolicyObject) {
        for set in policy.pod_sets() {
            for handle in Handle::of_set(set) {
                self.sets.put(handle, id, set.clone());
            }
            if let Namespaces::Select(selector) = &set.namespaces {
                for handle in Handle::of_namespaces(selector) {
                    self.namespaces.put(handle, id, selector.clone());
                }
            }
        }
        for name in port_names(policy) {
            self.port_names.put(name.to_owned(), id, ());
        }
        for (block, rule) in blocks(policy) {
            let length = (block.family(), block.len());
            *self.lengths.entry(length).or_default() += 1;
            self.blocks.put(block, id, rule);
        }
        let nodes: Vec<_> = nodes(policy).cloned().collect();
        if !nodes.is_empty() {
            self.nodes.insert(id, nodes);
        }
    }

    pub(super) fn remove(&mut self, id: PolicyId, policy: &PolicyObject) {
        for set in policy.pod_sets() {
            for handle in Handle::of_set(set) {
                self.sets.remove(&handle, id);
            }
            if let Namespaces::Select(selector) = &set.namespaces {
                for handle in Handle::of_namespaces(selector) {
                    self.namespaces.remove(&handle, id);
                }
            }
        }
        for name in port_names(policy) {
            self.port_names.remove(&name.to_owned(), id);
        }
        for (block, _) in blocks(policy) {
            let length = (block.family(), block.len());
            if let Some(count) = self.lengths.get_mut(&length) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&length);
                }
            }
            self.blocks.remove(&block, id);
        }
        self.nodes.remove(&id);
    }

    /// Policies that a pod is a subject or a peer of.
    pub(super) fn of_pod(
        &self,
        pod: &Pod,
        namespace: &NamespaceLabels,
        pods: &Pods,
        touched: &mut BTreeSet<PolicyId>,
    ) {
        let mut handles = vec![Handle::Namespace(pod.namespace.clone()), Handle::Any];
        for (key, value) in &pod.labels {
            let label = |of| Handle::Label(of, key.clone(), value.clone());
            handles.extend([label(Some(pod.namespace.clone())), label(None)]);
        }
        for (key, value) in &namespace.labels {
            handles.push(Handle::NamespaceLabel(key.clone(), value.clone()));
        }
        for handle in handles {
            for (id, set) in self.sets.under(&handle) {
                if !touched.contains(&id) && pods.may_be_in(pod, namespace, set) {
                    touched.insert(id);
                }
            }
        }
        for port in &pod.ports {
            touched.extend(self.port_names.under(&port.name).map(|(id, ())| id));
        }
    }

    /// Policies for which a namespace comes or goes when its labels change so.
    pub(super) fn of_namespace(
        &self,
        before: &NamespaceLabels,
        after: &NamespaceLabels,
        touched: &mut BTreeSet<PolicyId>,
    ) {
        let mut handles = vec![Handle::Any];
        for (key, value) in before.labels.iter().chain(&after.labels) {
            handles.push(Handle::NamespaceLabel(key.clone(), value.clone()));
        }
        for handle in handles {
            for (id, selector) in self.namespaces.under(&handle) {
                let answers = |labels: &NamespaceLabels| {
                    (labels.matches(selector), labels.may_match(selector))
                };
                if answers(before) != answers(after) {
                    touched.insert(id);
                }
            }
        }
    }

    /// Policies that a node is a peer of.
    pub(super) fn of_node(&self, labels: &Labels, touched: &mut BTreeSet<PolicyId>) {
        for (id, selectors) in &self.nodes {
            if selectors.iter().any(|s| s.matches(Some(labels))) {
                touched.insert(*id);
            }
        }
    }

    /// Policies that have nodes as peers.
    pub(super) fn of_any_node(&self, touched: &mut BTreeSet<PolicyId>) {
        touched.extend(self.nodes.keys());
    }

    /// Policies with a block that holds a Service's address otherwise than its backends.
    pub(super) fn of_route(&self, route: &Route, touched: &mut BTreeSet<PolicyId>) {
        let backends = route.targets().map(|(address, ..)| address);
        let addresses: BTreeSet<IpAddr> = route.addresses.iter().copied().chain(backends).collect();
        let mut blocks = BTreeSet::new();
        for address in addresses {
            let family = Family::of(address);
            let lengths = self.lengths.range((family, 0)..=(family, u8::MAX));
            blocks.extend(lengths.map(|((_, len), _)| Prefix::new(address, *len)));
        }
        for block in blocks {
            for (id, (except, ports)) in self.blocks.under(&block) {
                if !touched.contains(&id) && crosses(&block, except, ports, route) {
                    touched.insert(id);
                }
            }
        }
    }
}

/// Whether a rule about a block holds a Service's address otherwise than one of its backends.
fn crosses(block: &Prefix, except: &[Prefix], ports: &PortSet, route: &Route) -> bool {
    let within =
        |address: &IpAddr| block.holds(*address) && !except.iter().any(|hole| hole.holds(*address));
    let of_family = |address: &&IpAddr| Family::of(**address) == block.family();
    let exact = block.is_exact();
    route.ports.iter().any(|port| {
        let held = ports.holds(port.protocol, port.port);
        route.addresses.iter().filter(of_family).any(|address| {
            let allowed = held && within(address);
            let backends = port.backends.iter().filter(|(a, _)| of_family(&a));
            backends.into_iter().any(|(backend, target)| {
                (exact && within(address))
                    || allowed != (within(backend) && ports.holds(port.protocol, *target))
            })
        })
    })
}

fn nodes(policy: &PolicyObject) -> impl Iterator<Item = &Selector> {
    policy
        .rules()
        .flat_map(|rule| rule.peers.iter().flatten())
        .filter_map(|peer| match peer {
            Peer::Nodes(selector) => Some(selector),
            _ => None,
        })
}

/// Names of ports that are looked up in every pod: those of rules towards blocks or anybody.
fn port_names(policy: &PolicyObject) -> impl Iterator<Item = &str> {
    let wide = |rule: &&Rule| match &rule.peers {
        None => true,
        Some(peers) => peers
            .iter()
            .any(|peer| matches!(peer, Peer::Block { .. } | Peer::Networks(_))),
    };
    policy
        .egress
        .iter()
        .filter(wide)
        .flat_map(|rule| rule.ports.iter().flatten())
        .filter_map(|port| match port {
            PortMatch::Named { name, .. } => Some(name.as_str()),
            PortMatch::Numbers { .. } => None,
        })
}

/// Blocks of egress rules. A block of everything with every port holds a Service's address and its backends alike.
fn blocks(policy: &PolicyObject) -> impl Iterator<Item = (Prefix, BlockRule)> {
    policy.egress.iter().flat_map(|rule| {
        let mut blocks: Vec<(Prefix, Vec<Prefix>)> = Vec::new();
        match &rule.peers {
            None if rule.ports.is_none() => {}
            None => blocks.extend(Family::ALL.map(|f| (Prefix::everything(f), Vec::new()))),
            Some(peers) => {
                for peer in peers {
                    match peer {
                        Peer::Block { cidr, except } => blocks.push((*cidr, except.clone())),
                        Peer::Networks(networks) => {
                            blocks.extend(networks.iter().map(|cidr| (*cidr, Vec::new())));
                        }
                        _ => {}
                    }
                }
            }
        }
        let ports = peers::numbers(rule);
        blocks
            .into_iter()
            .filter(|_| !ports.is_nothing())
            .map(|(block, except)| (block, (except, ports.clone())))
            .collect::<Vec<_>>()
    })
}
