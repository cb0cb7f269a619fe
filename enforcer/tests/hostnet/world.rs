//! Namespaces, links and independent eyes for the tests.

use std::{
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use enforcer::hostnet::in_netns;
use serde_json::Value;

/// A network namespace made by `ip`, gone when dropped.
pub struct Namespace {
    pub name: String,
    pub path: PathBuf,
}

impl Namespace {
    pub fn new(role: &str) -> Self {
        let name = format!("pg-{role}-{}", suffix());
        run("ip", &["netns", "add", &name]);
        Self {
            path: Path::new("/run/netns").join(&name),
            name,
        }
    }

    /// Runs a command of `ip` inside.
    pub fn ip(&self, args: &str) {
        let args: Vec<&str> = ["-n", &self.name]
            .into_iter()
            .chain(args.split(' '))
            .collect();
        run("ip", &args);
    }

    /// Runs `work` inside.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        in_netns(&self.path, work).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// Runs a test inside a namespace that plays the host.
pub fn on_host(test: impl FnOnce(&Namespace) + Send) {
    let host = Namespace::new("host");
    host.ip("link set lo up");
    in_netns(&host.path, || test(&host)).unwrap();
}

/// A veth pair between the current namespace and `pod`, both ends up; the host end's index.
pub fn veth(host_end: &str, pod: &Namespace, pod_end: &str) -> u32 {
    ip(&format!(
        "link add {host_end} type veth peer name {pod_end} netns {}",
        pod.name
    ));
    ip(&format!("link set {host_end} up"));
    pod.ip(&format!("link set {pod_end} up"));
    index(host_end)
}

/// A host with one pod on 10.9.0.0/24, host .1 and pod .2: (pod, host end's index).
pub fn plain_pod(host_end: &str) -> (Namespace, u32) {
    let pod = Namespace::new("pod");
    let ifindex = veth(host_end, &pod, "eth0");
    ip(&format!("addr add 10.9.0.1/24 dev {host_end}"));
    pod.ip("addr add 10.9.0.2/24 dev eth0");
    (pod, ifindex)
}

pub fn ip(args: &str) -> String {
    run("ip", &args.split(' ').collect::<Vec<_>>())
}

pub fn tc(args: &str) -> String {
    run("tc", &args.split(' ').collect::<Vec<_>>())
}

pub fn ip_json(args: &str) -> Vec<Value> {
    list(&ip(&format!("-j {args}")))
}

pub fn tc_json(args: &str) -> Vec<Value> {
    list(&tc(&format!("-j {args}")))
}

fn list(text: &str) -> Vec<Value> {
    if text.trim().is_empty() {
        Vec::new()
    } else {
        serde_json::from_str(text).unwrap()
    }
}

/// The index of an interface, as sysfs of the current namespace would say it: by `ip`.
pub fn index(name: &str) -> u32 {
    let links = ip_json(&format!("link show dev {name}"));
    u32::try_from(links[0]["ifindex"].as_u64().unwrap()).unwrap()
}

/// Kinds of the qdiscs at the ingress place of an interface, as `tc` sees them.
pub fn tc_ingress_qdiscs(name: &str) -> Vec<String> {
    tc_json(&format!("qdisc show dev {name}"))
        .iter()
        .filter(|qdisc| qdisc["handle"] == "ffff:")
        .map(|qdisc| qdisc["kind"].as_str().unwrap().to_owned())
        .collect()
}

/// Filters of a hook with options, as `tc` sees them.
pub fn tc_filters(name: &str, hook: &str) -> Vec<Value> {
    tc_json(&format!("filter show dev {name} {hook}"))
        .into_iter()
        .filter(|filter| !filter["options"].is_null())
        .collect()
}

pub fn run(program: &str, args: &[&str]) -> String {
    let output = try_run(program, args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

pub fn try_run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

pub fn suffix() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap()[..8].to_owned()
}

/// Waits for a condition, five seconds at most.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "never happened: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a datagram from the current namespace reaches 10.9.0.2 in `pod`. Tries a few times.
pub fn reaches_pod(pod: &Namespace) -> bool {
    let receiver = pod.inside(|| UdpSocket::bind("10.9.0.2:0").unwrap());
    reaches(&UdpSocket::bind("10.9.0.1:0").unwrap(), &receiver)
}

/// Whether a datagram from `pod` reaches 10.9.0.1 in the current namespace. Tries a few times.
pub fn reaches_host(pod: &Namespace) -> bool {
    let receiver = UdpSocket::bind("10.9.0.1:0").unwrap();
    reaches(
        &pod.inside(|| UdpSocket::bind("10.9.0.2:0").unwrap()),
        &receiver,
    )
}

fn reaches(sender: &UdpSocket, receiver: &UdpSocket) -> bool {
    receiver
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    (0..3).any(|_| {
        let _ = sender.send_to(b"?", receiver.local_addr().unwrap());
        receiver.recv(&mut [0; 8]).is_ok()
    })
}

/// Permanent neighbour entries both ways, so that a filter that drops everything cannot hide behind ARP.
pub fn fix_neighbours(host_end: &str, pod: &Namespace) {
    let mac = |value: &Value| value["address"].as_str().unwrap().to_owned();
    let host_mac = mac(&ip_json(&format!("link show dev {host_end}"))[0]);
    let pod_mac = pod.inside(|| mac(&ip_json("link show dev eth0")[0]));
    ip(&format!(
        "neigh replace 10.9.0.2 lladdr {pod_mac} dev {host_end} nud permanent"
    ));
    pod.ip(&format!(
        "neigh replace 10.9.0.1 lladdr {host_mac} dev eth0 nud permanent"
    ));
}
