//! GC: what no attachment uses any more goes.

use std::collections::BTreeSet;

use enforcer::hostnet;
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
/// # Errors
/// The store or the maps cannot be opened, or some endpoints could not be removed; the others are.
pub fn gc(request: &GcRequest) -> Result<(), Error> {
    let store = match Store::open(&request.places.state_dir) {
        Err(error) if error.is_missing() => return Ok(()),
        opened => opened?,
    };
    match &request.valid {
        Some(valid) => remove_unnamed(request, &store, valid),
        None => remove_gone(request, &store),
    }
}

fn remove_unnamed(
    request: &GcRequest,
    store: &Store,
    valid: &BTreeSet<Attachment>,
) -> Result<(), Error> {
    remove_where(request, store, |record| {
        let container_id = record.container_id.clone();
        let attachment = Attachment {
            container_id,
            ifname: record.cni_ifname.clone(),
        };
        Ok(record.network == request.network && !valid.contains(&attachment))
    })
}

fn remove_gone(request: &GcRequest, store: &Store) -> Result<(), Error> {
    remove_where(request, store, |record| {
        Ok(record.boot_id != store.boot_id() || hostnet::link_by_index(record.ifindex)?.is_none())
    })
}

fn remove_where(
    request: &GcRequest,
    store: &Store,
    is_unused: impl Fn(&Record) -> Result<bool, Error>,
) -> Result<(), Error> {
    let records = store.records()?;
    let mut failures = Vec::new();
    for record in records.good.iter().chain(&records.stale) {
        if !is_unused(record)? {
            continue;
        }
        // For each anew, so that an ADD that waits comes in between.
        let locked = store.lock(LOCK_TIMEOUT)?;
        if let Err(error) = remove_if_same(request, &locked, record) {
            failures.push(format!(
                "{}/{}: {error}",
                record.container_id, record.ifname
            ));
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Error::Left { failures })
    }
}

/// Removes the endpoint unless, since it was listed, an ADD has put another into its place.
fn remove_if_same(request: &GcRequest, locked: &Locked<'_>, record: &Record) -> Result<(), Error> {
    let now = locked
        .store()
        .record(&record.container_id, &record.ifname)?;
    if now.is_some_and(|now| now.life != record.life) {
        return Ok(());
    }
    let mut endpoints = open_endpoints(&request.places.bpf_dir)?;
    del::remove(locked, endpoints.as_mut(), record)
}
