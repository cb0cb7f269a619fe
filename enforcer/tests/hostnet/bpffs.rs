//! A bpffs where the node sees it, and refusals elsewhere.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use enforcer::bpffs::{self, Error};

use super::world::{run, suffix};

/// In a child: which directory to ask for.
const ASK: &str = "PODGATE_TEST_BPFFS";

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_bpffs(path: &Path) -> bool {
    run("stat", &["-f", "-c", "%T", path.to_str().unwrap()]).trim() == "bpf_fs"
}

#[test]
fn a_directory_on_the_nodes_bpffs() {
    assert!(
        is_bpffs(Path::new("/sys/fs/bpf")),
        "this machine has no bpffs: mount -t bpf bpf /sys/fs/bpf"
    );
    let folder = Folder(format!("/sys/fs/bpf/pgtest{}", suffix()).into());
    let deep = folder.0.join("v1");
    assert!(!bpffs::is_ready(&deep).unwrap());
    bpffs::ensure(&deep).unwrap();
    assert!(bpffs::is_ready(&deep).unwrap());
    assert!(is_bpffs(&deep));
    assert_eq!(fs::metadata(&folder.0).unwrap().mode() & 0o777, 0o700);
    bpffs::ensure(&deep).unwrap();
}

#[test]
fn mounted_where_the_mount_namespace_is_the_nodes() {
    let base = tempfile::tempdir().unwrap();
    let folder = Folder(base.path().join("bpf"));
    bpffs::ensure(&folder.0).unwrap();
    assert!(is_bpffs(&folder.0));
    // Pid 1 sees it, too.
    let seen = fs::read_to_string("/proc/1/mountinfo").unwrap();
    assert!(
        seen.lines()
            .any(|line| line.contains(folder.0.to_str().unwrap())),
        "{seen}"
    );
    // Once more does not mount a second over it.
    bpffs::ensure(&folder.0).unwrap();
    let own = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(
        own.lines()
            .filter(|line| line.contains(folder.0.to_str().unwrap()))
            .count(),
        1
    );
}

/// Not a test of its own: what the tests below run in another mount namespace.
#[test]
fn child() {
    let Some(dir) = env::var_os(ASK) else { return };
    match bpffs::ensure(Path::new(&dir)) {
        Ok(()) => println!("ensured"),
        Err(error @ Error::OutOfReach { .. }) => println!("out of reach: {error}"),
        Err(error) => println!("failed: {error}"),
    }
}

/// Runs `child` by way of `wrapper` and returns what it printed.
fn ask(wrapper: &[&str], dir: &Path) -> String {
    let own = env::current_exe().unwrap();
    let output = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(own)
        .args(["--exact", "bpffs::child", "--nocapture"])
        .env(ASK, dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn a_private_mount_namespace_is_refused_with_what_to_do() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("bpf");
    for propagation in ["private", "slave"] {
        let answer = ask(&["unshare", "-m", "--propagation", propagation], &dir);
        assert!(answer.contains("out of reach"), "{propagation}: {answer}");
        assert!(
            answer.contains(&format!("mount -t bpf bpf {}", dir.display())),
            "{answer}"
        );
        assert!(!dir.exists(), "nothing is left behind");
    }
}

#[test]
fn under_ip_netns_exec_the_nodes_bpffs_is_not_to_be_seen_and_none_is_mounted() {
    // `ip netns exec` puts a fresh sysfs over /sys.
    let pod = super::world::Namespace::new("pod");
    let dir = PathBuf::from(format!("/sys/fs/bpf/pgtest{}", suffix()));
    let answer = ask(&["ip", "netns", "exec", &pod.name], &dir);
    assert!(
        answer.contains("out of reach") && answer.contains("mount -t bpf bpf /sys/fs/bpf"),
        "{answer}"
    );
    assert!(!dir.exists());
}

#[test]
fn a_private_mount_namespace_that_still_sees_the_nodes_bpffs_may_use_it() {
    let folder = Folder(format!("/sys/fs/bpf/pgtest{}", suffix()).into());
    let answer = ask(&["unshare", "-m", "--propagation", "private"], &folder.0);
    assert!(answer.contains("ensured"), "{answer}");
    assert!(folder.0.is_dir());
}

#[test]
fn a_mount_that_is_shared_with_the_node_reaches_it() {
    let base = tempfile::tempdir().unwrap();
    let shared = Folder(base.path().join("shared"));
    fs::create_dir(&shared.0).unwrap();
    run(
        "mount",
        &[
            "-t",
            "tmpfs",
            "--make-shared",
            "none",
            shared.0.to_str().unwrap(),
        ],
    );
    let bpf = Folder(shared.0.join("bpf"));
    let answer = ask(&["unshare", "-m", "--propagation", "unchanged"], &bpf.0);
    assert!(answer.contains("ensured"), "{answer}");
    assert!(is_bpffs(&bpf.0), "the mount made in there is seen here");
}

#[test]
fn a_file_in_the_way_is_named() {
    let base = tempfile::tempdir().unwrap();
    let file = base.path().join("file");
    fs::write(&file, "").unwrap();
    let error = bpffs::ensure(&file.join("x")).unwrap_err().to_string();
    assert!(error.contains("file"), "{error}");
    assert!(bpffs::ensure(&file).is_err());
}

#[test]
fn a_name_with_a_dot_is_refused_by_name() {
    let dir = PathBuf::from(format!("/sys/fs/bpf/pgtest{}.v1", suffix()));
    let error = bpffs::ensure(&dir).unwrap_err();
    assert!(matches!(error, Error::Dotted { .. }), "{error}");
}
