//! The store on real files, with other processes and other file systems. One binary, so that it links once.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod content;
mod crash;
mod documents;
mod locks;
mod records;
mod unwritable;
mod watching;

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use state::{AttachMode, Mode, Phase, Record, Store};
use tempfile::TempDir;

/// A store of its own for each test.
fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().join("state")).unwrap();
    (folder, store)
}

fn record(store: &Store, container_id: &str, ifname: &str) -> Record {
    Record {
        schema: state::records::SCHEMA,
        phase: Phase::Intended,
        boot_id: store.boot_id().to_owned(),
        network: "net".to_owned(),
        container_id: container_id.to_owned(),
        cni_ifname: "eth0".to_owned(),
        ifname: ifname.to_owned(),
        pod_namespace: "default".to_owned(),
        pod_name: "web".to_owned(),
        pod_uid: None,
        labels: Some(BTreeMap::from([("app".to_owned(), "web".to_owned())])),
        netns: "/var/run/netns/x".to_owned(),
        ifindex: 7,
        veth: "veth0".to_owned(),
        endpoint_id: 1,
        endpoint_index: 1,
        mac: "02:00:00:00:00:01".to_owned(),
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        mode: Mode::Strict,
        attach_mode: AttachMode::Clsact,
        layout_version: 1,
        attached_at: None,
        attached_at_monotonic_ns: None,
        source_guard: true,
        extra_sources: Vec::new(),
        host_ports: Vec::new(),
        host_path_interfaces: Vec::new(),
        other: serde_json::Map::new(),
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Tests that need root say so; CI runs them as root and fails instead.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(
            std::env::var_os("REQUIRE_KERNEL_TESTS").is_none(),
            "these tests need root"
        );
        println!("skipped: needs root");
    }
    root
}
