//! The implicit allow rules: what passes between the pod and its host, and from the pod to itself, without policy.

use crate::address::{Owner, is_host, owner};
use crate::env::Env;
use crate::flow::{FlowVerdict, Kind};
use crate::found::{Found, Why};
use crate::frame::Meta;
use crate::layout::{Config, Direction, Endpoint, HostPortKey};
use crate::link_layer::is_to_host;
use crate::packet::{Packet, proto};
use crate::policy::denies_itself;
use crate::policy_state::PolicyState;
use crate::reason::Reason;
use crate::record::record;
use crate::scratch::Scratch;

/// The always-pass rules for a new flow; what none of them admits is for policy.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
pub(crate) fn implicit_allow<E: Env>(
    env: &E,
    meta: &Meta,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    direction: Direction,
    config: &Config,
    now: u32,
    why: Why,
    scratch: &mut Scratch,
) -> Found {
    let (kind, reason) = match direction {
        Direction::Ingress => {
            let src = scratch.packet.src;
            let owner = owner(env, endpoint, scratch.packet.family, &src, scratch);
            let hairpin = meta.ingress_ifindex == meta.ifindex
                && (owner != Owner::Other || is_host(env, scratch.packet.family, &src, scratch));
            if hairpin && denies_itself(env, policy_state, direction, scratch) {
                return Found::Known(Reason::PolicyDenied);
            }
            if hairpin && owner != Owner::Other {
                // The hook knows it by itself: no record, or a pod could fill the table alone.
                return Found::Known(Reason::PodToItself);
            } else if owner == Owner::Pod {
                // Its own address from somewhere else: allowed or not, no flow may let the pod send to its own address.
                return Found::Ask(direction, Why::NoTrack);
            } else if hairpin {
                // Back from a Service, from the address that the node masquerades with.
                (Kind::Hairpin, Reason::PodToItself)
            } else if local_origin(env, meta, &scratch.packet)
                && is_host(env, scratch.packet.family, &src, scratch)
            {
                (Kind::Host, Reason::HostToPod)
            } else {
                return Found::Ask(direction, why);
            }
        }
        Direction::Egress => {
            let dst = scratch.packet.dst;
            if owner(env, endpoint, scratch.packet.family, &dst, scratch) == Owner::Pod {
                return Found::Known(Reason::OwnAddress);
            } else if is_to_host(meta, endpoint, &scratch.packet)
                && is_host(env, scratch.packet.family, &dst, scratch)
                && host_takes(env, config, &scratch.packet)
            {
                (Kind::Host, Reason::PodToHost)
            } else {
                return Found::Ask(direction, why);
            }
        }
    };
    if kind as u8 == Kind::Host as u8 && scratch.packet.is_icmp() {
        // Both hooks admit it by itself: a record would only take a place.
        return Found::Known(reason);
    }
    if matches!(why, Why::NoTrack) {
        return Found::Known(reason);
    }
    let verdict = FlowVerdict::new(
        policy_state.revision(),
        scratch.flow.tag(),
        true,
        direction,
        kind,
    );
    Found::Known(record(env, endpoint, config, now, verdict, reason, scratch))
}

/// Whether a packet of a flow that an always-pass rule admitted comes from where that rule says.
#[inline(always)]
pub(crate) fn admits<E: Env>(env: &E, meta: &Meta, kind: Kind, packet: &Packet) -> bool {
    match kind {
        Kind::Policy => true,
        Kind::Host => local_origin(env, meta, packet),
        Kind::Hairpin => meta.ingress_ifindex == meta.ifindex,
        Kind::Neighbour => false,
    }
}

/// Made by the host itself, and not re-fragmented by it.
#[inline(always)]
fn local_origin<E: Env>(env: &E, meta: &Meta, packet: &Packet) -> bool {
    (meta.ingress_ifindex == 0 || env.host_path(meta.ingress_ifindex))
        && packet.fragment_header == 0
}

/// Whether the host itself takes the packet: its ICMP, or a socket of its own. What the host would hand on (NodePorts,
/// hostPorts, tunnels) is for policy.
#[inline(always)]
fn host_takes<E: Env>(env: &E, config: &Config, packet: &Packet) -> bool {
    if packet.is_icmp() {
        return true;
    }
    if packet.protocol != proto::TCP && packet.protocol != proto::UDP {
        return false;
    }
    !is_forwarded_port(env, config, packet) && env.host_socket(packet)
}

/// Whether the host hands on what comes to the port: NodePorts, hostPorts, tunnels.
#[inline(always)]
pub(crate) fn is_forwarded_port<E: Env>(env: &E, config: &Config, packet: &Packet) -> bool {
    // The identifier of an echo is no port.
    if packet.is_icmp() {
        return false;
    }
    let port = u16::from_be(packet.dst_port_be);
    if port >= config.node_port_first && port <= config.node_port_last {
        return true;
    }
    let key = HostPortKey {
        protocol: u16::from(packet.protocol),
        port_be: packet.dst_port_be,
    };
    env.host_port(&key)
}
