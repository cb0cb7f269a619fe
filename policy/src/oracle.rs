//! The slow and obvious answer, straight from the documents. It shares types with the compiler and nothing else: no
//! tables, no prefix arithmetic, no port maps.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use crate::{
    documents::{Action, Document, Rule, Tier},
    prefix::Prefix,
    select::{Endpoint, Facts},
    sets::PolicyKey,
    tables::Direction,
};

/// A packet's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Direction, the pod's.
    pub direction: Direction,
    /// The other side.
    pub peer: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// Destination port; 0 where the protocol has none.
    pub port: u16,
}

/// What the documents say of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// A rule allows it.
    Allowed,
    /// A rule of a cluster policy refuses it.
    Denied,
    /// A NetworkPolicy isolates the direction, and no rule allows it.
    NotAllowed,
    /// Nothing speaks of it: the mode decides.
    Unsaid,
}

/// Whether the packet passes. `strict`: what happens in a direction that nothing isolates is deny.
pub fn allows(
    endpoint: &Endpoint,
    documents: &[Arc<Document>],
    facts: &Facts,
    question: Question,
    strict: bool,
) -> bool {
    match ruling(endpoint, documents, facts, question) {
        Ruling::Allowed => true,
        Ruling::Denied | Ruling::NotAllowed => false,
        Ruling::Unsaid => !strict,
    }
}

/// What the documents say of the packet.
pub fn ruling(
    endpoint: &Endpoint,
    documents: &[Arc<Document>],
    facts: &Facts,
    question: Question,
) -> Ruling {
    let mine = mine(endpoint, documents, facts);
    match tier(&mine, documents, Tier::Admin, question) {
        Some(Action::Accept) => return Ruling::Allowed,
        Some(Action::Deny) => return Ruling::Denied,
        Some(Action::Pass) | None => {}
    }
    if isolated_by(&mine, question.direction) {
        let allowed = mine
            .iter()
            .filter(|d| d.tier == Tier::NetworkPolicy)
            .any(|d| {
                d.rules(question.direction)
                    .iter()
                    .any(|rule| matches(rule, question))
            });
        return if allowed {
            Ruling::Allowed
        } else {
            Ruling::NotAllowed
        };
    }
    match tier(&mine, documents, Tier::Baseline, question) {
        Some(Action::Accept) => Ruling::Allowed,
        Some(Action::Deny) => Ruling::Denied,
        Some(Action::Pass) | None => Ruling::Unsaid,
    }
}

/// Whether a NetworkPolicy isolates the endpoint in a direction.
pub fn isolates(
    endpoint: &Endpoint,
    documents: &[Arc<Document>],
    facts: &Facts,
    direction: Direction,
) -> bool {
    isolated_by(&mine(endpoint, documents, facts), direction)
}

fn isolated_by(mine: &[&Document], direction: Direction) -> bool {
    mine.iter().any(|d| match direction {
        Direction::Ingress => d.isolates.ingress,
        Direction::Egress => d.isolates.egress,
    })
}

/// All documents of every policy that selects the endpoint through any of its documents.
fn mine<'a>(
    endpoint: &Endpoint,
    documents: &'a [Arc<Document>],
    facts: &Facts,
) -> Vec<&'a Document> {
    let selecting: Vec<PolicyKey> = documents
        .iter()
        .filter(|d| selects(d, endpoint, facts))
        .map(|d| PolicyKey::of(d))
        .collect();
    documents
        .iter()
        .map(AsRef::as_ref)
        .filter(|d| selecting.contains(&PolicyKey::of(d)))
        .collect()
}

fn selects(document: &Document, endpoint: &Endpoint, facts: &Facts) -> bool {
    let named = document
        .pods
        .iter()
        .any(|p| *p.namespace == *endpoint.namespace && *p.name == *endpoint.name);
    let labelled = || {
        document.group.is_none()
            && !facts.is_settled(&PolicyKey::of(document), endpoint.id)
            && document.identity.namespace == endpoint.namespace
            && document
                .selector
                .as_ref()
                .is_some_and(|s| s.matches(endpoint.labels.as_ref()))
    };
    named || labelled()
}

/// The first priority of a tier that says anything.
fn tier(
    mine: &[&Document],
    all: &[Arc<Document>],
    tier: Tier,
    question: Question,
) -> Option<Action> {
    let priorities: BTreeSet<u16> = mine.iter().map(|d| d.priority).collect();
    priorities.into_iter().find_map(|priority| {
        let level: Vec<&&Document> = mine
            .iter()
            .filter(|d| d.tier == tier && d.priority == priority)
            .collect();
        let policies: Vec<PolicyKey> = level.iter().map(|d| PolicyKey::of(d)).collect();
        // Action's own order is Deny, Accept, Pass.
        policies
            .iter()
            .filter_map(|key| {
                let parts: Vec<&&Document> = level
                    .iter()
                    .filter(|d| PolicyKey::of(d) == *key)
                    .copied()
                    .collect();
                let ordered = all
                    .iter()
                    .filter(|d| PolicyKey::of(d) == *key)
                    .all(|d| d.ordered);
                let mut matching = parts
                    .iter()
                    .flat_map(|d| d.rules(question.direction))
                    .filter(|rule| matches(rule, question))
                    .map(|rule| rule.action);
                if ordered {
                    matching.next()
                } else {
                    matching.min()
                }
            })
            .min()
    })
}

fn matches(rule: &Rule, question: Question) -> bool {
    let peer = within(&rule.cidr, question.peer)
        && !rule.except.iter().any(|hole| within(hole, question.peer));
    let port = rule.ports.is_empty()
        || rule.ports.iter().any(|entry| {
            let in_range = |(first, last): (u16, u16)| (first..=last).contains(&question.port);
            match (entry.protocol, entry.ports) {
                (None, None) => true,
                (None, Some(range)) => [6, 17, 132].contains(&question.protocol) && in_range(range),
                (Some(protocol), None) => protocol.number() == question.protocol,
                (Some(protocol), Some(range)) => {
                    protocol.number() == question.protocol && in_range(range)
                }
            }
        });
    peer && port
}

/// Bit by bit.
fn within(block: &Prefix, address: IpAddr) -> bool {
    let bits = |address: IpAddr| -> Vec<bool> {
        let bytes = match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        bytes
            .iter()
            .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1))
            .collect()
    };
    let (first, wanted) = (bits(block.address()), bits(address));
    first.len() == wanted.len()
        && first
            .iter()
            .zip(&wanted)
            .take(block.len() as usize)
            .all(|(a, b)| a == b)
}
