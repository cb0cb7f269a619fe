//! ADD beside the reference `tuning` plugin's ADD: same pods, same `prevResult`, same run, both started directly.
//!
//! Prints medians and their ratio and asserts no time: `scripts/bench.sh add`. Programs are loaded and a companion runs, so that what
//! applies to the pods is known; each ADD attaches anew.
#![forbid(unsafe_code)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use integration::{Chain, Node, Pod, chain, tools};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// ADDs measured one after the other.
    #[arg(long, default_value_t = 200)]
    rounds: usize,
    /// How many at once in the second measurement.
    #[arg(long, default_value_t = 16)]
    at_once: usize,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
    /// The plan file of the half that runs inside the node.
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
}

/// What the half inside the node does: it calls plugins without a helper between.
#[derive(Serialize, Deserialize)]
struct Plan {
    podgate: PathBuf,
    tuning: PathBuf,
    cni_path: String,
    rounds: usize,
    pods: Vec<PlanPod>,
}

#[derive(Serialize, Deserialize)]
struct PlanPod {
    netns: String,
    container: String,
    args: String,
    veth: String,
    podgate: Value,
    tuning: Value,
}

/// Milliseconds of each ADD.
#[derive(Serialize, Deserialize, Default)]
struct Samples {
    podgate: Vec<f64>,
    tuning: Vec<f64>,
}

#[derive(Serialize, Deserialize, Default)]
struct Measured {
    alone: Samples,
    at_once: Samples,
}

fn main() {
    let args = Args::parse();
    match &args.inside {
        Some(plan) => inside(plan),
        None => outside(&args),
    }
}

fn outside(args: &Args) {
    let node = Node::builder("bench").start();
    let companion = node.companion();
    let chain = Chain::new("bench").with(chain::ptp());
    let podgate = Chain::ptp(
        &node,
        "bench",
        json!({"networkPolicyEnforcingMode": "strict", "pluginLogLevel": "info"}),
    );
    // A node has other pods. The first clsact of a machine costs more than all others: it switches the hooks on in the kernel's code.
    let mut resident = node.pod("resident");
    resident.add(&podgate);
    let tuning = Chain::new("bench")
        .with(json!({"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}));
    let pods: Vec<Pod<'_>> = (0..args.at_once)
        .map(|number| {
            let mut pod = node.pod(&format!("bench-{number}"));
            pod.add(&chain);
            pod
        })
        .collect();
    let plan = Plan {
        podgate: tools::podgate("podgate"),
        tuning: tools::plugin("tuning"),
        cni_path: tools::cni_path(),
        rounds: args.rounds,
        pods: pods
            .iter()
            .map(|pod| plan_pod(pod, &podgate, &tuning))
            .collect(),
    };
    node.settle();
    let path = node.dir().join("plan.json");
    write(&path, &json!(plan).to_string());
    let me = std::env::current_exe().unwrap_or_else(|error| panic!("find myself: {error}"));
    let output = node
        .cmd(me)
        .arg("--inside")
        .arg(&path)
        .timeout(Duration::from_secs(300))
        .run()
        .expect_ok();
    let measured: Measured =
        serde_json::from_value(output.json()).unwrap_or_else(|error| panic!("{error}\n{output}"));
    companion.stop();
    print(args, &measured);
}

fn plan_pod(pod: &Pod<'_>, podgate: &Chain, tuning: &Chain) -> PlanPod {
    PlanPod {
        netns: pod.netns(),
        container: pod.container_id(),
        args: pod.cni_args(),
        veth: pod.host_veth(),
        podgate: podgate.conf_of("podgate", Some(pod.result())),
        tuning: tuning.conf_of("tuning", Some(pod.result())),
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

fn print(args: &Args, measured: &Measured) {
    let rows = [("alone", &measured.alone), ("at once", &measured.at_once)].map(|(name, samples)| {
        let (podgate, tuning) = (median(&samples.podgate), median(&samples.tuning));
        json!({"case": name, "podgateMs": podgate, "tuningMs": tuning, "ratio": podgate / tuning, "samples": samples.podgate.len()})
    });
    if args.json {
        println!("{}", json!(rows));
        return;
    }
    println!(
        "ADD with programs loaded and policy known: medians, exec to exit ({} pods)",
        args.at_once
    );
    for row in rows {
        let name = if row["case"] == "alone" {
            "alone".to_owned()
        } else {
            format!("{} at once", args.at_once)
        };
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        println!(
            "  {name:<12} podgate {:6.2} ms   tuning {:6.2} ms   ratio {:.2}   (at most 0.70; {} samples each)",
            number("podgateMs"),
            number("tuningMs"),
            number("ratio"),
            row["samples"]
        );
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

// ---- inside the node

fn inside(path: &Path) {
    let text = fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    let plan: Plan = serde_json::from_slice(&text)
        .unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    let mut measured = Measured::default();
    let all: Vec<&PlanPod> = plan.pods.iter().collect();
    // Once for the programs and the page cache.
    round(&plan, &all, &mut Samples::default());
    for number in 0..plan.rounds {
        round(&plan, &all[number % all.len()..][..1], &mut measured.alone);
    }
    for _ in 0..plan.rounds.div_ceil(all.len()) {
        round(&plan, &all, &mut measured.at_once);
    }
    println!("{}", json!(measured));
}

/// One ADD of each plugin for each pod, all pods at once; podgate's attachment is taken away again, unmeasured.
fn round(plan: &Plan, pods: &[&PlanPod], samples: &mut Samples) {
    samples.podgate.extend(at_once(pods, |pod| {
        call(plan, &plan.podgate, "ADD", pod, &pod.podgate)
    }));
    samples.tuning.extend(at_once(pods, |pod| {
        call(plan, &plan.tuning, "ADD", pod, &pod.tuning)
    }));
    for pod in pods {
        call(plan, &plan.podgate, "DEL", pod, &pod.podgate);
        let _ = Command::new("tc")
            .args(["qdisc", "del", "dev", &pod.veth, "clsact"])
            .status();
    }
}

fn at_once(pods: &[&PlanPod], add: impl Fn(&PlanPod) -> f64 + Sync) -> Vec<f64> {
    if let [pod] = pods {
        return vec![add(pod)];
    }
    let barrier = std::sync::Barrier::new(pods.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = pods
            .iter()
            .map(|pod| {
                scope.spawn(|| {
                    barrier.wait();
                    add(pod)
                })
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .collect()
    })
}

/// Milliseconds from exec to exit.
fn call(plan: &Plan, plugin: &Path, command: &str, pod: &PlanPod, conf: &Value) -> f64 {
    let input = conf.to_string();
    let mut start = Command::new(plugin);
    start
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &pod.container)
        .env("CNI_NETNS", &pod.netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_ARGS", &pod.args)
        .env("CNI_PATH", &plan.cni_path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let began = Instant::now();
    let mut child = start
        .spawn()
        .unwrap_or_else(|error| panic!("start {}: {error}", plugin.display()));
    let written = child
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child
        .wait_with_output()
        .unwrap_or_else(|error| panic!("wait for {}: {error}", plugin.display()));
    let elapsed = began.elapsed().as_secs_f64() * 1000.0;
    assert!(
        output.status.success() && matches!(written, Some(Ok(()))),
        "{} {command} failed: {}{}",
        plugin.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    elapsed
}
