//! What the companion says about itself: files that carry the boot id and are void after a reboot.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Error, Problem, ProblemKind, Store,
    file::{self, Durability},
    records::{check_schema, to_json},
};

/// The schema of every status file.
pub const SCHEMA: u64 = 1;

const INDEX: &str = "index";

/// Which namespaces have documents: the plugin's answer to "could a document select this pod?".
///
/// It counts only while `listing_digest` is the digest of the folders as they are now ([`Store::scan_documents`]).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// [`Listing::digest`](crate::Listing::digest) of the listing that it was made from.
    pub listing_digest: String,
    /// Namespaces that have documents, broken ones included where it can be seen.
    pub namespaces: BTreeSet<String>,
    /// Whether a document could select pods of any namespace.
    pub cluster_wide: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a, T> {
    schema: u64,
    boot_id: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

impl Store {
    /// Write `status/<name>.json`: the value's own keys beside `schema` and `bootId`. Not flushed.
    pub fn write_status(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let path = self.layout().status_file(name)?;
        let bytes = to_json(
            &path,
            &Envelope {
                schema: SCHEMA,
                boot_id: self.boot_id(),
                body: value,
            },
        )?;
        Ok(file::replace(&path, &bytes, Durability::Volatile)?)
    }

    /// Read `status/<name>.json`; `None` when it is not there or of an earlier boot.
    pub fn read_status<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.layout().status_file(name)?;
        let Some(bytes) = file::read_optional(&path)? else {
            return Ok(None);
        };
        let content = |kind| Error::Content {
            problem: Problem {
                path: path.clone(),
                kind,
            },
        };
        let head = check_schema(&bytes, SCHEMA).map_err(content)?;
        if head.boot_id.as_deref() != Some(self.boot_id()) {
            return Ok(None);
        }
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| content(ProblemKind::Torn(error.to_string())))
    }

    /// Write `status/index.json`.
    pub fn write_index(&self, index: &Index) -> Result<(), Error> {
        self.write_status(INDEX, index)
    }

    /// Read `status/index.json`; `None` when it is not there or of an earlier boot.
    pub fn read_index(&self) -> Result<Option<Index>, Error> {
        self.read_status(INDEX)
    }
}
