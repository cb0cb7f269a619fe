//! The version in force of each policy: what comes back after a restart, whatever half-arrived meanwhile.
//!
//! A file is one line of JSON (schema, policy, sources, digest, length) and then the documents' text. All parts of a policy
//! stand in one file, so that they come back together or not at all.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Problem, ProblemKind, RelPath, Store, file, file::MAX_FILE_BYTES, layout,
    records::check_schema,
};

const SCHEMA: u64 = 2;
/// One file holds all parts of a policy, each of which may be as large as a document's file.
const MAX_BYTES: u64 = 16 * MAX_FILE_BYTES;

/// One policy in the version that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Which policy: whatever string its writer makes of it.
    pub policy: String,
    /// The file of each of its documents, by the document's identity.
    pub sources: BTreeMap<String, RelPath>,
    /// The documents' text.
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
pub struct AppliedPolicies {
    /// The policies, by file name. A file of an earlier version of podgate holds one document, and names it.
    pub policies: Vec<Applied>,
    /// Files that are none.
    pub problems: Vec<Problem>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    schema: u64,
    /// Schema 1 called it `identity`, and held one document.
    #[serde(alias = "identity")]
    policy: String,
    #[serde(default)]
    sources: BTreeMap<String, RelPath>,
    /// Schema 1.
    #[serde(default, skip_serializing)]
    source: Option<RelPath>,
    digest: String,
    length: usize,
}

impl Store {
    /// Keep policies in the version in force and forget others, flushed together.
    ///
    /// # Errors
    /// The first failure; doing all of it again is right.
    pub fn update_applied(&self, put: &[Applied], gone: &[String]) -> Result<(), Error> {
        let path = |policy: &str| self.layout().applied_policy(policy);
        let put = put
            .iter()
            .map(|applied| {
                let path = path(&applied.policy)?;
                let bytes = render(&path, applied)?;
                Ok((path, bytes))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let gone = gone
            .iter()
            .map(|policy| path(policy))
            .collect::<Result<Vec<_>, _>>()?;
        let folder = self.layout().applied();
        file::ensure_folder(&folder)?;
        Ok(file::replace_all(&folder, &put, &gone)?)
    }

    /// One policy in the version in force.
    pub fn applied_policy(&self, policy: &str) -> Result<Option<Applied>, Error> {
        read(self.layout().applied_policy(policy)?).map_err(|problem| Error::Content { problem })
    }

    /// Every policy in the version in force.
    pub fn applied(&self) -> Result<AppliedPolicies, Error> {
        let folder = self.layout().applied();
        let mut all = AppliedPolicies::default();
        for name in file::names(&folder, "")? {
            match read(folder.join(name)) {
                Ok(Some(applied)) => all.policies.push(applied),
                Ok(None) => {}
                Err(problem) => all.problems.push(problem),
            }
        }
        Ok(all)
    }
}

fn render(path: &std::path::Path, applied: &Applied) -> Result<Vec<u8>, Error> {
    let head = Head {
        schema: SCHEMA,
        policy: applied.policy.clone(),
        sources: applied.sources.clone(),
        source: None,
        digest: applied.digest(),
        length: applied.bytes.len(),
    };
    let mut bytes = serde_json::to_vec(&head).map_err(|source| Error::Encode {
        path: path.to_owned(),
        source,
    })?;
    bytes.push(b'\n');
    bytes.extend_from_slice(&applied.bytes);
    Ok(bytes)
}

fn read(path: PathBuf) -> Result<Option<Applied>, Problem> {
    match file::read_bounded(&path, MAX_BYTES) {
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
    let mut head: Head =
        serde_json::from_slice(&bytes).map_err(|error| ProblemKind::Torn(error.to_string()))?;
    if body.len() != head.length || layout::digest(&body) != head.digest {
        return Err(torn("text and digest differ"));
    }
    if let Some(source) = head.source {
        head.sources.insert(head.policy.clone(), source);
    }
    Ok(Applied {
        policy: head.policy,
        sources: head.sources,
        bytes: body,
    })
}
