//! `podgated`: flags, then [`companion::run`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use companion::flags::Flags;

fn main() -> ExitCode {
    let flags = match Flags::parse_from_args(std::env::args_os()) {
        Ok(flags) => flags,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match companion::run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podgated: {error}");
            ExitCode::FAILURE
        }
    }
}
