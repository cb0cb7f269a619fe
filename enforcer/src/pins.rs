//! Where the kernel objects are pinned: the only place that joins paths below the bpffs folder.

use std::path::{Path, PathBuf};

use verdict::layout::{Direction, LAYOUT_VERSION};

/// Folder of podgate on the bpffs, unless told otherwise.
pub const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/podgate";

/// The pins of one layout version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Below a folder on a bpffs.
    pub fn new(bpf_dir: impl AsRef<Path>) -> Self {
        Self {
            root: bpf_dir.as_ref().join(format!("v{LAYOUT_VERSION}")),
        }
    }

    /// `<bpf>/v<layout>`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `<bpf>/v<layout>/maps`.
    pub fn maps(&self) -> PathBuf {
        self.root.join("maps")
    }

    /// Pin of a map, by its name in the kernel programs.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name.to_ascii_lowercase())
    }

    /// `<bpf>/v<layout>/programs`.
    pub fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    /// Pin of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    /// `<bpf>/v<layout>/links`: TCX links, which live by their pins.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Pin of the TCX link of one hook of one host veth.
    pub fn link(&self, ifindex: u32, direction: Direction) -> PathBuf {
        self.links().join(format!("{ifindex}_{}", direction.name()))
    }
}
