//! Documents as files come and go: which version of each is in force, and when a change counts.
//!
//! A change waits until it has settled: documents without part marks until 100 ms have passed without a further change,
//! 1 s at most; a removal for 50 ms, because editors rename, and for as long as anything new still settles, so that a
//! rename or a change of several files takes effect as one. Files whose documents all carry part marks count at once.
//!
//! A broken document never blocks another: what its file held stays in force. Time comes in as an argument.

mod contents;
#[cfg(test)]
mod tests;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use policy::documents::{self, Condition};
use policy::sets::{self, Placed};
use policy::{Document, Identity, Kind, Policies, assemble};
use state::{FileState, Index, Listing, RelPath, Store};

use self::contents::{Contents, Found, Held, keep_copy, parse, stay};
use published::status;

/// Without a further change for so long, unmarked documents count.
const QUIET: Duration = Duration::from_millis(100);
/// At most so long.
const AT_MOST: Duration = Duration::from_secs(1);
/// A removal counts after so long.
const REMOVAL: Duration = Duration::from_millis(50);
/// A file that was read so soon after it was written that a further write might not show is read again.
const SECOND_LOOK: Duration = Duration::from_millis(60);

/// All documents, as they stand.
#[derive(Debug)]
pub(crate) struct Intake {
    store: Store,
    listing: Listing,
    files: BTreeMap<RelPath, Entry>,
    in_force: BTreeMap<Identity, String>,
    policies: Policies,
    conditions: status::Documents,
    /// What the conditions are made of, once they are asked for: that is after the change is in force.
    untold: Option<Untold>,
    /// What is in `applied/` by now.
    kept: BTreeMap<Identity, Arc<Document>>,
    /// Whether `applied/` may differ from what is in force.
    unkept: bool,
    /// Digests of the versions in force.
    digests: BTreeMap<Identity, (Arc<Document>, String)>,
    settling: Option<Settling>,
    second_looks: BTreeMap<RelPath, Instant>,
}

#[derive(Debug, Default)]
struct Entry {
    state: Option<FileState>,
    /// Hash of the bytes that `found` was read from: whether a second look shows anything new.
    hash: u64,
    /// The newest reading; in force once accepted.
    found: Found,
    /// The reading that is in force.
    accepted: Found,
    /// What this file gives: the last good version of each document.
    held: BTreeMap<Identity, Held>,
}

/// What was assembled last.
#[derive(Debug)]
struct Untold {
    chosen: BTreeMap<Identity, Placed>,
    duplicates: Vec<(Placed, String)>,
    /// What is wrong with which document of which file, and whether all it does is isolate.
    broken: BTreeMap<(Identity, String), (String, bool)>,
    conditions: BTreeMap<Identity, (Condition, String)>,
}

#[derive(Debug)]
struct Settling {
    first: Instant,
    last: Instant,
    files: BTreeSet<RelPath>,
}

impl Intake {
    /// Begins with the last good versions of an earlier run.
    pub(crate) fn new(store: &Store) -> Self {
        let mut intake = Self {
            store: store.clone(),
            listing: Listing::default(),
            files: BTreeMap::new(),
            in_force: BTreeMap::new(),
            policies: Policies::new(),
            conditions: status::Documents::default(),
            untold: None,
            kept: BTreeMap::new(),
            unkept: true,
            digests: BTreeMap::new(),
            settling: None,
            second_looks: BTreeMap::new(),
        };
        intake.recall();
        intake
    }

    fn recall(&mut self) {
        let applied = match self.store.applied() {
            Ok(applied) => applied,
            Err(error) => {
                tracing::error!(
                    "read the last good versions: {error}; documents that are broken now have none"
                );
                return;
            }
        };
        for problem in &applied.problems {
            tracing::warn!("read last good version: {problem}");
        }
        for one in applied.documents {
            let reading = documents::read(&one.bytes);
            let Some(document) = reading
                .good()
                .find(|d| d.identity.to_string() == one.identity)
            else {
                tracing::warn!(
                    "read last good version of {}: it does not hold that document",
                    one.identity
                );
                continue;
            };
            let document = Arc::new(document.clone());
            let identity = document.identity.clone();
            self.kept.insert(identity.clone(), Arc::clone(&document));
            if let Some(source) = one.source {
                self.in_force
                    .insert(identity.clone(), source.as_str().to_owned());
                let held = Held {
                    document,
                    broken: None,
                    isolating: false,
                };
                self.files
                    .entry(source)
                    .or_default()
                    .held
                    .insert(identity, held);
            }
        }
        for entry in self.files.values_mut() {
            let documents = entry
                .held
                .values()
                .map(|held| Arc::clone(&held.document))
                .collect();
            entry.accepted = Found::Read(Arc::new(Contents {
                documents,
                broken: Vec::new(),
                blank: false,
            }));
            entry.found = entry.accepted.clone();
        }
        self.assemble();
    }

    /// The policies in force.
    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }

    /// How the documents stand.
    pub(crate) fn conditions(&mut self) -> &status::Documents {
        if let Some(untold) = self.untold.take() {
            self.tell(untold);
        }
        &self.conditions
    }

    /// Digest of the listing that was read last.
    pub(crate) fn listing_digest(&self) -> &str {
        &self.listing.digest
    }

    /// Whether changes wait.
    pub(crate) fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    /// When [`Self::settle`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        let second_look = self.second_looks.values().min().copied();
        [
            self.settling.as_ref().map(|s| self.settled_at(s)),
            second_look,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Looks at every file. True if a change counts at once.
    pub(crate) fn full(&mut self, now: Instant) -> bool {
        let listing = match self.store.scan_documents() {
            Ok(listing) => listing,
            Err(error) => {
                tracing::error!("list documents: {error}");
                return false;
            }
        };
        self.listing = listing;
        let mut paths: BTreeSet<RelPath> = self.listing.files.keys().cloned().collect();
        paths.extend(self.files.keys().cloned());
        paths
            .into_iter()
            .fold(false, |changed, path| self.look(&path, now) | changed)
    }

    /// Looks at one file that may have changed. True if a change counts at once.
    pub(crate) fn file(&mut self, path: &RelPath, now: Instant) -> bool {
        let state = self.store.stat_document(path);
        self.listing.update(path, state);
        self.look(path, now)
    }

    /// The first look of a run takes everything as it is, but for what has just been written.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.full(now);
        let unsure: BTreeSet<&RelPath> = self.second_looks.keys().collect();
        let sure: Vec<RelPath> = self
            .files
            .iter()
            .filter(|(path, entry)| entry.found != Found::Gone && !unsure.contains(path))
            .map(|(path, _)| path.clone())
            .collect();
        for path in sure {
            if let Some(settling) = &mut self.settling {
                settling.files.remove(&path);
            }
            self.accept(&path);
        }
        self.settling.take_if(|s| s.files.is_empty());
        self.assemble();
    }

    /// Takes what has settled. True if anything changed.
    pub(crate) fn settle(&mut self, now: Instant) -> bool {
        let looks: Vec<RelPath> = self
            .second_looks
            .iter()
            .filter(|(_, due)| **due <= now)
            .map(|(path, _)| path.clone())
            .collect();
        let mut changed = false;
        for path in looks {
            self.second_looks.remove(&path);
            if let Some(entry) = self.files.get_mut(&path) {
                entry.state = None;
            }
            changed |= self.file(&path, now);
        }
        if self
            .settling
            .as_ref()
            .is_none_or(|s| self.settled_at(s) > now)
        {
            return changed;
        }
        // A file that is being written in place may have changed without a word: then it settles on.
        let files = self
            .settling
            .as_ref()
            .map(|s| s.files.clone())
            .unwrap_or_default();
        let over = self
            .settling
            .as_ref()
            .is_some_and(|s| s.first + AT_MOST <= now);
        let moved = files.iter().fold(false, |moved, path| {
            let before = self.files.get(path).map(|e| e.found.clone());
            changed |= self.file(path, now);
            moved | (before != self.files.get(path).map(|e| e.found.clone()))
        });
        if moved && !over {
            return changed;
        }
        let files = self.settling.take().map(|s| s.files).unwrap_or_default();
        for path in &files {
            changed |= self.accept(path);
        }
        if changed {
            self.assemble();
        }
        changed
    }

    fn settled_at(&self, settling: &Settling) -> Instant {
        let only_removals = settling
            .files
            .iter()
            .all(|path| self.files.get(path).is_none_or(|e| e.found == Found::Gone));
        let wait = if only_removals { REMOVAL } else { QUIET };
        (settling.last + wait).min(settling.first + AT_MOST)
    }

    fn look(&mut self, path: &RelPath, now: Instant) -> bool {
        let state = self.listing.state_of(path).cloned();
        let entry = self.files.entry(path.clone()).or_default();
        if state.is_some() && entry.state == state {
            return false;
        }
        let found = match &state {
            None => Found::Gone,
            Some(FileState::Unsafe { uid, mode }) => Found::Unreadable(format!(
                "belongs to user {uid} or is writable by others (mode {mode:o}): chown root, chmod go-w"
            )),
            Some(FileState::Broken(reason)) => Found::Unreadable(reason.clone()),
            Some(FileState::Readable(document)) => {
                let read_at = SystemTime::now();
                match self.store.read_document(path) {
                    Ok(bytes) => {
                        if !document.is_settled(read_at) {
                            self.second_looks
                                .entry(path.clone())
                                .or_insert(now + SECOND_LOOK);
                        }
                        let mut hasher = DefaultHasher::new();
                        bytes.hash(&mut hasher);
                        let hash = hasher.finish();
                        if hash == entry.hash && matches!(entry.found, Found::Read(_)) {
                            entry.found.clone()
                        } else {
                            let found = parse(&bytes);
                            keep_copy(&self.store, path, &bytes, &found);
                            entry.hash = hash;
                            found
                        }
                    }
                    Err(error) if error.is_missing() => Found::Gone,
                    Err(error) => Found::Unreadable(error.to_string()),
                }
            }
        };
        entry.state = state;
        if found == Found::Gone && entry.accepted == Found::Gone && entry.found == Found::Gone {
            self.files.remove(path);
            return false;
        }
        if found == entry.found {
            return false;
        }
        let marked = found.is_marked();
        entry.found = found;
        if entry.found == entry.accepted {
            // Back to what it was.
            if let Some(settling) = &mut self.settling {
                settling.files.remove(path);
            }
            self.settling.take_if(|s| s.files.is_empty());
            return false;
        }
        if marked {
            if let Some(settling) = &mut self.settling {
                settling.files.remove(path);
            }
            self.settling.take_if(|s| s.files.is_empty());
            let changed = self.accept(path);
            if changed {
                self.assemble();
            }
            return changed;
        }
        let settling = self.settling.get_or_insert_with(|| Settling {
            first: now,
            last: now,
            files: BTreeSet::new(),
        });
        settling.last = now;
        settling.files.insert(path.clone());
        false
    }

    /// What was found in a file counts from now on. True if that changes anything.
    fn accept(&mut self, path: &RelPath) -> bool {
        let Some(entry) = self.files.get_mut(path) else {
            return false;
        };
        if entry.accepted == entry.found {
            return false;
        }
        entry.accepted = entry.found.clone();
        let before = std::mem::take(&mut entry.held);
        entry.held = match &entry.accepted {
            Found::Gone => BTreeMap::new(),
            Found::Unreadable(reason) => stay(before, reason),
            Found::Read(contents) => contents.hold(before),
        };
        if entry.accepted == Found::Gone {
            self.files.remove(path);
            if let Err(error) = self.store.release(path.as_str()) {
                tracing::debug!("drop quarantined copy of {path}: {error}");
            }
        }
        true
    }

    fn assemble(&mut self) {
        let mut placed = Vec::new();
        let mut broken = BTreeMap::new();
        for (path, entry) in &self.files {
            for (identity, held) in &entry.held {
                if let Some(message) = &held.broken {
                    broken.insert(
                        (identity.clone(), path.as_str().to_owned()),
                        (message.clone(), held.isolating),
                    );
                }
                placed.push(Placed {
                    path: path.as_str().to_owned(),
                    document: Arc::clone(&held.document),
                });
            }
            // The same document twice in one file: both are told.
            if let Found::Read(contents) = &entry.accepted {
                let mut seen = BTreeSet::new();
                for document in &contents.documents {
                    if !seen.insert(&document.identity) {
                        placed.push(Placed {
                            path: path.as_str().to_owned(),
                            document: Arc::clone(document),
                        });
                    }
                }
            }
        }
        let (chosen, duplicates) = sets::unique(placed, &self.in_force);
        self.in_force = chosen
            .iter()
            .map(|(identity, place)| (identity.clone(), place.path.clone()))
            .collect();
        let assembly = assemble(
            chosen.values().map(|place| Arc::clone(&place.document)),
            &self.policies,
        );
        self.policies = assembly.policies;
        self.unkept = true;
        self.untold = Some(Untold {
            chosen,
            duplicates,
            broken,
            conditions: assembly.conditions,
        });
    }

    fn tell(&mut self, untold: Untold) {
        let Untold {
            chosen,
            duplicates,
            broken,
            conditions,
        } = untold;
        let mut digests = BTreeMap::new();
        for (identity, place) in &chosen {
            let digest = match self.digests.remove(identity) {
                Some((document, digest)) if Arc::ptr_eq(&document, &place.document) => digest,
                _ => state::layout::digest(&place.document.to_json()),
            };
            digests.insert(identity.clone(), (Arc::clone(&place.document), digest));
        }
        self.digests = digests;

        let mut documents = Vec::new();
        for (identity, place) in &chosen {
            let key = (identity.clone(), place.path.clone());
            let (condition, message, digest) = match broken.get(&key) {
                Some((message, true)) => (
                    Condition::Broken,
                    format!("{message}; what it can be seen to select is isolated"),
                    false,
                ),
                Some((message, false)) => (
                    Condition::Broken,
                    format!("{message}; the last good version is in force"),
                    true,
                ),
                None => {
                    let (condition, message) = conditions
                        .get(identity)
                        .cloned()
                        .unwrap_or((Condition::Applied, String::new()));
                    (condition, message, true)
                }
            };
            documents.push(status::Document {
                identity: identity.to_string(),
                file: place.path.clone(),
                policy: place.document.policy.to_string(),
                condition,
                message,
                digest: self
                    .digests
                    .get(identity)
                    .filter(|_| digest)
                    .map(|(_, digest)| digest.clone()),
                endpoints: 0,
            });
        }
        documents.extend(
            duplicates
                .into_iter()
                .map(|(place, winner)| status::Document {
                    identity: place.document.identity.to_string(),
                    file: place.path,
                    policy: place.document.policy.to_string(),
                    condition: Condition::Duplicate,
                    message: format!("the one in {winner} is in force"),
                    digest: None,
                    endpoints: 0,
                }),
        );
        documents.sort_by(|a, b| {
            (&a.identity, &a.file, a.condition).cmp(&(&b.identity, &b.file, b.condition))
        });
        let files = self
            .files
            .iter()
            .flat_map(|(path, entry)| entry.accepted.complaints(path))
            .collect();
        self.conditions = status::Documents { documents, files };
    }

    /// What the plugin may conclude from the documents as they are read by now: everything in force counts, and
    /// everything that is yet to be.
    pub(crate) fn index(&self) -> Index {
        let mut index = Index {
            listing_digest: self.listing.digest.clone(),
            ..Index::default()
        };
        let mut take = |document: &Document| {
            if document.identity.kind == Kind::ClusterPolicyEndpoint {
                index.cluster_wide = true;
            } else {
                index.namespaces.insert(document.identity.namespace.clone());
            }
            index
                .namespaces
                .extend(document.pods.iter().map(|pod| pod.namespace.to_string()));
        };
        for policy in self.policies.values() {
            policy.documents.iter().for_each(|d| take(d));
        }
        for entry in self.files.values() {
            entry.held.values().for_each(|held| take(&held.document));
            if let Found::Read(contents) = &entry.found {
                contents.documents.iter().for_each(|d| take(d));
                contents
                    .broken
                    .iter()
                    .filter_map(|b| b.isolating.as_ref())
                    .for_each(|d| take(d));
            }
        }
        index
    }

    /// Digest of the version in force.
    pub(crate) fn digest(&self, identity: &Identity) -> Option<&str> {
        self.digests
            .get(identity)
            .map(|(_, digest)| digest.as_str())
    }

    /// Writes what `applied/` lacks or removes what it should not have any more, one document at a time; each is flushed
    /// to the disk, so this is for when nothing else waits. False = nothing was left to do.
    pub(crate) fn keep_one(&mut self) -> bool {
        self.unkept && {
            self.unkept = self.keep_next().is_some();
            self.unkept
        }
    }

    fn keep_next(&mut self) -> Option<()> {
        let wanted = |intake: &Self| {
            let mut wanted = BTreeMap::new();
            for (path, entry) in &intake.files {
                for (identity, held) in entry.held.iter().filter(|(_, held)| !held.isolating) {
                    if intake
                        .in_force
                        .get(identity)
                        .is_some_and(|winner| winner == path.as_str())
                    {
                        wanted.insert(identity.clone(), (path.clone(), Arc::clone(&held.document)));
                    }
                }
            }
            wanted
        };
        let wanted = wanted(self);
        let lacking = wanted.iter().find(|(identity, (_, document))| {
            self.kept
                .get(*identity)
                .is_none_or(|kept| !Arc::ptr_eq(kept, document) && kept != document)
        });
        if let Some((identity, (path, document))) = lacking {
            let applied = state::applied::Applied {
                identity: identity.to_string(),
                source: Some(path.clone()),
                bytes: document.to_json(),
            };
            if let Err(error) = self.store.put_applied(&applied) {
                tracing::warn!("keep last good version of {identity}: {error}");
            }
            self.kept.insert(identity.clone(), Arc::clone(document));
            return Some(());
        }
        let gone = self
            .kept
            .keys()
            .find(|identity| !wanted.contains_key(*identity))
            .cloned()?;
        if let Err(error) = self.store.remove_applied(&gone.to_string()) {
            tracing::warn!("forget last good version of {gone}: {error}");
        }
        self.kept.remove(&gone);
        Some(())
    }
}
