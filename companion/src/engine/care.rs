//! Looking after the kernel's side: what nobody tells of, what others take away, what is left over, what expires.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use enforcer::hostnet::watch::Change;
use enforcer::{orphans, repair};
use state::{AttachMode, Phase, Record};

use super::Engine;
use crate::kernel::{Kernel, LOCK};
use crate::shared::Counts;
use published::status;

/// Every so many looks the flow shares are looked at too.
const LOOKS_A_SHARE: u32 = 4;
/// Every so many looks each pin is looked at, whatever the folders' times say.
const LOOKS_A_THOROUGH: u32 = 20;
/// So long after an interface has gone orphans are looked for: by then its DEL is done.
const SCAN_SOON: Duration = Duration::from_secs(1);
/// Orphans are looked for so often, whatever was told.
const SCAN: Duration = Duration::from_secs(600);
/// Flows are swept at most so often where the table is short, or an endpoint holds many that nobody answered.
const SWEEP_SHORT: Duration = Duration::from_secs(5);
const SWEEP_CROWDED: Duration = Duration::from_secs(15);

/// Whose attachment may be broken.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    pub(super) all: bool,
    pub(super) some: BTreeSet<u32>,
}

impl Engine {
    pub(super) fn open_kernel(&mut self) {
        match Kernel::open(&self.store, &self.options.bpf_dir) {
            Ok(Some(kernel)) => {
                tracing::info!(bpf_dir = %self.options.bpf_dir.display(), "kernel objects taken up");
                if let Err(error) = self.enforcement.open(&self.options.bpf_dir) {
                    return tracing::error!("take up the policy tables: {error}");
                }
                self.kernel = Some(kernel);
                self.dirty.pods = true;
                self.dirty.hosts = true;
                self.dirty.policy = true;
                self.suspects.all = true;
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

    /// What nobody tells of.
    pub(super) fn look(&mut self) {
        self.looks = self.looks.wrapping_add(1);
        let thorough = self.looks.is_multiple_of(LOOKS_A_THOROUGH);
        if let Some(kernel) = self.kernel.as_mut()
            && !kernel.is_current(thorough)
        {
            match kernel.restore(&self.options.bpf_dir) {
                // Links die with their pins.
                Ok(true) => self.suspects.all = true,
                Ok(false) => {
                    tracing::warn!(
                        "the kernel objects were made anew; taking up what is there now"
                    );
                    self.kernel = None;
                    self.enforcement.close();
                }
                Err(error) => tracing::error!("put pins back: {error}"),
            }
        }
        if self.kernel.is_none() {
            self.open_kernel();
        }
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

    pub(super) fn network(&mut self, changes: &[Change]) {
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
    pub(super) fn scan(&mut self) {
        self.next_scan = Instant::now() + SCAN;
        let found = match orphans::describe(&self.store, &self.options.bpf_dir) {
            Ok(found) => found,
            Err(error) => return tracing::warn!("look for orphans: {error}"),
        };
        if found.is_empty() {
            return;
        }
        for orphan in found.iter().filter(|l| !l.is_dust()) {
            tracing::info!("left over: {orphan}");
        }
        let failed = orphans::remove(&self.store, &self.options.bpf_dir, &found);
        for (orphan, error) in &failed {
            tracing::warn!("remove {orphan}: {error}");
        }
        let worth = found
            .iter()
            .filter(|l| !l.is_dust())
            .count()
            .saturating_sub(failed.len());
        Counts::add(&self.shared.counts.orphans, worth as u64);
        self.dirty.pods = true;
    }

    /// Looks at attachments that may be broken and puts back what is missing.
    pub(super) fn inspect(&mut self) {
        let suspects = std::mem::take(&mut self.suspects);
        let Some(kernel) = &self.kernel else { return };
        let is_suspect = |record: &Record| {
            record.phase == Phase::Attached
                && (suspects.all
                    || suspects.some.contains(&record.ifindex)
                    || self.status.faults.contains_key(&record.ifindex))
        };
        let attached = self
            .locals
            .values()
            .map(|local| &local.record)
            .filter(|record| is_suspect(record));
        let mut faults = self.status.faults.clone();
        faults.retain(|ifindex, _| self.locals.values().any(|l| l.record.ifindex == *ifindex));
        for record in attached.chain(&self.without_entry) {
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
                    faults.remove(&record.ifindex);
                }
                Some(Ok(Some(damage))) => {
                    tracing::warn!(pod = pod(), veth = record.veth, "repaired: {damage}");
                    Counts::add(&self.shared.counts.repairs, 1);
                    self.dirty.pods = true;
                    faults.remove(&record.ifindex);
                }
                Some(Err(error)) => {
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
        if faults != self.status.faults {
            self.status.faults = faults;
            self.dirty.marks = true;
        }
    }

    /// Whether some attachment is to be looked at.
    pub(super) fn has_suspects(&self) -> bool {
        self.suspects.all
            || !self.suspects.some.is_empty()
            || !self.without_entry.is_empty()
            || !self.status.faults.is_empty()
    }

    /// Gives back what expired flows hold.
    pub(super) fn sweep(&mut self) {
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
    pub(super) fn shares(&mut self) {
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
            // As long as all of them together hold less, none can hold so many.
            if flows.held(0)?.unanswered() < limit / 2 {
                return Ok((flows.is_short()?, false));
            }
            let mut crowded = false;
            for local in self.locals.values() {
                crowded |= flows.held(local.record.endpoint_index)?.unanswered() >= limit / 2;
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
}
