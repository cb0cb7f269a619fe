//! The folders and the format that every verb works with.

use std::path::PathBuf;

use enforcer::pins::Pins;
use state::Store;

use crate::args::{Args, Format};
use crate::error::Error;

/// The folders and the format.
pub(crate) struct Context {
    /// Folder of the store.
    pub(crate) state_dir: PathBuf,
    /// Folder on a bpffs.
    pub(crate) bpf_dir: PathBuf,
    /// How to print.
    pub(crate) format: Format,
}

impl Context {
    pub(crate) fn new(args: &Args) -> Self {
        // As for the plugin, an empty variable is unset.
        let or = |given: &PathBuf, default: &str| {
            if given.as_os_str().is_empty() {
                PathBuf::from(default)
            } else {
                given.clone()
            }
        };
        Self {
            state_dir: or(&args.state_dir, state::layout::DEFAULT_ROOT),
            bpf_dir: or(&args.bpf_dir, enforcer::pins::DEFAULT_BPF_DIR),
            format: args.output,
        }
    }

    /// The store, which must be there.
    pub(crate) fn store(&self) -> Result<Store, Error> {
        Ok(Store::open(&self.state_dir)?)
    }

    /// The pins.
    pub(crate) fn pins(&self) -> Pins {
        Pins::new(&self.bpf_dir)
    }
}
