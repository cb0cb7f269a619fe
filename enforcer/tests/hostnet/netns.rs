//! Entering namespaces.

use std::{fs, os::unix::fs::MetadataExt, path::Path, thread};

use enforcer::hostnet::{Error, NetnsId, current_netns_id, in_netns, netns_exists, netns_id};

use super::world::{Namespace, run};

fn thread_ns() -> String {
    fs::read_link("/proc/thread-self/ns/net")
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

#[test]
fn the_closure_is_inside_and_the_caller_is_not() {
    let pod = Namespace::new("pod");
    let before = thread_ns();
    let (inside, links) =
        in_netns(&pod.path, || (thread_ns(), run("ip", &["-br", "link"]))).unwrap();
    assert_eq!(thread_ns(), before);
    assert_ne!(inside, before);
    assert_eq!(links.lines().count(), 1, "only lo: {links}");
    let inode = fs::metadata(&pod.path).unwrap().ino();
    assert_eq!(inside, format!("net:[{inode}]"));
    assert_eq!(netns_id(&pod.path).unwrap().ino, inode);
}

#[test]
fn a_panic_inside_is_an_error_and_the_caller_stays() {
    let pod = Namespace::new("pod");
    let before = thread_ns();
    let error = in_netns(&pod.path, || -> () { panic!("deliberate") }).unwrap_err();
    assert!(
        matches!(&error, Error::Panicked { message, .. } if message == "deliberate"),
        "{error}"
    );
    assert_eq!(thread_ns(), before);
    // The thread that panicked took its namespace with it: the next one starts from ours.
    assert_eq!(thread::spawn(thread_ns).join().unwrap(), before);
}

#[test]
fn the_callers_namespace_is_the_threads_and_not_the_process() {
    let (outer, inner) = (Namespace::new("host"), Namespace::new("pod"));
    let main = current_netns_id().unwrap();
    let (seen, nested, back) = outer.inside(|| {
        let seen = current_netns_id().unwrap();
        let nested = in_netns(&inner.path, || current_netns_id().unwrap()).unwrap();
        (seen, nested, current_netns_id().unwrap())
    });
    assert_eq!(seen, netns_id(&outer.path).unwrap());
    assert_eq!(nested, netns_id(&inner.path).unwrap());
    assert_eq!(back, seen);
    assert_ne!(seen, main);
}

#[test]
fn many_threads_at_once_each_where_it_should_be() {
    let pods: Vec<Namespace> = (0..4).map(|_| Namespace::new("pod")).collect();
    thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| {
                let wanted: NetnsId = netns_id(&pod.path).unwrap();
                for _ in 0..50 {
                    assert_eq!(
                        in_netns(&pod.path, || current_netns_id().unwrap()).unwrap(),
                        wanted
                    );
                }
            });
        }
    });
}

#[test]
fn what_is_no_namespace_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let fifo = folder.path().join("fifo");
    run("mkfifo", &[fifo.to_str().unwrap()]);
    let missing = folder.path().join("missing");
    let below_file = file.join("x");
    for path in [&file, &fifo, &missing, &below_file, folder.path()] as [&Path; 5] {
        let error = in_netns(path, || ()).unwrap_err().to_string();
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
        assert!(!netns_exists(path).unwrap(), "{}", path.display());
    }
    // A namespace, but of mounts.
    let error = in_netns(Path::new("/proc/self/ns/mnt"), || ()).unwrap_err();
    assert_eq!(error.errno(), Some(nix::errno::Errno::EINVAL), "{error}");
}

#[test]
fn a_namespace_that_is_deleted_is_gone() {
    let pod = Namespace::new("pod");
    assert!(netns_exists(&pod.path).unwrap());
    run("ip", &["netns", "del", &pod.name]);
    assert!(!netns_exists(&pod.path).unwrap());
    assert_eq!(
        in_netns(&pod.path, || ()).unwrap_err().errno(),
        Some(nix::errno::Errno::ENOENT)
    );
}
