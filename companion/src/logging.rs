//! Where the log goes.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

/// Begins logging to stderr, stdout or a file.
pub(crate) fn begin(level: &str, file: Option<&Path>) -> io::Result<()> {
    let level: LevelFilter = level.parse().unwrap_or(LevelFilter::INFO);
    let builder = fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false);
    match file.map(|path| (path, path.to_str().unwrap_or_default())) {
        None | Some((_, "" | "stderr")) => builder.with_writer(io::stderr).init(),
        Some((_, "stdout")) => builder.with_writer(io::stdout).init(),
        Some((path, _)) => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            builder.with_writer(std::sync::Arc::new(file)).init();
        }
    }
    Ok(())
}
