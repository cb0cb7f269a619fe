//! Completions and man pages, made from the same description as `--help`.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::args::Args;
use crate::error::Error;

pub(crate) fn completions(shell: clap_complete::Shell) -> Result<ExitCode, Error> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "podgatectl", &mut text);
    io::Write::write_all(&mut io::stdout(), &text)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(directory: Option<&Path>) -> Result<ExitCode, Error> {
    match directory {
        Some(directory) => {
            fs::create_dir_all(directory)?;
            clap_mangen::generate_to(Args::command(), directory)?;
        }
        None => clap_mangen::Man::new(Args::command()).render(&mut io::stdout())?,
    }
    Ok(ExitCode::SUCCESS)
}
