//! The last good version of each document: what stays in force while its file is broken, over restarts too.
//!
//! A file is one line of JSON (schema, identity, source, digest, length) and then the bytes as they were.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    Error, Problem, ProblemKind, RelPath, Store,
    file::{self, Durability},
    layout,
    records::check_schema,
};

const SCHEMA: u64 = 1;

/// One document as it was last good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// apiVersion, kind, namespace, name: whatever string its reader makes of them.
    pub identity: String,
    /// The file it came from.
    pub source: Option<RelPath>,
    /// Its text.
    pub bytes: Vec<u8>,
}

impl Applied {
    /// SHA-256 of the text, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        layout::digest(&self.bytes)
    }
}

/// What `applied/` holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppliedDocuments {
    /// The documents, by file name.
    pub documents: Vec<Applied>,
    /// Files that are none.
    pub problems: Vec<Problem>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    schema: u64,
    identity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<RelPath>,
    digest: String,
    length: usize,
}

impl Store {
    /// Keep a document's text as its last good version, flushed.
    pub fn put_applied(&self, applied: &Applied) -> Result<(), Error> {
        let path = self.layout().applied_document(&applied.identity)?;
        let head = Head {
            schema: SCHEMA,
            identity: applied.identity.clone(),
            source: applied.source.clone(),
            digest: applied.digest(),
            length: applied.bytes.len(),
        };
        let mut bytes = serde_json::to_vec(&head).map_err(|source| Error::Encode {
            path: path.clone(),
            source,
        })?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&applied.bytes);
        Ok(file::replace(&path, &bytes, Durability::Durable)?)
    }

    /// A document's last good version.
    pub fn applied_document(&self, identity: &str) -> Result<Option<Applied>, Error> {
        read(self.layout().applied_document(identity)?)
            .map_err(|problem| Error::Content { problem })
    }

    /// Every last good version.
    pub fn applied(&self) -> Result<AppliedDocuments, Error> {
        let folder = self.layout().applied();
        let mut all = AppliedDocuments::default();
        for name in file::names(&folder, "")? {
            match read(folder.join(name)) {
                Ok(Some(applied)) => all.documents.push(applied),
                Ok(None) => {}
                Err(problem) => all.problems.push(problem),
            }
        }
        Ok(all)
    }

    /// Forget a document; `false` when it was not there.
    pub fn remove_applied(&self, identity: &str) -> Result<bool, Error> {
        Ok(file::remove(
            &self.layout().applied_document(identity)?,
            Durability::Durable,
        )?)
    }
}

fn read(path: PathBuf) -> Result<Option<Applied>, Problem> {
    match file::read_bounded(&path, file::MAX_FILE_BYTES + (1 << 16)) {
        Ok(bytes) => parse(bytes)
            .map(Some)
            .map_err(|kind| Problem { path, kind }),
        Err(file::Error::Missing { .. }) => Ok(None),
        Err(error) => Err(Problem {
            path,
            kind: ProblemKind::of(&error),
        }),
    }
}

fn parse(mut bytes: Vec<u8>) -> Result<Applied, ProblemKind> {
    let torn = |reason: &str| ProblemKind::Torn(reason.to_owned());
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(|| torn("no first line"))?;
    let body = bytes.split_off(end + 1);
    check_schema(&bytes, SCHEMA)?;
    let head: Head =
        serde_json::from_slice(&bytes).map_err(|error| ProblemKind::Torn(error.to_string()))?;
    if body.len() != head.length || layout::digest(&body) != head.digest {
        return Err(torn("text and digest differ"));
    }
    Ok(Applied {
        identity: head.identity,
        source: head.source,
        bytes: body,
    })
}
