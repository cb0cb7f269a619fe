//! `podgate-controller`: see the crate `cluster`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    cluster::run_controller(std::env::args_os())
}
