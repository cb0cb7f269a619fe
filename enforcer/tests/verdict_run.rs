//! The corpus of `verdict/tests/corpus` on the real programs: equal action, equal reason, equal counters.
#![allow(missing_docs)]

mod kernel;

use std::path::Path;

use kernel::{Kernel, LeftOut};
use verdict::model::Case;
use verdict::model::Step;

/// Where a case says what the programs cannot be given here; the model alone replays it.
fn not_carried<'a>(kernel: &Kernel, case: &'a Case) -> Option<&'a str> {
    let gso = |step: &Step| matches!(step, Step::Packet { wire, .. } if wire.gso_size != 0);
    if let Some(why) = case.not_carried() {
        Some(why)
    } else if !kernel.carries_ingress_interface && case.needs_ingress_interface() {
        Some("an ingress interface (this kernel's BPF_PROG_TEST_RUN sets none)")
    } else if !kernel.carries_gso && case.steps.iter().any(|(_, step)| gso(step)) {
        Some("a segment size (this kernel's BPF_PROG_TEST_RUN sets none)")
    } else {
        None
    }
}

#[test]
fn the_programs_answer_as_the_model_does() {
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
            packets += case.steps.iter().filter(|(_, s)| matches!(s, Step::Packet { .. })).count();
            if let Err(failure) = case.replay(&mut kernel) {
                failures.push(format!("{file}: {failure}"));
            }
        }
    }
    left_out.print();
    println!("{ran} cases, {packets} packets on the real programs, {} cases left out", left_out.len());
    assert!(failures.is_empty(), "{} of {ran} cases:\n{}", failures.len(), failures.join("\n"));
    assert!(ran > 100, "only {ran} cases ran");
}

