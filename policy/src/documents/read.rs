//! A whole file: JSON or YAML, one document, several, or a `List`.

use serde::de::DeserializeSeed;

use super::{
    Broken, Document, DocumentError, Identity, Kind,
    broken::isolating,
    cursor::Cursor,
    fault::Fault,
    node::{Budget, Node, Seed},
    parse, split,
};

/// Largest file that is read; a policy of 60,000 peers with 24 port ranges each takes about half of it.
pub const MAX_FILE_BYTES: usize = 128 << 20;

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
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            out.refuse(Fault::Unreadable(format!(
                "byte {} is not UTF-8",
                error.valid_up_to()
            )));
            return out;
        }
    };
    // JSON is YAML too, but reads ten times as fast; what does not read as JSON gets its second chance.
    if let Some(nodes) = text
        .trim_start()
        .starts_with(['{', '['])
        .then(|| json(text))
        .flatten()
    {
        for node in &nodes {
            out.take(node, None);
        }
        return out;
    }
    for part in split::documents(text) {
        match yaml(part) {
            // An empty document between two marks.
            Ok(Node::Null) => {}
            Ok(node) => out.take(&node, None),
            Err(fault) => out.refuse(fault),
        }
    }
    out.blank = out.documents.is_empty() && !out.listed;
    out
}

/// One or several JSON values in a row; `None` where any is not JSON.
fn json(text: &str) -> Option<Vec<Node<'_>>> {
    let budget = Budget::of_text(text.len());
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut nodes = Vec::new();
    loop {
        nodes.push(Seed(&budget).deserialize(&mut deserializer).ok()?);
        if deserializer.end().is_ok() {
            break;
        }
    }
    Some(nodes)
}

fn yaml(part: &str) -> Result<Node<'_>, Fault> {
    // The parser's time grows with the square of the nesting, and only then does it refuse.
    if split::nesting(part) > MAX_NESTING {
        return Err(Fault::Nested(MAX_NESTING));
    }
    let budget = Budget::of_text(part.len());
    Seed(&budget)
        .deserialize(serde_norway::Deserializer::from_str(part))
        .map_err(|error| {
            if budget.spent() {
                Fault::Unfolds
            } else {
                Fault::Unreadable(error.to_string())
            }
        })
}

impl Reading {
    fn take(&mut self, node: &Node<'_>, implied: Option<Kind>) {
        if let Some((kind, items)) = list(node) {
            self.listed = true;
            for item in items {
                self.take(item, kind.or(implied));
            }
            return;
        }
        let index = self.documents.len();
        let result = document(node, implied, index);
        self.documents.push(result);
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

/// The items of a `List`, and their kind where the list is typed (its items often have none).
fn list<'n>(node: &'n Node<'n>) -> Option<(Option<Kind>, &'n [Node<'n>])> {
    let kind = match node.get("kind")?.text()? {
        "List" => None,
        "PolicyEndpointList" => Some(Kind::PolicyEndpoint),
        "ClusterPolicyEndpointList" => Some(Kind::ClusterPolicyEndpoint),
        _ => return None,
    };
    match node.get("items") {
        None | Some(Node::Null) => Some((kind, &[])),
        Some(Node::List(items)) => Some((kind, items)),
        Some(_) => None,
    }
}

fn document(node: &Node<'_>, implied: Option<Kind>, index: usize) -> Result<Document, Box<Broken>> {
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
