//! Frames, put together from the inside out, right by default (lengths, checksums) and wrong where asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use verdict::packet::proto;
use verdict::{Frame, Meta};

/// The bytes of a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Frame for Bytes {
    fn load<const N: usize>(&self, offset: u32, into: &mut [u8; N]) -> bool {
        let from = offset as usize;
        match from.checked_add(N).and_then(|end| self.0.get(from..end)) {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

/// A frame as it stands at a hook: its bytes and what the kernel holds beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// The bytes, from the Ethernet header on.
    pub bytes: Bytes,
    /// Tag control information of an offloaded VLAN tag.
    pub tag_beside: Option<u16>,
    /// Segment size of a GSO packet, 0 for others.
    pub gso_size: u16,
    /// Length of the frame where it is more than is written out here (over-page and BIG TCP packets).
    pub long: Option<u32>,
}

impl Wire {
    /// What the kernel tells about the frame.
    pub fn meta(&self, ifindex: u32, ingress_ifindex: u32) -> Meta {
        Meta {
            ifindex,
            ingress_ifindex,
            to_host: false,
            len: self.long.unwrap_or(self.bytes.0.len() as u32),
            gso: self.gso_size != 0,
            vlan_present: self.tag_beside.is_some(),
            vlan_tci: self.tag_beside.unwrap_or(0),
        }
    }

    /// Why `BPF_PROG_TEST_RUN` cannot carry it, if it cannot.
    pub fn not_carried(&self) -> Option<&'static str> {
        let least = match self.bytes.0.get(12..14) {
            Some([0x08, 0x00]) => 34,
            Some([0x86, 0xdd]) => 54,
            _ => 15,
        };
        if self.tag_beside.is_some() {
            Some("an offloaded tag")
        } else if self.long.is_some() {
            Some("a frame of more than a page")
        } else if self.bytes.0.len() < least {
            Some("a frame without a whole IP header")
        } else {
            None
        }
    }
}

/// The internet checksum over the parts, put one after the other (each but the last of even length).
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An Ethernet header and what follows it.
pub fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

/// An 802.1Q or 802.1ad tag to stand behind the MAC addresses: its own ethertype comes from the header before.
pub fn tag(tci: u16, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&tci.to_be_bytes()[..], &ethertype.to_be_bytes(), payload].concat()
}

/// An ARP packet for IPv4 over Ethernet.
pub fn arp(operation: u16, sender: ([u8; 6], Ipv4Addr), target: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let mut out = vec![0, 1, 8, 0, 6, 4];
    out.extend(operation.to_be_bytes());
    out.extend(sender.0);
    out.extend(sender.1.octets());
    out.extend(target.0);
    out.extend(target.1.octets());
    out
}

/// An IPv4 header.
#[derive(Clone, Debug)]
pub struct V4 {
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Protocol.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Identification.
    pub id: u16,
    /// Fragment offset in units of eight bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// Options; filled up to four bytes.
    pub options: Vec<u8>,
    /// Version and header length, where they are to be wrong.
    pub first_byte: Option<u8>,
    /// Total length, where it is to be wrong.
    pub total: Option<u16>,
}

impl V4 {
    /// A plain header.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8) -> Self {
        Self {
            src,
            dst,
            protocol,
            ttl: 64,
            id: 0,
            offset: 0,
            more: false,
            options: Vec::new(),
            first_byte: None,
            total: None,
        }
    }

    /// The header and what follows it.
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let header = 20 + options.len();
        let mut out = vec![self.first_byte.unwrap_or(0x40 | (header / 4) as u8), 0];
        out.extend(
            self.total
                .unwrap_or((header + payload.len()) as u16)
                .to_be_bytes(),
        );
        out.extend(self.id.to_be_bytes());
        out.extend((self.offset | if self.more { 0x2000 } else { 0 }).to_be_bytes());
        out.extend([self.ttl, self.protocol, 0, 0]);
        out.extend(self.src.octets());
        out.extend(self.dst.octets());
        out.extend(options);
        let sum = checksum(&[&out]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend(payload);
        out
    }
}

/// An IPv6 header with its extension headers.
#[derive(Clone, Debug)]
pub struct V6 {
    /// Source.
    pub src: Ipv6Addr,
    /// Destination.
    pub dst: Ipv6Addr,
    /// The header behind the extension headers.
    pub protocol: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Extension headers in order: number, and bytes whose first stands for the next header.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Payload length, where it is to be wrong.
    pub payload: Option<u16>,
    /// Version, where it is to be wrong.
    pub first_byte: Option<u8>,
}

impl V6 {
    /// A plain header.
    pub fn new(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8) -> Self {
        Self {
            src,
            dst,
            protocol,
            hop_limit: 64,
            extensions: Vec::new(),
            payload: None,
            first_byte: None,
        }
    }

    /// The header, the extension headers and what follows them.
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let following = self
            .extensions
            .iter()
            .skip(1)
            .map(|e| e.0)
            .chain([self.protocol]);
        let mut body = Vec::new();
        for ((_, bytes), next) in self.extensions.iter().zip(following) {
            let at = body.len();
            body.extend(bytes);
            body[at] = next;
        }
        body.extend(payload);
        let mut out = vec![self.first_byte.unwrap_or(0x60), 0, 0, 0];
        out.extend(self.payload.unwrap_or(body.len() as u16).to_be_bytes());
        out.extend([
            self.extensions.first().map_or(self.protocol, |e| e.0),
            self.hop_limit,
        ]);
        out.extend(self.src.octets());
        out.extend(self.dst.octets());
        out.extend(body);
        out
    }

    /// Hop-by-hop or destination options of `units` times eight bytes, all of it padding.
    pub fn options(number: u8, units: u8) -> (u8, Vec<u8>) {
        let units = usize::from(units.max(1));
        let mut bytes = vec![0, (units - 1) as u8];
        while bytes.len() < units * 8 {
            // PadN of six bytes, then of as many as are left.
            let left = (units * 8 - bytes.len()).min(8) - 2;
            bytes.extend([1, left as u8]);
            bytes.extend(vec![0; left]);
        }
        (number, bytes)
    }

    /// A routing header of a type, with one address and so many segments left.
    pub fn routing(kind: u8, left: u8) -> (u8, Vec<u8>) {
        let mut bytes = vec![0, 2, kind, left, 0, 0, 0, 0];
        bytes.extend(Ipv6Addr::new(0xfd, 0, 0, 0, 0, 0, 0, 99).octets());
        (proto::ROUTING, bytes)
    }

    /// A fragment header.
    pub fn fragment(offset_units: u16, more: bool, id: u32) -> (u8, Vec<u8>) {
        let mut bytes = vec![0, 0];
        bytes.extend(((offset_units << 3) | u16::from(more)).to_be_bytes());
        bytes.extend(id.to_be_bytes());
        (proto::FRAGMENT, bytes)
    }

    /// An authentication header with a check value of twelve bytes.
    pub fn authentication() -> (u8, Vec<u8>) {
        let mut bytes = vec![0, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
        bytes.extend([0; 12]);
        (proto::AH, bytes)
    }
}

/// Fills in the checksum of a transport header that stands in a packet between two addresses.
pub fn fill_checksum(protocol: u8, src: IpAddr, dst: IpAddr, l4: &mut [u8]) {
    let at = match protocol {
        proto::TCP => 16,
        proto::UDP | proto::UDPLITE => 6,
        proto::ICMP | proto::ICMPV6 => 2,
        _ => return,
    };
    if l4.len() < at + 2 {
        return;
    }
    l4[at..at + 2].fill(0);
    let length = (l4.len() as u32).to_be_bytes();
    let sum = match (src, dst) {
        _ if protocol == proto::ICMP => checksum(&[l4]),
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            checksum(&[&s.octets(), &d.octets(), &length, &[0, protocol], l4])
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            checksum(&[&s.octets(), &d.octets(), &length, &[0, protocol], l4])
        }
        _ => return,
    };
    let sum = if sum == 0 && protocol == proto::UDP {
        0xffff
    } else {
        sum
    };
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A TCP header of `words` times four bytes (NOPs where it has options) and data.
pub fn tcp(src: u16, dst: u16, flags: u8, words: u8, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(src.to_be_bytes());
    out.extend(dst.to_be_bytes());
    out.extend([
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        if flags & verdict::packet::tcp::ACK == 0 {
            0
        } else {
            1
        },
    ]);
    out.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    out.resize(out.len() + usize::from(words.saturating_sub(5)) * 4, 1);
    out.extend(data);
    out
}

/// A UDP header and data.
pub fn udp(src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
    [
        &src.to_be_bytes()[..],
        &dst.to_be_bytes(),
        &((8 + data.len()) as u16).to_be_bytes(),
        &[0, 0],
        data,
    ]
    .concat()
}

/// The head of an SCTP packet with an INIT chunk that is cut short.
pub fn sctp(src: u16, dst: u16, data: &[u8]) -> Vec<u8> {
    [
        &src.to_be_bytes()[..],
        &dst.to_be_bytes(),
        &[0, 0, 0, 1, 0, 0, 0, 0],
        data,
    ]
    .concat()
}

/// An ICMP or ICMPv6 message.
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0][..], &rest, data].concat()
}
