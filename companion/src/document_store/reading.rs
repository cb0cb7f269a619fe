//! What one file was found to be, and what it gives, given what it gave before.

use std::collections::BTreeSet;
use std::sync::Arc;

use policy::documents;
use policy::{Document, Identity};
use state::{RelPath, Store};

/// One document as a file gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) document: Arc<Document>,
    /// Why this is not simply what the file says.
    pub(super) broken: Option<Arc<str>>,
    /// It only isolates: no good version was ever seen.
    pub(super) isolating: bool,
}

impl Held {
    pub(super) fn good(document: Arc<Document>) -> Self {
        Self {
            document,
            broken: None,
            isolating: false,
        }
    }
}

/// The documents that one file gives, sorted by identity. A vector, because nearly every file holds one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holdings(Vec<Held>);

impl Holdings {
    fn place(&self, identity: &Identity) -> Result<usize, usize> {
        self.0
            .binary_search_by(|held| held.document.identity.cmp(identity))
    }

    pub(super) fn get(&self, identity: &Identity) -> Option<&Held> {
        self.place(identity)
            .ok()
            .and_then(|place| self.0.get(place))
    }

    /// Puts or (with `None`) removes; what was there before.
    pub(super) fn set(&mut self, identity: &Identity, held: Option<Held>) -> Option<Held> {
        match (self.place(identity), held) {
            (Ok(place), Some(held)) => Some(std::mem::replace(&mut self.0[place], held)),
            (Ok(place), None) => Some(self.0.remove(place)),
            (Err(place), Some(held)) => {
                self.0.insert(place, held);
                None
            }
            (Err(_), None) => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything a file held stays, because of the file.
    pub(super) fn kept_because(&self, reason: &str) -> Self {
        let reason: Arc<str> = reason.into();
        let broken = |held: &Held| Held {
            broken: Some(Arc::clone(&reason)),
            ..held.clone()
        };
        Self(self.0.iter().map(broken).collect())
    }
}

/// What a file was found to be.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing there.
    Gone,
    /// The kernel did not let us read it: to be tried again.
    Unread(String),
    /// It is there and yields nothing readable.
    Unreadable(String),
    /// The bytes that were read before.
    Same,
    /// Other bytes, with their hash.
    Read(Contents, u64),
}

/// The text of a file, parsed.
#[derive(Debug)]
pub(super) struct Contents {
    documents: Vec<Arc<Document>>,
    broken: Vec<Broken>,
    /// No document and no list.
    blank: bool,
}

#[derive(Debug)]
struct Broken {
    identity: Option<Identity>,
    message: String,
    isolating: Option<Arc<Document>>,
}

impl Contents {
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let reading = documents::read(bytes);
        let mut contents = Self {
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
        contents
    }

    /// All its documents carry part marks: whoever wrote it says when it is complete.
    pub(super) fn is_marked(&self) -> bool {
        self.broken.is_empty()
            && !self.documents.is_empty()
            && self.documents.iter().all(|d| d.part.is_some())
    }

    /// What is wrong with the file, apart from documents that can be named.
    pub(super) fn complaints(&self) -> Vec<String> {
        if self.blank {
            return vec!["holds no document".into()];
        }
        self.broken
            .iter()
            .filter(|b| b.identity.is_none() || b.isolating.is_none())
            .map(|b| b.message.clone())
            .collect()
    }

    /// Documents that stand in it more than once.
    pub(super) fn repeated(&self) -> Vec<Identity> {
        let mut seen = BTreeSet::new();
        let again = self.documents.iter().filter(|d| !seen.insert(&d.identity));
        again.map(|d| d.identity.clone()).collect()
    }

    /// What the file gives, given what it gave before.
    pub(super) fn hold(&self, before: &Holdings) -> Holdings {
        let mut held = Holdings::default();
        for document in &self.documents {
            if held.get(&document.identity).is_some() {
                continue;
            }
            // An equal document stays the very same value, so that it is cheap to see that nothing changed.
            let same = before
                .get(&document.identity)
                .filter(|held| !held.isolating && held.document == *document)
                .map(|held| Arc::clone(&held.document));
            let document = same.unwrap_or_else(|| Arc::clone(document));
            held.set(&document.identity.clone(), Some(Held::good(document)));
        }
        for broken in &self.broken {
            let Some(identity) = broken
                .identity
                .as_ref()
                .filter(|identity| held.get(identity).is_none())
            else {
                continue;
            };
            let message: Option<Arc<str>> = Some(broken.message.as_str().into());
            let good = before.get(identity).filter(|held| !held.isolating);
            let one = match (good, &broken.isolating) {
                (Some(good), _) => Held {
                    broken: message,
                    ..good.clone()
                },
                (None, Some(document)) => Held {
                    document: Arc::clone(document),
                    broken: message,
                    isolating: true,
                },
                (None, None) => continue,
            };
            held.set(identity, Some(one));
        }
        // Something in it cannot be told to be a document: whatever is missing may be that.
        if self.blank || self.broken.iter().any(|b| b.identity.is_none()) {
            let reason = self
                .broken
                .iter()
                .find(|b| b.identity.is_none())
                .map_or("holds no document", |b| &b.message);
            for one in before.kept_because(reason).0 {
                let identity = one.document.identity.clone();
                if held.get(&identity).is_none() {
                    held.set(&identity, Some(one));
                }
            }
        }
        held
    }

    /// A copy of what could not be read goes into `quarantine/`; it goes again once the file reads well.
    pub(super) fn keep_copy(&self, store: &Store, path: &RelPath, bytes: &[u8]) {
        let reason = self
            .complaints()
            .into_iter()
            .next()
            .or_else(|| self.broken.first().map(|b| b.message.clone()));
        let done = match reason {
            Some(reason) => store.quarantine(path.as_str(), bytes, &reason).map(|_| ()),
            None => store.release(path.as_str()).map(|_| ()),
        };
        if let Err(error) = done {
            tracing::debug!("quarantine copy of {path}: {error}");
        }
    }
}
