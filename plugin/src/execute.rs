//! The effects of an ADD, under the node's lock: each step is written down, and a failure undoes them newest first.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use enforcer::{
    attach::{Attached, Programs},
    endpoint::{self, Endpoints, NewEndpoint, Row},
    hostnet::{self, PodInterface},
    hosts::{self, HostSet},
    load::{self, LoadOptions, Loaded},
    pins::Pins,
};
use ipnetwork::IpNetwork;
use state::{Locked, Mode, NodeConfig, Phase, Record, Source, Store, clock, records::SCHEMA};
use verdict::{PolicyWord, layout::LAYOUT_VERSION};

use crate::{config::Config, error::Error, known, plan::Endpoint, request::AddRequest};

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
    /// Its slot.
    pub slot: u32,
    /// Its life.
    pub life: u32,
}

impl From<&Row> for Standing {
    fn from(row: &Row) -> Self {
        Self {
            ifindex: row.ifindex,
            slot: row.slot,
            life: row.life,
        }
    }
}

/// A step that can be undone.
#[derive(Debug)]
pub enum Done {
    /// A record was written.
    Record(Box<Record>),
    /// A row was made.
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
    /// Rows and words.
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
        let options = LoadOptions {
            flow_limit: node
                .conntrack_cache_table_size
                .unwrap_or(load::DEFAULT_FLOW_LIMIT),
            node_ports: (node.node_port_range.first, node.node_port_range.last),
        };
        if load::load(locked, bpf_dir, options)? == Loaded::Fresh {
            tracing::info!(bpf_dir = %bpf_dir.display(), "loaded programs and maps");
        }
        let endpoints = Endpoints::open(bpf_dir)?;
        fill_host_set(locked, endpoints.pins(), config)?;
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
        let mut record = intended(locked.store(), terms, planned, reserved.life, reserved.slot);
        done.push(Done::Record(Box::new(record.clone())));
        locked.put_record(&record)?;

        // Only now that the record stands: a document that comes later finds it there.
        let pending = known::could_select(locked.store(), terms.source, &terms.request.pod);
        let new = new_endpoint(terms, planned, pending);
        let row = self.endpoints.create(locked, reserved, &new)?;
        done.push(Done::Row(Standing::from(&row)));

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
            slot = row.slot,
            life = row.life,
            mode = ?terms.mode,
            pending,
            "attached"
        );
        Ok(Standing::from(&row))
    }

    /// A repeated ADD of a live attachment. Row and mode stay as they are; the programs are put back where something of
    /// them is missing.
    fn renew(&mut self, locked: &Locked<'_>, before: &Record) -> Result<Standing, Error> {
        let mut record = before.clone();
        if let Some(flaw) = self.programs.verify(before.ifindex, before.attach_mode)? {
            tracing::warn!(
                ifindex = before.ifindex,
                "repeated ADD: {flaw}; attaching again"
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
            slot: before.slot,
            life: before.life,
        })
    }

    /// A row that stands on the interface is of an ADD that was cut off, or of a container that had this namespace before:
    /// the newest call is the one that counts. Until its row stands, nothing passes.
    fn clear_the_way(&mut self, locked: &Locked<'_>, ifindex: u32) -> Result<(), Error> {
        let Some(Row { life, .. }) = self.endpoints.row(ifindex)? else {
            return Ok(());
        };
        tracing::warn!(
            ifindex,
            life,
            "a row of an earlier call stands on the interface; taking its place"
        );
        self.endpoints.delete(locked, ifindex, Some(life))?;
        let records = locked.store().records()?.good;
        for record in records
            .iter()
            .filter(|record| record.ifindex == ifindex && record.life == life)
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
                Done::Row(row) => self
                    .endpoints
                    .delete(locked, row.ifindex, Some(row.life))
                    .map(drop)
                    .map_err(Error::from),
                Done::Record(record) => locked.remove_record(record).map(drop).map_err(Error::from),
            };
            failures.extend(outcome.err().map(|error| error.to_string()));
        }
        failures
    }
}

/// The host set is the companion's, but for what is there before it: a set that was never filled, and the devices that
/// only our configuration names.
fn fill_host_set(locked: &Locked<'_>, pins: &Pins, config: &Config) -> Result<(), Error> {
    if HostSet::open(pins)
        .and_then(|set| set.is_empty())
        .map_err(hosts::Error::from)?
    {
        let changes = hosts::refresh(locked, pins)?;
        tracing::info!(addresses = changes.added.len(), "filled the host set");
    }
    if config.host_path_interfaces.is_empty() {
        return Ok(());
    }
    let mut present = BTreeSet::new();
    for name in &config.host_path_interfaces {
        match hostnet::link_by_name(name) {
            Ok(link) => drop(present.insert(link.ifindex)),
            Err(hostnet::Error::NoSuchName { .. }) => {
                tracing::debug!(name, "hostPathInterfaces: not there");
            }
            Err(error) => return Err(error.into()),
        }
    }
    hosts::set_host_paths(locked, pins, &present).map_err(hosts::Error::from)?;
    Ok(())
}

/// The rows and words; `None` where nothing is loaded.
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

/// The records of a container whose endpoints stand: attached, and with a row of that very life. Where nothing is loaded,
/// nothing stands.
///
/// # Errors
/// Records or rows cannot be read.
pub fn live_records(
    store: &Store,
    bpf_dir: &Path,
    container_id: &str,
) -> Result<Vec<Record>, Error> {
    let mut records = store.container_records(container_id)?.good;
    records.retain(|record| record.phase == Phase::Attached);
    // Most ADDs are a container's first, and have nothing to open.
    if records.is_empty() {
        return Ok(records);
    }
    let Some(endpoints) = open_endpoints(bpf_dir)? else {
        return Ok(Vec::new());
    };
    let mut live = Vec::new();
    for record in records {
        if endpoints
            .row(record.ifindex)?
            .is_some_and(|row| row.life == record.life)
        {
            live.push(record);
        }
    }
    Ok(live)
}

/// The instant of the read-back: from now on nothing passes unjudged.
fn stamp(record: &mut Record) {
    record.attached_at_monotonic_ns = Some(clock::monotonic_ns());
    record.attached_at = Some(clock::now_rfc3339());
}

fn new_endpoint(terms: Terms<'_>, planned: &Endpoint, pending: bool) -> NewEndpoint {
    let mode = if terms.mode == Mode::Strict {
        PolicyWord::STRICT
    } else {
        0
    };
    let pending = if pending { PolicyWord::PENDING } else { 0 };
    NewEndpoint {
        ifindex: planned.interface.host_ifindex,
        mac: planned.interface.mac,
        addresses: own_addresses(planned).into_iter().collect(),
        extra_sources: terms.request.config.extra_sources.clone(),
        source_guard: is_guarded(&terms.request.config, planned),
        flags: mode | pending,
    }
}

/// What the pod may send from, as far as it is known: its addresses, and the link-local one that it gets by itself.
fn own_addresses(planned: &Endpoint) -> BTreeSet<IpAddr> {
    let mut own = planned.addresses.clone();
    if !own.iter().any(is_link_local) {
        own.insert(link_local_of(planned.interface.mac).into());
    }
    own
}

/// Where the pod has no address that somebody gave it (a pod that asks DHCP, say) there is nothing to guard by.
fn is_guarded(config: &Config, planned: &Endpoint) -> bool {
    config.source_guard
        && !(config.extra_sources.is_empty() && planned.addresses.iter().all(is_link_local))
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The link-local address that a hardware address makes (RFC 4291, appendix A).
fn link_local_of([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Addr {
    Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

fn intended(store: &Store, terms: Terms<'_>, planned: &Endpoint, life: u32, slot: u32) -> Record {
    let AddRequest {
        attachment,
        netns,
        pod,
        config,
        prev: _,
    } = terms.request;
    let PodInterface {
        ifname,
        mac,
        host_ifindex,
        host_name,
        ifindex: _,
        addresses: _,
    } = &planned.interface;
    Record {
        schema: SCHEMA,
        phase: Phase::Intended,
        boot_id: store.boot_id().to_owned(),
        network: config.network.clone(),
        container_id: attachment.container_id.clone(),
        cni_ifname: attachment.ifname.clone(),
        ifname: ifname.clone(),
        pod_namespace: pod.namespace.clone(),
        pod_name: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        labels: config.labels.clone(),
        netns: netns.clone(),
        ifindex: *host_ifindex,
        veth: host_name.clone(),
        life,
        slot,
        mac: mac_text(*mac),
        addresses: own_addresses(planned).into_iter().collect(),
        mode: terms.mode,
        attach_mode: config.attach_mode,
        layout_version: LAYOUT_VERSION,
        attached_at: None,
        attached_at_monotonic_ns: None,
        source_guard: is_guarded(config, planned),
        extra_sources: config
            .extra_sources
            .iter()
            .map(IpNetwork::to_string)
            .collect(),
        other: serde_json::Map::new(),
    }
}

/// A hardware address as `ip link` prints it.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_and_hardware_addresses_in_text() {
        let mac = [0x5a, 0x0b, 0xf9, 0x0a, 0xb2, 0xf7];
        assert_eq!(mac_text(mac), "5a:0b:f9:0a:b2:f7");
        assert_eq!(link_local_of(mac).to_string(), "fe80::580b:f9ff:fe0a:b2f7");
        assert!(is_link_local(&link_local_of(mac).into()));
        assert!(!is_link_local(&"169.254.0.1".parse().unwrap()));
    }
}
