//! Documents put together into policies.
//!
//! Amazon's controller cuts a policy's pods, rules and isolation apart independently, so nothing is judged before the
//! parts are united: documents of equal policyRef and equal group are one policy. Marks ([`Part`]) say when a set is
//! complete; until then the set before stays as a whole.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    sync::Arc,
};

use crate::documents::{Condition, Directions, Document, Identity, Kind, Part, PolicyRef};

/// What makes two documents parts of one policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Kind of the documents; the two kinds never mix.
    pub kind: Kind,
    /// The policy.
    pub policy: PolicyRef,
    /// The group within it.
    pub group: Option<String>,
}

impl PolicyKey {
    /// Of a document.
    pub fn of(document: &Document) -> Self {
        Self {
            kind: document.identity.kind,
            policy: document.policy.clone(),
            group: document.group.clone(),
        }
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.policy.fmt(f)?;
        self.group
            .as_ref()
            .map_or(Ok(()), |group| write!(f, "#{group}"))
    }
}

/// One policy: all its parts, in the natural order of their names (`p-2` before `p-10`), which is the order of its
/// rules where that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which policy.
    pub key: PolicyKey,
    /// Its parts.
    pub documents: Vec<Arc<Document>>,
}

impl Policy {
    /// A policy of these parts, in their natural order.
    pub fn of(key: PolicyKey, mut documents: Vec<Arc<Document>>) -> Self {
        in_order(&mut documents);
        Self { key, documents }
    }

    /// Whether every part is there of each version that its marks name.
    pub fn is_complete(&self) -> bool {
        let mut parts: BTreeMap<&Part, u32> = BTreeMap::new();
        for part in self.documents.iter().filter_map(|d| d.part.as_ref()) {
            *parts.entry(part).or_default() += 1;
        }
        parts.iter().all(|(part, count)| *count >= part.of)
    }

    /// The directions that any part isolates.
    pub fn isolates(&self) -> Directions<bool> {
        self.documents
            .iter()
            .fold(Directions::default(), |all, d| Directions {
                ingress: all.ingress || d.isolates.ingress,
                egress: all.egress || d.isolates.egress,
            })
    }

    /// Its cluster rules hold in list order; only where every part says so.
    pub fn ordered(&self) -> bool {
        self.documents.iter().all(|d| d.ordered)
    }
}

/// The policies of the node.
pub type Policies = BTreeMap<PolicyKey, Arc<Policy>>;

/// Policies, and how each document stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembly {
    /// What is in force.
    pub policies: Policies,
    /// Applied, ServiceWider, Unsupported or Incomplete, with what to know about it.
    pub conditions: BTreeMap<Identity, (Condition, String)>,
}

/// Puts the documents in force (one version of each identity) together. `previous` is what the last call gave, or what
/// was in force before a restart: a policy whose marked parts are not complete keeps its complete set of then. Where there
/// was none, the parts of the newest version that are there are in force: they isolate already, and parts only add.
pub fn assemble(
    documents: impl IntoIterator<Item = Arc<Document>>,
    previous: &Policies,
) -> Assembly {
    let mut sets: BTreeMap<PolicyKey, Vec<Arc<Document>>> = BTreeMap::new();
    for document in documents {
        sets.entry(PolicyKey::of(&document))
            .or_default()
            .push(document);
    }
    let mut out = Assembly::default();
    for (key, mut documents) in sets {
        in_order(&mut documents);
        match choose(&documents) {
            Choice::All => out.conditions.extend(documents.iter().map(|d| applied(d))),
            Choice::Generation(part) => {
                for document in &documents {
                    out.conditions.insert(
                        document.identity.clone(),
                        match &document.part {
                            Some(other) if *other != part => superseded(other, &part),
                            _ => applied(document).1,
                        },
                    );
                }
                documents.retain(|d| d.part.as_ref().is_none_or(|p| *p == part));
            }
            Choice::Wait(newest, message) => {
                let before = previous.get(&key).filter(|policy| policy.is_complete());
                for document in &documents {
                    let marked = document.part.is_some() || before.is_some();
                    let condition = if marked {
                        (Condition::Incomplete, message.clone())
                    } else {
                        applied(document).1
                    };
                    out.conditions.insert(document.identity.clone(), condition);
                }
                if let Some(before) = before {
                    out.policies.insert(key, Arc::clone(before));
                    continue;
                }
                documents.retain(|d| d.part.as_ref().is_none_or(|part| *part == newest));
            }
        }
        // An unchanged policy stays the very same value, so that it is cheap to see that nothing changed.
        let policy = match previous.get(&key) {
            Some(before) if before.documents == documents => Arc::clone(before),
            _ => Arc::new(Policy {
                key: key.clone(),
                documents,
            }),
        };
        out.policies.insert(key, policy);
    }
    out
}

fn applied(document: &Document) -> (Identity, (Condition, String)) {
    let condition = if !document.unsupported.is_empty() {
        (
            Condition::Unsupported,
            format!(
                "not enforced, lets nothing pass: {}",
                document.unsupported.join(", ")
            ),
        )
    } else if let Some(services) = &document.service_wider {
        (
            Condition::ServiceWider,
            format!("allowed although not every backend is: {services}"),
        )
    } else if let Some(pods) = &document.host_network_peer {
        (
            Condition::HostNetworkPeer,
            format!("peers of the host's network, their whole node is meant: {pods}"),
        )
    } else {
        (Condition::Applied, String::new())
    };
    (document.identity.clone(), condition)
}

fn superseded(part: &Part, by: &Part) -> (Condition, String) {
    (
        Condition::Incomplete,
        format!(
            "part of generation {}; generation {} is in force",
            part.generation, by.generation
        ),
    )
}

enum Choice {
    All,
    Generation(Part),
    /// None is complete: the newest, and what to say.
    Wait(Part, String),
}

/// Which of a set's documents are to be in force.
fn choose(documents: &[Arc<Document>]) -> Choice {
    let mut parts: BTreeMap<&Part, u32> = BTreeMap::new();
    for part in documents.iter().filter_map(|d| d.part.as_ref()) {
        *parts.entry(part).or_default() += 1;
    }
    if parts.is_empty() {
        return Choice::All;
    }
    let newest =
        |a: &&Part, b: &&Part| natural(&a.generation, &b.generation).then_with(|| a.cmp(b));
    let complete = parts
        .iter()
        .filter(|(part, count)| **count == part.of)
        .map(|(part, _)| *part)
        .max_by(newest);
    match complete {
        Some(part) => Choice::Generation(part.clone()),
        None => {
            let Some(last) = parts.keys().copied().max_by(newest).cloned() else {
                return Choice::All;
            };
            let shown: Vec<_> = parts
                .iter()
                .map(|(part, count)| {
                    format!("{count} of {} of generation {}", part.of, part.generation)
                })
                .collect();
            Choice::Wait(last, format!("parts are there: {}", shown.join(", ")))
        }
    }
}

fn in_order(documents: &mut [Arc<Document>]) {
    documents.sort_by(|a, b| {
        natural(&a.identity.name, &b.identity.name).then_with(|| a.identity.cmp(&b.identity))
    });
}

/// Order of names in which runs of digits count as numbers.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let (Some(x), Some(y)) = (a.first(), b.first()) else {
            return a.len().cmp(&b.len());
        };
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (m, n) = (digits(a), digits(b));
            let (p, q) = (significant(&a[..m]), significant(&b[..n]));
            let order = p
                .len()
                .cmp(&q.len())
                .then_with(|| p.cmp(q))
                .then_with(|| m.cmp(&n));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[m..], &b[n..]);
        } else if x != y {
            return x.cmp(y);
        } else {
            (a, b) = (&a[1..], &b[1..]);
        }
    }
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|b| b.is_ascii_digit()).count()
}

fn significant(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|b| **b == b'0').count()..]
}

/// One place that holds a document: a file of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Path of the file within the store.
    pub path: String,
    /// The document.
    pub document: Arc<Document>,
}

/// Which of several equal identities is in force: the one whose file was in force before, else the first file by name,
/// and within one file the first. Returns the chosen ones, and the others as Duplicate with the file that won.
pub fn unique(
    placed: impl IntoIterator<Item = Placed>,
    in_force: &BTreeMap<Identity, String>,
) -> (BTreeMap<Identity, Placed>, Vec<(Placed, String)>) {
    let mut chosen: BTreeMap<Identity, Placed> = BTreeMap::new();
    let mut others = Vec::new();
    for place in placed {
        let identity = place.document.identity.clone();
        let held = in_force.get(&identity);
        match chosen.entry(identity) {
            Entry::Vacant(entry) => {
                entry.insert(place);
            }
            Entry::Occupied(mut entry) => {
                let rank = |p: &Placed| (held != Some(&p.path), p.path.clone());
                let loser = if rank(&place) < rank(entry.get()) {
                    entry.insert(place)
                } else {
                    place
                };
                others.push(loser);
            }
        }
    }
    let others = others
        .into_iter()
        .map(|place| {
            let winner = chosen
                .get(&place.document.identity)
                .map(|p| p.path.clone())
                .unwrap_or_default();
            (place, winner)
        })
        .collect();
    (chosen, others)
}
