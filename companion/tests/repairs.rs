//! What others take away comes back; what is left over goes.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod node;

use std::fs;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::Duration;

use enforcer::attach::Programs;
use enforcer::endpoint::Endpoints;
use enforcer::hostnet::{Hook, in_netns, tcx};
use enforcer::orphans::{Orphan, describe};
use enforcer::pins::Pins;
use node::{LONG, Node, wait_until};
use state::{AttachMode, Mode, Record};
use verdict::PolicyState;

/// The promise is a second; machines that build on the side get two.
const SOON: Duration = Duration::from_secs(2);

fn tc(node: &Node, words: &[&str]) -> String {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", node.netns().display()))
        .arg("tc")
        .args(words)
        .output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

fn has_filters(node: &Node, record: &Record) -> bool {
    ["ingress", "egress"].iter().all(|hook| {
        tc(node, &["filter", "show", "dev", &record.veth, hook]).contains("direct-action")
    })
}

#[test]
fn filters_and_qdiscs_come_back() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.start(&[]);
    let record = node.add(&pod, "shop", "web", Mode::Strict, false, AttachMode::Clsact);
    assert!(has_filters(&node, &record));
    tc(&node, &["filter", "del", "dev", &record.veth, "egress"]);
    let took = wait_until("the filter is back", SOON, || has_filters(&node, &record));
    println!("filter back after {took:?}");
    tc(&node, &["qdisc", "del", "dev", &record.veth, "clsact"]);
    let took = wait_until("the qdisc is back", SOON, || has_filters(&node, &record));
    println!("qdisc back after {took:?}");
    node.stop("KILL");
    tc(&node, &["qdisc", "del", "dev", &record.veth, "clsact"]);
    node.start(&[]);
    wait_until("the qdisc is back after a start", SOON, || {
        has_filters(&node, &record)
    });
    assert!(!node.connects(&client, &pod, 80));
}

#[test]
fn links_come_back() {
    if !enforcer::hostnet::tcx::supported() {
        println!("this kernel has no TCX");
        return;
    }
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.start(&[]);
    let record = node.add(&pod, "shop", "web", Mode::Strict, false, AttachMode::Tcx);
    assert_eq!(record.attach_mode, AttachMode::Tcx);
    assert!(!node.connects(&client, &pod, 80));
    let links = node.bpf.join("v2/links");
    for link in fs::read_dir(&links).unwrap() {
        fs::remove_file(link.unwrap().path()).unwrap();
    }
    wait_until("the links are back", SOON, || {
        fs::read_dir(&links).unwrap().count() == 2
    });
    assert!(!node.connects(&client, &pod, 80));
}

/// TCX runs before every filter and tells nobody: whoever comes to stand there is noticed by looking.
#[test]
fn who_comes_to_stand_in_front_is_overtaken() {
    if !tcx::supported() {
        println!("this kernel has no TCX");
        return;
    }
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.start(&[]);
    let record = node.add(&pod, "shop", "web", Mode::Strict, false, AttachMode::Clsact);
    // Any program will do as a stranger: of podgate's own, the clock, which lets all packets on.
    let clock = Pins::new(&node.bpf).program(enforcer::load::PROGRAM_CLOCK);
    let stranger = tcx::open_pin(&clock).unwrap();
    let stand_in_front = || {
        in_netns(&node.netns(), || {
            Hook::ALL.map(|hook| tcx::attach(record.ifindex, hook, stranger.as_fd()).unwrap())
        })
        .unwrap()
    };
    let in_front = || {
        let programs = Programs::open(&Pins::new(&node.bpf)).unwrap();
        in_netns(&node.netns(), || {
            programs.verify(record.ifindex, AttachMode::Tcx).unwrap()
        })
        .unwrap()
        .is_none()
    };
    for time in ["before the filters", "before the links"] {
        let _links = stand_in_front();
        // The companion may be quicker than a look at what it found.
        wait_until(time, SOON, in_front);
        assert!(!node.connects(&client, &pod, 80));
    }
    assert!(!has_filters(&node, &record), "evaluated twice");
    let found = node.store.record(&record.container_id, &record.ifname);
    assert_eq!(found.unwrap().unwrap().attach_mode, AttachMode::Tcx);
    wait_until("no fault is told of", SOON, || {
        published::status::Companion::read(&node.store)
            .unwrap()
            .is_some_and(|c| c.faults.is_empty())
    });
}

#[test]
fn pins_come_back_with_all_that_they_hold() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.start(&[]);
    node.policy(
        "web.yaml",
        &node::allow("web", &pod, "web", &[client.v4, client.v6], 80),
    );
    let record = node.add(&pod, "shop", "web", Mode::Strict, true, AttachMode::Clsact);
    wait_until("the policy state is decided", LONG, || {
        node.policy_state(&record)
            .has(PolicyState::ISOLATED_INGRESS)
    });
    let policy_state = node.policy_state(&record);
    fs::remove_dir_all(&node.bpf).unwrap();
    let took = wait_until("the pins are back", SOON, || {
        enforcer::load::is_loaded(&enforcer::pins::Pins::new(&node.bpf))
    });
    println!("pins back after {took:?}");
    assert_eq!(node.policy_state(&record), policy_state);
    assert!(node.connects(&client, &pod, 80));

    // Somebody loads anew before they are: the endpoints move over.
    fs::remove_dir_all(&node.bpf).unwrap();
    node.load();
    wait_until("the endpoint has a entry in the new maps", LONG, || {
        let endpoints = Endpoints::open(&node.bpf).unwrap();
        let entry = endpoints.entry(record.ifindex).unwrap();
        entry.is_some_and(|entry| {
            endpoints
                .policy_states
                .get(entry.endpoint_index)
                .has(PolicyState::ISOLATED_INGRESS)
        }) && has_filters(&node, &record)
    });
    wait_until("the new programs are attached", SOON, || {
        published::status::Companion::read(&node.store)
            .unwrap()
            .is_some_and(|c| c.faults.is_empty())
    });
    assert!(node.connects(&client, &pod, 80));
    assert!(!node.connects(&client, &pod, 81));
}

#[test]
fn what_is_left_over_goes() {
    let mut node = Node::new();
    node.load();
    let (pod, other) = (node.pod(), node.pod());
    let (gone, stays) = (
        node.add(&pod, "shop", "web", Mode::Strict, false, AttachMode::Clsact),
        node.add(
            &other,
            "shop",
            "other",
            Mode::Strict,
            false,
            AttachMode::Clsact,
        ),
    );
    // An earlier boot, a torn record, a policy state without an owner.
    let pods = node.store.layout().pods();
    let mut old = serde_json::to_value(&stays).unwrap();
    old["bootId"] = "00000000-0000-0000-0000-000000000000".into();
    old["containerId"] = "old".into();
    fs::write(pods.join("old_eth0.json"), old.to_string()).unwrap();
    fs::write(pods.join("torn_eth0.json"), "").unwrap();
    Endpoints::open(&node.bpf)
        .unwrap()
        .policy_states
        .set(4000, PolicyState::new(0, 0, 9));
    let (store, bpf, ns) = (node.store.clone(), node.bpf.clone(), node.netns());
    let look = move || in_netns(&ns, || describe(&store, &bpf).unwrap()).unwrap();
    let found = look();
    assert!(
        found.iter().any(|l| matches!(l, Orphan::EarlierBoot(_))),
        "{found:?}"
    );
    assert!(
        found.iter().any(|l| matches!(l, Orphan::Torn(_))),
        "{found:?}"
    );
    assert!(found.contains(&Orphan::PolicyState(4000)), "{found:?}");
    assert_eq!(found.len(), 3, "{found:?}");
    // Seen from another namespace everything seems gone, but the pods say that it is not.
    assert!(
        describe(&node.store, &node.bpf)
            .unwrap()
            .iter()
            .all(|l| !matches!(l, Orphan::Row { .. } | Orphan::Record(_)))
    );

    node.start(&[]);
    wait_until("the store is clean", SOON, || look().is_empty());

    // A pod that goes without a DEL.
    let status = Command::new("ip")
        .args(["netns", "del", &pod.netns])
        .status()
        .unwrap();
    assert!(status.success());
    wait_until("entry and record are gone", Duration::from_secs(4), || {
        let entry = Endpoints::open(&node.bpf)
            .unwrap()
            .entry(gone.ifindex)
            .unwrap();
        entry.is_none()
            && node
                .store
                .record(&gone.container_id, &gone.ifname)
                .unwrap()
                .is_none()
    });
    assert!(node.policy_state(&gone).0 == 0);
    assert!(
        Endpoints::open(&node.bpf)
            .unwrap()
            .entry(stays.ifindex)
            .unwrap()
            .is_some()
    );
    assert!(
        node.store
            .record(&stays.container_id, &stays.ifname)
            .unwrap()
            .is_some()
    );
    wait_until("nothing is left", SOON, || look().is_empty());
}
