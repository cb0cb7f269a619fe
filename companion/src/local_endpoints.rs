//! The endpoints of this node: records, what the store knows of their pods, and what the first decision about each waits
//! for.
//!
//! An endpoint is new, waits for what concerns it ([`Blocker`]), and is decided from then on. One whose record cannot be
//! read stays as it was known, over a restart by what an earlier run published, as long as its kernel entry lives.

mod recovered;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use enforcer::endpoint::Endpoints as KernelEndpoints;
use enforcer::hosts::Claims;
use policy::{Endpoint, EndpointId};
use published::pod;
use state::workloads::Workloads;
use state::{Mode, NodeConfig, Phase, ProblemKind, Record, Source, Store, node};

use crate::document_store::{Blocker, DocumentStore};
use crate::enforcement::LocalEndpoint;
use crate::retry::Retry;

/// A read that failed is tried again after so long.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_AT_MOST: Duration = Duration::from_secs(5);

/// One local endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) record: Record,
    pub(crate) endpoint: Endpoint,
    /// Whether the store knows the pod: where a cluster fills the store, not before its workload is there.
    in_store: bool,
    /// Since when its workload shows addresses.
    addresses_since: Option<Instant>,
}

impl Local {
    pub(crate) fn id(&self) -> EndpointId {
        self.endpoint.id
    }

    pub(crate) fn is_strict(&self) -> bool {
        self.record.mode == Mode::Strict
    }
}

/// Which files are to be read again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parts {
    pub(crate) node: bool,
    pub(crate) workloads: bool,
    pub(crate) pods: bool,
}

impl Parts {
    pub(crate) const ALL: Self = Self {
        node: true,
        workloads: true,
        pods: true,
    };

    pub(crate) const fn any(self) -> bool {
        self.node || self.workloads || self.pods
    }
}

/// See the module.
pub(crate) struct LocalEndpoints {
    store: Store,
    config: NodeConfig,
    workloads: Workloads,
    locals: BTreeMap<EndpointId, Local>,
    /// Records of finished ADDs without an entry.
    without_entry: Vec<Record>,
    /// Kernel entries of which no record could be read: their interface.
    unmanaged: BTreeMap<EndpointId, u32>,
    /// Of these, what an earlier run published, as records.
    recovered: Vec<Record>,
    /// What the records claim of the host.
    claims: Claims,
    /// What first decisions wait for; an endpoint that is not in it waits for nothing.
    waiting: BTreeMap<EndpointId, BTreeSet<Blocker>>,
    /// Endpoints whose blockers are still to be asked for.
    unasked: BTreeSet<EndpointId>,
    /// Endpoints that changed since the last [`Self::take_changed`], those that went included.
    changed: BTreeSet<EndpointId>,
    problems: [Vec<String>; 3],
    failed: [bool; 3],
    retry: Retry,
}

impl LocalEndpoints {
    pub(crate) fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            config: NodeConfig::default(),
            workloads: Workloads::default(),
            locals: BTreeMap::new(),
            without_entry: Vec::new(),
            unmanaged: BTreeMap::new(),
            recovered: Vec::new(),
            claims: Claims::default(),
            waiting: BTreeMap::new(),
            unasked: BTreeSet::new(),
            changed: BTreeSet::new(),
            problems: Default::default(),
            failed: [false; 3],
            retry: Retry::new(RETRY, RETRY_AT_MOST),
        }
    }

    pub(crate) fn config(&self) -> &NodeConfig {
        &self.config
    }

    pub(crate) fn locals(&self) -> &BTreeMap<EndpointId, Local> {
        &self.locals
    }

    /// The namespaces of the endpoints.
    pub(crate) fn namespaces(&self) -> BTreeSet<String> {
        let locals = self.locals.values();
        locals
            .map(|local| local.endpoint.namespace.clone())
            .collect()
    }

    pub(crate) fn records_without_entry(&self) -> &[Record] {
        &self.without_entry
    }

    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What is wrong with the files.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.iter().flatten()
    }

    /// When [`Self::due_parts`] has something to read again.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.retry.due()
    }

    /// What could not be read and is to be tried again now.
    pub(crate) fn due_parts(&self, now: Instant) -> Parts {
        let due = self.retry.is_due(now);
        let [node, workloads, pods] = self.failed.map(|failed| failed && due);
        Parts {
            node,
            workloads,
            pods,
        }
    }

    /// The kernel's entries as they are when its objects are taken up.
    pub(crate) fn take_entries(
        &mut self,
        kernel: &KernelEndpoints,
    ) -> Result<(), enforcer::endpoint::Error> {
        let entries = kernel.entries()?;
        self.unmanaged = entries
            .into_iter()
            .map(|entry| (EndpointId(entry.endpoint_id), entry.ifindex))
            .filter(|(id, _)| !self.locals.contains_key(id))
            .collect();
        self.recovered = recovered::records(&self.store, kernel.pins(), &self.unmanaged);
        Ok(())
    }

    /// Reads what may have changed. False = what matters could not be read at all, and everything is as before.
    pub(crate) fn load(
        &mut self,
        parts: Parts,
        kernel: Option<&KernelEndpoints>,
        now: Instant,
    ) -> bool {
        let mut loaded = true;
        if parts.node {
            let read = self.store.node_config();
            self.failed[0] = matches!(&read, Err(node::Error::File(error)) if error.is_transient());
            self.problems[0] = read
                .as_ref()
                .err()
                .map(ToString::to_string)
                .into_iter()
                .collect();
            loaded &= !self.failed[0];
            if let Ok(config) = read {
                self.config = config;
            }
        }
        if parts.workloads {
            loaded &= self.load_workloads();
        }
        if parts.any() {
            loaded &= self.load_records(kernel, now);
        }
        self.retry.take(self.failed.contains(&true), now);
        loaded
    }

    fn load_workloads(&mut self) -> bool {
        let mut read = match self.store.workloads() {
            Ok(read) => read,
            Err(error) => {
                self.failed[1] = true;
                self.problems[1] = vec![error.to_string()];
                return false;
            }
        };
        // What a file said before holds as long as it cannot be read: labels that are forgotten would open pods.
        let bad: BTreeSet<&PathBuf> = read.problems.iter().map(|p| &p.path).collect();
        let is_bad = |(namespace, name): &(String, String)| {
            let path = self.store.layout().workload(namespace, name);
            path.is_ok_and(|path| bad.iter().any(|bad| path.starts_with(bad)))
        };
        let before = std::mem::take(&mut self.workloads.pods);
        let kept: Vec<_> = before
            .into_iter()
            .filter(|(key, _)| !read.pods.contains_key(key) && is_bad(key))
            .collect();
        read.pods.extend(kept);
        self.failed[1] = read.problems.iter().any(|p| is_unread(&p.kind));
        self.problems[1] = read.problems.iter().map(ToString::to_string).collect();
        self.workloads = read;
        true
    }

    fn load_records(&mut self, kernel: Option<&KernelEndpoints>, now: Instant) -> bool {
        let records = match self.store.records() {
            Ok(records) => records,
            Err(error) => {
                self.failed[2] = true;
                self.problems[2] = vec![error.to_string()];
                return false;
            }
        };
        self.failed[2] = records.problems.iter().any(|p| is_unread(&p.kind));
        self.problems[2] = records.problems.iter().map(ToString::to_string).collect();
        self.claims = Claims::of(&records.good);
        // An entry that cannot be looked at is not known to be gone.
        let errors = RefCell::new(Vec::new());
        let known: BTreeSet<EndpointId> = self.locals.keys().copied().collect();
        let lives = |ifindex: u32, id: u32| -> bool {
            let Some(kernel) = kernel else { return true };
            match kernel.entry(ifindex) {
                Ok(entry) => entry.is_some_and(|entry| entry.endpoint_id == id),
                Err(error) => {
                    errors.borrow_mut().push(error.to_string());
                    known.contains(&EndpointId(id))
                }
            }
        };
        let mut locals = BTreeMap::new();
        self.without_entry.clear();
        for record in records.good {
            if record.endpoint_id == 0 {
                continue;
            }
            if lives(record.ifindex, record.endpoint_id) {
                let before = self.locals.get(&EndpointId(record.endpoint_id));
                let local = local(record, &self.workloads, &self.config, before, now);
                locals.insert(local.id(), local);
            } else if record.phase == Phase::Attached && kernel.is_some() {
                self.without_entry.push(record);
            }
        }
        // A record that cannot be read takes nothing away while the kernel has the endpoint.
        let bad: BTreeSet<&PathBuf> = records.problems.iter().map(|p| &p.path).collect();
        let is_bad = |record: &Record| {
            let paths = self
                .store
                .layout()
                .record(&record.container_id, &record.ifname);
            paths.is_ok_and(|paths| paths.iter().any(|path| bad.contains(path)))
        };
        for (id, known) in &self.locals {
            if !locals.contains_key(id)
                && is_bad(&known.record)
                && lives(known.record.ifindex, id.0)
            {
                locals.insert(*id, known.clone());
            }
        }
        for record in &self.recovered {
            let id = EndpointId(record.endpoint_id);
            if !locals.contains_key(&id) && is_bad(record) && lives(record.ifindex, id.0) {
                let before = self.locals.get(&id);
                let local = local(record.clone(), &self.workloads, &self.config, before, now);
                locals.insert(id, local);
            }
        }
        let gone: Vec<EndpointId> = self
            .unmanaged
            .iter()
            .filter(|(id, ifindex)| locals.contains_key(id) || !lives(**ifindex, id.0))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.unmanaged.remove(&id);
            self.changed.insert(id);
        }
        let errors = errors.into_inner();
        self.failed[2] |= !errors.is_empty();
        self.problems[2].extend(errors);
        self.replace(locals);
        true
    }

    fn replace(&mut self, locals: BTreeMap<EndpointId, Local>) {
        for (id, local) in &locals {
            let before = self.locals.get(id);
            if before == Some(local) {
                continue;
            }
            self.changed.insert(*id);
            // Its documents are all in the store by now, and not before.
            if local.in_store && before.is_none_or(|before| !before.in_store) {
                self.unasked.insert(*id);
            }
        }
        for id in self.locals.keys().filter(|id| !locals.contains_key(id)) {
            self.changed.insert(*id);
            self.waiting.remove(id);
            self.unasked.remove(id);
        }
        self.locals = locals;
    }

    /// Whether [`Self::ask`] has something to ask. Before it, all that happened in the store up to now is to be taken up.
    pub(crate) fn must_ask(&self) -> bool {
        !self.unasked.is_empty()
    }

    /// Finds out what the first decisions about new endpoints wait for. Later documents do not prolong the wait.
    pub(crate) fn ask(&mut self, documents: &DocumentStore) {
        for id in std::mem::take(&mut self.unasked) {
            if let Some(local) = self.locals.get(&id) {
                let blockers = documents.blockers(&local.endpoint.namespace);
                if !blockers.is_empty() {
                    self.waiting.insert(id, blockers);
                }
            }
        }
    }

    /// Takes away what no longer stands in the way.
    pub(crate) fn unblock(&mut self, documents: &DocumentStore) {
        let changed = &mut self.changed;
        self.waiting.retain(|id, blockers| {
            blockers.retain(|blocker| documents.stands(blocker));
            if blockers.is_empty() {
                changed.insert(*id);
            }
            !blockers.is_empty()
        });
    }

    /// Endpoints that came, changed or went.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<EndpointId> {
        std::mem::take(&mut self.changed)
    }

    /// Everything is to be told again, because who was told is new.
    pub(crate) fn all_changed(&mut self) {
        self.changed.extend(self.locals.keys());
    }

    /// An endpoint as enforcement needs it.
    pub(crate) fn for_enforcement(&self, id: EndpointId) -> Option<LocalEndpoint> {
        let local = self.locals.get(&id)?;
        Some(LocalEndpoint {
            endpoint: local.endpoint.clone(),
            ifindex: local.record.ifindex,
            endpoint_index: local.record.endpoint_index,
            strict: local.is_strict(),
            known: local.in_store && !self.waiting.contains_key(&id) && !self.unasked.contains(&id),
            addresses_since: local.addresses_since,
        })
    }
}

/// What the kernel did not let us read.
fn is_unread(kind: &ProblemKind) -> bool {
    matches!(kind, ProblemKind::Unreadable(_))
}

fn local(
    record: Record,
    workloads: &Workloads,
    config: &NodeConfig,
    before: Option<&Local>,
    now: Instant,
) -> Local {
    let workload = pod::workload(workloads, &record);
    let addresses = workload.is_some_and(|w| !w.addresses.is_empty());
    let since = before.and_then(|local| local.addresses_since);
    Local {
        endpoint: pod::endpoint(&record, workload),
        in_store: config.source == Source::Files || workload.is_some(),
        addresses_since: addresses.then(|| since.unwrap_or(now)),
        record,
    }
}
