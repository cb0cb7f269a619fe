use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use state::lock;

use crate::store;

const SOON: Duration = Duration::from_millis(60);
const WAIT: Duration = Duration::from_secs(10);

/// util-linux' flock: another process and another implementation. It holds the file until it is killed.
struct Other(Child);

impl Other {
    fn lock(path: &std::path::Path) -> Self {
        let mut child = Command::new("flock")
            .arg("--no-fork")
            .arg(path)
            .args(["sh", "-c", "echo locked; exec sleep 60"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "locked\n");
        Self(child)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_error_names_the_holder_of_another_process() {
    let (_folder, store) = store();
    let other = Other::lock(&store.layout().lock());
    let start = Instant::now();
    let error = store.lock(SOON).unwrap_err();
    assert!(start.elapsed() >= SOON);
    let lock::Error::Timeout { holder, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(holder.pid, Some(other.0.id()));
    let text = error.to_string();
    assert!(
        text.contains(&format!("pid {} (sleep)", other.0.id())) && text.contains("/lock"),
        "{text}"
    );
    assert!(state::Error::from(error).is_lock_timeout());
    drop(other);
    // The kernel lets go when the holder dies.
    drop(store.lock(WAIT).unwrap());
}

#[test]
fn another_process_waits_for_us() {
    let (_folder, store) = store();
    let locked = store.lock(WAIT).unwrap();
    let busy = || {
        let path = store.layout().lock();
        !Command::new("flock")
            .arg("--nonblock")
            .arg(path)
            .arg("true")
            .status()
            .unwrap()
            .success()
    };
    assert!(busy());
    assert_eq!(store.lock_holder().pid, Some(std::process::id()));
    drop(locked);
    assert!(!busy());
    assert_eq!(store.lock_holder().pid, None);
}

#[test]
fn threads_exclude_each_other() {
    let (_folder, store) = store();
    let inside = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let _locked = store.lock(WAIT).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
}

/// The companion comes again and again with slices of work; an ADD must not starve behind it.
#[test]
fn a_busy_holder_lets_others_in() {
    let (_folder, store) = store();
    let (done, barrier) = (Arc::new(AtomicBool::new(false)), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            barrier.wait();
            while !done.load(Ordering::Relaxed) {
                let _locked = store.lock(WAIT).unwrap();
                let slice = Instant::now();
                while slice.elapsed() < Duration::from_millis(2) {}
            }
        });
        // A process of its own has its own memory of when it let go.
        let plugin = state::Store::open(store.root()).unwrap();
        barrier.wait();
        let waits: Vec<_> = (0..20)
            .map(|_| {
                let start = Instant::now();
                drop(plugin.lock(WAIT).unwrap());
                start.elapsed()
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        assert!(
            waits.iter().all(|wait| *wait < Duration::from_secs(1)),
            "{waits:?}"
        );
    });
}

#[test]
fn a_lock_on_a_removed_file_excludes_nobody_and_is_not_taken() {
    let (_folder, store) = store();
    let _old = store.lock(WAIT).unwrap();
    std::fs::remove_file(store.layout().lock()).unwrap();
    let _new = store.lock(WAIT).unwrap();
    assert!(store.lock(SOON).is_err());
}

#[test]
fn the_companion_lives_as_long_as_it_holds_its_lock() {
    let (_folder, store) = store();
    assert!(!store.companion_alive());
    let companion = store.companion_lock().unwrap();
    assert!(store.companion_alive());
    assert!(matches!(
        store.companion_lock().unwrap_err(),
        lock::Error::Timeout { .. }
    ));
    drop(companion);
    assert!(!store.companion_alive());
    let other = Other::lock(&store.layout().companion_lock());
    assert!(store.companion_alive());
    drop(other);
    assert!(!store.companion_alive());
}

/// Asking holds the lock for an instant; a companion that starts just then must come through.
#[test]
fn probes_do_not_keep_a_companion_out() {
    let (_folder, store) = store();
    drop(store.companion_lock().unwrap());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = store.companion_alive();
                    thread::sleep(Duration::from_micros(50));
                }
            });
        }
        let taken: Vec<_> = (0..50).map(|_| store.companion_lock().map(drop)).collect();
        done.store(true, Ordering::Relaxed);
        assert!(taken.iter().all(Result::is_ok), "{taken:?}");
    });
}
