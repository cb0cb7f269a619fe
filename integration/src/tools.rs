//! Where the binaries are: podgate's own, the reference CNI plugins, cnitool, Amazon's plugins.
//!
//! `PODGATE_BIN_DIR` (default: the workspace's `target/release`) holds podgate's; `CNI_PATH`, else `PODGATE_CNI_BIN`, else the `bin` of
//! `PODGATE_CACHE` (default `~/.cache/podgate`, as in `scripts/env.sh`) the others. What is missing is a failure that says how to get it.

use std::path::{Path, PathBuf};

/// The workspace's root folder.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
}

/// Folder of podgate's binaries.
#[must_use]
pub fn podgate_bin_dir() -> PathBuf {
    match std::env::var_os("PODGATE_BIN_DIR") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => workspace().join("target/release"),
    }
}

/// One of podgate's binaries: `podgate`, `podgated`, `podgatectl`.
///
/// # Panics
/// When it is not built, saying how to build it.
#[track_caller]
#[must_use]
pub fn podgate(name: &str) -> PathBuf {
    let path = podgate_bin_dir().join(name);
    assert!(
        path.is_file(),
        "{} is missing: build it with `cargo build --release` (or point PODGATE_BIN_DIR at its folder)",
        path.display()
    );
    path
}

/// Folders that hold the reference plugins and cnitool, in order.
#[must_use]
pub fn plugin_dirs() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = variable("CNI_PATH") {
        return std::env::split_paths(&path).collect();
    }
    if let Some(dir) = variable("PODGATE_CNI_BIN") {
        return vec![dir.into()];
    }
    let home = || PathBuf::from(variable("HOME").unwrap_or_else(|| "/root".into()));
    let caches = || variable("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    let cache = variable("PODGATE_CACHE").map_or_else(|| caches().join("podgate"), PathBuf::from);
    vec![cache.join("bin")]
}

/// A CNI plugin by type, or cnitool.
///
/// # Panics
/// When it is in none of the folders, saying how to get it.
#[track_caller]
#[must_use]
pub fn plugin(name: &str) -> PathBuf {
    if name == "podgate" {
        return podgate(name);
    }
    find(name).unwrap_or_else(|| {
        panic!("{name} is in none of {:?}: run scripts/setup.sh --tests (or set CNI_PATH to the folder that holds it)", plugin_dirs())
    })
}

fn find(name: &str) -> Option<PathBuf> {
    plugin_dirs()
        .into_iter()
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// `CNI_PATH` for a runtime: podgate's folder, then the plugins'.
#[must_use]
pub fn cni_path() -> String {
    let dirs = std::iter::once(podgate_bin_dir()).chain(plugin_dirs());
    dirs.map(|dir| dir.display().to_string())
        .collect::<Vec<_>>()
        .join(":")
}

/// The helper `podgate-traffic`, built with this crate: beside the test binary's folder.
///
/// # Panics
/// When it is not there.
#[track_caller]
#[must_use]
pub fn traffic() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let beside = exe
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("podgate-traffic"));
    beside
        .chain([podgate_bin_dir().join("podgate-traffic")])
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("podgate-traffic is missing: cargo build -p integration --bins"))
}
