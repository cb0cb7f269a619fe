//! The namespaces whose documents this node holds: those of its pods, and for a while those of pods that are gone.
//!
//! A pod's object can be gone before its sandbox is (a forced deletion): as long as an endpoint record of the namespace is
//! in the store its documents stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;

use super::documents::Documents;

/// A namespace without pods is kept for this long.
const LINGER: Duration = Duration::from_secs(60);

/// A namespace that is served; the one with the empty name stands for cluster-wide objects.
#[derive(Default)]
pub(crate) struct Served {
    pub(crate) documents: Documents,
    /// Its watches.
    pub(crate) tasks: Vec<AbortHandle>,
    /// Since when it has had no pod.
    idle: Option<Instant>,
}

impl Drop for Served {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[derive(Default)]
pub(crate) struct Namespaces {
    served: BTreeMap<String, Served>,
}

impl Namespaces {
    pub(crate) fn get(&self, namespace: &str) -> Option<&Served> {
        self.served.get(namespace)
    }

    pub(crate) fn get_mut(&mut self, namespace: &str) -> Option<&mut Served> {
        self.served.get_mut(namespace)
    }

    pub(crate) fn insert(&mut self, namespace: &str, served: Served) {
        self.served.insert(namespace.to_owned(), served);
    }

    /// Marks those that have pods, and names those that have had none for long and of which no `endpoints` are left.
    pub(crate) fn expired(
        &mut self,
        with_pods: &BTreeSet<String>,
        endpoints: impl FnOnce() -> Option<BTreeSet<String>>,
    ) -> Vec<String> {
        let mut old = Vec::new();
        for (namespace, served) in &mut self.served {
            if namespace.is_empty() {
                continue;
            }
            if with_pods.contains(namespace) {
                served.idle = None;
            } else if served.idle.get_or_insert_with(Instant::now).elapsed() > LINGER {
                old.push(namespace.clone());
            }
        }
        if old.is_empty() {
            return old;
        }
        match endpoints() {
            Some(endpoints) => old.retain(|namespace| !endpoints.contains(namespace)),
            None => old.clear(),
        }
        old
    }

    pub(crate) fn remove(&mut self, namespace: &str) {
        self.served.remove(namespace);
    }
}
