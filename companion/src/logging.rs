//! Where the log goes.

use std::io;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

use crate::log_file::{LogFile, Rotation};

/// Begins logging to stderr, stdout or a file.
pub(crate) fn begin(level: &str, file: Option<&Path>, rotation: Rotation) -> io::Result<()> {
    let level: LevelFilter = level.parse().unwrap_or(LevelFilter::INFO);
    let builder = fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false);
    match file.map(|path| (path, path.to_str().unwrap_or_default())) {
        None | Some((_, "" | "stderr")) => builder.with_writer(io::stderr).init(),
        Some((_, "stdout")) => builder.with_writer(io::stdout).init(),
        Some((path, _)) => builder
            .with_writer(Mutex::new(LogFile::open(path, rotation)?))
            .init(),
    }
    Ok(())
}
