//! Tracked flows: their verdict, their states, their time-outs.

use crate::layout::{
    Direction, ECHO_ASKED_BY_OTHER, ECHO_ASKED_BY_POD, FlowKey, FragmentKey, ICMP_PAIR,
};
use crate::packet::{ECHO_NONE, ECHO_OTHER, ECHO_REQUEST, Packet, proto, tcp};

/// Times in flow values count in units of so many jiffies (a power of two): they come round after years.
pub const TICK_JIFFIES: u64 = 16;

/// Both sides have gone on: in TCP the opener after the other side's answer (a SYN that got its SYN ACK is not assured by
/// it), elsewhere the opener after the answer and the other side after that (one question and its answer are not).
pub const STATE_ASSURED: u32 = 1;
/// The opener has sent FIN.
pub const STATE_FIN_OPENER: u32 = 2;
/// The other side has sent FIN.
pub const STATE_FIN_OTHER: u32 = 4;
/// Somebody has sent RST, and not both sides have gone on since.
pub const STATE_RST: u32 = 8;
/// The other side has sent something.
pub const STATE_REPLIED: u32 = 16;
/// The opener began with a bare SYN.
pub const STATE_SYN: u32 = 32;
/// The opener has gone on after the other side's answer.
pub const STATE_GONE_ON: u32 = 64;
/// The opener has sent something since the RST.
pub const STATE_OPENER_AFTER_RST: u32 = 128;
/// The other side has sent something since the RST.
pub const STATE_OTHER_AFTER_RST: u32 = 256;

/// Seconds a TCP connection may be idle.
pub const TIMEOUT_TCP: u32 = 5 * 24 * 3600;
/// Seconds a TCP connection may be idle when one side has closed.
pub const TIMEOUT_TCP_HALF_CLOSED: u32 = 3600;
/// Seconds a TCP connection that is unanswered, closed by both or reset is kept.
pub const TIMEOUT_TCP_SHORT: u32 = 60;
/// Seconds any other flow may be idle.
pub const TIMEOUT_OTHER: u32 = 180;
/// Seconds a question over UDP or an ICMP echo, with its answer or without, is kept.
pub const TIMEOUT_ONE_EXCHANGE: u32 = 30;
/// Seconds in which the fragments of a packet must come.
pub const TIMEOUT_FRAGMENT: u32 = 30;

/// What admitted a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Policy, or the mode.
    Policy = 0,
    /// The always-pass rules between the host and the pod.
    Host = 1,
    /// The always-pass rule of the pod to itself.
    Hairpin = 2,
    /// A neighbour on the link has sent a neighbour message.
    Neighbour = 3,
}

/// One word that tells all that decides about a flow: revision, verdict, opener, kind, and a tag of the key.
/// A value that is taken from under a reader is told by the tag, and one of another endpoint by the revision too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowVerdict(pub u64);

impl FlowVerdict {
    const ALLOWED: u64 = 1;
    const OPENER_EGRESS: u64 = 2;
    const KIND_SHIFT: u32 = 2;
    const TAG_SHIFT: u32 = 8;
    const REVISION_SHIFT: u32 = 24;

    /// Put together.
    #[inline(always)]
    pub const fn new(
        revision: u64,
        tag: u16,
        allowed: bool,
        opener: Direction,
        kind: Kind,
    ) -> Self {
        let opener = match opener {
            Direction::Ingress => 0,
            Direction::Egress => Self::OPENER_EGRESS,
        };
        Self(
            (revision << Self::REVISION_SHIFT)
                | ((tag as u64) << Self::TAG_SHIFT)
                | ((kind as u64) << Self::KIND_SHIFT)
                | opener
                | if allowed { Self::ALLOWED } else { 0 },
        )
    }

    /// The revision under which it was evaluated.
    #[inline(always)]
    pub const fn revision(self) -> u64 {
        self.0 >> Self::REVISION_SHIFT
    }

    /// The tag of the key.
    #[inline(always)]
    pub const fn tag(self) -> u16 {
        (self.0 >> Self::TAG_SHIFT) as u16
    }

    /// The verdict.
    #[inline(always)]
    pub const fn allowed(self) -> bool {
        self.0 & Self::ALLOWED != 0
    }

    /// The direction that opened the flow.
    #[inline(always)]
    pub const fn opener(self) -> Direction {
        if self.0 & Self::OPENER_EGRESS != 0 {
            Direction::Egress
        } else {
            Direction::Ingress
        }
    }

    /// What admitted it.
    #[inline(always)]
    pub const fn kind(self) -> Kind {
        match (self.0 >> Self::KIND_SHIFT) & 3 {
            0 => Kind::Policy,
            1 => Kind::Host,
            2 => Kind::Hairpin,
            _ => Kind::Neighbour,
        }
    }
}

impl FlowKey {
    /// Fills the key of a packet's flow.
    #[inline(always)]
    pub fn fill(&mut self, endpoint_id: u32, packet: &Packet, direction: Direction) {
        self.endpoint_id = endpoint_id;
        self.family = packet.family;
        self.protocol = packet.protocol;
        self.echo = if packet.echo == ECHO_NONE {
            0
        } else if packet.echo == ECHO_OTHER {
            ICMP_PAIR + (packet.message_type as u16).div_ceil(2)
        } else if (packet.echo == ECHO_REQUEST) == (direction as u8 == Direction::Egress as u8) {
            ECHO_ASKED_BY_POD
        } else {
            ECHO_ASKED_BY_OTHER
        };
        match direction {
            Direction::Ingress => {
                self.local_port_be = packet.dst_port_be;
                self.remote_port_be = packet.src_port_be;
                self.local = packet.dst;
                self.remote = packet.src;
            }
            Direction::Egress => {
                self.local_port_be = packet.src_port_be;
                self.remote_port_be = packet.dst_port_be;
                self.local = packet.src;
                self.remote = packet.dst;
            }
        }
    }

    /// The tag that goes into the value.
    #[inline(always)]
    pub const fn tag(&self) -> u16 {
        let ports = ((self.local_port_be as u32) << 16) | self.remote_port_be as u32;
        let (remote, local) = (&self.remote.0, &self.local.0);
        // Cheap, for every tracked packet pays for it: the pod's few addresses differ in their first or last word.
        let mixed = (ports ^ remote[0])
            .wrapping_mul(0x9e37_79b1)
            .wrapping_add((remote[1] ^ local[0]).wrapping_mul(0x85eb_ca77))
            .wrapping_add((remote[2] ^ local[3]).wrapping_mul(0xc2b2_ae3d))
            .wrapping_add(
                (remote[3] ^ (((self.echo as u32) << 8) | self.protocol as u32))
                    .wrapping_mul(0x27d4_eb2f),
            );
        (mixed ^ (mixed >> 16)) as u16
    }
}

impl FragmentKey {
    /// Fills the key of a fragment. IPv6 identifies by addresses alone: the later fragments' next header need not be
    /// the transport protocol.
    #[inline(always)]
    pub fn fill(&mut self, endpoint_id: u32, packet: &Packet, direction: Direction) {
        self.endpoint_id = endpoint_id;
        self.id_be = packet.fragment_id_be;
        self.family = packet.family;
        self.protocol = if packet.family == crate::layout::V4 {
            packet.protocol
        } else {
            0
        };
        self.direction = direction as u8;
        self.pad = 0;
        self.src = packet.src;
        self.dst = packet.dst;
    }

    /// The tag that goes into the value.
    #[inline(always)]
    pub const fn tag(&self) -> u16 {
        let mixed =
            self.id_be.wrapping_mul(0x9e37_79b1) ^ self.src.mix() ^ self.dst.mix().rotate_left(7);
        (mixed ^ (mixed >> 16)) as u16
    }
}

/// Time in ticks from jiffies.
#[inline(always)]
pub const fn ticks(jiffies: u64) -> u32 {
    (jiffies / TICK_JIFFIES) as u32
}

/// Whether a TCP connection has been reset or closed by both sides.
#[inline(always)]
pub const fn is_closing(state: u32) -> bool {
    let both = STATE_FIN_OPENER | STATE_FIN_OTHER;
    state & STATE_RST != 0 || state & both == both
}

/// Seconds after which an idle flow has expired.
#[inline(always)]
pub const fn timeout_seconds(protocol: u8, state: u32) -> u32 {
    if protocol != proto::TCP {
        let short = matches!(protocol, proto::UDP | proto::ICMP | proto::ICMPV6);
        return if short && state & STATE_ASSURED == 0 {
            TIMEOUT_ONE_EXCHANGE
        } else {
            TIMEOUT_OTHER
        };
    }
    if state & STATE_ASSURED == 0 || is_closing(state) {
        TIMEOUT_TCP_SHORT
    } else if state & (STATE_FIN_OPENER | STATE_FIN_OTHER) != 0 {
        TIMEOUT_TCP_HALF_CLOSED
    } else {
        TIMEOUT_TCP
    }
}

/// Whether a flow is past its time-out: an expired flow is ignored at look-up.
#[inline(always)]
pub const fn expired(now: u32, seen: u32, hz: u32, seconds: u32) -> bool {
    let age = now.wrapping_sub(seen) as u64 * TICK_JIFFIES;
    // A time stamp from another CPU may lie a little ahead.
    age > seconds as u64 * hz as u64 && now.wrapping_sub(seen) < u32::MAX / 2
}

/// Whether the time of a flow is to be written again: not for each packet, or one hot flow bounces a cache line
/// between CPUs.
#[inline(always)]
pub const fn stale(now: u32, seen: u32, hz: u32) -> bool {
    now.wrapping_sub(seen) as u64 * TICK_JIFFIES >= hz as u64
        && now.wrapping_sub(seen) < u32::MAX / 2
}

/// The state after a packet in `direction` of a flow that `opener` opened.
#[inline(always)]
pub const fn next_state(
    state: u32,
    packet: &Packet,
    direction: Direction,
    opener: Direction,
) -> u32 {
    let from_opener = direction as u8 == opener as u8;
    if packet.protocol == proto::TCP {
        return next_tcp_state(state, packet.tcp_flags, from_opener);
    }
    if from_opener {
        if state & STATE_REPLIED != 0 {
            state | STATE_GONE_ON
        } else {
            state
        }
    } else if state & STATE_GONE_ON != 0 {
        state | STATE_REPLIED | STATE_ASSURED
    } else {
        state | STATE_REPLIED
    }
}

#[inline(always)]
const fn next_tcp_state(state: u32, flags: u8, from_opener: bool) -> u32 {
    const AFTER_RST: u32 = STATE_OPENER_AFTER_RST | STATE_OTHER_AFTER_RST;
    let mut next = state;
    if flags & tcp::RST != 0 {
        next = (next | STATE_RST) & !AFTER_RST;
    } else if state & STATE_RST != 0 {
        next |= if from_opener {
            STATE_OPENER_AFTER_RST
        } else {
            STATE_OTHER_AFTER_RST
        };
        // It did not end the connection: somebody else sent it, or nobody took it.
        if next & AFTER_RST == AFTER_RST {
            next &= !(STATE_RST | AFTER_RST);
        }
    }
    if flags & tcp::FIN != 0 {
        next |= if from_opener {
            STATE_FIN_OPENER
        } else {
            STATE_FIN_OTHER
        };
    }
    let goes_on = flags & (tcp::SYN | tcp::RST) == 0;
    if !from_opener {
        next |= STATE_REPLIED;
        // A connection that was found in its course: a stranger's segment is answered by RST.
        if goes_on && state & STATE_SYN == 0 {
            next |= STATE_ASSURED;
        }
    } else if goes_on && state & STATE_REPLIED != 0 {
        next |= STATE_ASSURED;
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Addr, V4};

    #[test]
    fn a_verdict_comes_back() {
        for opener in [Direction::Ingress, Direction::Egress] {
            for kind in [Kind::Policy, Kind::Host, Kind::Hairpin, Kind::Neighbour] {
                for allowed in [false, true] {
                    let j = FlowVerdict::new((1 << 40) - 2, 0xbeef, allowed, opener, kind);
                    assert_eq!(
                        (j.revision(), j.tag(), j.allowed(), j.opener(), j.kind()),
                        ((1 << 40) - 2, 0xbeef, allowed, opener, kind)
                    );
                }
            }
        }
    }

    #[test]
    fn both_directions_have_one_key() {
        let mut there = Packet::EMPTY;
        (there.family, there.protocol) = (V4, proto::TCP);
        (there.src, there.dst) = (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2]));
        (there.src_port_be, there.dst_port_be) = (1, 2);
        let mut back = there;
        (back.src, back.dst) = (there.dst, there.src);
        (back.src_port_be, back.dst_port_be) = (2, 1);
        let (mut a, mut b) = (FlowKey::default(), FlowKey::default());
        a.fill(7, &there, Direction::Egress);
        b.fill(7, &back, Direction::Ingress);
        assert_eq!(a, b);
    }

    #[test]
    fn time_outs_survive_the_wrap_and_clocks_ahead() {
        let hz = 250;
        let tick = |s: u32| s * hz / TICK_JIFFIES as u32;
        assert!(!expired(tick(100), tick(100) + 3, hz, 60));
        assert!(expired(5, 5u32.wrapping_sub(tick(62)), hz, 60));
        assert!(!expired(5, 5u32.wrapping_sub(tick(58)), hz, 60));
    }
}
