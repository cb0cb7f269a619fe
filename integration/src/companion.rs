//! The companion daemon of a node.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::node::Node;
use crate::{keep, tools, wait_until};

/// A running `podgated`.
#[derive(Debug)]
pub struct Companion {
    child: Child,
    log: PathBuf,
}

impl Companion {
    /// Starts it on a node with the node's folders and free ports, and waits until it holds its lock.
    ///
    /// # Panics
    /// When it ends or does not come up within ten seconds; its log is shown.
    #[track_caller]
    #[must_use]
    pub fn start(node: &Node, extra: &[&str]) -> Self {
        let log = node
            .dir()
            .join(format!("podgated-{}.log", crate::random_suffix()));
        let out =
            File::create(&log).unwrap_or_else(|error| panic!("create {}: {error}", log.display()));
        let also = out
            .try_clone()
            .unwrap_or_else(|error| panic!("open {}: {error}", log.display()));
        let child = node
            .daemon(&tools::podgate("podgated"))
            .arg("--state-dir")
            .arg(node.state_dir())
            .arg("--bpf-dir")
            .arg(node.bpf_dir())
            .args([
                "--metrics-bind-addr",
                "127.0.0.1:0",
                "--health-probe-bind-addr",
                "127.0.0.1:0",
                "--log-level",
                "debug",
            ])
            .args(extra)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(also)
            .spawn()
            .unwrap_or_else(|error| panic!("start podgated: {error}"));
        let mut companion = Self { child, log };
        let lock = node.state_dir().join("podgated.lock");
        wait_until("podgated holds its lock", Duration::from_secs(10), || {
            assert!(
                companion.is_running(),
                "podgated ended\n{}",
                companion.log()
            );
            lock_is_held(&lock)
        });
        companion
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Panics
    /// When it has not ended within five seconds.
    #[track_caller]
    pub fn stop(mut self) {
        self.signal("TERM");
        wait_until(
            "podgated ends after SIGTERM",
            Duration::from_secs(5),
            || !self.is_running(),
        );
    }

    /// Ends it without a word (SIGKILL).
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it in its tracks (SIGSTOP) or lets it go on (SIGCONT).
    pub fn signal(&self, name: &str) {
        crate::Cmd::new("kill")
            .args(["-s", name, &self.pid().to_string()])
            .ok();
    }
}

/// Whether somebody holds the flock of a file, asked of the kernel's list.
fn lock_is_held(path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = fs::metadata(path) else {
        return false;
    };
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = format!(":{}", meta.ino());
    locks.lines().any(|line| {
        line.contains("FLOCK") && line.split_whitespace().any(|word| word.ends_with(&inode))
    })
}

impl Drop for Companion {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!(
                "--- podgated's last lines\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        if !keep() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
