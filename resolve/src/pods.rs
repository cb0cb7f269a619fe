//! Pods and namespaces by what selectors ask for, so that a selector costs what it selects.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    manifest::NAMESPACE_NAME,
    model::{Namespace, Namespaces, Pod, PodSet},
};
use policy::{
    documents::Labels,
    select::{Operator, Selector},
};

/// A pod's number; free numbers are used again.
pub(super) type PodId = u32;

/// A label.
type Pair = (String, String);

/// What is known of a namespace's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamespaceLabels {
    pub(super) labels: Labels,
    /// They are all there are: the namespace has an object.
    pub(super) known: bool,
}

impl NamespaceLabels {
    /// Whether they are certain to match: labels that are not known match nothing that asks for their absence.
    pub(super) fn matches(&self, selector: &Selector) -> bool {
        self.may_match(selector)
            && (self.known
                || selector.requirements.iter().all(|requirement| {
                    requirement.key == NAMESPACE_NAME
                        || !matches!(
                            requirement.operator,
                            Operator::NotIn(_) | Operator::DoesNotExist
                        )
                }))
    }

    /// Whether they match if there are no others.
    pub(super) fn may_match(&self, selector: &Selector) -> bool {
        selector.matches(Some(&self.labels))
    }
}

#[derive(Default)]
pub(super) struct Pods {
    slots: Vec<Option<Arc<Pod>>>,
    free: Vec<PodId>,
    /// By namespace, then name.
    names: BTreeMap<Arc<str>, BTreeMap<String, PodId>>,
    /// By label; within it by namespace.
    labelled: HashMap<Pair, BTreeSet<(Arc<str>, PodId)>>,
    /// Pods that can be peers, by the names of their ports.
    port_names: HashMap<String, BTreeSet<PodId>>,
    /// Pods that can be peers, by address.
    addresses: BTreeMap<IpAddr, BTreeSet<PodId>>,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    /// Namespaces that have pods and no object.
    unknown: BTreeSet<Arc<str>>,
    /// Namespaces that have an object, by label.
    namespaces_labelled: HashMap<Pair, BTreeSet<Arc<str>>>,
}

impl Pods {
    pub(super) fn get(&self, id: PodId) -> Option<&Arc<Pod>> {
        self.slots.get(id as usize)?.as_ref()
    }

    pub(super) fn named(&self, namespace: &str, name: &str) -> Option<PodId> {
        self.names.get(namespace)?.get(name).copied()
    }

    /// Puts a pod in, or takes one out; gives back what was there before.
    pub(super) fn set(
        &mut self,
        namespace: &str,
        name: &str,
        pod: Option<Pod>,
    ) -> Option<Arc<Pod>> {
        let before = self.named(namespace, name);
        let old = before.and_then(|id| self.slots[id as usize].take());
        if let (Some(id), Some(old)) = (before, &old) {
            self.unindex(id, old);
            if pod.is_none() {
                self.free.push(id);
                if let Some(names) = self.names.get_mut(namespace) {
                    names.remove(name);
                    if names.is_empty() {
                        self.names.remove(namespace);
                        self.unknown.remove(namespace);
                    }
                }
            }
        }
        if let Some(pod) = pod {
            let id = before.or_else(|| self.free.pop()).unwrap_or_else(|| {
                self.slots.push(None);
                PodId::try_from(self.slots.len() - 1).unwrap_or(PodId::MAX)
            });
            let folder = self.folder(namespace);
            if before.is_none() {
                self.names
                    .entry(Arc::clone(&folder))
                    .or_default()
                    .insert(name.to_owned(), id);
                if !self.namespaces.contains_key(namespace) {
                    self.unknown.insert(Arc::clone(&folder));
                }
            }
            self.index(id, &folder, &pod);
            self.slots[id as usize] = Some(Arc::new(pod));
        }
        old
    }

    /// The namespace's name, shared where it is known.
    fn folder(&self, namespace: &str) -> Arc<str> {
        self.names
            .get_key_value(namespace)
            .map_or_else(|| namespace.into(), |(name, _)| Arc::clone(name))
    }

    fn index(&mut self, id: PodId, folder: &Arc<str>, pod: &Pod) {
        for (key, value) in &pod.labels {
            self.labelled
                .entry((key.clone(), value.clone()))
                .or_default()
                .insert((Arc::clone(folder), id));
        }
        if pod.is_peer() {
            for port in &pod.ports {
                self.port_names
                    .entry(port.name.clone())
                    .or_default()
                    .insert(id);
            }
            for address in &pod.addresses {
                self.addresses.entry(*address).or_default().insert(id);
            }
        }
    }

    fn unindex(&mut self, id: PodId, pod: &Pod) {
        let folder = self.folder(&pod.namespace);
        for (key, value) in &pod.labels {
            let pair = (key.clone(), value.clone());
            if let Some(set) = self.labelled.get_mut(&pair) {
                set.remove(&(Arc::clone(&folder), id));
                if set.is_empty() {
                    self.labelled.remove(&pair);
                }
            }
        }
        for port in &pod.ports {
            if let Some(set) = self.port_names.get_mut(&port.name) {
                set.remove(&id);
                if set.is_empty() {
                    self.port_names.remove(&port.name);
                }
            }
        }
        for address in &pod.addresses {
            if let Some(set) = self.addresses.get_mut(address) {
                set.remove(&id);
                if set.is_empty() {
                    self.addresses.remove(address);
                }
            }
        }
    }

    /// Puts a namespace in, or takes one out; gives back its labels before and after. A namespace without an object is
    /// there too, as soon as it is named: with the label that every namespace has, and others that are not known.
    pub(super) fn set_namespace(
        &mut self,
        name: &str,
        namespace: Option<Namespace>,
    ) -> (NamespaceLabels, NamespaceLabels) {
        let before = self.namespace_labels(name);
        if let Some(old) = self.namespaces.remove(name) {
            for pair in old.labels {
                if let Some(set) = self.namespaces_labelled.get_mut(&pair) {
                    set.remove(name);
                    if set.is_empty() {
                        self.namespaces_labelled.remove(&pair);
                    }
                }
            }
        }
        if let Some(namespace) = namespace {
            let key: Arc<str> = name.into();
            for (label, value) in &namespace.labels {
                self.namespaces_labelled
                    .entry((label.clone(), value.clone()))
                    .or_default()
                    .insert(Arc::clone(&key));
            }
            self.unknown.remove(&key);
            self.namespaces.insert(key, namespace);
        } else if let Some((key, _)) = self.names.get_key_value(name) {
            self.unknown.insert(Arc::clone(key));
        }
        (before, self.namespace_labels(name))
    }

    pub(super) fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    pub(super) fn namespace_labels(&self, name: &str) -> NamespaceLabels {
        match self.namespaces.get(name) {
            Some(namespace) => NamespaceLabels {
                labels: namespace.labels.clone(),
                known: true,
            },
            None => NamespaceLabels {
                labels: Labels::from([(NAMESPACE_NAME.to_owned(), name.to_owned())]),
                known: false,
            },
        }
    }

    fn namespace_matches(&self, name: &str, selector: &Selector) -> bool {
        match self.namespaces.get(name) {
            Some(namespace) => selector.matches(Some(&namespace.labels)),
            None => self.namespace_labels(name).matches(selector),
        }
    }

    /// Namespaces that have pods and no object, and are not in the set only because their labels are not known.
    pub(super) fn left_out(&self, set: &PodSet) -> Vec<&str> {
        let Namespaces::Select(selector) = &set.namespaces else {
            return Vec::new();
        };
        let unknown = self.unknown.iter().map(AsRef::as_ref);
        unknown
            .filter(|name| {
                let labels = self.namespace_labels(name);
                labels.may_match(selector) && !labels.matches(selector)
            })
            .collect()
    }

    /// Whether the pod is in the set, hostNetwork and phase aside, or could be if its namespace's labels were known.
    pub(super) fn may_be_in(&self, pod: &Pod, namespace: &NamespaceLabels, set: &PodSet) -> bool {
        match &set.namespaces {
            Namespaces::One(name) => *name == pod.namespace && set.pods.matches(Some(&pod.labels)),
            // What is left out is told, whatever the pod's labels.
            Namespaces::Select(selector) => {
                namespace.may_match(selector)
                    && (!namespace.known || set.pods.matches(Some(&pod.labels)))
            }
        }
    }

    /// The pods of a set, hostNetwork and phase aside, in the order of their names.
    pub(super) fn select(&self, set: &PodSet) -> Vec<&Arc<Pod>> {
        let mut out = Vec::new();
        match &set.namespaces {
            Namespaces::One(name) => self.select_in(name, &set.pods, &mut out),
            Namespaces::Select(selector) => match (self.few_namespaces(selector), pivot(&set.pods))
            {
                (Some(names), _) => {
                    for name in names {
                        self.select_in(&name, &set.pods, &mut out);
                    }
                }
                (None, Some((key, values))) => {
                    let mut known: Option<(&str, bool)> = None;
                    for value in values {
                        for (folder, id) in self
                            .labelled
                            .get(&(key.clone(), value.clone()))
                            .into_iter()
                            .flatten()
                        {
                            let matches = match known {
                                Some((name, matches)) if *name == **folder => matches,
                                _ => self.namespace_matches(folder, selector),
                            };
                            known = Some((folder, matches));
                            if matches {
                                out.extend(self.matching(*id, &set.pods));
                            }
                        }
                    }
                }
                (None, None) => {
                    for name in self.names.keys() {
                        if self.namespace_matches(name, selector) {
                            self.select_in(name, &set.pods, &mut out);
                        }
                    }
                }
            },
        }
        out.sort_unstable_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        out
    }

    fn matching(&self, id: PodId, pods: &Selector) -> Option<&Arc<Pod>> {
        self.get(id).filter(|pod| pods.matches(Some(&pod.labels)))
    }

    fn select_in<'a>(&'a self, name: &str, pods: &Selector, out: &mut Vec<&'a Arc<Pod>>) {
        let Some((folder, names)) = self.names.get_key_value(name) else {
            return;
        };
        match pivot(pods) {
            None => out.extend(names.values().filter_map(|id| self.matching(*id, pods))),
            Some((key, values)) => {
                for value in values {
                    let Some(ids) = self.labelled.get(&(key.clone(), value.clone())) else {
                        continue;
                    };
                    let range = (Arc::clone(folder), 0)..=(Arc::clone(folder), PodId::MAX);
                    out.extend(
                        ids.range(range)
                            .filter_map(|(_, id)| self.matching(*id, pods)),
                    );
                }
            }
        }
    }

    /// The namespaces that a selector takes, where a label tells them at once.
    fn few_namespaces(&self, selector: &Selector) -> Option<BTreeSet<Arc<str>>> {
        let (key, values) = pivot(selector)?;
        let mut names: BTreeSet<Arc<str>> = values
            .iter()
            .filter_map(|value| self.namespaces_labelled.get(&(key.clone(), value.clone())))
            .flatten()
            .cloned()
            .collect();
        if key == NAMESPACE_NAME {
            // Namespaces without an object have this label too.
            names.extend(values.iter().map(|value| Arc::from(value.as_str())));
        }
        names.retain(|name| self.namespace_matches(name, selector));
        Some(names)
    }

    /// Pods that can be peers and have a port of this name, in the order of their names.
    pub(super) fn with_port(&self, name: &str) -> Vec<&Arc<Pod>> {
        let ids = self.port_names.get(name).into_iter().flatten();
        let mut out: Vec<_> = ids.filter_map(|id| self.get(*id)).collect();
        out.sort_unstable_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        out
    }

    /// Pods that can be peers and have this address.
    pub(super) fn at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Pod>> {
        let ids = self.addresses.get(&address).into_iter().flatten();
        ids.filter_map(|id| self.get(*id))
    }
}

/// A requirement that narrows a selector down to label values.
pub(super) fn pivot(selector: &Selector) -> Option<(&String, &BTreeSet<String>)> {
    selector
        .requirements
        .iter()
        .filter_map(|requirement| match &requirement.operator {
            Operator::In(values) => Some((&requirement.key, values)),
            _ => None,
        })
        .min_by_key(|(_, values)| values.len())
}
