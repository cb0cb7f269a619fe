//! A node: two namespaces held by one process, with an uplink to an outside host.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::chain::Chain;
use crate::cmd::{Cmd, Output};
use crate::companion::Companion;
use crate::pod::Pod;
use crate::traffic::ping;
use crate::{keep, random_suffix, tools, wait_until};

/// The node's address on the uplink.
pub const NODE_V4: &str = "198.51.100.1";
/// The node's IPv6 address on the uplink.
pub const NODE_V6: &str = "2001:db8:100::1";
/// The outside host's address.
pub const OUTSIDE_V4: &str = "198.51.100.2";
/// The outside host's IPv6 address.
pub const OUTSIDE_V6: &str = "2001:db8:100::2";
/// More addresses of the outside host: peers that a policy can tell apart.
pub const OUTSIDE_MORE_V4: [&str; 2] = ["198.51.100.3", "198.51.100.4"];
/// More IPv6 addresses of the outside host.
pub const OUTSIDE_MORE_V6: [&str; 2] = ["2001:db8:100::3", "2001:db8:100::4"];

/// The outside host's `number`th address (0 to 2) in both families: IPv4, then IPv6.
///
/// # Panics
/// When there is no such address.
#[must_use]
pub fn outside(number: usize) -> [IpAddr; 2] {
    let v4 = [OUTSIDE_V4, OUTSIDE_MORE_V4[0], OUTSIDE_MORE_V4[1]][number];
    let v6 = [OUTSIDE_V6, OUTSIDE_MORE_V6[0], OUTSIDE_MORE_V6[1]][number];
    [v4, v6].map(|text| {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    })
}

/// The node's own address in both families.
///
/// # Panics
/// Never: the addresses are constants.
#[must_use]
pub fn node_addresses() -> [IpAddr; 2] {
    [NODE_V4, NODE_V6].map(|text| {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    })
}

/// Which bpffs the node sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BpfFs {
    /// One of its own, mounted over `/sys/fs/bpf` in its mount namespace: the pins die with the node.
    Own,
    /// The machine's, mounted if it was not (and left so): as on a real node.
    Machine,
    /// None: `/sys/fs/bpf` is a plain folder, and a mount would reach nobody.
    None,
}

/// A place where traffic starts or ends: a network namespace with a path that any process can open.
#[derive(Debug, Clone)]
pub struct Place {
    /// For messages.
    pub label: String,
    /// The namespace.
    pub netns: PathBuf,
}

impl Place {
    /// A command in this network namespace (and the test's mount namespace).
    pub fn cmd(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        Cmd::new("nsenter")
            .arg(format!("--net={}", self.netns.display()))
            .arg("--")
            .arg(program)
    }
}

/// What a node is made of; [`NodeBuilder::start`] makes it.
#[derive(Debug)]
pub struct NodeBuilder {
    bpffs: BpfFs,
    label: String,
}

impl NodeBuilder {
    /// Which bpffs the node sees ([`BpfFs::Own`] unless told).
    #[must_use]
    pub fn bpffs(mut self, bpffs: BpfFs) -> Self {
        self.bpffs = bpffs;
        self
    }

    /// Makes the namespaces, the uplink and the folders.
    ///
    /// # Panics
    /// When the machine does not let it, saying which step failed.
    #[track_caller]
    #[must_use]
    pub fn start(self) -> Node {
        let suffix = random_suffix();
        let dir = tempfile::Builder::new()
            .prefix(&format!("podgate-it-{}-{suffix}-", self.label))
            .tempdir()
            .unwrap_or_else(|error| panic!("make a folder: {error}"));
        if self.bpffs == BpfFs::Machine {
            mount_machine_bpffs();
        }
        let holder = hold(self.bpffs);
        let node = Node {
            pid: holder.id(),
            holder,
            bpf_dir: PathBuf::from(format!("/sys/fs/bpf/podgate-test-{suffix}")),
            state_dir: dir.path().join("state"),
            log_file: dir.path().join("plugin.log"),
            bpffs: self.bpffs,
            suffix,
            next_pod: AtomicU32::new(0),
            dir,
        };
        node.make_folders();
        node.wire_uplink();
        if keep() {
            eprintln!(
                "KEEP=1: node {} stays; enter it by: {} (end it by: kill {})",
                node.suffix,
                node.enter_line(),
                node.pid
            );
        }
        node
    }
}

/// A node. Everything of it goes when it is dropped.
#[derive(Debug)]
pub struct Node {
    holder: Child,
    pid: u32,
    suffix: String,
    bpffs: BpfFs,
    bpf_dir: PathBuf,
    state_dir: PathBuf,
    log_file: PathBuf,
    next_pod: AtomicU32,
    dir: TempDir,
}

/// Settings of every namespace. No DAD: the reference plugins wait for its end.
pub(crate) const NO_DAD: &str = "net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0";

/// Shell lines that make a namespace ask again soon, and often, for a neighbour: the kernel makes a new link fully ready up to a second late
/// (linkwatch), and what is tested is not its patience. There is no default of a namespace to set before.
pub(crate) const QUICK_NEIGHBOURS: &str = r#"
for dir in /proc/sys/net/ipv[46]/neigh/*; do
  if [ -e $dir/mcast_solicit ]; then echo 50 > $dir/mcast_solicit; echo 40 > $dir/retrans_time_ms; fi 2>/dev/null
done
"#;

/// Where the packages of Amazon's plugins log: without it in /host of the machine.
const AMAZON_LOG: (&str, &str) = (
    "AWS_VPC_K8S_CNI_LOG_FILE",
    "/var/log/aws-routed-eni/packages.log",
);

const HOLDER: &str = r#"
set -eu
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/aws-node /run/lock
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t tmpfs -o mode=755 tmpfs /var/log
case $1 in
Own) mount -t sysfs sysfs /sys; mount -t bpf -o mode=700 bpf /sys/fs/bpf ;;
None) mount -t sysfs sysfs /sys ;;
esac
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 $3
echo ready
exec $2
"#;

/// Starts the process that holds the node's namespaces, and waits until they are set up.
fn hold(bpffs: BpfFs) -> Child {
    let stay = if keep() { "sleep infinity" } else { "cat" };
    let mut child = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            HOLDER,
            "podgate-node",
            &format!("{bpffs:?}"),
            stay,
            NO_DAD,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("start unshare: {error}"));
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let _ = BufReader::new(stdout).read_line(&mut line);
    }
    if line.trim() != "ready" {
        let _ = child.kill();
        let mut error = String::new();
        let _ = child
            .stderr
            .take()
            .map(|mut stderr| stderr.read_to_string(&mut error));
        panic!(
            "make a node's namespaces (root, CAP_SYS_ADMIN and CAP_NET_ADMIN are needed): {error}"
        );
    }
    child
}

/// Mounts the machine's bpffs if it is not mounted, and leaves it.
fn mount_machine_bpffs() {
    let mounted = || {
        Cmd::new("mountpoint")
            .args(["-q", "/sys/fs/bpf"])
            .run()
            .success()
    };
    // Two tests may both find it missing: the second mount would hide the first.
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let lock = "/tmp/podgate-test-bpffs.lock";
        Cmd::new("flock")
            .args([
                lock,
                "sh",
                "-c",
                "mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf",
            ])
            .ok();
    });
    assert!(mounted(), "/sys/fs/bpf is no bpffs and cannot be made one");
}

impl Node {
    /// A node as most tests want it.
    #[track_caller]
    #[must_use]
    pub fn new() -> Self {
        Self::builder("node").start()
    }

    /// A node in the making; the label shows in folder names.
    #[must_use]
    pub fn builder(label: &str) -> NodeBuilder {
        NodeBuilder {
            bpffs: BpfFs::Own,
            label: label.to_owned(),
        }
    }

    fn make_folders(&self) {
        for dir in [&self.state_dir, &self.policies_dir(), &self.conf_dir()] {
            fs::create_dir_all(dir)
                .unwrap_or_else(|error| panic!("make {}: {error}", dir.display()));
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
                .unwrap_or_else(|error| panic!("chmod {}: {error}", dir.display()));
        }
    }

    fn wire_uplink(&self) {
        let mut script = format!(
            "ip netns add outside
             ip netns exec outside sysctl -qw {NO_DAD}
             ip link add up0 type veth peer name eth0 netns outside
             ip addr add {NODE_V4}/24 dev up0; ip addr add {NODE_V6}/64 dev up0 nodad; ip link set up0 up
             ip route add default via {OUTSIDE_V4}; ip -6 route add default via {OUTSIDE_V6}
             ip netns exec outside sh -ec '
               ip link set lo up
               ip addr add {OUTSIDE_V4}/24 dev eth0; ip addr add {OUTSIDE_V6}/64 dev eth0 nodad; ip link set eth0 up
               ip route add default via {NODE_V4}; ip -6 route add default via {NODE_V6}\n"
        );
        for address in OUTSIDE_MORE_V4 {
            script += &format!("ip addr add {address}/24 dev eth0\n");
        }
        for address in OUTSIDE_MORE_V6 {
            script += &format!("ip addr add {address}/64 dev eth0 nodad\n");
        }
        script += &format!("{QUICK_NEIGHBOURS}\n'\n{QUICK_NEIGHBOURS}");
        // A chain that asks for the connection's state makes the kernel track connections, as kube-proxy's rules do.
        script += "nft -f - <<'E'
            table inet kube {
              chain prerouting { type nat hook prerouting priority dstnat; policy accept; }
              chain output { type nat hook output priority -100; policy accept; }
              chain postrouting { type nat hook postrouting priority srcnat; policy accept; }
              chain forward { type filter hook forward priority filter; policy accept; ct state invalid counter; }
            }\nE\n";
        self.sh(&script);
        let outside: [IpAddr; 2] = [
            Ipv4Addr::new(198, 51, 100, 2).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 2).into(),
        ];
        wait_until("the uplink is ready", Duration::from_secs(5), || {
            outside.iter().all(|address| ping(&self.place(), *address))
        });
    }

    // ---- names and folders

    /// The random suffix that tells this node from others.
    #[must_use]
    pub fn suffix(&self) -> &str {
        &self.suffix
    }

    /// The folder that goes with the node.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// podgate's state store.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// `<state>/policies`.
    #[must_use]
    pub fn policies_dir(&self) -> PathBuf {
        self.state_dir.join("policies")
    }

    /// podgate's folder on the bpffs, as the node sees it.
    #[must_use]
    pub fn bpf_dir(&self) -> &Path {
        &self.bpf_dir
    }

    /// The plugin's log.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.log_file
    }

    /// The CNI configuration folder (`NETCONFPATH`).
    #[must_use]
    pub fn conf_dir(&self) -> PathBuf {
        self.dir.path().join("net.d")
    }

    /// A path of the node's mount namespace as the test can open it.
    #[must_use]
    pub fn inside(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        Path::new(&format!("/proc/{}/root", self.pid)).join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The node's own network namespace.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            label: "node".into(),
            netns: format!("/proc/{}/ns/net", self.pid).into(),
        }
    }

    /// The outside host.
    #[must_use]
    pub fn outside(&self) -> Place {
        self.place_of("outside")
    }

    pub(crate) fn place_of(&self, netns: &str) -> Place {
        Place {
            label: netns.to_owned(),
            netns: self.inside(format!("/run/netns/{netns}")),
        }
    }

    // ---- commands

    fn enter_args(&self) -> [String; 3] {
        [
            format!("--mount=/proc/{}/ns/mnt", self.pid),
            format!("--net=/proc/{}/ns/net", self.pid),
            "--".into(),
        ]
    }

    fn enter_line(&self) -> String {
        format!("nsenter {} bash", self.enter_args().join(" "))
    }

    /// A command on the node: in both of its namespaces, with podgate's folders in the environment.
    pub fn cmd(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        Cmd::new("nsenter")
            .args(self.enter_args())
            .arg(program)
            .env("PODGATE_STATE_DIR", &self.state_dir)
            .env("PODGATE_BPF_DIR", &self.bpf_dir)
            .env(AMAZON_LOG.0, AMAZON_LOG.1)
            .unset("NETWORK_POLICY_ENFORCING_MODE")
    }

    /// A command on the node that dies with the test, for daemons.
    pub(crate) fn daemon(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .args(self.enter_args())
            .arg(program);
        command
            .env(AMAZON_LOG.0, AMAZON_LOG.1)
            .env_remove("NETWORK_POLICY_ENFORCING_MODE");
        command
    }

    /// Runs shell lines on the node; the first that fails is a failure of the test.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.cmd("sh").args(["-eu"]).stdin(script).ok()
    }

    /// Runs cnitool with the given words.
    #[track_caller]
    #[must_use]
    pub fn cnitool(&self, words: &[&str]) -> Cmd {
        self.cmd(tools::plugin("cnitool"))
            .args(words)
            .env("NETCONFPATH", self.conf_dir())
            .env("CNI_PATH", tools::cni_path())
            .timeout(Duration::from_secs(60))
    }

    /// Runs `podgatectl` with the given words.
    #[track_caller]
    #[must_use]
    pub fn ctl(&self, words: &[&str]) -> Output {
        self.cmd(tools::podgate("podgatectl")).args(words).run()
    }

    /// Starts the companion and waits until it is alive.
    #[track_caller]
    #[must_use]
    pub fn companion(&self) -> Companion {
        Companion::start(self, &[])
    }

    // ---- pods and services

    /// A new pod namespace, named after the pod in namespace `default`.
    #[track_caller]
    #[must_use]
    pub fn pod(&self, name: &str) -> Pod<'_> {
        self.pod_in("default", name)
    }

    /// A new pod namespace of a pod in a Kubernetes namespace.
    #[track_caller]
    #[must_use]
    pub fn pod_in(&self, namespace: &str, name: &str) -> Pod<'_> {
        let number = self.next_pod.fetch_add(1, Ordering::Relaxed);
        Pod::new(
            self,
            namespace,
            name,
            &format!("pod{number}-{}", self.suffix),
        )
    }

    /// Writes a chain into the CNI folder.
    #[track_caller]
    pub fn install(&self, chain: &Chain) {
        let path = self.conf_dir().join(format!("{}.conflist", chain.name()));
        let text = chain.to_json().to_string();
        // Pods may be added at the same time: a file that says the same already is not written again.
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            return;
        }
        fs::write(&path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }

    /// A Service as kube-proxy makes it: what goes to `cluster` is sent to `backend`, with the node's address where a pod calls itself.
    #[track_caller]
    pub fn service(&self, protocol: &str, cluster: (IpAddr, u16), backend: (IpAddr, u16)) {
        let ((address, port), (pod, pod_port)) = (cluster, backend);
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        let bracket = if pod.is_ipv4() {
            pod.to_string()
        } else {
            format!("[{pod}]")
        };
        self.sh(&format!(
            "nft -f - <<'E'
            add rule inet kube prerouting {family} daddr {address} {protocol} dport {port} dnat {family} to {bracket}:{pod_port}
            add rule inet kube output {family} daddr {address} {protocol} dport {port} dnat {family} to {bracket}:{pod_port}
            add rule inet kube postrouting {family} saddr {pod} {family} daddr {pod} ct status dnat masquerade\nE\n"
        ));
    }

    /// What `podgatectl pods` says of a pod.
    ///
    /// # Panics
    /// When the pod is not in the list.
    #[track_caller]
    #[must_use]
    pub fn row(&self, pod: &str) -> serde_json::Value {
        let pods = self.ctl_json(&["pods"]);
        let mut rows = pods.as_array().into_iter().flatten();
        let row = rows.find(|row| row["name"] == pod).cloned();
        row.unwrap_or_else(|| panic!("no pod {pod} in {pods}"))
    }

    /// How often a reason was counted at a pod: `jail egress/policy-denied`.
    ///
    /// # Panics
    /// When the pod is not in the list.
    #[track_caller]
    #[must_use]
    pub fn counted(&self, pod_and_reason: &str) -> u64 {
        let (name, reason) = pod_and_reason
            .split_once(' ')
            .unwrap_or_else(|| panic!("a pod and a reason: {pod_and_reason:?}"));
        self.row(name)["reasons"][reason].as_u64().unwrap_or(0)
    }

    // ---- the store

    /// Puts a document into the store as a careful writer does: a file with a name that is not read, then a rename.
    #[track_caller]
    pub fn put_policy(&self, file: &str, text: &str) {
        let (path, temp) = (
            self.policies_dir().join(file),
            self.policies_dir().join(format!(".{file}.tmp")),
        );
        fs::write(&temp, text)
            .and_then(|()| fs::rename(&temp, &path))
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }

    /// Removes a document from the store.
    #[track_caller]
    pub fn remove_policy(&self, file: &str) {
        let path = self.policies_dir().join(file);
        fs::remove_file(&path).unwrap_or_else(|error| panic!("remove {}: {error}", path.display()));
    }

    /// Makes the state folder read-only, as the node sees it.
    #[track_caller]
    pub fn make_state_read_only(&self) {
        let dir = self.state_dir.display();
        self.sh(&format!(
            "mount --bind {dir} {dir}; mount -o remount,bind,ro {dir}"
        ));
    }

    /// Takes [`Node::make_state_read_only`] back.
    #[track_caller]
    pub fn make_state_writable(&self) {
        self.sh(&format!("umount {}", self.state_dir.display()));
    }

    /// The plugin's log so far: the node's file, and that of chains which name none.
    #[must_use]
    pub fn log(&self) -> String {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        read(self.log_file.clone()) + &read(self.inside("/var/log/podgate/plugin.log"))
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if keep() {
            self.dir.disable_cleanup(true);
            return;
        }
        if self.bpffs == BpfFs::Machine {
            let _ = fs::remove_dir_all(&self.bpf_dir);
        }
        // The holder's death empties its mount namespace, which lets go of all network namespaces, which takes their links along.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        if !std::thread::panicking() {
            let gone = || !Path::new(&format!("/proc/{}/ns/net", self.pid)).exists();
            wait_until("the node's holder is gone", Duration::from_secs(5), gone);
        }
    }
}
