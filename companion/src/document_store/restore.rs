//! A store begins with the versions in force of an earlier run, exactly as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy::{Document, Policies, Policy, PolicyKey, documents};
use state::{Listing, RelPath, Store};

use super::DocumentStore;
use super::applied::Writer;
use super::conditions::Conditions;
use super::index::Namespaces;
use super::reading::Held;

impl DocumentStore {
    /// Begins with the versions in force of an earlier run.
    pub(crate) fn restore(store: &Store) -> Self {
        let writer = Writer::start(store).inspect_err(|error| {
            tracing::error!(
                "start the writer of applied/: {error}; versions in force are not kept"
            );
        });
        let mut restored = Self {
            store: store.clone(),
            listing: Listing::default(),
            files: BTreeMap::new(),
            unread: BTreeMap::new(),
            second_looks: BTreeMap::new(),
            identities: BTreeMap::new(),
            members: BTreeMap::new(),
            settling: BTreeMap::new(),
            settling_files: BTreeMap::new(),
            waits: 0,
            policies: Policies::new(),
            incomplete: BTreeSet::new(),
            changed: BTreeSet::new(),
            namespaces: Namespaces::default(),
            conditions: Conditions::default(),
            kept: BTreeMap::new(),
            writer: writer.ok(),
        };
        restored.take_applied();
        restored
    }

    fn take_applied(&mut self) {
        let applied = match self.store.applied() {
            Ok(applied) => applied,
            Err(error) => {
                tracing::error!(
                    "read versions in force: {error}; documents that are broken now have none"
                );
                return;
            }
        };
        for problem in &applied.problems {
            tracing::warn!("read version in force: {problem}");
        }
        let mut parts: BTreeMap<PolicyKey, Vec<Arc<Document>>> = BTreeMap::new();
        let mut names: BTreeSet<String> = BTreeSet::new();
        for one in applied.policies {
            let reading = documents::read(&one.bytes);
            for broken in reading.broken() {
                tracing::warn!("read version in force of {}: {}", one.policy, broken.error);
            }
            for document in reading.good() {
                let document = Arc::new(document.clone());
                let key = PolicyKey::of(&document);
                let Some(path) = one.sources.get(&document.identity.to_string()) else {
                    continue;
                };
                self.take_document(path, &document, &key);
                parts.entry(key).or_default().push(document);
            }
            names.insert(one.policy);
        }
        let mut restored = BTreeSet::new();
        for (key, documents) in parts {
            documents.iter().for_each(|d| self.namespaces.add(d));
            let policy = Arc::new(Policy::of(key.clone(), documents));
            if !policy.is_complete() {
                self.incomplete.insert(key.clone());
            }
            self.policies.insert(key.clone(), policy);
            restored.insert(key.policy);
        }
        for policy in restored {
            let written = names.remove(&policy.to_string());
            self.keep(&policy, written);
        }
        // Files of an earlier form, whose contents stand under the policy's name now.
        for stale in names {
            if let Some(writer) = &self.writer {
                writer.put(stale, None);
            }
        }
    }

    fn take_document(&mut self, path: &RelPath, document: &Arc<Document>, key: &PolicyKey) {
        self.namespaces.add(document);
        let entry = self.files.entry(path.clone()).or_default();
        let held = Held::good(Arc::clone(document));
        entry.counting.set(&document.identity, Some(held));
        let one = self
            .identities
            .entry(document.identity.clone())
            .or_default();
        one.holders.insert(path.clone());
        one.winner = Some((path.clone(), key.clone()));
        let members = self.members.entry(key.clone()).or_default();
        members.insert(document.identity.clone());
        self.conditions.stale([document.identity.clone()]);
    }
}
