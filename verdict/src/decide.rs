//! The one decision function: what a packet meets, in the order of ARCHITECTURE.md's first path.

use crate::env::{Decision, Env, Flow, Frame, Meta, Work, Write};
use crate::flow::{
    Judged, Kind, STATE_ANSWERED, STATE_FIN_OPENER, STATE_FIN_OTHER, STATE_REPLIED, STATE_RST,
    STATE_SYN, TIMEOUT_FRAGMENT, expired, next_state, stale, ticks, timeout_seconds,
};
use crate::layout::{
    Config, Direction, ENDPOINT_GUARD, ENDPOINT_INDEXES, Endpoint, FlowValue, HostPortKey, V6,
};
use crate::neighbour::{arp, discovery, is_group, is_host, is_own};
use crate::packet::{
    ECHO_REPLY, FRAGMENT_FIRST, FRAGMENT_LATER, Packet, proto, read, read_embedded, tcp,
};
use crate::policy::judge;
use crate::policy_state::PolicyState;
use crate::reason::Reason;

/// Decides about one frame at one hook of one host veth.
#[inline(always)]
pub fn decide<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    meta: &Meta,
    direction: Direction,
    work: &mut Work,
) -> Decision {
    let Some(endpoint) = env.endpoint(meta.ifindex) else {
        return Decision::NO_ENDPOINT;
    };
    let (endpoint_index, endpoint_id) = (endpoint.endpoint_index, endpoint.endpoint_id);
    if endpoint.ifindex != meta.ifindex || endpoint_index == 0 || endpoint_index >= ENDPOINT_INDEXES
    {
        return Decision::NO_ENDPOINT;
    }
    let Some(policy_state) = env.policy_state(endpoint_index) else {
        return Decision::NO_ENDPOINT;
    };
    let policy_state = PolicyState(policy_state);
    // Revisions begin at 1: a policy state without one is of an endpoint index that nobody holds.
    if policy_state.revision() == 0 {
        return Decision::NO_ENDPOINT;
    }
    let mut reason = packet(env, frame, meta, direction, endpoint, policy_state, work);
    if reason.is_drop() && policy_state.has(PolicyState::SUSPENDED) {
        reason = Reason::Suspended;
    }
    Decision {
        reason,
        endpoint_index,
        endpoint_id,
        log: policy_state.has(PolicyState::LOG),
    }
}

/// What is known of a packet's flow before policy is asked.
enum Found {
    /// Nothing more to ask.
    Known(Reason),
    /// Ask policy as if this direction opened the flow.
    Ask(Direction, Why),
}

/// What policy is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// A new flow; no entry stands in its place.
    New,
    /// A new flow in the place of an old one, which was answered or not.
    Instead(bool),
    /// A verdict for this packet alone.
    Once,
    /// A tracked flow whose revision has passed; with its state.
    Again(u32),
    /// An ICMP error about a tracked flow whose revision has passed.
    Error,
}

#[inline(always)]
fn packet<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    meta: &Meta,
    direction: Direction,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    work: &mut Work,
) -> Reason {
    if let Err(reason) = read(frame, meta, &mut work.packet, &mut work.head) {
        return reason;
    }
    let guard = endpoint.flags & ENDPOINT_GUARD != 0;
    if let Some(reason) = link_layer(endpoint, direction, guard, &work.packet) {
        return reason;
    }
    if work.packet.is_arp() {
        return arp(env, frame, meta, endpoint, guard, direction, work);
    }
    if work.packet.family == V6 && (is_mapped(&work.packet.src.0) || is_mapped(&work.packet.dst.0))
    {
        return Reason::MappedAddress;
    }
    if let Some(reason) = discovery(
        env,
        frame,
        meta,
        endpoint,
        guard,
        direction,
        policy_state.revision(),
        work,
    ) {
        return reason;
    }
    // Written well before the look-up reads it: a wide load right behind narrow stores waits for them.
    work.flow
        .fill(endpoint.endpoint_id, &work.packet, direction);
    let tag = work.flow.tag();
    if guard {
        let (address, wrong) = match direction {
            Direction::Egress => (work.packet.src, Reason::SpoofedAddress),
            Direction::Ingress => (work.packet.dst, Reason::NotForPod),
        };
        // On a bridge a frame reaches whose MAC address it has, whatever address its sender's policy was asked about.
        let of_a_group =
            direction as u8 == Direction::Ingress as u8 && is_group(work.packet.family, &address);
        if !of_a_group && !is_own(env, endpoint, work.packet.family, &address, work) {
            return wrong;
        }
    }
    let Some(config) = env.config() else {
        return Reason::TableError;
    };
    let now = ticks(env.jiffies());
    if work.packet.fragment == FRAGMENT_LATER {
        return later_fragment(
            env,
            meta,
            endpoint,
            policy_state,
            direction,
            config.hz,
            now,
            work,
        );
    }

    let found = if work.packet.is_icmp_error() {
        icmp_error(
            env,
            frame,
            endpoint,
            policy_state,
            direction,
            config.hz,
            now,
            work,
        )
    } else {
        find(
            env,
            meta,
            endpoint,
            policy_state,
            direction,
            config,
            now,
            tag,
            work,
        )
    };
    let reason = match found {
        Found::Known(reason) => reason,
        Found::Ask(asked, why) => {
            let verdict = judge(env, policy_state, asked, work);
            settle(
                env,
                endpoint,
                policy_state,
                config,
                now,
                asked,
                direction,
                why,
                verdict,
                work,
            )
        }
    };
    if work.packet.fragment == FRAGMENT_FIRST && !reason.is_drop() {
        work.fragment
            .fill(endpoint.endpoint_id, &work.packet, direction);
        let judged = Judged::new(
            policy_state.revision(),
            work.fragment.tag(),
            true,
            direction,
            Kind::Policy,
        );
        work.value = FlowValue {
            judged: judged.0,
            seen: now,
            state: meta.ingress_ifindex,
        };
        env.put_fragment(&work.fragment, &work.value);
    }
    reason
}

/// ::ffff:0:0/96.
#[inline(always)]
const fn is_mapped(addr: &[u32; 4]) -> bool {
    addr[0] == 0 && addr[1] == 0 && addr[2] == 0xffff_u32.to_be()
}

/// The MAC addresses: a pod sends from its own, and is not asked about frames that a bridge floods.
#[inline(always)]
fn link_layer(
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

/// A later fragment follows its first, by the same way: what is let in because the host sends it cannot be completed by others.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
fn later_fragment<E: Env>(
    env: &E,
    meta: &Meta,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    direction: Direction,
    hz: u32,
    now: u32,
    work: &mut Work,
) -> Reason {
    work.fragment
        .fill(endpoint.endpoint_id, &work.packet, direction);
    let Some(value) = env.fragment(&work.fragment) else {
        return Reason::FragmentWithoutFirst;
    };
    let judged = Judged(value.judged);
    if judged.revision() == policy_state.revision()
        && judged.tag() == work.fragment.tag()
        && judged.allowed()
        && value.state == meta.ingress_ifindex
        && !expired(now, value.seen, hz, TIMEOUT_FRAGMENT)
    {
        Reason::LaterFragment
    } else {
        Reason::FragmentWithoutFirst
    }
}

/// An ICMP error passes for a tracked flow that is allowed: the embedded packet came from where the error goes to.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
fn icmp_error<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    direction: Direction,
    hz: u32,
    now: u32,
    work: &mut Work,
) -> Found {
    if let Err(reason) = read_embedded(frame, &work.packet, &mut work.inner, &mut work.buffer) {
        return Found::Known(reason);
    }
    if !work.inner.src.same(&work.packet.dst) {
        return Found::Known(Reason::IcmpUnrelated);
    }
    work.flow
        .fill(endpoint.endpoint_id, &work.inner, direction.reverse());
    let Some(flow) = env.flow(&work.flow) else {
        return Found::Known(Reason::IcmpUnrelated);
    };
    let judged = Judged(flow.judged());
    let (seen, state) = (flow.seen(), flow.state());
    if judged.tag() != work.flow.tag()
        || expired(now, seen, hz, timeout_seconds(work.flow.protocol, state))
    {
        return Found::Known(Reason::IcmpUnrelated);
    }
    if judged.revision() == policy_state.revision() {
        let related = if judged.allowed() {
            Reason::IcmpRelated
        } else {
            Reason::IcmpUnrelated
        };
        return Found::Known(related);
    }
    match judged.kind() {
        Kind::Policy => Found::Ask(judged.opener(), Why::Error),
        Kind::Host => {
            let remote = work.flow.remote;
            let still = is_host(env, work.flow.family, &remote, work);
            Found::Known(if still {
                Reason::IcmpRelated
            } else {
                Reason::IcmpUnrelated
            })
        }
        Kind::Itself => Found::Known(Reason::IcmpRelated),
        Kind::Neighbour => Found::Known(Reason::IcmpUnrelated),
    }
}

/// The one flow look-up that every packet pays for; its key stands in `work.flow`.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
fn find<E: Env>(
    env: &E,
    meta: &Meta,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    direction: Direction,
    config: &Config,
    now: u32,
    tag: u16,
    work: &mut Work,
) -> Found {
    let Some(flow) = env.flow(&work.flow) else {
        return always(
            env,
            meta,
            endpoint,
            policy_state,
            direction,
            config,
            now,
            Why::New,
            work,
        );
    };
    let judged = Judged(flow.judged());
    let (seen, state) = (flow.seen(), flow.state());
    if judged.tag() != tag {
        return always(
            env,
            meta,
            endpoint,
            policy_state,
            direction,
            config,
            now,
            Why::Once,
            work,
        );
    }
    let from_opener = judged.opener() as u8 == direction as u8;
    // No time-out is shorter than what makes a time stamp stale.
    let stale = stale(now, seen, config.hz);
    let timeout = timeout_seconds(work.flow.protocol, state);
    if stale && expired(now, seen, config.hz, timeout)
        || opens_again(&work.packet, from_opener, state)
    {
        let instead = Why::Instead(state & STATE_ANSWERED != 0);
        return always(
            env,
            meta,
            endpoint,
            policy_state,
            direction,
            config,
            now,
            instead,
            work,
        );
    }
    if direction as u8 == Direction::Ingress as u8
        && !admits(env, meta, judged.kind(), &work.packet)
    {
        // The tuple is the host's or the pod's own, but this packet came in by a device.
        return Found::Ask(direction, Why::Once);
    }
    if direction as u8 == Direction::Egress as u8
        && (judged.kind() as u8 == Kind::Itself as u8
            || stale && from_opener && judged.kind() as u8 == Kind::Host as u8)
        && handed_on(env, config, &work.packet)
    {
        // What the host hands on now, or would once its own tracking of this flow has ended, is for policy.
        return Found::Ask(direction, Why::Once);
    }
    let mut allowed = judged.allowed();
    if judged.revision() != policy_state.revision() {
        match judged.kind() {
            Kind::Policy => return Found::Ask(judged.opener(), Why::Again(state)),
            Kind::Host => {
                let remote = work.flow.remote;
                if !is_host(env, work.flow.family, &remote, work) {
                    return Found::Ask(judged.opener(), Why::Again(state));
                }
            }
            Kind::Itself => {}
            Kind::Neighbour => return Found::Known(Reason::TableError),
        }
        allowed = true;
        let again = Judged::new(
            policy_state.revision(),
            work.flow.tag(),
            true,
            judged.opener(),
            judged.kind(),
        );
        work.value = FlowValue {
            judged: again.0,
            seen: now,
            state,
        };
        env.put_flow(&work.flow, &work.value, Write::Replace);
    }
    if allowed {
        if stale {
            flow.set_seen(now);
        }
        touch(
            env,
            endpoint,
            &flow,
            state,
            judged.opener(),
            direction,
            work,
        );
        Found::Known(Reason::Tracked)
    } else {
        // Kept, as refused, until idle: were it gone, the peer's next packet would open it the other way round.
        if stale {
            flow.set_seen(now);
        }
        Found::Known(Reason::FlowRefused)
    }
}

/// Whether a packet of a flow that an always-pass rule admitted comes from where that rule says.
#[inline(always)]
fn admits<E: Env>(env: &E, meta: &Meta, kind: Kind, packet: &Packet) -> bool {
    match kind {
        Kind::Policy => true,
        Kind::Host => local_origin(env, meta, packet),
        Kind::Itself => meta.ingress_ifindex == meta.ifindex,
        Kind::Neighbour => false,
    }
}

/// Made by the host itself, and not re-fragmented by it.
#[inline(always)]
fn local_origin<E: Env>(env: &E, meta: &Meta, packet: &Packet) -> bool {
    (meta.ingress_ifindex == 0 || env.host_path(meta.ingress_ifindex))
        && packet.fragment_header == 0
}

/// Whether a packet of a known tuple opens a new connection.
#[inline(always)]
const fn opens_again(packet: &Packet, from_opener: bool, state: u32) -> bool {
    if packet.opens_sctp() {
        return !from_opener;
    }
    if !packet.is_bare_syn() {
        return false;
    }
    if from_opener {
        // The port is used again; a repeated SYN of a connection that is not over is not that.
        state & (STATE_RST | STATE_FIN_OPENER | STATE_FIN_OTHER) != 0
    } else {
        // Simultaneous open: the opener's own SYN is still unanswered.
        state & STATE_SYN == 0 || state & STATE_REPLIED != 0
    }
}

/// Notes the state after a packet that passes.
#[inline(always)]
fn touch<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    flow: &E::FlowRef,
    state: u32,
    opener: Direction,
    direction: Direction,
    work: &Work,
) {
    let next = next_state(state, &work.packet, direction, opener);
    if next != state {
        flow.set_state(next);
        if next & !state & STATE_ANSWERED != 0 {
            env.count_answered(endpoint.endpoint_index, true);
        }
    }
}

/// The always-pass rules for a new flow; what none of them admits is for policy.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
fn always<E: Env>(
    env: &E,
    meta: &Meta,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    direction: Direction,
    config: &Config,
    now: u32,
    why: Why,
    work: &mut Work,
) -> Found {
    let (kind, reason) = match direction {
        Direction::Ingress => {
            let src = work.packet.src;
            if meta.ingress_ifindex == meta.ifindex {
                if is_own(env, endpoint, work.packet.family, &src, work) {
                    return Found::Known(Reason::PodToItself);
                }
                (Kind::Itself, Reason::PodToItself)
            } else if local_origin(env, meta, &work.packet)
                && is_host(env, work.packet.family, &src, work)
            {
                (Kind::Host, Reason::HostToPod)
            } else {
                return Found::Ask(direction, why);
            }
        }
        Direction::Egress => {
            let dst = work.packet.dst;
            if is_own(env, endpoint, work.packet.family, &dst, work) {
                // Between its own addresses both hooks know it by itself: no record, or a pod could fill the table alone.
                return Found::Known(Reason::PodToItself);
            } else if is_host(env, work.packet.family, &dst, work)
                && host_takes(env, config, &work.packet)
            {
                (Kind::Host, Reason::PodToHost)
            } else {
                return Found::Ask(direction, why);
            }
        }
    };
    let judged = Judged::new(
        policy_state.revision(),
        work.flow.tag(),
        true,
        direction,
        kind,
    );
    Found::Known(record(
        env, endpoint, config, now, judged, why, reason, work,
    ))
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
    !handed_on(env, config, packet) && env.host_socket(packet)
}

/// Whether the host hands on what comes to the port: NodePorts, hostPorts, tunnels.
#[inline(always)]
fn handed_on<E: Env>(env: &E, config: &Config, packet: &Packet) -> bool {
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

/// Carries out what policy answered.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
fn settle<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    policy_state: PolicyState,
    config: &Config,
    now: u32,
    asked: Direction,
    direction: Direction,
    why: Why,
    verdict: Reason,
    work: &mut Work,
) -> Reason {
    let allowed = !verdict.is_drop();
    match why {
        Why::Error => {
            if allowed {
                Reason::IcmpRelated
            } else {
                Reason::IcmpUnrelated
            }
        }
        Why::Once => verdict,
        Why::Again(state) => {
            // Pending says nothing about the flow: it is judged when the policy is known.
            if matches!(verdict, Reason::Pending | Reason::TableError) {
                return verdict;
            }
            let mut next = state;
            if allowed {
                next = next_state(state, &work.packet, direction, asked);
                if next & !state & STATE_ANSWERED != 0 {
                    env.count_answered(endpoint.endpoint_index, true);
                }
            }
            let judged = Judged::new(
                policy_state.revision(),
                work.flow.tag(),
                allowed,
                asked,
                Kind::Policy,
            );
            work.value = FlowValue {
                judged: judged.0,
                seen: now,
                state: next,
            };
            env.put_flow(&work.flow, &work.value, Write::Replace);
            if allowed {
                Reason::Tracked
            } else {
                Reason::FlowRefused
            }
        }
        Why::New | Why::Instead(_) => {
            if !allowed {
                return verdict;
            }
            let judged = Judged::new(
                policy_state.revision(),
                work.flow.tag(),
                true,
                asked,
                Kind::Policy,
            );
            record(env, endpoint, config, now, judged, why, verdict, work)
        }
    }
}

/// Records a new flow that is allowed. What cannot be recorded passes all the same, by another name.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "one inlined body; a struct would go through the 512-byte stack"
)]
fn record<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    config: &Config,
    now: u32,
    judged: Judged,
    why: Why,
    reason: Reason,
    work: &mut Work,
) -> Reason {
    // A stray RST or SYN ACK leaves no state, and neither does an echo reply that nobody asked for.
    let flags = work.packet.tcp_flags;
    if work.packet.protocol == proto::TCP
        && (flags & tcp::RST != 0 || flags & tcp::SYN != 0 && flags & tcp::ACK != 0)
        || work.packet.echo == ECHO_REPLY
    {
        return reason;
    }
    let mut state = 0;
    if work.packet.is_bare_syn() {
        state = STATE_SYN;
    } else if work.packet.protocol == proto::TCP && work.packet.tcp_flags & tcp::FIN != 0 {
        state = STATE_FIN_OPENER;
    }
    work.value = FlowValue {
        judged: judged.0,
        seen: now,
        state,
    };
    match why {
        Why::Instead(answered) => {
            if !env.put_flow(&work.flow, &work.value, Write::Replace) {
                return Reason::TableFull;
            }
            if answered {
                env.count_answered(endpoint.endpoint_index, false);
            }
            reason
        }
        Why::New => {
            let (live, unanswered) = env.share(endpoint.endpoint_index);
            let (all, _) = env.share(0);
            let fair = u64::from(config.fair_share);
            let limit = u64::from(config.flow_limit);
            let short = all >= limit - limit / 4;
            // Whoever may reach the pod can leave flows unanswered; they never take the pod's own half.
            let others = judged.kind() as u8 == Kind::Policy as u8
                && judged.opener() as u8 == Direction::Ingress as u8;
            let most = u64::from(config.unanswered_limit) >> u32::from(others);
            if (short && live >= fair) || all >= limit || unanswered >= most {
                return Reason::ShareFull;
            }
            if create(env, endpoint.endpoint_index, work) {
                reason
            } else {
                Reason::TableFull
            }
        }
        _ => reason,
    }
}

/// Creates the flow `work.flow` with `work.value` and counts it; true also where another CPU was first.
#[inline(always)]
pub(crate) fn create<E: Env>(env: &E, endpoint_index: u32, work: &Work) -> bool {
    if env.put_flow(&work.flow, &work.value, Write::Create) {
        env.count_made(endpoint_index);
        return true;
    }
    env.flow(&work.flow).is_some()
}
