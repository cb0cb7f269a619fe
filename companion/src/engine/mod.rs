//! The one place where things happen: store -> documents -> tables -> maps -> policy states -> status.
//!
//! It runs on a thread of its own, for what it does blocks: files, the node's lock, the kernel. It is told what changed
//! ([`Message`]) and looks for itself. Order of a pass: the index (true as soon as the files are read), tables, policy states,
//! status; then, when nothing else waits, tidying up and the copies of last good versions.

mod care;
mod enforce;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use enforcer::hostnet::watch::Change;
use enforcer::hosts::Claims;
use policy::{EndpointId, Facts};
use state::watch::Tick;
use state::workloads::Workloads;
use state::{Index, NodeConfig, Record, Store, StoreFingerprint};

use self::care::Suspects;
use crate::enforcement::{self, Enforcement};
use crate::intake::Intake;
use crate::kernel::Kernel;
use crate::local::Local;
use crate::shared::Shared;
use published::status;

/// Everything is looked at again after so long, whatever was told.
const FULL_PASS: Duration = Duration::from_secs(60);
/// The kernel is looked at so often: pins, attachments of which nobody tells. Twice in the second within which what others
/// remove is to be back.
const LOOK: Duration = Duration::from_millis(500);

/// What the engine is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something in the store changed. `at_ns`: taken before the ticks were read.
    Store { ticks: Vec<Tick>, at_ns: u64 },
    /// The host's network changed.
    Network(Vec<Change>),
    /// A grace period that was asked for is over.
    Grace(u64),
    /// End.
    Stop,
}

/// What it is to do.
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

pub(crate) struct Engine {
    store: Store,
    shared: Arc<Shared>,
    options: Options,

    // What the store says.
    intake: Intake,
    config: NodeConfig,
    workloads: Workloads,
    locals: BTreeMap<EndpointId, Local>,
    /// Records of finished ADDs without an entry.
    without_entry: Vec<Record>,
    /// What the records claim of the host.
    claims: Claims,
    dirty: Dirty,

    // What the kernel is to hold, and holds.
    kernel: Option<Kernel>,
    enforcement: Enforcement,
    suspects: Suspects,

    // What is told.
    seen: StoreFingerprint,
    seen_at_ns: u64,
    problems: BTreeMap<&'static str, Vec<String>>,
    index: Option<Index>,
    status: status::Companion,
    told_documents: Option<status::Documents>,
    told_endpoints: status::Endpoints,
    told_facts: Option<Facts>,

    // When something is due.
    next_full: Instant,
    next_look: Instant,
    looks: u32,
    next_scan: Instant,
    next_sweep: Instant,
    last_sweep: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Dirty {
    node: bool,
    hosts: bool,
    workloads: bool,
    pods: bool,
    /// Endpoints or documents changed: compile.
    policy: bool,
    /// The marks moved, nothing else.
    marks: bool,
}

impl Engine {
    pub(crate) fn new(
        store: Store,
        options: Options,
        shared: Arc<Shared>,
        ask_grace: Sender<u64>,
    ) -> Self {
        let now = Instant::now();
        let intake = Intake::new(&store);
        let flags = enforcement::Options {
            suspended: options.suspended,
            events: options.events,
        };
        let mut enforcement = Enforcement::new(store.clone(), flags, ask_grace);
        enforcement.restore(intake.policies().clone());
        let before: Option<status::Companion> = status::Companion::read(&store).ok().flatten();
        let told_endpoints = status::Endpoints::read(&store)
            .ok()
            .flatten()
            .unwrap_or_default();
        let status = status::Companion {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: state::clock::now_rfc3339(),
            generation: before.map_or(0, |b| b.generation),
            suspended: options.suspended,
            events: options.events,
            ..status::Companion::default()
        };
        Self {
            store,
            shared,
            config: NodeConfig::default(),
            workloads: Workloads::default(),
            locals: BTreeMap::new(),
            without_entry: Vec::new(),
            claims: Claims::default(),
            intake,
            dirty: Dirty::default(),
            kernel: None,
            enforcement,
            suspects: Suspects::default(),
            seen: StoreFingerprint::default(),
            seen_at_ns: 0,
            problems: BTreeMap::new(),
            index: None,
            status,
            told_documents: None,
            told_endpoints,
            told_facts: None,
            next_full: now + FULL_PASS,
            next_look: now + LOOK,
            looks: 0,
            next_scan: now,
            next_sweep: now + options.sweep,
            last_sweep: now,
            options,
        }
    }

    /// Runs until told to stop, or until nobody is left to tell.
    pub(crate) fn run(mut self, inbox: &Receiver<Message>) {
        self.shared.beat();
        self.open_kernel();
        let at_ns = state::clock::monotonic_ns();
        self.intake.begin(Instant::now());
        self.recall_facts();
        self.everything(at_ns, false);
        self.pass();
        loop {
            let message = match inbox.try_recv() {
                Ok(message) => Some(message),
                Err(TryRecvError::Disconnected) => return,
                // Nothing waits: one thing of those that have time, or sleep.
                Err(TryRecvError::Empty) if self.chore() => None,
                Err(TryRecvError::Empty) => match inbox.recv_timeout(self.patience()) {
                    Ok(message) => Some(message),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                },
            };
            if let Some(message) = message {
                if matches!(message, Message::Stop) {
                    return;
                }
                self.take(message);
                while let Ok(more) = inbox.try_recv() {
                    if matches!(more, Message::Stop) {
                        return;
                    }
                    self.take(more);
                }
            }
            self.shared.beat();
            self.clock();
            self.pass();
            if self.has_suspects() {
                self.inspect();
                self.pass();
            }
        }
    }

    /// How long nothing happens by itself.
    fn patience(&self) -> Duration {
        let clocks = [
            self.next_full,
            self.next_look,
            self.next_scan,
            self.next_sweep,
        ];
        let perhaps = [self.intake.due(), self.enforcement.due()];
        let next = clocks
            .into_iter()
            .chain(perhaps.into_iter().flatten())
            .min();
        next.map_or(LOOK, |next| next.saturating_duration_since(Instant::now()))
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Store { ticks, at_ns } => {
                let now = Instant::now();
                if ticks.iter().any(|tick| *tick != Tick::Pods) {
                    self.unsettle();
                }
                for tick in ticks {
                    match tick {
                        Tick::Full => self.everything(at_ns, true),
                        Tick::Node => (self.dirty.node, self.dirty.hosts) = (true, true),
                        Tick::Pods => {
                            self.dirty.pods = true;
                            if self.kernel.is_none() {
                                // The first ADD loads, and waits for us.
                                self.open_kernel();
                            }
                        }
                        Tick::Workloads => self.dirty.workloads = true,
                        Tick::Document(path) => {
                            self.dirty.policy |= self.intake.file(&path, now);
                            self.dirty.marks = true;
                        }
                    }
                }
                self.seen_at_ns = self.seen_at_ns.max(at_ns);
            }
            Message::Network(changes) => self.network(&changes),
            Message::Grace(number) => self.enforcement.grace_over(number),
            Message::Stop => {}
        }
    }

    fn everything(&mut self, at_ns: u64, documents: bool) {
        self.unsettle();
        if documents {
            self.dirty.policy |= self.intake.full(Instant::now());
        } else {
            self.dirty.policy = true;
        }
        self.dirty = Dirty {
            node: true,
            hosts: true,
            workloads: true,
            pods: true,
            marks: true,
            ..self.dirty
        };
        self.seen_at_ns = self.seen_at_ns.max(at_ns);
        self.next_full = Instant::now() + FULL_PASS;
    }

    /// What is due by the clock.
    fn clock(&mut self) {
        let now = Instant::now();
        if self.intake.due().is_some_and(|due| due <= now) {
            self.dirty.policy |= self.intake.settle(now);
            self.dirty.marks = true;
        }
        if self.next_full <= now {
            self.everything(state::clock::monotonic_ns(), true);
        }
        if self.next_look <= now {
            self.next_look = now + LOOK;
            self.look();
        }
        if self.next_scan <= now {
            self.scan();
        }
        if self.next_sweep <= now {
            self.sweep();
        }
        if self.enforcement.due().is_some_and(|at| at <= now) {
            let outcome = self.enforcement.tick(now);
            self.applied(&outcome, now);
            self.dirty.marks = true;
        }
    }

    /// Brings everything to where the store says it should be.
    fn pass(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        if !(dirty.node
            || dirty.hosts
            || dirty.workloads
            || dirty.pods
            || dirty.policy
            || dirty.marks)
        {
            return;
        }
        self.write_index();
        // Marks before contents: what changes meanwhile makes them differ.
        self.seen =
            StoreFingerprint::with_documents(&self.store, self.intake.listing_digest().to_owned());
        if dirty.node {
            let mut problems = Vec::new();
            match self.store.node_config() {
                Ok(config) => self.config = config,
                Err(error) => problems.push(error.to_string()),
            }
            self.problems.insert("node", problems);
        }
        if dirty.workloads {
            let mut problems = Vec::new();
            match self.store.workloads() {
                Ok(workloads) => {
                    problems.extend(workloads.problems.iter().map(ToString::to_string));
                    self.workloads = workloads;
                }
                Err(error) => problems.push(error.to_string()),
            }
            self.problems.insert("workloads", problems);
        }
        let mut changed = BTreeSet::new();
        if dirty.node || dirty.workloads || dirty.pods {
            let mut problems = Vec::new();
            let claims = std::mem::take(&mut self.claims);
            changed = self.gather(&mut problems);
            dirty.hosts |= self.claims != claims;
            self.problems.insert("pods", problems);
        }
        if dirty.hosts {
            let mut problems = Vec::new();
            self.hosts(&mut problems);
            self.problems.insert("hosts", problems);
        }
        let changed_any = dirty.policy || !changed.is_empty();
        if changed_any {
            self.apply(&changed);
        }
        self.tell(changed_any);
    }

    /// Something that has time: the last good versions. True if something was done.
    fn chore(&mut self) -> bool {
        self.intake.keep_one()
    }
}
