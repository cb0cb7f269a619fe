//! GC: what no attachment uses any more goes.

use std::collections::BTreeSet;

use enforcer::orphans;
use state::{Locked, Record, Store};

use crate::{
    add::LOCK_TIMEOUT,
    del,
    error::Error,
    execute::open_endpoints,
    request::{Attachment, GcRequest},
};

/// Carries out GC: with a list, the network's records that it does not name; without one, only what the kernel shows to be
/// gone.
///
/// An ADD may end after the runtime made its list: what was attached at or after `started_ns` (CLOCK_MONOTONIC, the start of
/// this call) stays.
///
/// # Errors
/// The store or the maps cannot be opened, or some endpoints could not be removed; the others are.
pub fn gc(request: &GcRequest, started_ns: u64) -> Result<(), Error> {
    let store = match Store::open(&request.places.state_dir) {
        Err(error) if error.is_missing() => return Ok(()),
        opened => opened?,
    };
    match &request.valid {
        Some(valid) => remove_unnamed(request, &store, valid, started_ns),
        None => remove_gone(request, &store),
    }
}

/// What the kernel shows to be gone, of any network: the companion's scan, run once.
fn remove_gone(request: &GcRequest, store: &Store) -> Result<(), Error> {
    let bpf_dir = &request.places.bpf_dir;
    let found = orphans::describe(store, bpf_dir)?;
    for orphan in found.iter().filter(|orphan| !orphan.is_dust()) {
        tracing::info!("{orphan}");
    }
    let failures = orphans::remove(store, bpf_dir, &found);
    let texts = failures
        .iter()
        .map(|(orphan, error)| format!("{orphan}: {error}"));
    Error::left(texts.collect())
}

fn remove_unnamed(
    request: &GcRequest,
    store: &Store,
    valid: &BTreeSet<Attachment>,
    started_ns: u64,
) -> Result<(), Error> {
    let records = store.records()?;
    let is_unused = |record: &&Record| {
        let container_id = record.container_id.clone();
        let attachment = Attachment {
            container_id,
            ifname: record.cni_ifname.clone(),
        };
        record.network == request.network && !valid.contains(&attachment)
    };
    let mut failures = Vec::new();
    for record in records.good.iter().chain(&records.stale).filter(is_unused) {
        // The lock for each anew, so that an ADD that waits comes in between.
        let locked = store.lock(LOCK_TIMEOUT)?;
        if let Err(error) = remove_if_same(request, &locked, record, started_ns) {
            failures.push(format!(
                "{}/{}: {error}",
                record.container_id, record.ifname
            ));
        }
    }
    Error::left(failures)
}

/// Removes the endpoint unless, since it was listed, an ADD has attached it or has put another into its place.
fn remove_if_same(
    request: &GcRequest,
    locked: &Locked<'_>,
    record: &Record,
    started_ns: u64,
) -> Result<(), Error> {
    let now = locked
        .store()
        .record(&record.container_id, &record.ifname)?;
    let is_newer = |now: &Record| {
        let attached_ns = now.attached_at_monotonic_ns.unwrap_or(0);
        now.endpoint_id != record.endpoint_id
            || now.boot_id == locked.store().boot_id() && attached_ns >= started_ns
    };
    if now.as_ref().is_some_and(is_newer) {
        return Ok(());
    }
    let mut endpoints = open_endpoints(&request.places.bpf_dir)?;
    del::remove(locked, endpoints.as_mut(), record)
}
