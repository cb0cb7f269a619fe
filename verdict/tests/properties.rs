//! What holds for every frame and every table: against a second, naive reading.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod reference;

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use reference::{Part, Policy, Seen};
use verdict::layout::{Direction, PeerKey};
use verdict::model::case::{Change, ModelWorld};
use verdict::model::generate::{Source, beginning};
use verdict::model::{Bytes, Via, Wire, World, frame};
use verdict::packet::{self, FRAGMENT_FIRST, FRAGMENT_LATER, FRAGMENT_NONE, Head, Packet};
use verdict::{PolicyWord, Reason};

/// What the crate's reader says, in the reference's words.
fn seen(wire: &Wire) -> Option<Seen> {
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
        icmp: icmp.then_some(p.icmp_type),
        part,
    })
}

fn same_reading(wire: &Wire) -> Result<(), TestCaseError> {
    prop_assert_eq!(seen(wire), reference::read(wire));
    Ok(())
}

/// A flow from the pod's point of view: both addresses, protocol, both ports.
type Tuple = (IpAddr, IpAddr, u8, u16, u16);

/// A walk of packets and changes, with what an onlooker knows of it.
struct Walk {
    world: ModelWorld,
    policy: Policy,
    epoch: u64,
    passed: BTreeSet<(Direction, Tuple)>,
    always: BTreeSet<Tuple>,
    /// Addresses that are, or were, the host's or the pod's own.
    known: BTreeSet<IpAddr>,
}

impl Walk {
    fn begin() -> Self {
        let mut walk = Self {
            world: ModelWorld::default(),
            policy: Policy::default(),
            epoch: 1,
            passed: BTreeSet::new(),
            always: BTreeSet::new(),
            known: BTreeSet::new(),
        };
        for change in beginning() {
            walk.change(&change);
        }
        walk
    }

    fn change(&mut self, change: &Change) {
        self.world.change(change).unwrap();
        self.policy.change(change);
        match change {
            Change::Endpoint(Some(spec)) => {
                self.passed.clear();
                self.known.extend(&spec.addresses);
            }
            Change::Host(PeerKey { family, addr }, _) => {
                self.known.insert(addr.to_ip(*family as u8));
            }
            // A table never changes under the epoch of tracked flows: the words follow the tables.
            Change::Peer(..) | Change::Prefix(..) | Change::Rule(..) | Change::Port(..) => {
                self.epoch += 1;
                let old = PolicyWord(self.policy.word);
                self.change(&Change::Word(PolicyWord::new(
                    old.flags(),
                    old.set(),
                    self.epoch,
                )));
            }
            _ => {}
        }
    }

    /// The promise: what passes is allowed now in its own direction, or answers what is allowed now in the other.
    fn packet(&mut self, direction: Direction, via: Via, wire: &Wire) -> Result<(), TestCaseError> {
        let reason = self.world.packet(direction, via, wire).unwrap().reason;
        let Some(frame) = reference::read(wire) else {
            prop_assert!(
                reason.is_drop() || reason == Reason::Suspended,
                "{reason}: passed and cannot be read"
            );
            return Ok(());
        };
        let Seen::Ip {
            src,
            dst,
            protocol,
            ports,
            icmp,
            ..
        } = frame
        else {
            return Ok(());
        };
        // Who asks for an echo is part of the flow; its identifier does not matter here.
        let echo = match (src.is_ipv4(), protocol, icmp) {
            (true, 1, Some(8)) | (false, 58, Some(128)) => (1, 2),
            (true, 1, Some(0)) | (false, 58, Some(129)) => (2, 1),
            _ => (0, 0),
        };
        let (from, to) = ports.unwrap_or(echo);
        let tuple = match direction {
            Direction::Ingress => (dst, src, protocol, to, from),
            Direction::Egress => (src, dst, protocol, from, to),
        };
        let asked = |d: Direction| {
            let port = match d {
                _ if ports.is_none() => 0,
                Direction::Ingress => tuple.3,
                Direction::Egress => tuple.4,
            };
            !self.policy.judge(d, tuple.1, protocol, port).is_drop()
        };
        let back = direction.reverse();
        match reason {
            Reason::HostToPod | Reason::PodToHost | Reason::PodToItself => {
                self.always.insert(tuple);
            }
            Reason::Tracked if self.always.contains(&tuple) => {}
            Reason::Tracked => prop_assert!(
                asked(direction) || asked(back) && self.passed.contains(&(back, tuple)),
                "{direction:?} {tuple:?}: tracked, and neither allowed nor an answer"
            ),
            // What always passes is told so too where it cannot be recorded.
            Reason::ShareFull | Reason::TableFull
                if via == Via::Own || self.known.contains(&tuple.1) => {}
            Reason::PolicyAllowed
            | Reason::DefaultAllowed
            | Reason::ShareFull
            | Reason::TableFull => {
                prop_assert!(
                    asked(direction),
                    "{direction:?} {tuple:?}: {reason}, and not allowed"
                );
            }
            _ => {}
        }
        if !reason.is_drop() {
            self.passed.insert((direction, tuple));
        }
        Ok(())
    }
}

/// A new TCP or UDP flow of one peer.
fn new_flow(source: &mut Source<'_>) -> (Direction, String, IpAddr, u8, u16) {
    let direction = source.direction();
    let name = source.pick(&["peer", "other", "far", "service"]);
    let (family, ip): (&str, IpAddr) = match (source.rarely(2), name) {
        (false, "peer") => ("v4", [10, 9, 0, 1].into()),
        (false, "other") => ("v4", [10, 9, 0, 2].into()),
        (false, "far") => ("v4", [192, 0, 2, 7].into()),
        (false, _) => ("v4", [10, 96, 0, 10].into()),
        (true, "peer") => ("v6", "fd09::1".parse().unwrap()),
        (true, "other") => ("v6", "fd09::2".parse().unwrap()),
        (true, "far") => ("v6", "2001:db8::7".parse().unwrap()),
        (true, _) => ("v6", "fd96::10".parse().unwrap()),
    };
    let port = source.pick(&[80u16, 53, 443, 22, 0, 40000, 65535]);
    let (protocol, words) = match source.byte() % 4 {
        0 => (17, format!("udp 7 > {port}")),
        1 => (132, format!("sctp 7 > {port}")),
        _ => (6, format!("tcp 7 > {port} syn")),
    };
    let between = if direction == Direction::Ingress {
        format!("{name} > pod")
    } else {
        format!("pod > {name}")
    };
    (
        direction,
        format!("{family} {between} {words}"),
        ip,
        protocol,
        port,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_as_the_reference_reads_them(bytes in vec(any::<u8>(), 0..200), gso in any::<bool>()) {
        same_reading(&Wire { bytes: Bytes(bytes), gso_size: u16::from(gso), ..Wire::default() })?;
    }

    #[test]
    fn likely_frames_are_read_as_the_reference_reads_them(bytes in vec(any::<u8>(), 0..250)) {
        let mut source = Source::new(&bytes);
        let direction = source.direction();
        same_reading(&source.frame(direction))?;
    }

    #[test]
    fn what_passes_is_allowed_or_answers(bytes in vec(any::<u8>(), 0..3000)) {
        let mut source = Source::new(&bytes);
        let mut walk = Walk::begin();
        while !source.is_empty() {
            if source.rarely(3) {
                let mut epoch = walk.epoch;
                let change = source.change(&mut epoch);
                walk.epoch = epoch;
                walk.change(&change);
            } else {
                let direction = source.direction();
                let via = source.via(direction);
                let wire = source.frame(direction);
                walk.packet(direction, via, &wire)?;
            }
        }
    }

    #[test]
    fn a_new_flow_meets_what_a_naive_evaluation_says(bytes in vec(any::<u8>(), 0..600)) {
        let mut source = Source::new(&bytes);
        let mut walk = Walk::begin();
        let mut epoch = 1;
        for _ in 0..40 {
            match source.change(&mut epoch) {
                // Time, limits and the host set are not what is asked for here.
                Change::Wait(_) | Change::Config(_) | Change::Endpoint(_) | Change::Host(..) => {}
                change => walk.change(&change),
            }
        }
        let (direction, words, remote, protocol, port) = new_flow(&mut source);
        let wire = frame(&words, direction).unwrap();
        let met = walk.world.packet(direction, Via::Uplink, &wire).unwrap().reason;
        prop_assert_eq!(met, walk.policy.judge(direction, remote, protocol, port), "{}", words);
    }
}
