//! Stores that cannot be written, on real file systems: mounts in a mount namespace of the test's own thread, which go
//! with it.

use std::{fs, path::Path, thread, time::Duration};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use state::{Store, file, lock};

use crate::{chmod, is_root, record, store};

const WAIT: Duration = Duration::from_millis(200);
const NONE: Option<&str> = None;

/// Run in a mount namespace of its own.
fn with_mounts(work: impl FnOnce() + Send + 'static) {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
        work();
    })
    .join()
    .unwrap();
}

fn read_only(path: &Path) {
    mount(Some(path), path, NONE, MsFlags::MS_BIND, NONE).unwrap();
    mount(
        NONE,
        path,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
        NONE,
    )
    .unwrap();
}

#[test]
fn a_read_only_store_can_be_locked_and_read() {
    if !is_root() {
        return;
    }
    with_mounts(|| {
        let (_folder, store) = store();
        let record = record(&store, "a", "eth0");
        store.lock(WAIT).unwrap().put_record(&record).unwrap();
        read_only(store.root());
        // As a new process would.
        let store = Store::open(store.root()).unwrap();
        assert!(Store::create(store.root()).is_ok());
        let locked = store.lock(WAIT).unwrap();
        assert_eq!(store.record("a", "eth0").unwrap(), Some(record.clone()));
        for error in [
            locked.remove_record(&record).unwrap_err(),
            locked.put_record(&record).unwrap_err(),
            locked
                .update_node_config(|now| now.node_name = Some("n".into()))
                .unwrap_err(),
            store.put_cluster_policy("new", "p", b"{}").unwrap_err(),
        ] {
            assert!(error.is_unwritable(), "{error}");
            assert!(
                error.to_string().contains("read-only; mount it writable"),
                "{error}"
            );
        }
    });
}

#[test]
fn a_read_only_store_without_its_lock_file_says_so() {
    if !is_root() {
        return;
    }
    with_mounts(|| {
        let (_folder, store) = store();
        read_only(store.root());
        let error = store.lock(WAIT).unwrap_err();
        assert!(
            matches!(&error, lock::Error::File(file::Error::ReadOnly { .. })),
            "{error}"
        );
        assert!(state::Error::from(error).is_unwritable());
        assert!(!store.companion_alive());
    });
}

#[test]
fn a_full_store_keeps_what_it_has_and_can_forget() {
    if !is_root() {
        return;
    }
    with_mounts(|| {
        let folder = tempfile::tempdir().unwrap();
        mount(
            Some("tmpfs"),
            folder.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=64k"),
        )
        .unwrap();
        let store = Store::create(folder.path().join("state")).unwrap();
        let mut record = record(&store, "a", "eth0");
        let locked = store.lock(WAIT).unwrap();
        locked.put_record(&record).unwrap();
        let before = record.clone();
        record.netns = "x".repeat(100_000);
        let error = locked.put_record(&record).unwrap_err();
        assert!(
            error.is_unwritable() && error.to_string().contains("no space left"),
            "{error}"
        );
        assert_eq!(store.record("a", "eth0").unwrap(), Some(before.clone()));
        assert_eq!(
            crate::names(&store.layout().pods()),
            ["a_eth0.json"],
            "no temp file stays"
        );
        assert!(locked.remove_record(&before).unwrap());
    });
}

#[test]
fn a_store_that_is_not_there_or_not_safe_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("state");
    let error = Store::open(&root).unwrap_err();
    assert!(error.is_missing() && !error.is_unwritable(), "{error}");
    fs::write(&root, "").unwrap();
    assert!(
        Store::open(&root)
            .unwrap_err()
            .to_string()
            .contains("not a folder")
    );
    assert!(Store::create(&root).is_err());
    fs::remove_file(&root).unwrap();
    Store::create(&root).unwrap();
    chmod(&root, 0o777);
    let error = Store::open(&root).unwrap_err().to_string();
    assert!(
        error.contains("mode 777") && error.contains("chmod go-w"),
        "{error}"
    );
}

#[test]
fn files_of_others_pipes_and_giants_are_not_read() {
    let (_folder, store) = store();
    let path = store.layout().policies().join("a.yaml");
    fs::write(&path, "0123456789").unwrap();
    chmod(&path, 0o644);
    assert_eq!(file::read_bounded(&path, 10).unwrap(), b"0123456789");
    assert!(matches!(
        file::read_bounded(&path, 9).unwrap_err(),
        file::Error::TooLarge { limit: 9, .. }
    ));
    chmod(&path, 0o602);
    assert!(matches!(
        file::read(&path).unwrap_err(),
        file::Error::Unsafe { mode: 0o602, .. }
    ));
    chmod(&path, 0o600);
    if is_root() {
        std::os::unix::fs::chown(&path, Some(1234), None).unwrap();
        let error = file::read(&path).unwrap_err();
        assert!(matches!(error, file::Error::Unsafe { uid: 1234, .. }));
        assert!(error.to_string().contains("owner 1234"), "{error}");
    }
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(
        matches!(file::read(&path).unwrap_err(), file::Error::NotAFile { .. }),
        "and no waiting for a writer"
    );
    let folder = store.layout().pods();
    assert!(matches!(
        file::read(&folder).unwrap_err(),
        file::Error::NotAFile { .. }
    ));
    let giant = store.layout().policies().join("giant.yaml");
    fs::File::create(&giant)
        .unwrap()
        .set_len(file::MAX_FILE_BYTES + 1)
        .unwrap();
    assert!(matches!(
        file::read(&giant).unwrap_err(),
        file::Error::TooLarge { .. }
    ));
}
