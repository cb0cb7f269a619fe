//! The state of the controller: what policies come to, what the API has, and what is to be written.
//!
//! Invariants: one task at a time writes for a policy; what it wrote counts as observed from its answer on, so that a watch
//! that lags behind leads to no second write; nothing is deleted before every list has been read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use resolve::{ObjectKey, Options, PolicyChange, PolicyFile};
use tracing::{info, warn};

use super::{
    events::Event,
    findings::{Findings, findings},
    objects::{Desired, Name, Objects, name_of},
    report::Report,
    write::{Conditions, Done, Work},
};
use crate::{
    api::{Error, Query, Resource, Update},
    contacts::Contacts,
    documents,
    inputs::{Inputs, Token},
};

/// Writes at a time.
const IN_FLIGHT: usize = 16;
const FIRST_BACK_OFF: Duration = Duration::from_millis(500);
const LAST_BACK_OFF: Duration = Duration::from_secs(30);

pub(crate) struct Controller {
    inputs: Inputs,
    objects: Objects,
    listed: BTreeSet<Token>,
    expected: Vec<Token>,
    files: BTreeMap<ObjectKey, Arc<PolicyFile>>,
    dirty: BTreeSet<ObjectKey>,
    in_flight: BTreeSet<ObjectKey>,
    /// Policies whose last write failed: when it is tried again, and the pause after that.
    failed: BTreeMap<ObjectKey, (Instant, Duration)>,
    too_large: BTreeMap<ObjectKey, String>,
    /// What was told about each policy.
    told: BTreeMap<ObjectKey, Vec<Event>>,
    keeps_no_conditions: bool,
    leads: bool,
    stands_back: bool,
    /// Everything was as it should be at least once since leading.
    caught_up: bool,
    pub(crate) contacts: Contacts,
    writes: u64,
    deletes: u64,
    status_writes: u64,
    events: u64,
    errors: u64,
    last_error: Option<String>,
}

impl Controller {
    pub(crate) fn new(queries: &[Query], options: Options) -> Self {
        let expected: Vec<Token> = queries
            .iter()
            .map(|query| (query.resource, query.scope.clone()))
            .collect();
        let mut contacts = Contacts::default();
        for token in &expected {
            contacts.expect(token);
        }
        Self {
            inputs: Inputs::new(options),
            objects: Objects::default(),
            listed: BTreeSet::new(),
            expected,
            files: BTreeMap::new(),
            dirty: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            failed: BTreeMap::new(),
            too_large: BTreeMap::new(),
            told: BTreeMap::new(),
            keeps_no_conditions: false,
            leads: false,
            stands_back: false,
            caught_up: false,
            contacts,
            writes: 0,
            deletes: 0,
            status_writes: 0,
            events: 0,
            errors: 0,
            last_error: None,
        }
    }

    /// Everything that is followed.
    pub(crate) fn queries() -> Vec<Query> {
        let fixed = [
            Resource::PODS,
            Resource::NAMESPACES,
            Resource::NODES,
            Resource::SERVICES,
            Resource::ENDPOINT_SLICES,
            Resource::POLICY_ENDPOINTS,
            Resource::CLUSTER_POLICY_ENDPOINTS,
        ];
        fixed
            .into_iter()
            .chain(Resource::NAMESPACED_POLICIES)
            .chain(Resource::CLUSTER_POLICIES)
            .map(Query::all)
            .collect()
    }

    /// Takes what a watch sent.
    pub(crate) fn take(&mut self, token: &Token, update: Update) {
        self.contacts.heard(token, &update);
        if matches!(update, Update::Listed { .. }) {
            self.listed.insert(token.clone());
        }
        let is_object = matches!(
            token.0,
            Resource::POLICY_ENDPOINTS | Resource::CLUSTER_POLICY_ENDPOINTS
        );
        match update {
            Update::Listed { items, version } if is_object => {
                let touched = self.objects.listed(token.0, &items, &version);
                self.dirty.extend(touched);
            }
            Update::Changed(raw) if is_object => {
                self.dirty.extend(self.objects.put(&raw));
            }
            Update::Gone(meta) if is_object => {
                let (namespace, name) = meta.key();
                self.dirty
                    .extend(self.objects.remove(&Name { namespace, name }));
            }
            Update::Listed { items, .. } => self.inputs.listed(token, &items),
            Update::Changed(raw) => self.inputs.changed(token, &raw),
            Update::Gone(meta) => self.inputs.gone(token, &meta),
            Update::Bookmark(_) | Update::Trouble(_) => {}
        }
    }

    fn is_listed(&self) -> bool {
        self.expected
            .iter()
            .all(|token| self.listed.contains(token))
    }

    /// Resolves what changed, and says what is to be written now.
    pub(crate) fn settle(&mut self, leads: bool) -> Vec<Work> {
        if leads != self.leads {
            self.leads = leads;
            self.caught_up = false;
            if leads {
                // What was written meanwhile came by the watch; all of it is compared.
                self.dirty.extend(self.inputs.policies().keys().cloned());
                self.dirty
                    .extend(self.objects.iter().filter_map(|(_, o)| o.policy.clone()));
            }
        }
        if !self.is_listed() {
            return Vec::new();
        }
        let (changes, renewed) = self.inputs.resolve();
        self.dirty.extend(renewed);
        for change in changes.policies {
            match change {
                PolicyChange::Write(file) => {
                    self.dirty.insert(file.key().clone());
                    self.too_large.remove(file.key());
                    self.files.insert(file.key().clone(), file);
                }
                PolicyChange::Remove { policy, .. } => {
                    let is_it = |key: &&ObjectKey| {
                        key.kind.name() == policy.kind
                            && key.namespace == policy.namespace
                            && key.name == policy.name
                    };
                    if let Some(key) = self.files.keys().find(is_it).cloned() {
                        self.files.remove(&key);
                        self.dirty.insert(key);
                    }
                }
            }
        }
        self.look_for_amazon();
        if !self.leads || self.stands_back {
            return Vec::new();
        }
        let now = Instant::now();
        let ready: Vec<ObjectKey> = self
            .dirty
            .iter()
            .filter(|key| !self.in_flight.contains(*key))
            .filter(|key| self.failed.get(*key).is_none_or(|(at, _)| *at <= now))
            .cloned()
            .collect();
        let mut works = Vec::new();
        for key in ready {
            if self.in_flight.len() >= IN_FLIGHT {
                return works;
            }
            self.dirty.remove(&key);
            let work = self.work(&key);
            if work.is_empty() {
                self.failed.remove(&key);
                continue;
            }
            self.in_flight.insert(key);
            works.push(work);
        }
        if self.dirty.is_empty() && self.in_flight.is_empty() && !self.caught_up {
            self.caught_up = true;
            info!(
                policies = self.files.len(),
                "caught up: every policy has its objects"
            );
        }
        works
    }

    fn look_for_amazon(&mut self) {
        let foreign = self.objects.iter().find(|(_, object)| object.is_amazons);
        let stands_back = foreign.is_some();
        if stands_back == self.stands_back {
            return;
        }
        self.stands_back = stands_back;
        match foreign {
            Some((name, _)) => warn!(
                object = %format!("{}/{}", name.namespace, name.name),
                "Amazon's network policy controller writes PolicyEndpoints here: standing back. podgate-sync takes its objects as they are; to use this controller, disable Amazon's and delete its PolicyEndpoints"
            ),
            None => {
                info!("no object of Amazon's network policy controller is left: writing again");
                self.dirty.extend(self.inputs.policies().keys().cloned());
            }
        }
    }

    /// What is to be written for one policy.
    fn work(&mut self, key: &ObjectKey) -> Work {
        let mut work = Work {
            policy: key.clone(),
            apply: Vec::new(),
            delete: Vec::new(),
            conditions: Vec::new(),
            events: Vec::new(),
        };
        let Some(meta) = self.inputs.policies().get(key).cloned() else {
            self.told.remove(key);
            self.too_large.remove(key);
            work.delete = self
                .objects
                .of_policy(key)
                .map(|(name, object)| (name.clone(), object.uid.clone()))
                .collect();
            return work;
        };
        let said = findings(
            key,
            &meta,
            self.files.get(key).map(|file| &**file),
            self.too_large.get(key),
        );
        work.events = self.untold(key, &said);
        let Some(file) = self.files.get(key).filter(|_| meta.invalid.is_none()) else {
            // What a broken policy said before stays in force.
            return work;
        };
        let desired: Vec<Desired> = documents::marked(file)
            .into_iter()
            .map(|document| Desired::new(document, &meta.owner))
            .collect();
        let names: BTreeSet<Name> = desired.iter().map(|object| object.name.clone()).collect();
        for (name, object) in self.objects.of_policy(key) {
            if !names.contains(name) {
                work.delete.push((name.clone(), object.uid.clone()));
            }
        }
        for object in desired {
            match self.objects.get(&object.name) {
                Some(there) if !there.is_ours => {
                    warn!(name = %object.name.name, namespace = %object.name.namespace, "an object of this name is somebody else's: left alone");
                }
                Some(there) if there.essence == object.essence => {}
                // Larger than the API takes: it stays as it was.
                _ if self.too_large.contains_key(key) => {}
                _ => work.apply.push(object),
            }
        }
        if !self.keeps_no_conditions {
            for name in names {
                if let Some(conditions) = self.conditions(&name, &said) {
                    work.conditions.push((name, conditions));
                }
            }
        }
        work
    }

    /// The Events that were not sent yet.
    fn untold(&self, key: &ObjectKey, said: &Findings) -> Vec<Event> {
        let told = self.told.get(key);
        said.events
            .iter()
            .filter(|event| !told.is_some_and(|told| told.contains(event)))
            .cloned()
            .collect()
    }

    /// The conditions of an object, where they differ from what it has.
    fn conditions(&self, name: &Name, said: &Findings) -> Option<Conditions> {
        let there = self.objects.get(name).map(|object| &object.conditions);
        let message =
            |(kind, (message, _)): (&String, &(String, String))| (kind.clone(), message.clone());
        let before: BTreeMap<String, String> = there.into_iter().flatten().map(message).collect();
        if before == said.conditions {
            return None;
        }
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let since = |kind: &String| {
            there
                .and_then(|there| there.get(kind))
                .map_or(now.clone(), |(_, since)| since.clone())
        };
        let conditions = said.conditions.iter();
        Some(
            conditions
                .map(|(kind, message)| (kind.clone(), (message.clone(), since(kind))))
                .collect(),
        )
    }

    /// Takes what came of a write.
    pub(crate) fn done(&mut self, done: Done) {
        let key = done.policy;
        self.in_flight.remove(&key);
        self.writes += done.objects.len() as u64 - done.status_writes;
        self.status_writes += done.status_writes;
        self.deletes += done.deleted.len() as u64;
        self.events += done.events.len() as u64;
        self.keeps_no_conditions |= done.keeps_no_conditions;
        for raw in &done.objects {
            self.objects.put(raw);
            // A new object may have conditions to bear.
            debug_assert!(self.objects.get(&name_of(raw)).is_some());
        }
        for name in &done.deleted {
            self.objects.remove(name);
        }
        if !done.events.is_empty() {
            let told = self.told.entry(key.clone()).or_default();
            told.extend(done.events);
        }
        self.dirty.insert(key.clone());
        let Some(error) = done.error else {
            self.failed.remove(&key);
            return;
        };
        self.errors += 1;
        let text = error.to_string();
        warn!(policy = %key, error = %text, "cannot write the policy's objects; trying again");
        self.last_error = Some(format!("{key}: {text}"));
        if matches!(error, Error::TooLarge { .. }) {
            self.too_large.insert(key.clone(), text);
        }
        let pause = self
            .failed
            .get(&key)
            .map_or(FIRST_BACK_OFF, |(_, pause)| *pause);
        let next = (pause * 2).min(LAST_BACK_OFF);
        self.failed.insert(key, (Instant::now() + pause, next));
    }

    /// What is to be said of all this.
    pub(crate) fn report(&self, report: &mut Report) {
        report.is_listed = self.is_listed();
        report.leads = self.leads;
        report.stands_back = self.stands_back;
        report.caught_up = self.caught_up;
        report.policies = self.files.len();
        report.objects = self
            .objects
            .iter()
            .filter(|(_, object)| object.is_ours)
            .count();
        report.pending = self.dirty.len() + self.in_flight.len();
        report.writes = self.writes;
        report.deletes = self.deletes;
        report.status_writes = self.status_writes;
        report.events = self.events;
        report.errors = self.errors;
        report.last_error = if self.failed.is_empty() {
            None
        } else {
            self.last_error.clone()
        };
        report.contacts.clone_from(&self.contacts);
    }
}
