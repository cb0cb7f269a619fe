//! `podgate-sync`: see the crate `cluster`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    cluster::run_sync(std::env::args_os())
}
