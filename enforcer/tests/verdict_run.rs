//! The corpus of `verdict/tests/corpus` on the real programs: equal action, equal reason, equal counters.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(missing_docs)]

mod kernel;

use std::path::Path;

use kernel::{Kernel, LeftOut};
use verdict::PolicyState;
use verdict::layout::Direction;
use verdict_testkit::case::{Change, ModelWorld};
use verdict_testkit::generate::{Source, beginning};
use verdict_testkit::{Case, Outcome, Step, Via, Wire, World};

/// The model where no packet towards the pod came in by an interface.
struct WithoutInterfaces(ModelWorld);

impl World for WithoutInterfaces {
    fn change(&mut self, change: &Change) -> Result<(), String> {
        self.0.change(change)
    }

    fn packet(&mut self, direction: Direction, via: Via, wire: &Wire) -> Result<Outcome, String> {
        let via = if direction == Direction::Ingress {
            Via::Host
        } else {
            via
        };
        self.0.packet(direction, via, wire)
    }

    fn flows(&mut self) -> Result<usize, String> {
        self.0.flows()
    }
}

/// Why the programs cannot be given a case here, if they cannot; the model alone replays it then.
fn not_carried<'a>(kernel: &Kernel, case: &'a Case) -> Option<&'a str> {
    let gso = |step: &Step| matches!(step, Step::Packet { wire, .. } if wire.gso_size != 0);
    // Most cases come out the same without an interface: those run.
    let asks_for_interfaces = || {
        case.replay(&mut WithoutInterfaces(ModelWorld::default()))
            .is_err()
    };
    if let Some(why) = case.not_carried() {
        Some(why)
    } else if !kernel.carries_ingress_interface
        && case.needs_ingress_interface()
        && asks_for_interfaces()
    {
        Some("an ingress interface (this kernel's BPF_PROG_TEST_RUN sets none)")
    } else if !kernel.carries_gso && case.steps.iter().any(|(_, step)| gso(step)) {
        Some("a segment size (this kernel's BPF_PROG_TEST_RUN sets none)")
    } else {
        None
    }
}

#[test]
fn kernel_answers_as_the_model_does() {
    kernel::own_namespace();
    let mut kernel = Kernel::load();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../verdict/tests/corpus");
    let (mut ran, mut packets, mut left_out, mut failures) = (0, 0, LeftOut::default(), Vec::new());
    for (file, cases) in Case::read_folder(&folder).unwrap() {
        for case in cases {
            if let Some(why) = not_carried(&kernel, &case) {
                left_out.add(why, &case.name);
                continue;
            }
            kernel.reset();
            ran += 1;
            packets += case
                .steps
                .iter()
                .filter(|(_, s)| matches!(s, Step::Packet { .. }))
                .count();
            if let Err(failure) = case.replay(&mut kernel) {
                failures.push(format!("{file}: {failure}"));
            }
        }
    }
    left_out.print();
    println!(
        "{ran} cases, {packets} packets on the real programs, {} cases left out",
        left_out.len()
    );
    assert!(
        failures.is_empty(),
        "{} of {ran} cases:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(ran > 100, "only {ran} cases ran");
}

/// Random bytes of a seed (SplitMix64).
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..length.div_ceil(8))
        .flat_map(|_| next().to_ne_bytes())
        .collect()
}

/// Makes the same change in both worlds.
fn change_both(model: &mut ModelWorld, kernel: &mut Kernel, change: &Change) {
    model.change(change).unwrap();
    kernel.change(change).unwrap();
}

/// A walk of random packets and changes; the packets that it had.
fn walk(kernel: &mut Kernel, seed: u64) -> Result<usize, String> {
    kernel.reset();
    let mut model = ModelWorld::default();
    let (mut revision, mut policy_state, mut packets) = (1, PolicyState(0), 0);
    let bytes = bytes(seed, 2_000);
    let mut source = Source::new(&bytes);
    let mut first = beginning().into_iter();
    while !source.is_empty() {
        let change = match first.next() {
            Some(change) => Some(change),
            None => source.rarely(4).then(|| source.change(&mut revision)),
        };
        if let Some(change) = change {
            change_both(&mut model, kernel, &change);
            match change {
                Change::PolicyState(new) => policy_state = new,
                // A new endpoint id begins without a word.
                Change::Endpoint(_) => {
                    change_both(&mut model, kernel, &Change::PolicyState(policy_state));
                }
                _ => {}
            }
            continue;
        }
        let direction = source.direction();
        let mut via = source.via(direction);
        if !kernel.carries_ingress_interface && direction == Direction::Ingress {
            via = Via::Host;
        }
        let wire = source.frame(direction);
        if wire.not_carried().is_some() || wire.gso_size != 0 && !kernel.carries_gso {
            continue;
        }
        packets += 1;
        let (said, met) = (
            model.packet(direction, via, &wire)?,
            kernel.packet(direction, via, &wire)?,
        );
        if said != met {
            return Err(format!(
                "packet {packets}: the model says {said:?}, the programs {met:?}: {via:?} {wire:?}"
            ));
        }
    }
    let (said, met) = (model.flows()?, kernel.flows()?);
    if said == met {
        Ok(packets)
    } else {
        Err(format!("the model holds {said} flows, the programs {met}"))
    }
}

/// `PODGATE_WALKS` sets how many; `PODGATE_WALK_SEED` repeats one.
#[test]
fn random_walks_end_as_in_the_model() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    kernel::own_namespace();
    let mut kernel = Kernel::load();
    let seeds = match number("PODGATE_WALK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PODGATE_WALKS").unwrap_or(200),
    };
    let (mut packets, mut failures) = (0, Vec::new());
    for seed in seeds.clone() {
        match walk(&mut kernel, seed) {
            Ok(n) => packets += n,
            Err(e) => failures.push(format!("PODGATE_WALK_SEED={seed}: {e}")),
        }
    }
    println!("{} walks, {packets} packets", seeds.end - seeds.start);
    failures.truncate(5);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
