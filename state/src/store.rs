//! The handle on one store.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use crate::{Error, Layout, clock, documents::MAX_DEPTH, file};

/// A temp file this old has no writer any more.
const STALE_TEMP: Duration = Duration::from_secs(300);

/// One store, opened. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    boot_id: String,
    released_ns: AtomicU64,
}

impl Store {
    /// Open a store that is there.
    ///
    /// # Errors
    /// [`Error::is_missing`] when the folder is not there; unsafe when others could write it.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, Error> {
        let root = root.as_ref();
        file::check_folder(root)?;
        let inner = Inner {
            layout: Layout::new(root),
            boot_id: clock::boot_id()?,
            released_ns: AtomicU64::new(0),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Open a store, making the folder and those in it that are missing (mode 0700).
    pub fn create(root: impl AsRef<Path>) -> Result<Self, Error> {
        let layout = Layout::new(root.as_ref());
        for folder in layout.folders() {
            file::ensure_folder(&folder)?;
        }
        Self::open(root)
    }

    /// Where everything is.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// The store's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.inner.layout.root()
    }

    /// The boot in which the store was opened.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.inner.boot_id
    }

    /// When this process last gave the node's lock back, on CLOCK_MONOTONIC.
    pub(crate) fn released_ns(&self) -> &AtomicU64 {
        &self.inner.released_ns
    }

    /// Remove the temp files that crashed writers left anywhere in the store. Returns how many.
    pub fn sweep_temps(&self) -> Result<usize, Error> {
        Ok(file::sweep_temps(self.root(), MAX_DEPTH + 1, STALE_TEMP)?)
    }
}
