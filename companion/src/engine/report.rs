//! What the engine says: index, status files, and what the metrics and the flow log know.

use std::collections::BTreeMap;
use std::sync::Arc;

use published::{SelectorOverrides, status};

use super::Engine;
use crate::local::Local;
use crate::shared::{Pod, Unready};

impl Engine {
    pub(super) fn write_index(&mut self) {
        let index = self.intake.index();
        if self.index.as_ref() == Some(&index) {
            return;
        }
        match self.store.write_index(&index) {
            Ok(()) => self.index = Some(index),
            Err(error) => tracing::warn!("write index: {error}"),
        }
    }

    /// Says that the status is no longer the whole truth, *before* anything is read: a store that is again as it was when
    /// the status was written may have been otherwise when we read it.
    pub(super) fn unsettle(&mut self) {
        if !std::mem::replace(&mut self.status.settling, true) {
            self.write_status();
        }
    }

    /// Says what is applied.
    pub(super) fn tell(&mut self, changed: bool) {
        if changed {
            self.tell_endpoints();
        }
        self.tell_documents();
        self.tell_facts();
        self.tell_problems();
        self.status.settling = self.intake.is_settling();
        if !self.status.settling && self.status.error.is_none() {
            self.status.applied = self.seen.clone();
            self.status.applied_until_ns = self.seen_at_ns;
        }
        if let Some([peers, prefixes, rules, port_sets]) = self.enforcement.sizes() {
            self.status.tables = status::Tables {
                peers,
                prefixes,
                rules,
                port_sets,
            };
        }
        self.write_status();
        self.share(changed);
    }

    fn tell_problems(&mut self) {
        let problems: Vec<String> = self.problems.values().flatten().cloned().collect();
        for problem in problems
            .iter()
            .filter(|p| !self.status.problems.contains(p))
        {
            tracing::warn!("{problem}");
        }
        self.status.problems = problems;
    }

    pub(super) fn write_status(&self) {
        if let Err(error) = self.status.write(&self.store) {
            tracing::warn!("write status: {error}");
        }
    }

    /// Lets the others know.
    pub(super) fn share(&mut self, changed: bool) {
        let mut conditions: BTreeMap<&'static str, u64> = BTreeMap::new();
        let told = self.intake.conditions();
        for document in &told.documents {
            *conditions.entry(document.condition.name()).or_default() += 1;
        }
        let broken_files = told.files.len() as u64;
        let tables = self.status.tables;
        let unready = match (&self.status.error, self.status.maps) {
            (Some(_), _) => Some(Unready::NotApplied),
            (None, status::Maps::Absent) => Some(Unready::NoMaps),
            (None, status::Maps::Loaded) => None,
        };
        self.shared.update(|known| {
            if changed {
                let mut by_address = BTreeMap::new();
                for local in self.locals.values() {
                    by_address.extend(
                        local
                            .record
                            .addresses
                            .iter()
                            .map(|ip| (*ip, local.record.endpoint_id)),
                    );
                }
                let pod = |local: &Local| Pod {
                    namespace: local.record.pod_namespace.clone(),
                    name: local.record.pod_name.clone(),
                    endpoint_index: local.record.endpoint_index,
                    strict: local.is_strict(),
                };
                known.pods = Arc::new(
                    self.locals
                        .values()
                        .map(|local| (local.record.endpoint_id, pod(local)))
                        .collect(),
                );
                known.by_address = Arc::new(by_address);
            }
            known.unready = unready;
            known.broken_files = broken_files;
            known.conditions = conditions;
            known.generation = self.status.generation;
            known.faults = self.status.faults.len() as u64;
            known.suspended = self.options.suspended;
            known.tables = [
                ("peers", tables.peers as u64),
                ("prefixes", tables.prefixes as u64),
                ("rules", tables.rules as u64),
                ("port_sets", tables.port_sets as u64),
            ];
        });
    }

    pub(super) fn tell_documents(&mut self) {
        let mut documents = self.intake.conditions().clone();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for endpoint in &self.told_endpoints.endpoints {
            endpoint
                .policies
                .iter()
                .for_each(|policy| *counts.entry(policy).or_default() += 1);
        }
        for document in &mut documents.documents {
            document.endpoints = counts.get(document.policy.as_str()).copied().unwrap_or(0);
        }
        if self.told_documents.as_ref() == Some(&documents) {
            return;
        }
        let before = self.told_documents.take().unwrap_or_default();
        let stands = |all: &status::Documents, one: &status::Document| {
            all.documents.iter().any(|d| {
                (&d.identity, &d.file, d.condition, &d.message)
                    == (&one.identity, &one.file, one.condition, &one.message)
            })
        };
        for one in documents
            .documents
            .iter()
            .filter(|one| !stands(&before, one))
        {
            if one.condition == policy::documents::Condition::Applied {
                tracing::info!(document = %one.identity, file = %one.file, "applied");
            } else {
                tracing::warn!(document = %one.identity, file = %one.file, "{}: {}", one.condition, one.message);
            }
        }
        for file in documents
            .files
            .iter()
            .filter(|file| !before.files.contains(file))
        {
            tracing::warn!(file = %file.path, "Broken: {}", file.message);
        }
        match documents.write(&self.store) {
            Ok(()) => self.told_documents = Some(documents),
            Err(error) => tracing::warn!("write status: {error}"),
        }
    }

    pub(super) fn tell_endpoints(&mut self) {
        // Digests of documents are made when they are told of.
        self.intake.conditions();
        let before: BTreeMap<u32, &status::Endpoint> = self
            .told_endpoints
            .endpoints
            .iter()
            .map(|e| (e.endpoint_id, e))
            .collect();
        let mut endpoints = Vec::with_capacity(self.locals.len());
        for local in self.locals.values() {
            let view = self.enforcement.view(local.id()).unwrap_or_default();
            let known = view.decided;
            let digest = self.profile_digest(&view.policies);
            let mut policies: Vec<String> = view
                .policies
                .iter()
                .map(|policy| policy.key.policy.to_string())
                .collect();
            policies.dedup();
            let record = &local.record;
            let generation = before
                .get(&record.endpoint_id)
                .filter(|e| e.digest == digest && e.mode == record.mode && e.known == known)
                .map_or(self.status.generation, |e| e.generation);
            endpoints.push(status::Endpoint {
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
                known,
            });
        }
        let told = status::Endpoints { endpoints };
        if told != self.told_endpoints {
            if let Err(error) = told.write(&self.store) {
                tracing::warn!("write status: {error}");
            }
            self.told_endpoints = told;
        }
    }

    /// Keeps what [`policy::Facts`] know over a restart.
    fn tell_facts(&mut self) {
        let facts = self.enforcement.facts();
        if self.told_facts.as_ref() == Some(facts) {
            return;
        }
        match SelectorOverrides::of(facts).write(&self.store) {
            Ok(()) => self.told_facts = Some(facts.clone()),
            Err(error) => tracing::warn!("write status: {error}"),
        }
    }

    /// Puts back what an earlier run knew, once the policies and endpoints are there.
    pub(super) fn recall_facts(&mut self) {
        let kept = SelectorOverrides::read(&self.store).ok().flatten();
        let locals = &self.locals;
        let facts = kept
            .unwrap_or_default()
            .facts(self.intake.policies(), |id| locals.contains_key(&id));
        self.enforcement.restore_facts(facts);
    }
}
