//! A writer is killed between any two steps: readers see whole files only, and what it left goes.

use std::{
    fs::{self, File},
    process::{Command, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use state::{Store, file};

use crate::{names, record, store};

const ROOT: &str = "PODGATE_TEST_CRASH_ROOT";

/// Not a test of its own: the writer that [`a_killed_writer_leaves_whole_files`] starts and kills.
#[test]
#[ignore = "started by a_killed_writer_leaves_whole_files"]
fn writer() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let store = Store::open(root).unwrap();
    let mut record = record(&store, "a", "eth0");
    for endpoint_id in 0.. {
        record.endpoint_id = endpoint_id;
        record.netns = "x".repeat(usize::try_from(endpoint_id % 7).unwrap() * 20_000);
        store
            .lock(Duration::from_secs(5))
            .unwrap()
            .put_record(&record)
            .unwrap();
        store
            .put_cluster_policy("ns", "p", record.netns.as_bytes())
            .unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_whole_files() {
    let (_folder, store) = store();
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::writer", "--ignored"])
            .env(ROOT, store.root())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let path = store.layout().pods().join("a_eth0.json");
        while !path.exists() {
            thread::yield_now();
        }
        thread::sleep(Duration::from_micros(500 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let records = store.records().unwrap();
        assert!(records.problems.is_empty(), "{:?}", records.problems);
        assert_eq!(records.good.len(), 1);
        let listing = store.scan_documents().unwrap();
        for path in listing.files.keys() {
            assert_eq!(store.read_document(path).unwrap().len() % 20_000, 0);
        }
        // The lock went with the process.
        let locked = store.lock(Duration::from_secs(5)).unwrap();
        locked.remove_record(&records.good[0]).unwrap();
    }
}

#[test]
fn leftover_temp_files_are_ignored_and_swept() {
    let (_folder, store) = store();
    store.put_cluster_policy("ns", "p", b"{}").unwrap();
    let layout = store.layout();
    let orphans = [
        layout.pods().join(".a_eth0.json.12.34.0.tmp"),
        layout.root().join(".node.json.12.34.1.tmp"),
        layout.policies().join("cluster/ns/.p.json.12.34.2.tmp"),
        layout.applied().join(".x.doc.12.34.3.tmp"),
    ];
    let others = [
        layout.policies().join(".x.yaml.swp"),
        layout.policies().join(".x.tmp"),
        layout.policies().join(".a.b.1.2.tmp"),
    ];
    for path in orphans.iter().chain(&others) {
        fs::write(path, "half a fi").unwrap();
    }
    assert!(store.records().unwrap().problems.is_empty());
    assert_eq!(store.scan_documents().unwrap().files.len(), 1);
    assert!(store.applied().unwrap().problems.is_empty());
    assert_eq!(
        store.sweep_temps().unwrap(),
        0,
        "a writer may still be at it"
    );
    for path in orphans.iter().chain(&others) {
        File::open(path)
            .unwrap()
            .set_modified(SystemTime::now() - Duration::from_secs(600))
            .unwrap();
    }
    assert_eq!(store.sweep_temps().unwrap(), orphans.len());
    assert!(others.iter().all(|path| path.exists()));
}

#[test]
fn a_failed_replace_leaves_nothing_behind() {
    let (folder, store) = store();
    let target = store.layout().policies().join("a.yaml");
    fs::create_dir(&target).unwrap();
    assert!(file::replace(&target, b"x", file::Durability::Durable).is_err());
    assert_eq!(names(&store.layout().policies()), ["a.yaml"]);
    let new = folder.path().join("some/where/a.yaml");
    file::replace(&new, b"x", file::Durability::Durable).unwrap();
    assert_eq!(fs::read(new).unwrap(), b"x");
}
