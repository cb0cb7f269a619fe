//! From a file's rename to the packets: how long one peer more takes, and a hundred changes within a second.
//!
//! `scripts/bench.sh apply`; prints a table and a line of JSON for each case. It asserts nothing about time.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod figures;
#[path = "../tests/node/mod.rs"]
mod node;

use std::fs;
use std::time::{Duration, Instant};

use enforcer::endpoint::Endpoints;
use figures::{Shape, median, ms, peers, prepare};
use node::Node;
use state::{Mode, Record};

const PODS: usize = 100;
/// A change that has not come into force by then is reported as such.
const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    let rounds = std::env::var("PODGATE_ROUNDS").map_or(7, |n| n.parse().unwrap());
    println!(
        "{:>8} {:>5} {:>10} {:>12} {:>10} {:>10}",
        "peers", "pods", "unrelated", "median ms", "worst ms", "at most"
    );
    for unrelated in [0, 10_000] {
        let mut node = Node::new();
        node.load();
        let records = node.crowd(PODS, "shop", Mode::Strict);
        for n in 0..unrelated {
            let shape = Shape {
                name: &format!("far-{n}"),
                pods: &[format!("elsewhere-{n}")],
                peers: peers(n, 2),
                port: 80,
                generation: Some(1),
            };
            node.policy(&format!("far-{n}.json"), &shape.text());
        }
        node.start_within(LIMIT, &["--log-level=info"]);
        for (count, target) in [(10, "5"), (10_000, "5"), (60_000, "10")] {
            for pods in [1, PODS] {
                one_more(&node, &records, count, pods, unrelated, rounds, target);
            }
        }
        hundred(&node, &records, unrelated);
    }
}

fn one_more(
    node: &Node,
    records: &[Record],
    count: usize,
    pods: usize,
    unrelated: usize,
    rounds: u32,
    target: &str,
) {
    let names: Vec<String> = (0..pods).map(|n| format!("pod-{n}")).collect();
    let shape = |more: usize, generation| Shape {
        name: "shared",
        pods: &names,
        peers: peers(0, count + more),
        port: 80,
        generation: Some(generation),
    };
    let policies = node.store.layout().policies();
    let apply = |generation: u32| {
        let (hidden, place) = prepare(
            &policies,
            "shared.json",
            &shape(generation as usize, generation).text(),
        );
        in_force(node, &[&records[pods - 1]], || {
            fs::rename(hidden, place).unwrap();
        })
    };
    let first = apply(1);
    let times: Option<Vec<Duration>> = (0..rounds).map(|n| apply(2 + n)).collect();
    let (Some(_), Some(times)) = (first, times) else {
        println!("{count:>8} {pods:>5} {unrelated:>10} not in force within {LIMIT:?}");
        return;
    };
    let (middle, worst) = (
        median(times.clone()),
        times.iter().max().copied().unwrap_or_default(),
    );
    println!(
        "{count:>8} {pods:>5} {unrelated:>10} {:>12} {:>10} {target:>10}",
        ms(middle),
        ms(worst)
    );
    let raw: Vec<f64> = times.into_iter().map(ms).collect();
    println!(
        r#"{{"bench":"apply","peers":{count},"pods":{pods},"unrelated":{unrelated},"ms":{raw:?},"atMost":{target}}}"#
    );
    node.remove_policy("shared.json");
    node.settle_within(LIMIT);
}

/// A policy of its own for each pod; all of them change within a second.
fn hundred(node: &Node, records: &[Record], unrelated: usize) {
    let policies = node.store.layout().policies();
    let prepared = |n: usize, generation: u32| {
        let shape = Shape {
            name: &format!("own-{n}"),
            pods: &[format!("pod-{n}")],
            peers: peers(n, 9 + generation as usize),
            port: 80,
            generation: Some(generation),
        };
        prepare(&policies, &format!("own-{n}.json"), &shape.text())
    };
    for n in 0..records.len() {
        let (hidden, place) = prepared(n, 1);
        fs::rename(hidden, place).unwrap();
    }
    node.settle_within(LIMIT);
    let files: Vec<_> = (0..records.len()).map(|n| prepared(n, 2)).collect();
    let all: Vec<&Record> = records.iter().collect();
    let mut last = Instant::now();
    let took = in_force(node, &all, || {
        for (hidden, place) in &files {
            fs::rename(hidden, place).unwrap();
            last = Instant::now();
            std::thread::sleep(Duration::from_millis(9));
        }
    });
    match took {
        Some(_) => {
            let delay = ms(last.elapsed());
            println!(
                "100 policies changed within a second, {unrelated} unrelated: all in force {delay} ms after the last (at most 300)"
            );
            println!(
                r#"{{"bench":"apply-100","unrelated":{unrelated},"msAfterLast":{delay},"atMost":300}}"#
            );
        }
        None => println!(
            "100 policies changed within a second, {unrelated} unrelated: not all in force within {LIMIT:?}"
        ),
    }
    for n in 0..records.len() {
        node.remove_policy(&format!("own-{n}.json"));
    }
}

/// How long after the change's begin every one of these endpoints has another revision.
fn in_force(node: &Node, records: &[&Record], change: impl FnOnce()) -> Option<Duration> {
    let states = Endpoints::open(&node.bpf).unwrap().policy_states;
    let revision = |r: &&Record| states.get(r.endpoint_index).revision();
    let before: Vec<u64> = records.iter().map(revision).collect();
    let begin = Instant::now();
    change();
    while records
        .iter()
        .zip(&before)
        .any(|(r, before)| revision(r) == *before)
    {
        if begin.elapsed() > LIMIT {
            return None;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    Some(begin.elapsed())
}
