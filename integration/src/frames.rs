//! Ethernet frames for the raw sender and the capture: built and read here, independently of podgate's own packet reader.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::wire::Stamp;

/// A hardware address.
pub type Mac = [u8; 6];

/// IP protocol numbers used here.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// What a frame says, as far as a test asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// `arp`, `ipv4`, `ipv6` or the number.
    pub kind: String,
    /// Network source (for ARP the sender's).
    pub source: Option<IpAddr>,
    /// Network destination (for ARP the target's).
    pub destination: Option<IpAddr>,
    /// IP protocol after extension headers known here.
    pub protocol: Option<u8>,
    /// Source port of TCP and UDP, type of ICMP.
    pub source_port: Option<u16>,
    /// Destination port of TCP and UDP, code of ICMP.
    pub destination_port: Option<u16>,
    /// TCP flags byte.
    pub tcp_flags: Option<u8>,
}

impl Summary {
    /// Neighbour discovery, router discovery, MLD and ARP: what keeps a link alive and is never under policy.
    #[must_use]
    pub fn is_link_upkeep(&self) -> bool {
        let icmpv6 = self.protocol == Some(protocol::ICMPV6)
            && self
                .source_port
                .is_some_and(|kind| (130..=136).contains(&kind) || kind == 143);
        self.kind == "arp" || icmpv6
    }
}

/// Reads a frame; with the generator's stamp where its payload begins with one.
#[must_use]
pub fn parse(frame: &[u8]) -> Option<(Summary, Option<Stamp>)> {
    let mut at = 12;
    let mut ethertype = u16_at(frame, at)?;
    while matches!(ethertype, 0x8100 | 0x88a8) {
        at += 4;
        ethertype = u16_at(frame, at)?;
    }
    let packet = frame.get(at + 2..)?;
    let none = Summary {
        kind: format!("{ethertype:#06x}"),
        source: None,
        destination: None,
        protocol: None,
        source_port: None,
        destination_port: None,
        tcp_flags: None,
    };
    match ethertype {
        ETHERTYPE_ARP => {
            let address = |at: usize| {
                Some(IpAddr::V4(Ipv4Addr::from(
                    <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?,
                )))
            };
            Some((
                Summary {
                    kind: "arp".into(),
                    source: address(14),
                    destination: address(24),
                    ..none
                },
                None,
            ))
        }
        ETHERTYPE_IPV4 => {
            let address = |at: usize| {
                Some(IpAddr::V4(Ipv4Addr::from(
                    <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?,
                )))
            };
            let head = usize::from(packet.first()? & 0xf) * 4;
            let later = u16_at(packet, 6)? & 0x1fff != 0;
            let ip = Summary {
                kind: "ipv4".into(),
                source: address(12),
                destination: address(16),
                protocol: packet.get(9).copied(),
                ..none
            };
            Some(if later {
                (ip, None)
            } else {
                transport(ip, packet.get(head..).unwrap_or_default())
            })
        }
        ETHERTYPE_IPV6 => {
            let address = |at: usize| {
                Some(IpAddr::V6(Ipv6Addr::from(
                    <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?,
                )))
            };
            let (mut next, mut at) = (*packet.get(6)?, 40);
            while matches!(next, 0 | 43 | 60) {
                let header = packet.get(at..at + 2)?;
                (next, at) = (header[0], at + (usize::from(header[1]) + 1) * 8);
            }
            let ip = Summary {
                kind: "ipv6".into(),
                source: address(8),
                destination: address(24),
                protocol: Some(next),
                ..none
            };
            Some(transport(ip, packet.get(at..).unwrap_or_default()))
        }
        _ => Some((none, None)),
    }
}

fn transport(ip: Summary, segment: &[u8]) -> (Summary, Option<Stamp>) {
    match ip.protocol {
        Some(protocol::TCP) => {
            let tcp_flags = segment.get(13).copied();
            (
                Summary {
                    source_port: u16_at(segment, 0),
                    destination_port: u16_at(segment, 2),
                    tcp_flags,
                    ..ip
                },
                None,
            )
        }
        Some(protocol::UDP) => {
            let stamp = segment.get(8..).and_then(Stamp::parse);
            (
                Summary {
                    source_port: u16_at(segment, 0),
                    destination_port: u16_at(segment, 2),
                    ..ip
                },
                stamp,
            )
        }
        Some(protocol::ICMP | protocol::ICMPV6) => {
            let byte = |at: usize| segment.get(at).map(|byte| u16::from(*byte));
            (
                Summary {
                    source_port: byte(0),
                    destination_port: byte(1),
                    ..ip
                },
                None,
            )
        }
        _ => (ip, None),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The two ends of a frame to build.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Hardware source.
    pub source_mac: Mac,
    /// Hardware destination.
    pub destination_mac: Mac,
    /// Network source.
    pub source: IpAddr,
    /// Network destination, of the same family.
    pub destination: IpAddr,
}

/// A UDP datagram in a frame.
#[must_use]
pub fn udp(ends: &Ends, source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut segment = [
        source_port.to_be_bytes(),
        destination_port.to_be_bytes(),
        length.to_be_bytes(),
        [0; 2],
    ]
    .concat();
    segment.extend_from_slice(payload);
    ip(ends, protocol::UDP, segment, 6)
}

/// A TCP segment without payload in a frame.
#[must_use]
pub fn tcp(ends: &Ends, source_port: u16, destination_port: u16, flags: u8) -> Vec<u8> {
    let mut segment = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    ip(ends, protocol::TCP, segment, 16)
}

/// An IP packet around a segment whose checksum stands at `checksum_at`.
fn ip(ends: &Ends, protocol: u8, mut segment: Vec<u8>, checksum_at: usize) -> Vec<u8> {
    let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
    let (ethertype, header, pseudo) = match (ends.source, ends.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = (length + 20).to_be_bytes();
            let mut header = vec![
                0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0,
            ];
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            (
                ETHERTYPE_IPV4,
                header,
                [
                    &source.octets()[..],
                    &destination.octets(),
                    &[0, protocol],
                    &length.to_be_bytes(),
                ]
                .concat(),
            )
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let size = length.to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, size[0], size[1], protocol, 64];
            header.extend(source.octets());
            header.extend(destination.octets());
            (
                ETHERTYPE_IPV6,
                header,
                [
                    &source.octets()[..],
                    &destination.octets(),
                    &[0, 0],
                    &size,
                    &[0, 0, 0, protocol],
                ]
                .concat(),
            )
        }
        ends => panic!("a packet has one family: {ends:?}"),
    };
    let sum = match checksum(&[&pseudo[..], &segment].concat()) {
        0 => 0xffff,
        sum => sum,
    };
    segment[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    [
        &ends.destination_mac[..],
        &ends.source_mac,
        &ethertype.to_be_bytes(),
        &header,
        &segment,
    ]
    .concat()
}

/// The Internet checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Parses `aa:bb:cc:dd:ee:ff`.
#[must_use]
pub fn mac(text: &str) -> Mac {
    let bytes: Vec<u8> = text
        .split(':')
        .filter_map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    bytes
        .try_into()
        .unwrap_or_else(|_| panic!("not a hardware address: {text}"))
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hexadecimal digits, blanks ignored, as bytes.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let pairs = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    digits
        .len()
        .is_multiple_of(2)
        .then(|| pairs.collect::<Option<Vec<u8>>>())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(source: &str, destination: &str) -> Ends {
        Ends {
            source_mac: mac("02:00:00:00:00:01"),
            destination_mac: mac("02:00:00:00:00:02"),
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    #[test]
    fn frames_are_read_as_they_were_built() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let stamp = Stamp {
                sequence: 1,
                sent_ns: 2,
            };
            let (summary, seen) = parse(&udp(
                &ends(source, destination),
                1000,
                53,
                &stamp.to_bytes(),
            ))
            .unwrap();
            assert_eq!(
                (summary.source_port, summary.destination_port, seen),
                (Some(1000), Some(53), Some(stamp))
            );
            assert_eq!(summary.destination, Some(destination.parse().unwrap()));
            let (summary, _) = parse(&tcp(&ends(source, destination), 1000, 80, 2)).unwrap();
            assert_eq!(
                (summary.protocol, summary.tcp_flags),
                (Some(protocol::TCP), Some(2))
            );
        }
    }

    #[test]
    fn a_checksum_over_a_packet_with_its_checksum_is_zero() {
        let frame = udp(&ends("10.0.0.1", "10.0.0.2"), 1, 2, b"odd");
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(from_hex(&to_hex(&frame)), Some(frame));
    }

    #[test]
    fn short_frames_are_no_panic() {
        let frame = udp(&ends("fd00::1", "fd00::2"), 1, 2, b"payload");
        for length in 0..frame.len() {
            let _ = parse(&frame[..length]);
        }
    }
}
