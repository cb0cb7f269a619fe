//! The transport header: ports, TCP flags, ICMP type and identifier, SCTP's first chunk.

use crate::frame::{Frame, Head};
use crate::layout::V4;
use crate::reason::Reason;

use super::number::{proto, tcp};
use super::read::Transport;
use super::{
    ECHO_NONE, ECHO_OTHER, ECHO_REPLY, ECHO_REQUEST, FRAGMENT_FIRST, FRAGMENT_LATER, FRAGMENT_NONE,
    Packet, SCTP_INIT,
};

/// Bytes of the transport header that must be there.
#[inline(always)]
pub(super) const fn least_transport(protocol: u8) -> u32 {
    match protocol {
        proto::TCP => 20,
        proto::SCTP | proto::DCCP => 12,
        proto::UDP | proto::UDPLITE | proto::ICMP | proto::ICMPV6 => 8,
        _ => 0,
    }
}

/// What tells one packet of a flow from another.
struct Marks {
    tcp_flags: u8,
    message_type: u8,
    echo: u8,
}

/// Reads ports, flags, type and identifier.
#[inline(always)]
pub(super) fn read_transport<F: Frame>(
    frame: &F,
    transport: Transport,
    packet: &mut Packet,
    head: &mut Head,
) -> Result<(), Reason> {
    let mut marks = Marks {
        tcp_flags: 0,
        message_type: 0,
        echo: ECHO_NONE,
    };
    let result = read_marks(frame, transport, packet, head, &mut marks);
    packet.tcp_flags = marks.tcp_flags;
    packet.message_type = marks.message_type;
    packet.echo = marks.echo;
    result
}

#[inline(always)]
fn read_marks<F: Frame>(
    frame: &F,
    transport: Transport,
    packet: &mut Packet,
    head: &mut Head,
    marks: &mut Marks,
) -> Result<(), Reason> {
    if packet.l4 > packet.end {
        return Err(Reason::Truncated);
    }
    if packet.fragment == FRAGMENT_LATER {
        return Ok(());
    }
    // An IPv6 protocol in IPv4 and the other way round has no meaning that could be judged by its ports.
    let least = least_transport(packet.protocol);
    if packet.end - packet.l4 < least {
        return Err(if packet.fragment == FRAGMENT_FIRST {
            Reason::TinyFragment
        } else {
            Reason::Truncated
        });
    }
    if least == 0 {
        return Ok(());
    }
    // Where the head holds the header, it holds all that is read of it: `end` is within the frame.
    let behind_v6 = match transport {
        Transport::BehindV4 => false,
        Transport::BehindV6 => true,
        Transport::Far => {
            load_transport(frame, packet, head)?;
            false
        }
    };
    // One index or the other, not a computed one: the verifier of 5.10 need not follow it.
    let ((first, second), third, fourth) = if behind_v6 {
        (
            head.halves(Head::BEHIND_V6),
            head.halves(Head::BEHIND_V6 + 1),
            head.halves(Head::BEHIND_V6 + 3),
        )
    } else {
        (
            head.halves(Head::BEHIND_V4),
            head.halves(Head::BEHIND_V4 + 1),
            head.halves(Head::BEHIND_V4 + 3),
        )
    };
    if packet.protocol == proto::ICMP || packet.protocol == proto::ICMPV6 {
        marks.message_type = first.to_ne_bytes()[0];
        marks.echo = note_echo(packet, marks.message_type, third.0);
        return Ok(());
    }
    packet.src_port_be = first;
    packet.dst_port_be = second;
    if packet.protocol == proto::TCP {
        // The header's own length, and flags that no stack sends together.
        let [offset, flags] = fourth.0.to_ne_bytes();
        let header = u32::from(offset >> 4) * 4;
        if header < 20 || header > packet.end - packet.l4 && packet.fragment == FRAGMENT_NONE {
            return Err(Reason::BadHeader);
        }
        marks.tcp_flags = flags;
        if flags & tcp::SYN != 0 && flags & (tcp::FIN | tcp::RST) != 0 {
            return Err(Reason::BadHeader);
        }
    }
    if packet.protocol == proto::SCTP {
        marks.message_type = if has_chunk(packet) {
            fourth.0.to_ne_bytes()[0]
        } else if packet.fragment == FRAGMENT_FIRST {
            SCTP_INIT
        } else {
            0
        };
    }
    Ok(())
}

/// Whether an SCTP packet has the header of a chunk.
#[inline(always)]
const fn has_chunk(packet: &Packet) -> bool {
    packet.end - packet.l4 >= 16
}

/// Loads what is read of a transport header that is not in the head, to where it stands behind a plain IPv4 header.
#[inline(always)]
fn load_transport<F: Frame>(frame: &F, packet: &Packet, head: &mut Head) -> Result<(), Reason> {
    let mut h = [0u8; 8];
    if !frame.load(packet.l4, &mut h) {
        return Err(Reason::Truncated);
    }
    head.0[Head::BEHIND_V4] = u32::from_ne_bytes([h[0], h[1], h[2], h[3]]);
    head.0[Head::BEHIND_V4 + 1] = u32::from_ne_bytes([h[4], h[5], h[6], h[7]]);
    if packet.protocol == proto::TCP || packet.protocol == proto::SCTP && has_chunk(packet) {
        let mut h = [0u8; 4];
        if !frame.load(packet.l4 + 12, &mut h) {
            return Err(Reason::Truncated);
        }
        head.0[Head::BEHIND_V4 + 3] = u32::from_ne_bytes(h);
    }
    Ok(())
}

/// The identifier of an echo is the port of the side that asks; the mark of the message's type.
#[inline(always)]
pub(super) fn note_echo(packet: &mut Packet, message_type: u8, id: u16) -> u8 {
    if !packet.is_icmp() {
        return ECHO_NONE;
    }
    let (request, reply) = if packet.family == V4 {
        (8, 0)
    } else {
        (128, 129)
    };
    if message_type == request {
        packet.src_port_be = id;
        ECHO_REQUEST
    } else if message_type == reply {
        packet.dst_port_be = id;
        ECHO_REPLY
    } else {
        ECHO_OTHER
    }
}
