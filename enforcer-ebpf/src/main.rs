//! The two TC classifiers and the clock program: glue between skb, maps and [`verdict::decide()`], nothing else.
//!
//! Built for `bpfel-unknown-none` by `enforcer/build.rs` and embedded there. For the host this is a program that says
//! so and fails.
//!
//! Invariants
//! - a packet is only read; "pass" is `TC_ACT_UNSPEC`, so that other users' filters still run;
//! - what changes verdicts is the policy state alone; verdict, revision and opener of a flow are written by key;
//! - only what Linux 5.10 has: no fetch_add with a result, no loops without a bound, no coarse clock.
#![cfg_attr(
    target_arch = "bpf",
    no_std,
    no_main,
    feature(asm_experimental_arch, core_intrinsics),
    allow(internal_features)
)]

#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod nursery;
#[cfg(target_arch = "bpf")]
mod programs;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod tables;

#[cfg(not(target_arch = "bpf"))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "these are kernel programs: build them for bpfel-unknown-none (enforcer/build.rs does)"
    );
    std::process::ExitCode::FAILURE
}
