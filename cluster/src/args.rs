//! Flags. Each has an environment form, `PODGATE_FLAG_NAME`; an empty variable is unset.

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, ValueEnum};

/// What pods of the host's network are as peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum HostNetworkPeers {
    /// All of their node, as with Amazon's controller.
    #[default]
    Allow,
    /// Never peers.
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

/// Flags of `podgate-controller`.
#[derive(Debug, Parser)]
#[command(
    name = "podgate-controller",
    version,
    about = "Resolves NetworkPolicies into PolicyEndpoint objects"
)]
pub struct ControllerArgs {
    /// The kubeconfig whose current context is used; without it the service account of the pod.
    #[arg(long, env = "PODGATE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the Lease `podgate-controller`.
    #[arg(
        long,
        visible_alias = "namespace",
        env = "PODGATE_LEASE_NAMESPACE",
        default_value = "kube-system"
    )]
    pub lease_namespace: String,
    /// What a selector makes of pods of the host's network: their node's address, or nothing.
    #[arg(long, env = "PODGATE_HOST_NETWORK_PEERS", value_enum, default_value_t)]
    pub host_network_peers: HostNetworkPeers,
    /// Where /metrics is served; 0 = nowhere.
    #[arg(long, env = "PODGATE_METRICS_BIND_ADDR", default_value = ":8164")]
    pub metrics_bind_addr: String,
    /// Where /healthz and /readyz are served; 0 = nowhere.
    #[arg(long, env = "PODGATE_HEALTH_PROBE_BIND_ADDR", default_value = ":8165")]
    pub health_probe_bind_addr: String,
    /// What is logged: error, warn, info, debug or trace.
    #[arg(long, env = "PODGATE_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

/// Flags of `podgate-sync`.
#[derive(Debug, Parser)]
#[command(
    name = "podgate-sync",
    version,
    about = "Mirrors one node's part of the Kubernetes API into the node's store"
)]
pub struct SyncArgs {
    /// The node, as Kubernetes names it.
    #[arg(long, env = "PODGATE_NODE_NAME", value_name = "NAME")]
    pub node_name: String,
    /// The kubeconfig whose current context is used; without it the service account of the pod.
    #[arg(long, env = "PODGATE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Resolve policies on this node: no controller is needed, and the whole cluster's pods are watched.
    #[arg(long, env = "PODGATE_RESOLVE", num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    pub resolve: bool,
    /// The store.
    #[arg(
        long,
        env = "PODGATE_STATE_DIR",
        default_value = "/var/lib/podgate",
        value_name = "FOLDER"
    )]
    pub state_dir: PathBuf,
    /// What a selector makes of pods of the host's network: their node's address, or nothing.
    #[arg(long, env = "PODGATE_HOST_NETWORK_PEERS", value_enum, default_value_t)]
    pub host_network_peers: HostNetworkPeers,
    /// Where /metrics is served; 0 = nowhere.
    #[arg(long, env = "PODGATE_METRICS_BIND_ADDR", default_value = ":8166")]
    pub metrics_bind_addr: String,
    /// Where /healthz and /readyz are served; 0 = nowhere.
    #[arg(long, env = "PODGATE_HEALTH_PROBE_BIND_ADDR", default_value = ":8167")]
    pub health_probe_bind_addr: String,
    /// What is logged: error, warn, info, debug or trace.
    #[arg(long, env = "PODGATE_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

/// Parses a command line; an empty variable is unset: the arguments that would read one do not look.
///
/// # Errors
/// clap's, which knows how to print itself and with which code to end.
pub(crate) fn parse<T: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<T, clap::Error> {
    let mut command = T::command();
    let ids: Vec<clap::Id> = command
        .get_arguments()
        .map(|arg| arg.get_id().clone())
        .collect();
    for id in ids {
        command = command.mut_arg(id, |arg| match arg.get_env().and_then(std::env::var_os) {
            Some(value) if value.is_empty() => arg.env(None::<&'static str>),
            _ => arg,
        });
    }
    T::from_arg_matches(&command.try_get_matches_from(args)?)
}
