//! Copies of what could not be read, each with the reason beside it. The file itself stays where it is.

use std::path::PathBuf;

use crate::{
    Error, Store,
    file::{self, Durability},
};

/// Sources that are kept at most: a flood of broken files must not fill the disk.
pub const MAX_COPIES: usize = 256;
/// So much of a file is kept.
pub const MAX_COPY_BYTES: usize = 1 << 20;

impl Store {
    /// Keep the first [`MAX_COPY_BYTES`] of a file that could not be read, and why. One copy for each source, the newest;
    /// `None` when there are [`MAX_COPIES`] others already.
    pub fn quarantine(
        &self,
        source: &str,
        bytes: &[u8],
        reason: &str,
    ) -> Result<Option<PathBuf>, Error> {
        let [copy, why] = self.layout().quarantined(source)?;
        if !copy.exists() && file::names(&self.layout().quarantine(), "")?.len() >= 2 * MAX_COPIES {
            return Ok(None);
        }
        let kept = bytes.get(..MAX_COPY_BYTES).unwrap_or(bytes);
        let text = format!(
            "source: {source}\nbytes: {}\nreason: {reason}\n",
            bytes.len()
        );
        file::replace(&copy, kept, Durability::Volatile)?;
        file::replace(&why, text.as_bytes(), Durability::Volatile)?;
        Ok(Some(copy))
    }

    /// Drop the copy of a source that reads well again, or is gone; `false` when there was none.
    pub fn release(&self, source: &str) -> Result<bool, Error> {
        let [copy, why] = self.layout().quarantined(source)?;
        let removed = file::remove(&copy, Durability::Volatile)?;
        Ok(file::remove(&why, Durability::Volatile)? || removed)
    }
}
