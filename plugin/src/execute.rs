//! The effects of an ADD, under the node's lock: each step is written down, and a failure undoes them newest first.

use std::path::Path;

use enforcer::{
    attach::{Attached, Programs},
    endpoint::{self, Endpoints, Row},
    hostnet::PodInterface,
    hosts::{self, Claims, HostSet},
    load::{self, LoadOptions, Loaded},
    pins::Pins,
};
use state::{Locked, Mode, NodeConfig, Phase, Record, Source, Store, clock};

use crate::{
    config::Config,
    error::Error,
    known,
    plan::Endpoint,
    record::{intended, new_endpoint},
    request::AddRequest,
};

/// What is equal for all endpoints of one call.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The request.
    pub request: &'a AddRequest,
    /// The mode.
    pub mode: Mode,
    /// Who fills the store.
    pub source: Source,
}

/// An endpoint that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its host veth.
    pub ifindex: u32,
    /// Its endpoint index.
    pub endpoint_index: u32,
    /// Its endpoint id.
    pub endpoint_id: u32,
}

impl From<&Row> for Standing {
    fn from(entry: &Row) -> Self {
        Self {
            ifindex: entry.ifindex,
            endpoint_index: entry.endpoint_index,
            endpoint_id: entry.endpoint_id,
        }
    }
}

/// A step that can be undone.
#[derive(Debug)]
pub enum Done {
    /// A record was written.
    Record(Box<Record>),
    /// An entry was made.
    Row(Standing),
    /// Programs were attached.
    Attached(Attached),
}

/// The kernel's half, open.
#[expect(
    missing_debug_implementations,
    reason = "handles of maps have no text form"
)]
pub struct Kernel {
    /// Entries and policy states.
    pub endpoints: Endpoints,
    /// The programs.
    pub programs: Programs,
}

impl Kernel {
    /// Opens what is loaded, or loads it: once a node.
    ///
    /// # Errors
    /// The kernel, the bpffs or the programs are not what they have to be.
    pub fn open_or_load(
        locked: &Locked<'_>,
        config: &Config,
        node: &NodeConfig,
    ) -> Result<Self, Error> {
        let bpf_dir = &config.places.bpf_dir;
        let options = LoadOptions::from(node);
        if load::load(locked, bpf_dir, options)? == Loaded::Fresh {
            tracing::info!(bpf_dir = %bpf_dir.display(), "loaded programs and maps");
        }
        let endpoints = Endpoints::open(bpf_dir)?;
        fill_host_set(locked, endpoints.pins())?;
        let programs = Programs::open(endpoints.pins())?;
        Ok(Self {
            endpoints,
            programs,
        })
    }

    /// Makes one endpoint, or renews the one that stands. Every step goes into `done` as soon as it is taken.
    ///
    /// # Errors
    /// The first step that fails.
    pub fn make(
        &mut self,
        locked: &Locked<'_>,
        terms: Terms<'_>,
        planned: &Endpoint,
        done: &mut Vec<Done>,
    ) -> Result<Standing, Error> {
        if let Some(before) = &planned.before {
            hosts::add_claims(locked, self.endpoints.pins(), before)?;
            return self.renew(locked, before);
        }
        let PodInterface {
            ifname,
            host_ifindex,
            host_name,
            ..
        } = &planned.interface;
        self.clear_the_way(locked, *host_ifindex)?;
        let reserved = self.endpoints.reserve(locked)?;
        let mut record = intended(locked.store().boot_id(), terms, planned, reserved);
        done.push(Done::Record(Box::new(record.clone())));
        locked.put_record(&record)?;
        // Before `portmap`, which comes later in the chain, makes the node hand them on.
        hosts::add_claims(locked, self.endpoints.pins(), &record)?;

        // Only now that the record stands: a document that comes later finds it there.
        let pending = known::could_select(locked.store(), terms.source, &terms.request.pod);
        let new = new_endpoint(terms, planned, pending);
        let entry = self.endpoints.create(locked, reserved, &new)?;
        done.push(Done::Row(Standing::from(&entry)));

        // Reads back what it attached.
        let attached = self.programs.attach(*host_ifindex, record.attach_mode)?;
        stamp(&mut record);
        record.attach_mode = attached.mode;
        record.phase = Phase::Attached;
        done.push(Done::Attached(attached));
        locked.put_record(&record)?;
        tracing::info!(
            interface = ifname,
            veth = host_name,
            ifindex = host_ifindex,
            endpoint_index = entry.endpoint_index,
            endpoint_id = entry.endpoint_id,
            mode = ?terms.mode,
            pending,
            "attached"
        );
        Ok(Standing::from(&entry))
    }

    /// A repeated ADD of a live attachment. Entry and mode stay as they are; the programs are put back where something of
    /// them is missing.
    fn renew(&mut self, locked: &Locked<'_>, before: &Record) -> Result<Standing, Error> {
        let mut record = before.clone();
        if let Some(fault) = self.programs.verify(before.ifindex, before.attach_mode)? {
            tracing::warn!(
                ifindex = before.ifindex,
                "repeated ADD: {fault}; attaching again"
            );
            record.attach_mode = self
                .programs
                .attach(before.ifindex, before.attach_mode)?
                .mode;
        }
        stamp(&mut record);
        locked.put_record(&record)?;
        tracing::info!(
            interface = before.ifname,
            veth = before.veth,
            ifindex = before.ifindex,
            "renewed"
        );
        Ok(Standing {
            ifindex: before.ifindex,
            endpoint_index: before.endpoint_index,
            endpoint_id: before.endpoint_id,
        })
    }

    /// An entry that stands on the interface is of an ADD that was cut off, or of a container that had this namespace before:
    /// the newest call is the one that counts. Until its entry stands, nothing passes.
    fn clear_the_way(&mut self, locked: &Locked<'_>, ifindex: u32) -> Result<(), Error> {
        let Some(Row { endpoint_id, .. }) = self.endpoints.entry(ifindex)? else {
            return Ok(());
        };
        tracing::warn!(
            ifindex,
            endpoint_id,
            "a entry of an earlier call stands on the interface; taking its place"
        );
        self.endpoints.delete(locked, ifindex, Some(endpoint_id))?;
        let records = locked.store().records()?.good;
        for record in records
            .iter()
            .filter(|record| record.ifindex == ifindex && record.endpoint_id == endpoint_id)
        {
            locked.remove_record(record)?;
        }
        Ok(())
    }

    /// Undoes what was done, newest first; goes on where a step cannot be undone and says which.
    #[must_use]
    pub fn undo(&mut self, locked: &Locked<'_>, done: Vec<Done>) -> Vec<String> {
        let mut failures = Vec::new();
        for step in done.into_iter().rev() {
            let outcome = match &step {
                Done::Attached(attached) => self.programs.detach(attached).map_err(Error::from),
                Done::Row(entry) => self
                    .endpoints
                    .delete(locked, entry.ifindex, Some(entry.endpoint_id))
                    .map(drop)
                    .map_err(Error::from),
                Done::Record(record) => withdraw(locked, self.endpoints.pins(), record),
            };
            failures.extend(outcome.err().map(|error| error.to_string()));
        }
        failures
    }
}

/// The host set is the companion's, but for one that was never filled.
fn fill_host_set(locked: &Locked<'_>, pins: &Pins) -> Result<(), Error> {
    if HostSet::open(pins)
        .and_then(|set| set.is_empty())
        .map_err(hosts::Error::from)?
    {
        let changes = hosts::refresh(locked, pins)?;
        tracing::info!(addresses = changes.added.len(), "filled the host set");
    }
    Ok(())
}

/// Removes a record and what it claimed.
///
/// # Errors
/// The first of the two that cannot be removed.
fn withdraw(locked: &Locked<'_>, pins: &Pins, record: &Record) -> Result<(), Error> {
    locked.remove_record(record)?;
    if !Claims::of([record]).is_empty() {
        hosts::refresh_claims(locked, pins)?;
    }
    Ok(())
}

/// The entries and policy states; `None` where nothing is loaded.
///
/// # Errors
/// They are there and cannot be opened.
pub fn open_endpoints(bpf_dir: &Path) -> Result<Option<Endpoints>, endpoint::Error> {
    match Endpoints::open(bpf_dir) {
        Ok(endpoints) => Ok(Some(endpoints)),
        Err(error) if error.is_not_loaded() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The live records of these interfaces, of whatever container: attached, and with an endpoint entry of that very id.
///
/// # Errors
/// Records or entries cannot be read.
pub fn live_records(
    store: &Store,
    endpoints: &Endpoints,
    interfaces: &[PodInterface],
) -> Result<Vec<Record>, Error> {
    let mut entries = Vec::new();
    for interface in interfaces {
        entries.extend(endpoints.entry(interface.host_ifindex)?);
    }
    // Most interfaces are new, and then no record has to be read.
    if entries.is_empty() {
        return Ok(Vec::new());
    }
    let mut records = store.records()?.good;
    records.retain(|record| {
        record.phase == Phase::Attached
            && entries.iter().any(|entry| {
                entry.ifindex == record.ifindex && entry.endpoint_id == record.endpoint_id
            })
    });
    Ok(records)
}

/// The instant of the read-back: from now on nothing passes unjudged.
fn stamp(record: &mut Record) {
    record.attached_at_monotonic_ns = Some(clock::monotonic_ns());
    record.attached_at = Some(clock::now_rfc3339());
}
