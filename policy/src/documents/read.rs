//! A whole file: JSON or YAML, one document, several, or a `List`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Broken, Document, DocumentError, Identity, Kind,
    broken::isolating,
    cursor::Cursor,
    fault::Fault,
    node::{Budget, Node, Tree},
    parse, split,
};

/// Largest file that is read; a policy of 60,000 peers with 24 port ranges each takes about half of it.
pub const MAX_FILE_BYTES: usize = 128 << 20;

/// Size from which a JSON list is cut into its items before they are read.
const LARGE: usize = 2 << 20;

/// Deepest nesting of brackets that is given to the YAML parser.
const MAX_NESTING: usize = 256;

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// One result per document, in the order of the file.
    pub documents: Vec<Result<Document, Box<Broken>>>,
    /// The file holds no document at all, not even an empty List: it counts as broken, not as a removal.
    pub blank: bool,
    listed: bool,
}

impl Reading {
    /// The documents that are good.
    pub fn good(&self) -> impl Iterator<Item = &Document> {
        self.documents.iter().filter_map(|d| d.as_ref().ok())
    }

    /// Those that are not.
    pub fn broken(&self) -> impl Iterator<Item = &Broken> {
        self.documents
            .iter()
            .filter_map(|d| d.as_ref().err().map(AsRef::as_ref))
    }
}

/// Reads a file's bytes; never fails as a whole.
pub fn read(bytes: &[u8]) -> Reading {
    let mut out = Reading::default();
    if bytes.len() > MAX_FILE_BYTES {
        out.refuse(Fault::TooLarge {
            bytes: bytes.len(),
            most: MAX_FILE_BYTES,
        });
        return out;
    }
    let text = text(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    // JSON is YAML too, but reads ten times as fast; what does not read as JSON gets its second chance.
    if text.trim_start().starts_with(['{', '[']) && out.take_json(text, None).is_some() {
        return out;
    }
    out = Reading::default();
    for part in split::documents(text) {
        match yaml(part) {
            // An empty document between two marks.
            Ok(tree) if tree.root().is_null() => {}
            Ok(tree) => out.take(tree.root(), None),
            Err(fault) => out.refuse(fault),
        }
    }
    out.blank = out.documents.is_empty() && !out.listed;
    out
}

/// The bytes as text. What is not UTF-8 becomes NUL, which neither JSON nor YAML takes: it breaks its own document only.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => bytes
            .utf8_chunks()
            .flat_map(|chunk| {
                [
                    chunk.valid(),
                    if chunk.invalid().is_empty() { "" } else { "\0" },
                ]
            })
            .collect(),
    }
}

/// The part of a JSON value that tells whether it is a list.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

/// Reads one YAML document; aliases and nesting are bounded.
pub fn yaml(part: &str) -> Result<Tree<'_>, Fault> {
    // The parser's time grows with the square of the nesting, and only then does it refuse.
    if split::nesting(part) > MAX_NESTING {
        return Err(Fault::Nested(MAX_NESTING));
    }
    let budget = Budget::of_text(part.len());
    Tree::read_yaml(serde_norway::Deserializer::from_str(part), &budget).map_err(|error| {
        if budget.spent() {
            Fault::Unfolds
        } else {
            Fault::Unreadable(error.to_string())
        }
    })
}

impl Reading {
    /// Takes one or several JSON values in a row; `None` where any is not JSON.
    fn take_json(&mut self, text: &str, implied: Option<Kind>) -> Option<()> {
        // A large list is read item by item, so that it needs no large tree.
        if text.len() > LARGE
            && let Ok(Head {
                kind: Some(kind),
                items: Some(items),
            }) = serde_json::from_str(text)
            && let Some(of_items) = list_kind(&kind)
        {
            self.listed = true;
            return items
                .iter()
                .try_for_each(|item| self.take_json(item.get(), of_items.or(implied)));
        }
        let budget = Budget::of_text(text.len());
        let mut deserializer = serde_json::Deserializer::from_str(text);
        loop {
            let tree = Tree::read(&mut deserializer, &budget).ok()?;
            self.take(tree.root(), implied);
            if deserializer.end().is_ok() {
                return Some(());
            }
        }
    }

    fn take(&mut self, node: Node<'_>, implied: Option<Kind>) {
        if let Some((kind, items)) = list(node) {
            self.listed = true;
            for item in items {
                self.take(item, kind.or(implied));
            }
            return;
        }
        let index = self.documents.len();
        self.documents.push(document(node, implied, index));
    }

    fn refuse(&mut self, fault: Fault) {
        let index = self.documents.len();
        let error = DocumentError {
            document: label(index, None),
            field: String::new(),
            fault,
        };
        self.documents.push(Err(Box::new(Broken {
            index,
            identity: None,
            error,
            isolating: None,
        })));
    }
}

/// What a list's kind says of its items, which in a typed list often have none; `None` = not a list.
fn list_kind(kind: &str) -> Option<Option<Kind>> {
    match kind {
        "List" => Some(None),
        "PolicyEndpointList" => Some(Some(Kind::PolicyEndpoint)),
        "ClusterPolicyEndpointList" => Some(Some(Kind::ClusterPolicyEndpoint)),
        _ => None,
    }
}

/// The items of a `List`, and their kind.
fn list<'n>(node: Node<'n>) -> Option<(Option<Kind>, Vec<Node<'n>>)> {
    let root = Cursor::root(node);
    let kind = list_kind(root.get("kind").ok()??.text().ok()?)?;
    match root.get("items").ok()? {
        None => Some((kind, Vec::new())),
        Some(items) => Some((kind, items.node.items()?.collect())),
    }
}

fn document(node: Node<'_>, implied: Option<Kind>, index: usize) -> Result<Document, Box<Broken>> {
    let root = Cursor::root(node);
    let mut identity = None;
    let fault = match parse::kind(&root, implied) {
        Err(fault) => fault,
        Ok(kind) => match parse::document(&root, kind) {
            Ok(document) => return Ok(document),
            Err(fault) => {
                identity = parse::identity(&root, kind).ok();
                fault
            }
        },
    };
    let isolating = identity
        .as_ref()
        .and_then(|id| isolating(node, id.kind, id))
        .map(Box::new);
    let error = DocumentError {
        document: label(index, identity.as_ref()),
        field: fault.field,
        fault: fault.fault,
    };
    Err(Box::new(Broken {
        index,
        identity,
        error,
        isolating,
    }))
}

fn label(index: usize, identity: Option<&Identity>) -> String {
    match identity {
        Some(identity) => format!("document {} ({identity})", index + 1),
        None => format!("document {}", index + 1),
    }
}
