//! Bad input: each a CNI error object or a named condition that says what to do, never a panic; and a failing ADD changes nothing that
//! `tc`, the bpffs listing, the map dumps or the records show.
#![forbid(unsafe_code)]

use integration::{
    Chain, CniCall, CniError, Doc, Node, Pod, Server, Snapshot, chain, node, traffic,
};
use serde_json::{Value, json};

/// A node on which podgate has loaded its maps and one healthy pod lives, and a second pod that only the main plugin has wired.
struct Scene<'n> {
    node: &'n Node,
    pod: Pod<'n>,
    conf: Value,
}

fn scene(node: &Node) -> Scene<'_> {
    let chain = Chain::ptp(
        node,
        "net",
        json!({"networkPolicyEnforcingMode": "strict", "policyWait": "0s"}),
    );
    node.pod("healthy").add(&chain);
    let mut pod = node.pod("victim");
    let result = pod.add(&Chain::new("plain").with(chain::second_ptp()));
    Scene {
        node,
        pod,
        conf: chain.conf_of("podgate", Some(&result)),
    }
}

impl Scene<'_> {
    fn add(&self) -> CniCall<'_> {
        self.pod.call("podgate", "ADD").conf(&self.conf)
    }

    fn with(&self, key: &str, value: Value) -> CniCall<'_> {
        let mut conf = self.conf.clone();
        conf[key] = value;
        self.pod.call("podgate", "ADD").conf(&conf)
    }

    /// Runs a call that must fail with one of `codes` and change nothing; the node still works afterwards.
    #[track_caller]
    fn fails(&self, what: &str, codes: &[u32], call: CniCall<'_>) -> CniError {
        let before = Snapshot::take(self.node);
        let reply = call.run();
        let error = reply.error();
        assert!(
            codes.contains(&error.code),
            "{what}: code {} is none of {codes:?}\n{}",
            error.code,
            reply.output
        );
        assert!(!error.msg.is_empty(), "{what}: {error:?}");
        before.assert_same(
            &Snapshot::take(self.node),
            &format!("after an ADD that failed ({what})"),
        );
        error
    }
}

#[test]
fn what_is_not_a_configuration() {
    let node = Node::builder("bad").start();
    let scene = scene(&node);
    let whole = scene.conf.to_string();
    scene.fails("empty stdin", &[6], scene.add().stdin(""));
    scene.fails("blank stdin", &[6], scene.add().stdin(" \n"));
    for cut in [1, whole.len() / 2, whole.len() - 1] {
        scene.fails("cut-off stdin", &[6], scene.add().stdin(&whole[..cut]));
    }
    scene.fails("not UTF-8", &[6], scene.add().stdin([0xff, 0xfe, 0x00]));
    scene.fails("an array", &[6, 7], scene.add().stdin("[]"));
    scene.fails("a word", &[6, 7], scene.add().stdin("null"));
    let deep = format!(
        "{{\"cniVersion\":\"1.1.0\",\"name\":\"n\",\"prevResult\":{}",
        "[".repeat(100_000)
    );
    scene.fails("deep nesting", &[6], scene.add().stdin(deep));
    scene.fails(
        "an unknown version",
        &[1],
        scene.with("cniVersion", json!("9.9.9")),
    );
    scene.fails(
        "a version that is no version",
        &[1, 7],
        scene.with("cniVersion", json!("latest")),
    );
    scene.fails(
        "a version of another type",
        &[1, 6, 7],
        scene.with("cniVersion", json!(1)),
    );
}

#[test]
fn keys_that_are_wrong() {
    let node = Node::builder("bad").start();
    let scene = scene(&node);
    for (key, value) in [
        ("networkPolicyEnforcingMode", json!("loose")),
        ("networkPolicyEnforcingMode", json!("")),
        ("networkPolicyEnforcingMode", json!(5)),
        ("networkPolicyEnforcingMode", json!(["strict"])),
        ("stateDir", json!(1)),
        ("stateDir", json!("relative/folder")),
        ("bpfDir", json!(false)),
        ("attachMode", json!("xdp")),
        ("attachMode", json!(1)),
        ("policyWait", json!(true)),
        ("policyWait", json!("soon")),
        ("policyWait", json!("-1s")),
        ("policyWait", json!("5")),
        ("onPolicyUnknown", json!("maybe")),
        ("sourceGuard", json!("yes")),
        ("extraSources", json!("10.0.0.1")),
        ("extraSources", json!(["not an address"])),
        ("hostPathInterfaces", json!("eth0")),
        ("hostPathInterfaces", json!([1])),
        ("pluginLogLevel", json!("loud")),
        ("pluginLogFile", json!(3)),
        ("name", json!(7)),
    ] {
        let error = scene.fails(&format!("{key}: {value}"), &[7], scene.with(key, value));
        assert!(
            error.msg.contains(key) || error.details.contains(key),
            "{key} is named: {error:?}"
        );
    }
    let error = scene.fails(
        "environment",
        &[7],
        scene.add().env("NETWORK_POLICY_ENFORCING_MODE", "loose"),
    );
    assert!(
        error.msg.contains("NETWORK_POLICY_ENFORCING_MODE")
            || error.details.contains("NETWORK_POLICY_ENFORCING_MODE"),
        "{error:?}"
    );
}

#[test]
fn a_previous_result_that_is_missing_or_of_another_shape() {
    let node = Node::builder("bad").start();
    let scene = scene(&node);
    let mut without = scene.conf.clone();
    without
        .as_object_mut()
        .expect("an object")
        .remove("prevResult");
    scene.fails("no prevResult", &[7], scene.add().conf(&without));
    for value in [json!(null), json!([]), json!("result"), json!(1)] {
        scene.fails(
            &format!("prevResult {value}"),
            &[7],
            scene.with("prevResult", value),
        );
    }
    for (key, value) in [
        ("interfaces", json!(5)),
        ("interfaces", json!([1, 2])),
        ("interfaces", json!([{"name": 7}])),
    ] {
        let mut result = scene.conf["prevResult"].clone();
        result[key] = value;
        scene.fails(
            &format!("prevResult.{key}"),
            &[7],
            scene.with("prevResult", result),
        );
    }
}

#[test]
fn variables_that_are_missing_or_wrong() {
    let node = Node::builder("bad").start();
    let scene = scene(&node);
    for key in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_COMMAND"] {
        let error = scene.fails(&format!("no {key}"), &[4], scene.add().without(key));
        assert!(
            error.msg.contains(key) || error.details.contains(key),
            "{error:?}"
        );
        scene.fails(&format!("empty {key}"), &[4], scene.add().env(key, ""));
    }
    for id in ["a/b", "../a", ".", "-a", "a b", "ä", &"x".repeat(5000)] {
        scene.fails("container id", &[4], scene.add().container(id));
    }
    for name in ["a/b", ".", "..", "eth 0", "a:b", "sixteen-letters-"] {
        scene.fails("interface name", &[4], scene.add().ifname(name));
    }
    scene.fails(
        "unknown command",
        &[4],
        scene.add().env("CNI_COMMAND", "ERASE"),
    );
    scene.fails(
        "CNI_ARGS without a value",
        &[4],
        scene.add().args("K8S_POD_NAME"),
    );
    for args in [
        "K8S_POD_NAMESPACE=a/../b;K8S_POD_NAME=x",
        "K8S_POD_NAMESPACE=x;K8S_POD_NAME=../../etc",
    ] {
        scene.fails("names that are paths", &[4], scene.add().args(args));
    }
}

#[test]
fn a_namespace_that_is_gone_or_is_none() {
    let node = Node::builder("bad").start();
    let scene = scene(&node);
    for path in [
        "/run/netns/nobody",
        "/etc/hostname",
        "/run/netns",
        "relative",
    ] {
        let error = scene.fails(
            &format!("CNI_NETNS {path}"),
            &[4, 7, 100],
            scene.add().netns(path),
        );
        assert!(
            format!("{error:?}").contains(path),
            "the path is named: {error:?}"
        );
    }
    let own = node.place().netns.display().to_string();
    scene.fails(
        "the host's own namespace",
        &[4, 7, 100],
        scene.add().netns(&own),
    );
}

#[test]
fn a_host_veth_that_cannot_be_found() {
    let node = Node::builder("bad").start();
    let scene = scene(&node);
    let empty = node.pod("empty");
    scene.fails(
        "a namespace with nothing in it",
        &[7, 100],
        scene.add().netns(&empty.netns()),
    );
    // A veth whose peer is in a third namespace is nobody's business here.
    let (left, right) = (node.pod("left"), node.pod("right"));
    let name = |pod: &Pod<'_>| pod.netns().trim_start_matches("/run/netns/").to_owned();
    node.sh(&format!(
        "ip link add eth0 netns {} type veth peer name eth0 netns {}",
        name(&left),
        name(&right)
    ));
    scene.fails(
        "a veth between two pods",
        &[7, 100],
        scene.add().netns(&left.netns()),
    );
    // prevResult names an interface that the kernel does not show.
    let mut result = scene.conf["prevResult"].clone();
    result["interfaces"] =
        json!([{"name": "veth-of-nobody"}, {"name": "eth9", "sandbox": scene.pod.netns()}]);
    scene.fails(
        "prevResult and kernel disagree",
        &[7, 100],
        scene.with("prevResult", result),
    );
}

#[test]
fn a_node_without_bpffs() {
    let node = Node::builder("bad").bpffs(integration::BpfFs::None).start();
    let mut pod = node.pod("a");
    let result = pod.add(&Chain::new("net").with(chain::ptp()));
    let conf =
        Chain::ptp(&node, "net", json!({"policyWait": "0s"})).conf_of("podgate", Some(&result));
    let before = Snapshot::take(&node);
    let error = pod.call("podgate", "ADD").conf(&conf).run().error();
    assert_eq!(error.code, 103, "{error:?}");
    assert!(
        !error.details.is_empty(),
        "details say what to do: {error:?}"
    );
    before.assert_same(&Snapshot::take(&node), "after an ADD without bpffs");
    assert_ne!(
        node.sh("stat -f -c %T /sys/fs/bpf").trim(),
        "bpf_fs",
        "a mount that would reach nobody was not made"
    );
    // A folder that is on no bpffs at all.
    let other = Node::builder("bad").start();
    let mut pod = other.pod("a");
    let result = pod.add(&Chain::new("net").with(chain::ptp()));
    let mut conf = Chain::ptp(&other, "net", json!({})).conf_of("podgate", Some(&result));
    conf["bpfDir"] = json!(other.dir().join("bpf"));
    assert_eq!(
        pod.call("podgate", "ADD").conf(&conf).run().error().code,
        103
    );
}

#[test]
fn no_privileges() {
    let node = Node::builder("bad").start();
    let scene = scene(&node);
    let call = scene
        .add()
        .wrapped(&["setpriv", "--bounding-set=-all", "--inh-caps=-all"]);
    let error = scene.fails("no capabilities", &[4, 50, 100, 101, 103, 104, 105], call);
    assert!(error.details.contains("as root"), "{error:?}");
}

#[test]
fn a_full_endpoint_table() {
    let node = Node::builder("bad").start();
    let scene = scene(&node);
    let pin = node
        .pins()
        .into_iter()
        .find(|pin| pin.to_lowercase().ends_with("endpoints"))
        .expect("an endpoint table");
    let path = node.bpf_dir().join(&pin);
    let about = node
        .cmd("bpftool")
        .args(["-j", "map", "show", "pinned"])
        .arg(&path)
        .json();
    let number = |key: &str| {
        about[key]
            .as_u64()
            .unwrap_or_else(|| panic!("no {key} in {about}"))
    };
    let (entries, key, value) = (
        number("max_entries"),
        number("bytes_key"),
        number("bytes_value"),
    );
    assert_eq!(key, 4, "the key is an ifindex: {about}");
    let zeros = "0 ".repeat(usize::try_from(value).unwrap());
    let fill = |number: u64| {
        let bytes = u32::try_from(0x4000_0000 + number).unwrap().to_ne_bytes();
        format!(
            "map update pinned {} key {} {} {} {} value {zeros}any\n",
            path.display(),
            bytes[0],
            bytes[1],
            bytes[2],
            bytes[3]
        )
    };
    let batch = node.dir().join("fill");
    std::fs::write(&batch, (0..entries).map(fill).collect::<String>()).unwrap();
    // It ends with an error once the table is full: one row is there already.
    let output = node
        .cmd("bpftool")
        .args(["batch", "file"])
        .arg(&batch)
        .timeout(std::time::Duration::from_secs(60))
        .run();
    assert!(!output.success(), "the table took everything\n{output}");
    let error = scene.fails("a full endpoint table", &[102], scene.add());
    assert!(
        !error.details.is_empty(),
        "details say what to do: {error:?}"
    );
}

#[test]
fn a_state_folder_that_cannot_be_written() {
    let node = Node::builder("bad").start();
    let scene = scene(&node);
    node.make_state_read_only();
    let error = scene.fails("read-only state folder", &[104], scene.add());
    assert!(
        format!("{error:?}").contains(&node.state_dir().display().to_string()),
        "the path is named: {error:?}"
    );
    node.make_state_writable();
    let file = node.dir().join("a-file");
    std::fs::write(&file, "").unwrap();
    scene.fails(
        "a file in place of the folder",
        &[7, 104],
        scene.with("stateDir", json!(file)),
    );
    let open = node.dir().join("open");
    std::fs::create_dir(&open).unwrap();
    integration::Cmd::new("chmod")
        .args(["0777"])
        .arg(&open)
        .ok();
    scene.fails(
        "a folder that others may write",
        &[104],
        scene.with("stateDir", json!(open)),
    );
    assert_eq!(
        scene.add().run().result(),
        scene.conf["prevResult"],
        "and now it works"
    );
}

#[test]
fn a_lock_that_somebody_holds() {
    let node = Node::builder("bad").start();
    let scene = scene(&node);
    let lock = node.state_dir().join("lock");
    let mut holder = std::process::Command::new("flock")
        .arg(&lock)
        .args(["-c", "echo held; exec cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(holder.stdout.take().unwrap()),
        &mut String::new(),
    )
    .unwrap();
    let error = scene.fails("the lock is held", &[11], scene.add());
    assert!(format!("{error:?}").contains("lock"), "{error:?}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    let _ = scene.add().run().result();
}

// ---- documents

#[test]
fn documents_that_cannot_be_read_get_a_condition_and_block_no_other() {
    let node = Node::builder("documents").start();
    let _companion = node.companion();
    let mut pod = node.pod_in("shop", "web");
    pod.add(&Chain::in_mode(&node, "strict"));
    let _server = Server::start(&pod.place(), &[80], &[]);
    let [v4, v6] = node::outside(0);
    node.put_policy(
        "good.yaml",
        &Doc::new("shop", "good")
            .selects(&pod)
            .ingress(v4, "")
            .ingress(v6, "")
            .yaml(),
    );
    let doc = |name: &str| Doc::new("shop", name).selects(&pod);
    for (file, text) in [
        ("not-yaml.yaml", "{[}: nothing".to_owned()),
        ("not-utf8.yaml", "\u{0}\u{1}".to_owned()),
        ("empty.yaml", String::new()),
        (
            "other-kind.yaml",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {}\n".to_owned(),
        ),
        (
            "bad-cidr.yaml",
            doc("bad-cidr").ingress("10.0.0.0/40", "").yaml(),
        ),
        (
            "bad-address.yaml",
            doc("bad-address").ingress("10.0.0.256", "").yaml(),
        ),
        (
            "bad-port.yaml",
            doc("bad-port")
                .ingress("10.0.0.0/8", "ports: [{protocol: TCP, port: 70000}]")
                .yaml(),
        ),
        (
            "bad-range.yaml",
            doc("bad-range")
                .ingress(
                    "10.0.0.0/8",
                    "ports: [{protocol: TCP, port: 90, endPort: 80}]",
                )
                .yaml(),
        ),
        (
            "bad-protocol.yaml",
            doc("bad-protocol")
                .ingress("10.0.0.0/8", "ports: [{protocol: CARRIER, port: 80}]")
                .yaml(),
        ),
        (
            "bad-except.yaml",
            doc("bad-except")
                .ingress("10.0.0.0/8", "except: [\"11.0.0.0/8\"]")
                .yaml(),
        ),
        ("no-name.yaml", doc("x").yaml().replace("  name: x\n", "")),
        ("json.json", "{\"kind\": \"PolicyEndpoint\"".to_owned()),
    ] {
        node.put_policy(file, &text);
        node.settle();
        let policies = node.ctl_json(&["policies"]).to_string();
        if file != "other-kind.yaml" {
            assert!(
                policies.contains(file) && policies.contains("Broken"),
                "{file} has a condition: {policies}"
            );
        }
        assert!(
            traffic::tcp(&node.outside(), pod.v4(), 80).is_open(),
            "{file} blocks the good one (IPv4)"
        );
        assert!(
            traffic::tcp_from(&node.outside(), v6, pod.v6(), 80).is_open(),
            "{file} blocks the good one (IPv6)"
        );
        node.remove_policy(file);
    }
    node.settle();
    let policies = node.ctl_json(&["policies"]).to_string();
    assert!(!policies.contains("Broken"), "{policies}");
}

#[test]
fn a_broken_document_without_a_good_version_isolates_whom_it_selects() {
    let node = Node::builder("documents").start();
    let _companion = node.companion();
    let mut pod = node.pod_in("shop", "web");
    pod.add(&Chain::in_mode(&node, "standard"));
    let _server = Server::start(&pod.place(), &[80], &[]);
    node.settle();
    assert!(traffic::tcp(&node.outside(), pod.v4(), 80).is_open());
    node.put_policy(
        "bad.yaml",
        &Doc::new("shop", "bad")
            .selects(&pod)
            .isolate_ingress()
            .ingress("10.0.0.0/40", "")
            .yaml(),
    );
    node.settle();
    assert!(
        traffic::tcp(&node.outside(), pod.v4(), 80).is_silent(),
        "fail closed"
    );
    node.remove_policy("bad.yaml");
    node.settle();
    assert!(traffic::tcp(&node.outside(), pod.v4(), 80).is_open());
}

#[test]
fn files_that_others_may_write_are_reported_and_not_read() {
    let node = Node::builder("documents").start();
    let _companion = node.companion();
    let mut pod = node.pod_in("shop", "web");
    pod.add(&Chain::in_mode(&node, "strict"));
    let _server = Server::start(&pod.place(), &[80], &[]);
    let [v4, v6] = node::outside(0);
    let text = Doc::new("shop", "open")
        .selects(&pod)
        .ingress(v4, "")
        .ingress(v6, "")
        .yaml();
    let path = node.policies_dir().join(".open.tmp");
    std::fs::write(&path, &text).unwrap();
    integration::Cmd::new("chmod").arg("0666").arg(&path).ok();
    std::fs::rename(&path, node.policies_dir().join("open.yaml")).unwrap();
    node.put_policy(".hidden.yaml", &text.replace("name: open", "name: hidden"));
    node.settle();
    assert!(traffic::tcp(&node.outside(), pod.v4(), 80).is_silent());
    let policies = node.ctl_json(&["policies"]).to_string();
    assert!(policies.contains("open.yaml"), "{policies}");
    assert!(!policies.contains("hidden"), "{policies}");
}
