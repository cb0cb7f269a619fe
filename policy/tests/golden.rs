//! Golden files: `tests/golden/<case>/` holds `pods.txt`, `documents.yaml`, and what they compile to in `tables.txt`;
//! with `next.yaml` also the way there from the first, in `plan.txt`. `GOLDEN=write` writes them anew; read the diff.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests; the lint knows only test functions"
)]

use std::{fs, path::Path, sync::Arc};

use policy::{
    Compiler, Endpoint, EndpointId, Facts, Image, Plan, Policies, Tables, assemble, compile,
    documents,
    plan::{Step, Taken},
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

fn policies(path: &Path, before: &Policies) -> Policies {
    let reading = documents::read(&fs::read(path).unwrap());
    let errors: Vec<_> = reading.broken().map(|b| b.error.to_string()).collect();
    assert!(errors.is_empty(), "{}: {errors:?}", path.display());
    let documents = reading.documents.into_iter().flatten().map(Arc::new);
    assemble(documents, before).policies
}

fn tables(path: &Path, endpoints: &[Endpoint]) -> Tables {
    let policies = policies(path, &Policies::new());
    compile(endpoints, &policies, &Facts::default())
}

/// A node without a kernel: every step succeeds.
#[derive(Default)]
struct Node {
    compiler: Compiler,
    image: Image,
    policies: Policies,
    revision: u64,
}

impl Node {
    /// Puts documents in force; the steps that it took.
    fn go(&mut self, path: &Path, endpoints: &[Endpoint]) -> String {
        let next = policies(path, &self.policies);
        for (key, policy) in &next {
            if let Some(before) = self.policies.get(key) {
                self.compiler.replace(before, policy);
            }
        }
        for endpoint in endpoints {
            let selecting = next
                .values()
                .filter(|policy| policy.selects(endpoint, &Facts::default()));
            let profile: Vec<_> = selecting.cloned().collect();
            self.compiler.assign(endpoint.id, &profile);
        }
        self.policies = next;
        let mut text = String::new();
        let mut plan = Plan::new(&mut self.compiler, &mut self.image, &[]);
        while plan.next() != Step::Done {
            text.push_str(&format!("{}\n", plan.next()));
            let taken = if plan.next() == Step::Revision {
                self.revision += 1;
                Taken::Revision(self.revision)
            } else {
                Taken::Done
            };
            plan.took(taken, &mut self.compiler, &mut self.image);
        }
        text
    }
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
        let mut node = Node::default();
        node.go(&case.join("documents.yaml"), &endpoints);
        let steps = node.go(&case.join("next.yaml"), &endpoints);
        hold(&case.join("plan.txt"), &steps);
    }
}
