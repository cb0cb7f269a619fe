//! The part of the store that sync owns: what is there, and what is written and removed.
//!
//! Invariant: nothing is written that is there already, so a restart writes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use state::{Layout, Store, Workload, file};

use super::documents::PolicyName;

/// The folder of cluster-wide policies: no namespace can have this name.
const CLUSTER_WIDE: &str = "_cluster";

/// A pod: namespace and name.
pub(crate) type PodName = (String, String);

/// What sync wrote.
pub(crate) struct Written {
    store: Store,
    /// File names below `policies/cluster/`, by folder.
    policies: BTreeMap<String, BTreeSet<String>>,
    pub(crate) workloads: BTreeMap<PodName, Workload>,
    addresses: Option<Vec<IpAddr>>,
    /// Files written or removed.
    pub(crate) writes: u64,
}

impl Written {
    /// What an earlier run left.
    pub(crate) fn read(store: Store) -> Result<Self, state::Error> {
        let mut policies = BTreeMap::new();
        let root = store.layout().policies().join("cluster");
        for folder in names(&root) {
            let files = names(&root.join(&folder));
            policies.insert(folder, files.into_iter().collect());
        }
        let workloads = store.workloads()?.pods;
        Ok(Self {
            policies,
            workloads,
            addresses: None,
            writes: 0,
            store,
        })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Namespaces of which there are documents; empty = cluster-wide ones.
    pub(crate) fn namespaces(&self) -> BTreeSet<String> {
        self.policies
            .keys()
            .filter_map(|folder| match folder.as_str() {
                CLUSTER_WIDE => Some(String::new()),
                folder => layout_name(folder),
            })
            .collect()
    }

    /// The number of policies that have a file.
    pub(crate) fn policies(&self) -> usize {
        self.policies.values().map(BTreeSet::len).sum()
    }

    /// Writes a policy's file, or removes it.
    pub(crate) fn policy(
        &mut self,
        policy: &PolicyName,
        text: Option<&[u8]>,
    ) -> Result<(), state::Error> {
        let (folder, stem) = (folder_of(&policy.namespace), stem_of(policy));
        let path = self.store.layout().cluster_policy(folder, &stem)?;
        let name = file_name(&path);
        match text {
            Some(text) => {
                if file::read_optional(&path).ok().flatten().as_deref() != Some(text) {
                    self.store.put_cluster_policy(folder, &stem, text)?;
                    self.writes += 1;
                }
                let folder = parent_name(&path);
                self.policies.entry(folder).or_default().insert(name);
            }
            None => {
                if self.store.remove_cluster_policy(folder, &stem)? {
                    self.writes += 1;
                }
                if let Some(names) = self.policies.get_mut(&parent_name(&path)) {
                    names.remove(&name);
                }
            }
        }
        Ok(())
    }

    /// Removes the files of a namespace that no policy of `keep` has.
    pub(crate) fn sweep<'a>(
        &mut self,
        namespace: &str,
        keep: impl Iterator<Item = &'a PolicyName>,
    ) -> Result<(), state::Error> {
        let layout = self.store.layout();
        let mut wanted = BTreeSet::new();
        for policy in keep {
            let path = layout.cluster_policy(folder_of(namespace), &stem_of(policy))?;
            wanted.insert(file_name(&path));
        }
        let sample = layout.cluster_policy(folder_of(namespace), "any")?;
        let Some(root) = sample.parent() else {
            return Ok(());
        };
        let Some(names) = self.policies.get_mut(&parent_name(&sample)) else {
            return Ok(());
        };
        let gone: Vec<String> = names.difference(&wanted).cloned().collect();
        for name in gone {
            if file::remove(&root.join(&name), file::Durability::Durable)? {
                self.writes += 1;
            }
            names.remove(&name);
        }
        Ok(())
    }

    /// Writes a pod's file, or removes it.
    pub(crate) fn workload(
        &mut self,
        name: &PodName,
        workload: Option<&Workload>,
    ) -> Result<(), state::Error> {
        if self.workloads.get(name) == workload {
            return Ok(());
        }
        match workload {
            Some(workload) => {
                self.store.put_workload(workload)?;
                self.workloads.insert(name.clone(), workload.clone());
            }
            None => {
                self.store.remove_workload(&name.0, &name.1)?;
                self.workloads.remove(name);
            }
        }
        self.writes += 1;
        Ok(())
    }

    /// Writes the node's addresses.
    pub(crate) fn addresses(&mut self, addresses: &[IpAddr]) -> Result<(), state::Error> {
        if self.addresses.as_deref() == Some(addresses) {
            return Ok(());
        }
        let there = self.store.node_addresses().ok();
        let exists = self.store.layout().node_addresses().exists();
        if !exists || there.as_deref() != Some(addresses) {
            self.store.write_node_addresses(addresses)?;
            self.writes += 1;
        }
        self.addresses = Some(addresses.to_owned());
        Ok(())
    }
}

fn folder_of(namespace: &str) -> &str {
    if namespace.is_empty() {
        CLUSTER_WIDE
    } else {
        namespace
    }
}

/// NetworkPolicies bear their own name; others their kind too, since two kinds can share a name.
fn stem_of(policy: &PolicyName) -> String {
    match policy.kind.as_str() {
        "NetworkPolicy" => policy.name.clone(),
        kind => format!("{}_{kind}", policy.name),
    }
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str());
    name.unwrap_or_default().to_owned()
}

fn parent_name(path: &Path) -> String {
    path.parent().map(file_name).unwrap_or_default()
}

/// Names of namespaces are file names as they are; anything else was not made by sync.
fn layout_name(folder: &str) -> Option<String> {
    let path = Layout::new("/").cluster_policy(folder, "any").ok()?;
    (parent_name(&path) == folder).then(|| folder.to_owned())
}

/// What a folder has; nothing where it cannot be read.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect()
}
