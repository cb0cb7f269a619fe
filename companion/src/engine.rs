//! The one place where things happen: store -> documents -> tables -> maps -> words -> status.
//!
//! It runs on a thread of its own, for what it does blocks: files, the node's lock, the kernel. It is told what changed
//! ([`Message`]) and looks for itself. Order of a pass: the index (true as soon as the files are read), tables, words,
//! status; then, when nothing else waits, tidying up and the copies of last good versions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use enforcer::grace::Grace;
use enforcer::hostnet::watch::Change;
use enforcer::{hosts, leftovers, repair};
use policy::plan::Write;
use policy::{EndpointId, Facts, Policies, Policy, PolicyKey, Tables, compile, plan};
use state::watch::Tick;
use state::workloads::Workloads;
use state::{AttachMode, Index, NodeConfig, Phase, Record, Store};
use verdict::PolicyWord;

use crate::intake::Intake;
use crate::kernel::{Kernel, LOCK, Target};
use crate::local::{self, Local};
use crate::marks::Marks;
use crate::shared::{Counts, Pod, Shared};
use crate::status;

/// Everything is looked at again after so long, whatever was told.
const FULL_PASS: Duration = Duration::from_secs(60);
/// The kernel is looked at so often: pins, attachments of which nobody tells. Twice in the second within which what others
/// remove is to be back.
const LOOK: Duration = Duration::from_millis(500);
/// Every so many looks the flow shares are looked at too.
const LOOKS_A_SHARE: u32 = 4;
/// Leftovers are looked for so often, whatever was told.
const SCAN: Duration = Duration::from_secs(600);
/// And so long after an interface has gone: by then its DEL is done.
const SCAN_SOON: Duration = Duration::from_secs(1);
/// Flows are swept at most so often where the table is short, or an endpoint holds many that nobody answered.
const SWEEP_SHORT: Duration = Duration::from_secs(5);
const SWEEP_CROWDED: Duration = Duration::from_secs(15);
/// A change that failed is tried again after so long, then twice as long, and so on.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(10);
/// So many changes may come before what they leave behind is tidied up, even if no change waits that long.
const UNTIDY_AT_MOST: u32 = 32;

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
    intake: Intake,
    config: NodeConfig,
    workloads: Workloads,
    locals: BTreeMap<EndpointId, Local>,
    facts: Facts,
    /// The version of each policy that was taken notice of.
    observed: Policies,
    kernel: Option<Kernel>,
    tables: Tables,
    /// What waits for a grace period.
    tidy: Option<Tidy>,
    graces: u64,
    untidy: u32,
    ask_grace: Sender<u64>,
    dirty: Dirty,
    seen: Marks,
    seen_at_ns: u64,
    index: Option<Index>,
    status: status::Companion,
    told_documents: Option<status::Documents>,
    told_endpoints: status::Endpoints,
    retry: Option<(Instant, Duration)>,
    next_full: Instant,
    next_look: Instant,
    looks: u32,
    next_scan: Instant,
    next_sweep: Instant,
    last_sweep: Instant,
    /// Records of finished ADDs without a row.
    rowless: Vec<Record>,
    suspects: Suspects,
}

/// Whose attachment may be broken.
#[derive(Debug, Default)]
struct Suspects {
    all: bool,
    some: BTreeSet<u32>,
}

/// What a plan leaves for after its words.
struct Tidy {
    settle: Vec<Write>,
    sweep: Vec<Write>,
    /// The grace period that has to be over.
    grace: u64,
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
        let before: Option<status::Companion> = status::Companion::read(&store).ok().flatten();
        let told_endpoints = status::Endpoints::read(&store)
            .ok()
            .flatten()
            .unwrap_or_default();
        let sweep = options.sweep;
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
            options,
            intake,
            config: NodeConfig::default(),
            workloads: Workloads::default(),
            locals: BTreeMap::new(),
            facts: Facts::default(),
            observed: Policies::new(),
            kernel: None,
            tables: Tables::default(),
            tidy: None,
            graces: 0,
            untidy: 0,
            ask_grace,
            dirty: Dirty::default(),
            seen: Marks::default(),
            seen_at_ns: 0,
            index: None,
            status,
            told_documents: None,
            told_endpoints,
            retry: None,
            next_full: now + FULL_PASS,
            next_look: now + LOOK,
            looks: 0,
            next_scan: now,
            next_sweep: now + sweep,
            last_sweep: now,
            rowless: Vec::new(),
            suspects: Suspects::default(),
        }
    }

    /// Runs until told to stop, or until nobody is left to tell.
    pub(crate) fn run(mut self, inbox: &Receiver<Message>) {
        self.shared.beat();
        self.open_kernel();
        let at_ns = state::clock::monotonic_ns();
        self.intake.begin(Instant::now());
        self.everything(at_ns, false);
        self.pass();
        loop {
            let message = match inbox.try_recv() {
                Ok(message) => Some(message),
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                // Nothing waits: one thing of those that have time, or sleep.
                Err(std::sync::mpsc::TryRecvError::Empty) if self.chore() => None,
                Err(std::sync::mpsc::TryRecvError::Empty) => {
                    match inbox.recv_timeout(self.patience()) {
                        Ok(message) => Some(message),
                        Err(RecvTimeoutError::Timeout) => None,
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
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
            if self.suspects.all
                || !self.suspects.some.is_empty()
                || !self.rowless.is_empty()
                || self.has_flaws()
            {
                self.inspect();
                self.pass();
            }
        }
    }

    fn has_flaws(&self) -> bool {
        !self.status.flaws.is_empty()
    }

    /// How long nothing happens by itself.
    fn patience(&self) -> Duration {
        let retry = self.retry.map(|(at, _)| at);
        let clocks = [
            self.next_full,
            self.next_look,
            self.next_scan,
            self.next_sweep,
        ];
        let next = clocks
            .into_iter()
            .chain(self.intake.due())
            .chain(retry)
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
            Message::Grace(number) => self.grace(number),
            Message::Stop => {}
        }
    }

    /// Says that the status is no longer the whole truth, *before* anything is read: a store that is again as it was when
    /// the status was written may have been otherwise when we read it.
    fn unsettle(&mut self) {
        if !std::mem::replace(&mut self.status.settling, true) {
            self.write_status();
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
            self.next_scan = now + SCAN;
            self.scan();
        }
        if self.next_sweep <= now {
            self.sweep();
        }
        if self.retry.is_some_and(|(at, _)| at <= now) {
            self.dirty.policy = true;
        }
    }

    /// Gives back what expired flows hold.
    fn sweep(&mut self) {
        self.last_sweep = Instant::now();
        self.next_sweep = self.last_sweep + self.options.sweep;
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        match kernel.flows.sweep(&self.store, &kernel.endpoints) {
            Ok(summary) => {
                let counts = &self.shared.counts;
                Counts::add(&counts.swept_expired, summary.expired);
                Counts::add(&counts.swept_dead, summary.dead);
                Counts::add(&counts.swept_shrunk, summary.shrunk);
                if summary.expired + summary.dead + summary.shrunk > 0 {
                    let (took, flows) = (self.last_sweep.elapsed().as_millis(), summary.before);
                    let (expired, dead, shrunk) = (summary.expired, summary.dead, summary.shrunk);
                    tracing::debug!(flows, expired, dead, shrunk, took_ms = took, "flows swept");
                }
            }
            Err(error) => tracing::warn!("sweep flows: {error}"),
        }
    }

    /// Keeps shares right, and sweeps sooner where expired flows would keep new ones out.
    fn shares(&mut self) {
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        let flows = &mut kernel.flows;
        let looked = (|| {
            if !flows.has_fair_share(self.locals.len())? {
                match self.store.lock(LOCK) {
                    Ok(locked) => flows
                        .set_fair_share(&locked, self.locals.len())
                        .map(|_| ())?,
                    Err(error) => tracing::warn!("set fair share of flows: {error}"),
                }
            }
            let limit = u64::from(flows.config()?.unanswered_limit);
            let mut crowded = false;
            for local in self.locals.values() {
                crowded |= flows.held(local.record.slot)?.unanswered() >= limit / 2;
            }
            Ok::<_, enforcer::maps::Error>((flows.is_short()?, crowded))
        })();
        match looked {
            Ok((short, crowded)) => {
                let wait = if short { SWEEP_SHORT } else { SWEEP_CROWDED };
                if short || crowded {
                    self.next_sweep = self.next_sweep.min(self.last_sweep + wait);
                }
            }
            Err(error) => tracing::warn!("look at the flow table: {error}"),
        }
    }

    fn network(&mut self, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::Address { .. } => self.dirty.hosts = true,
                Change::Tc { ifindex } => {
                    self.suspects.some.insert(ifindex);
                }
                // New interfaces may be host paths.
                Change::Link { .. } => self.dirty.hosts = true,
                Change::LinkGone { .. } => {
                    self.dirty.hosts = true;
                    self.next_scan = self.next_scan.min(Instant::now() + SCAN_SOON);
                }
                Change::Lost => {
                    (self.dirty.hosts, self.suspects.all) = (true, true);
                    self.next_scan = self.next_scan.min(Instant::now() + SCAN_SOON);
                }
            }
        }
    }

    /// Removes what crashes, reboots and pods that went without a DEL have left behind.
    fn scan(&mut self) {
        let found = match leftovers::describe(&self.store, &self.options.bpf_dir) {
            Ok(found) => found,
            Err(error) => return tracing::warn!("look for leftovers: {error}"),
        };
        if found.is_empty() {
            return;
        }
        for leftover in found.iter().filter(|l| !l.is_dust()) {
            tracing::info!("left over: {leftover}");
        }
        let failed = leftovers::remove(&self.store, &self.options.bpf_dir, &found);
        for (leftover, error) in &failed {
            tracing::warn!("remove {leftover}: {error}");
        }
        let worth = found
            .iter()
            .filter(|l| !l.is_dust())
            .count()
            .saturating_sub(failed.len());
        Counts::add(&self.shared.counts.leftovers, worth as u64);
        self.dirty.pods = true;
    }

    /// Looks at attachments that may be broken and puts back what is missing.
    fn inspect(&mut self) {
        let suspects = std::mem::take(&mut self.suspects);
        let Some(kernel) = &self.kernel else { return };
        let is_suspect = |record: &Record| {
            record.phase == Phase::Attached
                && (suspects.all
                    || suspects.some.contains(&record.ifindex)
                    || self.status.flaws.contains_key(&record.ifindex))
        };
        let attached = self
            .locals
            .values()
            .map(|local| &local.record)
            .filter(|record| is_suspect(record));
        let mut flaws = self.status.flaws.clone();
        flaws.retain(|ifindex, _| self.locals.values().any(|l| l.record.ifindex == *ifindex));
        for record in attached.chain(&self.rowless) {
            let found = match repair::check(&kernel.endpoints, &kernel.programs, record) {
                Ok(None) => None,
                Ok(Some(_)) => Some(self.store.lock(LOCK).map_err(|e| e.to_string()).and_then(
                    |locked| {
                        repair::repair(&locked, &self.options.bpf_dir, &kernel.programs, record)
                            .map_err(|e| e.to_string())
                    },
                )),
                Err(error) => Some(Err(error.to_string())),
            };
            let pod = || format!("{}/{}", record.pod_namespace, record.pod_name);
            match found {
                None | Some(Ok(None)) => {
                    flaws.remove(&record.ifindex);
                }
                Some(Ok(Some(damage))) => {
                    tracing::warn!(pod = pod(), veth = record.veth, "repaired: {damage}");
                    Counts::add(&self.shared.counts.repairs, 1);
                    self.dirty.pods = true;
                    flaws.remove(&record.ifindex);
                }
                Some(Err(error)) => {
                    if flaws.get(&record.ifindex) != Some(&error) {
                        tracing::error!(
                            pod = pod(),
                            veth = record.veth,
                            "not enforced as it should be: {error}"
                        );
                    }
                    flaws.insert(record.ifindex, error);
                }
            }
        }
        if flaws != self.status.flaws {
            self.status.flaws = flaws;
            self.dirty.marks = true;
        }
    }

    /// What nobody tells of.
    fn look(&mut self) {
        if let Some(kernel) = self.kernel.as_mut().filter(|kernel| !kernel.is_current()) {
            match kernel.restore(&self.options.bpf_dir) {
                // Links die with their pins.
                Ok(true) => self.suspects.all = true,
                Ok(false) => {
                    tracing::warn!(
                        "the kernel objects were made anew; taking up what is there now"
                    );
                    (self.kernel, self.tidy) = (None, None);
                }
                Err(error) => tracing::error!("put pins back: {error}"),
            }
        }
        if self.kernel.is_none() {
            self.open_kernel();
        }
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(LOOKS_A_SHARE) {
            self.shares();
        }
        // Nobody tells of TCX.
        let tcx = self
            .locals
            .values()
            .filter(|local| local.record.attach_mode == AttachMode::Tcx);
        self.suspects
            .some
            .extend(tcx.map(|local| local.record.ifindex));
    }

    fn open_kernel(&mut self) {
        match Kernel::open(&self.store, &self.options.bpf_dir) {
            Ok(Some(kernel)) => {
                tracing::info!(bpf_dir = %self.options.bpf_dir.display(), "kernel objects taken up");
                self.kernel = Some(kernel);
                self.dirty.pods = true;
                self.dirty.hosts = true;
                self.dirty.policy = true;
                self.suspects.all = true;
                // What an earlier run left behind is swept after the first plan.
                self.untidy = UNTIDY_AT_MOST;
            }
            Ok(None) => {}
            Err(error) => tracing::error!("take up the kernel objects: {error}"),
        }
        let maps = if self.kernel.is_some() {
            status::Maps::Loaded
        } else {
            status::Maps::Absent
        };
        if self.status.maps != maps {
            self.status.maps = maps;
            self.dirty.marks = true;
        }
    }

    /// Brings everything to where the store says it should be.
    fn pass(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
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
        self.seen = Marks::with_documents(&self.store, self.intake.listing_digest().to_owned());
        let mut problems = Vec::new();
        if dirty.node {
            match self.store.node_config() {
                Ok(config) => self.config = config,
                Err(error) => problems.push(error.to_string()),
            }
        }
        if dirty.workloads {
            match self.store.workloads() {
                Ok(workloads) => self.workloads = workloads,
                Err(error) => problems.push(error.to_string()),
            }
        }
        problems.extend(self.workloads.problems.iter().map(ToString::to_string));
        let mut changed = dirty.policy;
        if dirty.node || dirty.workloads || dirty.pods {
            changed |= self.gather(&mut problems);
        }
        if dirty.hosts {
            self.hosts(&mut problems);
        }
        if problems != self.status.problems {
            for problem in problems
                .iter()
                .filter(|p| !self.status.problems.contains(p))
            {
                tracing::warn!("{problem}");
            }
            self.status.problems = problems;
        }
        if changed {
            self.apply();
        }
        self.tell(changed);
    }

    fn write_index(&mut self) {
        let index = self.intake.index();
        if self.index.as_ref() == Some(&index) {
            return;
        }
        match self.store.write_index(&index) {
            Ok(()) => self.index = Some(index),
            Err(error) => tracing::warn!("write index: {error}"),
        }
    }

    /// Takes up the endpoints. True if any came, went or changed.
    fn gather(&mut self, problems: &mut Vec<String>) -> bool {
        let records = match self.store.records() {
            Ok(records) => records,
            Err(error) => {
                problems.push(error.to_string());
                return false;
            }
        };
        problems.extend(records.problems.iter().map(ToString::to_string));
        let kernel = self.kernel.as_ref();
        let mut rowless = Vec::new();
        let lives = |record: &state::Record| match kernel {
            None => true,
            Some(kernel) => kernel
                .endpoints
                .row(record.ifindex)
                .inspect_err(|error| tracing::warn!("{error}"))
                .is_ok_and(|row| row.is_some_and(|row| row.life == record.life)),
        };
        let now = Instant::now();
        let attached: Vec<Record> = records
            .good
            .iter()
            .filter(|r| r.phase == Phase::Attached)
            .cloned()
            .collect();
        let locals = local::gather(
            records.good,
            &self.workloads,
            &self.config,
            &self.locals,
            now,
            lives,
        );
        if kernel.is_some() {
            rowless.extend(
                attached
                    .into_iter()
                    .filter(|record| !locals.contains_key(&EndpointId(record.life))),
            );
        }
        self.rowless = rowless;
        if locals == self.locals {
            return false;
        }
        if let Some(kernel) = &mut self.kernel {
            let gone = kernel
                .live
                .endpoints()
                .filter(|id| !locals.contains_key(id))
                .collect::<Vec<_>>();
            gone.into_iter().for_each(|id| kernel.live.forget(id));
        }
        self.locals = locals;
        true
    }

    fn hosts(&mut self, problems: &mut Vec<String>) {
        let Some(kernel) = &self.kernel else { return };
        let done = hosts::gather(&self.store).and_then(|wanted| {
            let mut set = hosts::HostSet::open(&kernel.pins)?;
            if set.read()? == wanted {
                return Ok(hosts::Changes::default());
            }
            match self.store.lock(LOCK) {
                Ok(locked) => Ok(set.apply(&locked, &wanted)?),
                Err(error) => {
                    problems.push(format!("bring the host set up to date: {error}"));
                    Ok(hosts::Changes::default())
                }
            }
        });
        self.host_paths(problems);
        match done {
            Ok(changes) if !changes.is_empty() => {
                tracing::info!(added = ?changes.added, removed = ?changes.removed, "host set changed");
            }
            Ok(_) => {}
            Err(error) => problems.push(format!("bring the host set up to date: {error}")),
        }
    }

    /// Interfaces by which the host's own traffic comes back: by name in the records, by index in the kernel.
    fn host_paths(&self, problems: &mut Vec<String>) {
        let Some(kernel) = &self.kernel else { return };
        let lists = self
            .locals
            .values()
            .filter_map(|l| l.record.other.get(hosts::HOST_PATHS_KEY)?.as_array());
        let names: BTreeSet<String> = lists
            .flatten()
            .filter_map(|name| name.as_str())
            .map(ToOwned::to_owned)
            .collect();
        if names.is_empty() {
            return;
        }
        let done = hosts::host_path_ifindexes(&names)
            .map_err(|e| e.to_string())
            .and_then(|wanted| {
                let locked = self.store.lock(LOCK).map_err(|e| e.to_string())?;
                hosts::set_host_paths(&locked, &kernel.pins, &wanted).map_err(|e| e.to_string())
            });
        if let Err(error) = done {
            problems.push(format!("bring host paths up to date: {error}"));
        }
    }

    /// Compiles, plans and carries out up to the words.
    fn apply(&mut self) {
        self.observe();
        // Who is not known yet keeps its pending word; one that the plugin has let go is ours to correct.
        let undecided = |local: &Local| {
            !local.known
                && self.kernel.as_ref().is_none_or(|kernel| {
                    let word = kernel.endpoints.words.get(local.record.slot);
                    word.has(PolicyWord::PENDING) || word.epoch() == 0
                })
        };
        let endpoints: Vec<policy::Endpoint> = self
            .locals
            .values()
            .filter(|local| !undecided(local))
            .map(|local| local.endpoint.clone())
            .collect();
        let begin = Instant::now();
        self.tables = compile(&endpoints, self.intake.policies(), &self.facts);
        let compiled = begin.elapsed();
        match self.carry_out() {
            Ok(writes) => {
                Counts::add(&self.shared.counts.applied, 1);
                Counts::add(
                    &self.shared.counts.apply_us,
                    begin.elapsed().as_micros() as u64,
                );
                tracing::debug!(
                    endpoints = endpoints.len(),
                    policies = self.intake.policies().len(),
                    writes,
                    compile_us = compiled.as_micros(),
                    whole_us = begin.elapsed().as_micros(),
                    "policy in force"
                );
                if self.status.error.take().is_some() {
                    tracing::info!("the change that could not be applied is in force now");
                }
                self.retry = None;
            }
            Err(error) => {
                let wait = self
                    .retry
                    .map_or(RETRY, |(_, wait)| (wait * 2).min(RETRY_AT_MOST));
                self.retry = Some((Instant::now() + wait, wait));
                Counts::add(&self.shared.counts.apply_errors, 1);
                let error = error.to_string();
                if self.status.error.as_ref() != Some(&error) {
                    tracing::error!(
                        "apply policy: {error}; the policy before stays in force, trying again"
                    );
                }
                self.status.error = Some(error);
            }
        }
    }

    /// Takes notice of new versions of policies, once each.
    fn observe(&mut self) {
        let now = Instant::now();
        let policies = self.intake.policies();
        let is_new = |key: &PolicyKey, policy: &Arc<Policy>| {
            self.observed
                .get(key)
                .is_none_or(|before| !Arc::ptr_eq(before, policy))
        };
        let news: Vec<&Arc<Policy>> = policies
            .iter()
            .filter(|(key, policy)| is_new(key, policy))
            .map(|(_, policy)| policy)
            .collect();
        if news.is_empty() && policies.len() == self.observed.len() {
            return;
        }
        let endpoints: Vec<policy::Endpoint> =
            self.locals.values().map(|l| l.endpoint.clone()).collect();
        let late = |id| self.locals.get(&id).is_some_and(|local| local.is_late(now));
        for policy in news {
            self.facts.observe(policy, &endpoints, late);
        }
        self.facts.retain(
            |key| policies.contains_key(key),
            |id| self.locals.contains_key(&id),
        );
        self.observed = policies.clone();
    }

    fn carry_out(&mut self) -> Result<usize, crate::kernel::Error> {
        let (locals, options) = (&self.locals, &self.options);
        let target = |id: EndpointId| locals.get(&id).map(|local| target(local, options));
        let Some(kernel) = &mut self.kernel else {
            self.status.generation += 1;
            return Ok(0);
        };
        for local in locals.values() {
            kernel.check_word(local.id(), local.record.slot);
        }
        let plan = plan(&kernel.live, &self.tables);
        if !plan.is_empty() {
            tracing::trace!("plan\n{plan}");
        }
        let writes = plan.len();
        if plan.waits && !plan.prepare.is_empty() {
            // Words changed under a plan whose grace period was not waited for: programs may still use what they read.
            Grace::new()?.wait()?;
            kernel.live.grace();
        }
        kernel.write(&plan.prepare)?;
        kernel.flip(&plan.words, target)?;
        for local in locals
            .values()
            .filter(|local| self.tables.endpoints.contains_key(&local.id()))
        {
            let target = crate::engine::target(local, options);
            kernel.correct(local.id(), local.record.slot, target)?;
        }
        if !plan.words.is_empty() {
            self.status.generation += 1;
        }
        let tidy = !plan.settle.is_empty() || !plan.sweep.is_empty();
        self.tidy = None;
        if tidy || !plan.words.is_empty() {
            self.graces += 1;
            self.untidy += 1;
            self.tidy = Some(Tidy {
                settle: plan.settle,
                sweep: plan.sweep,
                grace: self.graces,
            });
            if self.untidy > UNTIDY_AT_MOST {
                // Changes come faster than grace periods go by: this one is waited for here.
                if let Ok(grace) = Grace::new()
                    && grace.wait().is_ok()
                {
                    self.grace(self.graces);
                }
            } else {
                // Who waits for it has ended only when the process does.
                let _ = self.ask_grace.send(self.graces);
            }
        }
        Ok(writes)
    }

    /// A grace period is over: what the old words led to may be changed now, and after one more, swept.
    fn grace(&mut self, number: u64) {
        let (Some(kernel), Some(tidy)) = (&mut self.kernel, &mut self.tidy) else {
            return;
        };
        if tidy.grace != number {
            return;
        }
        kernel.live.grace();
        let settle = std::mem::take(&mut tidy.settle);
        let sweep = if settle.is_empty() {
            std::mem::take(&mut tidy.sweep)
        } else {
            Vec::new()
        };
        let done = kernel.write(&settle).and_then(|()| kernel.write(&sweep));
        match done {
            Ok(()) if settle.is_empty() => {
                self.untidy = 0;
                self.tidy = None;
            }
            Ok(()) => {
                self.graces += 1;
                tidy.grace = self.graces;
                let _ = self.ask_grace.send(self.graces);
            }
            Err(error) => {
                tracing::warn!("tidy up tables: {error}; the next change does it");
                self.tidy = None;
            }
        }
    }

    /// Something that has time: the last good versions. True if something was done.
    fn chore(&mut self) -> bool {
        self.intake.keep_one()
    }

    /// Says what is applied.
    fn tell(&mut self, changed: bool) {
        if changed {
            self.tell_endpoints();
        }
        self.tell_documents();
        self.status.settling = self.intake.is_settling();
        if !self.status.settling && self.status.error.is_none() {
            self.status.applied = self.seen.clone();
            self.status.applied_until_ns = self.seen_at_ns;
        }
        if let Some(kernel) = &self.kernel {
            let [peers, prefixes, rules, port_sets] = kernel.live.sizes();
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

    fn write_status(&self) {
        if let Err(error) = self.status.write(&self.store) {
            tracing::warn!("write status: {error}");
        }
    }

    /// Lets the others know.
    fn share(&self, changed: bool) {
        let mut conditions: BTreeMap<&'static str, u64> = BTreeMap::new();
        for document in &self.intake.conditions().documents {
            *conditions.entry(document.condition.name()).or_default() += 1;
        }
        let tables = self.status.tables;
        let unready = match (&self.status.error, self.status.maps) {
            (Some(error), _) => Some(format!("policy cannot be applied: {error}")),
            (None, status::Maps::Absent) => {
                Some("no maps are loaded yet: `podgatectl load`, or the first ADD".to_owned())
            }
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
                            .map(|ip| (*ip, local.record.life)),
                    );
                }
                let pod = |local: &Local| Pod {
                    namespace: local.record.pod_namespace.clone(),
                    name: local.record.pod_name.clone(),
                    slot: local.record.slot,
                    strict: local.is_strict(),
                };
                known.pods = Arc::new(
                    self.locals
                        .values()
                        .map(|local| (local.record.life, pod(local)))
                        .collect(),
                );
                known.by_address = Arc::new(by_address);
            }
            known.unready = unready;
            known.broken_files = self.intake.conditions().files.len() as u64;
            known.conditions = conditions;
            known.generation = self.status.generation;
            known.flaws = self.status.flaws.len() as u64;
            known.suspended = self.options.suspended;
            known.tables = [
                ("peers", tables.peers as u64),
                ("prefixes", tables.prefixes as u64),
                ("rules", tables.rules as u64),
                ("port_sets", tables.port_sets as u64),
            ];
        });
    }

    fn tell_documents(&mut self) {
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

    fn tell_endpoints(&mut self) {
        let before: BTreeMap<u32, &status::Endpoint> = self
            .told_endpoints
            .endpoints
            .iter()
            .map(|e| (e.life, e))
            .collect();
        let mut endpoints = Vec::with_capacity(self.locals.len());
        for local in self.locals.values() {
            let selecting = self
                .intake
                .policies()
                .values()
                .filter(|policy| policy.selects(&local.endpoint, &self.facts));
            let (mut policies, mut text) = (Vec::new(), String::new());
            for policy in selecting {
                text.push_str(&policy.key.to_string());
                for document in &policy.documents {
                    text.push('\n');
                    text.push_str(self.intake.digest(&document.identity).unwrap_or_default());
                }
                policies.push(policy.key.policy.to_string());
            }
            policies.dedup();
            let digest = state::layout::digest(text.as_bytes());
            let decided = self.tables.endpoints.get(&local.id());
            let isolated = decided.map(|d| d.isolated).unwrap_or_default();
            let record = &local.record;
            let generation = before
                .get(&record.life)
                .filter(|e| {
                    e.digest == digest && e.mode == record.mode && e.known == decided.is_some()
                })
                .map_or(self.status.generation, |e| e.generation);
            endpoints.push(status::Endpoint {
                life: record.life,
                slot: record.slot,
                ifindex: record.ifindex,
                container_id: record.container_id.clone(),
                ifname: record.ifname.clone(),
                namespace: record.pod_namespace.clone(),
                pod: record.pod_name.clone(),
                mode: record.mode,
                generation,
                digest,
                policies,
                isolated_ingress: isolated.ingress,
                isolated_egress: isolated.egress,
                known: decided.is_some(),
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
}

/// Interface and flags that policy does not decide.
fn target(local: &Local, options: &Options) -> Target {
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    Target {
        ifindex: local.record.ifindex,
        extra: flag(local.is_strict(), PolicyWord::STRICT)
            | flag(options.suspended, PolicyWord::SUSPENDED)
            | flag(options.events, PolicyWord::LOG),
    }
}
