//! Faults that were found from outside, each as it was seen: docs/faults-round-2.md names them.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod node;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use node::{LONG, Node, Pod, allow, marked, wait_until};
use state::{AttachMode, Mode, Record};
use verdict::PolicyState;

/// What a pod's policy state was while it left `pending`: true if it was ever open to what no policy allows.
fn was_ever_undecided(node: &Node, record: &Record) -> bool {
    let mut wrong = false;
    wait_until("the policy is in force", LONG, || {
        let state = node.policy_state(record);
        if !state.has(PolicyState::PENDING) && !state.has(PolicyState::ISOLATED_INGRESS) {
            wrong = true;
        }
        state.has(PolicyState::ISOLATED_INGRESS)
    });
    wrong
}

fn part(pod: &Pod, from: &Pod, part: u32, of: u32, generation: u32, port: u16) -> String {
    let text = allow("web", pod, "web", &[from.v4, from.v6], port);
    text.replacen(
        "metadata: {name: web-1,",
        &format!(
            "metadata: {{annotations: {{podgate.dev/parts: \"{of}\", podgate.dev/generation: \"{generation}\"}}, name: web-{part},"
        ),
        1,
    )
}

/// Fault a: open (or shut, in strict mode) for up to a second after ADD had returned.
#[test]
fn a_document_that_came_before_the_pod_is_in_force_when_pending_ends() {
    let mut node = Node::new();
    node.load();
    node.start(&[]);
    let client = node.pod();
    let mut number = 0;
    for mode in [Mode::Standard, Mode::Strict] {
        for (delay_ms, busy) in [(0, false), (30, false), (0, true)] {
            number += 1;
            let pod = node.pod();
            let name = format!("web{number}");
            let stop = Arc::new(AtomicBool::new(false));
            // Somebody else's document that never rests.
            let other = busy.then(|| {
                let (stop, folder) = (Arc::clone(&stop), node.store.layout().policies());
                let text = allow("other", &pod, "nobody", &[], 0);
                std::thread::spawn(move || {
                    let mut n = 0;
                    while !stop.load(Ordering::Relaxed) {
                        n += 1;
                        fs::write(
                            folder.join(".o"),
                            text.replace("port: 0", &format!("port: {n}")),
                        )
                        .unwrap();
                        fs::rename(folder.join(".o"), folder.join("other.yaml")).unwrap();
                        std::thread::sleep(Duration::from_millis(60));
                    }
                })
            });
            let text = allow(&name, &pod, &name, &[client.v4, client.v6], 80);
            node.policy(&format!("{name}.yaml"), &text);
            let written = Instant::now();
            while written.elapsed() < Duration::from_millis(delay_ms) {
                std::hint::spin_loop();
            }
            let record = node.add(&pod, "shop", &name, mode, true, AttachMode::Clsact);
            let wrong = was_ever_undecided(&node, &record);
            stop.store(true, Ordering::Relaxed);
            if let Some(other) = other {
                other.join().unwrap();
            }
            assert!(
                !wrong,
                "{mode:?}, {delay_ms} ms, busy {busy}: decided before its document counted"
            );
            assert!(node.connects(&client, &pod, 80));
            assert!(!node.connects(&client, &pod, 81));
        }
    }
}

/// Fault a: part 1 of 2 without predecessor left the pod open for good.
#[test]
fn part_of_a_first_version_isolates() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.start(&[]);
    let record = node.add(
        &pod,
        "shop",
        "web",
        Mode::Standard,
        false,
        AttachMode::Clsact,
    );
    assert!(node.connects(&client, &pod, 81));
    node.policy("one.yaml", &part(&pod, &client, 1, 2, 1, 80));
    wait_until("it isolates", LONG, || {
        node.policy_state(&record)
            .has(PolicyState::ISOLATED_INGRESS)
    });
    assert!(!node.connects(&client, &pod, 81));
    assert!(node.connects(&client, &pod, 80), "parts only add");
    // A pod that comes now waits for the rest.
    let late = node.pod();
    let text = part(&pod, &client, 1, 2, 1, 80).replace(
        "name: web, namespace: shop, podIP",
        "name: late, namespace: shop, podIP",
    );
    node.policy("one.yaml", &text);
    let record = node.add(
        &late,
        "shop",
        "late",
        Mode::Standard,
        true,
        AttachMode::Clsact,
    );
    node.settle();
    assert!(node.policy_state(&record).has(PolicyState::PENDING));
    node.policy("two.yaml", &text.replace("name: web-1,", "name: web-2,"));
    assert!(!was_ever_undecided(&node, &record));
}

/// Fault b: a read that failed was never tried again.
#[test]
fn a_revocation_that_could_not_be_read_comes_into_force_by_itself() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.policy(
        "web.yaml",
        &marked(&allow("web", &pod, "web", &[client.v4, client.v6], 80), 1),
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
    wait_until("in force", LONG, || {
        node.policy_state(&record)
            .has(PolicyState::ISOLATED_INGRESS)
    });
    assert!(node.connects(&client, &pod, 80));
    let limit = |descriptors: &str| {
        let pid = format!("--pid={}", node.pid());
        let status = Command::new("prlimit")
            .args([&pid, &format!("--nofile={descriptors}:")])
            .status();
        assert!(status.unwrap().success());
    };
    limit("3");
    node.policy(
        "web.yaml",
        &marked(&allow("web", &pod, "web", &[client.v4, client.v6], 81), 2),
    );
    wait_until("it fails", LONG, || {
        node.log().contains("Too many open files")
    });
    assert!(node.connects(&client, &pod, 80), "what was in force stays");
    let before = node.policy_state(&record).revision();
    limit("1024");
    let begin = Instant::now();
    wait_until("it is in force without a touch", LONG, || {
        node.policy_state(&record).revision() > before
    });
    println!("in force {:?} after descriptors were free", begin.elapsed());
    assert!(!node.connects(&client, &pod, 80));
    assert!(node.connects(&client, &pod, 81));
    node.settle();
}

/// Fault c: half of a new version before a restart, and after it no policy at all.
#[test]
fn half_of_a_version_before_a_restart_leaves_the_old_one_in_force() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.policy("one.yaml", &part(&pod, &client, 1, 2, 1, 80));
    node.policy("two.yaml", &part(&pod, &client, 2, 2, 1, 81));
    node.start(&[]);
    let record = node.add(
        &pod,
        "shop",
        "web",
        Mode::Standard,
        true,
        AttachMode::Clsact,
    );
    wait_until("in force", LONG, || {
        node.policy_state(&record)
            .has(PolicyState::ISOLATED_INGRESS)
    });
    let before = node.policy_state(&record);
    node.policy("one.yaml", &part(&pod, &client, 1, 2, 2, 90));
    wait_until("it is told", LONG, || {
        let documents = published::status::Documents::read(&node.store)
            .unwrap()
            .unwrap();
        let incomplete = policy::documents::Condition::Incomplete;
        documents
            .documents
            .iter()
            .any(|d| d.condition == incomplete)
    });
    assert_eq!(node.policy_state(&record), before);
    for signal in ["TERM", "KILL"] {
        node.stop(signal);
        node.start(&[]);
        assert_eq!(node.policy_state(&record), before, "after {signal}");
    }
    assert!(node.connects(&client, &pod, 80) && node.connects(&client, &pod, 81));
    assert!(!node.connects(&client, &pod, 90));
    node.policy("two.yaml", &part(&pod, &client, 2, 2, 2, 91));
    node.settle();
    assert!(node.connects(&client, &pod, 90) && node.connects(&client, &pod, 91));
    assert!(!node.connects(&client, &pod, 80));
}

/// Fault c: what was learnt of stale selectors was dropped and then overwritten with nothing.
#[test]
fn a_stale_selector_stays_stale_over_a_restart() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.start(&[]);
    let record = node.add(
        &pod,
        "shop",
        "web",
        Mode::Standard,
        false,
        AttachMode::Clsact,
    );
    node.policy("web.yaml", &allow("web", &pod, "web", &[], 80));
    wait_until("named", LONG, || {
        node.policy_state(&record)
            .has(PolicyState::ISOLATED_INGRESS)
    });
    // The name goes; the selector `{}` still stands, as Amazon's controller leaves it.
    let unnamed = allow("web", &pod, "nobody", &[], 80);
    node.policy("web.yaml", &unnamed);
    wait_until("not selected", LONG, || {
        !node
            .policy_state(&record)
            .has(PolicyState::ISOLATED_INGRESS)
    });
    let kept = || {
        published::SelectorOverrides::read(&node.store)
            .unwrap()
            .unwrap()
    };
    let known = kept();
    assert_eq!(known.settled.len(), 1, "{known:?}");
    for signal in ["TERM", "KILL"] {
        node.stop(signal);
        node.start(&[]);
        let kept = published::SelectorOverrides::read(&node.store)
            .unwrap()
            .unwrap();
        assert_eq!(kept, known, "after {signal}");
        assert!(
            !node
                .policy_state(&record)
                .has(PolicyState::ISOLATED_INGRESS),
            "after {signal}"
        );
    }
    assert!(node.connects(&client, &pod, 81));
}

/// Fault d: an endpoint whose record could not be read was forgotten, and its rule set's number given away.
#[test]
fn an_endpoint_whose_record_cannot_be_read_keeps_what_it_has() {
    let mut node = Node::new();
    node.load();
    let (pod, client, second) = (node.pod(), node.pod(), node.pod());
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
    wait_until("in force", LONG, || {
        node.policy_state(&record)
            .has(PolicyState::ISOLATED_INGRESS)
    });
    let file = node
        .store
        .layout()
        .record(&record.container_id, &record.ifname)
        .unwrap()[0]
        .clone();
    let whole = fs::read(&file).unwrap();
    let newer =
        String::from_utf8(whole.clone())
            .unwrap()
            .replacen("\"schema\": 1", "\"schema\": 99", 1);
    let spoil: [(&str, &dyn Fn()); 2] = [
        ("writable by others", &|| {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        }),
        ("of a newer schema", &|| fs::write(&file, &newer).unwrap()),
    ];
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    let told = |node: &Node| {
        let status = published::status::Companion::read(&node.store)
            .unwrap()
            .unwrap();
        status.problems.iter().any(|p| p.contains(&name))
    };
    let mut others = 0;
    for (what, spoil) in spoil {
        spoil();
        for restarted in [false, true] {
            if restarted {
                node.stop("TERM");
                node.start(&[]);
            }
            wait_until("it is told", LONG, || told(&node));
            // Rule sets of others come and go meanwhile.
            others += 1;
            let other = allow(
                "second",
                &second,
                "second",
                &[client.v4, client.v6],
                9000 + others,
            )
            .replace("  podSelector: {}\n", "");
            node.policy("second.yaml", &other);
            if others == 1 {
                node.add(
                    &second,
                    "shop",
                    "second",
                    Mode::Standard,
                    true,
                    AttachMode::Clsact,
                );
            }
            node.settle();
            wait_until("the second pod's policy", LONG, || {
                node.connects(&client, &second, 9000 + others)
            });
            assert!(
                node.connects(&client, &pod, 80),
                "{what}, restarted {restarted}"
            );
            assert!(
                !node.connects(&client, &pod, 81),
                "{what}, restarted {restarted}"
            );
        }
        fs::remove_file(&file).unwrap();
        fs::write(&file, &whole).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        wait_until("it is over", LONG, || !told(&node));
        node.settle();
    }
    // It is looked after again.
    node.remove_policy("web.yaml");
    wait_until("its policy goes", LONG, || {
        !node
            .policy_state(&record)
            .has(PolicyState::ISOLATED_INGRESS)
    });
}

/// Fault f: without pins at its start the companion took four seconds, or waited for somebody to load.
#[test]
fn all_pins_removed_while_the_companion_is_away_come_back_at_its_start() {
    let mut node = Node::new();
    node.load();
    let (pod, client) = (node.pod(), node.pod());
    node.policy(
        "web.yaml",
        &allow("web", &pod, "web", &[client.v4, client.v6], 80),
    );
    node.start(&[]);
    node.add(
        &pod,
        "shop",
        "web",
        Mode::Standard,
        true,
        AttachMode::Clsact,
    );
    wait_until("in force", LONG, || !node.connects(&client, &pod, 81));
    node.stop("TERM");
    fs::remove_dir_all(&node.bpf).unwrap();
    let begin = Instant::now();
    node.start(&[]);
    wait_until("whole", LONG, || node.connects(&client, &pod, 80));
    println!(
        "whole {:?} after the start (contract: 2 s)",
        begin.elapsed()
    );
    assert!(!node.connects(&client, &pod, 81));
}

/// Fault g: the same warning twice a second for ever.
#[test]
fn what_stays_wrong_is_said_once() {
    let mut node = Node::new();
    // Something that is no kernel object where the pins should be.
    node.load();
    let pins = enforcer::pins::Pins::new(&node.bpf);
    let map = pins.map("PREFIXES");
    node.start(&[]);
    node.stop("TERM");
    fs::remove_file(&map).unwrap();
    node.start(&[]);
    let said = || node.log().matches("take up the kernel objects").count();
    wait_until("it is said", LONG, || {
        said() > 0 || node.log().contains("endpoints stand")
    });
    let first = said();
    // Several polls later.
    let begin = Instant::now();
    wait_until("polls go by", LONG, || {
        begin.elapsed() > Duration::from_secs(3)
    });
    assert!(said() <= first + 1, "{} times", said());
}
