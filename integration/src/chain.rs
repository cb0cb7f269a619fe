//! Chains of CNI plugins, and plugins called directly where cnitool cannot say what a test needs.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cmd::Output;
use crate::node::Node;
use crate::tools;

/// The pods' IPv4 range on every node of the harness.
pub const POD_V4: &str = "10.88.0.0/16";
/// The pods' IPv6 range on every node of the harness.
pub const POD_V6: &str = "fd00:88::/64";

/// A network configuration list.
#[derive(Debug, Clone)]
pub struct Chain {
    name: String,
    version: String,
    plugins: Vec<Value>,
    disable_check: bool,
}

impl Chain {
    /// An empty chain of version 1.1.0.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: "1.1.0".into(),
            plugins: Vec::new(),
            disable_check: false,
        }
    }

    /// A list as it stands in a file.
    ///
    /// # Panics
    /// When the text is no configuration list.
    #[track_caller]
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let list: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"));
        let word = |key: &str| list[key].as_str().unwrap_or_default().to_owned();
        let plugins = list["plugins"]
            .as_array()
            .cloned()
            .unwrap_or_else(|| panic!("no plugins in {list}"));
        Self {
            name: word("name"),
            version: word("cniVersion"),
            plugins,
            disable_check: list["disableCheck"] == true,
        }
    }

    /// Without the plugins of a type.
    #[must_use]
    pub fn without(mut self, plugin: &str) -> Self {
        self.plugins.retain(|conf| conf["type"] != plugin);
        self
    }

    /// Sets a key in the entry of a plugin.
    #[must_use]
    pub fn set(mut self, plugin: &str, key: &str, value: &Value) -> Self {
        for conf in self
            .plugins
            .iter_mut()
            .filter(|conf| conf["type"] == plugin)
        {
            conf[key] = value.clone();
        }
        self
    }

    /// `ptp` with `host-local` in both families, then podgate with the node's folders and `extra` keys.
    #[must_use]
    pub fn ptp(node: &Node, name: &str, extra: Value) -> Self {
        Self::new(name).with(ptp()).with_podgate(node, extra)
    }

    /// [`Chain::ptp`] as `net` with podgate in a mode.
    #[must_use]
    pub fn in_mode(node: &Node, mode: &str) -> Self {
        Self::ptp(node, "net", json!({"networkPolicyEnforcingMode": mode}))
    }

    /// `bridge` with `host-local` in both families, then podgate.
    #[must_use]
    pub fn bridge(node: &Node, name: &str, extra: Value) -> Self {
        Self::new(name).with(bridge()).with_podgate(node, extra)
    }

    /// Another version.
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.version = version.to_owned();
        self
    }

    /// With `disableCheck`.
    #[must_use]
    pub fn disable_check(mut self) -> Self {
        self.disable_check = true;
        self
    }

    /// Appends a plugin.
    #[must_use]
    pub fn with(mut self, plugin: Value) -> Self {
        self.plugins.push(plugin);
        self
    }

    /// Appends podgate.
    #[must_use]
    pub fn with_podgate(self, node: &Node, extra: Value) -> Self {
        self.with(podgate(node, extra))
    }

    /// Its name, which is the network's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The types of its plugins, in order.
    #[must_use]
    pub fn types(&self) -> Vec<String> {
        self.plugins
            .iter()
            .filter_map(|plugin| Some(plugin.get("type")?.as_str()?.to_owned()))
            .collect()
    }

    /// The file's content.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut list =
            json!({"cniVersion": self.version, "name": self.name, "plugins": self.plugins});
        if self.disable_check {
            list["disableCheck"] = json!(true);
        }
        list
    }

    /// The configuration that a runtime gives to one plugin of the chain.
    #[must_use]
    pub fn conf_of(&self, plugin: &str, prev_result: Option<&Value>) -> Value {
        let conf = self.plugins.iter().find(|conf| conf["type"] == plugin);
        let mut conf = conf
            .cloned()
            .unwrap_or_else(|| panic!("no {plugin} in chain {}", self.name));
        conf["cniVersion"] = json!(self.version);
        conf["name"] = json!(self.name);
        if let Some(result) = prev_result {
            conf["prevResult"] = result.clone();
        }
        conf
    }
}

/// `host-local` in both families; the data are in the node's own tmpfs.
#[must_use]
pub fn host_local() -> Value {
    ranges(
        "10.88",
        "fd00:88",
        &json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]),
    )
}

/// Addresses from `V4.0.10` and `V6::10` on.
fn ranges(v4: &str, v6: &str, routes: &Value) -> Value {
    json!({
        "type": "host-local",
        "dataDir": "/run/cni-networks",
        "ranges": [
            [{"subnet": format!("{v4}.0.0/16"), "rangeStart": format!("{v4}.0.10")}],
            [{"subnet": format!("{v6}::/64"), "rangeStart": format!("{v6}::10")}],
        ],
        "routes": routes,
    })
}

/// The `ptp` plugin.
#[must_use]
pub fn ptp() -> Value {
    json!({"type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": host_local()})
}

/// The `ptp` plugin for a second network of a pod: other addresses, no default routes.
#[must_use]
pub fn second_ptp() -> Value {
    json!({"type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": ranges("10.99", "fd00:99", &json!([]))})
}

/// The `bridge` plugin as gateway.
#[must_use]
pub fn bridge() -> Value {
    json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "ipam": host_local()})
}

/// podgate's entry with the node's folders and `extra` keys.
///
/// # Panics
/// When `extra` is not an object.
#[track_caller]
#[must_use]
pub fn podgate(node: &Node, extra: Value) -> Value {
    let mut conf = json!({
        "type": "podgate",
        "stateDir": node.state_dir(),
        "bpfDir": node.bpf_dir(),
        "pluginLogFile": node.log_file(),
        "pluginLogLevel": "debug",
    });
    let Value::Object(extra) = extra else {
        panic!("extra keys are an object: {extra}")
    };
    conf.as_object_mut()
        .unwrap_or(&mut Map::new())
        .extend(extra);
    conf
}

/// One direct call of a CNI plugin, in the node's namespaces, as a runtime makes it.
#[derive(Debug)]
pub struct CniCall<'n> {
    node: &'n Node,
    binary: PathBuf,
    env: Vec<(String, String)>,
    stdin: Vec<u8>,
    wrapper: Vec<String>,
    timeout: Duration,
}

impl<'n> CniCall<'n> {
    /// A call of `plugin` with `command`, without any other variable.
    #[track_caller]
    #[must_use]
    pub fn new(node: &'n Node, plugin: &str, command: &str) -> Self {
        let env = vec![
            ("CNI_COMMAND".into(), command.into()),
            ("CNI_PATH".into(), tools::cni_path()),
        ];
        Self {
            node,
            binary: tools::plugin(plugin),
            env,
            stdin: Vec::new(),
            wrapper: Vec::new(),
            timeout: Duration::from_secs(30),
        }
    }

    /// Sets a variable; a later one of the same name wins.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.retain(|(known, _)| known != key);
        self.env.push((key.to_owned(), value.into()));
        self
    }

    /// Removes a variable.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.env.retain(|(known, _)| known != key);
        self
    }

    /// `CNI_CONTAINERID`.
    #[must_use]
    pub fn container(self, id: &str) -> Self {
        self.env("CNI_CONTAINERID", id)
    }

    /// `CNI_NETNS`.
    #[must_use]
    pub fn netns(self, path: &str) -> Self {
        self.env("CNI_NETNS", path)
    }

    /// `CNI_IFNAME`.
    #[must_use]
    pub fn ifname(self, name: &str) -> Self {
        self.env("CNI_IFNAME", name)
    }

    /// `CNI_ARGS`.
    #[must_use]
    pub fn args(self, args: &str) -> Self {
        self.env("CNI_ARGS", args)
    }

    /// The configuration.
    #[must_use]
    pub fn conf(self, conf: &Value) -> Self {
        self.stdin(conf.to_string())
    }

    /// What the plugin reads, whatever it is.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Runs the plugin by another program, such as `setpriv`.
    #[must_use]
    pub fn wrapped(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Runs the plugin. Only its own configuration names podgate's folders: the node's variables are not set.
    #[track_caller]
    #[must_use]
    pub fn run(self) -> Reply {
        let variables: Vec<String> = self
            .env
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        // `env` after the namespaces: a variable that std may not set (an empty command, say) still reaches the plugin as it is.
        let mut cmd = self
            .node
            .cmd("env")
            .args([
                "-u",
                "PODGATE_STATE_DIR",
                "-u",
                "PODGATE_BPF_DIR",
                "-u",
                "CNI_ARGS",
                "-u",
                "CNI_IFNAME",
            ])
            .args(&variables)
            .args(&self.wrapper)
            .arg(&self.binary);
        cmd = cmd.stdin(self.stdin).timeout(self.timeout);
        Reply { output: cmd.run() }
    }
}

/// A CNI error object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CniError {
    /// The number.
    pub code: u32,
    /// The message.
    pub msg: String,
    /// More, where there is more.
    #[serde(default)]
    pub details: String,
}

/// What a plugin replied.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The process's output.
    pub output: Output,
}

impl Reply {
    /// The result of a call that succeeded; `null` where the command prints none.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    #[must_use]
    pub fn result(&self) -> Value {
        assert!(self.output.success(), "the plugin failed\n{}", self.output);
        self.output.json()
    }

    /// The error object of a call that failed.
    ///
    /// # Panics
    /// When it succeeded, panicked, or printed something that is not exactly one CNI error object.
    #[track_caller]
    #[must_use]
    pub fn error(&self) -> CniError {
        assert!(
            !self.output.success(),
            "the plugin succeeded, an error was expected\n{}",
            self.output
        );
        assert!(
            self.output.code.is_some(),
            "the plugin was ended by a signal\n{}",
            self.output
        );
        assert!(
            !self.output.stderr.contains("panicked at"),
            "the plugin panicked\n{}",
            self.output
        );
        let error: CniError = serde_json::from_str(&self.output.stdout)
            .unwrap_or_else(|error| panic!("not a CNI error object ({error})\n{}", self.output));
        assert!(
            self.output.json().get("cniVersion").is_some(),
            "an error object names its cniVersion\n{}",
            self.output
        );
        error
    }
}
