//! `podgatectl install` and `uninstall` on a node's own CNI configuration, and a pod that comes through it.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;

use integration::{Chain, Node, Server, chain, tools, traffic};

struct Host {
    node: Node,
    bin: PathBuf,
    list: PathBuf,
    before: String,
}

impl Host {
    /// A node with a chain of `ptp` and `portmap` and without podgate.
    fn new() -> Self {
        let node = Node::builder("install").start();
        let bin = node.dir().join("opt");
        let chain = Chain::new("net")
            .with(chain::ptp())
            .with(serde_json::json!({"type": "portmap", "capabilities": {"portMappings": true}}));
        node.install(&chain);
        let list = node.conf_dir().join("net.conflist");
        let before = fs::read_to_string(&list).expect("the list");
        Self {
            node,
            bin,
            list,
            before,
        }
    }

    fn ctl(&self, words: &[&str]) -> integration::Output {
        let conf = self.node.conf_dir().display().to_string();
        let bin = self.bin.display().to_string();
        let folders = [
            "--cni-conf-dir",
            &conf,
            "--cni-bin-dir",
            &bin,
            "--no-service",
        ];
        self.node.ctl(&[words, &folders].concat())
    }

    fn install(&self, words: &[&str]) -> integration::Output {
        let from = tools::podgate("podgate");
        let from = from.parent().expect("a folder").display().to_string();
        let bin = self.bin.display().to_string();
        let more = ["--from", &from, "--bin-dir", &bin];
        self.ctl(&[&["install"], words, &more].concat())
    }

    fn list(&self) -> String {
        fs::read_to_string(&self.list).expect("the list")
    }
}

#[test]
fn a_pod_is_enforced_after_install_and_the_list_comes_back_byte_for_byte() {
    let host = Host::new();
    let dry = host.install(&["--dry-run"]);
    assert!(dry.success(), "{dry}");
    assert_eq!(host.list(), host.before, "a dry run");
    assert!(!host.bin.exists());

    let done = host.install(&["--mode", "strict"]);
    assert!(done.success(), "{done}");
    for name in ["podgate", "podgated", "podgatectl"] {
        assert!(host.bin.join(name).is_file(), "{name}");
    }
    let chain = Chain::parse(&host.list());
    assert_eq!(chain.types(), ["ptp", "podgate", "portmap"]);
    let mut pod = host.node.pod("a");
    let added = pod.cnitool("add", &chain).run();
    assert!(added.success(), "{added}");
    pod.set_result(added.json());
    assert!(host.node.is_enforced(&pod.host_veth()));
    assert_eq!(pod.record().expect("a record")["mode"], "strict");
    let _server = Server::start(&pod.place(), &[80], &[]);
    assert!(traffic::tcp(&host.node.outside(), pod.v4(), 80).is_silent());

    let again = host.install(&[]);
    assert!(again.stdout.contains("chain: unchanged"), "{again}");
    let gone = host.ctl(&["uninstall", "--pods", "open"]);
    assert!(gone.success(), "{gone}");
    assert_eq!(host.list(), host.before);
    assert!(
        traffic::tcp(&host.node.outside(), pod.v4(), 80).is_open(),
        "opened"
    );
    assert!(host.node.records().is_empty());
}

#[test]
fn install_refuses_beside_another_engine_and_says_what_to_do() {
    let host = Host::new();
    fs::write(&host.list, host.before.replace("\"ptp\"", "\"cilium-cni\"")).expect("the list");
    let refused = host.install(&[]);
    assert!(
        !refused.success() && refused.stderr.contains("Cilium"),
        "{refused}"
    );
    assert!(!host.list().contains("podgate"));
    assert!(host.install(&["--force"]).success());
    assert!(host.list().contains("podgate"));
}
