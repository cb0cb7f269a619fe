//! Amazon's chain: `conf/10-aws.conflist` filled in as aws-node's start does, and the emulated IPAM daemon behind the real plugins.

use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::chain::Chain;
use crate::node::{NODE_V4, NODE_V6, Node};
use crate::{keep, tools, wait_until};

/// The annotation, as a capability, by which a pod asks for an interface on every card.
pub const EVERY_CARD: (&str, &str) = (
    "CAP_ARGS",
    r#"{"io.kubernetes.cri.pod-annotations":{"k8s.amazonaws.com/nicConfig":"multi-nic-attachment"}}"#,
);

/// What kind of cluster the node is of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cluster {
    /// An IPv6 cluster (egress-cni, where enabled, is then for IPv4).
    pub ipv6: bool,
    /// egress-cni is enabled.
    pub egress: bool,
}

/// The chain of `conf/10-aws.conflist`, its placeholders filled in as aws-node does.
///
/// # Panics
/// When a placeholder is left.
#[track_caller]
#[must_use]
pub fn chain(cluster: Cluster) -> Chain {
    let path = tools::workspace().join("conf/10-aws.conflist");
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    let (subnet, destination, data, node, log) = if cluster.ipv6 {
        (
            "169.254.172.0/22",
            "0.0.0.0/0",
            "/run/cni/v6pd/egress-v4-ipam",
            NODE_V4,
            "v4",
        )
    } else {
        (
            "fd00::ac:00/118",
            "::/0",
            "/run/cni/v4pd/egress-v6-ipam",
            NODE_V6,
            "v6",
        )
    };
    let filled = [
        ("__VETHPREFIX__", "eni"),
        ("__MTU__", "9001"),
        ("__PODSGENFORCINGMODE__", "strict"),
        ("__PLUGINLOGFILE__", "/var/log/aws-routed-eni/plugin.log"),
        ("__PLUGINLOGLEVEL__", "Debug"),
        (
            "__EGRESSPLUGINLOGFILE__",
            &format!("/var/log/aws-routed-eni/egress-{log}-plugin.log"),
        ),
        (
            "__EGRESSPLUGINENABLED__",
            if cluster.egress { "true" } else { "false" },
        ),
        ("__EGRESSPLUGINIPAMSUBNET__", subnet),
        ("__EGRESSPLUGINIPAMDST__", destination),
        ("__EGRESSPLUGINIPAMDATADIR__", data),
        ("__RANDOMIZESNAT__", "prng"),
        ("__NODEIP__", node),
    ]
    .iter()
    .fold(text, |text, (placeholder, value)| {
        text.replace(placeholder, value)
    });
    assert!(
        !filled.contains("__"),
        "a placeholder was not filled in: {filled}"
    );
    Chain::parse(&filled)
}

/// The emulated IPAM daemon of a node.
#[derive(Debug)]
pub struct Ipamd {
    child: Child,
}

impl Ipamd {
    /// Starts it with a number of network cards and waits until it answers.
    #[track_caller]
    #[must_use]
    pub fn start(node: &Node, cluster: Cluster, cards: usize) -> Self {
        let card = |index: usize| {
            let prefix = if cluster.ipv6 {
                format!("fd77:0:0:{}::/64", index + 1)
            } else {
                format!("10.77.{}.0/24", index + 1)
            };
            json!({"prefix": prefix, "deviceNumber": index, "routeTable": if index == 0 { 254 } else { 100 + index }})
        };
        let config = json!({
            "networkPolicyMode": "",
            "vpcCIDRs": [if cluster.ipv6 { "fd77::/48" } else { "10.77.0.0/16" }],
            "cards": (0..cards).map(card).collect::<Vec<_>>(),
        });
        let (path, log) = (node.dir().join("ipamd.json"), node.dir().join("ipamd.log"));
        fs::write(&path, config.to_string())
            .unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        let log =
            File::create(&log).unwrap_or_else(|error| panic!("create {}: {error}", log.display()));
        let child = node
            .daemon(&tools::plugin("podgate-test-ipamd"))
            .args(["--socket", "/run/aws-node/ipamd.sock", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("start podgate-test-ipamd: {error}"));
        let socket = node.inside("/run/aws-node/ipamd.sock");
        wait_until("the IPAM daemon answers", Duration::from_secs(10), || {
            socket.exists()
        });
        Self { child }
    }
}

impl Drop for Ipamd {
    fn drop(&mut self) {
        if !keep() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
