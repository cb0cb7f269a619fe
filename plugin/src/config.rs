//! The plugin's configuration: design.md's table of keys, their defaults, and the environment that comes before them.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::Value;
use state::{AttachMode, EnforcingMode, HostPort, Transport};
use tracing::level_filters::LevelFilter;

use crate::{
    duration,
    environment::Environment,
    object::{Object, WrongType},
    request,
};

/// The keys of the specification and of libcni: they are not ours and need no word.
const KEYS_OF_CNI: [&str; 14] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "args",
    "ipMasq",
    "ipam",
    "dns",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
];

/// Our own.
const KEYS: [&str; 11] = [
    "networkPolicyEnforcingMode",
    "stateDir",
    "bpfDir",
    "attachMode",
    "policyWait",
    "onPolicyUnknown",
    "sourceGuard",
    "extraSources",
    "hostPathInterfaces",
    "pluginLogFile",
    "pluginLogLevel",
];

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key holds another kind of value.
    #[error(transparent)]
    WrongType(#[from] WrongType),
    /// A key or variable holds a value that is none of the possible ones.
    #[error("read {origin}: {value:?} is not {expected}")]
    WrongValue {
        /// The key, or the variable of the environment.
        origin: &'static str,
        /// What stands there.
        value: String,
        /// What could stand there.
        expected: &'static str,
    },
    /// `policyWait` is no duration.
    #[error("read policyWait: {0}")]
    Duration(#[from] duration::Error),
    /// The network has no name.
    #[error("read name: the network configuration has no name")]
    NoName,
    /// The network's name has characters that the specification does not allow.
    #[error(
        "read name: {0:?} must begin with a letter or digit and hold only letters, digits, dots, dashes and underscores"
    )]
    Name(String),
}

/// What becomes of an endpoint whose policy is not known in time although a document could select the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPolicyUnknown {
    /// It stays closed until the companion knows.
    Deny,
    /// It does what its mode says.
    Allow,
    /// ADD fails.
    Fail,
}

/// Where state and kernel objects are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The state store.
    pub state_dir: PathBuf,
    /// A folder on a bpffs.
    pub bpf_dir: PathBuf,
}

impl Places {
    /// The environment first, then the keys, then the defaults.
    ///
    /// # Errors
    /// A key that holds no text, and paths that are not absolute: a plugin has no working directory to speak of.
    pub fn read(config: &Object, environment: &Environment) -> Result<Self, Error> {
        let state_dir = environment
            .state_dir
            .as_deref()
            .map(|value| ("PODGATE_STATE_DIR", value));
        let bpf_dir = environment
            .bpf_dir
            .as_deref()
            .map(|value| ("PODGATE_BPF_DIR", value));
        Ok(Self {
            state_dir: place(config, "stateDir", state_dir, state::layout::DEFAULT_ROOT)?,
            bpf_dir: place(config, "bpfDir", bpf_dir, enforcer::pins::DEFAULT_BPF_DIR)?,
        })
    }
}

fn place(
    config: &Object,
    key: &'static str,
    variable: Option<(&'static str, &str)>,
    default: &str,
) -> Result<PathBuf, Error> {
    let of_key = config.read::<String>(key, "a string, the path of a folder")?;
    let of_key = of_key.as_deref().map(|value| (key, value));
    // A wrong key is an error even where the variable comes first.
    for (origin, value) in of_key.into_iter().chain(variable) {
        if !Path::new(value).is_absolute() || value.contains('\0') {
            return Err(Error::WrongValue {
                origin,
                value: value.to_owned(),
                expected: "an absolute path",
            });
        }
    }
    Ok(variable
        .or(of_key)
        .map_or(default, |(_, value)| value)
        .into())
}

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// A file, or `None` for stderr (`stderr`, and `stdout`, which belongs to the result).
    pub file: Option<PathBuf>,
    /// What is worth a line.
    pub level: LevelFilter,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            file: Some(PathBuf::from("/var/log/podgate/plugin.log")),
            level: LevelFilter::INFO,
        }
    }
}

impl Logging {
    /// Reads `pluginLogFile` and `pluginLogLevel`.
    ///
    /// # Errors
    /// Other kinds of values, and unknown levels.
    pub fn read(config: &Object) -> Result<Self, Error> {
        let mut logging = Self::default();
        if let Some(value) =
            config.read::<String>("pluginLogFile", "a string, the path of a file")?
        {
            logging.file = match value.as_str() {
                "stderr" | "stdout" | "" => None,
                path => Some(PathBuf::from(path)),
            };
        }
        let levels = [
            ("info", LevelFilter::INFO),
            ("off", LevelFilter::OFF),
            ("error", LevelFilter::ERROR),
            ("fatal", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("warning", LevelFilter::WARN),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
        ];
        logging.level = choice(
            config,
            "pluginLogLevel",
            "off, error, warn, info, debug or trace",
            &levels,
        )?;
        Ok(logging)
    }
}

/// The whole configuration of a call that attaches or compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The network's name.
    pub network: String,
    /// Folders.
    pub places: Places,
    /// The mode, where environment or configuration give one; else `node.json` and the default decide.
    pub mode: Option<EnforcingMode>,
    /// How to attach.
    pub attach_mode: AttachMode,
    /// How long ADD waits for a policy; zero = not at all.
    pub policy_wait: Duration,
    /// What then.
    pub on_policy_unknown: OnPolicyUnknown,
    /// Whether the pod may send from its own addresses only.
    pub source_guard: bool,
    /// Further sources that the pod may use.
    pub extra_sources: Vec<IpNetwork>,
    /// Devices by which the host's own traffic comes back.
    pub host_path_interfaces: Vec<String>,
    /// Ports of the node that the runtime maps to the pod (`runtimeConfig.portMappings`).
    pub host_ports: Vec<HostPort>,
    /// The pod's labels, where `args.cni.labels` gives them.
    pub labels: Option<BTreeMap<String, String>>,
    /// Keys that nobody knows, for the log.
    pub unknown_keys: Vec<String>,
}

impl Config {
    /// Reads everything, whether it is going to be needed or not: a wrong value is reported by the first call.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(config: &Object, environment: &Environment) -> Result<Self, Error> {
        Logging::read(config)?;
        let attach_modes = [("clsact", AttachMode::Clsact), ("tcx", AttachMode::Tcx)];
        let unknown = [
            ("deny", OnPolicyUnknown::Deny),
            ("allow", OnPolicyUnknown::Allow),
            ("fail", OnPolicyUnknown::Fail),
        ];
        Ok(Self {
            network: network(config)?,
            places: Places::read(config, environment)?,
            mode: mode(config, environment)?,
            attach_mode: choice(config, "attachMode", "clsact or tcx", &attach_modes)?,
            policy_wait: policy_wait(config)?,
            on_policy_unknown: choice(config, "onPolicyUnknown", "deny, allow or fail", &unknown)?,
            source_guard: config.read("sourceGuard", "true or false")?.unwrap_or(true),
            extra_sources: extra_sources(config)?,
            host_path_interfaces: host_path_interfaces(config)?,
            host_ports: host_ports(config)?,
            labels: labels(config)?,
            unknown_keys: unknown_keys(config),
        })
    }
}

/// The network's name.
///
/// # Errors
/// None, or one that the specification does not allow.
pub fn network(config: &Object) -> Result<String, Error> {
    let name = config.read::<String>("name", "a string, the network's name")?;
    let name = name.filter(|name| !name.is_empty()).ok_or(Error::NoName)?;
    if request::is_identifier(&name) {
        Ok(name)
    } else {
        Err(Error::Name(name))
    }
}

/// The environment's mode, else the key's; a wrong one is an error even where the other comes first.
fn mode(config: &Object, environment: &Environment) -> Result<Option<EnforcingMode>, Error> {
    let parse = |origin, value: &str| {
        let wrong = |_| Error::WrongValue {
            origin,
            value: value.to_owned(),
            expected: "strict, standard or none",
        };
        value.trim().parse::<EnforcingMode>().map_err(wrong)
    };
    let (variable, key) = (
        "NETWORK_POLICY_ENFORCING_MODE",
        "networkPolicyEnforcingMode",
    );
    let of_key = config
        .read::<String>(key, "a string")?
        .map(|value| parse(key, &value))
        .transpose()?;
    let of_environment = environment
        .mode
        .as_deref()
        .map(|value| parse(variable, value))
        .transpose()?;
    Ok(of_environment.or(of_key))
}

fn policy_wait(config: &Object) -> Result<Duration, Error> {
    match config.read::<String>("policyWait", "a duration string such as \"2s\"")? {
        Some(text) => Ok(duration::parse(&text)?),
        None => Ok(Duration::from_secs(2)),
    }
}

/// One of the named values in any case; absent = the first.
fn choice<T: Copy>(
    config: &Object,
    key: &'static str,
    expected: &'static str,
    values: &[(&str, T)],
) -> Result<T, Error> {
    let value = config.read::<String>(key, "a string")?;
    let found = match &value {
        None => values.first(),
        Some(text) => values
            .iter()
            .find(|(name, _)| text.eq_ignore_ascii_case(name)),
    };
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| Error::WrongValue {
            origin: key,
            value: value.unwrap_or_default(),
            expected,
        })
}

fn extra_sources(config: &Object) -> Result<Vec<IpNetwork>, Error> {
    let key = "extraSources";
    let list = config
        .read::<Vec<String>>(key, "a list of addresses or CIDR blocks")?
        .unwrap_or_default();
    let expected = "an IP address or a CIDR block";
    list.into_iter()
        .map(|value| {
            value.parse().map_err(|_| Error::WrongValue {
                origin: key,
                value,
                expected,
            })
        })
        .collect()
}

fn host_path_interfaces(config: &Object) -> Result<Vec<String>, Error> {
    let key = "hostPathInterfaces";
    let list = config
        .read::<Vec<String>>(key, "a list of interface names")?
        .unwrap_or_default();
    match list.iter().find(|name| !request::is_interface_name(name)) {
        Some(name) => Err(Error::WrongValue {
            origin: key,
            value: name.clone(),
            expected: "the name of an interface",
        }),
        None => Ok(list),
    }
}

/// `runtimeConfig.portMappings`, which a runtime gives to whoever has the capability `portMappings`. As in Go, the case of keys does
/// not matter (containerd writes `HostPort`, CRI-O `hostPort`).
fn host_ports(config: &Object) -> Result<Vec<HostPort>, Error> {
    #[derive(Deserialize)]
    struct RuntimeConfig {
        #[serde(rename = "portMappings", default)]
        mappings: Option<Vec<serde_json::Map<String, Value>>>,
    }
    let expected = "an object whose portMappings, if any, is a list of objects";
    let runtime = config.read::<Option<RuntimeConfig>>("runtimeConfig", expected)?;
    let mappings = runtime.flatten().and_then(|runtime| runtime.mappings);
    let ports = mappings.iter().flatten().map(host_port);
    Ok(ports
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// The node's side of one mapping; `None` where it has none, or one of the node's loopback addresses, which no pod can reach.
fn host_port(mapping: &serde_json::Map<String, Value>) -> Result<Option<HostPort>, Error> {
    let member = |name: &str| {
        let mut members = mapping.iter();
        let found = members.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or(&Value::Null, |(_, value)| value)
    };
    let wrong = |value: &Value, expected| Error::WrongValue {
        origin: "runtimeConfig.portMappings",
        value: value.to_string(),
        expected,
    };
    let port = match member("hostPort") {
        Value::Null => 0,
        value => value
            .as_i64()
            .and_then(|port| u16::try_from(port.max(0)).ok())
            .ok_or_else(|| wrong(value, "a hostPort, 1 to 65535"))?,
    };
    let protocol = match member("protocol") {
        Value::Null => Transport::Tcp,
        value => match value.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("" | "tcp") => Transport::Tcp,
            Some("udp") => Transport::Udp,
            Some("sctp") => Transport::Sctp,
            _ => return Err(wrong(value, "a protocol: tcp, udp or sctp")),
        },
    };
    let address = member("hostIP")
        .as_str()
        .and_then(|ip| ip.parse::<IpAddr>().ok());
    let reachable = !address.is_some_and(|address| address.is_loopback());
    Ok((port > 0 && reachable).then_some(HostPort { protocol, port }))
}

/// `args.cni.labels`, the convention for labels in a CNI call: a list of {key, value}.
fn labels(config: &Object) -> Result<Option<BTreeMap<String, String>>, Error> {
    #[derive(Deserialize)]
    struct Args {
        cni: Option<Cni>,
    }
    #[derive(Deserialize)]
    struct Cni {
        labels: Option<Vec<Label>>,
    }
    #[derive(Deserialize)]
    struct Label {
        key: String,
        value: String,
    }
    let expected = "an object whose cni.labels, if any, is a list of {key, value}";
    let args = config.read::<Option<Args>>("args", expected)?.flatten();
    let list = args.and_then(|args| args.cni).and_then(|cni| cni.labels);
    Ok(list.map(|list| {
        list.into_iter()
            .map(|label| (label.key, label.value))
            .collect()
    }))
}

fn unknown_keys(config: &Object) -> Vec<String> {
    config
        .keys()
        .filter(|key| {
            !KEYS.contains(key) && !KEYS_OF_CNI.contains(key) && !key.starts_with("cni.dev/")
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests;
