//! A pod: a network namespace on a node, wired and unwired by cnitool.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::chain::{Chain, CniCall};
use crate::cmd::Output;
use crate::node::{NO_DAD, Node, Place, QUICK_NEIGHBOURS};
use crate::wait_until;

/// A pod's namespace, with what its ADD said.
#[derive(Debug)]
pub struct Pod<'n> {
    node: &'n Node,
    namespace: String,
    name: String,
    netns: String,
    uid: String,
    result: Option<Value>,
}

impl<'n> Pod<'n> {
    pub(crate) fn new(node: &'n Node, namespace: &str, name: &str, netns: &str) -> Self {
        node.sh(&format!("ip netns add {netns}; ip netns exec {netns} sysctl -qw {NO_DAD}; ip -n {netns} link set lo up"));
        let uid = format!("uid-{netns}");
        Self {
            node,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            netns: netns.to_owned(),
            uid,
            result: None,
        }
    }

    /// The pod's Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pod's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod's uid, as given in `CNI_ARGS`.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// `namespace/name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// `CNI_NETNS` as the node sees it.
    #[must_use]
    pub fn netns(&self) -> String {
        format!("/run/netns/{}", self.netns)
    }

    /// `CNI_ARGS` as a runtime gives them.
    #[must_use]
    pub fn cni_args(&self) -> String {
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_UID={}",
            self.namespace, self.name, self.uid
        )
    }

    /// The container id that cnitool makes of the namespace's path.
    #[must_use]
    pub fn container_id(&self) -> String {
        let sum = crate::Cmd::new("sha512sum").stdin(self.netns()).ok();
        format!("cnitool-{}", &sum[..20])
    }

    /// Where its traffic starts and ends.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            label: self.full_name(),
            ..self.node.place_of(&self.netns)
        }
    }

    // ---- cnitool

    /// The cnitool command for a chain that is installed on the node.
    #[track_caller]
    #[must_use]
    pub fn cnitool(&self, verb: &str, chain: &Chain) -> crate::Cmd {
        self.node
            .cnitool(&[verb, chain.name(), &self.netns()])
            .env("CNI_ARGS", self.cni_args())
    }

    /// Installs the chain and runs `cnitool add`.
    #[track_caller]
    pub fn try_add(&mut self, chain: &Chain) -> Output {
        self.try_add_env(chain, &[])
    }

    /// [`Pod::try_add`] with more environment.
    #[track_caller]
    pub fn try_add_env(&mut self, chain: &Chain, env: &[(&str, &str)]) -> Output {
        self.node.install(chain);
        let output = env
            .iter()
            .fold(self.cnitool("add", chain), |cmd, (key, value)| {
                cmd.env(key, value)
            })
            .run();
        if output.success() {
            self.result = Some(output.json());
            self.node.sh(&format!(
                "{QUICK_NEIGHBOURS}\nip netns exec {} sh <<'E'\n{QUICK_NEIGHBOURS}\nE\n",
                self.netns
            ));
        }
        output
    }

    /// `cnitool add` that must succeed; returns the result.
    #[track_caller]
    pub fn add(&mut self, chain: &Chain) -> Value {
        self.add_env(chain, &[])
    }

    /// [`Pod::add`] with more environment.
    #[track_caller]
    pub fn add_env(&mut self, chain: &Chain, env: &[(&str, &str)]) -> Value {
        let output = self.try_add_env(chain, env);
        assert!(
            output.success(),
            "cnitool add\n{output}\n--- plugin log\n{}",
            self.node.log()
        );
        output.json()
    }

    /// `cnitool del`.
    #[track_caller]
    #[must_use]
    pub fn try_del(&self, chain: &Chain) -> Output {
        self.cnitool("del", chain).run()
    }

    /// `cnitool del` that must succeed.
    #[track_caller]
    pub fn del(&self, chain: &Chain) {
        let output = self.try_del(chain);
        assert!(
            output.success(),
            "cnitool del\n{output}\n--- plugin log\n{}",
            self.node.log()
        );
    }

    /// `cnitool check`.
    #[track_caller]
    #[must_use]
    pub fn check(&self, chain: &Chain) -> Output {
        self.cnitool("check", chain).run()
    }

    /// `cnitool status`.
    #[track_caller]
    #[must_use]
    pub fn status(&self, chain: &Chain) -> Output {
        self.cnitool("status", chain).run()
    }

    /// `cnitool gc`, which first DELs all that its cache holds.
    #[track_caller]
    #[must_use]
    pub fn gc(&self, chain: &Chain) -> Output {
        self.cnitool("gc", chain).run()
    }

    /// A direct call of one plugin with this pod's variables.
    #[track_caller]
    #[must_use]
    pub fn call(&self, plugin: &str, command: &str) -> CniCall<'n> {
        CniCall::new(self.node, plugin, command)
            .container(&self.container_id())
            .netns(&self.netns())
            .ifname("eth0")
            .args(&self.cni_args())
    }

    /// Removes the namespace, as when the runtime is done with it, and waits until its veths are gone: the kernel takes them a little later.
    ///
    /// # Panics
    /// When they do not go: some process of the test is still in the namespace.
    #[track_caller]
    pub fn remove_netns(&self) {
        let indexes = |links: &Value, key: &str| -> Vec<u64> {
            links
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|link| link[key].as_u64())
                .collect()
        };
        let peers = indexes(
            &self.place().cmd("ip").args(["-j", "link", "show"]).json(),
            "link_index",
        );
        self.node.sh(&format!("ip netns del {}", self.netns));
        wait_until(
            "the namespace's veths are gone",
            Duration::from_secs(5),
            || {
                let here = indexes(
                    &self.node.cmd("ip").args(["-j", "link", "show"]).json(),
                    "ifindex",
                );
                !peers.iter().any(|peer| here.contains(peer))
            },
        );
    }

    // ---- what the ADD gave

    /// The ADD's result.
    ///
    /// # Panics
    /// When there was no successful ADD.
    #[track_caller]
    #[must_use]
    pub fn result(&self) -> &Value {
        self.result
            .as_ref()
            .unwrap_or_else(|| panic!("pod {} has had no successful ADD", self.full_name()))
    }

    /// Remembers a result that a direct call gave.
    pub fn set_result(&mut self, result: Value) {
        self.result = Some(result);
    }

    /// All addresses of the result.
    #[track_caller]
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        addresses_of(self.result())
    }

    /// The first address of the result, if there was an ADD.
    #[must_use]
    pub fn first_address(&self) -> Option<IpAddr> {
        addresses_of(self.result.as_ref()?).first().copied()
    }

    /// Its IPv4 address.
    #[track_caller]
    #[must_use]
    pub fn v4(&self) -> IpAddr {
        self.addresses()
            .into_iter()
            .find(IpAddr::is_ipv4)
            .unwrap_or_else(|| panic!("no IPv4 address in {}", self.result()))
    }

    /// Its IPv6 address.
    #[track_caller]
    #[must_use]
    pub fn v6(&self) -> IpAddr {
        self.addresses()
            .into_iter()
            .find(IpAddr::is_ipv6)
            .unwrap_or_else(|| panic!("no IPv6 address in {}", self.result()))
    }

    /// The name of the host's end of its first pair, by the kernel's word and not the result's.
    #[track_caller]
    #[must_use]
    pub fn host_veth(&self) -> String {
        self.host_veth_of("eth0")
    }

    /// The name of the host's end of one of its interfaces.
    #[track_caller]
    #[must_use]
    pub fn host_veth_of(&self, ifname: &str) -> String {
        let here = self
            .place()
            .cmd("ip")
            .args(["-j", "link", "show", ifname])
            .json();
        let index = here[0]["link_index"].clone();
        let links = self.node.cmd("ip").args(["-j", "link", "show"]).json();
        let name = links
            .as_array()
            .into_iter()
            .flatten()
            .find(|link| link["ifindex"] == index)
            .and_then(|link| link["ifname"].as_str());
        name.unwrap_or_else(|| panic!("no host veth with index {index} in {links}"))
            .to_owned()
    }

    /// The hardware address of its interface.
    #[track_caller]
    #[must_use]
    pub fn mac(&self) -> crate::frames::Mac {
        let link = self
            .place()
            .cmd("ip")
            .args(["-j", "link", "show", "eth0"])
            .json();
        crate::frames::mac(link[0]["address"].as_str().unwrap_or_default())
    }

    /// Its record in the store, if there is one: read as JSON, without podgate's reader.
    #[must_use]
    pub fn record(&self) -> Option<Value> {
        let id = self.container_id();
        self.node
            .records()
            .into_iter()
            .find(|record| record["containerId"] == id.as_str())
    }

    /// When the last of its attachments was read back, in `CLOCK_MONOTONIC` nanoseconds: one call may bring several, all or none.
    #[track_caller]
    #[must_use]
    pub fn attached_ns(&self) -> u64 {
        let id = self.container_id();
        let records = self
            .node
            .records()
            .into_iter()
            .filter(|record| record["containerId"] == id.as_str());
        let attached = records.map(|record| {
            record["attachedAtMonotonicNs"]
                .as_u64()
                .unwrap_or_else(|| panic!("no attachedAtMonotonicNs in {record}"))
        });
        attached
            .max()
            .unwrap_or_else(|| panic!("pod {} has no record", self.full_name()))
    }
}

fn addresses_of(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    ips.iter()
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect()
}
