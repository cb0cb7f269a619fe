//! The packet that an ICMP error carries.

use crate::frame::Frame;
use crate::layout::{Addr, V4};
use crate::reason::Reason;

use super::ipv6::{is_extension, read_extensions};
use super::read::be16;
use super::transport::{least_transport, note_echo};
use super::{ECHO_NONE, ECHO_REPLY, ECHO_REQUEST, FRAGMENT_LATER, FRAGMENT_NONE, Packet};

/// Reads the packet embedded in the ICMP error that `outer` is: its addresses, protocol and ports.
/// The embedded packet is cut off, so its lengths mean nothing.
///
/// # Errors
/// [`Reason::IcmpUnrelated`] where it cannot be told what the error is about.
#[inline(always)]
pub fn read_embedded<F: Frame>(
    frame: &F,
    outer: &Packet,
    inner: &mut Packet,
    buffer: &mut [u8; 40],
) -> Result<(), Reason> {
    inner.forget();
    inner.echo = ECHO_NONE;
    let l3 = outer.l4 + 8;
    inner.end = outer.end;
    inner.family = outer.family;
    if outer.family == V4 {
        let mut h = [0u8; 20];
        if l3 + 20 > outer.end || !frame.load(l3, &mut h) {
            return Err(Reason::IcmpUnrelated);
        }
        let header = u32::from(h[0] & 0x0f) * 4;
        if h[0] >> 4 != 4 || header < 20 || be16(h[6], h[7]) & 0x1fff != 0 {
            return Err(Reason::IcmpUnrelated);
        }
        inner.protocol = h[9];
        inner.src = Addr::v4([h[12], h[13], h[14], h[15]]);
        inner.dst = Addr::v4([h[16], h[17], h[18], h[19]]);
        inner.l4 = l3 + header;
    } else {
        let h: &mut [u8; 40] = buffer;
        if l3 + 40 > outer.end || !frame.load(l3, h) {
            return Err(Reason::IcmpUnrelated);
        }
        if h[0] >> 4 != 6 {
            return Err(Reason::IcmpUnrelated);
        }
        inner.src = Addr::v6([
            h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15], h[16], h[17], h[18], h[19],
            h[20], h[21], h[22], h[23],
        ]);
        inner.dst = Addr::v6([
            h[24], h[25], h[26], h[27], h[28], h[29], h[30], h[31], h[32], h[33], h[34], h[35],
            h[36], h[37], h[38], h[39],
        ]);
        inner.protocol = h[6];
        inner.l4 = l3 + 40;
        // What was too big is often a first fragment, or has options; later fragments have no ports.
        inner.fragment = FRAGMENT_NONE;
        if is_extension(inner.protocol)
            && (read_extensions(frame, inner).is_err() || inner.fragment == FRAGMENT_LATER)
        {
            return Err(Reason::IcmpUnrelated);
        }
    }
    if least_transport(inner.protocol) == 0 {
        return Ok(());
    }
    let mut p = [0u8; 8];
    if inner.l4 + 8 > outer.end || !frame.load(inner.l4, &mut p) {
        return Err(Reason::IcmpUnrelated);
    }
    if inner.is_icmp() {
        inner.echo = note_echo(inner, p[0], u16::from_ne_bytes([p[4], p[5]]));
        if inner.echo != ECHO_REQUEST && inner.echo != ECHO_REPLY {
            // An error about an error or a neighbour message is nobody's.
            return Err(Reason::IcmpUnrelated);
        }
    } else {
        inner.src_port_be = u16::from_ne_bytes([p[0], p[1]]);
        inner.dst_port_be = u16::from_ne_bytes([p[2], p[3]]);
    }
    Ok(())
}
