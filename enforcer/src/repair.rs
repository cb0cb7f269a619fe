//! What somebody else took away is put back: filters, qdiscs, links, entries, or all of it with the pins.
//!
//! [`check`] only looks; [`repair`] looks again under the lock, for an ADD or DEL may have been half way.

use std::path::Path;

use ipnetwork::IpNetwork;
use state::{Locked, Mode, Phase, Record};
use verdict::PolicyState;

use crate::attach::{self, Programs};
use crate::endpoint::{self, Endpoints, NewEndpoint};
use crate::hostnet::{self, Fault};

/// Why an endpoint could not be repaired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The attachment.
    #[error(transparent)]
    Attach(#[from] attach::Error),
    /// Entry or policy state.
    #[error(transparent)]
    Endpoint(#[from] endpoint::Error),
    /// Netlink.
    #[error(transparent)]
    Net(#[from] hostnet::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] state::Error),
    /// A record that nothing can be rebuilt from.
    #[error("rebuild endpoint of {veth}: {field} {found:?} of its record cannot be read")]
    Record {
        /// Host veth.
        veth: String,
        /// Which field.
        field: &'static str,
        /// What stands there.
        found: String,
    },
}

/// What is wrong with an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// Its entry is gone: everything is dropped, or older programs run.
    #[error("its entry is gone")]
    Row,
    /// The attachment is not in force.
    #[error(transparent)]
    Attachment(#[from] Fault),
}

/// Looks at an endpoint whose ADD came to its end. `None` = nothing is wrong.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn check(
    endpoints: &Endpoints,
    programs: &Programs,
    record: &Record,
) -> Result<Option<Damage>, Error> {
    if endpoints
        .entry(record.ifindex)?
        .is_none_or(|entry| entry.endpoint_id != record.endpoint_id)
    {
        return Ok(Some(Damage::Row));
    }
    Ok(programs
        .verify(record.ifindex, record.attach_mode)?
        .map(Damage::Attachment))
}

/// Puts back what is missing; what was wrong, or `None` if nothing is any more or the endpoint is gone.
///
/// An entry that is gone is made anew, pending, under a new endpoint id: the record says which, and the companion decides its policy state.
///
/// # Errors
/// If something stands in the way. The endpoint is then as before, or dropped.
pub fn repair(
    locked: &Locked<'_>,
    bpf_dir: &Path,
    programs: &Programs,
    record: &Record,
) -> Result<Option<Damage>, Error> {
    let Some(mut record) = locked
        .store()
        .record(&record.container_id, &record.ifname)?
    else {
        return Ok(None);
    };
    if record.phase != Phase::Attached || hostnet::link_by_index(record.ifindex)?.is_none() {
        return Ok(None);
    }
    let mut endpoints = Endpoints::open(bpf_dir)?;
    let Some(damage) = check(&endpoints, programs, &record)? else {
        return Ok(None);
    };
    let mut changed = false;
    if damage == Damage::Row {
        // Another's entry at this interface: it has been taken over.
        if endpoints.entry(record.ifindex)?.is_some() {
            return Ok(None);
        }
        let reserved = endpoints.reserve(locked)?;
        let new = new_endpoint(&record)?;
        (record.endpoint_id, record.endpoint_index) =
            (reserved.endpoint_id, reserved.endpoint_index);
        record.layout_version = verdict::layout::LAYOUT_VERSION;
        locked.put_record(&record)?;
        endpoints.create(locked, reserved, &new)?;
        changed = true;
    }
    let attached = match programs.verify(record.ifindex, record.attach_mode)? {
        None => None,
        Some(_) => Some(programs.attach(record.ifindex, record.attach_mode)?),
    };
    if let Some(attached) = attached {
        record.attach_mode = attached.mode;
        record.attached_at = Some(state::clock::now_rfc3339());
        record.attached_at_monotonic_ns = Some(state::clock::monotonic_ns());
        changed = true;
    }
    if changed {
        locked.put_record(&record)?;
    }
    Ok(Some(damage))
}

fn new_endpoint(record: &Record) -> Result<NewEndpoint, Error> {
    let bad = |field, found: &str| Error::Record {
        veth: record.veth.clone(),
        field,
        found: found.to_owned(),
    };
    let mut extra_sources = Vec::with_capacity(record.extra_sources.len());
    for text in &record.extra_sources {
        extra_sources.push(
            text.parse::<IpNetwork>()
                .map_err(|_| bad("extraSources", text))?,
        );
    }
    let strict = if record.mode == Mode::Strict {
        PolicyState::STRICT
    } else {
        0
    };
    Ok(NewEndpoint {
        ifindex: record.ifindex,
        mac: mac(&record.mac).ok_or_else(|| bad("mac", &record.mac))?,
        host_mac: hostnet::host_mac(record.ifindex)?.unwrap_or_default(),
        addresses: record.addresses.clone(),
        extra_sources,
        source_guard: record.source_guard,
        flags: PolicyState::PENDING | strict,
    })
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::mac;

    #[test]
    fn macs() {
        assert_eq!(mac("02:00:00:00:00:ff"), Some([2, 0, 0, 0, 0, 255]));
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "02:00:00:00:00:gg",
            "02-00-00-00-00-00",
        ] {
            assert_eq!(mac(bad), None, "{bad}");
        }
    }
}
