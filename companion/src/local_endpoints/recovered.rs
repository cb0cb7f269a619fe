//! Endpoints whose record cannot be read and that this run has never known: what an earlier run published of them stands for
//! the record, so that the endpoint keeps its policy over a restart.

use std::collections::BTreeMap;

use enforcer::pins::Pins;
use policy::EndpointId;
use published::status::Endpoints;
use state::{AttachMode, Phase, Record, Store, records::SCHEMA};
use verdict::Direction;
use verdict::layout::LAYOUT_VERSION;

/// Records made of what was published of these kernel entries.
pub(super) fn records(
    store: &Store,
    pins: &Pins,
    unmanaged: &BTreeMap<EndpointId, u32>,
) -> Vec<Record> {
    let published = Endpoints::read(store).ok().flatten().unwrap_or_default();
    published
        .endpoints
        .into_iter()
        .filter(|told| unmanaged.get(&EndpointId(told.endpoint_id)) == Some(&told.ifindex))
        .map(|told| {
            // A link of TCX lives by its pin; without one the endpoint has filters.
            let is_tcx = pins.link(told.ifindex, Direction::Ingress).exists();
            Record {
                schema: SCHEMA,
                phase: Phase::Attached,
                boot_id: store.boot_id().to_owned(),
                network: String::new(),
                container_id: told.container_id,
                cni_ifname: told.ifname.clone(),
                ifname: told.ifname,
                pod_namespace: told.namespace,
                pod_name: told.pod,
                pod_uid: None,
                labels: None,
                netns: String::new(),
                ifindex: told.ifindex,
                veth: String::new(),
                endpoint_id: told.endpoint_id,
                endpoint_index: told.endpoint_index,
                mac: String::new(),
                addresses: Vec::new(),
                mode: told.mode,
                attach_mode: if is_tcx {
                    AttachMode::Tcx
                } else {
                    AttachMode::Clsact
                },
                layout_version: LAYOUT_VERSION,
                attached_at: None,
                attached_at_monotonic_ns: None,
                source_guard: true,
                extra_sources: Vec::new(),
                host_ports: Vec::new(),
                host_path_interfaces: Vec::new(),
                other: serde_json::Map::new(),
            }
        })
        .collect()
}
