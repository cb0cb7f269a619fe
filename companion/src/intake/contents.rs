//! What a file was found to be, and what it gives given what it gave before.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy::documents::{self, Condition};
use policy::{Document, Identity};
use state::{RelPath, Store};

use published::status;

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) document: Arc<Document>,
    /// Why this is not simply what the file says.
    pub(super) broken: Option<String>,
    /// It only isolates: no good version was ever seen.
    pub(super) isolating: bool,
}

/// What a file was found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing there.
    #[default]
    Gone,
    /// Something that cannot be read.
    Unreadable(String),
    /// Text.
    Read(Arc<Contents>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) documents: Vec<Arc<Document>>,
    pub(super) broken: Vec<Broken>,
    /// No document and no list.
    pub(super) blank: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) identity: Option<Identity>,
    pub(super) message: String,
    pub(super) isolating: Option<Arc<Document>>,
}

/// Everything a file held stays, because of the file.
pub(super) fn stay(before: BTreeMap<Identity, Held>, reason: &str) -> BTreeMap<Identity, Held> {
    let broken = |held: Held| Held {
        broken: Some(reason.to_owned()),
        ..held
    };
    before
        .into_iter()
        .map(|(identity, held)| (identity, broken(held)))
        .collect()
}

pub(super) fn parse(bytes: &[u8]) -> Found {
    let reading = documents::read(bytes);
    let mut contents = Contents {
        documents: Vec::new(),
        broken: Vec::new(),
        blank: reading.blank,
    };
    for one in reading.documents {
        match one {
            Ok(document) => contents.documents.push(Arc::new(document)),
            Err(broken) => contents.broken.push(Broken {
                message: broken.error.to_string(),
                identity: broken.identity,
                isolating: broken.isolating.map(|d| Arc::new(*d)),
            }),
        }
    }
    Found::Read(Arc::new(contents))
}

/// A copy of what could not be read goes into `quarantine/`; it goes again once the file reads well.
pub(super) fn keep_copy(store: &Store, path: &RelPath, bytes: &[u8], found: &Found) {
    let reason = found
        .complaints(path)
        .first()
        .map(|file| file.message.clone())
        .or_else(|| match found {
            Found::Read(contents) => contents.broken.first().map(|b| b.message.clone()),
            _ => None,
        });
    let done = match reason {
        Some(reason) => store.quarantine(path.as_str(), bytes, &reason).map(|_| ()),
        None => store.release(path.as_str()).map(|_| ()),
    };
    if let Err(error) = done {
        tracing::debug!("quarantine copy of {path}: {error}");
    }
}

impl Found {
    /// All its documents carry part marks: whoever wrote it says when it is complete.
    pub(super) fn is_marked(&self) -> bool {
        match self {
            Self::Read(contents) => {
                contents.broken.is_empty()
                    && !contents.documents.is_empty()
                    && contents.documents.iter().all(|d| d.part.is_some())
            }
            _ => false,
        }
    }

    /// What is wrong with the file, apart from documents that can be named.
    pub(super) fn complaints(&self, path: &RelPath) -> Vec<status::File> {
        let file = |message: String| status::File {
            path: path.as_str().to_owned(),
            condition: Condition::Broken,
            message,
        };
        match self {
            Self::Gone => Vec::new(),
            Self::Unreadable(reason) => vec![file(reason.clone())],
            Self::Read(contents) if contents.blank => vec![file("holds no document".into())],
            Self::Read(contents) => contents
                .broken
                .iter()
                .filter(|b| b.identity.is_none() || b.isolating.is_none())
                .map(|b| file(b.message.clone()))
                .collect(),
        }
    }
}

impl Contents {
    /// What the file gives, given what it gave before.
    pub(super) fn hold(&self, mut before: BTreeMap<Identity, Held>) -> BTreeMap<Identity, Held> {
        let mut held: BTreeMap<Identity, Held> = BTreeMap::new();
        for document in &self.documents {
            let one = Held {
                document: Arc::clone(document),
                broken: None,
                isolating: false,
            };
            held.entry(document.identity.clone()).or_insert(one);
        }
        for broken in &self.broken {
            let Some(identity) = broken
                .identity
                .as_ref()
                .filter(|identity| !held.contains_key(*identity))
            else {
                continue;
            };
            let message = Some(broken.message.clone());
            let good = before.remove(identity).filter(|held| !held.isolating);
            let one = match (good, &broken.isolating) {
                (Some(good), _) => Held {
                    broken: message,
                    ..good
                },
                (None, Some(document)) => Held {
                    document: Arc::clone(document),
                    broken: message,
                    isolating: true,
                },
                (None, None) => continue,
            };
            held.insert(identity.clone(), one);
        }
        // Something in it cannot be told to be a document: whatever is missing may be that.
        if self.blank || self.broken.iter().any(|b| b.identity.is_none()) {
            let reason = self
                .broken
                .iter()
                .find(|b| b.identity.is_none())
                .map_or("holds no document", |b| &b.message);
            for (identity, one) in stay(before, reason) {
                held.entry(identity).or_insert(one);
            }
        }
        held
    }
}
