//! The state of sync: what the API says, what the store holds, and the way from one to the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use resolve::{Changes, ObjectKey, Options, PolicyChange, PolicyFile, WorkloadChange};
use serde::Deserialize;
use state::{Store, Workload};
use tokio::sync::mpsc::Sender;
use tracing::{info, warn};

use super::{
    documents::{Document, PolicyName},
    namespaces::{Namespaces, Served},
    report::{Problem, Report},
    store::{PodName, Written},
};
use crate::{
    api::{Access, Query, Raw, Resource, Scope, Update, follow},
    args::SyncArgs,
    contacts::Contacts,
    documents,
    inputs::{Inputs, Token},
};

pub(crate) struct Mirror {
    node: String,
    resolves: bool,
    access: Access,
    updates: Sender<(Token, Update)>,
    /// Of the cluster with `--resolve`; otherwise of this node's pods and of the policies that could select them.
    inputs: Inputs,
    namespaces: Namespaces,
    /// Lists of PolicyEndpoints that have been read.
    listed: BTreeSet<Token>,
    /// Policies with `--resolve`, and cluster-wide policies: who is selected by them.
    files: BTreeMap<PolicyName, Arc<PolicyFile>>,
    workloads: BTreeMap<PodName, Workload>,
    addresses: Option<Vec<IpAddr>>,
    node_is_missing: bool,
    written: Written,
    /// Policies whose file may differ from what it should be.
    dirty_policies: BTreeSet<PolicyName>,
    /// Namespaces whose folder may hold files of policies that are gone.
    dirty_folders: BTreeSet<String>,
    dirty_pods: BTreeSet<PodName>,
    /// Pods that are not known yet, and why.
    waiting: BTreeMap<PodName, String>,
    contacts: Contacts,
    store_error: Option<String>,
    /// All initial lists have been in the store once.
    caught_up: bool,
}

impl Mirror {
    pub(crate) fn new(
        args: &SyncArgs,
        access: Access,
        updates: Sender<(Token, Update)>,
        written: Written,
    ) -> Self {
        let options = Options {
            node: Some(args.node_name.clone()),
            host_network_peers: args.host_network_peers.into(),
            ..Options::default()
        };
        Self {
            node: args.node_name.clone(),
            resolves: args.resolve,
            access,
            updates,
            inputs: Inputs::new(options),
            namespaces: Namespaces::default(),
            listed: BTreeSet::new(),
            files: BTreeMap::new(),
            workloads: BTreeMap::new(),
            addresses: None,
            node_is_missing: false,
            // What an earlier run left is looked at once the pods are known.
            dirty_pods: written.workloads.keys().cloned().collect(),
            written,
            dirty_policies: BTreeSet::new(),
            dirty_folders: BTreeSet::new(),
            waiting: BTreeMap::new(),
            contacts: Contacts::default(),
            store_error: None,
            caught_up: false,
        }
    }

    pub(crate) fn store(&self) -> &Store {
        self.written.store()
    }

    /// Starts the watches that do not depend on pods.
    pub(crate) fn begin(&mut self) {
        self.namespaces.insert("", Served::default());
        for namespace in self.written.namespaces() {
            if !namespace.is_empty() {
                self.serve(&namespace);
            }
        }
        self.dirty_folders.insert(String::new());
        for (token, query) in self.cluster_queries() {
            self.follow(token, query);
        }
    }

    fn cluster_queries(&self) -> Vec<(Token, Query)> {
        let mut queries: Vec<Query> = Resource::CLUSTER_POLICIES
            .into_iter()
            .chain([Resource::APPLICATION_NETWORK_POLICIES])
            .map(Query::all)
            .collect();
        if self.resolves {
            queries.extend(
                [
                    Resource::PODS,
                    Resource::NAMESPACES,
                    Resource::NODES,
                    Resource::SERVICES,
                    Resource::ENDPOINT_SLICES,
                    Resource::NETWORK_POLICIES,
                ]
                .map(Query::all),
            );
        } else {
            queries.push(Query::all(Resource::CLUSTER_POLICY_ENDPOINTS));
            queries.push(Query {
                fields: format!("spec.nodeName={}", self.node),
                ..Query::all(Resource::PODS)
            });
            queries.push(Query {
                fields: format!("metadata.name={}", self.node),
                ..Query::all(Resource::NODES)
            });
        }
        let with_token = |query: Query| ((query.resource, Scope::Cluster), query);
        queries.into_iter().map(with_token).collect()
    }

    fn namespace_queries(namespace: &str) -> [(Token, Query); 3] {
        let scope = || Scope::Namespace(namespace.to_owned());
        let inside = |resource| Query {
            scope: scope(),
            ..Query::all(resource)
        };
        // The namespace itself, for the labels that cluster-wide policies select by.
        let itself = Query {
            fields: format!("metadata.name={namespace}"),
            ..Query::all(Resource::NAMESPACES)
        };
        [
            (
                (Resource::POLICY_ENDPOINTS, scope()),
                inside(Resource::POLICY_ENDPOINTS),
            ),
            (
                (Resource::NETWORK_POLICIES, scope()),
                inside(Resource::NETWORK_POLICIES),
            ),
            ((Resource::NAMESPACES, scope()), itself),
        ]
    }

    fn follow(&mut self, token: Token, query: Query) -> tokio::task::AbortHandle {
        self.contacts.expect(&token);
        let task = follow(self.access.clone(), query, token, self.updates.clone());
        tokio::spawn(task).abort_handle()
    }

    fn serve(&mut self, namespace: &str) {
        if self.namespaces.get(namespace).is_some() {
            return;
        }
        let mut served = Served::default();
        if self.resolves {
            let of_namespace = self.files.keys().filter(|p| p.namespace == namespace);
            self.dirty_policies.extend(of_namespace.cloned());
        } else {
            for (token, query) in Self::namespace_queries(namespace) {
                served.tasks.push(self.follow(token, query));
            }
        }
        self.dirty_folders.insert(namespace.to_owned());
        self.namespaces.insert(namespace, served);
    }

    /// Takes what a watch sent.
    pub(crate) fn take(&mut self, token: &Token, update: Update) {
        self.contacts.heard(token, &update);
        let (resource, scope) = token;
        let namespace = match scope {
            Scope::Cluster => "",
            Scope::Namespace(namespace) => namespace,
        };
        if *resource == Resource::NODES {
            self.take_node(&update);
        }
        if matches!(
            *resource,
            Resource::POLICY_ENDPOINTS | Resource::CLUSTER_POLICY_ENDPOINTS
        ) {
            self.take_document(token, namespace, update);
            return;
        }
        // An update of a namespace that is no longer followed.
        if !namespace.is_empty() && self.namespaces.get(namespace).is_none() {
            return;
        }
        match update {
            Update::Listed { items, .. } => self.inputs.listed(token, &items),
            Update::Changed(raw) => self.inputs.changed(token, &raw),
            Update::Gone(meta) => self.inputs.gone(token, &meta),
            Update::Bookmark(_) | Update::Trouble(_) => {}
        }
    }

    fn take_document(&mut self, token: &Token, namespace: &str, update: Update) {
        let Some(served) = self.namespaces.get_mut(namespace) else {
            return;
        };
        let documents = &mut served.documents;
        let mut touched = Vec::new();
        let mut put = |documents: &mut super::documents::Documents, raw: &Raw| {
            if let Some(document) = Document::read(token.0, raw) {
                touched.extend(documents.put(&raw.meta.name, document));
            }
        };
        match update {
            Update::Listed { items, .. } => {
                let now: BTreeSet<&String> = items.iter().map(|raw| &raw.meta.name).collect();
                let gone: Vec<String> = documents
                    .names()
                    .filter(|name| !now.contains(name))
                    .cloned()
                    .collect();
                for raw in &items {
                    put(documents, raw);
                }
                for name in gone {
                    touched.extend(documents.remove(&name));
                }
                self.listed.insert(token.clone());
                self.dirty_folders.insert(namespace.to_owned());
            }
            Update::Changed(raw) => put(documents, &raw),
            Update::Gone(meta) => touched.extend(documents.remove(&meta.name)),
            Update::Bookmark(_) | Update::Trouble(_) => {}
        }
        self.dirty_policies.extend(touched);
    }

    fn take_node(&mut self, update: &Update) {
        let node = match update {
            Update::Listed { items, .. } => {
                let node = items.iter().find(|raw| raw.meta.name == self.node);
                if node.is_none() && !std::mem::replace(&mut self.node_is_missing, true) {
                    warn!(node = %self.node, "the cluster has no node of this name; check --node-name");
                }
                node
            }
            Update::Changed(raw) if raw.meta.name == self.node => Some(raw),
            Update::Gone(meta) if meta.name == self.node => {
                self.node_is_missing = true;
                None
            }
            _ => None,
        };
        if let Some(raw) = node {
            self.node_is_missing = false;
            self.addresses = Some(node_addresses(&raw.json));
        }
    }

    /// Brings the store to what the API says, as far as that is known.
    pub(crate) fn settle(&mut self, is_tick: bool) {
        if self.resolves && !self.is_cluster_listed() {
            // Half a cluster resolves to other documents than the whole one.
            return;
        }
        let (changes, _) = self.inputs.resolve();
        self.take_changes(changes);
        if self.has_pods() {
            let with_pods: BTreeSet<String> =
                self.workloads.keys().map(|pod| pod.0.clone()).collect();
            for namespace in &with_pods {
                self.serve(namespace);
            }
            if is_tick {
                self.forget_idle(&with_pods);
            }
        }
        if self.store_error.is_some() && !is_tick {
            // Tried again with the next tick.
            return;
        }
        let result = self.write();
        let error = result.err().map(|error| error.to_string());
        if error != self.store_error {
            match &error {
                Some(error) => warn!(%error, "store cannot be written; trying again every second"),
                None => info!("the store can be written again"),
            }
        }
        self.store_error = error;
        let begun = self.is_cluster_listed() && self.has_pods();
        let all = |namespace: &String| self.is_listed(namespace);
        let served = self.workloads.keys().map(|pod| &pod.0);
        if !self.caught_up && begun && self.store_error.is_none() && { served }.all(all) {
            self.caught_up = true;
            info!("caught up: the initial lists are in the store");
        }
    }

    fn take_changes(&mut self, changes: Changes) {
        for change in changes.policies {
            let (key, file) = match change {
                PolicyChange::Write(file) => (policy_name(file.key()), Some(file)),
                PolicyChange::Remove { policy, .. } => {
                    let name = PolicyName {
                        namespace: policy.namespace,
                        kind: policy.kind,
                        name: policy.name,
                    };
                    (name, None)
                }
            };
            if self.resolves {
                self.dirty_policies.insert(key.clone());
            } else if !key.namespace.is_empty() {
                continue;
            }
            match file {
                Some(file) => self.files.insert(key, file),
                None => self.files.remove(&key),
            };
        }
        for change in changes.workloads {
            let name = match change {
                WorkloadChange::Put(pod) => {
                    let name = (pod.namespace.clone(), pod.name.clone());
                    let workload = Workload {
                        namespace: pod.namespace,
                        name: pod.name,
                        uid: pod.uid,
                        labels: pod.labels,
                        addresses: pod.addresses,
                    };
                    self.workloads.insert(name.clone(), workload);
                    name
                }
                WorkloadChange::Remove { namespace, name } => {
                    let name = (namespace, name);
                    self.workloads.remove(&name);
                    name
                }
            };
            self.dirty_pods.insert(name);
        }
    }

    fn forget_idle(&mut self, with_pods: &BTreeSet<String>) {
        let store = self.written.store();
        let endpoints = || {
            let records = store.records().ok()?;
            // One that cannot be read could be of any namespace.
            let all = records.problems.is_empty();
            let namespaces = records.good.into_iter().map(|record| record.pod_namespace);
            all.then(|| namespaces.collect())
        };
        for namespace in self.namespaces.expired(with_pods, endpoints) {
            info!(%namespace, "no pod of the namespace is here any more");
            self.namespaces.remove(&namespace);
            for (token, _) in Self::namespace_queries(&namespace) {
                self.inputs.drop_token(&token);
                self.listed.remove(&token);
                self.contacts.forget(&token);
            }
            self.dirty_policies
                .retain(|policy| policy.namespace != namespace);
            self.dirty_folders.insert(namespace);
        }
    }

    fn has_pods(&self) -> bool {
        self.inputs.has(&(Resource::PODS, Scope::Cluster))
    }

    fn has(&self, resource: Resource) -> bool {
        let token = (resource, Scope::Cluster);
        self.inputs.has(&token) || self.listed.contains(&token)
    }

    /// Whether every list that is not a namespace's has been read.
    fn is_cluster_listed(&self) -> bool {
        self.cluster_queries()
            .iter()
            .all(|(token, _)| self.has(token.0))
    }

    /// Whether the documents of a namespace are all here (empty = the cluster-wide ones).
    fn has_documents(&self, namespace: &str) -> bool {
        if self.resolves {
            return self.is_cluster_listed();
        }
        match namespace {
            "" => self.has(Resource::CLUSTER_POLICY_ENDPOINTS),
            _ => {
                let scope = Scope::Namespace(namespace.to_owned());
                self.listed.contains(&(Resource::POLICY_ENDPOINTS, scope))
            }
        }
    }

    /// Whether every list of a namespace has been read.
    fn is_listed(&self, namespace: &str) -> bool {
        self.resolves
            || Self::namespace_queries(namespace)
                .iter()
                .all(|(token, _)| self.inputs.has(token) || self.listed.contains(token))
    }

    /// Writes what differs: documents, then what is gone, then workloads.
    fn write(&mut self) -> Result<(), state::Error> {
        if let Some(addresses) = &self.addresses {
            self.written.addresses(addresses)?;
        }
        let ready: Vec<PolicyName> = self
            .dirty_policies
            .iter()
            .filter(|policy| self.has_documents(&policy.namespace))
            .cloned()
            .collect();
        for policy in ready {
            let text = self.text(&policy);
            self.written.policy(&policy, text.as_deref())?;
            self.dirty_policies.remove(&policy);
        }
        let folders: Vec<String> = self
            .dirty_folders
            .iter()
            .filter(|namespace| match self.namespaces.get(namespace) {
                Some(_) => self.has_documents(namespace),
                None => self.has_pods(),
            })
            .cloned()
            .collect();
        for namespace in folders {
            let keep: Vec<PolicyName> = match self.namespaces.get(&namespace) {
                None => Vec::new(),
                Some(_) if self.resolves => self
                    .files
                    .keys()
                    .filter(|policy| policy.namespace == namespace)
                    .cloned()
                    .collect(),
                Some(served) => served.documents.policies().cloned().collect(),
            };
            self.written.sweep(&namespace, keep.iter())?;
            self.dirty_folders.remove(&namespace);
        }
        self.write_workloads()
    }

    fn text(&self, policy: &PolicyName) -> Option<Vec<u8>> {
        let served = self.namespaces.get(&policy.namespace)?;
        if self.resolves {
            return self.files.get(policy).map(|file| documents::list(file));
        }
        served.documents.list(policy)
    }

    fn write_workloads(&mut self) -> Result<(), state::Error> {
        if !self.has_pods() {
            return Ok(());
        }
        let pods: Vec<PodName> = self.dirty_pods.iter().cloned().collect();
        for pod in pods {
            let wanted = self.workloads.get(&pod).cloned();
            let is_known = |workload: &Workload| {
                let there = self.written.workloads.get(&pod);
                there.is_some_and(|there| there.uid == workload.uid)
            };
            if let Some(workload) = &wanted
                && !is_known(workload)
                && let Err(why) = self.may_be_known(&pod)
            {
                self.waiting.insert(pod, why);
                continue;
            }
            self.written.workload(&pod, wanted.as_ref())?;
            self.waiting.remove(&pod);
            self.dirty_pods.remove(&pod);
        }
        Ok(())
    }

    /// Whether every document that could select a new pod is in the store; why not.
    fn may_be_known(&self, pod: &PodName) -> Result<(), String> {
        if !self.is_cluster_listed() || !self.is_listed(&pod.0) {
            return Err("waiting for the lists of policies".to_owned());
        }
        let concerns = |namespace: &str| namespace.is_empty() || namespace == pod.0;
        if let Some(policy) = self.dirty_policies.iter().find(|p| concerns(&p.namespace)) {
            return Err(format!("{} is not in the store yet", policy.name));
        }
        if self.resolves {
            return Ok(());
        }
        for (key, meta) in self.inputs.policies() {
            if !concerns(&key.namespace) {
                continue;
            }
            let name = policy_name(key);
            let listed = self.files.get(&name).is_some_and(|file| selects(file, pod));
            let covered = self.namespaces.get(&key.namespace).is_some_and(|served| {
                served
                    .documents
                    .cover(&name, &meta.generation, listed.then_some(pod))
            });
            if !covered {
                return Err(format!(
                    "waiting for the PolicyEndpoints of {key}, generation {}: is podgate-controller, or Amazon's, running?",
                    meta.generation
                ));
            }
        }
        Ok(())
    }

    /// What is to be said of all this.
    pub(crate) fn report(&self, report: &mut Report) {
        report.caught_up = self.caught_up;
        report.pods = self.workloads.len();
        report.waiting = self.waiting.len();
        report.policies = self.written.policies();
        report.writes = self.written.writes;
        report.store_failed(self.store_error.clone());
        report.contacts.clone_from(&self.contacts);
        report.problems.clear();
        if self.node_is_missing {
            report.problems.push(Problem::new(
                "NodeNotFound",
                format!("the cluster has no node {}; check --node-name", self.node),
            ));
        }
        for (pod, why) in self.waiting.iter().take(20) {
            let text = format!("pod {}/{}: {why}", pod.0, pod.1);
            report.problems.push(Problem::new("PodWaiting", text));
        }
    }
}

fn policy_name(key: &ObjectKey) -> PolicyName {
    PolicyName {
        namespace: key.namespace.clone(),
        kind: key.kind.name().to_owned(),
        name: key.name.clone(),
    }
}

/// Whether a policy's documents list a pod.
fn selects(file: &PolicyFile, pod: &PodName) -> bool {
    documents::marked(file).iter().any(|document| {
        let pods = document["spec"]["podSelectorEndpoints"].as_array();
        pods.into_iter()
            .flatten()
            .any(|of| of["namespace"] == pod.0.as_str() && of["name"] == pod.1.as_str())
    })
}

/// A node's addresses; the other types are names.
fn node_addresses(json: &str) -> Vec<IpAddr> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Node {
        status: Status,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Status {
        addresses: Vec<Address>,
    }
    #[derive(Deserialize)]
    struct Address {
        address: String,
    }
    let node: Node = serde_json::from_str(json).unwrap_or_default();
    let mut addresses: Vec<IpAddr> = node
        .status
        .addresses
        .iter()
        .filter_map(|entry| entry.address.parse().ok())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
