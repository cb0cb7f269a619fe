//! MAC addresses: a pod sends from its own, and is not asked about frames that a bridge floods.

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
