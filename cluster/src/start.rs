//! From the command line to the running program.

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use crate::{
    args::{ControllerArgs, SyncArgs, parse},
    controller, sync,
};

/// Runs `podgate-controller`.
pub fn run_controller(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(
        "podgate-controller",
        args,
        |args: &ControllerArgs| args.log_level.clone(),
        async |args| {
            controller::run(args, stop()).await;
            Ok(())
        },
    )
}

/// Runs `podgate-sync`.
pub fn run_sync(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run(
        "podgate-sync",
        args,
        |args: &SyncArgs| args.log_level.clone(),
        async |args| sync::run(args, stop()).await,
    )
}

fn run<T: Parser>(
    program: &str,
    args: impl IntoIterator<Item = OsString>,
    log_level: impl Fn(&T) -> String,
    main: impl AsyncFnOnce(T) -> Result<(), sync::Error>,
) -> ExitCode {
    let args: T = match parse(args) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let level: LevelFilter = log_level(&args).parse().unwrap_or(LevelFilter::INFO);
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(main(args)),
        Err(error) => {
            eprintln!("{program}: start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Ends on SIGTERM and SIGINT.
async fn stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
