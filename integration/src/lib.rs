//! Test harness of podgate: real namespaces, real veths, real plugins called by cnitool, real sockets.
//!
//! A [`Node`] stands for one Kubernetes node: a network namespace and a mount namespace held by one process, with an uplink to an
//! *outside* host, nftables (and with it conntrack), its own bpffs, its own state store and its own CNI folders. A [`Pod`] is a network
//! namespace in it, wired by a [`Chain`] of CNI plugins. Traffic comes from the helper binary `podgate-traffic`, results are checked with
//! independent eyes ([`eyes`]: `ip`, `tc`, `bpftool`).
//!
//! Invariants:
//! - Everything lives inside the node's two namespaces or in one temporary folder. The namespaces end with their holder, the holder ends
//!   with the test process (its standard input closes), so that even a killed test leaves nothing behind. `KEEP=1` keeps them, and says how to enter.
//! - Nothing has a fixed name that another node could meet: tests run in parallel.
//! - Nothing sleeps for a guess: [`wait_until`] waits for a condition with a bound.
//! - What the machine should be able to do and cannot is a failure, never a silent skip.
//!
//! It must not use podgate's own readers to check podgate, except where the reader is what is tested.
#![forbid(unsafe_code)]

pub mod attack;
pub mod aws;
pub mod chain;
pub mod cmd;
pub mod companion;
pub mod conformance;
pub mod ctl;
pub mod eyes;
pub mod frames;
pub mod node;
pub mod pod;
pub mod policy;
pub mod streams;
pub mod tools;
pub mod traffic;
pub mod wire;

use std::time::{Duration, Instant};

pub use aws::Ipamd;
pub use chain::{Chain, CniCall, CniError, Reply};
pub use cmd::{Cmd, Output};
pub use companion::Companion;
pub use eyes::Snapshot;
pub use node::{BpfFs, Node, NodeBuilder, Place};
pub use pod::Pod;
pub use policy::Doc;
pub use traffic::{Capture, Flood, Knock, Outcome, Server, Session, Sink};

/// How long a bound is here: in an emulated machine (`scripts/vm-test.sh`) everything takes many times as long.
#[must_use]
pub fn patience(bound: Duration) -> Duration {
    if is_emulated() { bound * 10 } else { bound }
}

/// Whether this is an emulated machine (`scripts/vm-test.sh`).
#[must_use]
pub fn is_emulated() -> bool {
    static EMULATED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *EMULATED.get_or_init(|| std::env::var_os("PODGATE_VM").is_some())
}

/// The attach modes that the running kernel has: TCX came with 6.6.
///
/// # Panics
/// When the kernel does not say its release.
#[must_use]
pub fn attach_modes() -> &'static [&'static str] {
    let uname = nix::sys::utsname::uname().expect("uname");
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) >= (Some(6), Some(6)) {
        &["clsact", "tcx"]
    } else {
        eprintln!("kernel {release} has no TCX: only clsact is tested");
        &["clsact"]
    }
}

/// Waits until `probe` yields a value, looking every two milliseconds.
///
/// # Panics
/// When `bound` is over first; the message names `what`.
#[track_caller]
pub fn wait_for<T>(what: &str, bound: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let bound = patience(bound);
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(
            start.elapsed() < bound,
            "waited {bound:?} in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until `probe` is true, looking every two milliseconds; returns how long it took.
///
/// # Panics
/// When `bound` is over first; the message names `what`.
#[track_caller]
pub fn wait_until(what: &str, bound: Duration, mut probe: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    wait_for(what, bound, || probe().then_some(()));
    start.elapsed()
}

/// Eight random hexadecimal digits, from the kernel.
#[must_use]
pub fn random_suffix() -> String {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
        .unwrap_or_else(|error| panic!("read a random uuid: {error}"));
    uuid.chars().take(8).collect()
}

/// `CLOCK_MONOTONIC` now, in nanoseconds: the clock of the generator's stamps and of the record's `attachedAtMonotonicNs`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    wire::monotonic_ns()
}

/// Whether `KEEP=1` asks to leave namespaces and folders for a look.
#[must_use]
pub fn keep() -> bool {
    std::env::var("KEEP").is_ok_and(|value| value == "1")
}
