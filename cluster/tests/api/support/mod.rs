//! A real kube-apiserver on a real etcd, and the programs under test beside them. What they did is looked at with kubectl and
//! by reading files, never with their own code.
#![allow(unreachable_pub, reason = "a module of one executable")]

mod process;
mod proxy;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

pub use process::Process;
pub use proxy::Proxy;

/// Longer than anything takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition; `what` names it when it does not come.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// A cluster without nodes: nothing runs pods, and nothing but the tests changes objects.
pub struct Api {
    pub dir: tempfile::TempDir,
    port: u16,
    _etcd: Process,
    _apiserver: Process,
}

/// Name and group.
const USERS: [(&str, &str); 4] = [
    ("admin", "system:masters"),
    ("narrow", ""),
    ("controller", ""),
    ("node", ""),
];

impl Api {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (client, peer, port) = (free_port(), free_port(), free_port());
        let etcd_url = format!("http://127.0.0.1:{client}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let etcd = Process::start(
            dir.path(),
            "etcd",
            Command::new("etcd")
                .args(["--data-dir", &path("etcd"), "--unsafe-no-fsync"])
                .args(["--listen-client-urls", &etcd_url])
                .args(["--advertise-client-urls", &etcd_url])
                .args(["--listen-peer-urls", &peer_url])
                .args(["--initial-advertise-peer-urls", &peer_url])
                .args(["--initial-cluster", &format!("default={peer_url}")]),
        );
        let made = Command::new("openssl")
            .args(["genrsa", "-out", &path("sa.key"), "2048"])
            .stderr(Stdio::null())
            .status();
        assert!(made.expect("openssl").success());
        let mut tokens = String::new();
        for (user, group) in USERS {
            tokens += &format!("token-{user},{user},{user},{group}\n");
        }
        fs::write(dir.path().join("tokens.csv"), tokens).expect("tokens");
        let apiserver = Process::start(
            dir.path(),
            "apiserver",
            Command::new(apiserver_path())
                .args([&format!("--etcd-servers={etcd_url}")])
                .args([&format!("--secure-port={port}")])
                .args(["--bind-address=127.0.0.1", "--authorization-mode=RBAC"])
                .args([&format!("--cert-dir={}", path("certs"))])
                .args([&format!("--service-account-key-file={}", path("sa.key"))])
                .args([&format!(
                    "--service-account-signing-key-file={}",
                    path("sa.key")
                )])
                .args(["--service-account-issuer=https://kubernetes.default.svc"])
                .args([&format!("--token-auth-file={}", path("tokens.csv"))])
                .args([
                    "--service-cluster-ip-range=10.96.0.0/16",
                    "--allow-privileged",
                ])
                .args(["--disable-admission-plugins=ServiceAccount"]),
        );
        let api = Self {
            dir,
            port,
            _etcd: etcd,
            _apiserver: apiserver,
        };
        for (user, _) in USERS {
            api.kubeconfig(user, port);
        }
        eventually("the API serves", || {
            api.try_kubectl(&["get", "--raw", "/readyz"])
        });
        api
    }

    /// With podgate's definitions.
    pub fn with_definitions() -> Self {
        let api = Self::start();
        api.define();
        api
    }

    pub fn define(&self) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/crds");
        self.kubectl(&["apply", "-f", &folder.display().to_string()]);
        self.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            "crd",
            "--all",
        ]);
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The kubeconfig of a user, by a port that leads to the API.
    pub fn kubeconfig(&self, user: &str, port: u16) -> PathBuf {
        let path = self.dir.path().join(format!("{user}-{port}.kubeconfig"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: k, cluster: {{server: \"https://127.0.0.1:{port}\", insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: u, user: {{token: token-{user}}}}}]\n\
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n"
        );
        if !path.exists() {
            fs::write(&path, text).expect("kubeconfig");
        }
        path
    }

    pub fn admin(&self) -> PathBuf {
        self.kubeconfig("admin", self.port)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .env("KUBECACHEDIR", self.dir.path().join("kubectl"))
            .arg("--kubeconfig")
            .arg(
                self.dir
                    .path()
                    .join(format!("admin-{}.kubeconfig", self.port)),
            )
            .args(args);
        command
    }

    fn try_kubectl(&self, args: &[&str]) -> Option<String> {
        let output = self.command(args).output().expect("kubectl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("kubectl");
        assert!(
            output.status.success(),
            "kubectl {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn apply(&self, manifests: &str) {
        use std::io::Write as _;
        let mut child = self
            .command(&["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("kubectl");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(manifests.as_bytes()).expect("manifests");
        drop(stdin);
        assert!(child.wait().expect("kubectl").success(), "{manifests}");
    }

    /// The items of a list.
    pub fn list(&self, kind: &str, namespace: &str) -> Vec<Value> {
        let mut args = vec!["get", kind, "-o", "json", "--show-managed-fields"];
        if !namespace.is_empty() {
            args.extend(["-n", namespace]);
        }
        let list: Value = serde_json::from_str(&self.kubectl(&args)).expect("JSON");
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// A pod that the scheduler has bound to `node`; `labels` as YAML flow.
    pub fn pod(&self, namespace: &str, name: &str, node: &str, labels: &str) {
        self.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}\n\
             spec: {{nodeName: {node}, containers: [{{name: c, image: none, ports: [{{name: http, containerPort: 80}}]}}]}}\n"
        ));
    }

    /// What the kubelet says once the sandbox is there.
    pub fn pod_runs(&self, namespace: &str, name: &str, address: &str) {
        let status = format!(
            r#"{{"status":{{"phase":"Running","hostIP":"192.0.2.1","podIP":"{address}","podIPs":[{{"ip":"{address}"}}]}}}}"#
        );
        self.kubectl(&[
            "patch",
            "pod",
            name,
            "-n",
            namespace,
            "--subresource=status",
            "-p",
            &status,
        ]);
    }

    pub fn node(&self, name: &str, address: &str) {
        self.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n"
        ));
        let status = format!(
            r#"{{"status":{{"addresses":[{{"type":"InternalIP","address":"{address}"}},{{"type":"Hostname","address":"{name}"}}]}}}}"#
        );
        self.kubectl(&["patch", "node", name, "--subresource=status", "-p", &status]);
    }
}

fn apiserver_path() -> PathBuf {
    let cache = std::env::var_os("PODGATE_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/podgate"),
        PathBuf::from,
    );
    let path = cache.join("kube/kube-apiserver");
    assert!(
        path.exists(),
        "{} is missing: run scripts/kube.sh",
        path.display()
    );
    path
}

/// A program of ours, its store and its ports.
pub struct Program {
    pub process: Process,
    pub health: u16,
    pub metrics: u16,
}

impl Program {
    pub fn controller(api: &Api, kubeconfig: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podgate-controller"));
        command.arg("--kubeconfig").arg(kubeconfig).args(more);
        Self::start(api, "controller", command, more)
    }

    pub fn sync(api: &Api, kubeconfig: &Path, node: &str, store: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podgate-sync"));
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--node-name", node])
            .arg("--state-dir")
            .arg(store)
            .args(more);
        Self::start(api, &format!("sync-{node}"), command, more)
    }

    fn start(api: &Api, name: &str, mut command: Command, more: &[&str]) -> Self {
        let (health, metrics) = (free_port(), free_port());
        command.args(["--health-probe-bind-addr", &format!("127.0.0.1:{health}")]);
        if !more.contains(&"--metrics-bind-addr") {
            command.args(["--metrics-bind-addr", &format!("127.0.0.1:{metrics}")]);
        }
        Self {
            process: Process::start(api.dir.path(), name, &mut command),
            health,
            metrics,
        }
    }

    pub fn readiness(&self) -> Option<(u16, String)> {
        http_get(self.health, "/readyz")
    }

    pub fn wait_ready(&self) {
        let mut last = None;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            last = self.readiness();
            if last.as_ref().is_some_and(|(status, _)| *status == 200) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("not ready: {last:?}\n{}", self.process.log());
    }

    /// A metric's value.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = http_get(self.metrics, "/metrics").expect("metrics");
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name} ")));
        let value = line.and_then(|line| line.split(' ').nth(1)?.parse().ok());
        value.unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
    }
}

fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A store's file as JSON.
pub fn json_file(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Every file below a folder, with its time and inode: whether anything was written.
pub fn fingerprint(folder: &Path) -> Vec<(PathBuf, u64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let mut out = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return out;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            out.extend(fingerprint(&path));
        } else if let Ok(metadata) = entry.metadata() {
            out.push((path, metadata.ino(), metadata.ctime_nsec()));
        }
    }
    out.sort();
    out
}
