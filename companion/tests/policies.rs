//! Policy from a file to real packets.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod node;

use std::net::SocketAddr;
use std::time::Duration;

use enforcer::maps;
use node::{Connection, LONG, Node, allow, marked, wait_until};
use state::{AttachMode, Mode};
use verdict::PolicyState;
use verdict::layout::{Addr, PrefixKey, PrefixValue};

#[test]
fn a_policy_takes_effect_and_goes_again() {
    let mut node = Node::new();
    node.load();
    let (pod, client, stranger) = (node.pod(), node.pod(), node.pod());
    node.start(&[]);
    let record = node.add(&pod, "shop", "web", Mode::Strict, true, AttachMode::Clsact);
    let decided = wait_until("the policy state is decided", LONG, || {
        !node.policy_state(&record).has(PolicyState::PENDING)
    });
    println!("policy state decided after {decided:?}");
    assert!(!node.connects(&client, &pod, 80), "strict");

    node.policy(
        "web.yaml",
        &allow("web", &pod, "web", &[client.v4, client.v6], 80),
    );
    println!("settled after {:?}", node.settle());
    assert!(node.connects(&client, &pod, 80));
    assert!(!node.connects(&client, &pod, 81));
    assert!(!node.connects(&stranger, &pod, 80));

    // Changed: the connection that is still allowed goes on, and the policy state says so by a new revision.
    let mut kept = Connection::open(&client, &pod, SocketAddr::new(pod.v4, 80));
    assert!(kept.works());
    let before = node.policy_state(&record);
    let all = [client.v4, client.v6, stranger.v4, stranger.v6];
    node.policy("web.yaml", &marked(&allow("web", &pod, "web", &all, 80), 1));
    println!("marked, settled after {:?}", node.settle());
    assert!(node.policy_state(&record).revision() > before.revision());
    assert!(node.connects(&stranger, &pod, 80));
    assert!(kept.works());

    // Revoked, on the live connection too.
    node.policy(
        "web.yaml",
        &marked(
            &allow("web", &pod, "web", &[stranger.v4, stranger.v6], 80),
            2,
        ),
    );
    node.settle();
    assert!(!kept.works());
    assert!(!node.connects(&client, &pod, 80));
    assert!(node.connects(&stranger, &pod, 80));

    node.remove_policy("web.yaml");
    node.settle();
    assert!(!node.connects(&stranger, &pod, 80));
    wait_until("the tables are swept", LONG, || {
        let status = published::status::Companion::read(&node.store)
            .unwrap()
            .unwrap();
        let tables = enforcer::apply::Tables::open(&enforcer::pins::Pins::new(&node.bpf)).unwrap();
        let contents = tables.contents().unwrap();
        status.error.is_none()
            && contents.peers.is_empty()
            && contents.rules.is_empty()
            && contents.ports.is_empty()
    });
}

#[test]
fn a_restart_changes_no_word() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.policy(
        "web.yaml",
        &allow("web", &pod, "web", &[client.v4, client.v6], 80),
    );
    node.start(&[]);
    let record = node.add(
        &pod,
        "shop",
        "web",
        Mode::Standard,
        true,
        AttachMode::Clsact,
    );
    wait_until("the policy state is decided", LONG, || {
        !node.policy_state(&record).has(PolicyState::PENDING)
    });
    let mut kept = Connection::open(&client, &pod, SocketAddr::new(pod.v4, 80));
    let policy_state = node.policy_state(&record);
    for signal in ["TERM", "KILL"] {
        node.stop(signal);
        assert!(kept.works());
        node.start(&[]);
        assert_eq!(node.policy_state(&record), policy_state);
        assert!(kept.works());
    }
    // What changed while it was away is applied as it starts; a broken document keeps its last good version.
    node.stop("TERM");
    node.policy("web.yaml", "kind: [");
    node.start(&[]);
    assert_eq!(node.policy_state(&record), policy_state);
    assert!(kept.works());
    node.stop("TERM");
    node.remove_policy("web.yaml");
    node.start(&[]);
    node.settle();
    assert!(
        !node
            .policy_state(&record)
            .has(PolicyState::ISOLATED_INGRESS)
    );
    assert!(
        node.connects(&client, &pod, 81),
        "standard, and nothing isolates it"
    );
}

#[test]
fn maps_are_taken_up_when_they_appear() {
    let mut node = Node::new();
    let (pod, client) = (node.pod(), node.pod());
    node.start(&[]);
    node.policy(
        "web.yaml",
        &allow("web", &pod, "web", &[client.v4, client.v6], 80),
    );
    node.settle();
    node.load();
    let record = node.add(
        &pod,
        "shop",
        "web",
        Mode::Standard,
        true,
        AttachMode::Clsact,
    );
    let decided = wait_until("the policy state is decided", LONG, || {
        !node.policy_state(&record).has(PolicyState::PENDING)
    });
    println!("policy state decided after {decided:?}");
    assert!(node.connects(&client, &pod, 80));
    assert!(!node.connects(&client, &pod, 81));
}

#[test]
fn suspension_is_visible_and_ends() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.start(&["--enable-network-policy=false"]);
    let record = node.add(&pod, "shop", "web", Mode::Strict, true, AttachMode::Clsact);
    wait_until("the policy state is decided", LONG, || {
        node.policy_state(&record).has(PolicyState::SUSPENDED)
    });
    assert!(node.connects(&client, &pod, 80));
    let mut kept = Connection::open(&client, &pod, SocketAddr::new(pod.v4, 80));
    assert!(
        published::status::Companion::read(&node.store)
            .unwrap()
            .unwrap()
            .suspended
    );
    node.stop("TERM");
    node.start(&[]);
    wait_until("the policy state is enforced again", LONG, || {
        !node.policy_state(&record).has(PolicyState::SUSPENDED)
    });
    assert!(!kept.works());
    assert!(!node.connects(&client, &pod, 80));
}

#[test]
fn the_mode_of_a_running_endpoint_follows_its_record() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.start(&[]);
    let mut record = node.add(
        &pod,
        "shop",
        "web",
        Mode::Standard,
        false,
        AttachMode::Clsact,
    );
    assert!(node.connects(&client, &pod, 80));
    record.mode = Mode::Strict;
    node.store.lock(LONG).unwrap().put_record(&record).unwrap();
    wait_until("strict", Duration::from_secs(2), || {
        node.policy_state(&record).has(PolicyState::STRICT)
    });
    assert!(!node.connects(&client, &pod, 80));
}

#[test]
fn a_full_table_leaves_the_old_policy_in_force_until_there_is_room() {
    let mut node = Node::new();
    node.load();
    let (pod, client, other) = (node.pod(), node.pod(), node.pod());
    node.start(&[]);
    let record = node.add(&pod, "shop", "web", Mode::Strict, true, AttachMode::Clsact);
    node.policy(
        "web.yaml",
        &allow("web", &pod, "web", &[client.v4, client.v6], 80),
    );
    wait_until("in force", LONG, || {
        node.policy_state(&record)
            .has(PolicyState::ISOLATED_INGRESS)
    });
    assert!(node.connects(&client, &pod, 80));

    // Somebody else's prefixes, up to the brim.
    let pins = enforcer::pins::Pins::new(&node.bpf);
    let mut prefixes: aya::maps::LpmTrie<_, maps::PrefixData, maps::PrefixValue> =
        maps::trie(&pins, "PREFIXES").unwrap();
    let key = |n: u32| {
        let addr = Addr::v4(n.to_be_bytes());
        maps::prefix_key(&PrefixKey {
            prefix_len: PrefixKey::FIXED_BITS + 32,
            family: 99,
            addr,
        })
    };
    let mut filled = 0;
    while prefixes
        .insert(&key(filled), maps::PrefixValue(PrefixValue::default()), 0)
        .is_ok()
    {
        filled += 1;
    }
    let policy_state = node.policy_state(&record);
    let blocks = ["10.77.0.0/16", "fd77::/16"];
    let text = allow("web", &pod, "web", &[client.v4, client.v6], 80);
    let wider = blocks.iter().fold(text, |text, block| {
        format!("{text}  - {{cidr: \"{block}\", ports: [{{protocol: TCP, port: 80}}]}}\n")
    });
    node.policy("web.yaml", &marked(&wider, 1));
    let status = || {
        published::status::Companion::read(&node.store)
            .unwrap()
            .unwrap()
    };
    wait_until("it is told", LONG, || {
        status().error.is_some_and(|e| e.contains("PREFIXES"))
    });
    assert_eq!(node.policy_state(&record), policy_state);
    assert!(node.connects(&client, &pod, 80));
    assert!(!node.connects(&other, &pod, 80));

    for n in 0..filled {
        prefixes.remove(&key(n)).unwrap();
    }
    wait_until("it is applied once there is room", LONG, || {
        status().error.is_none()
    });
    assert!(node.connects(&client, &pod, 80));
    assert!(node.connects(&other, &pod, 80));
}
