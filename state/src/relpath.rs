//! Paths below `policies/`.

use std::{borrow::Borrow, ffi::OsStr, fmt, os::unix::ffi::OsStrExt as _};

use serde::{Deserialize, Serialize};

/// A path below `policies/`, with `/` between its parts. A name that is not UTF-8 has `%XX` for each byte beyond ASCII.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelPath(String);

impl RelPath {
    /// A path as text; `None` unless it is relative, clean and without hidden parts.
    #[must_use]
    pub fn new(path: &str) -> Option<Self> {
        let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains('\0');
        path.split('/').all(part).then(|| Self(path.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether its name ends as a document's does: `.json`, `.yaml`, `.yml`.
    #[must_use]
    pub fn is_document(&self) -> bool {
        is_document(OsStr::new(&self.0))
    }

    pub(crate) fn root() -> Self {
        Self(String::new())
    }

    pub(crate) fn child(&self, name: &OsStr) -> Self {
        let name = match name.to_str() {
            Some(name) => name.to_owned(),
            None => name
                .as_bytes()
                .iter()
                .map(|byte| {
                    if byte.is_ascii() {
                        char::from(*byte).to_string()
                    } else {
                        format!("%{byte:02X}")
                    }
                })
                .collect(),
        };
        Self(if self.0.is_empty() {
            name
        } else {
            format!("{}/{name}", self.0)
        })
    }

    /// The folders above it, the outermost first.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(index, _)| &self.0[..index])
    }
}

impl TryFrom<String> for RelPath {
    type Error = &'static str;

    fn try_from(path: String) -> Result<Self, Self::Error> {
        Self::new(&path).ok_or("a path must be relative, clean and without hidden parts")
    }
}

impl From<RelPath> for String {
    fn from(path: RelPath) -> Self {
        path.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for RelPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Whether a name ends as a document's does.
pub(crate) fn is_document(name: &OsStr) -> bool {
    [".json", ".yaml", ".yml"]
        .iter()
        .any(|suffix| name.as_bytes().ends_with(suffix.as_bytes()))
}
