//! Walks of packets and changes, and what must hold of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use verdict::layout::{Direction, PeerKey};
use verdict::{PolicyState, Reason};
use verdict_testkit::case::{Change, ModelWorld};
use verdict_testkit::generate::{Source, beginning};
use verdict_testkit::{Via, Wire, World};

use super::{Policy, Seen, read};

fn holds(what: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if what { Ok(()) } else { Err(otherwise()) }
}

/// The walk that these bytes tell.
pub fn all_of(bytes: &[u8]) -> Result<(), String> {
    let mut source = Source::new(bytes);
    let mut walk = Walk::begin();
    while !source.is_empty() {
        if source.rarely(3) {
            let change = source.change(&mut walk.revision);
            walk.change(&change);
        } else {
            let direction = source.direction();
            let via = source.via(direction);
            let wire = source.frame(direction);
            walk.packet(direction, via, &wire)?;
        }
    }
    Ok(())
}

/// A flow from the pod's point of view: both addresses, protocol, both ports.
type Tuple = (IpAddr, IpAddr, u8, u16, u16);

/// A walk of packets and changes, with what an onlooker knows of it.
pub struct Walk {
    pub world: ModelWorld,
    pub policy: Policy,
    revision: u64,
    passed: BTreeSet<(Direction, Tuple)>,
    always: BTreeSet<Tuple>,
    /// Addresses that are, or were, the host's or the pod's own.
    known: BTreeSet<IpAddr>,
}

impl Walk {
    pub fn begin() -> Self {
        let mut walk = Self {
            world: ModelWorld::default(),
            policy: Policy::default(),
            revision: 1,
            passed: BTreeSet::new(),
            always: BTreeSet::new(),
            known: BTreeSet::new(),
        };
        for change in beginning() {
            walk.change(&change);
        }
        walk
    }

    pub fn change(&mut self, change: &Change) {
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
            // A table never changes under the revision of tracked flows: the policy states follow the tables.
            Change::Peer(..) | Change::Prefix(..) | Change::Rule(..) | Change::Port(..) => {
                self.revision += 1;
                let old = PolicyState(self.policy.policy_state);
                self.change(&Change::PolicyState(PolicyState::new(
                    old.flags(),
                    old.set(),
                    self.revision,
                )));
            }
            _ => {}
        }
    }

    /// The promise: what passes is allowed now in its own direction, or answers what is allowed now in the other.
    pub fn packet(&mut self, direction: Direction, via: Via, wire: &Wire) -> Result<(), String> {
        let reason = self.world.packet(direction, via, wire).unwrap().reason;
        let Some(frame) = read(wire) else {
            return holds(reason.is_drop() || reason == Reason::Suspended, || {
                format!("{reason}: cannot be read")
            });
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
            Reason::Tracked => holds(
                asked(direction) || asked(back) && self.passed.contains(&(back, tuple)),
                || format!("{direction:?} {tuple:?}: tracked, and neither allowed nor an answer"),
            )?,
            // What always passes is told so too where it cannot be recorded.
            Reason::ShareFull | Reason::TableFull
                if via == Via::Own || self.known.contains(&tuple.1) => {}
            Reason::PolicyAllowed
            | Reason::DefaultAllowed
            | Reason::ShareFull
            | Reason::TableFull => {
                holds(asked(direction), || {
                    format!("{direction:?} {tuple:?}: {reason}, and not allowed")
                })?;
            }
            _ => {}
        }
        if !reason.is_drop() {
            self.passed.insert((direction, tuple));
        }
        Ok(())
    }
}
