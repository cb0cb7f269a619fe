//! The reference bandwidth plugin, run for real on a veth.

use std::{
    env, fs,
    io::Write as _,
    os::fd::AsFd,
    path::PathBuf,
    process::{Command, Stdio},
};

use enforcer::hostnet::{
    Bandwidth, Error, Fault, Hook, ProgramIds, QdiscKind, check_clsact, check_tcx, ensure_clsact,
    filters, qdisc_kind, tcx,
};

use super::{
    program::{Program, SHOT, UNSPEC},
    world::{
        Namespace, fix_neighbours, index, ip, ip_json, on_host, plain_pod, reaches_host,
        reaches_pod, run, tc, tc_filters, tc_ingress_qdiscs,
    },
};

/// The plugin's binary: in CNI_PATH, else where `go install` puts it.
fn plugin() -> PathBuf {
    let path = env::var_os("CNI_PATH").filter(|path| !path.is_empty());
    let folders: Vec<PathBuf> = match &path {
        Some(path) => env::split_paths(path).collect(),
        None => vec![PathBuf::from(run("go", &["env", "GOPATH"]).trim()).join("bin")],
    };
    folders
        .iter()
        .map(|folder| folder.join("bandwidth"))
        .find(|plugin| plugin.exists())
        .unwrap_or_else(|| {
            panic!("no bandwidth in {folders:?}: go install github.com/containernetworking/plugins/plugins/meta/bandwidth@latest")
        })
}

/// Runs the plugin on h0/eth0 and says what it answered and whether it succeeded.
fn shape(pod: &Namespace, command: &str) -> (bool, String) {
    let config = format!(
        r#"{{"cniVersion":"1.0.0","name":"net","type":"bandwidth",
        "ingressRate":100000000,"ingressBurst":10000000,"egressRate":100000000,"egressBurst":10000000,
        "prevResult":{{"cniVersion":"1.0.0","interfaces":[{{"name":"h0"}},{{"name":"eth0","sandbox":"{}"}}],"ips":[]}}}}"#,
        pod.path.display()
    );
    let mut child = Command::new(plugin())
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &pod.name)
        .env("CNI_NETNS", &pod.path)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(config.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

/// A pod whose traffic the plugin shapes.
fn shaped_pod() -> (Namespace, u32) {
    let (pod, ifindex) = plain_pod("h0");
    fix_neighbours("h0", &pod);
    let (ok, answer) = shape(&pod, "ADD");
    assert!(ok, "{answer}");
    (pod, ifindex)
}

fn ifb() -> String {
    let links = ip_json("-d link");
    let ifb = links
        .iter()
        .find(|link| link["linkinfo"]["info_kind"] == "ifb")
        .unwrap();
    ifb["ifname"].as_str().unwrap().to_owned()
}

/// Packets that the ifb has seen.
fn ifb_packets() -> u64 {
    ip_json(&format!("-s link show dev {}", ifb()))[0]["stats64"]["tx"]["packets"]
        .as_u64()
        .unwrap()
}

#[test]
fn what_the_plugin_leaves_is_recognised() {
    on_host(|_| {
        let (_pod, ifindex) = shaped_pod();
        assert_eq!(tc_ingress_qdiscs("h0"), ["ingress"]);
        let found = Bandwidth::detect(ifindex).unwrap().unwrap();
        assert_eq!((found.ifindex(), found.ifb()), (ifindex, index(&ifb())));
        assert!(matches!(
            ensure_clsact(ifindex).unwrap_err(),
            Error::QdiscInTheWay {
                kind: QdiscKind::Ingress,
                ..
            }
        ));
        // The ifb itself, which has only a tbf, is no such thing.
        assert_eq!(Bandwidth::detect(index(&ifb())).unwrap(), None);
    });
}

#[test]
fn kernel_replaced_ours_runs_first_and_the_redirect_behind() {
    on_host(|_| {
        let (pod, ifindex) = shaped_pod();
        let before = tc_filters("h0", "ingress");
        assert!(reaches_host(&pod) && ifb_packets() > 0);
        let (pass, drop_all) = (Program::returning(UNSPEC), Program::returning(SHOT));
        let shape = Bandwidth::detect(ifindex).unwrap().unwrap();
        shape
            .replace(pass.as_fd(), drop_all.as_fd(), "podgate")
            .unwrap();
        assert_eq!(tc_ingress_qdiscs("h0"), ["clsact"]);
        let ids = ProgramIds {
            ingress: pass.id,
            egress: drop_all.id,
        };
        assert_eq!(check_clsact(ifindex, ids).unwrap(), None);

        // By tc: ours at priority 1, u32 with the redirect at 2, nothing else.
        let ingress = tc_filters("h0", "ingress");
        let order: Vec<(u64, &str)> = ingress
            .iter()
            .map(|one| (one["pref"].as_u64().unwrap(), one["kind"].as_str().unwrap()))
            .collect();
        assert_eq!(order[0], (1, "bpf"));
        assert!(order[1..].iter().all(|one| *one == (2, "u32")), "{order:?}");
        let text = tc("filter show dev h0 ingress");
        assert!(
            text.contains(&format!(
                "mirred (Egress Redirect to device {}) stolen",
                ifb()
            )),
            "{text}"
        );
        assert!(
            !reaches_pod(&pod),
            "our program towards the pod is in force"
        );

        // What the pod sends passes ours and still goes through the ifb.
        let count = ifb_packets();
        assert!(reaches_host(&pod));
        assert!(ifb_packets() > count, "rate limiting is lost");
        // The plugin's shape towards the pod (tbf at the root) is as it was.
        assert!(tc("qdisc show dev h0 root").contains("tbf"));

        // And back, as if nothing had been.
        shape.restore().unwrap();
        assert_eq!(tc_ingress_qdiscs("h0"), ["ingress"]);
        let stable = |filters: &[serde_json::Value]| -> Vec<String> {
            let strip = |text: String| {
                // Counters, times and the action's own number differ.
                text.split(',')
                    .filter(|part| {
                        ![
                            "index",
                            "installed",
                            "last_used",
                            "first_used",
                            "rule hit",
                            "success",
                        ]
                        .iter()
                        .any(|word| part.contains(word))
                    })
                    .collect::<Vec<_>>()
                    .join(",")
            };
            filters.iter().map(|one| strip(one.to_string())).collect()
        };
        assert_eq!(stable(&tc_filters("h0", "ingress")), stable(&before));
        assert_eq!(Bandwidth::detect(ifindex).unwrap(), Some(shape));
        assert!(reaches_pod(&pod) && reaches_host(&pod));
    });
}

#[test]
fn replaced_our_drop_holds_where_behind_the_redirect_it_never_ran() {
    on_host(|_| {
        let (pod, ifindex) = shaped_pod();
        let drop_all = Program::returning(SHOT);
        // Behind the redirect a program that drops everything drops nothing (kernel-facts A6).
        let pin = format!("/sys/fs/bpf/pg-test-{}", super::world::suffix());
        super::program::pin(&drop_all, pin.as_ref());
        tc(&format!(
            "filter add dev h0 ingress prio 2 protocol all bpf da pinned {pin}"
        ));
        fs::remove_file(&pin).unwrap();
        assert!(reaches_host(&pod));
        // That is no longer what the plugin made: left alone.
        assert_eq!(Bandwidth::detect(ifindex).unwrap(), None);
        tc("filter del dev h0 ingress prio 2");
        let shape = Bandwidth::detect(ifindex).unwrap().unwrap();
        shape
            .replace(drop_all.as_fd(), drop_all.as_fd(), "podgate")
            .unwrap();
        assert!(!reaches_host(&pod) && !reaches_pod(&pod));
    });
}

#[test]
fn anything_else_is_not_taken_for_it() {
    on_host(|_| {
        let (_pod, ifindex) = plain_pod("h0");
        ip("link add ifbt type ifb");
        ip("link set ifbt up");
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        assert_eq!(Bandwidth::detect(ifindex).unwrap(), None, "no qdisc");
        tc("qdisc add dev h0 clsact");
        assert_eq!(Bandwidth::detect(ifindex).unwrap(), None, "clsact");
        tc("qdisc del dev h0 clsact");
        tc("qdisc add dev h0 ingress");
        assert_eq!(
            Bandwidth::detect(ifindex).unwrap(),
            None,
            "an empty ingress qdisc"
        );
        let add = "filter add dev h0 parent ffff:";
        let to_ifb = "action mirred egress redirect dev ifbt";
        for (why, filter) in [
            (
                "another target",
                format!(
                    "{add} prio 1 protocol all u32 match u32 0 0 classid 1:1 action mirred egress redirect dev v0"
                ),
            ),
            (
                "a mirror",
                format!(
                    "{add} prio 1 protocol all u32 match u32 0 0 classid 1:1 action mirred egress mirror dev ifbt"
                ),
            ),
            (
                "to ingress",
                format!(
                    "{add} prio 1 protocol all u32 match u32 0 0 classid 1:1 action mirred ingress redirect dev ifbt"
                ),
            ),
            (
                "not everything",
                format!("{add} prio 1 protocol all u32 match u32 1 1 classid 1:1 {to_ifb}"),
            ),
            (
                "one protocol",
                format!("{add} prio 1 protocol ip u32 match u32 0 0 classid 1:1 {to_ifb}"),
            ),
            (
                "another priority",
                format!("{add} prio 5 protocol all u32 match u32 0 0 classid 1:1 {to_ifb}"),
            ),
            (
                "another chain",
                format!("{add} prio 1 chain 3 protocol all u32 match u32 0 0 classid 1:1 {to_ifb}"),
            ),
            (
                "no action",
                format!("{add} prio 1 protocol all u32 match u32 0 0 classid 1:1"),
            ),
            (
                "two actions",
                format!(
                    "{add} prio 1 protocol all u32 match u32 0 0 classid 1:1 action mirred egress mirror dev v0 {to_ifb}"
                ),
            ),
        ] {
            tc(&filter);
            assert_eq!(Bandwidth::detect(ifindex).unwrap(), None, "{why}");
            tc("qdisc del dev h0 ingress");
            tc("qdisc add dev h0 ingress");
        }
        // The plugin's, and another behind it.
        tc(&format!(
            "{add} prio 1 protocol all u32 match u32 0 0 classid 1:1 {to_ifb}"
        ));
        assert!(Bandwidth::detect(ifindex).unwrap().is_some());
        tc(&format!(
            "{add} prio 9 protocol ip u32 match u32 0 0 classid 1:1"
        ));
        assert_eq!(Bandwidth::detect(ifindex).unwrap(), None, "a second filter");
        assert_eq!(qdisc_kind(ifindex).unwrap(), QdiscKind::Ingress);
    });
}

#[test]
fn a_replacement_that_fails_leaves_the_plugins_state() {
    on_host(|_| {
        let (pod, ifindex) = shaped_pod();
        let shape = Bandwidth::detect(ifindex).unwrap().unwrap();
        let pass = Program::returning(UNSPEC);
        let no_program = fs::File::open("/dev/null").unwrap();
        let error = shape
            .replace(pass.as_fd(), no_program.as_fd(), "podgate")
            .unwrap_err();
        assert!(error.to_string().contains("egress filter"), "{error}");
        assert_eq!(Bandwidth::detect(ifindex).unwrap().as_ref(), Some(&shape));
        assert!(reaches_host(&pod));
        // And it works after that.
        shape
            .replace(pass.as_fd(), pass.as_fd(), "podgate")
            .unwrap();
        // It is no longer there to be replaced.
        let error = shape
            .replace(pass.as_fd(), pass.as_fd(), "podgate")
            .unwrap_err();
        assert!(matches!(error, Error::NotBandwidth { .. }), "{error}");
        assert_eq!(tc_ingress_qdiscs("h0"), ["clsact"]);
    });
}

#[test]
fn tcx_beside_the_plugin_holds() {
    on_host(|_| {
        if !tcx::supported() {
            eprintln!("no TCX on this kernel");
            return;
        }
        let (pod, ifindex) = shaped_pod();
        let (ingress, egress) = (Program::returning(SHOT), Program::returning(SHOT));
        let _links = [
            tcx::attach(ifindex, Hook::Ingress, ingress.as_fd()).unwrap(),
            tcx::attach(ifindex, Hook::Egress, egress.as_fd()).unwrap(),
        ];
        assert!(!reaches_host(&pod) && !reaches_pod(&pod));
        assert_eq!(
            check_tcx(
                ifindex,
                ProgramIds {
                    ingress: ingress.id,
                    egress: egress.id
                }
            )
            .unwrap(),
            None
        );
        assert!(
            Bandwidth::detect(ifindex).unwrap().is_some(),
            "the plugin's part is as it was"
        );
    });
}

#[test]
fn podgate_first_makes_the_plugin_fail() {
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        let program = Program::returning(UNSPEC);
        ensure_clsact(ifindex).unwrap();
        for hook in Hook::ALL {
            enforcer::hostnet::put_filter(ifindex, hook, program.as_fd(), "podgate").unwrap();
        }
        let (ok, answer) = shape(&pod, "ADD");
        assert!(!ok && answer.contains("ingress qdisc"), "{answer}");
        assert_eq!(filters(ifindex, Hook::Ingress).unwrap().len(), 1);
        let ids = ProgramIds {
            ingress: program.id,
            egress: program.id,
        };
        assert_eq!(check_clsact(ifindex, ids).unwrap(), None);
        assert_ne!(
            check_clsact(ifindex, ids).unwrap(),
            Some(Fault::PlainIngress)
        );
    });
}

#[test]
fn the_plugins_del_works_after_a_replacement() {
    on_host(|_| {
        let (pod, ifindex) = shaped_pod();
        let program = Program::returning(UNSPEC);
        let shape_seen = Bandwidth::detect(ifindex).unwrap().unwrap();
        shape_seen
            .replace(program.as_fd(), program.as_fd(), "podgate")
            .unwrap();
        let (ok, answer) = shape(&pod, "DEL");
        assert!(ok, "{answer}");
        assert!(
            !ip("-d link").contains(" ifb "),
            "the plugin removed its ifb"
        );
        let ids = ProgramIds {
            ingress: program.id,
            egress: program.id,
        };
        assert_eq!(check_clsact(ifindex, ids).unwrap(), None);
    });
}
