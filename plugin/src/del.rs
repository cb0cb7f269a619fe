//! DEL: the endpoints of one call go. What is gone already, and a store that cannot be written, are no reason to fail.

use enforcer::{
    attach::Programs,
    endpoint::Endpoints,
    hostnet,
    hosts::{self, Claims},
};
use state::{AttachMode, Locked, Record, Store};

use crate::{add::LOCK_TIMEOUT, error::Error, execute::open_endpoints, request::DelRequest};

/// Carries out DEL.
///
/// # Errors
/// Something that a repeated DEL could do better: the lock was held too long, the maps cannot be opened or written.
pub fn del(request: &DelRequest) -> Result<(), Error> {
    let store = match Store::open(&request.places.state_dir) {
        Err(error) if error.is_missing() => return Ok(()),
        opened => opened?,
    };
    let locked = match store.lock(LOCK_TIMEOUT).map_err(state::Error::from) {
        // Without a lock file no ADD ever came here.
        Err(error) if error.is_missing() || error.is_unwritable() => {
            tracing::warn!("{error}; nothing to delete");
            return Ok(());
        }
        locked => locked?,
    };
    let records = match store.container_records(&request.attachment.container_id) {
        Err(error) if error.is_missing() => return Ok(()),
        records => records?,
    };
    let mut endpoints = open_endpoints(&request.places.bpf_dir)?;
    let is_ours = |record: &&Record| record.cni_ifname == request.attachment.ifname;
    let mut failures = Vec::new();
    for record in records.good.iter().chain(&records.stale).filter(is_ours) {
        if let Err(error) = remove(&locked, endpoints.as_mut(), record) {
            failures.push(format!(
                "{}/{}: {error}",
                record.container_id, record.ifname
            ));
        }
    }
    Error::left(failures)
}

/// Removes one endpoint: the entry of that very endpoint id, so that a newer endpoint of the interface stays, then the record.
/// The filters stay: without an entry they drop, and they go with the veth.
///
/// # Errors
/// The entry cannot be deleted, or the record cannot for another reason than a store that takes no writes: the orphans
/// scan gets to it then.
pub fn remove(
    locked: &Locked<'_>,
    endpoints: Option<&mut Endpoints>,
    record: &Record,
) -> Result<(), Error> {
    let mut deleted = false;
    // After a reboot the numbers mean something else.
    let endpoints = endpoints.filter(|_| record.boot_id == locked.store().boot_id());
    let mut pins = None;
    if let Some(endpoints) = endpoints {
        deleted = endpoints.delete(locked, record.ifindex, Some(record.endpoint_id))?;
        forget_links(endpoints, record);
        pins = Some(endpoints.pins());
    }
    match locked.remove_record(record) {
        Err(error) if error.is_unwritable() => {
            tracing::warn!("{error}; the record is left to the orphans scan");
        }
        removed => drop(removed?),
    }
    if let Some(pins) = pins.filter(|_| !Claims::of([record]).is_empty())
        && let Err(error) = hosts::refresh_claims(locked, pins)
    {
        tracing::warn!("{error}; its hostPorts stay under policy until the companion sees to them");
    }
    let Record {
        ifname,
        veth,
        ifindex,
        endpoint_id,
        ..
    } = record;
    tracing::info!(
        interface = ifname,
        veth,
        ifindex,
        endpoint_id,
        deleted,
        "deleted"
    );
    Ok(())
}

/// The pins of TCX links outlive their interface; while it stands they hold the filters.
fn forget_links(endpoints: &Endpoints, record: &Record) {
    let is_gone = || matches!(hostnet::link_by_index(record.ifindex), Ok(None));
    if record.attach_mode == AttachMode::Tcx && is_gone() {
        let programs = Programs::open(endpoints.pins());
        if let Err(error) = programs.and_then(|programs| programs.forget_links(record.ifindex)) {
            tracing::warn!("{error}; the pins are left to the orphans scan");
        }
    }
}
