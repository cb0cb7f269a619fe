//! node.json, workloads, applied, status and quarantine.

use std::time::Duration;
use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};
use state::{
    EnforcingMode, HostSetExclusion, Index, NodeConfig, PortRange, ProblemKind, RelPath, Source,
    Store, Workload, applied::Applied, node, quarantine,
};

use crate::{chmod, store};

const WAIT: Duration = Duration::from_secs(10);

fn node_json(store: &Store, value: &Value) -> Result<NodeConfig, node::Error> {
    fs::write(store.layout().node(), value.to_string()).unwrap();
    store.node_config()
}

#[test]
fn an_absent_node_file_is_all_defaults() {
    let (_folder, store) = store();
    let config = store.node_config().unwrap();
    assert_eq!(config, NodeConfig::default());
    assert_eq!(config.source, Source::Files);
    assert_eq!(
        config.node_port_range,
        PortRange {
            first: 30_000,
            last: 32_767
        }
    );
    assert_eq!(
        store.node_addresses().unwrap(),
        [""; 0].map(|_| std::net::IpAddr::from([0; 4]))
    );
    assert_eq!(
        node_json(&store, &json!({})).unwrap(),
        NodeConfig::default()
    );
    assert_eq!(
        node_json(&store, &json!({"nodeName": null, "source": null})).unwrap(),
        NodeConfig::default()
    );
}

#[test]
fn every_key_is_read_and_written_and_unknown_ones_are_kept() {
    let (_folder, store) = store();
    let config = node_json(
        &store,
        &json!({
            "nodeName": "n1", "networkPolicyEnforcingMode": "STRICT", "source": "cluster", "conntrackCacheTableSize": 32768,
            "nodePortRange": "31000-31000", "hostSetExclude": ["10.0.0.0/8", "fd00::1", "kube-ipvs0"], "comment": [1],
        }),
    )
    .unwrap();
    assert_eq!(config.node_name.as_deref(), Some("n1"));
    assert_eq!(config.enforcing_mode, Some(EnforcingMode::Strict));
    assert_eq!(config.source, Source::Cluster);
    assert_eq!(config.conntrack_cache_table_size, Some(32_768));
    assert!(config.node_port_range.contains(31_000) && !config.node_port_range.contains(31_001));
    assert_eq!(config.host_set_exclude.len(), 3);
    assert_eq!(
        config.host_set_exclude[2],
        HostSetExclusion::Interface("kube-ipvs0".to_owned())
    );
    assert_eq!(config.other["comment"], json!([1]));
    let write = |config: &NodeConfig| {
        let locked = store.lock(WAIT).unwrap();
        locked.update_node_config(|now| now.clone_from(config))
    };
    write(&NodeConfig::default()).unwrap();
    assert_eq!(store.node_config().unwrap(), NodeConfig::default());
    write(&config).unwrap();
    assert_eq!(store.node_config().unwrap(), config);
}

#[test]
fn impossible_values_name_file_and_field() {
    let (_folder, store) = store();
    for (field, value) in [
        ("nodeName", json!("")),
        ("nodeName", json!(1)),
        ("networkPolicyEnforcingMode", json!("lax")),
        ("networkPolicyEnforcingMode", json!(true)),
        ("source", json!("Cluster")),
        ("conntrackCacheTableSize", json!(32767)),
        ("conntrackCacheTableSize", json!(1_048_577)),
        ("conntrackCacheTableSize", json!(-1)),
        ("conntrackCacheTableSize", json!(65536.5)),
        ("conntrackCacheTableSize", json!("65536")),
        ("nodePortRange", json!("32767-30000")),
        ("nodePortRange", json!("0-10")),
        ("nodePortRange", json!("30000")),
        ("nodePortRange", json!("1-65536")),
        ("hostSetExclude", json!("10.0.0.0/8")),
        ("hostSetExclude", json!(["10.0.0.0/33"])),
        ("hostSetExclude", json!(["10.0.0"])),
        ("hostSetExclude", json!([7])),
    ] {
        let error = node_json(&store, &json!({ (field): value })).unwrap_err();
        assert!(
            matches!(&error, node::Error::Field { field: found, .. } if *found == field),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains("/node.json: ")
                && text.contains(field)
                && text.contains(&value.to_string()),
            "{text}"
        );
    }
    for text in ["", "{", "[]", "null", "\u{feff}{}"] {
        fs::write(store.layout().node(), text).unwrap();
        assert!(
            matches!(store.node_config().unwrap_err(), node::Error::Json { .. }),
            "{text:?}"
        );
    }
    let bad = NodeConfig {
        conntrack_cache_table_size: Some(1),
        ..NodeConfig::default()
    };
    fs::write(store.layout().node(), "{}").unwrap();
    let locked = store.lock(WAIT).unwrap();
    assert!(locked.update_node_config(|now| *now = bad).is_err());
    assert_eq!(fs::read_to_string(store.layout().node()).unwrap(), "{}");
    chmod(&store.layout().node(), 0o666);
    assert!(matches!(
        store.node_config().unwrap_err(),
        node::Error::File(_)
    ));
}

#[test]
fn two_writers_lose_nothing_of_each_other() {
    let (_folder, store) = store();
    let writer = |change: fn(&mut NodeConfig, u32)| {
        let store = store.clone();
        std::thread::spawn(move || {
            for n in 0..50 {
                let locked = store.lock(WAIT).unwrap();
                locked.update_node_config(|now| change(now, n)).unwrap();
            }
        })
    };
    let writers = [
        writer(|now, n| now.conntrack_cache_table_size = Some(32_768 + n)),
        writer(|now, n| now.node_name = Some(format!("n{n}"))),
    ];
    for writer in writers {
        writer.join().unwrap();
    }
    let config = store.node_config().unwrap();
    assert_eq!(config.conntrack_cache_table_size, Some(32_768 + 49));
    assert_eq!(config.node_name.as_deref(), Some("n49"));
}

#[test]
fn modes_are_parsed_in_any_case() {
    for mode in [
        EnforcingMode::Strict,
        EnforcingMode::Standard,
        EnforcingMode::None,
    ] {
        assert_eq!(mode.as_str().parse(), Ok(mode));
        assert_eq!(mode.to_string().to_uppercase().parse(), Ok(mode));
    }
    assert!("".parse::<EnforcingMode>().is_err() && " strict".parse::<EnforcingMode>().is_err());
}

#[test]
fn node_addresses_are_plain_or_as_kubernetes_has_them() {
    let (_folder, store) = store();
    let addresses = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    store.write_node_addresses(&addresses).unwrap();
    assert_eq!(store.node_addresses().unwrap(), addresses);
    let of = |value: Value| {
        fs::write(store.layout().node_addresses(), value.to_string()).unwrap();
        store.node_addresses()
    };
    let objects = json!({"addresses": [
        {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "n1"},
        {"type": "ExternalIP", "address": "fd00::1"}, {"type": "InternalDNS", "address": "n1.example"},
    ]});
    assert_eq!(of(objects).unwrap(), addresses);
    assert!(of(json!({"addresses": ["n1"]})).is_err());
    assert!(of(json!({"addresses": "10.0.0.1"})).is_err());
    assert!(of(json!([])).is_err());
}

#[test]
fn workloads_are_known_by_path_and_content() {
    let (_folder, store) = store();
    let pod = |name: &str| Workload {
        namespace: "ns".to_owned(),
        name: name.to_owned(),
        uid: "u".to_owned(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
    };
    let long = "p".repeat(253);
    for name in ["web", &long, "with_underscore.and.Dots"] {
        store.put_workload(&pod(name)).unwrap();
        assert_eq!(store.workload("ns", name).unwrap(), Some(pod(name)));
    }
    assert_eq!(store.workload("ns", "other").unwrap(), None);
    let text = fs::read_to_string(store.layout().workload("ns", "web").unwrap()).unwrap();
    assert!(text.contains("\"self\""));
    // What somebody else wrote says no more than it must.
    fs::write(
        store.layout().workload("ns", "bare").unwrap(),
        r#"{"uid": "u2", "labels": {}}"#,
    )
    .unwrap();
    assert_eq!(store.workload("ns", "bare").unwrap().unwrap().name, "bare");
    let all = store.workloads().unwrap();
    assert_eq!(all.pods.len(), 4);
    assert!(all.problems.is_empty());
    // Broken ones hide nobody, a file with another pod's content makes nobody known.
    fs::write(store.layout().workload("ns", "torn").unwrap(), "{").unwrap();
    fs::copy(
        store.layout().workload("ns", "web").unwrap(),
        store.layout().workload("ns", "copy").unwrap(),
    )
    .unwrap();
    fs::create_dir(store.layout().workloads().join("unsafe")).unwrap();
    chmod(&store.layout().workloads().join("unsafe"), 0o777);
    let all = store.workloads().unwrap();
    assert_eq!((all.pods.len(), all.problems.len()), (4, 3));
    assert!(store.workload("ns", "torn").is_err() && store.workload("ns", "copy").is_err());
    assert!(
        store.remove_workload("ns", &long).unwrap() && !store.remove_workload("ns", &long).unwrap()
    );
}

#[test]
fn versions_in_force_come_back_whole_or_not_at_all() {
    let (_folder, store) = store();
    let applied = |policy: &str, bytes: &[u8]| Applied {
        policy: policy.to_owned(),
        sources: [("a".to_owned(), RelPath::new("a/b.yaml").unwrap())].into(),
        bytes: bytes.to_vec(),
    };
    let (first, second) = (
        applied("NetworkPolicy/ns/a", b"a: 1\n\xff\nb\n"),
        applied(&"x/".repeat(300), b""),
    );
    store
        .update_applied(&[first.clone(), second.clone()], &[])
        .unwrap();
    assert_eq!(
        store.applied_policy(&first.policy).unwrap(),
        Some(first.clone())
    );
    assert_eq!(store.applied_policy("other").unwrap(), None);
    assert_eq!(store.applied().unwrap().policies.len(), 2);
    let newer = applied(&first.policy, b"a: 2\n");
    // One call puts and removes; what is gone already is no error.
    let gone = [second.policy, "never/was".to_owned()];
    store
        .update_applied(std::slice::from_ref(&newer), &gone)
        .unwrap();
    assert_eq!(store.applied().unwrap().policies, [newer]);
    let path = fs::read_dir(store.layout().applied())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let all = store.applied().unwrap();
        assert!(
            all.policies.is_empty() && matches!(all.problems[0].kind, ProblemKind::Torn(_)),
            "{length}"
        );
    }
    assert!(store.applied_policy(&first.policy).is_err());
    // Many at once take the other way to the disk.
    let many: Vec<Applied> = (0..40).map(|n| applied(&format!("p/{n}"), b"x")).collect();
    store
        .update_applied(&many, std::slice::from_ref(&first.policy))
        .unwrap();
    let mut found = store.applied().unwrap().policies;
    found.sort_by_key(|a| a.policy[2..].parse::<u32>().unwrap());
    assert_eq!(found, many);
}

#[test]
fn a_file_of_the_first_schema_still_counts() {
    let (_folder, store) = store();
    let digest = state::layout::digest(b"text");
    fs::write(
        store.layout().applied().join("old.doc"),
        format!(
            r#"{{"schema":1,"identity":"PolicyEndpoint/ns/a","source":"f.yaml","digest":"{digest}","length":4}}
text"#
        ),
    )
    .unwrap();
    let all = store.applied().unwrap();
    assert_eq!(all.problems, []);
    let old = &all.policies[0];
    assert_eq!(old.bytes, b"text");
    assert_eq!(old.sources["PolicyEndpoint/ns/a"].as_str(), "f.yaml");
}

#[test]
fn status_is_void_after_a_reboot() {
    let (_folder, store) = store();
    assert_eq!(store.read_index().unwrap(), None);
    let index = Index {
        listing_digest: "d".to_owned(),
        namespaces: BTreeSet::from(["ns".to_owned()]),
        cluster_wide: true,
    };
    store.write_index(&index).unwrap();
    assert_eq!(store.read_index().unwrap(), Some(index));
    let path = store.layout().status_file("index").unwrap();
    let value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(
        value,
        json!({"schema": 1, "bootId": store.boot_id(), "listingDigest": "d", "namespaces": ["ns"], "clusterWide": true})
    );
    let text = value.to_string();
    fs::write(&path, text.replace(store.boot_id(), "another")).unwrap();
    assert_eq!(store.read_index().unwrap(), None);
    fs::write(&path, text.replace("\"schema\":1", "\"schema\":2")).unwrap();
    assert!(store.read_index().is_err());
    fs::write(&path, &text[..30]).unwrap();
    assert!(store.read_index().is_err());
    assert!(
        store.write_status("list", &[1, 2]).is_err(),
        "only what has keys of its own"
    );
}

#[test]
fn quarantine_keeps_a_copy_and_its_reason() {
    let (_folder, store) = store();
    let copy = store
        .quarantine("a/b.yaml", b"\xffbroken", "not YAML")
        .unwrap()
        .unwrap();
    assert_eq!(fs::read(&copy).unwrap(), b"\xffbroken");
    assert!(
        fs::read_to_string(copy.with_extension("reason"))
            .unwrap()
            .contains("not YAML")
    );
    let again = store
        .quarantine(
            "a/b.yaml",
            &vec![b'x'; quarantine::MAX_COPY_BYTES + 1],
            "still not",
        )
        .unwrap()
        .unwrap();
    assert_eq!(again, copy);
    assert_eq!(fs::read(&copy).unwrap().len(), quarantine::MAX_COPY_BYTES);
    assert!(store.release("a/b.yaml").unwrap() && !store.release("a/b.yaml").unwrap());
    assert_eq!(crate::names(&store.layout().quarantine()), [""; 0]);
}

#[test]
fn quarantine_is_bounded() {
    let (_folder, store) = store();
    for source in 0..quarantine::MAX_COPIES {
        assert!(
            store
                .quarantine(&source.to_string(), b"", "")
                .unwrap()
                .is_some()
        );
    }
    assert_eq!(store.quarantine("one more", b"", "").unwrap(), None);
    assert!(
        store.quarantine("0", b"x", "").unwrap().is_some(),
        "those that are there are kept up to date"
    );
}
