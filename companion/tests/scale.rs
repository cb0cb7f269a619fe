//! Figures of design.md: one address among ten thousand that a hundred pods share; 250 endpoints and 1,000 policies.
//!
//! `cargo test --release -p companion --test scale -- --ignored --nocapture --test-threads=1`
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod node;

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use node::{LONG, Node, wait_until};
use state::Mode;
use verdict::PolicyState;

fn proc_value(pid: u32, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn cpu_ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// A policy of a hundred pods whose parts hold so many peers, two hundred each.
fn shared(pods: usize, peers: usize, generation: u32) -> String {
    let parts = peers.div_ceil(200);
    let mut text = String::new();
    for part in 0..parts {
        write!(
            text,
            "---\napiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {{name: shared-{part}, namespace: shop, \
             annotations: {{podgate.dev/parts: \"{parts}\", podgate.dev/generation: \"{generation}\"}}}}\nspec:\n  policyRef: {{name: \
             shared, namespace: shop}}\n  podIsolation: [Ingress]\n"
        )
        .unwrap();
        if part == 0 {
            text.push_str("  podSelectorEndpoints:\n");
            for pod in 0..pods {
                writeln!(
                    text,
                    "  - {{name: pod-{pod}, namespace: shop, podIP: 10.1.0.1}}"
                )
                .unwrap();
            }
        }
        text.push_str("  ingress:\n");
        for peer in (part * 200)..((part + 1) * 200).min(peers) {
            let (a, b) = (peer / 250, peer % 250);
            writeln!(text, "  - {{cidr: \"10.200.{a}.{b}\", ports: [{{protocol: TCP, port: 80, endPort: 90}}]}}").unwrap();
        }
    }
    text
}

#[test]
#[ignore = "figures for the reader: cargo test -p companion --release --test scale -- --ignored"]
fn one_address_more() {
    let mut node = Node::new();
    node.load();
    let records = node.crowd(100, "shop", Mode::Strict);
    node.policy("shared.yaml", &shared(100, 10_000, 1));
    node.start(&[]);
    let policy_state = |place: usize| node.policy_state(&records[place]);
    wait_until("decided", LONG, || {
        policy_state(99).has(PolicyState::ISOLATED_INGRESS)
    });
    let mut times = Vec::new();
    for round in 0..10usize {
        // YAML of a thousand lines is parsed in every round: that is part of the way from file to maps.
        let (before, text) = (
            policy_state(99).revision(),
            shared(100, 10_001 + round, 2 + round as u32),
        );
        node.policy("shared.yaml", &text);
        let begin = Instant::now();
        let endpoints = enforcer::endpoint::Endpoints::open(&node.bpf).unwrap();
        while endpoints
            .policy_states
            .get(records[99].endpoint_index)
            .revision()
            == before
        {
            assert!(begin.elapsed() < LONG, "no change\n{}", node.log());
            std::thread::yield_now();
        }
        times.push(begin.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    times.sort();
    println!(
        "one address more, 100 pods, 10,000 peers (one file of 50 parts): median {:?}, worst {:?}",
        times[5], times[9]
    );
    let text = node.log();
    for line in text
        .lines()
        .filter(|l| l.contains("policy in force") || l.contains("read"))
        .rev()
        .take(3)
    {
        println!("{line}");
    }
    println!(
        "resident {} KiB",
        proc_value(node.pid(), "status", "VmRSS:")
    );
}

#[test]
#[ignore = "figures for the reader: cargo test -p companion --release --test scale -- --ignored"]
fn memory_and_rest() {
    let mut node = Node::new();
    node.load();
    let records = node.crowd(250, "shop", Mode::Strict);
    for policy in 0..1000 {
        let mut text = format!(
            "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {{name: p{policy}-1, namespace: shop}}\nspec:\n  \
             policyRef: {{name: p{policy}, namespace: shop}}\n  podIsolation: [Ingress, Egress]\n  podSelectorEndpoints: [{{name: \
             pod-{}, namespace: shop, podIP: 10.1.0.1}}]\n  ingress:\n",
            policy % 250
        );
        for rule in 0..20 {
            let ip = policy * 20 + rule;
            writeln!(
                text,
                "  - {{cidr: \"10.{}.{}.{}\", ports: [{{protocol: TCP, port: {}}}]}}",
                100 + ip / 62_500,
                ip / 250 % 250,
                ip % 250,
                80 + rule
            )
            .unwrap();
        }
        node.policy(&format!("p{policy}.yaml"), &text);
    }
    let begin = Instant::now();
    node.start(&[]);
    wait_until("decided", LONG, || {
        records
            .iter()
            .all(|r| node.policy_state(r).has(PolicyState::ISOLATED_INGRESS))
    });
    println!(
        "start with 250 endpoints and 1,000 policies: {:?}",
        begin.elapsed()
    );
    // Last good versions are flushed one by one.
    let kept = || fs::read_dir(node.store.layout().applied()).unwrap().count();
    wait_until(
        "last good versions are kept",
        Duration::from_secs(60),
        || kept() >= 1000,
    );
    let pid = node.pid();
    println!(
        "resident {} KiB, most {} KiB",
        proc_value(pid, "status", "VmRSS:"),
        proc_value(pid, "status", "VmHWM:")
    );
    let before = cpu_ticks(pid);
    std::thread::sleep(Duration::from_secs(10));
    println!(
        "CPU in 10 s without changes: {} ms",
        (cpu_ticks(pid) - before) * 10
    );
    let begin = Instant::now();
    let pod = node.pod();
    let record = node.add(
        &pod,
        "shop",
        "pod-1",
        Mode::Strict,
        true,
        state::AttachMode::Clsact,
    );
    let decided = wait_until("decided", LONG, || {
        !node.policy_state(&record).has(PolicyState::PENDING)
    });
    println!(
        "one ADD more: decided {decided:?} after it, {:?} with the pod's making",
        begin.elapsed()
    );
    let text = node.log();
    for line in text
        .lines()
        .filter(|l| l.contains("policy in force"))
        .rev()
        .take(3)
    {
        println!("{line}");
    }
}

#[test]
#[ignore = "figures for the reader: cargo test -p companion --release --test scale -- --ignored"]
fn reading() {
    let yaml = shared(100, 10_000, 1);
    let documents = policy::documents::read(yaml.as_bytes());
    let items: Vec<String> = documents
        .good()
        .map(|d| String::from_utf8(d.to_json()).unwrap())
        .collect();
    let json = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{}]}}",
        items.join(",")
    );
    for (name, text) in [("yaml", &yaml), ("json", &json)] {
        let mut times: Vec<Duration> = (0..7)
            .map(|_| {
                let begin = Instant::now();
                assert_eq!(policy::documents::read(text.as_bytes()).good().count(), 50);
                begin.elapsed()
            })
            .collect();
        times.sort();
        println!("read {name} of {} bytes: {:?}", text.len(), times[3]);
    }
    let good: Vec<_> = documents.good().collect();
    let begin = Instant::now();
    let digests = good
        .iter()
        .map(|d| state::layout::digest(&d.to_json()).len())
        .sum::<usize>();
    println!(
        "digests of {} documents: {:?} ({digests})",
        good.len(),
        begin.elapsed()
    );
}
