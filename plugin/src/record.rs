//! What ADD writes for a new endpoint: its record and its entry. Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use enforcer::{
    endpoint::{NewEndpoint, Reserved},
    hostnet::PodInterface,
};
use ipnetwork::IpNetwork;
use state::{Mode, Phase, Record, records::SCHEMA};
use verdict::{PolicyState, layout::LAYOUT_VERSION};

use crate::{config::Config, execute::Terms, plan::Endpoint, request::AddRequest};

/// The entry of a new endpoint. Its first policy state is `pending` or the mode's.
#[must_use]
pub fn new_endpoint(terms: Terms<'_>, planned: &Endpoint, pending: bool) -> NewEndpoint {
    let mode = if terms.mode == Mode::Strict {
        PolicyState::STRICT
    } else {
        0
    };
    let pending = if pending { PolicyState::PENDING } else { 0 };
    NewEndpoint {
        ifindex: planned.interface.host_ifindex,
        mac: planned.interface.mac,
        host_mac: planned.interface.host_mac,
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

/// The record of an endpoint that is about to be made.
#[must_use]
pub fn intended(boot_id: &str, terms: Terms<'_>, planned: &Endpoint, reserved: Reserved) -> Record {
    let Reserved {
        endpoint_index,
        endpoint_id,
    } = reserved;
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
        host_mac: _,
        addresses: _,
    } = &planned.interface;
    Record {
        schema: SCHEMA,
        phase: Phase::Intended,
        boot_id: boot_id.to_owned(),
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
        endpoint_id,
        endpoint_index,
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
        host_ports: config.host_ports.clone(),
        host_path_interfaces: config.host_path_interfaces.clone(),
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
