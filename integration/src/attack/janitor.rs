//! What lives as long as the test process has no destructor that runs: somebody outside cleans up.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::keep;

/// Removes a folder once this process has ended, however it ended: its standard input closes then.
#[track_caller]
pub(super) fn remove_after_us(folder: &Path) -> Option<Child> {
    const SCRIPT: &str = r#"cat; while [ -e "$1" ]; do rm -rf -- "$1" || sleep 0.1; done"#;
    if keep() {
        return None;
    }
    let child = Command::new("setsid")
        .args(["sh", "-c", SCRIPT, "podgate-janitor"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Some(child.unwrap_or_else(|error| panic!("start the janitor: {error}")))
}
