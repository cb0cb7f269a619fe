//! Frames and changes from a string of bytes: what a fuzzer, a property test and a random walk on the real programs have
//! in common. The same bytes always give the same walk.

use std::net::IpAddr;

use verdict::layout::{
    Addr, Config, Direction, PORT_ALLOW, PeerKey, PeerValue, PortKey, PrefixKey, PrefixValue,
    RULE_ALLOW_ALL, RULE_DEFAULT_ALL, RULE_DENY_ALL, RuleKey, V4, V6,
};
use verdict::packet::{proto, tcp};
use verdict::policy_state::PolicyState;

use crate::case::{Change, EndpointSpec, Via};
use crate::frames::{self, Bytes, Wire};
use crate::read_frame::{HOST_MAC, POD_MAC, address};
use crate::tables::Tables;

/// Choices, taken from bytes; what is past their end is zero.
#[derive(Clone, Debug)]
pub struct Source<'a> {
    bytes: &'a [u8],
}

const NAMES: [&str; 12] = [
    "pod",
    "peer",
    "peer",
    "other",
    "far",
    "host",
    "service",
    "pod-local",
    "host-local",
    "all",
    "any",
    "solicited-pod",
];
/// Seconds: their sums stay two seconds away from every time-out, for the real clock runs on beside them.
const WAITS: [u32; 6] = [7, 21, 42, 70, 210, 4004];
const PORTS: [u16; 8] = [80, 40000, 53, 443, 0, 30080, 65535, 22];

impl<'a> Source<'a> {
    /// Choices from these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether choices are left.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        match self.bytes.split_first() {
            Some((first, rest)) => {
                self.bytes = rest;
                *first
            }
            None => 0,
        }
    }

    /// Two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    /// True once in `n` times (at most 256).
    pub fn rarely(&mut self, n: u16) -> bool {
        u16::from(self.byte()) % n == n - 1
    }

    fn addr(&mut self, family: u8) -> IpAddr {
        let name = self.pick(&NAMES);
        let ip = address(name, family).unwrap_or(IpAddr::from([0u8; 4]));
        match ip {
            IpAddr::V6(_) if self.rarely(40) => IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a09, 1u16]),
            IpAddr::V4(a) if self.rarely(20) => {
                let [x, y, z, _] = a.octets();
                IpAddr::from([x, y, z, self.byte()])
            }
            ip => ip,
        }
    }

    fn port(&mut self) -> u16 {
        if self.rarely(8) {
            self.short()
        } else {
            self.pick(&PORTS)
        }
    }

    fn data(&mut self) -> Vec<u8> {
        let n = usize::from(self.pick(&[0u8, 0, 0, 8, 24, 40]));
        (0..n).map(|_| self.byte()).collect()
    }

    /// Transport header and data.
    fn transport(&mut self, family: u8, depth: u8) -> (u8, Vec<u8>) {
        let icmp = if family == V4 {
            proto::ICMP
        } else {
            proto::ICMPV6
        };
        match self.byte() % 12 {
            0..=3 => {
                let flags = self.pick(&[
                    tcp::SYN,
                    tcp::SYN | tcp::ACK,
                    tcp::ACK,
                    tcp::ACK,
                    tcp::FIN | tcp::ACK,
                    tcp::RST,
                    0,
                ]);
                let policy_states = if self.rarely(16) { self.byte() & 15 } else { 5 };
                (
                    proto::TCP,
                    frames::tcp(self.port(), self.port(), flags, policy_states, &self.data()),
                )
            }
            4..=6 => (
                proto::UDP,
                frames::udp(self.port(), self.port(), &self.data()),
            ),
            7 => (
                proto::SCTP,
                frames::sctp(self.port(), self.port(), &self.data()),
            ),
            8 => {
                let kind = if family == V4 {
                    self.pick(&[8u8, 0])
                } else {
                    self.pick(&[128, 129])
                };
                let [a, b] = self.pick(&[0u16, 7, 65535]).to_be_bytes();
                (icmp, frames::icmp(kind, 0, [a, b, 0, 1], &self.data()))
            }
            9 => {
                let kind = if family == V4 {
                    self.pick(&[3u8, 11, 12, 4, 5, 9])
                } else {
                    self.pick(&[1, 2, 3, 4])
                };
                let inner = if depth == 0 {
                    Vec::new()
                } else {
                    self.ip(family, depth - 1)
                };
                (icmp, frames::icmp(kind, 0, [0; 4], &inner))
            }
            10 => {
                let kind = 130 + self.byte() % 14;
                let mut body = match self.addr(V6) {
                    IpAddr::V6(a) => a.octets().to_vec(),
                    IpAddr::V4(a) => a.octets().to_vec(),
                };
                body.extend(self.data());
                (icmp, frames::icmp(kind, 0, [0; 4], &body))
            }
            _ => (self.byte(), self.data()),
        }
    }

    fn extensions(&mut self) -> Vec<(u8, Vec<u8>)> {
        let n = self.pick(&[0u8, 0, 0, 0, 0, 1, 1, 2, 3, 9]);
        (0..n)
            .map(|_| match self.byte() % 6 {
                0 => frames::V6::options(proto::HOP_BY_HOP, 1 + self.byte() % 3),
                1 | 2 => frames::V6::options(proto::DESTINATION, 1 + self.byte() % 3),
                3 => frames::V6::routing(self.byte() % 5, self.byte() % 2),
                4 => {
                    let at = self.pick(&[0u16, 0, 1, 2, 3, 8]);
                    frames::V6::fragment(at, self.rarely(2), u32::from(self.byte() % 2))
                }
                _ => frames::V6::authentication(),
            })
            .collect()
    }

    /// An IP packet.
    fn ip(&mut self, family: u8, depth: u8) -> Vec<u8> {
        let (src, dst) = (self.addr(family), self.addr(family));
        let (protocol, mut l4) = self.transport(family, depth);
        frames::fill_checksum(protocol, src, dst, &mut l4);
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = frames::V4::new(src, dst, protocol);
                header.ttl = self.pick(&[64, 255, 1]);
                if self.rarely(5) {
                    header.offset = self.pick(&[0, 0, 1, 2, 3, 8]);
                    header.more = self.rarely(2);
                    header.id = u16::from(self.byte() % 2);
                }
                if self.rarely(8) {
                    let n = 1 + usize::from(self.byte() % 10);
                    header.options = (0..n * 4).map(|_| self.byte()).collect();
                }
                if self.rarely(20) {
                    header.first_byte = Some(self.byte());
                }
                if self.rarely(20) {
                    header.total = Some(self.short());
                }
                header.packet(&l4)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut header = frames::V6::new(src, dst, protocol);
                header.hop_limit = self.pick(&[64, 255, 1]);
                header.extensions = self.extensions();
                if self.rarely(20) {
                    header.first_byte = Some(self.byte());
                }
                if self.rarely(20) {
                    header.payload = Some(self.short());
                }
                header.packet(&l4)
            }
            _ => Vec::new(),
        }
    }

    /// A frame at the hook of a direction, more often right than wrong.
    pub fn frame(&mut self, direction: Direction) -> Wire {
        let (mut ethertype, mut body) = match self.byte() % 16 {
            0 => {
                let (IpAddr::V4(s), IpAddr::V4(t)) = (self.addr(V4), self.addr(V4)) else {
                    return Wire::default();
                };
                let hw = if self.rarely(4) { HOST_MAC } else { POD_MAC };
                (
                    0x0806,
                    frames::arp(u16::from(self.byte() % 4), (hw, s), ([0; 6], t)),
                )
            }
            1 => (self.short(), self.data()),
            2..=8 => (0x0800, self.ip(V4, 1)),
            _ => (0x86dd, self.ip(V6, 1)),
        };
        if self.rarely(12) {
            let tci = self.pick(&[0u16, 0, 0xe000, 5]);
            (ethertype, body) = (
                self.pick(&[0x8100, 0x8100, 0x88a8]),
                frames::tag(tci, ethertype, &body),
            );
        }
        let (to, from) = match direction {
            Direction::Ingress => (POD_MAC, HOST_MAC),
            Direction::Egress => (HOST_MAC, POD_MAC),
        };
        let to = if self.rarely(24) {
            [self.byte(), 0, 0, 0, 0, 9]
        } else {
            to
        };
        let from = if self.rarely(24) {
            [2, 0, 0, 0, 0, 9]
        } else {
            from
        };
        let mut bytes = frames::ethernet(to, from, ethertype, &body);
        if self.rarely(10) {
            bytes.resize(bytes.len() + usize::from(self.byte() % 64), 0);
        }
        if self.rarely(16) {
            bytes.truncate(usize::from(self.byte()));
        }
        if self.rarely(10) {
            for _ in 0..=self.byte() % 4 {
                let at = usize::from(self.byte());
                let with = self.byte();
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = with;
                }
            }
        }
        let gso_size = if self.rarely(16) { 1000 } else { 0 };
        Wire {
            bytes: Bytes(bytes),
            gso_size,
            ..Wire::default()
        }
    }

    /// Where a packet came into the host.
    pub fn via(&mut self, direction: Direction) -> Via {
        match direction {
            Direction::Egress => Via::Own,
            Direction::Ingress => {
                self.pick(&[Via::Uplink, Via::Uplink, Via::Other, Via::Host, Via::Own])
            }
        }
    }

    /// One of both directions.
    pub fn direction(&mut self) -> Direction {
        self.pick(&[Direction::Ingress, Direction::Egress])
    }

    fn class(&mut self) -> u32 {
        u32::from(self.byte() % 4)
    }

    fn peer(&mut self, family: u8) -> PeerKey {
        let (family, addr) = Addr::from_ip(self.addr(family));
        PeerKey {
            family: u32::from(family),
            addr,
        }
    }

    /// A change of tables, policy state or time. Revisions come from `revision`, which grows.
    pub fn change(&mut self, revision: &mut u64) -> Change {
        let family = self.pick(&[V4, V6]);
        match self.byte() % 10 {
            0..=2 => {
                *revision += 1;
                // Suspension and pending would hide everything else if they were as frequent as the rest.
                let rare = if self.rarely(6) {
                    self.pick(&[PolicyState::PENDING, PolicyState::SUSPENDED])
                } else {
                    0
                };
                Change::PolicyState(PolicyState::new(
                    u64::from(self.byte()) & 0x3e | rare,
                    u16::from(self.byte() % 2),
                    *revision,
                ))
            }
            3 => {
                let key = self.peer(family);
                let class = self.class();
                Change::Peer(key, (class != 0).then(|| PeerValue::new(&key, class)))
            }
            4 => {
                let key = self.peer(family);
                let bits = if family == V4 { 32 } else { 128 };
                let len = self.pick(&[8u32, 16, 24, 31, 32, 64]).min(bits);
                let class = self.class();
                let key = PrefixKey {
                    prefix_len: PrefixKey::FIXED_BITS + len,
                    family: key.family,
                    addr: key.addr,
                };
                let value = PrefixValue::new(&key, class, class, 0);
                Change::Prefix(key, (class != 0).then_some(value))
            }
            5 | 6 => {
                let key = RuleKey {
                    class: self.class(),
                    set: u16::from(self.byte() % 2),
                    direction: self.byte() % 2,
                    family,
                };
                let value = self.pick(&[
                    RULE_ALLOW_ALL,
                    RULE_ALLOW_ALL,
                    RULE_DENY_ALL,
                    RULE_DEFAULT_ALL,
                    1,
                    2,
                    3,
                ]);
                Change::Rule(key, (!self.rarely(4)).then_some(value))
            }
            7 => {
                let bits = self.pick(&[
                    PortKey::ANY_PROTOCOL_BITS,
                    PortKey::ANY_PORT_BITS,
                    PortKey::ANY_PORT_BITS + 4,
                    PortKey::FULL_BITS,
                    PortKey::FULL_BITS,
                ]);
                let protocol = self.pick(&[
                    proto::TCP,
                    proto::TCP,
                    proto::UDP,
                    proto::SCTP,
                    proto::ICMP,
                    0,
                ]);
                let key = PortKey {
                    prefix_len: bits,
                    port_set: u32::from(self.byte() % 3) + 1,
                    protocol_be: u16::from(protocol).to_be(),
                    port_be: self.port().to_be(),
                };
                Change::Port(
                    key,
                    (!self.rarely(4)).then_some(PORT_ALLOW + u32::from(self.byte() % 3)),
                )
            }
            8 => Change::Wait(self.pick(&WAITS)),
            _ => match self.byte() % 8 {
                0 => Change::Host(self.peer(family), !self.rarely(3)),
                1 => Change::Config(Config {
                    flow_limit: self.pick(&[16, 64, 524_288]),
                    flow_minimum: self.pick(&[4, 131_072]),
                    nursery_mask: self.pick(&[0, 255]),
                    ..Tables::CONFIG
                }),
                2 => {
                    let mut addresses = vec![self.addr(V4), self.addr(V6)];
                    addresses.truncate(usize::from(self.byte() % 3));
                    addresses.extend(
                        ["pod", "pod-local"]
                            .into_iter()
                            .filter_map(|n| address(n, V6).ok()),
                    );
                    let guard = !self.rarely(4);
                    Change::Endpoint(Some(EndpointSpec {
                        mac: POD_MAC,
                        guard,
                        addresses,
                        extra: Vec::new(),
                    }))
                }
                _ => Change::Wait(WAITS[0]),
            },
        }
    }
}

/// The changes that a walk begins with: the endpoint with its addresses, the host set, a policy state.
pub fn beginning() -> Vec<Change> {
    let both = [V4, V6];
    let addresses = [("pod", V4), ("pod", V6), ("pod-local", V6)];
    let addresses = addresses
        .into_iter()
        .filter_map(|(name, family)| address(name, family).ok())
        .collect();
    let mut changes = vec![
        Change::Config(Tables::CONFIG),
        Change::Endpoint(Some(EndpointSpec {
            mac: POD_MAC,
            guard: true,
            addresses,
            extra: Vec::new(),
        })),
        Change::PolicyState(PolicyState::new(PolicyState::STRICT, 1, 1)),
    ];
    for family in both {
        for name in ["host", "host-local"] {
            if let Ok(ip) = address(name, family) {
                let (family, addr) = Addr::from_ip(ip);
                changes.push(Change::Host(
                    PeerKey {
                        family: u32::from(family),
                        addr,
                    },
                    true,
                ));
            }
        }
    }
    changes
}
