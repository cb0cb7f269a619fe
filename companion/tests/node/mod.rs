//! A node of its own: a network namespace with one enforced pod and one client, a store, a bpffs folder, a companion.
//! Endpoints are made by enforcer's own calls, as the plugin makes them; what passes is judged by real sockets.
#![allow(missing_docs, unreachable_pub, reason = "a test's own module")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use enforcer::attach::Programs;
use enforcer::endpoint::{Endpoints, NewEndpoint};
use enforcer::hostnet::in_netns;
use enforcer::load::{LoadOptions, load};
use state::{AttachMode, Mode, Phase, Record, Store};
use verdict::PolicyState;

/// A wait that should be over long before.
pub const LONG: Duration = Duration::from_secs(10);

pub struct Node {
    pub suffix: String,
    dir: tempfile::TempDir,
    pub bpf: PathBuf,
    pub store: Store,
    daemon: Option<Child>,
    pods: u8,
}

pub struct Pod {
    pub netns: String,
    pub v4: IpAddr,
    pub v6: IpAddr,
    pub veth: String,
}

fn run(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn netns(name: &str) -> PathBuf {
    Path::new("/var/run/netns").join(name)
}

pub fn wait_until(what: &str, limit: Duration, mut is: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    begin.elapsed()
}

impl Node {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let suffix = dir
            .path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_start_matches(".tmp")
            .to_lowercase();
        let bpf = PathBuf::from(format!("/sys/fs/bpf/podgate-test-{suffix}"));
        let store = Store::create(dir.path().join("state")).unwrap();
        let name = format!("pgn-{suffix}");
        run(&format!(
            "ip netns add {name}; ip -n {name} link set lo up; \
             ip netns exec {name} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
             net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0"
        ));
        Self {
            suffix,
            dir,
            bpf,
            store,
            daemon: None,
            pods: 0,
        }
    }

    pub fn netns(&self) -> PathBuf {
        netns(&format!("pgn-{}", self.suffix))
    }

    pub fn load(&self) {
        let locked = self.store.lock(LONG).unwrap();
        load(
            &locked,
            &self.bpf,
            LoadOptions {
                flow_limit: 32_768,
                ..LoadOptions::default()
            },
        )
        .unwrap();
    }

    /// A namespace on a veth pair of its own.
    pub fn pod(&mut self) -> Pod {
        self.pods += 1;
        let n = self.pods;
        let (node, pod) = (
            format!("pgn-{}", self.suffix),
            format!("pgp{n}-{}", self.suffix),
        );
        let veth = format!("pg{n}{}", &self.suffix[..self.suffix.len().min(8)]);
        run(&format!(
            "ip netns add {pod}; ip -n {pod} link set lo up; \
             ip -n {node} link add {veth} type veth peer name eth0 netns {pod}; \
             ip netns exec {pod} sysctl -qw net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.all.accept_dad=0; \
             ip -n {node} addr add 10.77.{n}.1/24 dev {veth}; ip -n {node} addr add fd77:{n}::1/64 dev {veth} nodad; \
             ip -n {node} link set {veth} up; \
             ip -n {pod} addr add 10.77.{n}.2/24 dev eth0; ip -n {pod} addr add fd77:{n}::2/64 dev eth0 nodad; \
             ip -n {pod} link set eth0 up; ip -n {pod} route add default via 10.77.{n}.1; \
             ip -n {pod} route add default via fd77:{n}::1"
        ));
        // The kernel tells IPv6 of a new carrier up to a second late.
        let ready = |from: &Path, to: String| {
            let to: SocketAddr = to.parse().unwrap();
            wait_until("IPv6 is up", LONG, || {
                let limit = Duration::from_millis(20);
                let tried = in_netns(from, move || TcpStream::connect_timeout(&to, limit)).unwrap();
                tried.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
            });
        };
        ready(&netns(&pod), format!("[fd77:{n}::1]:9"));
        ready(&self.netns(), format!("[fd77:{n}::2]:9"));
        Pod {
            netns: pod,
            v4: format!("10.77.{n}.2").parse().unwrap(),
            v6: format!("fd77:{n}::2").parse().unwrap(),
            veth,
        }
    }

    /// Many endpoints, `pod-0` and on, whose other ends stand in one namespace.
    pub fn crowd(&mut self, count: usize, namespace: &str, mode: Mode) -> Vec<Record> {
        self.pods += 1;
        let (node, pod) = (
            format!("pgn-{}", self.suffix),
            format!("pgp{}-{}", self.pods, self.suffix),
        );
        run(&format!("ip netns add {pod}"));
        let mut batch = String::new();
        for i in 0..count {
            batch.push_str(&format!(
                "link add pc{i} type veth peer name eth{i} netns {pod}\n"
            ));
        }
        let file = self.dir.path().join("batch");
        fs::write(&file, batch).unwrap();
        run(&format!("ip -n {node} -batch {}", file.display()));
        let path = netns(&pod);
        let (store, bpf, namespace) = (self.store.clone(), self.bpf.clone(), namespace.to_owned());
        in_netns(&self.netns(), move || {
            let mut interfaces = enforcer::hostnet::pod_interfaces(&path).unwrap();
            interfaces.sort_by_key(|i| i.host_ifindex);
            let mut endpoints = Endpoints::open(&bpf).unwrap();
            let programs = Programs::open(endpoints.pins()).unwrap();
            let mut records = Vec::new();
            for (i, interface) in interfaces.iter().enumerate() {
                let locked = store.lock(LONG).unwrap();
                let reserved = endpoints.reserve(&locked).unwrap();
                let mut record = record(
                    &store,
                    &path,
                    interface,
                    reserved.endpoint_id,
                    reserved.endpoint_index,
                    mode,
                );
                record.pod_namespace = namespace.clone();
                record.pod_name = format!("pod-{i}");
                record.container_id = format!("crowd-{i}");
                record.addresses = vec![IpAddr::from([10, 1, (i / 250) as u8, (i % 250) as u8])];
                record.phase = Phase::Attached;
                locked.put_record(&record).unwrap();
                let new = NewEndpoint {
                    ifindex: interface.host_ifindex,
                    mac: interface.mac,
                    host_mac: interface.host_mac,
                    addresses: record.addresses.clone(),
                    extra_sources: vec![],
                    source_guard: true,
                    flags: PolicyState::PENDING,
                };
                endpoints.create(&locked, reserved, &new).unwrap();
                let attached = programs
                    .attach(interface.host_ifindex, AttachMode::Clsact)
                    .unwrap();
                record.attach_mode = attached.mode;
                records.push(record);
            }
            records
        })
        .unwrap()
    }

    /// What the plugin does at ADD.
    pub fn add(
        &self,
        pod: &Pod,
        namespace: &str,
        name: &str,
        mode: Mode,
        pending: bool,
        attach: AttachMode,
    ) -> Record {
        let path = netns(&pod.netns);
        let (store, bpf) = (self.store.clone(), self.bpf.clone());
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        in_netns(&self.netns(), move || {
            let interface = enforcer::hostnet::pod_interfaces(&path).unwrap().remove(0);
            let locked = store.lock(LONG).unwrap();
            let mut endpoints = Endpoints::open(&bpf).unwrap();
            let reserved = endpoints.reserve(&locked).unwrap();
            let mut record = record(
                &store,
                &path,
                &interface,
                reserved.endpoint_id,
                reserved.endpoint_index,
                mode,
            );
            record.container_id = format!("c-{name}");
            (record.pod_namespace, record.pod_name, record.attach_mode) = (namespace, name, attach);
            locked.put_record(&record).unwrap();
            let strict = if mode == Mode::Strict {
                PolicyState::STRICT
            } else {
                0
            };
            let new = NewEndpoint {
                ifindex: interface.host_ifindex,
                mac: interface.mac,
                host_mac: interface.host_mac,
                addresses: record.addresses.clone(),
                extra_sources: vec![],
                source_guard: true,
                flags: strict | if pending { PolicyState::PENDING } else { 0 },
            };
            endpoints.create(&locked, reserved, &new).unwrap();
            let attached = Programs::open(endpoints.pins())
                .unwrap()
                .attach(interface.host_ifindex, attach)
                .unwrap();
            record.attach_mode = attached.mode;
            record.phase = Phase::Attached;
            record.attached_at = Some(state::clock::now_rfc3339());
            record.attached_at_monotonic_ns = Some(state::clock::monotonic_ns());
            locked.put_record(&record).unwrap();
            record
        })
        .unwrap()
    }

    pub fn start(&mut self, extra: &[&str]) {
        self.start_under(&[], extra);
    }

    /// The same, by a program that starts another one (`prlimit`, for example).
    pub fn start_under(&mut self, wrapper: &[&str], extra: &[&str]) {
        self.spawn(wrapper, extra);
        self.settle();
    }

    /// The same, where a first pass may take long.
    pub fn start_within(&mut self, limit: Duration, extra: &[&str]) {
        self.spawn(&[], extra);
        self.settle_within(limit);
    }

    fn spawn(&mut self, wrapper: &[&str], extra: &[&str]) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.netns().display()))
            .args(wrapper)
            // Another build's, to see a fault as it was.
            .arg(
                std::env::var("PODGATE_TEST_PODGATED")
                    .unwrap_or(env!("CARGO_BIN_EXE_podgated").into()),
            )
            .args([
                "--state-dir",
                self.store.root().to_str().unwrap(),
                "--bpf-dir",
                self.bpf.to_str().unwrap(),
            ])
            .env("PODGATE_METRICS_BIND_ADDR", ":8162")
            .env("PODGATE_HEALTH_PROBE_BIND_ADDR", "127.0.0.1:8163")
            .env("PODGATE_LOG_LEVEL", "debug")
            .args(extra)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        wait_until("podgated is alive", LONG, || self.store.companion_alive());
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("podgated.log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: &str) {
        run(&format!("kill -s {signal} {}", self.pid()));
    }

    pub fn stop(&mut self, signal: &str) {
        let mut child = self.daemon.take().unwrap();
        run(&format!("kill -s {signal} {}", child.id()));
        let begin = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(
                begin.elapsed() < LONG,
                "podgated does not end\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// As `podgatectl wait` does.
    pub fn settle(&self) -> Duration {
        self.settle_within(LONG)
    }

    pub fn settle_within(&self, limit: Duration) -> Duration {
        let at = state::clock::monotonic_ns();
        let fingerprint = state::StoreFingerprint::take(&self.store).unwrap();
        wait_until("the companion applies", limit, || {
            published::status::Companion::read(&self.store)
                .unwrap()
                .is_some_and(|c| c.has_applied(&fingerprint, at))
        })
    }

    pub fn policy(&self, file: &str, text: &str) {
        let path = self.store.layout().policies().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let hidden =
            path.with_file_name(format!(".{}", path.file_name().unwrap().to_str().unwrap()));
        fs::write(&hidden, text).unwrap();
        fs::rename(hidden, path).unwrap();
    }

    pub fn remove_policy(&self, file: &str) {
        fs::remove_file(self.store.layout().policies().join(file)).unwrap();
    }

    pub fn policy_state(&self, record: &Record) -> PolicyState {
        Endpoints::open(&self.bpf)
            .unwrap()
            .policy_states
            .get(record.endpoint_index)
    }

    /// Whether a new TCP connection to a port is accepted; both families have to agree.
    pub fn connects(&self, from: &Pod, to: &Pod, port: u16) -> bool {
        let v4 = connects(from, to, SocketAddr::new(to.v4, port));
        let v6 = connects(from, to, SocketAddr::new(to.v6, port));
        assert_eq!(
            v4,
            v6,
            "the families differ: port {port}: {:#?}",
            self.reasons()
        );
        v4
    }
}

fn record(
    store: &Store,
    netns: &Path,
    interface: &enforcer::hostnet::PodInterface,
    endpoint_id: u32,
    endpoint_index: u32,
    mode: Mode,
) -> Record {
    Record {
        schema: state::records::SCHEMA,
        phase: Phase::Intended,
        boot_id: store.boot_id().to_owned(),
        network: "test".into(),
        container_id: String::new(),
        cni_ifname: "eth0".into(),
        ifname: interface.ifname.clone(),
        pod_namespace: String::new(),
        pod_name: String::new(),
        pod_uid: None,
        labels: None,
        netns: netns.display().to_string(),
        ifindex: interface.host_ifindex,
        veth: interface.host_name.clone(),
        endpoint_id,
        endpoint_index,
        mac: interface.mac.map(|b| format!("{b:02x}")).join(":"),
        addresses: interface.addresses.iter().map(|n| n.ip()).collect(),
        mode,
        attach_mode: AttachMode::Clsact,
        layout_version: verdict::layout::LAYOUT_VERSION,
        attached_at: None,
        attached_at_monotonic_ns: None,
        source_guard: true,
        extra_sources: vec![],
        host_ports: Vec::new(),
        host_path_interfaces: Vec::new(),
        other: Default::default(),
    }
}

pub fn connects(from: &Pod, to: &Pod, address: SocketAddr) -> bool {
    let listener = in_netns(&netns(&to.netns), move || {
        TcpListener::bind(address).unwrap()
    })
    .unwrap();
    let connected = in_netns(&netns(&from.netns), move || {
        TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok()
    });
    drop(listener);
    connected.unwrap()
}

/// A connection that is used before and after a change.
pub struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    pub fn open(from: &Pod, to: &Pod, address: SocketAddr) -> Self {
        let listener = in_netns(&netns(&to.netns), move || {
            TcpListener::bind(address).unwrap()
        })
        .unwrap();
        let client = in_netns(&netns(&from.netns), move || {
            TcpStream::connect_timeout(&address, Duration::from_secs(2)).unwrap()
        })
        .unwrap();
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream
                .set_read_timeout(Some(Duration::from_millis(300)))
                .unwrap();
            stream.set_nodelay(true).unwrap();
        }
        Self { client, server }
    }

    /// Whether a byte goes there and back.
    pub fn works(&mut self) -> bool {
        let mut byte = [7u8];
        self.client.write_all(&byte).is_ok()
            && self.server.read_exact(&mut byte).is_ok()
            && self.server.write_all(&byte).is_ok()
            && self.client.read_exact(&mut byte).is_ok()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!(
                "--- podgated\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        for n in 1..=self.pods {
            let _ = Command::new("ip")
                .args(["netns", "del", &format!("pgp{n}-{}", self.suffix)])
                .status();
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &format!("pgn-{}", self.suffix)])
            .status();
        let _ = fs::remove_dir_all(&self.bpf);
    }
}

/// A document that lets some addresses in on a TCP port.
pub fn allow(name: &str, pod: &Pod, pod_name: &str, from: &[IpAddr], port: u16) -> String {
    let rules: String = from
        .iter()
        .map(|ip| format!("  - {{cidr: \"{ip}\", ports: [{{protocol: TCP, port: {port}}}]}}\n"))
        .collect();
    format!(
        "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {{name: {name}-1, namespace: shop}}\nspec:\n  \
         policyRef: {{name: {name}, namespace: shop}}\n  podIsolation: [Ingress]\n  podSelector: {{}}\n  \
         podSelectorEndpoints: [{{name: {pod_name}, namespace: shop, podIP: {}}}]\n  ingress:\n{rules}",
        pod.v4
    )
}

/// The same, marked as complete.
pub fn marked(text: &str, generation: u32) -> String {
    let marks = format!(
        "annotations: {{podgate.dev/parts: \"1\", podgate.dev/generation: \"{generation}\"}}, "
    );
    text.replacen("metadata: {", &format!("metadata: {{{marks}"), 1)
}

impl Node {
    /// Counters by endpoint index, direction and reason: for messages of tests that fail.
    pub fn reasons(&self) -> Vec<String> {
        let pins = enforcer::pins::Pins::new(&self.bpf);
        let map =
            enforcer::maps::per_cpu_hash::<u32, enforcer::maps::CounterValue>(&pins, "REASONS")
                .unwrap();
        let mut all: Vec<String> = map
            .iter()
            .filter_map(Result::ok)
            .map(|(key, values)| {
                let reason = verdict::Reason::from_number(key as u8);
                let name = reason.map_or("?", |r| r.name());
                let direction = if key >> 8 & 1 == 0 {
                    "ingress"
                } else {
                    "egress"
                };
                format!(
                    "{} {direction} {name}: {}",
                    key >> 16,
                    values.iter().map(|v| v.0.packets).sum::<u64>()
                )
            })
            .collect();
        all.sort();
        all
    }
}
