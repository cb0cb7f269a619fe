//! What the companion says: `status/`, the log, and what the metrics and the flow log know.
//!
//! `companion.json` says that changes wait *before* anything is read, so that nobody takes an older status for the truth;
//! it says that all is applied once the other files say so too. Those are written at most every 100 ms.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::documents::Condition;
use policy::{EndpointId, Facts, Policy};
use published::SelectorOverrides;
use published::status::{self, Maps};
use state::{Index, Store, StoreFingerprint};

use crate::document_store::{ConditionChanges, DocumentStore};
use crate::enforcement::{Enforcement, Outcome};
use crate::local_endpoints::{Local, LocalEndpoints};
use crate::shared::{Counts, Pod, Shared, Unready};

/// Large files are written at most so often.
const SPACING: Duration = Duration::from_millis(100);
/// Beyond so many documents that changed at once, the log names no single one.
const LOGGED_AT_ONCE: usize = 50;

/// See the module.
pub(crate) struct StatusWriter {
    store: Store,
    shared: Arc<Shared>,
    status: status::Companion,
    index: Option<Index>,
    endpoints: status::Endpoints,
    overrides: Option<Facts>,
    /// What is to be told and is not yet.
    documents_wait: bool,
    endpoints_wait: bool,
    /// When the large files may be written again.
    next: Instant,
    /// The store as it was when what is applied now was read.
    seen: StoreFingerprint,
    seen_until_ns: u64,
}

impl StatusWriter {
    pub(crate) fn new(store: &Store, shared: &Arc<Shared>, suspended: bool, events: bool) -> Self {
        let before = status::Companion::read(store).ok().flatten();
        let status = status::Companion {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: state::clock::now_rfc3339(),
            generation: before.map_or(0, |b| b.generation),
            suspended,
            events,
            ..status::Companion::default()
        };
        Self {
            store: store.clone(),
            shared: Arc::clone(shared),
            status,
            index: None,
            endpoints: status::Endpoints::read(store)
                .ok()
                .flatten()
                .unwrap_or_default(),
            overrides: None,
            documents_wait: true,
            endpoints_wait: true,
            next: Instant::now(),
            seen: StoreFingerprint::default(),
            seen_until_ns: 0,
        }
    }

    /// Says that changes wait, before anything is read.
    pub(crate) fn unsettle(&mut self) {
        if !std::mem::replace(&mut self.status.settling, true) {
            self.write();
        }
    }

    /// What the plugin may conclude, as soon as the files are read.
    pub(crate) fn index(&mut self, index: Index) {
        if self.index.as_ref() == Some(&index) {
            return;
        }
        match self.store.write_index(&index) {
            Ok(()) => self.index = Some(index),
            Err(error) => tracing::warn!("write index: {error}"),
        }
    }

    /// The store as it was before what is told next was read from it. `None` = that cannot be said.
    pub(crate) fn seen(&mut self, fingerprint: StoreFingerprint, until_ns: Option<u64>) {
        self.seen = fingerprint;
        self.seen_until_ns = self.seen_until_ns.max(until_ns.unwrap_or(0));
    }

    pub(crate) fn maps(&mut self, maps: Maps) {
        self.status.maps = maps;
    }

    /// Takes notice of what came of a change.
    pub(crate) fn outcome(&mut self, outcome: &Outcome, begin: Instant) {
        if !outcome.changed.is_empty() || self.status.maps == Maps::Absent {
            self.status.generation += 1;
        }
        let counts = &self.shared.counts;
        match &outcome.error {
            None => {
                let took = begin.elapsed().as_micros();
                Counts::add(&counts.applied, 1);
                Counts::add(&counts.apply_us, took as u64);
                tracing::debug!(writes = outcome.writes, took_us = took, "policy in force");
                if self.status.error.take().is_some() {
                    tracing::info!("the change that could not be applied is in force now");
                }
            }
            Some(error) => {
                Counts::add(&counts.apply_errors, 1);
                if self.status.error.as_ref() != Some(error) {
                    tracing::error!(
                        "apply policy: {error}; the policy before stays in force, trying again"
                    );
                }
                self.status.error = Some(error.clone());
            }
        }
        self.endpoints_wait = true;
    }

    /// When what waits is to be written.
    pub(crate) fn due(&self) -> Option<Instant> {
        let waits = self.documents_wait || self.endpoints_wait;
        waits.then_some(self.next)
    }

    /// Says what is applied.
    pub(crate) fn publish(
        &mut self,
        documents: &mut DocumentStore,
        endpoints: &LocalEndpoints,
        enforcement: &Enforcement,
        faults: &BTreeMap<u32, String>,
        problems: Vec<String>,
        now: Instant,
    ) {
        let changes = documents.refresh_conditions();
        log(&changes, documents);
        self.documents_wait |= changes.any;
        if self.due().is_some_and(|due| due <= now) {
            self.next = now + SPACING;
            if std::mem::take(&mut self.endpoints_wait) {
                self.endpoints(documents, endpoints, enforcement);
            }
            if std::mem::take(&mut self.documents_wait) {
                self.documents(documents);
            }
        }
        self.overrides(enforcement.facts());
        self.status.faults.clone_from(faults);
        if self.status.problems != problems {
            for problem in problems
                .iter()
                .filter(|p| !self.status.problems.contains(p))
            {
                tracing::warn!("{problem}");
            }
            self.status.problems = problems;
        }
        if let Some([peers, prefixes, rules, port_sets]) = enforcement.sizes() {
            self.status.tables = status::Tables {
                peers,
                prefixes,
                rules,
                port_sets,
            };
        }
        self.status.settling =
            documents.is_settling() || self.documents_wait || self.endpoints_wait;
        if !self.status.settling && self.status.error.is_none() {
            self.status.applied = self.seen.clone();
            self.status.applied_until_ns = self.seen_until_ns;
        }
        self.write();
        self.share(documents);
    }

    fn write(&self) {
        if let Err(error) = self.status.write(&self.store) {
            tracing::warn!("write status: {error}");
        }
    }

    fn documents(&mut self, documents: &mut DocumentStore) {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for endpoint in &self.endpoints.endpoints {
            for policy in &endpoint.policies {
                *counts.entry(policy).or_default() += 1;
            }
        }
        if let Err(error) = documents.write_conditions(&counts) {
            tracing::warn!("write status: {error}");
            self.documents_wait = true;
        }
    }

    fn endpoints(
        &mut self,
        documents: &DocumentStore,
        endpoints: &LocalEndpoints,
        enforcement: &Enforcement,
    ) {
        let before: BTreeMap<u32, &status::Endpoint> = self
            .endpoints
            .endpoints
            .iter()
            .map(|e| (e.endpoint_id, e))
            .collect();
        let one = |(id, local): (&EndpointId, &Local)| {
            let view = enforcement.view(*id).unwrap_or_default();
            let digest = digest(documents, &view.policies);
            let mut policies: Vec<String> = view
                .policies
                .iter()
                .map(|policy| policy.key.policy.to_string())
                .collect();
            policies.dedup();
            let record = &local.record;
            let generation = before
                .get(&id.0)
                .filter(|e| e.digest == digest && e.mode == record.mode && e.known == view.decided)
                .map_or(self.status.generation, |e| e.generation);
            status::Endpoint {
                endpoint_id: record.endpoint_id,
                endpoint_index: record.endpoint_index,
                ifindex: record.ifindex,
                container_id: record.container_id.clone(),
                ifname: record.ifname.clone(),
                namespace: record.pod_namespace.clone(),
                pod: record.pod_name.clone(),
                mode: record.mode,
                generation,
                digest,
                policies,
                isolated_ingress: view.isolated.ingress,
                isolated_egress: view.isolated.egress,
                known: view.decided,
            }
        };
        let now = status::Endpoints {
            endpoints: endpoints.locals().iter().map(one).collect(),
        };
        if now == self.endpoints && self.status.applied != StoreFingerprint::default() {
            return;
        }
        if let Err(error) = now.write(&self.store) {
            tracing::warn!("write status: {error}");
            self.endpoints_wait = true;
            return;
        }
        self.endpoints = now;
        self.documents_wait = true;
        self.share_pods(endpoints);
    }

    /// Keeps what is known of selectors over a restart.
    fn overrides(&mut self, facts: &Facts) {
        if self.overrides.as_ref() == Some(facts) {
            return;
        }
        match SelectorOverrides::of(facts).write(&self.store) {
            Ok(()) => self.overrides = Some(facts.clone()),
            Err(error) => tracing::warn!("write status: {error}"),
        }
    }

    fn share_pods(&self, endpoints: &LocalEndpoints) {
        let mut by_address = BTreeMap::new();
        let mut pods = BTreeMap::new();
        for local in endpoints.locals().values() {
            let record = &local.record;
            by_address.extend(record.addresses.iter().map(|ip| (*ip, record.endpoint_id)));
            let pod = Pod {
                namespace: record.pod_namespace.clone(),
                name: record.pod_name.clone(),
                endpoint_index: record.endpoint_index,
                strict: local.is_strict(),
            };
            pods.insert(record.endpoint_id, pod);
        }
        self.shared.update(|known| {
            known.pods = Arc::new(pods);
            known.by_address = Arc::new(by_address);
        });
    }

    fn share(&self, documents: &DocumentStore) {
        let tables = self.status.tables;
        let unready = match (&self.status.error, self.status.maps) {
            (Some(_), _) => Some(Unready::NotApplied),
            (None, Maps::Absent) => Some(Unready::NoMaps),
            (None, Maps::Loaded) => None,
        };
        self.shared.update(|known| {
            known.unready = unready;
            known.broken_files = documents.broken_files().len() as u64;
            known.conditions = documents.condition_counts();
            known.generation = self.status.generation;
            known.faults = self.status.faults.len() as u64;
            known.suspended = self.status.suspended;
            known.tables = [
                ("peers", tables.peers as u64),
                ("prefixes", tables.prefixes as u64),
                ("rules", tables.rules as u64),
                ("port_sets", tables.port_sets as u64),
            ];
        });
    }
}

/// Digest of the policies that select an endpoint, in these versions.
fn digest(documents: &DocumentStore, policies: &[Arc<Policy>]) -> String {
    let mut text = String::new();
    for policy in policies {
        text.push_str(&policy.key.to_string());
        for document in &policy.documents {
            text.push('\n');
            text.push_str(documents.digest(&document.identity).unwrap_or_default());
        }
    }
    state::layout::digest(text.as_bytes())
}

fn log(changes: &ConditionChanges, documents: &DocumentStore) {
    let many = changes.documents.len() > LOGGED_AT_ONCE;
    if many {
        tracing::info!(documents = changes.documents.len(), "documents taken up");
    }
    for one in &changes.documents {
        if one.condition != Condition::Applied {
            tracing::warn!(document = %one.identity, file = %one.file, "{}: {}", one.condition, one.message);
        } else if !many {
            tracing::info!(document = %one.identity, file = %one.file, "applied");
        }
    }
    if changes.files {
        for file in documents.broken_files() {
            tracing::warn!(file = %file.path, "Broken: {}", file.message);
        }
    }
}
