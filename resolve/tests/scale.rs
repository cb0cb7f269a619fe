//! The size that the project promises for `resolve`: 10,000 pods in 1,000 namespaces under 2,000 policies, and a change of
//! one pod that costs what it touches, not what there is. Times are printed (`--nocapture`; measure with `--release`).
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

use resolve::{Cluster, Options, manifest};

/// Ten pods a namespace, eight of them behind its Service; two policies: who may reach them, and where they may go.
fn cluster_text(namespaces: u32) -> String {
    let mut text = String::new();
    let kube_dns = r#"{"apiVersion":"v1","kind":"Service","metadata":{"namespace":"kube-system","name":"kube-dns"},"spec":{"selector":{"k8s-app":"kube-dns"},"clusterIP":"10.96.0.10","ports":[{"port":53,"protocol":"UDP"}]}}"#;
    writeln!(text, "{kube_dns}").unwrap();
    for n in 0..2 {
        writeln!(text, r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"namespace":"kube-system","name":"dns-{n}","labels":{{"k8s-app":"kube-dns"}}}},"spec":{{}},"status":{{"podIPs":[{{"ip":"10.255.0.{}"}}]}}}}"#, n + 1).unwrap();
    }
    for n in 0..namespaces {
        let (high, low) = (n / 250, n % 250);
        writeln!(text, r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"ns-{n}","labels":{{"team":"t{}"}}}}}}"#, n % 50).unwrap();
        writeln!(text, r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"namespace":"ns-{n}","name":"web"}},"spec":{{"selector":{{"app":"web"}},"clusterIP":"10.97.{high}.{low}","ports":[{{"port":80,"targetPort":"http"}}]}}}}"#).unwrap();
        for p in 0..10 {
            text.push_str(&pod(n, p, &format!("10.{high}.{low}.{}", p + 1)));
            text.push('\n');
        }
        writeln!(text, r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{{"namespace":"ns-{n}","name":"web"}},"spec":{{"podSelector":{{"matchLabels":{{"app":"web"}}}},"ingress":[{{"from":[{{"podSelector":{{"matchLabels":{{"app":"client"}}}}}},{{"namespaceSelector":{{"matchLabels":{{"kubernetes.io/metadata.name":"ns-{}"}}}}}}],"ports":[{{"port":"http"}}]}}]}}}}"#, (n + 1) % namespaces).unwrap();
        writeln!(text, r#"{{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{{"namespace":"ns-{n}","name":"out"}},"spec":{{"podSelector":{{}},"policyTypes":["Egress"],"egress":[{{"to":[{{"namespaceSelector":{{}},"podSelector":{{"matchLabels":{{"k8s-app":"kube-dns"}}}}}}],"ports":[{{"port":53,"protocol":"UDP"}}]}},{{"to":[{{"podSelector":{{"matchLabels":{{"app":"web"}}}}}}]}},{{"ports":[{{"port":443}}]}}]}}}}"#).unwrap();
    }
    text
}

fn pod(namespace: u32, number: u32, address: &str) -> String {
    let app = if number < 8 { "web" } else { "client" };
    format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"namespace":"ns-{namespace}","name":"p-{number}","labels":{{"app":"{app}","pod-template-hash":"h{namespace}"}}}},"spec":{{"nodeName":"n1","containers":[{{"name":"c","ports":[{{"name":"http","containerPort":8080}}]}}]}},"status":{{"phase":"Running","podIPs":[{{"ip":"{address}"}}]}}}}"#
    )
}

fn read(text: &str) -> Vec<resolve::Object> {
    let read = manifest::read(text.as_bytes());
    read.into_iter().map(|item| item.unwrap().object).collect()
}

/// Memory of this process, MiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

/// Everything at the start, then changes of one pod: the median of what one costs.
fn measure(namespaces: u32) -> Duration {
    let text = cluster_text(namespaces);
    let pods = namespaces * 10 + 2;
    let before = resident();
    let begun = Instant::now();
    let objects = read(&text);
    let reading = begun.elapsed();
    let begun = Instant::now();
    let mut cluster = Cluster::new(Options {
        strict_services: false,
        node: Some("n1".to_owned()),
        ..Options::default()
    });
    for object in objects {
        cluster.apply(object);
    }
    let changes = cluster.resolve();
    let first = begun.elapsed();
    assert_eq!(changes.policies.len(), 2 * namespaces as usize);
    assert_eq!(changes.workloads.len(), 10 * namespaces as usize);
    drop(changes);
    let begun = Instant::now();
    let bytes: usize = cluster.files().map(|file| file.to_yaml().len()).sum();
    let writing = begun.elapsed();

    let mut took = Vec::new();
    let mut touched = 0;
    for round in 0..200u32 {
        let namespace = (round * 7919) % namespaces;
        let object = read(&pod(
            namespace,
            round % 8,
            &format!("10.200.{}.{}", round / 200, round % 200 + 1),
        ))
        .remove(0);
        let begun = Instant::now();
        assert!(cluster.apply(object));
        let changes = cluster.resolve();
        let yaml: usize = changes
            .policies
            .iter()
            .map(|change| match change {
                resolve::PolicyChange::Write(file) => file.to_yaml().len(),
                resolve::PolicyChange::Remove { .. } => 0,
            })
            .sum();
        took.push(begun.elapsed());
        assert!(yaml > 0);
        touched += changes.policies.len();
        assert!(
            changes.policies.len() <= 3,
            "its own two, and one that names the namespace"
        );
    }
    took.sort_unstable();
    let median = took[took.len() / 2];
    println!(
        "{pods} pods, {namespaces} namespaces, {} policies: read {} KiB of JSON in {reading:?}, first resolve {first:?}, {} KiB of YAML in {writing:?}, \
         one pod changed {median:?} (median of {}, worst {:?}, {:.1} files each), {} MiB resident (+{})",
        2 * namespaces,
        text.len() / 1024,
        bytes / 1024,
        took.len(),
        took[took.len() - 1],
        touched as f64 / took.len() as f64,
        resident(),
        resident().saturating_sub(before),
    );
    median
}

/// The figures are printed; what is asserted is that a change touches the files that it concerns and no more.
#[test]
fn ten_thousand_pods() {
    let small = measure(100);
    let large = measure(1000);
    println!(
        "one pod changed at 10,000 pods costs {:.2} x as much as at 1,000",
        large.as_secs_f64() / small.as_secs_f64()
    );
}
