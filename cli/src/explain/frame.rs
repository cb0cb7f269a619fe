//! The frame that opens a connection.

use std::net::IpAddr;

use verdict::Direction;
use verdict::Frame;
use verdict::packet::{proto, tcp};

/// A frame in memory.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Frame for Bytes<'_> {
    fn load<const N: usize>(&self, offset: u32, into: &mut [u8; N]) -> bool {
        let from = offset as usize;
        match self.0.get(from..from + N) {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

/// What the frame is made of.
pub(super) struct Opening {
    pub(super) direction: Direction,
    pub(super) own: IpAddr,
    pub(super) peer: IpAddr,
    pub(super) own_mac: [u8; 6],
    pub(super) protocol: u8,
    pub(super) port: u16,
}

/// A locally administered address: nobody's.
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// A port of the dynamic range.
const CLIENT_PORT: u16 = 49_152;

impl Opening {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (src, dst, src_mac, dst_mac) = match self.direction {
            Direction::Ingress => (self.peer, self.own, OTHER_MAC, self.own_mac),
            Direction::Egress => (self.own, self.peer, self.own_mac, OTHER_MAC),
        };
        let transport = self.transport(src.is_ipv6());
        let mut bytes = Vec::with_capacity(96);
        bytes.extend(dst_mac);
        bytes.extend(src_mac);
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                bytes.extend([0x08, 0x00, 0x45, 0]);
                bytes.extend((20 + transport.len() as u16).to_be_bytes());
                bytes.extend([0, 0, 0, 0, 64, self.protocol_for(false), 0, 0]);
                bytes.extend(src.octets());
                bytes.extend(dst.octets());
            }
            (src, dst) => {
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                bytes.extend((transport.len() as u16).to_be_bytes());
                bytes.extend([self.protocol_for(true), 64]);
                for ip in [src, dst] {
                    match ip {
                        IpAddr::V6(a) => bytes.extend(a.octets()),
                        IpAddr::V4(a) => bytes.extend(a.to_ipv6_mapped().octets()),
                    }
                }
            }
        }
        bytes.extend(transport);
        bytes
    }

    /// `icmp` means the one of the family.
    fn protocol_for(&self, v6: bool) -> u8 {
        if v6 && self.protocol == proto::ICMP {
            proto::ICMPV6
        } else {
            self.protocol
        }
    }

    fn transport(&self, v6: bool) -> Vec<u8> {
        let mut bytes = vec![0u8; 40];
        bytes[0..2].copy_from_slice(&CLIENT_PORT.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.port.to_be_bytes());
        match self.protocol_for(v6) {
            proto::TCP => {
                bytes[12] = 5 << 4;
                bytes[13] = tcp::SYN;
            }
            proto::ICMP => bytes[0..2].copy_from_slice(&[8, 0]),
            proto::ICMPV6 => bytes[0..2].copy_from_slice(&[128, 0]),
            _ => {}
        }
        bytes
    }
}
