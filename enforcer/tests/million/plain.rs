//! Packets that open a flow and are well made: what they must meet follows from the documents alone, without `decide`.

use std::net::IpAddr;

use policy::oracle::Question;
use verdict::layout::Direction;
use verdict::packet::{proto, tcp};
use verdict_testkit::frames;
use verdict_testkit::generate::Source;
use verdict_testkit::{Bytes, Wire};

use super::documents::{PORTS, address};

/// The pod, as `generate::beginning` makes it.
const POD: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
];
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// One flow's beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    pub(crate) direction: Direction,
    peer: IpAddr,
    protocol: u8,
    /// The opener's port or the echo's identifier: no other flow of the chapter has it.
    own: u16,
    /// The port that is asked for.
    port: u16,
    options: u8,
}

impl Plain {
    pub(crate) fn new(source: &mut Source<'_>, own: u16) -> Self {
        Self {
            direction: source.direction(),
            peer: address(source),
            protocol: source.pick(&[
                proto::TCP,
                proto::TCP,
                proto::TCP,
                proto::UDP,
                proto::UDP,
                proto::SCTP,
                proto::ICMP,
            ]),
            own,
            port: if source.rarely(6) {
                source.short().max(1)
            } else {
                source.pick(&PORTS)
            },
            options: if source.rarely(5) {
                1 + source.byte() % 3
            } else {
                0
            },
        }
    }

    pub(crate) fn question(&self) -> Question {
        let (protocol, port) = match (self.protocol, self.peer) {
            (proto::ICMP, IpAddr::V4(_)) => (proto::ICMP, 0),
            (proto::ICMP, IpAddr::V6(_)) => (proto::ICMPV6, 0),
            (other, _) => (other, self.port),
        };
        Question {
            direction: self.direction,
            peer: self.peer,
            protocol,
            port,
        }
    }

    /// The frame that opens the flow.
    pub(crate) fn opening(&self) -> Wire {
        self.wire(self.direction, &self.ip(false, None))
    }

    /// The frame that answers it, in the other direction.
    pub(crate) fn answer(&self) -> Wire {
        self.wire(self.direction.reverse(), &self.ip(true, None))
    }

    /// The frame that opens the flow, cut in two.
    pub(crate) fn fragments(&self) -> [Wire; 2] {
        [(0, true), (2, false)].map(|cut| self.wire(self.direction, &self.ip(false, Some(cut))))
    }

    /// An ICMP error about the frame that opens the flow, in the other direction.
    pub(crate) fn error(&self, source: &mut Source<'_>) -> Wire {
        let (pod, router) = (self.pod(), address(source));
        // Somebody on the way has a policy state to say as well as the peer.
        let router = if router.is_ipv4() == pod.is_ipv4() {
            router
        } else {
            self.peer
        };
        let (src, dst) = match self.direction {
            Direction::Ingress => (pod, self.peer),
            Direction::Egress => (router, pod),
        };
        let inner = self.ip(false, None);
        let (protocol, kind) = match pod {
            IpAddr::V4(_) => (proto::ICMP, source.pick(&[3, 11, 12])),
            IpAddr::V6(_) => (proto::ICMPV6, source.pick(&[1, 2, 3, 4])),
        };
        let mut l4 = frames::icmp(kind, 0, [0; 4], &inner);
        frames::fill_checksum(protocol, src, dst, &mut l4);
        self.wire(
            self.direction.reverse(),
            &packet(src, dst, protocol, 0, None, &l4),
        )
    }

    fn pod(&self) -> IpAddr {
        POD[usize::from(self.peer.is_ipv6())]
    }

    /// The IP packet; `cut` = offset in units of eight bytes, and whether more follow.
    fn ip(&self, answer: bool, cut: Option<(u16, bool)>) -> Vec<u8> {
        let (v6, pod) = (self.peer.is_ipv6(), self.pod());
        let outwards = (self.direction == Direction::Egress) != answer;
        let (src, dst) = if outwards {
            (pod, self.peer)
        } else {
            (self.peer, pod)
        };
        let (from, to) = if answer {
            (self.port, self.own)
        } else {
            (self.own, self.port)
        };
        let (protocol, mut l4) = match self.protocol {
            proto::TCP => {
                let flags = if answer {
                    tcp::SYN | tcp::ACK
                } else {
                    tcp::SYN
                };
                (proto::TCP, frames::tcp(from, to, flags, 5, &[]))
            }
            proto::UDP => (proto::UDP, frames::udp(from, to, b"podgate-podgate-")),
            proto::SCTP => (
                proto::SCTP,
                frames::sctp(from, to, &[1, 0, 0, 20, 0, 0, 0, 1]),
            ),
            _ => {
                let [a, b] = self.own.to_be_bytes();
                let kind = match (v6, answer) {
                    (false, false) => 8,
                    (false, true) => 0,
                    (true, false) => 128,
                    (true, true) => 129,
                };
                let protocol = if v6 { proto::ICMPV6 } else { proto::ICMP };
                (protocol, frames::icmp(kind, 0, [a, b, 0, 1], b"podgate-"))
            }
        };
        frames::fill_checksum(protocol, src, dst, &mut l4);
        let l4 = match cut {
            None => &l4[..],
            Some((0, _)) => &l4[..16],
            Some(_) => &l4[16..],
        };
        packet(
            src,
            dst,
            protocol,
            self.options,
            cut.map(|cut| (cut, self.own)),
            l4,
        )
    }

    fn wire(&self, direction: Direction, ip: &[u8]) -> Wire {
        let ethertype = if self.peer.is_ipv4() { 0x0800 } else { 0x86dd };
        let (to, from) = match direction {
            Direction::Egress => (HOST_MAC, POD_MAC),
            Direction::Ingress => (POD_MAC, HOST_MAC),
        };
        Wire {
            bytes: Bytes(frames::ethernet(to, from, ethertype, ip)),
            ..Wire::default()
        }
    }
}

type Cut = ((u16, bool), u16);

/// An IP packet with some options that change nothing, whole or a fragment with an identification.
fn packet(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    options: u8,
    cut: Option<Cut>,
    l4: &[u8],
) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut header = frames::V4::new(src, dst, protocol);
            // No-operations.
            header.options = vec![1; usize::from(options) * 4];
            if let Some(((offset, more), id)) = cut {
                (header.offset, header.more, header.id) = (offset, more, id);
            }
            header.packet(l4)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = frames::V6::new(src, dst, protocol);
            if options != 0 {
                header
                    .extensions
                    .push(frames::V6::options(proto::DESTINATION, options));
            }
            if let Some(((offset, more), id)) = cut {
                header
                    .extensions
                    .push(frames::V6::fragment(offset, more, u32::from(id)));
            }
            header.packet(l4)
        }
        _ => unreachable!("both are of one family"),
    }
}
