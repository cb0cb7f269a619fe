//! The documents of the store and the policies that they make: which version of each policy is in force, and when a change
//! counts.
//!
//! A file is read as soon as something is known to have happened to it; what it gives then waits in each policy that it
//! concerns until that policy has settled ([`settling`]). Files whose documents all carry part marks count at once. Then
//! the policy is put together from the documents that count, and with it the version that is in force may change.
//!
//! A broken document never blocks another: what its file held stays in force. A read that fails is tried again until it
//! succeeds. Time comes in as an argument.

mod applied;
mod conditions;
mod index;
mod reading;
mod restore;
mod settling;
#[cfg(test)]
mod tests;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use policy::documents::PolicyRef;
use policy::{Identity, Kind, Policies, Policy, PolicyKey, assemble};
use state::{FileState, Index, Listing, RelPath, Store};

use self::applied::Writer;
pub(crate) use self::conditions::ConditionChanges;
use self::conditions::Conditions;
use self::index::Namespaces;
use self::reading::{Contents, Found, Held, Holdings};
use self::settling::Settling;

/// A file that was read so soon after it was written that a further write might not show is read again.
const SECOND_LOOK: Duration = Duration::from_millis(60);
/// A read that failed is tried again after so long, then twice as long, and so on.
const RETRY: Duration = Duration::from_millis(20);
const RETRY_AT_MOST: Duration = Duration::from_secs(2);

/// All documents, as they stand.
#[derive(Debug)]
pub(crate) struct DocumentStore {
    store: Store,
    listing: Listing,
    files: BTreeMap<RelPath, FileEntry>,
    /// Files and folders that could not be read: when they are tried again, and after which wait.
    unread: BTreeMap<RelPath, (Instant, Duration)>,
    second_looks: BTreeMap<RelPath, Instant>,
    identities: BTreeMap<Identity, IdentityEntry>,
    /// The documents of each policy that count.
    members: BTreeMap<PolicyKey, BTreeSet<Identity>>,
    settling: BTreeMap<PolicyKey, Settling>,
    /// Files of which something is wrong that is not told yet.
    settling_files: BTreeMap<RelPath, Settling>,
    /// Counts the waits.
    waits: u64,
    policies: Policies,
    /// Policies of which parts are missing and no complete version was ever in force.
    incomplete: BTreeSet<PolicyKey>,
    changed: BTreeSet<PolicyKey>,
    namespaces: Namespaces,
    conditions: Conditions,
    /// What was last given to the writer, as a hash of documents' addresses and files.
    kept: BTreeMap<PolicyRef, u64>,
    writer: Option<Writer>,
}

#[derive(Debug, Default)]
struct FileEntry {
    /// As it was when it was read; `None` = read it again whatever it is.
    state: Option<FileState>,
    /// Hash of the bytes that were read last; `None` = none were.
    hash: Option<u64>,
    /// The documents that count.
    counting: Holdings,
    /// What the newest reading gives, where that is something else.
    newest: Option<Box<Holdings>>,
    /// What is wrong with the file by its newest reading.
    complaints: Vec<String>,
    /// Documents that stand in it more than once.
    repeated: Vec<Identity>,
}

impl FileEntry {
    fn newest(&self) -> &Holdings {
        self.newest.as_deref().unwrap_or(&self.counting)
    }
}

/// Where a document stands.
#[derive(Debug, Default)]
struct IdentityEntry {
    holders: BTreeSet<RelPath>,
    /// The file whose version counts, and the policy that it is a part of.
    winner: Option<(RelPath, PolicyKey)>,
}

/// What a new endpoint waits for before the first decision about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blocker {
    /// A file that could not be read yet: it could select any pod.
    Unread(RelPath),
    /// A broken file that may still be in the middle of being written, by the number of its wait.
    File(RelPath, u64),
    /// A policy that settles, by the number of its wait.
    Settling(PolicyKey, u64),
    /// A policy of which parts are missing, without a complete version in force.
    Incomplete(PolicyKey),
}

impl DocumentStore {
    /// The policies in force.
    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// The policies whose version in force changed since the last call.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<PolicyKey> {
        std::mem::take(&mut self.changed)
    }

    /// Digest of the listing that was read last.
    pub(crate) fn listing_digest(&self) -> &str {
        &self.listing.digest
    }

    /// Whether changes wait.
    pub(crate) fn is_settling(&self) -> bool {
        !self.settling.is_empty() || !self.settling_files.is_empty() || !self.unread.is_empty()
    }

    /// What the plugin may conclude from the documents as they are read by now: everything in force counts, and
    /// everything that is yet to be.
    pub(crate) fn index(&self) -> Index {
        let unsure = !self.unread.is_empty() || !self.settling_files.is_empty();
        self.namespaces.index(&self.listing.digest, unsure)
    }

    /// What keeps the first decision about a pod of the namespace waiting now.
    pub(crate) fn blockers(&self, namespace: &str) -> BTreeSet<Blocker> {
        let mut all = BTreeSet::new();
        all.extend(self.unread.keys().cloned().map(Blocker::Unread));
        let files = self.settling_files.iter();
        all.extend(files.map(|(path, s)| Blocker::File(path.clone(), s.number)));
        for (key, settling) in &self.settling {
            let concerned = settling.files().iter().any(|path| {
                self.files.get(path).is_some_and(|entry| {
                    let both = entry.counting.iter().chain(entry.newest().iter());
                    both.filter(|held| PolicyKey::of(&held.document) == *key)
                        .any(|held| index::could_select(&held.document, namespace))
                })
            });
            if concerned {
                all.insert(Blocker::Settling(key.clone(), settling.number));
            }
        }
        for key in &self.incomplete {
            let concerned = self
                .counting_documents(key)
                .any(|held| index::could_select(&held.document, namespace));
            if concerned {
                all.insert(Blocker::Incomplete(key.clone()));
            }
        }
        all
    }

    /// Whether a blocker still stands in the way.
    pub(crate) fn stands(&self, blocker: &Blocker) -> bool {
        match blocker {
            Blocker::Unread(path) => self.unread.contains_key(path),
            Blocker::File(path, number) => self
                .settling_files
                .get(path)
                .is_some_and(|s| s.number == *number),
            Blocker::Settling(key, number) => {
                self.settling.get(key).is_some_and(|s| s.number == *number)
            }
            Blocker::Incomplete(key) => self.incomplete.contains(key),
        }
    }

    /// When [`Self::advance`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        let settling = self.settling.values().chain(self.settling_files.values());
        settling
            .map(Settling::due)
            .chain(self.second_looks.values().copied())
            .chain(self.unread.values().map(|(at, _)| *at))
            .min()
    }

    /// Looks at every file. True if a policy in force changed.
    pub(crate) fn full(&mut self, now: Instant) -> bool {
        let mut touched = BTreeSet::new();
        self.look_at_all(now, &mut touched, &mut || {});
        self.put_together(&touched)
    }

    fn look_at_all(
        &mut self,
        now: Instant,
        touched: &mut BTreeSet<PolicyKey>,
        heartbeat: &mut dyn FnMut(),
    ) {
        match self.store.scan_documents() {
            Ok(listing) => self.listing = listing,
            Err(error) => {
                // The scan reports what it meets as entries; this is for errors yet to be thought of.
                tracing::error!("list documents: {error}");
                return;
            }
        }
        // Folders that could be listed now.
        let listing = &self.listing;
        self.unread.retain(|path, _| {
            path.is_document() || matches!(listing.files.get(path), Some(FileState::Failed(_)))
        });
        let mut paths: BTreeSet<RelPath> = self.listing.files.keys().cloned().collect();
        paths.extend(self.files.keys().cloned());
        for path in paths {
            heartbeat();
            self.look(&path, now, touched);
        }
    }

    /// Looks at one file that may have changed. True if a policy in force changed.
    pub(crate) fn file(&mut self, path: &RelPath, now: Instant) -> bool {
        let mut touched = BTreeSet::new();
        self.look_again(path, now, &mut touched);
        self.put_together(&touched)
    }

    fn look_again(&mut self, path: &RelPath, now: Instant, touched: &mut BTreeSet<PolicyKey>) {
        let state = self.store.stat_document(path);
        self.listing.update(path, state);
        self.look(path, now, touched);
    }

    /// The first look of a run takes everything as it is, but for what has just been written.
    pub(crate) fn begin(&mut self, now: Instant, mut heartbeat: impl FnMut()) {
        let mut touched = BTreeSet::new();
        self.look_at_all(now, &mut touched, &mut heartbeat);
        let changes: Vec<(RelPath, Option<Identity>)> = std::mem::take(&mut self.settling)
            .into_iter()
            .flat_map(|(key, settling)| {
                // Policies of which nothing is unsure, and nothing may be in the middle of a rename.
                let unsure = |path| self.second_looks.contains_key(path);
                if settling.has_removals() || settling.files().iter().any(unsure) {
                    self.settling.insert(key, settling);
                    return Vec::new();
                }
                settling.changes().collect()
            })
            .collect();
        for (path, identity) in changes {
            heartbeat();
            if let Some(identity) = identity {
                self.count(&path, &identity, &mut touched);
            }
        }
        let looks = &self.second_looks;
        self.settling_files
            .retain(|path, _| looks.contains_key(path));
        self.put_together(&touched);
        heartbeat();
    }

    /// Does what is due by the clock: second looks, retries, and what has settled. True if a policy in force changed.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        let mut touched = BTreeSet::new();
        self.look_twice(now, &mut touched);
        self.retry(now, &mut touched);
        let due = |all: &BTreeMap<RelPath, Settling>| -> Vec<RelPath> {
            let due = all.iter().filter(|(_, s)| s.due() <= now);
            due.map(|(path, _)| path.clone()).collect()
        };
        for path in due(&self.settling_files) {
            self.settling_files.remove(&path);
            self.conditions
                .file(&path, self.files.get(&path).map_or(&[], |e| &e.complaints));
        }
        let due = self.settling.iter().filter(|(_, s)| s.due() <= now);
        let due: Vec<PolicyKey> = due.map(|(key, _)| key.clone()).collect();
        for key in due {
            // A file that is being written in place may have changed without a word: then it settles on.
            let files = self
                .settling
                .get(&key)
                .map(Settling::files)
                .unwrap_or_default();
            for path in &files {
                self.look_again(path, now, &mut touched);
            }
            let ready = |s: &Settling| s.due() <= now || s.is_over(now);
            if !self.settling.get(&key).is_some_and(ready) {
                continue;
            }
            for (path, identity) in self
                .settling
                .remove(&key)
                .into_iter()
                .flat_map(Settling::changes)
            {
                if let Some(identity) = identity {
                    self.count(&path, &identity, &mut touched);
                }
            }
        }
        self.put_together(&touched)
    }

    fn look_twice(&mut self, now: Instant, touched: &mut BTreeSet<PolicyKey>) {
        let due = self.second_looks.iter().filter(|(_, due)| **due <= now);
        let due: Vec<RelPath> = due.map(|(path, _)| path.clone()).collect();
        for path in due {
            self.second_looks.remove(&path);
            if let Some(entry) = self.files.get_mut(&path) {
                entry.state = None;
            }
            self.look_again(&path, now, touched);
        }
    }

    fn retry(&mut self, now: Instant, touched: &mut BTreeSet<PolicyKey>) {
        let due = self.unread.iter().filter(|(_, (due, _))| *due <= now);
        let due: Vec<RelPath> = due.map(|(path, _)| path.clone()).collect();
        if due.iter().any(|path| !path.is_document()) {
            // A folder: what is in it is not known.
            return self.look_at_all(now, touched, &mut || {});
        }
        for path in due {
            self.look_again(&path, now, touched);
        }
    }

    /// Reads a file if its state says that it changed, and takes what it gives.
    fn look(&mut self, path: &RelPath, now: Instant, touched: &mut BTreeSet<PolicyKey>) {
        let state = self.listing.state_of(path).cloned();
        let hash = match self.files.get(path) {
            Some(entry) if state.is_some() && entry.state == state => return,
            None if state.is_none() => {
                self.unread.remove(path);
                return;
            }
            entry => entry.and_then(|entry| entry.hash),
        };
        let found = self.read(path, state.as_ref(), hash, now);
        if let Found::Unread(reason) = found {
            return self.not_read(path, reason, now);
        }
        self.unread.remove(path);
        let entry = self.files.entry(path.clone()).or_default();
        entry.state = state;
        let (newest, complaints, repeated, marked) = match found {
            Found::Unread(_) => return,
            Found::Same => {
                // It may have been unreadable meanwhile; what it gave last is what it gives.
                if self.conditions.forget_unread(path) {
                    self.conditions.file(path, &entry.complaints);
                }
                return;
            }
            Found::Gone => {
                entry.hash = None;
                (Holdings::default(), Vec::new(), Vec::new(), false)
            }
            Found::Unreadable(reason) => {
                entry.hash = None;
                (
                    entry.counting.kept_because(&reason),
                    vec![reason],
                    Vec::new(),
                    false,
                )
            }
            Found::Read(contents, hash) => {
                entry.hash = Some(hash);
                (
                    contents.hold(&entry.counting),
                    contents.complaints(),
                    contents.repeated(),
                    contents.is_marked(),
                )
            }
        };
        self.conditions.forget_unread(path);
        self.take(path, newest, complaints, repeated, marked, now, touched);
    }

    fn read(
        &mut self,
        path: &RelPath,
        state: Option<&FileState>,
        before: Option<u64>,
        now: Instant,
    ) -> Found {
        let document = match state {
            None => return Found::Gone,
            Some(FileState::Unsafe { uid, mode }) => {
                return Found::Unreadable(format!(
                    "belongs to user {uid} or is writable by others (mode {mode:o}): chown root, chmod go-w"
                ));
            }
            Some(FileState::Broken(reason)) => return Found::Unreadable(reason.clone()),
            Some(FileState::Failed(reason)) => return Found::Unread(reason.clone()),
            Some(FileState::Readable(document)) => document,
        };
        let read_at = SystemTime::now();
        let bytes = match self.store.read_document(path) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Found::Gone,
            Err(error) if error.is_transient() => return Found::Unread(error.to_string()),
            Err(error) => return Found::Unreadable(error.to_string()),
        };
        if !document.is_settled(read_at) {
            let look = now + SECOND_LOOK;
            self.second_looks.entry(path.clone()).or_insert(look);
        }
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let hash = hasher.finish();
        if before == Some(hash) {
            return Found::Same;
        }
        let contents = Contents::parse(&bytes);
        contents.keep_copy(&self.store, path, &bytes);
        Found::Read(contents, hash)
    }

    /// A read failed: everything stays as it is, the file is listed, and it is tried again.
    fn not_read(&mut self, path: &RelPath, reason: String, now: Instant) {
        if let Some(entry) = self.files.get_mut(path) {
            entry.state = None;
        }
        let wait = self
            .unread
            .get(path)
            .map_or(RETRY, |(_, wait)| (*wait * 2).min(RETRY_AT_MOST));
        self.unread.insert(path.clone(), (now + wait, wait));
        self.conditions.unread(path, reason);
    }

    /// Takes what a file gives by its newest reading: at once if it is marked, else once it has settled.
    #[expect(
        clippy::too_many_arguments,
        reason = "what one reading yields, taken apart"
    )]
    fn take(
        &mut self,
        path: &RelPath,
        newest: Holdings,
        complaints: Vec<String>,
        repeated: Vec<Identity>,
        marked: bool,
        now: Instant,
        touched: &mut BTreeSet<PolicyKey>,
    ) {
        let Some(entry) = self.files.get_mut(path) else {
            return;
        };
        if entry.complaints != complaints {
            entry.complaints = complaints;
            if entry.complaints.is_empty() {
                self.settling_files.remove(path);
                self.conditions.file(path, &[]);
            } else {
                let number = self.waits;
                self.waits += 1;
                let settling = self.settling_files.entry(path.clone());
                settling
                    .or_insert_with(|| Settling::new(number, now))
                    .change(path.clone(), None, true, now);
            }
        }
        if entry.repeated != repeated {
            let stale = entry.repeated.iter().chain(&repeated).cloned();
            self.conditions.stale(stale.collect::<Vec<_>>());
            entry.repeated = repeated;
        }
        let all = || {
            entry
                .counting
                .iter()
                .chain(entry.newest().iter())
                .chain(newest.iter())
        };
        let concerned: BTreeSet<Identity> = all()
            .map(|held| &held.document.identity)
            .filter(|identity| {
                let new = newest.get(identity);
                new != entry.newest().get(identity) || new != entry.counting.get(identity)
            })
            .cloned()
            .collect();
        let keys = |identity: &Identity| -> BTreeSet<PolicyKey> {
            let of_it = all().filter(|held| held.document.identity == *identity);
            of_it.map(|held| PolicyKey::of(&held.document)).collect()
        };
        // What is in force or to be is in the index; what an earlier reading gave in between is not any more.
        let waits: Vec<(Identity, BTreeSet<PolicyKey>, bool, bool, bool)> = concerned
            .into_iter()
            .map(|identity| {
                let new = newest.get(&identity);
                let moved = new != entry.newest().get(&identity);
                let waits = new != entry.counting.get(&identity);
                (
                    identity.clone(),
                    keys(&identity),
                    waits,
                    moved,
                    new.is_some(),
                )
            })
            .collect();
        newest
            .iter()
            .for_each(|held| self.namespaces.add(&held.document));
        if let Some(before) = entry.newest.take() {
            before
                .iter()
                .for_each(|held| self.namespaces.remove(&held.document));
        }
        if newest == entry.counting {
            newest
                .iter()
                .for_each(|held| self.namespaces.remove(&held.document));
        } else {
            entry.newest = Some(Box::new(newest));
        }
        for (identity, keys, waits, moved, stands) in waits {
            if marked && waits {
                self.count(path, &identity, touched);
            } else if waits {
                for key in keys {
                    let number = self.waits;
                    self.waits += 1;
                    let settling = self.settling.entry(key);
                    let settling = settling.or_insert_with(|| Settling::new(number, now));
                    if moved {
                        settling.change(path.clone(), Some(identity.clone()), stands, now);
                    }
                }
            } else {
                self.waits_no_more(path, &identity);
            }
        }
        self.drop_if_gone(path);
    }

    /// A document of a file is as it counts already: nothing of it waits.
    fn waits_no_more(&mut self, path: &RelPath, identity: &Identity) {
        self.settling
            .retain(|_, settling| !settling.forget(path, Some(identity)));
    }

    fn drop_if_gone(&mut self, path: &RelPath) {
        let gone = self.files.get(path).is_some_and(|entry| {
            entry.newest.is_none()
                && entry.counting.is_empty()
                && self.listing.state_of(path).is_none()
        });
        if gone {
            self.files.remove(path);
            self.second_looks.remove(path);
            if let Err(error) = self.store.release(path.as_str()) {
                tracing::debug!("drop quarantined copy of {path}: {error}");
            }
        }
    }

    /// What the newest reading gives of a document counts from now on.
    fn count(&mut self, path: &RelPath, identity: &Identity, touched: &mut BTreeSet<PolicyKey>) {
        let Some(entry) = self.files.get_mut(path) else {
            return;
        };
        let Some(newest) = &entry.newest else { return };
        let new = newest.get(identity).cloned();
        if let Some(held) = &new {
            self.namespaces.add(&held.document);
        }
        if let Some(before) = entry.counting.set(identity, new.clone()) {
            self.namespaces.remove(&before.document);
        }
        if entry.counting == **newest {
            newest
                .iter()
                .for_each(|held| self.namespaces.remove(&held.document));
            entry.newest = None;
        }
        self.place(path, identity, new.is_some(), touched);
        self.waits_no_more(path, identity);
        self.drop_if_gone(path);
    }

    /// A file holds a document, or does not any more: which file's version counts, and which policies that touches.
    fn place(
        &mut self,
        path: &RelPath,
        identity: &Identity,
        holds: bool,
        touched: &mut BTreeSet<PolicyKey>,
    ) {
        let one = self.identities.entry(identity.clone()).or_default();
        if holds {
            one.holders.insert(path.clone());
        } else {
            one.holders.remove(path);
        }
        // The one in force stays, as long as its file holds it.
        let winner = one
            .winner
            .as_ref()
            .map(|(path, _)| path)
            .filter(|path| one.holders.contains(*path))
            .or_else(|| one.holders.first());
        let winner = winner.and_then(|path| {
            let held = self.files.get(path)?.counting.get(identity)?;
            Some((path.clone(), PolicyKey::of(&held.document)))
        });
        let before = std::mem::replace(&mut one.winner, winner);
        if let Some((_, key)) = &one.winner {
            let members = self.members.entry(key.clone()).or_default();
            members.insert(identity.clone());
            touched.insert(key.clone());
        }
        if let Some((_, key)) = before {
            if one.winner.as_ref().is_none_or(|(_, now)| *now != key)
                && let Some(members) = self.members.get_mut(&key)
            {
                members.remove(identity);
            }
            touched.insert(key);
        }
        if one.holders.is_empty() {
            self.identities.remove(identity);
        }
        self.conditions.stale([identity.clone()]);
    }

    fn held(&self, identity: &Identity) -> Option<(&RelPath, &Held)> {
        let (path, _) = self.identities.get(identity)?.winner.as_ref()?;
        Some((path, self.files.get(path)?.counting.get(identity)?))
    }

    /// The documents of a policy that count.
    fn counting_documents(&self, key: &PolicyKey) -> impl Iterator<Item = &Held> {
        let members = self.members.get(key).into_iter().flatten();
        members.filter_map(|identity| self.held(identity).map(|(_, held)| held))
    }

    /// Puts policies together anew. True if a version in force changed.
    fn put_together(&mut self, touched: &BTreeSet<PolicyKey>) -> bool {
        let mut changed = false;
        for key in touched {
            let before = self.policies.get(key).map(Arc::clone);
            let mut previous = Policies::new();
            previous.extend(
                before
                    .iter()
                    .map(|policy| (key.clone(), Arc::clone(policy))),
            );
            let documents: Vec<_> = self
                .counting_documents(key)
                .map(|held| Arc::clone(&held.document))
                .collect();
            let mut assembly = assemble(documents, &previous);
            let now = assembly.policies.remove(key);
            self.conditions.assembled(assembly.conditions);
            if self.members.get(key).is_some_and(BTreeSet::is_empty) {
                self.members.remove(key);
            }
            if now.as_ref().is_some_and(|policy| !policy.is_complete()) {
                self.incomplete.insert(key.clone());
            } else {
                self.incomplete.remove(key);
            }
            let same = match (&before, &now) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (None, None) => true,
                _ => false,
            };
            if !same {
                changed = true;
                self.replace(key, before.as_deref(), now);
            }
        }
        for policy in touched.iter().map(|key| &key.policy) {
            self.keep(policy, false);
        }
        changed
    }

    fn replace(&mut self, key: &PolicyKey, before: Option<&Policy>, now: Option<Arc<Policy>>) {
        if let Some(now) = &now {
            now.documents.iter().for_each(|d| self.namespaces.add(d));
        }
        if let Some(before) = before {
            before
                .documents
                .iter()
                .for_each(|d| self.namespaces.remove(d));
        }
        match now {
            Some(now) => self.policies.insert(key.clone(), now),
            None => self.policies.remove(key),
        };
        self.changed.insert(key.clone());
    }

    /// Has the version in force written to `applied/`, if it is not what stands there. `written`: it stands there already.
    /// All groups of a policy stand in one file.
    fn keep(&mut self, policy: &PolicyRef, written: bool) {
        let groups = [Kind::PolicyEndpoint, Kind::ClusterPolicyEndpoint].map(|kind| PolicyKey {
            kind,
            policy: policy.clone(),
            group: None,
        });
        let groups = groups.into_iter().flat_map(|first| {
            let kind = first.kind;
            let of_it = self.policies.range(first..);
            of_it.take_while(move |(key, _)| key.kind == kind && key.policy == *policy)
        });
        let version: Vec<_> = groups
            .flat_map(|(_, policy)| &policy.documents)
            .filter_map(|document| {
                let (path, held) = self.held(&document.identity)?;
                // A stand-in for what was never seen good is made anew from the file.
                let stands_in = held.isolating && Arc::ptr_eq(&held.document, document);
                (!stands_in).then(|| (Arc::clone(document), path.clone()))
            })
            .collect();
        let mark = (!version.is_empty()).then(|| {
            let mut hasher = DefaultHasher::new();
            for (document, path) in &version {
                (Arc::as_ptr(document) as usize, path).hash(&mut hasher);
            }
            hasher.finish()
        });
        if self.kept.get(policy) == mark.as_ref() {
            return;
        }
        let version = mark.map(|mark| {
            self.kept.insert(policy.clone(), mark);
            version
        });
        if version.is_none() {
            self.kept.remove(policy);
        }
        if let Some(writer) = self.writer.as_ref().filter(|_| !written) {
            writer.put(policy.to_string(), version);
        }
    }
}
