//! The cluster as far as it is known, and what changed since it was last resolved.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{
    expand::View,
    file::{PolicyFile, file_name, policy_ref},
    model::{Node, Object, ObjectKey, ObjectKind, Pod, PolicyObject},
    pods::Pods,
    services::{Route, ServiceKey, Services},
    watch::{PolicyId, Watch},
};
use policy::documents::{Labels, PolicyRef};

/// How to resolve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// A Service's address is allowed only where every ready backend is.
    pub strict_services: bool,
    /// What pods of the host's network are as peers.
    pub host_network_peers: HostNetworkPeers,
    /// The node whose pods give workloads; none = no workloads.
    pub node: Option<String>,
    /// Documents name hostIP and podIP of their pods, as objects of the API have to.
    pub endpoint_addresses: bool,
}

/// What a selector makes of pods of the host's network, which share their node's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostNetworkPeers {
    /// Peers by their node's address, as Amazon's controller has it. Not in the kinds of `policy.networking.k8s.io`, whose
    /// selectors never select them.
    #[default]
    Allow,
    /// Never peers.
    Ignore,
}

impl HostNetworkPeers {
    /// Whether they are peers in a policy of this kind.
    pub(super) fn are_peers(self, kind: ObjectKind) -> bool {
        self == Self::Allow && kind.group() != "policy.networking.k8s.io"
    }
}

/// What differs from the last time. To be carried out in this order: a workload may stand in the store only after every
/// document of its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Files of policies, by file name.
    pub policies: Vec<PolicyChange>,
    /// Files of workloads, by namespace and name.
    pub workloads: Vec<WorkloadChange>,
}

/// A change of a policy's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyChange {
    /// It is new, or says something else.
    Write(Arc<PolicyFile>),
    /// The policy is gone.
    Remove {
        /// The policy.
        policy: PolicyRef,
        /// The name of its file.
        file_name: String,
    },
}

impl PolicyChange {
    /// The name of the file.
    pub fn file_name(&self) -> &str {
        match self {
            Self::Write(file) => file.file_name(),
            Self::Remove { file_name, .. } => file_name,
        }
    }
}

/// A pod of the node, as `workloads/` holds it. Pods of the host's network and finished ones have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, once there are any.
    pub addresses: Vec<IpAddr>,
}

/// A change of a workload's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadChange {
    /// It is new, or says something else.
    Put(Workload),
    /// The pod is gone.
    Remove {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// A policy, and what it came to.
struct Entry {
    policy: PolicyObject,
    consulted: BTreeSet<ServiceKey>,
    file: Option<Arc<PolicyFile>>,
}

/// The objects of a cluster, by what policies ask of them.
#[derive(Default)]
pub struct Cluster {
    options: Options,
    pods: Pods,
    services: Services,
    nodes: BTreeMap<String, Node>,
    policies: BTreeMap<ObjectKey, PolicyId>,
    entries: Vec<Option<Entry>>,
    free: Vec<PolicyId>,
    watch: Watch,
    /// Policies that looked at a Service.
    consulting: HashMap<ServiceKey, BTreeSet<PolicyId>>,
    /// Policies to be resolved anew.
    touched: BTreeSet<PolicyId>,
    /// Policies that are gone, by the name of the file that they had.
    gone: BTreeMap<String, PolicyRef>,
    workloads: BTreeMap<(String, String), Workload>,
    /// Pods that changed since.
    changed_pods: BTreeSet<(String, String)>,
}

impl Cluster {
    /// A cluster without objects.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Takes an object in place of the one with its key. Returns whether anything changed: an equal object does nothing.
    pub fn apply(&mut self, object: Object) -> bool {
        match object {
            Object::Policy(policy) => {
                let key = policy.key.clone();
                self.set_policy(&key, Some(*policy))
            }
            Object::Pod(pod) => {
                let name = (pod.namespace.clone(), pod.name.clone());
                self.set_pod(name, Some(*pod))
            }
            Object::Namespace(namespace) => {
                if self.pods.namespace(&namespace.name) == Some(&namespace) {
                    return false;
                }
                let name = namespace.name.clone();
                self.set_namespace(&name, Some(namespace));
                true
            }
            Object::Node(node) => {
                let name = node.name.clone();
                self.set_node(&name, Some(node))
            }
            Object::Service(service) => {
                let key = (service.namespace.clone(), service.name.clone());
                self.services.set(key, Some(*service))
            }
            Object::EndpointSlice(slice) => {
                let key = (slice.namespace.clone(), slice.name.clone());
                self.services.set_slice(key, Some(*slice))
            }
            Object::Endpoints(endpoints) => {
                let key = (endpoints.namespace.clone(), endpoints.name.clone());
                self.services.set_endpoints(key, Some(*endpoints))
            }
            Object::Ignored { .. } => false,
        }
    }

    /// Forgets an object; whether there was one.
    pub fn remove(&mut self, key: &ObjectKey) -> bool {
        let name = || (key.namespace.clone(), key.name.clone());
        match key.kind {
            ObjectKind::Pod => self.set_pod(name(), None),
            ObjectKind::Namespace => {
                let known = self.pods.namespace(&key.name).is_some();
                self.set_namespace(&key.name, None);
                known
            }
            ObjectKind::Node => self.set_node(&key.name, None),
            ObjectKind::Service => self.services.set(name(), None),
            ObjectKind::EndpointSlice => self.services.set_slice(name(), None),
            ObjectKind::Endpoints => self.services.set_endpoints(name(), None),
            _ => self.set_policy(key, None),
        }
    }

    /// Resolves what has to be resolved anew, and tells what came out differently.
    pub fn resolve(&mut self) -> Changes {
        for (key, before, after) in self.services.refresh(&self.pods) {
            self.service_led_elsewhere(&key, &before, &after);
        }
        let mut policies = BTreeMap::new();
        for id in std::mem::take(&mut self.touched) {
            if let Some(file) = self.resolve_one(id) {
                policies.insert(file.file_name().to_owned(), PolicyChange::Write(file));
            }
        }
        for (file_name, policy) in std::mem::take(&mut self.gone) {
            policies.insert(
                file_name.clone(),
                PolicyChange::Remove { policy, file_name },
            );
        }
        Changes {
            policies: policies.into_values().collect(),
            workloads: self.resolve_workloads(),
        }
    }

    /// Every policy's file, as of the last [`Cluster::resolve`], by file name.
    pub fn files(&self) -> impl Iterator<Item = &Arc<PolicyFile>> {
        let files: BTreeMap<&str, &Arc<PolicyFile>> = self
            .entries
            .iter()
            .flatten()
            .filter_map(|entry| entry.file.as_ref())
            .map(|file| (file.file_name(), file))
            .collect();
        files.into_values()
    }

    /// Every workload, as of the last [`Cluster::resolve`], by namespace and name.
    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.workloads.values()
    }

    fn set_policy(&mut self, key: &ObjectKey, policy: Option<PolicyObject>) -> bool {
        let before = self.policies.get(key).copied();
        let old = before.and_then(|id| self.entries[id as usize].as_ref());
        if old.map(|entry| &entry.policy) == policy.as_ref() {
            return false;
        }
        if let Some(id) = before
            && let Some(old) = self.entries[id as usize].take()
        {
            self.watch.remove(id, &old.policy);
            if policy.is_none() {
                self.consult(id, &old.consulted, &BTreeSet::new());
                self.policies.remove(key);
                self.touched.remove(&id);
                self.free.push(id);
                if old.file.is_some() {
                    self.gone.insert(file_name(key), policy_ref(key));
                }
            } else {
                self.entries[id as usize] = Some(old);
            }
        }
        if let Some(policy) = policy {
            let id = before.or_else(|| self.free.pop()).unwrap_or_else(|| {
                self.entries.push(None);
                PolicyId::try_from(self.entries.len() - 1).unwrap_or(PolicyId::MAX)
            });
            self.watch.add(id, &policy);
            self.policies.insert(key.clone(), id);
            self.touched.insert(id);
            match &mut self.entries[id as usize] {
                Some(entry) => entry.policy = policy,
                empty => {
                    *empty = Some(Entry {
                        policy,
                        consulted: BTreeSet::new(),
                        file: None,
                    });
                }
            }
        }
        true
    }

    fn set_pod(&mut self, name: (String, String), pod: Option<Pod>) -> bool {
        let old = self
            .pods
            .named(&name.0, &name.1)
            .and_then(|id| self.pods.get(id).cloned());
        if old.as_deref() == pod.as_ref() {
            return false;
        }
        let namespace = self.pods.namespace_labels(&name.0);
        for pod in old.as_deref().into_iter().chain(&pod) {
            self.services.pod_changed(pod);
            // When everything is to be resolved anyway, as at the start, nobody has to be found.
            if self.touched.len() < self.policies.len() {
                self.watch
                    .of_pod(pod, &namespace, &self.pods, &mut self.touched);
            }
        }
        self.pods.set(&name.0, &name.1, pod);
        self.changed_pods.insert(name);
        true
    }

    fn set_namespace(&mut self, name: &str, namespace: Option<super::model::Namespace>) {
        let (before, after) = self.pods.set_namespace(name, namespace);
        self.watch.of_namespace(&before, &after, &mut self.touched);
    }

    fn set_node(&mut self, name: &str, node: Option<Node>) -> bool {
        if self.nodes.get(name) == node.as_ref() {
            return false;
        }
        for node in self.nodes.get(name).into_iter().chain(&node) {
            self.watch.of_node(&node.labels, &mut self.touched);
        }
        match node {
            Some(node) => self.nodes.insert(name.to_owned(), node),
            None => self.nodes.remove(name),
        };
        true
    }

    /// Touches the policies for which it matters where a Service leads: those that looked at it, and those that name a
    /// backend which is new in it.
    fn service_led_elsewhere(&mut self, key: &ServiceKey, before: &Route, after: &Route) {
        if let Some(ids) = self.consulting.get(key) {
            self.touched.extend(ids);
        }
        if self.touched.len() == self.policies.len() {
            return;
        }
        let known: BTreeSet<_> = before.targets().collect();
        for (address, ..) in after.targets().filter(|t| !known.contains(t)) {
            let mut is_pod = false;
            for pod in self.pods.at(address) {
                is_pod |= !pod.host_network;
                let namespace = self.pods.namespace_labels(&pod.namespace);
                self.watch
                    .of_pod(pod, &namespace, &self.pods, &mut self.touched);
            }
            if !is_pod {
                self.watch.of_any_node(&mut self.touched);
            }
        }
        self.watch.of_route(after, &mut self.touched);
    }

    fn resolve_one(&mut self, id: PolicyId) -> Option<Arc<PolicyFile>> {
        let entry = self.entries.get(id as usize)?.as_ref()?;
        let view = View {
            pods: &self.pods,
            services: &self.services,
            nodes: &self.nodes,
            strict_services: self.options.strict_services,
            host_network_peers: self.options.host_network_peers,
            endpoint_addresses: self.options.endpoint_addresses,
        };
        let out = view.expand(&entry.policy);
        let file = PolicyFile::new(
            &entry.policy,
            out.sets,
            out.findings,
            out.wider,
            out.host_network,
        );
        let changed = entry.file.as_deref() != Some(&file);
        if entry.consulted != out.consulted {
            let before = entry.consulted.clone();
            self.consult(id, &before, &out.consulted);
        }
        let entry = self.entries.get_mut(id as usize)?.as_mut()?;
        entry.consulted = out.consulted;
        // A policy that went and came back within one round has its file.
        self.gone.remove(file.file_name());
        if !changed {
            return None;
        }
        let file = Arc::new(file);
        entry.file = Some(Arc::clone(&file));
        Some(file)
    }

    fn consult(
        &mut self,
        id: PolicyId,
        before: &BTreeSet<ServiceKey>,
        after: &BTreeSet<ServiceKey>,
    ) {
        for key in before.difference(after) {
            if let Some(ids) = self.consulting.get_mut(key) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.consulting.remove(key);
                }
            }
        }
        for key in after.difference(before) {
            self.consulting.entry(key.clone()).or_default().insert(id);
        }
    }

    fn resolve_workloads(&mut self) -> Vec<WorkloadChange> {
        let mut changes = Vec::new();
        for name in std::mem::take(&mut self.changed_pods) {
            let pod = self
                .pods
                .named(&name.0, &name.1)
                .and_then(|id| self.pods.get(id));
            let here = |pod: &&Arc<Pod>| {
                self.options.node.as_deref() == Some(&pod.node)
                    && !pod.host_network
                    && !pod.finished
            };
            let workload = pod.filter(here).map(|pod| Workload {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
                labels: pod.labels.clone(),
                addresses: pod.addresses.clone(),
            });
            if self.workloads.get(&name) == workload.as_ref() {
                continue;
            }
            changes.push(match workload {
                Some(workload) => {
                    self.workloads.insert(name, workload.clone());
                    WorkloadChange::Put(workload)
                }
                None => {
                    self.workloads.remove(&name);
                    WorkloadChange::Remove {
                        namespace: name.0,
                        name: name.1,
                    }
                }
            });
        }
        changes
    }
}
