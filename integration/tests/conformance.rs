//! A short selection of the traffic conformance (`scripts/conformance.sh` runs all of it), and that it can fail.
#![forbid(unsafe_code)]

use integration::conformance::{self, Case, Mode, Options};

const OPTIONS: fn(&[Mode]) -> Options = |modes| Options {
    modes: modes.to_vec(),
    verbose: false,
};

#[test]
fn the_short_selection_has_no_wrong_connection() {
    let mut cases = conformance::all().expect("cases that can be read");
    cases.retain(|case| case.short);
    let report =
        conformance::run(&cases, &OPTIONS(&[Mode::Standard, Mode::Strict])).expect("a run");
    println!("{report}");
    assert!(report.is_good(), "{report}");
}

#[test]
fn names_of_cases_are_unique() {
    let cases = conformance::all().expect("cases that can be read");
    let mut names: Vec<_> = cases.iter().map(|case| &case.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(all > 300, "a few hundred: {all}");
}

#[test]
fn a_truth_that_does_not_hold_is_noticed() {
    let wrong = |expect: &str| -> Case {
        serde_norway::from_str(&format!(
            "{{name: wrong, steps: [{{policies: {{x/p: {{podSelector: {{}}, policyTypes: [Ingress]}}}}, expect: {expect}}}]}}"
        ))
        .expect("a case")
    };
    let cases = [
        wrong("{ingress: {'x/a, x/b': [], x/c: ['y/a tcp/80 v6']}}"),
        wrong("{ingress: {'x/*': [], 'y/c': ['*', 'deny x/b udp/81 v4']}}"),
    ];
    let report = conformance::run(&cases, &OPTIONS(&[Mode::Standard])).expect("a run");
    assert_eq!(report.wrong, 2, "{report}");
    assert_eq!(report.failures.len(), 2, "{report}");
}
