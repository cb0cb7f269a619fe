//! The companion with 250 endpoints and many policies: start, memory, CPU, restart, `explain`; and `resolve` at scale.
//!
//! `scripts/bench.sh scale`; prints a table and a line of JSON for each shape. It asserts nothing about time.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod figures;
#[path = "../tests/node/mod.rs"]
mod node;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use figures::{Shape, cpu, median, memory, ms, peers};
use node::Node;
use state::{Mode, Record};
use verdict::PolicyState;

const ENDPOINTS: usize = 250;
const LIMIT: Duration = Duration::from_secs(600);

fn main() {
    let idle = Duration::from_secs(
        std::env::var("PODGATE_IDLE_SECONDS").map_or(60, |n| n.parse().unwrap()),
    );
    println!(
        "{:<26} {:>10} {:>8} {:>12} {:>13} {:>11} {:>11}",
        "policies", "ready ms", "RSS MiB", "unconcerned", "idle ms/min", "restart ms", "explain ms"
    );
    println!(
        "{:<26} {:>10} {:>8} {:>12} {:>13} {:>11} {:>11}",
        "at most", 3000, "32 / 96", "5 ms", "0", 3000, 50
    );
    let only = std::env::var("PODGATE_SHAPE").ok();
    for (name, policies, marked) in [
        ("1,000 marked", 1_000, true),
        ("1,000 unmarked", 1_000, false),
        ("10,000 marked", 10_000, true),
        ("10,000 unmarked", 10_000, false),
        ("one of 10,000 peers + 1,000", 0, true),
    ] {
        if only
            .as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
        {
            shape(name, policies, marked, idle);
        }
    }
    resolve();
}

fn shape(name: &str, policies: usize, marked: bool, idle: Duration) {
    let mut node = Node::new();
    node.load();
    let records = node.crowd(ENDPOINTS, "shop", Mode::Strict);
    if policies == 0 {
        many_ports_for_the_same_peers(&node);
    }
    for n in 0..policies {
        write(
            &node,
            &format!("p-{n}"),
            &[format!("pod-{}", n % ENDPOINTS)],
            peers(n * 5, 20),
            80,
            marked,
        );
    }
    let ready = start(&mut node, &records);
    // What is kept for restarts is written after what is in force.
    let before_calm = cpu(node.pid());
    let calm = calm(&node);
    let keeping = cpu(node.pid()).saturating_sub(before_calm);
    let (rss, most) = (memory(node.pid(), "VmRSS:"), memory(node.pid(), "VmHWM:"));
    let unconcerned = unconcerned(&node);
    let before = cpu(node.pid());
    std::thread::sleep(idle);
    let idle_ms = ms(cpu(node.pid()).saturating_sub(before)) * 60.0 / idle.as_secs_f64();
    let explain = explain(&node, &records);
    node.stop("TERM");
    let restart = start(&mut node, &records);
    let mib = rss as f64 / 1024.0;
    println!(
        "{name:<26} {:>10} {mib:>8.1} {:>12} {idle_ms:>13.1} {:>11} {:>11}",
        ms(ready),
        ms(unconcerned),
        ms(restart),
        explain.map_or("-".into(), |t| ms(t).to_string())
    );
    println!(
        r#"{{"bench":"scale","shape":"{name}","readyMs":{},"calmAfterMs":{},"cpuUntilCalmMs":{},"rssKiB":{rss},"peakKiB":{most},"unconcernedCpuMs":{},"idleCpuMsAMinute":{idle_ms:.1},"restartMs":{},"explainMs":{}}}"#,
        ms(ready),
        ms(calm),
        ms(keeping),
        ms(unconcerned),
        ms(restart),
        explain.map_or("null".into(), |t| ms(t).to_string())
    );
}

/// One policy lets every pod of a cluster in on one port; four policies of each local pod let twenty of them in on others.
fn many_ports_for_the_same_peers(node: &Node) {
    let all: Vec<String> = (0..ENDPOINTS).map(|n| format!("pod-{n}")).collect();
    write(node, "everybody", &all, peers(0, 10_000), 80, true);
    for pod in 0..ENDPOINTS {
        for n in 0..4 {
            let few = peers((pod * 4 + n) * 7 % 9_000, 20);
            write(
                node,
                &format!("few-{pod}-{n}"),
                &[format!("pod-{pod}")],
                few,
                1000 + n as u16,
                true,
            );
        }
    }
}

fn write(node: &Node, name: &str, pods: &[String], peers: Vec<String>, port: u16, marked: bool) {
    let shape = Shape {
        name,
        pods,
        peers,
        port,
        generation: marked.then_some(1),
    };
    node.policy(&format!("{name}.json"), &shape.text());
}

/// From the process's start until every endpoint is decided and the companion says that all is applied.
fn start(node: &mut Node, records: &[Record]) -> Duration {
    let begin = Instant::now();
    node.start_within(LIMIT, &["--log-level=info"]);
    node::wait_until("every endpoint is decided", LIMIT, || {
        records
            .iter()
            .all(|r| node.policy_state(r).has(PolicyState::ISOLATED_INGRESS))
    });
    begin.elapsed()
}

/// Until the companion has used less than 5 ms of CPU in a second.
fn calm(node: &Node) -> Duration {
    let begin = Instant::now();
    loop {
        let before = cpu(node.pid());
        std::thread::sleep(Duration::from_secs(1));
        if cpu(node.pid()).saturating_sub(before) < Duration::from_millis(5)
            || begin.elapsed() > LIMIT
        {
            return begin.elapsed();
        }
    }
}

/// CPU of a change that concerns no pod of this node, waited for until the companion has applied it.
fn unconcerned(node: &Node) -> Duration {
    const CHANGES: usize = 20;
    let mut times = Vec::new();
    for n in 0..CHANGES {
        let before = cpu(node.pid());
        let shape = Shape {
            name: "far",
            pods: &["elsewhere".to_owned()],
            peers: peers(0, 5 + n),
            port: 80,
            generation: Some(1 + n as u32),
        };
        node.policy("far.json", &shape.text());
        node.settle_within(LIMIT);
        // What follows the change, such as its last good copy, belongs to its cost.
        std::thread::sleep(Duration::from_millis(500));
        times.push(cpu(node.pid()).saturating_sub(before));
    }
    median(times)
}

fn podgatectl() -> Option<PathBuf> {
    // target/PROFILE/deps/scale-HASH
    let built = std::env::current_exe()
        .ok()?
        .parent()?
        .parent()?
        .join("podgatectl");
    let named = std::env::var_os("PODGATECTL").map(PathBuf::from);
    named.or(Some(built)).filter(|path| path.exists())
}

fn timed(command: &mut Command) -> Option<Duration> {
    let begin = Instant::now();
    let output = command.output().ok()?;
    if !output.status.success() {
        eprintln!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(begin.elapsed())
}

fn explain(node: &Node, records: &[Record]) -> Option<Duration> {
    let podgatectl = podgatectl()?;
    let one = |r: &Record| {
        timed(
            Command::new(&podgatectl)
                .args([
                    "explain",
                    "--direction",
                    "ingress",
                    "--peer",
                    "10.128.0.1",
                    "--port",
                    "80",
                    "--pod",
                ])
                .arg(format!("{}/{}", r.pod_namespace, r.pod_name))
                .env("PODGATE_STATE_DIR", node.store.root())
                .env("PODGATE_BPF_DIR", &node.bpf),
        )
    };
    let times: Option<Vec<Duration>> = records.iter().step_by(25).map(one).collect();
    times.map(median)
}

/// `podgatectl resolve` of 10,000 pods and 2,000 policies in 100 namespaces.
fn resolve() {
    let Some(podgatectl) = podgatectl() else {
        println!("podgatectl is not built: explain and resolve are left out");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (manifests, output) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir(&manifests).unwrap();
    manifests_of(&manifests, 100, 100, 20);
    let times: Option<Vec<Duration>> = (0..3)
        .map(|_| {
            let _ = fs::remove_dir_all(&output);
            timed(
                Command::new(&podgatectl)
                    .args(["resolve", "-f"])
                    .arg(&manifests)
                    .arg("--output-dir")
                    .arg(&output),
            )
        })
        .collect();
    let Some(times) = times else { return };
    println!(
        "resolve of 10,000 pods and 2,000 policies: {} ms (at most 2000)",
        ms(median(times.clone()))
    );
    let raw: Vec<f64> = times.into_iter().map(ms).collect();
    println!(r#"{{"bench":"resolve","pods":10000,"policies":2000,"ms":{raw:?},"atMost":2000}}"#);
}

fn manifests_of(folder: &Path, namespaces: usize, pods: usize, policies: usize) {
    for n in 0..namespaces {
        let mut text = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: ns-{n}, labels: {{team: t{}}}}}\n",
            n % 10
        );
        for p in 0..pods {
            let ip = format!(
                "10.{}.{}.{}",
                128 + n / 10,
                n % 10 * 20 + p / 200,
                p % 200 + 1
            );
            write!(
                text,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: pod-{p}, namespace: ns-{n}, uid: u-{n}-{p}, labels: {{app: a{}, tier: t{}}}}}\n\
                 spec: {{nodeName: node-{}, containers: [{{name: c, ports: [{{containerPort: 8080, name: http}}]}}]}}\n\
                 status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n",
                p % 20,
                p % 3,
                p % 50
            )
            .unwrap();
        }
        for p in 0..policies {
            write!(
                text,
                "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: np-{p}, namespace: ns-{n}}}\n\
                 spec: {{podSelector: {{matchLabels: {{app: a{p}}}}}, policyTypes: [Ingress], ingress: [{{from: [{{podSelector: {{matchLabels: \
                 {{tier: t{}}}}}}}], ports: [{{protocol: TCP, port: http}}]}}]}}\n",
                p % 3
            )
            .unwrap();
        }
        fs::write(folder.join(format!("ns-{n}.yaml")), text).unwrap();
    }
}
