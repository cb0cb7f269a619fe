//! A frame from its Ethernet header on: tags, then the IP header of either family, then the transport header.

use crate::frame::{Frame, HEAD_BYTES, Head, Meta};
use crate::reason::Reason;

use super::ipv4::read_v4;
use super::ipv6::read_v6;
use super::number::proto;
use super::transport::read_transport;
use super::{FRAGMENT_FIRST, FRAGMENT_LATER, FRAGMENT_NONE, Mac, Packet};
use crate::layout::{V4, V6};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// VLAN id, without priority.
const VLAN_ID: u16 = 0x0fff;

/// A GSO packet above this has no length in its IP header.
const MAX_LENGTH: u32 = 0xffff;

#[inline(always)]
pub(super) fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

/// Where the transport header stands.
#[derive(Clone, Copy)]
pub(super) enum Transport {
    /// In the head, behind an IPv4 header without options.
    BehindV4,
    /// In the head, behind an IPv6 header without extension headers.
    BehindV6,
    /// Somewhere in the frame.
    Far,
}

/// Reads a frame into `packet`; `head` is working memory.
///
/// # Errors
/// The reason by which the frame is dropped.
#[inline(always)]
pub fn read<F: Frame>(
    frame: &F,
    meta: &Meta,
    packet: &mut Packet,
    head: &mut Head,
) -> Result<(), Reason> {
    packet.forget();
    let mut l3 = 14u32;
    if !read_head(frame, meta.len, l3, head) {
        return Err(Reason::Truncated);
    }
    let ((_, d0), (d1, d2)) = (head.halves(0), head.halves(1));
    let ((s0, s1), (s2, ethertype)) = (head.halves(2), head.halves(3));
    packet.dst_mac = Mac([d0, d1, d2]);
    packet.src_mac = Mac([s0, s1, s2]);
    let mut ethertype = u16::from_be(ethertype);

    // Priority tags (id 0) are stripped by the receiver and the packet is delivered; tags with an id are not ours.
    if meta.vlan_present && meta.vlan_tci & VLAN_ID != 0 {
        return Err(Reason::Vlan);
    }
    if ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ {
        l3 = 18;
        if meta.len < l3 {
            return Err(Reason::Truncated);
        }
        let tag = head.number(Head::IP);
        ethertype = tag as u16;
        if (tag >> 16) as u16 & VLAN_ID != 0
            || ethertype == ETHERTYPE_VLAN
            || ethertype == ETHERTYPE_QINQ
        {
            return Err(Reason::Vlan);
        }
        // The head again, without the tag: what follows lies where it does without one.
        if !read_head(frame, meta.len, l3, head) {
            return Err(Reason::Truncated);
        }
    }

    let transport = match ethertype {
        ETHERTYPE_IPV4 => read_v4(frame, meta, l3, packet, head)?,
        ETHERTYPE_IPV6 => read_v6(frame, meta, l3, packet, head)?,
        ETHERTYPE_ARP => {
            packet.l4 = l3;
            packet.end = meta.len;
            return Ok(());
        }
        _ => return Err(Reason::UnknownEthertype),
    };
    read_transport(frame, transport, packet, head)
}

/// Reads the head so that what begins at `l3` lies at [`Head::IP`].
#[inline(always)]
fn read_head<F: Frame>(frame: &F, len: u32, l3: u32, head: &mut Head) -> bool {
    if len < l3 {
        return false;
    }
    let left = len - (l3 - 14);
    frame.head(
        l3 - 14,
        if left < HEAD_BYTES { left } else { HEAD_BYTES },
        head,
    )
}

/// End of the IP packet in the frame, from its total length.
#[inline(always)]
pub(super) fn end_of(len: u32, gso: bool, l3: u32, total: u32, header: u32) -> Result<u32, Reason> {
    if len < l3 + header {
        return Err(Reason::Truncated);
    }
    let carried = len - l3;
    if gso {
        // The header of a GSO packet tells the whole length, or 0 where that does not fit.
        if total == 0 && carried > MAX_LENGTH || total == carried {
            return Ok(len);
        }
        return Err(Reason::BadHeader);
    }
    if total < header {
        return Err(Reason::BadHeader);
    }
    if total > carried {
        return Err(Reason::Truncated);
    }
    Ok(l3 + total)
}

#[inline(always)]
pub(super) fn note_fragment(
    packet: &mut Packet,
    offset_units: u16,
    more: bool,
) -> Result<(), Reason> {
    if offset_units != 0 {
        packet.fragment = FRAGMENT_LATER;
        // A later fragment must not lie over the ports and flags of the first (RFC 1858, RFC 3128).
        if u32::from(offset_units) * 8 < 24 && packet.family == V4 && packet.protocol == proto::TCP
        {
            return Err(Reason::TinyFragment);
        }
        if offset_units < 3 && packet.family == V6 {
            return Err(Reason::TinyFragment);
        }
    } else {
        packet.fragment = if more { FRAGMENT_FIRST } else { FRAGMENT_NONE };
    }
    Ok(())
}
