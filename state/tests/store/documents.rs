use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use state::{FileState, Listing, RelPath, Store};

use crate::{chmod, is_root, store};

fn write(store: &Store, path: &str, text: &str) -> PathBuf {
    let path = store.layout().policies().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

fn rel(path: &str) -> RelPath {
    RelPath::new(path).unwrap()
}

fn scan(store: &Store) -> Listing {
    store.scan_documents().unwrap()
}

fn paths(listing: &Listing) -> Vec<&str> {
    listing.files.keys().map(RelPath::as_str).collect()
}

fn broken<'a>(listing: &'a Listing, path: &str) -> &'a str {
    match &listing.files[path] {
        FileState::Broken(reason) | FileState::Failed(reason) => reason,
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn documents_are_found_in_every_folder_and_read() {
    let (_folder, store) = store();
    for path in ["a.yaml", "b.yml", "x/y/c.json", "cluster/ns/p.json"] {
        write(&store, path, path);
    }
    for path in [
        "README.md",
        "a.yaml~",
        ".hidden.yaml",
        ".git/d.yaml",
        "x/.e.json",
        "noextension",
    ] {
        write(&store, path, "not a document");
    }
    let listing = scan(&store);
    assert_eq!(
        paths(&listing),
        ["a.yaml", "b.yml", "cluster/ns/p.json", "x/y/c.json"]
    );
    for (path, state) in &listing.files {
        assert!(
            matches!(state, FileState::Readable(document) if document.size == path.as_str().len() as u64)
        );
        assert_eq!(store.read_document(path).unwrap(), path.as_str().as_bytes());
        assert_eq!(store.stat_document(path).as_ref(), Some(state));
    }
    assert_eq!(store.stat_document(&rel("gone.yaml")), None);
    assert_eq!(store.stat_document(&rel("gone/gone.yaml")), None);
    assert_eq!(store.stat_document(&rel("README.md")), None);
    // Nothing is below a file.
    assert_eq!(store.stat_document(&rel("a.yaml/b.yaml")), None);
    assert_eq!(listing.state_of(&rel("a.yaml/b.yaml")), None);
    symlink("x", store.layout().policies().join("link")).unwrap();
    let broken = store.stat_document(&rel("link/y/c.json"));
    assert!(matches!(broken, Some(FileState::Broken(_))));
    assert!(store.read_document(&rel("link/y/c.json")).is_err());
}

#[test]
fn what_is_there_and_yields_nothing_is_broken_and_not_gone() {
    let (_folder, store) = store();
    write(&store, "good.yaml", "x");
    let policies = store.layout().policies();
    fs::create_dir(policies.join("folder.yaml")).unwrap();
    symlink("nowhere", policies.join("dangling.yaml")).unwrap();
    symlink("loop.yaml", policies.join("loop.yaml")).unwrap();
    symlink("good.yaml", policies.join("link.yaml")).unwrap();
    symlink("/etc", policies.join("etc")).unwrap();
    nix::unistd::mkfifo(&policies.join("pipe.json"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::File::create(policies.join("giant.json"))
        .unwrap()
        .set_len(state::file::MAX_FILE_BYTES + 1)
        .unwrap();
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff.yaml");
    fs::write(policies.join(name), "x").unwrap();
    let listing = scan(&store);
    assert!(broken(&listing, "folder.yaml").contains("a folder"));
    assert!(broken(&listing, "dangling.yaml").contains("leads nowhere"));
    assert!(broken(&listing, "loop.yaml").contains("cannot be looked at"));
    assert!(broken(&listing, "etc").contains("not followed"));
    assert!(broken(&listing, "pipe.json").contains("not a regular file"));
    assert!(broken(&listing, "giant.json").contains("more than"));
    assert!(broken(&listing, "%FF.yaml").contains("UTF-8"));
    assert!(matches!(listing.files["good.yaml"], FileState::Readable(_)));
    assert!(matches!(listing.files["link.yaml"], FileState::Readable(_)));
    assert_eq!(store.read_document(&rel("link.yaml")).unwrap(), b"x");
    assert_eq!(listing.files.len(), 9);
}

#[test]
fn unsafe_files_are_reported_and_not_read() {
    let (_folder, store) = store();
    let path = write(&store, "a.yaml", "x");
    for mode in [0o620, 0o602, 0o666, 0o777] {
        chmod(&path, mode);
        let FileState::Unsafe { mode: found, .. } = scan(&store).files["a.yaml"] else {
            panic!("{mode:o}")
        };
        assert_eq!(found, mode);
        assert!(store.read_document(&rel("a.yaml")).is_err());
    }
    for mode in [0o644, 0o600, 0o755] {
        chmod(&path, mode);
        assert!(
            matches!(scan(&store).files["a.yaml"], FileState::Readable(_)),
            "{mode:o}"
        );
    }
    if is_root() {
        std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
        assert_eq!(
            scan(&store).files["a.yaml"],
            FileState::Unsafe {
                uid: 1234,
                mode: 0o755
            }
        );
        assert!(store.read_document(&rel("a.yaml")).is_err());
    }
}

#[test]
fn unsafe_folders_are_reported_and_not_looked_into() {
    let (_folder, store) = store();
    let path = write(&store, "x/y/a.yaml", "x");
    write(&store, "b.yaml", "x");
    chmod(path.parent().unwrap().parent().unwrap(), 0o777);
    let mut listing = scan(&store);
    assert_eq!(paths(&listing), ["b.yaml", "x"]);
    let unsafe_folder = &listing.files["x"];
    assert!(matches!(
        unsafe_folder,
        FileState::Unsafe { mode: 0o777, .. }
    ));
    assert!(store.read_document(&rel("x/y/a.yaml")).is_err());
    // What came from below it is there, and must stay in force; neither the listing nor one path says otherwise.
    assert_eq!(listing.state_of(&rel("x/y/a.yaml")), Some(unsafe_folder));
    assert_eq!(
        store.stat_document(&rel("x/y/a.yaml")).as_ref(),
        Some(unsafe_folder)
    );
    assert_eq!(listing.state_of(&rel("y/a.yaml")), None);
    assert!(!listing.update(&rel("gone.yaml"), None));
    chmod(&store.layout().policies(), 0o770);
    let listing = scan(&store);
    assert_eq!(paths(&listing), [""]);
    assert!(listing.state_of(&rel("b.yaml")).is_some());
    assert!(store.read_document(&rel("b.yaml")).is_err());
}

#[test]
fn the_digest_moves_with_every_change_and_only_then() {
    let (_folder, store) = store();
    let empty = scan(&store);
    let path = write(&store, "a.yaml", "one");
    let mut seen = vec![empty.digest.clone(), scan(&store).digest];
    assert_eq!(scan(&store).digest, seen[1]);
    let mut step = |what: &str| {
        let digest = scan(&store).digest;
        assert!(!seen.contains(&digest), "{what}");
        seen.push(digest);
    };
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    std::thread::sleep(Duration::from_millis(20)); // The clock of time stamps moves in ticks; nothing to wait for.
    fs::write(&path, "two").unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(before)
        .unwrap();
    step("same size, mtime and inode");
    state::file::replace(&path, b"two", state::file::Durability::Volatile).unwrap();
    step("replaced");
    chmod(&path, 0o666);
    step("unsafe");
    fs::rename(&path, path.with_file_name("b.yaml")).unwrap();
    step("renamed");
    fs::remove_file(path.with_file_name("b.yaml")).unwrap();
    assert_eq!(scan(&store), empty);
}

#[test]
fn a_listing_follows_single_paths() {
    let (_folder, store) = store();
    let mut listing = scan(&store);
    for path in ["a.yaml", "x/b.json"] {
        write(&store, path, "x");
        assert!(listing.update(&rel(path), store.stat_document(&rel(path))));
        assert_eq!(listing, scan(&store));
    }
    assert!(!listing.update(&rel("a.yaml"), store.stat_document(&rel("a.yaml"))));
    fs::remove_file(store.layout().policies().join("a.yaml")).unwrap();
    assert!(listing.update(&rel("a.yaml"), store.stat_document(&rel("a.yaml"))));
    assert_eq!(listing, scan(&store));
}

#[test]
fn a_stamp_just_made_is_not_settled() {
    let (_folder, store) = store();
    write(&store, "a.yaml", "x");
    let FileState::Readable(document) = scan(&store).files["a.yaml"].clone() else {
        panic!()
    };
    assert!(!document.is_settled(SystemTime::now()));
    assert!(document.is_settled(SystemTime::now() + Duration::from_secs(1)));
}

#[test]
fn depth_is_bounded_and_seen() {
    let (_folder, store) = store();
    let deep = "d/".repeat(40) + "a.yaml";
    write(&store, &deep, "x");
    let listing = scan(&store);
    assert_eq!(listing.files.len(), 1);
    assert!(
        matches!(listing.files.values().next().unwrap(), FileState::Broken(reason) if reason.contains("folders deep"))
    );
    assert!(listing.state_of(&rel(&deep)).is_some());
}

#[test]
fn no_path_leaves_the_folder() {
    for path in [
        "",
        "/etc/passwd",
        "../a",
        "a/../b",
        "a//b",
        "a/",
        ".a",
        "a/.b",
        "a\0",
    ] {
        assert_eq!(RelPath::new(path), None, "{path:?}");
        assert!(serde_json::from_value::<RelPath>(path.into()).is_err());
    }
    let (_folder, store) = store();
    store.put_cluster_policy("..", "../../x", b"{}").unwrap();
    assert_eq!(paths(&scan(&store)), ["cluster/%2E./%2E.%2F..%2Fx.json"]);
    assert!(store.remove_cluster_policy("..", "../../x").unwrap());
    assert!(!store.remove_cluster_policy("..", "../../x").unwrap());
}

#[test]
fn a_missing_folder_is_an_empty_one() {
    let (_folder, store) = store();
    fs::remove_dir_all(store.layout().policies()).unwrap();
    assert!(scan(&store).files.is_empty());
    store
        .put_cluster_policy("ns", &"p".repeat(253), b"{}")
        .unwrap();
    assert_eq!(scan(&store).files.len(), 1);
}
