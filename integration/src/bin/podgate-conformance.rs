//! Traffic conformance from a terminal: NetworkPolicy as users write it, judged by real connections.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use integration::conformance::{self, Mode, Options};

/// Runs the conformance cases; ends with 1 when anything is wrong.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Cases of your own: a folder with cases/*.yaml, and matrix.yaml if you like, as integration/conformance has them
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Only cases whose name has this in it
    #[arg(long)]
    only: Option<String>,
    /// Only the short selection
    #[arg(long)]
    short: bool,
    /// Only one mode: standard or strict
    #[arg(long, value_parser = parse_mode)]
    mode: Option<Mode>,
    /// Prints every case as it ends
    #[arg(short, long)]
    verbose: bool,
    /// Prints the names of the cases and ends
    #[arg(long)]
    list: bool,
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    [Mode::Standard, Mode::Strict]
        .into_iter()
        .find(|mode| mode.to_string() == text)
        .ok_or_else(|| format!("{text:?} is neither standard nor strict"))
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("podgate-conformance: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool, String> {
    let mut cases = match &args.data {
        Some(folder) => conformance::read(folder)?,
        None => conformance::all()?,
    };
    cases.retain(|case| {
        (!args.short || case.short)
            && args
                .only
                .as_ref()
                .is_none_or(|part| case.name.contains(part.as_str()))
    });
    if args.list {
        for case in &cases {
            println!("{}", case.name);
        }
        return Ok(true);
    }
    let options = Options {
        modes: args
            .mode
            .map_or_else(|| vec![Mode::Standard, Mode::Strict], |mode| vec![mode]),
        verbose: args.verbose,
    };
    let report = conformance::run(&cases, &options)?;
    print!("{report}");
    Ok(report.is_good())
}
