//! Who runs when. What is done is the components': documents, endpoints, enforcement, maintenance, status.
//!
//! One thread, because what they do depends on the order: what is known of the store is taken up before what is decided
//! from it, tables before policy states, everything before it is published.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use enforcer::hostnet::watch::Change;
use published::status::Maps;
use state::watch::Tick;
use state::{Store, StoreFingerprint};

use crate::document_store::DocumentStore;
use crate::enforcement::{Enforcement, EnforcementDelta, Outcome};
use crate::flow_sweeper::FlowSweeper;
use crate::host_set;
use crate::local_endpoints::{LocalEndpoints, Parts};
use crate::maintenance::{Maintenance, Objects};
use crate::policy_feed::PolicyFeed;
use crate::shared::Shared;
use crate::status_writer::StatusWriter;
use crate::store_watch::StoreWatch;
use crate::warnings::Warnings;

/// Everything is looked at again after so long, whatever was told.
const FULL_PASS: Duration = Duration::from_secs(60);
/// Memory that was freed goes back to the system so long after a look at everything.
const TRIM: Duration = Duration::from_secs(2);
/// So many messages are taken before what they ask for is done.
const MESSAGES_AT_ONCE: usize = 64;

/// What the scheduler is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something in the store changed.
    Store,
    /// The host's network changed.
    Network(Vec<Change>),
    /// A grace period that was asked for is over.
    Grace(u64),
    /// End.
    Stop,
}

/// What the companion is to do.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) bpf_dir: PathBuf,
    /// `--enable-network-policy=false`.
    pub(crate) suspended: bool,
    /// `--enable-policy-event-logs`.
    pub(crate) events: bool,
    /// `--conntrack-cache-cleanup-period`.
    pub(crate) sweep: Duration,
}

/// The components, and what is yet to be done. It exists once everything was loaded: see [`crate::startup`].
pub(crate) struct Scheduler {
    pub(super) store: Store,
    pub(super) shared: Arc<Shared>,
    pub(super) watch: StoreWatch,
    pub(super) documents: DocumentStore,
    pub(super) endpoints: LocalEndpoints,
    pub(super) feed: PolicyFeed,
    /// Much memory was freed: it is given back to the system by then, if it is quiet.
    pub(super) trim: Option<Instant>,
    pub(super) enforcement: Enforcement,
    pub(super) maintenance: Maintenance,
    pub(super) flows: FlowSweeper,
    pub(super) status: StatusWriter,
    pub(super) warnings: Warnings,
    pub(super) bpf_dir: PathBuf,
    pub(super) todo: Todo,
    pub(super) next_full: Instant,
}

/// What is to be read or done again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Todo {
    pub(super) parts: Parts,
    pub(super) hosts: bool,
    /// Kernel objects are new: enforcement looks at everything.
    pub(super) enforce: bool,
    /// Something that is published may have changed.
    pub(super) publish: bool,
}

impl Scheduler {
    /// Runs until told to stop, or until nobody is left to tell.
    pub(crate) fn run(mut self, inbox: &Receiver<Message>) {
        self.step(&Outcome::default());
        loop {
            self.shared.beat();
            let wait = self.due().saturating_duration_since(Instant::now());
            match inbox.recv_timeout(wait) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            for message in inbox.try_iter().take(MESSAGES_AT_ONCE) {
                if matches!(message, Message::Stop) {
                    return;
                }
                self.take(message);
            }
            let outcome = self.clock();
            self.step(&outcome);
        }
    }

    fn step(&mut self, outcome: &Outcome) {
        self.pass(outcome);
        if !self.maintenance.has_suspects(&self.endpoints) {
            return;
        }
        let faults = self.maintenance.faults().clone();
        let repaired = self.maintenance.inspect(&self.endpoints);
        self.todo.parts.pods |= repaired;
        self.todo.publish |= repaired || faults != *self.maintenance.faults();
        self.pass(&Outcome::default());
    }

    /// When something happens by itself.
    fn due(&self) -> Instant {
        let perhaps = [
            self.documents.due(),
            self.endpoints.due(),
            self.enforcement.due(),
            self.status.due(),
            self.watch.due(),
            self.trim,
        ];
        let next = self.next_full.min(self.maintenance.due());
        perhaps.into_iter().flatten().fold(next, Instant::min)
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Store => {
                self.watch.wake();
                self.read_store();
            }
            Message::Network(changes) => self.todo.hosts |= self.maintenance.network(&changes),
            Message::Grace(number) => self.enforcement.grace_over(number),
            Message::Stop => {}
        }
    }

    /// Takes up all that happened in the store until now.
    pub(super) fn read_store(&mut self) {
        let now = Instant::now();
        let seen = self.watch.read(now);
        if seen.ticks.iter().any(|tick| *tick != Tick::Pods) {
            self.status.unsettle();
        }
        for tick in seen.ticks {
            match tick {
                Tick::Full => self.everything(now),
                Tick::Node => (self.todo.parts.node, self.todo.hosts) = (true, true),
                Tick::Pods => self.todo.parts.pods = true,
                Tick::Workloads => self.todo.parts.workloads = true,
                Tick::Document(path) => {
                    self.documents.file(&path, now);
                }
            }
            self.todo.publish = true;
            self.shared.beat();
        }
        // Digests before contents: what changes meanwhile makes them differ.
        if self.todo.publish {
            let digest = self.documents.listing_digest().to_owned();
            let fingerprint = StoreFingerprint::with_documents(&self.store, digest);
            self.status.seen(fingerprint, seen.until_ns);
        }
    }

    fn everything(&mut self, now: Instant) {
        self.trim = Some(now + TRIM);
        self.status.unsettle();
        self.documents.full(now);
        self.todo.parts = Parts::ALL;
        (self.todo.hosts, self.todo.publish) = (true, true);
        self.next_full = now + FULL_PASS;
    }

    /// What is due by the clock.
    fn clock(&mut self) -> Outcome {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.next_full <= now {
            self.everything(now);
        }
        let documents = due(self.documents.due());
        if documents {
            self.documents.advance(now);
        }
        self.todo.publish |= documents || due(self.endpoints.due());
        if self.todo.publish || due(self.watch.due()) {
            self.read_store();
        }
        let again = self.endpoints.due_parts(now);
        self.todo.parts.node |= again.node;
        self.todo.parts.workloads |= again.workloads;
        self.todo.parts.pods |= again.pods;
        self.todo.publish |= self.status.due().is_some_and(|due| due <= now);
        if self
            .maintenance
            .poll(&self.endpoints, &mut self.warnings, now)
            == Objects::Lost
        {
            self.enforcement.close();
            self.flows.close();
        }
        self.todo.parts.pods |= self.maintenance.scan(&mut self.warnings, now);
        if due(self.trim) {
            self.trim = None;
            enforcer::memory::give_back();
        }
        self.enforcement.tick(now)
    }

    /// Opens the kernel objects as soon as they are there.
    pub(super) fn open_kernel(&mut self) {
        let opened = self.maintenance.open();
        let mut error = opened.as_ref().err().map(ToString::to_string);
        if opened.is_ok_and(|objects| objects == Objects::Opened) {
            let entries = self
                .maintenance
                .kernel()
                .map(|kernel| self.endpoints.take_entries(&kernel.endpoints));
            let taken = entries.transpose().map_err(|e| e.to_string());
            error = taken
                .and_then(|_| {
                    self.enforcement
                        .open(&self.bpf_dir)
                        .map_err(|e| e.to_string())
                })
                .err();
            if error.is_some() {
                self.maintenance.close();
            } else {
                self.flows.open();
                self.endpoints.all_changed();
                self.todo.parts.pods = true;
                (self.todo.hosts, self.todo.enforce, self.todo.publish) = (true, true, true);
            }
        }
        self.warnings.take("take up the kernel objects", error);
        let maps = match self.maintenance.kernel() {
            Some(_) => Maps::Loaded,
            None => Maps::Absent,
        };
        self.status.maps(maps);
    }

    /// Brings everything to where the store says it should be.
    pub(super) fn pass(&mut self, outcome: &Outcome) {
        let now = Instant::now();
        if self.maintenance.kernel().is_none() {
            self.open_kernel();
        }
        let parts = std::mem::take(&mut self.todo.parts);
        if parts.any() {
            let kernel = self.maintenance.kernel().map(|kernel| &kernel.endpoints);
            let claims = self.endpoints.claims().clone();
            self.endpoints.load(parts, kernel, now);
            self.todo.hosts |= *self.endpoints.claims() != claims;
            self.todo.publish = true;
            if self.endpoints.must_ask() {
                // Documents that came before a new endpoint's record are among what is known now.
                self.read_store();
                self.endpoints.ask(&self.documents);
            }
        }
        self.endpoints.unblock(&self.documents);
        self.status.index(self.documents.index());
        if std::mem::take(&mut self.todo.hosts)
            && let Some(kernel) = self.maintenance.kernel()
        {
            let problem = host_set::refresh(&self.store, kernel, self.endpoints.claims());
            self.warnings.take("bring the host set up to date", problem);
        }
        let ticked = !outcome.changed.is_empty() || outcome.error.is_some() || outcome.writes > 0;
        if ticked {
            self.status.outcome(outcome, now);
        }
        self.enforce();
        if std::mem::take(&mut self.todo.publish) || ticked {
            self.publish();
        }
    }

    /// Hands on what changed.
    fn enforce(&mut self) {
        let changed = self.endpoints.take_changed();
        let changed_policies = self.documents.take_changed();
        let policies = self.documents.policies();
        if !changed.is_empty() {
            self.flows.endpoints(self.endpoints.locals().len());
            let namespaces = self.endpoints.namespaces();
            let told = self
                .feed
                .namespaces(namespaces, policies, &changed_policies);
            if !told.is_empty() {
                let before = EnforcementDelta {
                    policies: told,
                    ..EnforcementDelta::default()
                };
                let begin = Instant::now();
                let outcome = self.enforcement.apply(before, begin);
                self.status.outcome(&outcome, begin);
            }
        }
        let told = self.feed.changed(changed_policies, policies);
        let look = std::mem::take(&mut self.todo.enforce);
        if changed.is_empty() && told.is_empty() && !look {
            return;
        }
        let mut delta = EnforcementDelta {
            policies: told,
            ..EnforcementDelta::default()
        };
        for id in &changed {
            match self.endpoints.for_enforcement(*id) {
                Some(endpoint) => delta.endpoints.push(endpoint),
                None => delta.gone.push(*id),
            }
        }
        let begin = Instant::now();
        let outcome = self.enforcement.apply(delta, begin);
        self.status.outcome(&outcome, begin);
        self.todo.publish = true;
    }

    fn publish(&mut self) {
        self.warnings.take("watch the store", self.watch.error());
        let mut problems: Vec<String> = self.endpoints.problems().cloned().collect();
        problems.extend(self.documents.problems());
        problems.extend(self.warnings.now());
        self.status.publish(
            &mut self.documents,
            &self.endpoints,
            &self.enforcement,
            self.maintenance.faults(),
            problems,
            Instant::now(),
        );
    }
}
