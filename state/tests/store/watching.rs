use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use state::{
    RelPath, Store,
    file::{Durability, replace},
    watch::{Tick, Watcher},
};

use crate::{chmod, record, store};

const WAIT: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(30);

/// Everything until it is quiet.
fn ticks(watcher: &mut Watcher) -> BTreeSet<Tick> {
    let mut all = watcher.wait(WAIT).unwrap();
    loop {
        let more = watcher.wait(QUIET).unwrap();
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

fn quiet(watcher: &mut Watcher) {
    let found = watcher.wait(QUIET).unwrap();
    assert!(found.is_empty(), "{found:?}");
}

fn document(path: &str) -> BTreeSet<Tick> {
    BTreeSet::from([Tick::Document(RelPath::new(path).unwrap())])
}

fn watching() -> (tempfile::TempDir, Store, Watcher) {
    let (folder, store) = store();
    fs::create_dir_all(store.layout().policies().join("x/y")).unwrap();
    let watcher = store.watch().unwrap();
    (folder, store, watcher)
}

#[test]
fn each_kind_of_change_is_told_once_it_is_whole() {
    let (_folder, store, mut watcher) = watching();
    let policies = store.layout().policies();
    quiet(&mut watcher);
    replace(&policies.join("a.yaml"), b"x", Durability::Durable).unwrap();
    assert_eq!(ticks(&mut watcher), document("a.yaml"));
    let mut writing = fs::File::create(policies.join("x/y/b.json")).unwrap();
    std::io::Write::write_all(&mut writing, b"half").unwrap();
    quiet(&mut watcher);
    drop(writing);
    assert_eq!(ticks(&mut watcher), document("x/y/b.json"));
    symlink("a.yaml", policies.join("link.yaml")).unwrap();
    assert_eq!(ticks(&mut watcher), document("link.yaml"));
    fs::hard_link(policies.join("a.yaml"), policies.join("hard.yaml")).unwrap();
    assert_eq!(ticks(&mut watcher), document("hard.yaml"));
    fs::remove_file(policies.join("link.yaml")).unwrap();
    assert_eq!(ticks(&mut watcher), document("link.yaml"));
    chmod(&policies.join("x/y/b.json"), 0o666);
    assert_eq!(ticks(&mut watcher), document("x/y/b.json"));
    fs::rename(policies.join("x/y/b.json"), policies.join("c.json")).unwrap();
    assert_eq!(
        ticks(&mut watcher),
        document("x/y/b.json")
            .into_iter()
            .chain(document("c.json"))
            .collect()
    );
    store
        .lock(WAIT)
        .unwrap()
        .put_record(&record(&store, "a", "eth0"))
        .unwrap();
    assert_eq!(ticks(&mut watcher), BTreeSet::from([Tick::Pods]));
    store
        .lock(WAIT)
        .unwrap()
        .update_node_config(|now| now.node_name = Some("n".into()))
        .unwrap();
    assert_eq!(ticks(&mut watcher), BTreeSet::from([Tick::Node]));
}

#[test]
fn reading_and_the_companions_own_writing_are_no_changes() {
    let (_folder, store, mut watcher) = watching();
    fs::write(store.layout().policies().join("a.yaml"), "x").unwrap();
    ticks(&mut watcher);
    for path in store.scan_documents().unwrap().files.keys() {
        store.read_document(path).unwrap();
    }
    store.records().unwrap();
    store.write_index(&state::Index::default()).unwrap();
    store.quarantine("a.yaml", b"x", "why").unwrap();
    drop(store.companion_lock().unwrap());
    drop(store.lock(WAIT).unwrap());
    fs::write(store.layout().policies().join(".a.yaml.swp"), "x").unwrap();
    fs::create_dir(store.layout().policies().join(".git")).unwrap();
    quiet(&mut watcher);
}

#[test]
fn new_folders_are_watched_before_they_are_told() {
    let (_folder, store, mut watcher) = watching();
    let policies = store.layout().policies();
    for round in 0..20 {
        let folder = policies.join(format!("new{round}/in/side"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.yaml"), "x").unwrap();
        assert!(ticks(&mut watcher).contains(&Tick::Full));
        fs::write(folder.join("b.yaml"), "x").unwrap();
        assert_eq!(
            ticks(&mut watcher),
            document(&format!("new{round}/in/side/b.yaml"))
        );
    }
    // A pod's namespace folder too.
    let pod = state::Workload {
        namespace: "ns".to_owned(),
        name: "web".to_owned(),
        ..state::Workload::default()
    };
    store.put_workload(&pod).unwrap();
    assert!(ticks(&mut watcher).contains(&Tick::Full));
    store.put_workload(&pod).unwrap();
    assert_eq!(ticks(&mut watcher), BTreeSet::from([Tick::Workloads]));
}

#[test]
fn folders_that_move_are_followed_in_and_forgotten_out() {
    let (folder, store, mut watcher) = watching();
    let policies = store.layout().policies();
    let full = BTreeSet::from([Tick::Full]);
    fs::rename(policies.join("x"), policies.join("z")).unwrap();
    assert_eq!(ticks(&mut watcher), full);
    fs::write(policies.join("z/y/a.yaml"), "x").unwrap();
    assert_eq!(ticks(&mut watcher), document("z/y/a.yaml"));
    fs::rename(policies.join("z"), folder.path().join("away")).unwrap();
    assert_eq!(ticks(&mut watcher), full);
    fs::write(folder.path().join("away/y/b.yaml"), "x").unwrap();
    quiet(&mut watcher);
    fs::rename(folder.path().join("away"), policies.join("back")).unwrap();
    assert_eq!(ticks(&mut watcher), full);
    fs::write(policies.join("back/y/b.yaml"), "x").unwrap();
    assert_eq!(ticks(&mut watcher), document("back/y/b.yaml"));
    fs::remove_dir_all(policies.join("back")).unwrap();
    assert!(ticks(&mut watcher).contains(&Tick::Full));
}

#[test]
fn a_store_that_is_removed_is_made_and_watched_again() {
    let (_folder, store, mut watcher) = watching();
    let policies = store.layout().policies();
    fs::remove_dir_all(&policies).unwrap();
    assert!(ticks(&mut watcher).contains(&Tick::Full));
    fs::write(policies.join("a.yaml"), "x").unwrap();
    assert_eq!(ticks(&mut watcher), document("a.yaml"));
    fs::remove_dir_all(store.root()).unwrap();
    assert!(ticks(&mut watcher).contains(&Tick::Full));
    fs::write(policies.join("b.yaml"), "x").unwrap();
    assert_eq!(ticks(&mut watcher), document("b.yaml"));
    fs::rename(store.root(), store.root().with_file_name("moved")).unwrap();
    assert!(ticks(&mut watcher).contains(&Tick::Full));
    fs::write(policies.join("c.yaml"), "x").unwrap();
    assert_eq!(ticks(&mut watcher), document("c.yaml"));
}

/// More events than the queue holds (16,384 by default): a full pass, and the watch goes on.
#[test]
fn an_overflow_is_a_full_pass() {
    let (_folder, store, mut watcher) = watching();
    let policies = store.layout().policies();
    let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let files = ["a.yaml", "b.yaml"].map(|name| policies.join(name));
    for file in &files {
        fs::write(file, "x").unwrap();
    }
    // Equal neighbours in the queue are merged, so two files in turn.
    for round in 0..queue + 1 {
        chmod(&files[round % 2], 0o600);
    }
    fs::create_dir(policies.join("unseen")).unwrap();
    let start = Instant::now();
    let mut seen = false;
    while start.elapsed() < WAIT && !seen {
        seen = watcher.wait(QUIET).unwrap().contains(&Tick::Full);
    }
    assert!(seen);
    ticks(&mut watcher);
    fs::write(policies.join("unseen/a.yaml"), "x").unwrap();
    assert_eq!(ticks(&mut watcher), document("unseen/a.yaml"));
}
