//! What the store costs: `cargo run --release -p state --example cost`. 1,000 documents, 250 records, in a folder of its own.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a bench")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use state::{Index, Record, Store};

fn time<T>(what: &str, mut work: impl FnMut() -> T) {
    let mut costs: Vec<_> = (0..300)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed()
        })
        .collect();
    costs.sort_unstable();
    println!(
        "{what:<40} median {:>10.1?} 99% {:>10.1?}",
        costs[150], costs[297]
    );
}

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("state");
    let store = Store::create(&root).unwrap();
    for number in 0..1000 {
        let path = store.layout().cluster_policy(
            &format!("namespace-{}", number % 20),
            &format!("policy-{number}"),
        );
        let path = path.unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "{}").unwrap();
    }
    let mut record: Record = serde_json::from_value(serde_json::json!({
        "schema": 1, "phase": "attached", "bootId": store.boot_id(), "network": "aws-cni", "containerId": "c",
        "cniIfname": "eth0", "ifname": "eth0", "podNamespace": "default", "podName": "web", "podUid": store.boot_id(),
        "labels": {"app": "web"}, "netns": "/var/run/netns/cni-86729b14-e105-4094-bc00-21136cd3e23e", "ifindex": 7,
        "veth": "eni12345", "endpointId": 1, "endpointIndex": 1, "mac": "02:00:00:00:00:01", "addresses": ["10.0.0.1", "fd00::1"],
        "mode": "strict", "attachMode": "clsact", "layoutVersion": 1, "sourceGuard": true,
    }))
    .unwrap();
    let locked = store.lock(Duration::from_secs(1)).unwrap();
    for number in 0..250 {
        record.container_id = format!("{number:064}");
        locked.put_record(&record).unwrap();
    }
    time("put_record over itself", || locked.put_record(&record));
    record.container_id = "new".to_owned();
    time("put_record, remove_record", || {
        locked.put_record(&record).unwrap();
        locked.remove_record(&record).unwrap()
    });
    drop(locked);
    record.container_id = format!("{:064}", 3);
    time("Store::create, all there", || Store::create(&root).unwrap());
    time("lock, unlock (a process' first)", || {
        let store = Store::open(&root).unwrap();
        drop(store.lock(Duration::from_secs(1)).unwrap());
    });
    time("scan_documents", || store.scan_documents().unwrap());
    time("records", || store.records().unwrap());
    time("container_records", || {
        store.container_records(&record.container_id).unwrap()
    });
    time("record", || {
        store.record(&record.container_id, "eth0").unwrap()
    });
    let namespaces = (0..1000)
        .map(|number| format!("namespace-{number}"))
        .collect();
    store
        .write_index(&Index {
            namespaces,
            ..Index::default()
        })
        .unwrap();
    time("read_index, 1000 namespaces", || {
        store.read_index().unwrap()
    });
    time("put_cluster_policy (flushed)", || {
        store.put_cluster_policy("namespace-1", "policy-1", b"{}")
    });
}
