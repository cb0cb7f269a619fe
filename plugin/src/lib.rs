//! `podgate`, the chained CNI plugin: it puts a pod's interfaces under enforcement before the pod's first container starts.
//!
//! ```text
//! stdin, CNI_*  ->  wire  ->  request + config + prev  ->  plan (pure)  ->  add: lock, execute, undo in reverse
//! stdout       <-   wire  <-  prevResult, as it came   <-  wait: the companion takes the policy state out of `pending`
//! ```
//!
//! Invariants:
//! - one JSON object on stdout or, for a command without a result, nothing; an error is an error object and an exit code,
//!   whatever the input, and a panic is no exception;
//! - ADD succeeds only when every interface of the pod that leads to the host is attached and read back; otherwise all that
//!   it did is undone;
//! - the values of `prevResult` go out byte for byte as they came in;
//! - the lock is never held across a wait.
//!
//! It must not parse policy, talk to an API, start a runtime, or know of eBPF: that is `enforcer`'s.

#![forbid(unsafe_code)]

pub mod add;
pub mod check;
pub mod codes;
pub mod config;
pub mod del;
pub mod duration;
pub mod environment;
pub mod error;
pub mod execute;
pub mod gc;
pub mod known;
pub mod log;
pub mod object;
pub mod plan;
pub mod prev;
pub mod record;
pub mod request;
pub mod status;
pub mod wait;
pub mod wire;

use std::process::ExitCode;

use config::Logging;
use error::Error;
use request::{AddRequest, DelRequest, GcRequest};
use wire::{Call, Command};

/// The whole plugin: one call, from stdin to the exit code.
#[must_use]
pub fn run() -> ExitCode {
    let started_ns = state::clock::monotonic_ns();
    wire::serve(|call| carry_out(call, started_ns))
}

/// `started_ns`: CLOCK_MONOTONIC before stdin was read, the last instant of which it is certain that the runtime had not
/// yet seen what came later.
fn carry_out(call: &Call, started_ns: u64) -> Result<Option<String>, Error> {
    // A wrong level or file is reported by the verbs that read the whole configuration.
    log::start(&Logging::read(&call.config).unwrap_or_default());
    let Call {
        command,
        version,
        environment,
        config,
    } = call;
    let span = tracing::info_span!(
        "call",
        command = command.name(),
        container = environment.container_id,
        ifname = environment.ifname,
        args = environment.args
    );
    let _entered = span.entered();
    let outcome = match command {
        Command::Add => AddRequest::read(environment, config)
            .map_err(Error::from)
            .and_then(|request| add::add(&request, version).map(Some)),
        Command::Del => DelRequest::read(environment, config)
            .map_err(Error::from)
            .and_then(|request| del::del(&request).map(|()| None)),
        Command::Check => AddRequest::read(environment, config)
            .map_err(Error::from)
            .and_then(|request| check::check(&request).map(|()| None)),
        Command::Gc => GcRequest::read(environment, config)
            .map_err(Error::from)
            .and_then(|request| gc::gc(&request, started_ns).map(|()| None)),
        Command::Status => status::status(environment, config).map(|()| None),
        // Answered by `wire`, which knows the versions.
        Command::Version => Ok(None),
    };
    outcome.inspect_err(|error| {
        tracing::error!(
            code = codes::code(error).0,
            details = codes::details(error),
            "{error}"
        );
    })
}
