//! How each document stands, kept by document: a change costs what it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use policy::documents::Condition;
use policy::{Document, Identity};
use serde::Serialize;
use serde_json::value::RawValue;
use state::RelPath;

use super::DocumentStore;
use super::reading::Held;
use published::status;

/// A document in a file; and the same document in another file, or once more in the same one, which is a duplicate.
type Key = (String, String, bool);

/// How one document stands, rendered once: ten thousand of them are written whenever one changes.
#[derive(Debug)]
struct Rendered {
    document: status::Document,
    json: Box<RawValue>,
}

#[derive(Debug, Default)]
pub(super) struct Conditions {
    documents: BTreeMap<Key, Rendered>,
    /// Documents by condition.
    counts: BTreeMap<&'static str, u64>,
    /// What is wrong with each file.
    files: BTreeMap<RelPath, Vec<String>>,
    /// Files that could not be read yet.
    unread: BTreeMap<RelPath, String>,
    /// How documents stand in their policy, where that is not simply `Applied`.
    notable: BTreeMap<Identity, (Condition, String)>,
    /// Documents whose entry above may be out of date.
    stale: BTreeSet<Identity>,
    /// Digests of the versions that count.
    digests: BTreeMap<Identity, (Arc<Document>, String)>,
    files_changed: bool,
}

/// [`status::Documents`], of documents that are rendered already.
#[derive(Serialize)]
struct Written<'a> {
    documents: Vec<&'a RawValue>,
    files: Vec<status::File>,
}

impl Conditions {
    fn put(&mut self, key: Key, document: status::Document) {
        self.remove(&key);
        let json = serde_json::value::to_raw_value(&document);
        // A struct of strings and numbers has a JSON form.
        let Ok(json) = json else { return };
        *self.counts.entry(document.condition.name()).or_default() += 1;
        self.documents.insert(key, Rendered { document, json });
    }

    fn remove(&mut self, key: &Key) {
        if let Some(before) = self.documents.remove(key)
            && let Some(count) = self.counts.get_mut(before.document.condition.name())
        {
            *count = count.saturating_sub(1);
        }
    }

    pub(super) fn stale(&mut self, identities: impl IntoIterator<Item = Identity>) {
        self.stale.extend(identities);
    }

    /// Takes what assembling a policy says of its documents.
    pub(super) fn assembled(&mut self, conditions: BTreeMap<Identity, (Condition, String)>) {
        for (identity, condition) in conditions {
            let plain = condition.0 == Condition::Applied && condition.1.is_empty();
            let before = if plain {
                self.notable.remove(&identity)
            } else {
                self.notable.insert(identity.clone(), condition.clone())
            };
            if before.as_ref() != Some(&condition).filter(|_| !plain) {
                self.stale.insert(identity);
            }
        }
    }

    pub(super) fn file(&mut self, path: &RelPath, complaints: &[String]) {
        self.files_changed |= if complaints.is_empty() {
            self.files.remove(path).is_some()
        } else {
            let before = self.files.insert(path.clone(), complaints.to_vec());
            before.as_deref() != Some(complaints)
        };
    }

    pub(super) fn unread(&mut self, path: &RelPath, reason: String) {
        if self.unread.get(path) != Some(&reason) {
            self.unread.insert(path.clone(), reason);
            self.files_changed = true;
        }
    }

    /// It was read, or is gone. True if it had not been.
    pub(super) fn forget_unread(&mut self, path: &RelPath) -> bool {
        let was = self.unread.remove(path).is_some();
        self.files_changed |= was;
        was
    }
}

/// What changed in the conditions: for the log and the status.
#[derive(Debug, Default)]
pub(crate) struct ConditionChanges {
    /// Documents that are new or stand otherwise.
    pub(crate) documents: Vec<status::Document>,
    /// Whether anything changed at all.
    pub(crate) any: bool,
    /// Whether what is wrong with files changed.
    pub(crate) files: bool,
}

impl DocumentStore {
    /// Brings the conditions up to date: for after a change is in force, because digests take time.
    pub(crate) fn refresh_conditions(&mut self) -> ConditionChanges {
        let mut changes = ConditionChanges {
            files: std::mem::take(&mut self.conditions.files_changed),
            ..ConditionChanges::default()
        };
        changes.any = changes.files;
        for identity in std::mem::take(&mut self.conditions.stale) {
            let name = identity.to_string();
            let now = self.conditions_of(&identity, &name);
            let from = (name.clone(), String::new(), false);
            let all = self.conditions.documents.range(from..);
            let of_it: Vec<Key> = all
                .take_while(|((one, ..), _)| *one == name)
                .map(|(key, _)| key.clone())
                .collect();
            for key in of_it.iter().filter(|key| !now.contains_key(*key)) {
                self.conditions.remove(key);
                changes.any = true;
            }
            for (key, mut document) in now {
                let before = self.conditions.documents.get(&key).map(|one| &one.document);
                document.endpoints = before.map_or(0, |before| before.endpoints);
                if before != Some(&document) {
                    changes.any = true;
                    changes.documents.push(document.clone());
                    self.conditions.put(key, document);
                }
            }
        }
        changes
    }

    /// Writes `status/documents.json`, with the number of local endpoints that each policy selects.
    pub(crate) fn write_conditions(
        &mut self,
        endpoints: &BTreeMap<&str, usize>,
    ) -> Result<(), state::Error> {
        let moved: Vec<(Key, status::Document)> = self
            .conditions
            .documents
            .iter()
            .filter_map(|(key, one)| {
                let document = &one.document;
                let count = endpoints
                    .get(document.policy.as_str())
                    .copied()
                    .unwrap_or(0);
                let moved = (count != document.endpoints).then(|| document.clone())?;
                let endpoints = count;
                Some((key.clone(), status::Document { endpoints, ..moved }))
            })
            .collect();
        for (key, document) in moved {
            self.conditions.put(key, document);
        }
        let documents = self.conditions.documents.values();
        let all = Written {
            documents: documents.map(|one| &*one.json).collect(),
            files: self.broken_files(),
        };
        self.store.write_status("documents", &all)
    }

    /// Documents by condition.
    pub(crate) fn condition_counts(&self) -> BTreeMap<&'static str, u64> {
        self.conditions.counts.clone()
    }

    fn conditions_of(
        &mut self,
        identity: &Identity,
        name: &str,
    ) -> BTreeMap<Key, status::Document> {
        let mut all = BTreeMap::new();
        let winner = self
            .held(identity)
            .map(|(path, held)| (path.clone(), held.clone()));
        let Some((winner, held)) = winner else {
            self.conditions.notable.remove(identity);
            self.conditions.digests.remove(identity);
            return all;
        };
        let one =
            |file: &RelPath, document: &Document, condition, message, digest| status::Document {
                identity: name.to_owned(),
                file: file.as_str().to_owned(),
                policy: document.policy.to_string(),
                condition,
                message,
                digest,
                endpoints: 0,
            };
        let digest = self.fresh_digest(identity, &held);
        let (condition, message) = match (&held.broken, held.isolating) {
            (Some(message), true) => (
                Condition::Broken,
                format!("{message}; what it can be seen to select is isolated"),
            ),
            (Some(message), false) => (
                Condition::Broken,
                format!("{message}; the last good version is in force"),
            ),
            (None, _) => {
                let notable = self.conditions.notable.get(identity).cloned();
                notable.unwrap_or((Condition::Applied, String::new()))
            }
        };
        let digest = digest.filter(|_| !held.isolating);
        all.insert(
            (name.to_owned(), winner.as_str().to_owned(), false),
            one(&winner, &held.document, condition, message, digest),
        );
        let holders = self.identities.get(identity).map(|one| &one.holders);
        for path in holders.into_iter().flatten() {
            let Some(entry) = self.files.get(path) else {
                continue;
            };
            if *path == winner && !entry.repeated.contains(identity) {
                continue;
            }
            if let Some(other) = entry.counting.get(identity) {
                let message = format!("the one in {winner} is in force");
                all.insert(
                    (name.to_owned(), path.as_str().to_owned(), true),
                    one(path, &other.document, Condition::Duplicate, message, None),
                );
            }
        }
        all
    }

    fn fresh_digest(&mut self, identity: &Identity, held: &Held) -> Option<String> {
        if let Some((document, digest)) = self.conditions.digests.get(identity)
            && Arc::ptr_eq(document, &held.document)
        {
            return Some(digest.clone());
        }
        let digest = state::layout::digest(&held.document.to_json());
        let kept = (Arc::clone(&held.document), digest.clone());
        self.conditions.digests.insert(identity.clone(), kept);
        Some(digest)
    }

    /// Digest of the version that counts, as of the last [`Self::refresh_conditions`].
    pub(crate) fn digest(&self, identity: &Identity) -> Option<&str> {
        let digest = self.conditions.digests.get(identity);
        digest.map(|(_, digest)| digest.as_str())
    }

    /// Every document, sorted by identity and file, as of the last [`Self::refresh_conditions`].
    #[cfg(test)]
    pub(crate) fn documents(&self) -> impl Iterator<Item = &status::Document> {
        self.conditions.documents.values().map(|one| &one.document)
    }

    /// Everything that is wrong with files, sorted by path.
    pub(crate) fn broken_files(&self) -> Vec<status::File> {
        let file = |path: &RelPath, message: String| status::File {
            path: path.as_str().to_owned(),
            condition: Condition::Broken,
            message,
        };
        let unread = self.conditions.unread.iter();
        let mut all: Vec<status::File> = unread
            .map(|(path, reason)| file(path, format!("{reason}; trying again")))
            .collect();
        for (path, complaints) in &self.conditions.files {
            all.extend(complaints.iter().map(|one| file(path, one.clone())));
        }
        all.sort_by(|a, b| (&a.path, &a.message).cmp(&(&b.path, &b.message)));
        all
    }

    /// What else is wrong with the store of documents.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.writer
            .as_ref()
            .and_then(|w| w.failure())
            .into_iter()
            .collect()
    }
}
