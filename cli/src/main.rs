//! `podgatectl`: shows and steers what podgate does on this node.
//!
//! One file a verb. It reads the store and the kernel's tables; what it writes, it writes under the node's lock. It
//! must not enforce anything: that is the plugin's and the companion's work.
#![forbid(unsafe_code)]

mod args;
mod context;
mod doctor;
mod ebpf;
mod error;
mod explain;
mod install;
mod load;
mod mode;
mod output;
mod pages;
mod pods;
mod policies;
mod resolve;
mod status;
mod wait;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Args, Verb};
use crate::context::Context;
use crate::error::Error;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code,
        // Nobody reads any more (`podgatectl pods | head -1`): that is not a failure.
        Err(Error::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("podgatectl: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, Error> {
    let context = Context::new(args);
    match &args.verb {
        Verb::Status => status::run(&context),
        Verb::Pods(options) => pods::run(&context, options),
        Verb::Policies => policies::run(&context),
        Verb::Explain(options) => explain::run(&context, options),
        Verb::Resolve(options) => resolve::run(&context, options),
        Verb::Wait(options) => wait::run(&context, options),
        Verb::Load(options) => load::run(&context, options),
        Verb::Mode(options) => mode::run(&context, options),
        Verb::Doctor(options) => doctor::run(&context, options),
        Verb::Install(options) => install::run(&context, options),
        Verb::Uninstall(options) => install::uninstall(&context, options),
        Verb::Ebpf(verb) => ebpf::run(&context, verb),
        Verb::Completions { shell } => pages::completions(*shell),
        Verb::Man { directory } => pages::man(directory.as_deref()),
    }
}
