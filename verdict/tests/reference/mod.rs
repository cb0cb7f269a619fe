#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each user takes what it needs"
)]
//! A second reading of frames and of policy, slow and obvious, that shares no line with the crate.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use verdict::frame::Head;
use verdict::layout::{Direction, RULE_ALLOW_ALL, RULE_DEFAULT_ALL, RULE_DENY_ALL};
use verdict::packet::{self, FRAGMENT_FIRST, FRAGMENT_LATER, FRAGMENT_NONE, Packet};
use verdict::{PolicyState, Reason};
use verdict_testkit::Wire;
use verdict_testkit::case::Change;

pub mod walk;

/// What a frame says, if all of it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Arp,
    Ip {
        src: IpAddr,
        dst: IpAddr,
        protocol: u8,
        ports: Option<(u16, u16)>,
        icmp: Option<u8>,
        part: Part,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    First,
    Later,
}

fn be16(b: &[u8]) -> u16 {
    u16::from_be_bytes([b[0], b[1]])
}

/// Reads a frame; `None` = it must not pass.
pub fn read(wire: &Wire) -> Option<Seen> {
    let gso = wire.gso_size != 0;
    let bytes = &wire.bytes.0[..];
    if wire.tag_beside.is_some_and(|tci| tci & 0xfff != 0) {
        return None;
    }
    let (_, rest) = bytes.split_at_checked(12)?;
    let (mut ethertype, mut l3) = (be16(rest.get(..2)?), rest.get(2..)?);
    let tagged = |e: u16| e == 0x8100 || e == 0x88a8;
    if tagged(ethertype) {
        let tag = l3.get(..4)?;
        if be16(tag) & 0xfff != 0 || tagged(be16(&tag[2..])) {
            return None;
        }
        (ethertype, l3) = (be16(&tag[2..]), &l3[4..]);
    }
    match ethertype {
        0x0806 => Some(Seen::Arp),
        0x0800 => v4(l3, gso),
        0x86dd => v6(l3, gso),
        _ => None,
    }
}

fn v4(l3: &[u8], gso: bool) -> Option<Seen> {
    let fixed = l3.get(..20)?;
    let header = usize::from(fixed[0] & 15) * 4;
    let total = usize::from(be16(&fixed[2..]));
    if fixed[0] >> 4 != 4
        || header < 20
        || total < header
        || total > l3.len()
        || gso && total != l3.len()
    {
        return None;
    }
    if has_source_route(&l3[20..header]) {
        return None;
    }
    let at = usize::from(be16(&fixed[6..]) & 0x1fff) * 8;
    let more = be16(&fixed[6..]) & 0x2000 != 0;
    let src = IpAddr::V4(Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]));
    let dst = IpAddr::V4(Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]));
    let part = match (at, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        _ => Part::Later,
    };
    if part == Part::Later && fixed[9] == 6 && at < 24 {
        return None;
    }
    transport(src, dst, fixed[9], part, &l3[header..total])
}

/// Walks options as RFC 791 (3.1) has it: 0 ends them, 1 is one byte, all others have a length that counts both first bytes.
/// Loose (131) and strict (137) source routes; one whose length leaves the header is one too, for who does not look.
fn has_source_route(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        match (kind, rest.first()) {
            (0, _) => return false,
            (1, _) => options = rest,
            (131 | 137, Some(length)) if *length >= 3 => return true,
            (_, Some(length)) if *length >= 2 => {
                options = options.get(usize::from(*length)..).unwrap_or_default();
            }
            _ => return false,
        }
    }
    false
}

/// Whether the IPv4 options hold a byte that could begin a source route where, walked, none begins: the reader may refuse it.
pub fn may_be_refused(wire: &Wire) -> bool {
    let bytes = &wire.bytes.0[..];
    let l3 = match bytes.get(12..14) {
        Some([0x08, 0x00]) => bytes.get(14..),
        Some([0x81, 0x00] | [0x88, 0xa8]) => bytes.get(18..),
        _ => None,
    };
    let Some(l3 @ [first, ..]) = l3 else {
        return false;
    };
    let options = l3.get(20..usize::from(first & 15) * 4);
    options.is_some_and(|o| o.iter().any(|byte| matches!(byte, 131 | 137)) && !has_source_route(o))
}

fn v6(l3: &[u8], gso: bool) -> Option<Seen> {
    let fixed = l3.get(..40)?;
    let payload = usize::from(be16(&fixed[4..]));
    if fixed[0] >> 4 != 6
        || payload > l3.len() - 40
        || gso && (payload == 0 || payload != l3.len() - 40)
    {
        return None;
    }
    let address = |b: &[u8]| Ipv6Addr::from(<[u8; 16]>::try_from(b).unwrap());
    let (src, dst) = (
        IpAddr::V6(address(&fixed[8..24])),
        IpAddr::V6(address(&fixed[24..40])),
    );
    let mut rest = &l3[40..40 + payload];
    let mut next = fixed[6];
    let mut part = Part::Whole;
    let mut seen: Vec<u8> = Vec::new();
    // The order of RFC 8200 4.1 without destination options, which stand anywhere: each at most once.
    let order = [0u8, 43, 44, 51];
    while matches!(next, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) {
        if matches!(next, 135 | 139 | 140) || seen.len() == 8 {
            return None;
        }
        let place = |n: u8| order.iter().position(|o| *o == n);
        if next == 0 && !seen.is_empty()
            || next != 60 && seen.iter().any(|s| *s != 60 && place(*s) >= place(next))
        {
            return None;
        }
        seen.push(next);
        let first = rest.get(..8)?;
        let length = match next {
            44 => 8,
            51 => (usize::from(first[1]) + 2) * 4,
            _ => (usize::from(first[1]) + 1) * 8,
        };
        if next == 43 && first[3] != 0 {
            return None;
        }
        if next == 44 {
            let at = be16(&first[2..]) >> 3;
            if at != 0 {
                if at < 3 {
                    return None;
                }
                let protocol = first[0];
                return Some(Seen::Ip {
                    src,
                    dst,
                    protocol,
                    ports: None,
                    icmp: None,
                    part: Part::Later,
                });
            }
            if be16(&first[2..]) & 1 != 0 {
                part = Part::First;
            }
        }
        next = first[0];
        rest = rest.get(length..)?;
    }
    transport(src, dst, next, part, rest)
}

fn transport(src: IpAddr, dst: IpAddr, protocol: u8, part: Part, l4: &[u8]) -> Option<Seen> {
    let (mut ports, mut icmp) = (None, None);
    if part != Part::Later {
        let least = match protocol {
            6 => 20,
            132 | 33 => 12,
            17 | 136 | 1 | 58 => 8,
            _ => 0,
        };
        let head = l4.get(..least)?;
        match protocol {
            1 | 58 => icmp = Some(head[0]),
            6 | 17 | 33 | 132 | 136 => ports = Some((be16(head), be16(&head[2..]))),
            _ => {}
        }
        if protocol == 6 {
            let header = usize::from(head[12] >> 4) * 4;
            if header < 20 || part == Part::Whole && header > l4.len() {
                return None;
            }
            if head[13] & 2 != 0 && head[13] & 5 != 0 {
                return None;
            }
        }
    }
    Some(Seen::Ip {
        src,
        dst,
        protocol,
        ports,
        icmp,
        part,
    })
}

/// Policy as lists.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub policy_state: u64,
    exact: BTreeMap<(u32, IpAddr), u32>,
    prefixes: BTreeMap<(u32, u32, u128), u32>,
    rules: BTreeMap<(u16, u8, u8, u32), u32>,
    ports: BTreeMap<(u32, u32, u64), u32>,
}

fn bits_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn cut(bits: u128, len: u32) -> u128 {
    if len == 0 {
        0
    } else {
        bits & (u128::MAX << (128 - len))
    }
}

impl Policy {
    /// Takes part in a change.
    pub fn change(&mut self, change: &Change) {
        fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
            match value {
                Some(value) => drop(map.insert(key, value)),
                None => drop(map.remove(&key)),
            }
        }
        match change {
            Change::PolicyState(policy_state) => self.policy_state = policy_state.0,
            Change::Peer(key, value) => {
                let ip = key.addr.to_ip(key.family as u8);
                put(
                    &mut self.exact,
                    (key.family, ip),
                    value.map(|v| v.class.parts().1),
                );
            }
            Change::Prefix(key, value) => {
                let len = key.prefix_len - 32;
                let ip = key.addr.to_ip(key.family as u8);
                put(
                    &mut self.prefixes,
                    (key.family, len, cut(bits_of(ip), len)),
                    value.map(|v| v.class.parts().1),
                );
            }
            Change::Rule(key, value) => {
                put(
                    &mut self.rules,
                    (key.set, key.direction, key.family, key.class),
                    *value,
                );
            }
            Change::Port(key, value) => {
                let len = key.prefix_len - 32;
                let data = u64::from(u16::from_be(key.protocol_be)) << 16
                    | u64::from(u16::from_be(key.port_be));
                put(
                    &mut self.ports,
                    (key.port_set, len, data >> (32 - len)),
                    *value,
                );
            }
            _ => {}
        }
    }

    /// What policy says of a packet with this other side, as a new flow in this direction.
    pub fn judge(&self, direction: Direction, remote: IpAddr, protocol: u8, port: u16) -> Reason {
        let policy_state = PolicyState(self.policy_state);
        if policy_state.has(PolicyState::SUSPENDED) {
            return Reason::Suspended;
        }
        if policy_state.has(PolicyState::PENDING) {
            return Reason::Pending;
        }
        match self.rule(direction, remote, protocol, port) {
            Some(true) => Reason::PolicyAllowed,
            Some(false) => Reason::PolicyDenied,
            None if policy_state.isolated(direction) => Reason::PolicyDenied,
            None if policy_state.has(PolicyState::STRICT) => Reason::StrictDefault,
            None => Reason::DefaultAllowed,
        }
    }

    fn rule(&self, direction: Direction, remote: IpAddr, protocol: u8, port: u16) -> Option<bool> {
        let policy_state = PolicyState(self.policy_state);
        if !policy_state.has_rules(direction) {
            return None;
        }
        let family = if remote.is_ipv4() { 4 } else { 6 };
        let longest = self
            .prefixes
            .iter()
            .filter(|((f, len, bits), _)| *f == family && cut(bits_of(remote), *len) == *bits)
            .max_by_key(|((_, len, _), _)| *len);
        let exact = self.exact.get(&(family, remote));
        let class = exact
            .or(longest.map(|(_, class)| class))
            .copied()
            .unwrap_or(0);
        let of = |class| {
            self.rules
                .get(&(policy_state.set(), direction as u8, family as u8, class))
                .copied()
        };
        let value = of(class).or_else(|| of(0))?;
        match value {
            RULE_ALLOW_ALL => Some(true),
            RULE_DENY_ALL => Some(false),
            RULE_DEFAULT_ALL => None,
            set => {
                let data = u64::from(protocol) << 16 | u64::from(port);
                let found = self
                    .ports
                    .iter()
                    .filter(|((s, len, bits), _)| *s == set && data >> (32 - len) == *bits)
                    .max_by_key(|((_, len, _), _)| *len);
                match found?.1 {
                    1 => Some(true),
                    2 => Some(false),
                    _ => None,
                }
            }
        }
    }
}

/// What the crate's reader says, in the reference's words.
pub fn seen(wire: &Wire) -> Option<Seen> {
    let (mut p, mut head) = (Packet::EMPTY, Head::EMPTY);
    packet::read(&wire.bytes, &wire.meta(1, 1), &mut p, &mut head).ok()?;
    if p.is_arp() {
        return Some(Seen::Arp);
    }
    let part = match p.fragment {
        FRAGMENT_NONE => Part::Whole,
        FRAGMENT_FIRST => Part::First,
        FRAGMENT_LATER => Part::Later,
        other => panic!("fragment {other}"),
    };
    let icmp = matches!(p.protocol, 1 | 58) && part != Part::Later;
    let ports = matches!(p.protocol, 6 | 17 | 33 | 132 | 136) && part != Part::Later;
    Some(Seen::Ip {
        src: p.src.to_ip(p.family),
        dst: p.dst.to_ip(p.family),
        protocol: p.protocol,
        ports: ports.then(|| (u16::from_be(p.src_port_be), u16::from_be(p.dst_port_be))),
        icmp: icmp.then_some(p.message_type),
        part,
    })
}
