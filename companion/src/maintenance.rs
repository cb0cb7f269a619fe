//! Looking after the kernel's side: pins and attachments that others take away come back, what is left over goes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use enforcer::hostnet::tcx;
use enforcer::hostnet::watch::Change;
use enforcer::load::{self, LoadOptions};
use enforcer::pins::Pins;
use enforcer::{orphans, repair};
use state::{AttachMode, Phase, Record, Store};

use crate::kernel::{self, Kernel, LOCK};
use crate::local_endpoints::LocalEndpoints;
use crate::shared::{Counts, Shared};
use crate::warnings::Warnings;

/// The kernel is looked at so often: pins, attachments of which nobody tells. Twice in the second within which what others
/// remove is to be back.
const POLL: Duration = Duration::from_millis(500);
/// Every so many polls each pin is looked at, whatever the folders' times say.
const THOROUGH: u32 = 20;
/// So long after an interface has gone orphans are looked for: by then its DEL is done.
const SCAN_SOON: Duration = Duration::from_secs(1);
/// Orphans are looked for so often, whatever was told.
const SCAN: Duration = Duration::from_secs(600);

/// What a poll found of the kernel objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Objects {
    /// As before.
    Same,
    /// They are open now, and were not: everything is to be looked at.
    Opened,
    /// Those that were open are gone, or others stand in their place.
    Lost,
}

/// See the module.
pub(crate) struct Maintenance {
    store: Store,
    shared: Arc<Shared>,
    bpf_dir: PathBuf,
    kernel: Option<Kernel>,
    /// Whose attachment may be broken, by interface.
    suspects: BTreeSet<u32>,
    all_suspect: bool,
    faults: BTreeMap<u32, String>,
    polls: u32,
    /// Whether this kernel has TCX.
    has_tcx: bool,
    next_poll: Instant,
    next_scan: Instant,
}

impl Maintenance {
    pub(crate) fn new(store: &Store, shared: &Arc<Shared>, bpf_dir: PathBuf) -> Self {
        let now = Instant::now();
        Self {
            store: store.clone(),
            shared: Arc::clone(shared),
            bpf_dir,
            kernel: None,
            suspects: BTreeSet::new(),
            all_suspect: false,
            faults: BTreeMap::new(),
            polls: 0,
            has_tcx: tcx::supported(),
            next_poll: now,
            next_scan: now,
        }
    }

    pub(crate) fn kernel(&self) -> Option<&Kernel> {
        self.kernel.as_ref()
    }

    /// Interfaces whose attachment was found broken and could not be repaired.
    pub(crate) fn faults(&self) -> &BTreeMap<u32, String> {
        &self.faults
    }

    pub(crate) fn due(&self) -> Instant {
        self.next_poll.min(self.next_scan)
    }

    /// Makes the kernel objects where they are gone although endpoints of this boot stand: somebody removed all pins while
    /// the companion was away.
    ///
    /// # Errors
    /// If they cannot be made.
    pub(crate) fn load_for(&self, endpoints: &LocalEndpoints) -> Result<(), String> {
        let pins = Pins::new(&self.bpf_dir);
        let config = endpoints.config();
        let mut records = endpoints.locals().values().map(|local| &local.record);
        let attached = records.any(|record| record.phase == Phase::Attached);
        if !attached || load::is_loaded(&pins) {
            return Ok(());
        }
        tracing::warn!(bpf_dir = %self.bpf_dir.display(), "endpoints stand and no kernel objects are pinned; loading them anew");
        let options = LoadOptions {
            flow_limit: config
                .conntrack_cache_table_size
                .unwrap_or(load::DEFAULT_FLOW_LIMIT),
            node_ports: (config.node_port_range.first, config.node_port_range.last),
        };
        let locked = self.store.lock(LOCK).map_err(|e| e.to_string())?;
        let loaded = load::load(&locked, &self.bpf_dir, options);
        loaded.map(|_| ()).map_err(|e| e.to_string())
    }

    /// Opens the kernel objects, if they are there.
    ///
    /// # Errors
    /// If they are there and cannot be used.
    pub(crate) fn open(&mut self) -> Result<Objects, kernel::Error> {
        if self.kernel.is_some() {
            return Ok(Objects::Same);
        }
        let Some(kernel) = Kernel::open(&self.store, &self.bpf_dir)? else {
            return Ok(Objects::Same);
        };
        tracing::info!(bpf_dir = %self.bpf_dir.display(), "kernel objects taken up");
        self.kernel = Some(kernel);
        self.all_suspect = true;
        Ok(Objects::Opened)
    }

    /// The kernel objects cannot be used after all.
    pub(crate) fn close(&mut self) {
        self.kernel = None;
    }

    /// Looks at what nobody tells of, when it is due. [`Objects::Lost`]: call [`Self::open`] next.
    pub(crate) fn poll(
        &mut self,
        endpoints: &LocalEndpoints,
        warnings: &mut Warnings,
        now: Instant,
    ) -> Objects {
        if self.next_poll > now {
            return Objects::Same;
        }
        self.next_poll = now + POLL;
        self.polls = self.polls.wrapping_add(1);
        self.suspect_tcx(endpoints);
        let thorough = self.polls.is_multiple_of(THOROUGH);
        let Some(kernel) = self.kernel.as_mut() else {
            return Objects::Same;
        };
        if kernel.is_current(thorough) {
            return Objects::Same;
        }
        match kernel.restore(&self.bpf_dir) {
            Ok(true) => {
                // Links die with their pins.
                self.all_suspect = true;
                warnings.take("put pins back", None);
                Objects::Same
            }
            Ok(false) => {
                tracing::warn!("the kernel objects were made anew; taking up what is there now");
                self.kernel = None;
                Objects::Lost
            }
            Err(error) => {
                warnings.take("put pins back", Some(error.to_string()));
                Objects::Same
            }
        }
    }

    /// TCX changes send no notification: links are looked at every time, and so is whether something came to stand before filters.
    fn suspect_tcx(&mut self, endpoints: &LocalEndpoints) {
        if !self.has_tcx {
            return;
        }
        let locals = endpoints.locals().values().map(|local| &local.record);
        let suspects = locals.filter(|record| {
            // An interface that is gone is for the scan.
            record.attach_mode == AttachMode::Tcx
                || tcx::is_occupied(record.ifindex).unwrap_or(false)
        });
        self.suspects.extend(suspects.map(|record| record.ifindex));
    }

    /// Takes notice of changes of the host's network. True if the host set may have changed.
    pub(crate) fn network(&mut self, changes: &[Change]) -> bool {
        let mut hosts = false;
        for change in changes {
            match *change {
                // New interfaces may be host paths.
                Change::Address { .. } | Change::Link { .. } => hosts = true,
                Change::Tc { ifindex } => {
                    self.suspects.insert(ifindex);
                }
                Change::LinkGone { .. } => {
                    hosts = true;
                    self.scan_soon();
                }
                Change::Lost => {
                    (hosts, self.all_suspect) = (true, true);
                    self.scan_soon();
                }
            }
        }
        hosts
    }

    fn scan_soon(&mut self) {
        self.next_scan = self.next_scan.min(Instant::now() + SCAN_SOON);
    }

    /// Removes what crashes, reboots and pods that went without a DEL have left behind, when that is due. True if records
    /// may have changed.
    pub(crate) fn scan(&mut self, warnings: &mut Warnings, now: Instant) -> bool {
        if self.next_scan > now {
            return false;
        }
        self.next_scan = now + SCAN;
        let found = orphans::describe(&self.store, &self.bpf_dir);
        warnings.take(
            "look for orphans",
            found.as_ref().err().map(ToString::to_string),
        );
        let found = found.unwrap_or_default();
        let temps = self.store.sweep_temps();
        warnings.take(
            "sweep temp files of killed writers",
            temps.err().map(|e| e.to_string()),
        );
        if found.is_empty() {
            return false;
        }
        for orphan in found.iter().filter(|orphan| !orphan.is_dust()) {
            tracing::info!("left over: {orphan}");
        }
        let failed = orphans::remove(&self.store, &self.bpf_dir, &found);
        let failures: Vec<String> = failed
            .iter()
            .map(|(orphan, error)| format!("{orphan}: {error}"))
            .collect();
        let error = (!failures.is_empty()).then(|| failures.join("; "));
        warnings.take("remove orphans", error);
        let worth = found.iter().filter(|orphan| !orphan.is_dust()).count();
        let removed = worth.saturating_sub(failed.len());
        Counts::add(&self.shared.counts.orphans, removed as u64);
        true
    }

    /// Whether some attachment is to be looked at.
    pub(crate) fn has_suspects(&self, endpoints: &LocalEndpoints) -> bool {
        self.all_suspect
            || !self.suspects.is_empty()
            || !endpoints.records_without_entry().is_empty()
            || !self.faults.is_empty()
    }

    /// Looks at attachments that may be broken and puts back what is missing. True if records changed.
    pub(crate) fn inspect(&mut self, endpoints: &LocalEndpoints) -> bool {
        let all = std::mem::take(&mut self.all_suspect);
        let suspects = std::mem::take(&mut self.suspects);
        let Some(kernel) = &self.kernel else {
            return false;
        };
        let locals = endpoints.locals().values().map(|local| &local.record);
        let here: BTreeSet<u32> = locals.clone().map(|record| record.ifindex).collect();
        let mut faults = std::mem::take(&mut self.faults);
        faults.retain(|ifindex, _| here.contains(ifindex));
        let is_suspect = |record: &&Record| {
            record.phase == Phase::Attached
                && (all
                    || suspects.contains(&record.ifindex)
                    || faults.contains_key(&record.ifindex))
        };
        let suspected: Vec<&Record> = locals
            .filter(is_suspect)
            .chain(endpoints.records_without_entry())
            .collect();
        let mut repaired = false;
        for record in suspected {
            let pod = || format!("{}/{}", record.pod_namespace, record.pod_name);
            match self.look_after(kernel, record) {
                Ok(None) => {
                    faults.remove(&record.ifindex);
                }
                Ok(Some(damage)) => {
                    tracing::warn!(pod = pod(), veth = record.veth, "repaired: {damage}");
                    Counts::add(&self.shared.counts.repairs, 1);
                    repaired = true;
                    faults.remove(&record.ifindex);
                }
                Err(error) => {
                    if faults.get(&record.ifindex) != Some(&error) {
                        tracing::error!(
                            pod = pod(),
                            veth = record.veth,
                            "not enforced as it should be: {error}"
                        );
                    }
                    faults.insert(record.ifindex, error);
                }
            }
        }
        self.faults = faults;
        repaired
    }

    fn look_after(
        &self,
        kernel: &Kernel,
        record: &Record,
    ) -> Result<Option<repair::Damage>, String> {
        let found = repair::check(&kernel.endpoints, &kernel.programs, record);
        if found.map_err(|e| e.to_string())?.is_none() {
            return Ok(None);
        }
        let locked = self.store.lock(LOCK).map_err(|e| e.to_string())?;
        repair::repair(&locked, &self.bpf_dir, &kernel.programs, record).map_err(|e| e.to_string())
    }
}
