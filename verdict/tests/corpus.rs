//! Every case of `tests/corpus` on the model; every reason is met by some case.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use verdict::Reason;
use verdict_testkit::case::ModelWorld;
use verdict_testkit::{Case, Step};

fn files() -> Vec<(String, Vec<Case>)> {
    Case::read_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")).unwrap()
}

#[test]
fn every_case_comes_out_as_it_says() {
    let mut failures = Vec::new();
    let mut count = 0;
    for (file, cases) in files() {
        for case in cases {
            count += 1;
            if let Err(failure) = case.replay(&mut ModelWorld::default()) {
                failures.push(format!("{file}: {failure}"));
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {count} cases:\n{}",
        failures.len(),
        failures.join("\n")
    );
    println!("{count} cases");
}

#[test]
fn every_reason_is_met() {
    let mut met = BTreeSet::new();
    for (_, cases) in files() {
        for (_, step) in cases.iter().flat_map(|c| &c.steps) {
            if let Step::Packet { reason, .. } = step {
                met.insert(*reason);
            }
        }
    }
    let never: Vec<_> = Reason::ALL.iter().filter(|r| !met.contains(r)).collect();
    assert!(never.is_empty(), "no case meets {never:?}");
}

#[test]
fn names_are_used_once() {
    let mut names = BTreeSet::new();
    for (file, cases) in files() {
        for case in cases {
            assert!(names.insert(case.name.clone()), "{file}: {}", case.name);
        }
    }
}
