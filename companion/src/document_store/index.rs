//! Which namespaces have documents: counts, so that a change costs what it changes.

use std::collections::BTreeMap;

use policy::{Document, Kind};
use state::Index;

#[derive(Debug, Default)]
pub(super) struct Namespaces {
    counts: BTreeMap<String, usize>,
    cluster_wide: usize,
}

impl Namespaces {
    pub(super) fn add(&mut self, document: &Document) {
        if is_cluster_wide(document) {
            self.cluster_wide += 1;
        }
        for namespace in namespaces(document) {
            match self.counts.get_mut(namespace) {
                Some(count) => *count += 1,
                None => {
                    self.counts.insert(namespace.to_owned(), 1);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, document: &Document) {
        if is_cluster_wide(document) {
            self.cluster_wide = self.cluster_wide.saturating_sub(1);
        }
        for namespace in namespaces(document) {
            if let Some(count) = self.counts.get_mut(namespace) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(namespace);
                }
            }
        }
    }

    pub(super) fn index(&self, listing_digest: &str, unread: bool) -> Index {
        Index {
            listing_digest: listing_digest.to_owned(),
            namespaces: self.counts.keys().cloned().collect(),
            // What could not be read yet could select any pod.
            cluster_wide: self.cluster_wide > 0 || unread,
        }
    }
}

/// Whether a document could select a pod of the namespace, in this or a later version.
pub(super) fn could_select(document: &Document, namespace: &str) -> bool {
    is_cluster_wide(document) || namespaces(document).any(|one| one == namespace)
}

fn is_cluster_wide(document: &Document) -> bool {
    document.identity.kind == Kind::ClusterPolicyEndpoint
}

/// Each namespace of it once.
fn namespaces(document: &Document) -> impl Iterator<Item = &str> {
    let own = (!is_cluster_wide(document)).then_some(document.identity.namespace.as_str());
    let mut last = own;
    // Sorted by namespace.
    let others = document.pods.iter().filter_map(move |pod| {
        let namespace = &*pod.namespace;
        (Some(namespace) != own && last.replace(namespace) != Some(namespace)).then_some(namespace)
    });
    own.into_iter().chain(others)
}
