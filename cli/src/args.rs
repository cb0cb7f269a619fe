//! What `podgatectl` takes.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Shows and steers podgate on this node.
#[derive(Debug, Parser)]
#[command(
    name = "podgatectl",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub(crate) struct Args {
    /// Folder of the state store
    #[arg(long, global = true, env = "PODGATE_STATE_DIR", default_value = state::layout::DEFAULT_ROOT)]
    pub(crate) state_dir: PathBuf,
    /// Folder on a bpffs that holds the pinned kernel objects
    #[arg(long, global = true, env = "PODGATE_BPF_DIR", default_value = enforcer::pins::DEFAULT_BPF_DIR)]
    pub(crate) bpf_dir: PathBuf,
    /// Output format
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// As table, with more columns
    Wide,
    /// JSON, camelCase
    Json,
    /// YAML, camelCase
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// The node at a glance: kernel objects, companion, documents, pods without enforcement
    Status,
    /// The endpoints under enforcement (-o wide: drops by reason)
    Pods(Pods),
    /// The policy documents of the store and their conditions
    Policies,
    /// Whether a packet would pass, and by which policy and rule
    Explain(Explain),
    /// Turns NetworkPolicy manifests into the documents that the store holds
    ///
    /// Takes NetworkPolicy, ClusterNetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy, Amazon's ClusterNetworkPolicy and
    /// ApplicationNetworkPolicy, and what they speak of: Pod, Namespace, Node, Service, EndpointSlice, and Lists of these, as
    /// `kubectl get -o yaml` prints them. Other kinds are left out.
    ///
    /// Ends with 0 when all is well and 1 when an input is broken, and then nothing is written (without --keep-going). With --diff: 0 = no
    /// differences, 1 = differences, 2 = trouble.
    Resolve(Resolve),
    /// Waits until everything that the store holds now has been applied
    Wait(Wait),
    /// Loads and pins the kernel objects, once a node
    Load(Load),
    /// Shows or sets the mode: what happens in a direction for which no policy isolates a pod
    Mode(ModeOptions),
    /// What is wrong with this node, and what to do about it; ends with 1 where something is an error
    Doctor(Doctor),
    /// Puts podgate into this node's CNI chain, with its programs and its service
    ///
    /// In a list that is there one entry is inserted, behind what touches the pod's interface (bandwidth, tuning) and before portmap; every
    /// other byte stays, and a copy is kept beside it. Amazon's list is written anew by aws-node at each start: there a list of our own,
    /// 05-podgate.conflist, stands in front of it, made from it; `--watch` keeps it so.
    Install(Install),
    /// Takes podgate out of this node's CNI chain and stops its service
    Uninstall(Uninstall),
    /// The kernel objects themselves
    #[command(subcommand)]
    Ebpf(Ebpf),
    /// Prints a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Prints the man page, or writes one for each verb into a directory
    Man {
        /// Where to write them
        directory: Option<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Pods {
    /// Only pods of this namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
    /// Only this pod (name, or namespace/name)
    pub(crate) pod: Option<String>,
}

/// Direction, always the pod's.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DirectionArg {
    /// Towards the pod
    Ingress,
    /// From the pod
    Egress,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Explain {
    /// The pod, as namespace/name
    #[arg(long)]
    pub(crate) pod: String,
    /// Its interface, where it has several
    #[arg(long)]
    pub(crate) interface: Option<String>,
    /// Direction of the packet that opens the connection
    #[arg(long, value_enum)]
    pub(crate) direction: DirectionArg,
    /// Address of the other side
    #[arg(long)]
    pub(crate) peer: IpAddr,
    /// Port that is connected to (of the peer for egress, of the pod for ingress)
    #[arg(long, default_value_t = 0)]
    pub(crate) port: u16,
    /// tcp, udp, sctp, icmp or a number
    #[arg(long, default_value = "tcp", value_parser = parse_protocol)]
    pub(crate) protocol: u8,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Resolve {
    /// Manifests: files, folders (with the folders in them), or - for the standard input
    #[arg(short, long, required = true, num_args = 1.., value_name = "FILE|DIR")]
    pub(crate) filename: Vec<PathBuf>,
    /// Writes the documents here, one file a policy; removes what an earlier run wrote for policies that are gone
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
    /// Writes the pods of --node here, as the store's folder workloads/ has them
    #[arg(long, value_name = "DIR", requires = "node")]
    pub(crate) workloads_dir: Option<PathBuf>,
    /// The node whose pods --workloads-dir gets, as in spec.nodeName
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Goes on after the first pass, and takes every change of the manifests
    #[arg(short, long, conflicts_with = "diff")]
    pub(crate) watch: bool,
    /// Shows what would change in the folders, and writes nothing
    #[arg(long)]
    pub(crate) diff: bool,
    /// Leaves out what is broken, and keeps the documents that an earlier run made of it; still ends with 1
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Refuses the address of a Service of which not every backend is allowed
    #[arg(long)]
    pub(crate) strict_services: bool,
    /// What a selector makes of pods of the host's network: peers by their node's address, or none
    #[arg(long, value_enum, default_value_t = HostNetworkPeers::Allow)]
    pub(crate) host_network_peers: HostNetworkPeers,
    /// The namespace of namespaced objects whose manifest names none
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum HostNetworkPeers {
    Allow,
    Ignore,
}

impl From<HostNetworkPeers> for resolve::HostNetworkPeers {
    fn from(peers: HostNetworkPeers) -> Self {
        match peers {
            HostNetworkPeers::Allow => Self::Allow,
            HostNetworkPeers::Ignore => Self::Ignore,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Wait {
    /// How long to wait, e.g. 5s, 1m
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Duration,
    /// End with 3 if any document has a condition that keeps it from being applied
    #[arg(long)]
    pub(crate) strict: bool,
    /// First wait until podgate-sync has brought what the Kubernetes API says
    #[arg(long)]
    pub(crate) synced: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Load {
    /// Flows that the node may track (32768 to 1048576); written to node.json
    #[arg(long, value_parser = clap::value_parser!(u32).range(32_768..=1_048_576))]
    pub(crate) conntrack_cache_table_size: Option<u32>,
}

/// The modes that a node can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// Deny what no policy allows
    Strict,
    /// Allow what no policy isolates
    Standard,
    /// No enforcement
    None,
}

impl From<ModeArg> for state::EnforcingMode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Strict => Self::Strict,
            ModeArg::Standard => Self::Standard,
            ModeArg::None => Self::None,
        }
    }
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ModeOptions {
    /// Mode of new pods, written to node.json; without it, shows the modes
    #[arg(value_enum, ignore_case = true)]
    pub(crate) mode: Option<ModeArg>,
    /// Change running endpoints, too
    #[arg(long, requires = "mode")]
    pub(crate) apply: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Doctor {
    /// Folder of CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,
    /// Folder of CNI configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Install {
    /// Folder with the programs of this release; without it, the folder of this podgatectl
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Option<PathBuf>,
    /// Folder of CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,
    /// Folder of CNI configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
    /// The list to change; without it, the first by name, which is what the runtime takes
    #[arg(long, value_name = "FILE")]
    pub(crate) conflist: Option<PathBuf>,
    /// Folder of podgated and podgatectl
    #[arg(long, value_name = "DIR", default_value = "/usr/local/bin")]
    pub(crate) bin_dir: PathBuf,
    /// Folder of systemd units
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system")]
    pub(crate) systemd_dir: PathBuf,
    /// Mode of new pods, written to node.json
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        env = "NETWORK_POLICY_ENFORCING_MODE",
        hide_env_values = true
    )]
    pub(crate) mode: Option<ModeArg>,
    /// Who fills the store, written to node.json
    #[arg(long, value_enum)]
    pub(crate) source: Option<SourceArg>,
    /// The node's name in the cluster, written to node.json
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Insert into the list that is there, also into Amazon's
    #[arg(long, conflicts_with = "rendered")]
    pub(crate) in_place: bool,
    /// Put a list of our own in front of the one that is there
    #[arg(long)]
    pub(crate) rendered: bool,
    /// Only the plugin and the chain: podgated runs elsewhere, in a DaemonSet say
    #[arg(long)]
    pub(crate) plugin_only: bool,
    /// Write no systemd unit and start nothing
    #[arg(long)]
    pub(crate) no_service: bool,
    /// Go on, in the foreground, and keep podgate in the chain whoever writes the list
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) watch: bool,
    /// Install beside another engine that enforces policy
    #[arg(long)]
    pub(crate) force: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Who fills the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceArg {
    /// podgate-sync, from the Kubernetes API: a pod that it has not told of yet waits
    Cluster,
    /// People and `resolve`
    Files,
}

impl From<SourceArg> for state::Source {
    fn from(source: SourceArg) -> Self {
        match source {
            SourceArg::Cluster => Self::Cluster,
            SourceArg::Files => Self::Files,
        }
    }
}

/// What becomes of running pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pass {
    /// Nothing filters them any more
    Open,
    /// What is in force stays until they end
    Closed,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Uninstall {
    /// Folder of CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) cni_bin_dir: PathBuf,
    /// Folder of CNI configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
    /// The list to change; without it, the first by name that is not ours
    #[arg(long, value_name = "FILE")]
    pub(crate) conflist: Option<PathBuf>,
    /// Folder of systemd units
    #[arg(long, value_name = "DIR", default_value = "/etc/systemd/system")]
    pub(crate) systemd_dir: PathBuf,
    /// What becomes of running pods
    #[arg(long, value_enum, default_value_t = Pass::Closed)]
    pub(crate) pods: Pass,
    /// Leave the service alone
    #[arg(long)]
    pub(crate) no_service: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ebpf {
    /// The pinned programs
    Progs,
    /// The pinned maps, with their size and memory
    Maps,
    /// What a map holds, in stable sorted lines (by name or id; without one: all but flows)
    DumpMaps {
        /// Name or id of a map
        map: Option<String>,
    },
    /// Programs and maps by the interfaces that they are attached to
    LoadedEbpfdata,
}

fn parse_protocol(text: &str) -> Result<u8, String> {
    use verdict::packet::proto;
    Ok(match text.to_ascii_lowercase().as_str() {
        "tcp" => proto::TCP,
        "udp" => proto::UDP,
        "sctp" => proto::SCTP,
        "icmp" => proto::ICMP,
        "icmpv6" => proto::ICMPV6,
        number => number
            .parse()
            .map_err(|_| format!("{text:?} is neither tcp, udp, sctp, icmp nor a number to 255"))?,
    })
}
