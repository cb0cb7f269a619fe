//! Random documents and random packets: what the documents say by the oracle is what the real programs do, action and reason.
//!
//! The documents are text, read as the companion reads them, compiled, planned and written into the kernel's maps by the
//! companion's own code; the packets run by BPF_PROG_TEST_RUN at both hooks. The truth never sees a table: `decide` asks the oracle
//! where the programs look up policy ([`truth`]), and for well-made packets that open a flow not even `decide` is asked ([`plain`]).
//!
//! `PODGATE_PAIRS` sets how many pairs of (documents, packet), `PODGATE_PAIRS_SEED` which: `scripts/million-pairs.sh`.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs)]

#[path = "million/carry.rs"]
mod carry;
#[path = "../../companion/src/enforcement/kernel.rs"]
#[allow(
    dead_code,
    reason = "the companion's own: this takes what applies policy"
)]
mod companion;
#[path = "million/documents.rs"]
mod documents;
mod kernel;
#[path = "million/plain.rs"]
mod plain;
#[path = "million/truth.rs"]
mod truth;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{IFINDEX, Kernel};
use plain::Plain;
use policy::documents::Labels;
use policy::{Document, Endpoint, EndpointId, Facts, Policies, assemble};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use verdict::layout::Direction;
use verdict::{PolicyState, Reason};
use verdict_testkit::case::Change;
use verdict_testkit::generate::{Source, beginning};
use verdict_testkit::{Via, Wire, World as _};

use carry::Carrier;
use companion::Target;
use policy::oracle::Ruling;
use truth::{Policy, Truth};

/// Changes of documents in a chapter: then everything is made anew.
const CHANGES: usize = 20;
/// Packets between two changes.
const PACKETS: usize = 100;
/// Flows that are remembered, to be met again after a change.
const REMEMBERED: usize = 16;
/// Seconds that pass with a change, so that no fragment of before counts; sums stay away from every time-out.
const PAUSE: u32 = 42;

/// What was run.
#[derive(Default)]
struct Counts {
    pairs: u64,
    documents: u64,
    sets: u64,
    /// Pairs whose outcome followed from the documents alone.
    without_decide: u64,
    met: BTreeMap<(Direction, Reason), u64>,
    writes: u64,
    differences: Vec<String>,
}

/// One run from an empty kernel: some changes of documents, packets after each.
struct Chapter<'a> {
    kernel: &'a mut Kernel,
    carrier: Carrier,
    truth: Truth,
    others: Vec<Endpoint>,
    text: serde_json::Value,
    remembered: Vec<Plain>,
    next_own: u16,
    counts: &'a mut Counts,
    seed: u64,
}

/// Four pods, labelled a, b, not at all, and unknown.
fn endpoints(ours: usize, endpoint_id: u32) -> Vec<Endpoint> {
    let labels = |value: &str| Some(Labels::from([("app".to_owned(), value.to_owned())]));
    let all = [labels("a"), labels("b"), Some(Labels::new()), None];
    all.into_iter()
        .enumerate()
        .map(|(n, labels)| Endpoint {
            // Others have no entry: policy is compiled for them, and nobody carries their policy states out.
            id: EndpointId(if n == ours {
                endpoint_id
            } else {
                u32::MAX - n as u32
            }),
            namespace: "default".to_owned(),
            name: format!("pod-{n}"),
            labels,
        })
        .collect()
}

impl<'a> Chapter<'a> {
    fn begin(
        kernel: &'a mut Kernel,
        source: &mut Source<'_>,
        seed: u64,
        counts: &'a mut Counts,
    ) -> Self {
        kernel.reset();
        let changes: Vec<Change> = beginning()
            .into_iter()
            .filter(|change| !matches!(change, Change::PolicyState(_)))
            .collect();
        changes.iter().for_each(|c| kernel.change(c).unwrap());
        let endpoint_id = kernel
            .endpoints
            .entry(IFINDEX)
            .unwrap()
            .unwrap()
            .endpoint_id;
        let carrier = Carrier::open(&kernel.store, &kernel.bpf).unwrap();
        let ours = usize::from(source.byte() % 4);
        let mut others = endpoints(ours, endpoint_id);
        let endpoint = others.remove(ours);
        let policy = Policy {
            documents: Vec::new(),
            endpoint,
            facts: Facts::default(),
        };
        let mut truth = Truth::new(policy);
        changes.iter().for_each(|c| truth.model.change(c).unwrap());
        Self {
            kernel,
            carrier,
            truth,
            others,
            text: serde_json::Value::Null,
            remembered: Vec::new(),
            next_own: 1024,
            counts,
            seed,
        }
    }

    /// Other documents come into force, in both worlds.
    fn change(&mut self, source: &mut Source<'_>) {
        self.text = documents::documents(source);
        let reading = policy::documents::read(self.text.to_string().as_bytes());
        let all: Vec<Arc<Document>> = reading
            .documents
            .into_iter()
            .map(|one| Arc::new(one.unwrap()))
            .collect();
        self.counts.documents += all.len() as u64;
        self.counts.sets += 1;
        let policies = assemble(all.iter().cloned(), &Policies::new()).policies;
        let mut facts = Facts::default();
        for key in policies.keys() {
            if source.rarely(4) {
                facts.settle(key, self.truth.policy.endpoint.id);
            }
        }
        let mode = if source.rarely(2) {
            PolicyState::STRICT
        } else {
            0
        };
        self.truth.mode = mode
            | if source.rarely(16) {
                PolicyState::SUSPENDED
            } else {
                0
            };

        let mut endpoints = self.others.clone();
        endpoints.push(self.truth.policy.endpoint.clone());
        self.truth.policy.documents = all;
        self.truth.policy.facts = facts.clone();
        self.truth.policy_changed();
        let whom = (self.truth.policy.endpoint.id, self.kernel.endpoint_index());
        let target = Target {
            ifindex: IFINDEX,
            extra: self.truth.mode,
        };
        let writes = self
            .carrier
            .put_in_force(&endpoints, policies, &facts, whom, target)
            .unwrap();
        self.counts.writes += writes as u64;
        let pause = Change::Wait(PAUSE);
        self.truth.model.change(&pause).unwrap();
        self.kernel.change(&pause).unwrap();
    }

    fn packet(&mut self, source: &mut Source<'_>) {
        match source.byte() % 8 {
            0..=2 => {
                let direction = source.direction();
                let via = source.via(direction);
                let wire = source.frame(direction);
                self.meet(direction, via, &wire, None);
            }
            3 if !self.remembered.is_empty() => {
                let place = usize::from(source.byte()) % self.remembered.len();
                let plain = self.remembered[place];
                let back = plain.direction.reverse();
                match source.byte() % 4 {
                    0 => self.meet(plain.direction, Via::Uplink, &plain.opening(), None),
                    1 => self.meet(back, Via::Uplink, &plain.answer(), None),
                    2 => self.meet(back, Via::Uplink, &plain.error(source), None),
                    _ => {
                        for part in plain.fragments() {
                            self.meet(plain.direction, Via::Uplink, &part, None);
                        }
                    }
                }
            }
            _ => {
                let plain = Plain::new(source, self.next_own);
                self.next_own = self.next_own.checked_add(1).unwrap_or(1024);
                self.meet(plain.direction, Via::Uplink, &plain.opening(), Some(&plain));
                if source.rarely(4) {
                    self.meet(
                        plain.direction.reverse(),
                        Via::Uplink,
                        &plain.answer(),
                        None,
                    );
                }
                if self.remembered.len() == REMEMBERED {
                    self.remembered.remove(0);
                }
                self.remembered.push(plain);
            }
        }
    }

    /// Sends one packet through both worlds. `opens`: what it must meet follows from the documents.
    fn meet(&mut self, direction: Direction, via: Via, wire: &Wire, opens: Option<&Plain>) {
        let via = if direction == Direction::Ingress && !self.kernel.carries_ingress_interface {
            Via::Host
        } else {
            via
        };
        if wire.not_carried().is_some() || wire.gso_size != 0 && !self.kernel.carries_gso {
            return;
        }
        let said = self.truth.packet(direction, via, wire);
        let met = self.kernel.packet(direction, via, wire);
        self.counts.pairs += 1;
        *self.counts.met.entry((direction, said.reason)).or_default() += 1;
        if met.as_ref() != Ok(&said) {
            self.differs(
                &format!("{direction:?} {via:?}: the truth is {said:?}, the programs say {met:?}"),
                wire,
            );
        }
        // A random frame before may have opened the very flow.
        let known = matches!(said.reason, Reason::Tracked | Reason::FlowRefused);
        if let Some(plain) = opens.filter(|_| !known) {
            self.counts.without_decide += 1;
            let reason = self.expected(plain);
            if met.as_ref().map(|m| m.reason) != Ok(reason) {
                self.differs(
                    &format!("{plain:?}: the documents say {reason:?}, the programs {met:?}"),
                    wire,
                );
            }
        }
    }

    fn expected(&self, plain: &Plain) -> Reason {
        if self.truth.mode & PolicyState::SUSPENDED != 0 {
            return Reason::Suspended;
        }
        match self.truth.policy.say(plain.question()) {
            Ruling::Allowed => Reason::PolicyAllowed,
            Ruling::Denied | Ruling::NotAllowed => Reason::PolicyDenied,
            Ruling::Unsaid if self.truth.mode & PolicyState::STRICT != 0 => Reason::StrictDefault,
            Ruling::Unsaid => Reason::DefaultAllowed,
        }
    }

    fn differs(&mut self, what: &str, wire: &Wire) {
        let mut bytes = String::new();
        wire.bytes
            .0
            .iter()
            .for_each(|b| write!(bytes, "{b:02x}").unwrap());
        let (seed, mode, pod) = (self.seed, self.truth.mode, &self.truth.policy.endpoint.name);
        self.counts.differences.push(format!(
            "{what}\n  chapter {seed:#x}, {pod}, mode {mode:#x}, pair {}\n  frame {bytes}\n  documents {}",
            self.counts.pairs, self.text
        ));
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Random bytes that belong to a chapter.
fn bytes(seed: u64) -> Vec<u8> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut bytes = vec![0; CHANGES * (600 + PACKETS * 80)];
    TestRng::from_seed(RngAlgorithm::ChaCha, &key).fill_bytes(&mut bytes);
    bytes
}

#[test]
fn kernel_does_what_the_oracle_says_of_random_documents_and_packets() {
    kernel::own_namespace();
    let mut kernel = Kernel::load();
    // An emulated machine (scripts/vm-test.sh) takes many times as long.
    let few = if std::env::var_os("PODGATE_VM").is_some() {
        6_000
    } else {
        20_000
    };
    let wanted = number("PODGATE_PAIRS").unwrap_or(few);
    let first = number("PODGATE_PAIRS_SEED").unwrap_or(1);
    let (mut counts, mut chapters, begin) = (Counts::default(), 0, Instant::now());
    while counts.pairs < wanted && counts.differences.len() < 5 {
        let seed = first.wrapping_add(chapters);
        let bytes = bytes(seed);
        let mut source = Source::new(&bytes);
        let mut chapter = Chapter::begin(&mut kernel, &mut source, seed, &mut counts);
        for _ in 0..CHANGES {
            chapter.change(&mut source);
            for _ in 0..PACKETS {
                chapter.packet(&mut source);
            }
        }
        assert!(!source.is_empty(), "chapter {seed:#x} needs more bytes");
        chapters += 1;
    }
    let took = begin.elapsed();
    report(&counts, first, chapters, took);
    assert!(
        counts.differences.is_empty(),
        "{} differences:\n{}",
        counts.differences.len(),
        counts.differences.join("\n")
    );
    // Random or not: what never came was not tested.
    for reason in [
        Reason::PolicyAllowed,
        Reason::PolicyDenied,
        Reason::StrictDefault,
        Reason::DefaultAllowed,
        Reason::Tracked,
        Reason::FlowRefused,
        Reason::LaterFragment,
        Reason::IcmpRelated,
        Reason::IcmpUnrelated,
    ] {
        for direction in [Direction::Ingress, Direction::Egress] {
            assert!(
                counts.met.contains_key(&(direction, reason)),
                "no {direction:?} packet met {reason}"
            );
        }
    }
}

fn report(counts: &Counts, first: u64, chapters: u64, took: Duration) {
    println!(
        "{} pairs of (documents, packet), {} differences",
        counts.pairs,
        counts.differences.len()
    );
    println!(
        "seed {first:#x}, {chapters} chapters, {} sets of documents with {} documents, {} writes to the maps, {:.0} s",
        counts.sets,
        counts.documents,
        counts.writes,
        took.as_secs_f64()
    );
    println!(
        "{} of them opened a flow and followed from the documents alone; the others by decide() with the oracle in it",
        counts.without_decide
    );
    println!("{:<24} {:>10} {:>10}", "reason", "ingress", "egress");
    for reason in Reason::ALL {
        let of = |direction| counts.met.get(&(direction, *reason)).copied().unwrap_or(0);
        let (ingress, egress) = (of(Direction::Ingress), of(Direction::Egress));
        if ingress + egress > 0 {
            println!("{:<24} {ingress:>10} {egress:>10}", reason.name());
        }
    }
}
