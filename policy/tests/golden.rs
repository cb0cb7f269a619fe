//! Golden files: `tests/golden/<case>/` holds `pods.txt`, `documents.yaml`, and what they compile to in `tables.txt`;
//! with `next.yaml` also the way there from the first, in `plan.txt`. `GOLDEN=write` writes them anew; read the diff.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; the lint knows only test functions"
)]

use std::{fs, path::Path, sync::Arc};

use policy::{
    Endpoint, EndpointId, Facts, Live, Policies, Tables, assemble, compile, documents, plan,
    plan::Step,
};

/// Lines of `namespace/name label=value ...`; `?` = labels not known.
fn pods(text: &str) -> Vec<Endpoint> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .zip(1u32..)
        .map(|(line, id)| {
            let mut words = line.split_whitespace();
            let (namespace, name) = words.next().unwrap().split_once('/').unwrap();
            let words: Vec<_> = words.collect();
            let labels = words
                .iter()
                .filter_map(|w| w.split_once('='))
                .map(|(k, v)| (k.to_owned(), v.to_owned()));
            Endpoint {
                id: EndpointId(id),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                labels: (words != ["?"]).then(|| labels.collect()),
            }
        })
        .collect()
}

fn tables(path: &Path, endpoints: &[Endpoint]) -> Tables {
    let reading = documents::read(&fs::read(path).unwrap());
    let errors: Vec<_> = reading.broken().map(|b| b.error.to_string()).collect();
    assert!(errors.is_empty(), "{}: {errors:?}", path.display());
    let policies = assemble(
        reading.documents.into_iter().flatten().map(Arc::new),
        &Policies::new(),
    )
    .policies;
    compile(endpoints, &policies, &Facts::default())
}

fn hold(path: &Path, text: &str) {
    if std::env::var_os("GOLDEN").is_some_and(|mode| mode == "write") {
        fs::write(path, text).unwrap();
    }
    let wanted = fs::read_to_string(path).unwrap_or_default();
    assert!(
        text == wanted,
        "{} differs (GOLDEN=write writes it anew); now:\n{text}",
        path.display()
    );
}

#[test]
fn golden() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<_> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(cases.len() >= 6, "cases went missing");
    for case in cases {
        let endpoints = pods(&fs::read_to_string(case.join("pods.txt")).unwrap());
        let first = tables(&case.join("documents.yaml"), &endpoints);
        hold(&case.join("tables.txt"), &first.to_string());
        if !case.join("next.yaml").exists() {
            continue;
        }
        let mut live = Live::default();
        for step in plan(&live.clone(), &first).steps() {
            match step {
                Step::Write(write) => live.apply(write),
                Step::Grace => live.grace(),
            }
        }
        let next = tables(&case.join("next.yaml"), &endpoints);
        hold(&case.join("plan.txt"), &plan(&live, &next).to_string());
    }
}
