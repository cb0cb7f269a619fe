//! What both benches need: documents by the thousand, and what the kernel says of the companion's process.
#![allow(missing_docs, unreachable_pub, reason = "a bench's own module")]
#![allow(dead_code, reason = "each bench uses its part")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Entries of one document, as controllers cut them.
const PART: usize = 200;

/// A policy of `shop` in a `List` file: its parts, complete by their marks, or without marks.
pub struct Shape<'a> {
    pub name: &'a str,
    pub pods: &'a [String],
    pub peers: Vec<String>,
    pub port: u16,
    pub generation: Option<u32>,
}

impl Shape<'_> {
    pub fn text(&self) -> String {
        let count = self.peers.len().div_ceil(PART).max(1);
        let pods: Vec<String> = self
            .pods
            .iter()
            .map(|pod| format!(r#"{{"name":"{pod}","namespace":"shop","podIP":"10.1.0.1"}}"#))
            .collect();
        let mut text = String::from(r#"{"apiVersion":"v1","kind":"List","items":["#);
        for part in 0..count {
            let marks = self.generation.map_or(String::new(), |g| {
                format!(r#","annotations":{{"podgate.dev/parts":"{count}","podgate.dev/generation":"{g}"}}"#)
            });
            let selected = if part == 0 {
                pods.join(",")
            } else {
                String::new()
            };
            let last = self.peers.len().min((part + 1) * PART);
            let rules: Vec<String> = self.peers[part * PART..last]
                .iter()
                .map(|ip| {
                    format!(
                        r#"{{"cidr":"{ip}","ports":[{{"protocol":"TCP","port":{}}}]}}"#,
                        self.port
                    )
                })
                .collect();
            let comma = if part == 0 { "" } else { "," };
            // Writing into a string cannot fail.
            let _ = write!(
                text,
                r#"{comma}{{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"PolicyEndpoint","metadata":{{"name":"{name}-{part}","namespace":"shop"{marks}}},"spec":{{"policyRef":{{"name":"{name}","namespace":"shop"}},"podIsolation":["Ingress"],"podSelectorEndpoints":[{selected}],"ingress":[{}]}}}}"#,
                rules.join(","),
                name = self.name,
            );
        }
        text.push_str("]}");
        text
    }
}

/// Addresses `first` and on of 10.128.0.0/9.
pub fn peers(first: usize, count: usize) -> Vec<String> {
    (first..first + count)
        .map(|n| format!("10.{}.{}.{}", 128 + n / 62_500, n / 250 % 250, n % 250))
        .collect()
}

/// A file beside its place, to be renamed into it when the clock runs.
pub fn prepare(policies: &Path, file: &str, text: &str) -> (PathBuf, PathBuf) {
    let hidden = policies.join(format!(".{file}"));
    fs::write(&hidden, text).expect("write a document");
    (hidden, policies.join(file))
}

/// CPU of all threads of a process, by the scheduler's own count.
pub fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running companion");
    let ns = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(ns.sum())
}

/// Kilobytes by a line of /proc/PID/status.
pub fn memory(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a running companion");
    let line = text.lines().find(|line| line.starts_with(key));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

pub fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
