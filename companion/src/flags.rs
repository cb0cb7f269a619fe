//! The command line of `podgated`. Every flag has an environment form, `PODGATE_FLAG_NAME`; an empty variable is unset.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, CommandFactory as _, FromArgMatches as _, Parser};

/// Policy daemon of podgate: fills the policy maps from the state store.
#[derive(Clone, Debug, Parser)]
#[command(name = "podgated", version, max_term_width = 110)]
pub struct Flags {
    /// Enforce policy. With false the enforcement of all endpoints is suspended, visibly: nothing is dropped.
    #[arg(long, value_name = "BOOL", default_value_t = true, env = "PODGATE_ENABLE_NETWORK_POLICY",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub enable_network_policy: bool,

    /// Log new flows and drops.
    #[arg(long, value_name = "BOOL", default_value_t = false, env = "PODGATE_ENABLE_POLICY_EVENT_LOGS",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub enable_policy_event_logs: bool,

    /// Send flow logs to CloudWatch (not built yet).
    #[arg(long, value_name = "BOOL", default_value_t = false, env = "PODGATE_ENABLE_CLOUDWATCH_LOGS",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub enable_cloudwatch_logs: bool,

    /// Accepted for compatibility: both address families are always enforced.
    #[arg(long, value_name = "BOOL", default_value_t = true, env = "PODGATE_ENABLE_IPV6",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub enable_ipv6: bool,

    /// Least severe level that is logged.
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "PODGATE_LOG_LEVEL",
          value_parser = ["trace", "debug", "info", "warn", "error"], ignore_case = true)]
    pub log_level: String,

    /// Log to this file instead of stderr ("stdout" and "stderr" name themselves).
    #[arg(long, value_name = "PATH", env = "PODGATE_LOG_FILE")]
    pub log_file: Option<PathBuf>,

    /// Seconds between two sweeps of the flow table.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, env = "PODGATE_CONNTRACK_CACHE_CLEANUP_PERIOD",
          value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub conntrack_cache_cleanup_period: u32,

    /// Flows that the node can track; written to node.json, the next `podgatectl load` makes the new table.
    #[arg(long, value_name = "FLOWS", env = "PODGATE_CONNTRACK_CACHE_TABLE_SIZE",
          value_parser = clap::value_parser!(u32).range(32_768..=1_048_576))]
    pub conntrack_cache_table_size: Option<u32>,

    /// Where metrics are served.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = ":8162",
        env = "PODGATE_METRICS_BIND_ADDR"
    )]
    pub metrics_bind_addr: String,

    /// Where /healthz and /readyz are served.
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = ":8163",
        env = "PODGATE_HEALTH_PROBE_BIND_ADDR"
    )]
    pub health_probe_bind_addr: String,

    /// The state store.
    #[arg(long, value_name = "FOLDER", default_value = state::layout::DEFAULT_ROOT, env = "PODGATE_STATE_DIR")]
    pub state_dir: PathBuf,

    /// Folder of the kernel objects, on a bpffs.
    #[arg(long, value_name = "FOLDER", default_value = enforcer::pins::DEFAULT_BPF_DIR, env = "PODGATE_BPF_DIR")]
    pub bpf_dir: PathBuf,

    /// Write flow log lines to this file instead of the log.
    #[arg(long, value_name = "PATH", env = "PODGATE_FLOW_LOG_FILE")]
    pub flow_log_file: Option<PathBuf>,

    /// Size in MB at which a log file is rotated to NAME.1; 0 = never.
    #[arg(
        long,
        value_name = "MB",
        default_value_t = 200,
        env = "PODGATE_LOG_FILE_MAX_SIZE"
    )]
    pub log_file_max_size: u32,

    /// Rotated log files that are kept.
    #[arg(long, value_name = "FILES", default_value_t = 8, env = "PODGATE_LOG_FILE_MAX_BACKUPS",
          value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub log_file_max_backups: u32,

    /// Serve metrics of each pod, by name, to everybody who can reach the metrics' port.
    #[arg(long, value_name = "BOOL", default_value_t = false, env = "PODGATE_METRICS_PER_POD",
          num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub metrics_per_pod: bool,
}

impl Flags {
    /// Parses a command line; what it says, or help and version as clap's error.
    ///
    /// # Errors
    /// clap's, which knows how to print itself and with which code to end.
    pub fn parse_from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        // An empty variable is unset: the arguments that would read one do not look.
        let mut command = Self::command();
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
        Self::from_arg_matches(&command.try_get_matches_from(args)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, clap::Error> {
        Flags::parse_from_args(
            std::iter::once("podgated")
                .chain(args.iter().copied())
                .map(OsString::from),
        )
    }

    #[test]
    fn booleans_take_both_forms() {
        assert!(parse(&[]).unwrap().enable_network_policy);
        assert!(
            !parse(&["--enable-network-policy=false"])
                .unwrap()
                .enable_network_policy
        );
        assert!(
            parse(&["--enable-policy-event-logs"])
                .unwrap()
                .enable_policy_event_logs
        );
        assert!(
            parse(&["--enable-policy-event-logs=true"])
                .unwrap()
                .enable_policy_event_logs
        );
        assert!(parse(&["--enable-policy-event-logs=perhaps"]).is_err());
        assert!(parse(&["--enable-policy-event-logs", "--log-level", "DEBUG"]).is_ok());
    }

    #[test]
    fn table_sizes_have_bounds() {
        assert!(parse(&["--conntrack-cache-table-size", "32767"]).is_err());
        assert_eq!(
            parse(&["--conntrack-cache-table-size=32768"])
                .unwrap()
                .conntrack_cache_table_size,
            Some(32_768)
        );
        assert_eq!(parse(&[]).unwrap().conntrack_cache_table_size, None);
    }
}
