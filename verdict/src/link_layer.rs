//! MAC addresses: a pod sends from its own, and is not asked about frames that a bridge floods.

use crate::frame::Meta;
use crate::layout::{Direction, Endpoint};
use crate::packet::Packet;
use crate::reason::Reason;

/// The MAC addresses: a pod sends from its own, and is not asked about frames that a bridge floods.
#[inline(always)]
pub(crate) fn link_layer(
    endpoint: &Endpoint,
    direction: Direction,
    guard: bool,
    packet: &Packet,
) -> Option<Reason> {
    let (mac, wrong) = match direction {
        Direction::Egress if guard => (packet.src_mac, Reason::SpoofedMac),
        Direction::Ingress if !packet.dst_mac.is_group() => (packet.dst_mac, Reason::NotForPod),
        _ => return None,
    };
    if mac.is(&endpoint.mac) {
        None
    } else {
        Some(wrong)
    }
}

/// Whether a frame from the pod is addressed to the host: on a bridge another MAC address is somebody else's, whatever
/// IP address stands behind it.
#[inline(always)]
pub(crate) fn is_to_host(meta: &Meta, endpoint: &Endpoint, packet: &Packet) -> bool {
    meta.to_host || packet.dst_mac.is(&endpoint.host_mac)
}
