//! From bytes to objects: documents, Lists, kinds.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Item, ManifestError, Remark, cluster_policy, common, network_policy, objects};
use crate::model::{Object, ObjectKey, ObjectKind};
use policy::documents::{
    Fault, MAX_FILE_BYTES,
    cursor::{Cursor, FieldFault, Result},
    node::{Budget, Node, Tree},
    read::{text, yaml},
    split,
};

/// Size from which a JSON list is cut into its items before they are read, so that a large dump needs no large tree.
const LARGE: usize = 1 << 20;

/// The namespace of namespaced objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// Deepest nesting of Lists.
const MAX_LISTS: usize = 16;

/// Reads a file's bytes: one result per object, in the order of the file. It never fails as a whole, and a file without
/// any document is an empty list.
pub fn read(bytes: &[u8]) -> Vec<std::result::Result<Item, Box<ManifestError>>> {
    read_in(bytes, DEFAULT_NAMESPACE)
}

/// The same, with a namespace for namespaced objects that name none. It must be a namespace's name, see
/// [`is_namespace`].
pub fn read_in(
    bytes: &[u8],
    default_namespace: &str,
) -> Vec<std::result::Result<Item, Box<ManifestError>>> {
    let mut out = Reader::new(default_namespace);
    if bytes.len() > MAX_FILE_BYTES {
        out.refuse(Fault::TooLarge {
            bytes: bytes.len(),
            most: MAX_FILE_BYTES,
        });
        return out.items;
    }
    let text = text(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    // JSON is YAML too, but reads ten times as fast; what does not read as JSON gets its second chance.
    if text.trim_start().starts_with(['{', '[']) && out.take_json(text).is_some() {
        return out.items;
    }
    out = Reader::new(default_namespace);
    for part in split::documents(text) {
        out.document += 1;
        match yaml(part) {
            Ok(tree) if tree.root().is_null() => {}
            Ok(tree) => out.take(tree.root(), None, 0),
            Err(fault) => out.refuse(fault),
        }
    }
    out.items
}

/// Reads one object as the API server has it; it must have its apiVersion and kind.
pub fn read_value(value: &serde_json::Value) -> std::result::Result<Item, Box<ManifestError>> {
    let mut out = Reader::new(DEFAULT_NAMESPACE);
    out.document = 1;
    // A value without aliases is as long as it is.
    let budget = Budget::of_text(usize::MAX);
    match Tree::read(value, &budget) {
        Ok(tree) => out.take_object(tree.root(), None),
        Err(error) => out.refuse(Fault::Unreadable(error.to_string())),
    }
    // One object gives one result.
    out.items.pop().unwrap_or_else(|| {
        Err(Box::new(ManifestError {
            document: 1,
            item: None,
            object: String::new(),
            key: None,
            field: String::new(),
            fault: Fault::Missing("an object"),
        }))
    })
}

/// Whether a namespace can have this name.
pub fn is_namespace(name: &str) -> bool {
    common::is_name(name)
}

struct Reader<'n> {
    default_namespace: &'n str,
    items: Vec<std::result::Result<Item, Box<ManifestError>>>,
    /// The document that is being read, from 1.
    document: usize,
    /// Objects of a List so far; `None` = not in a List.
    item: Option<usize>,
}

/// apiVersion and kind that a typed list implies for its items.
type Implied<'a> = Option<(&'a str, &'a str)>;

/// The part of a JSON value that tells whether it is a List.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    #[serde(borrow)]
    api_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

impl<'n> Reader<'n> {
    fn new(default_namespace: &'n str) -> Self {
        Self {
            default_namespace,
            items: Vec::new(),
            document: 0,
            item: None,
        }
    }

    /// Takes one or several JSON values in a row; `None` where any is not JSON.
    fn take_json(&mut self, text: &str) -> Option<()> {
        // A deserializer that is asked whether it is at its end counts lines from the start to say where it is: values are
        // found by the stream, which does not.
        for value in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
            self.document += 1;
            self.take_json_value(value.ok()?.get())?;
        }
        Some(())
    }

    fn take_json_value(&mut self, text: &str) -> Option<()> {
        if text.len() > LARGE
            && let Ok(Head {
                api_version,
                kind: Some(kind),
                items: Some(items),
            }) = serde_json::from_str(text)
            && kind.ends_with("List")
        {
            self.item = Some(0);
            let implied = implied(api_version.as_deref(), &kind);
            for item in items {
                self.take_json_object(item.get(), implied, 1)?;
            }
            self.item = None;
            return Some(());
        }
        self.take_json_object(text, None, 0)
    }

    fn take_json_object(&mut self, text: &str, of_list: Implied<'_>, depth: usize) -> Option<()> {
        let budget = Budget::of_text(text.len());
        let tree = Tree::read(&mut serde_json::Deserializer::from_str(text), &budget).ok()?;
        self.take(tree.root(), of_list, depth);
        Some(())
    }

    /// Takes an object, or all of a List.
    fn take(&mut self, node: Node<'_>, of_list: Implied<'_>, depth: usize) {
        let text = |key| node.get(key).and_then(Node::text);
        if let Some(kind) = text("kind").filter(|kind| kind.ends_with("List"))
            && depth < MAX_LISTS
        {
            if depth == 0 {
                self.item = Some(0);
            }
            let implied = implied(text("apiVersion"), kind);
            for item in node
                .get("items")
                .and_then(Node::items)
                .into_iter()
                .flatten()
            {
                self.take(item, implied, depth + 1);
            }
            if depth == 0 {
                self.item = None;
            }
            return;
        }
        self.take_object(node, of_list);
    }

    fn take_object(&mut self, node: Node<'_>, of_list: Implied<'_>) {
        let (document, item) = (self.document, self.item);
        let mut remarks = Vec::new();
        let read = object(node, of_list, self.default_namespace, &mut remarks);
        self.items.push(match read {
            Ok(object) => Ok(Item {
                document,
                item,
                object,
                remarks,
            }),
            Err(broken) => {
                let (object, key, fault) = *broken;
                Err(Box::new(ManifestError {
                    document,
                    item,
                    object,
                    key,
                    field: fault.field,
                    fault: fault.fault,
                }))
            }
        });
        self.item = self.item.map(|item| item + 1);
    }

    fn refuse(&mut self, fault: Fault) {
        self.items.push(Err(Box::new(ManifestError {
            document: self.document.max(1),
            item: None,
            object: String::new(),
            key: None,
            field: String::new(),
            fault,
        })));
    }
}

/// What a list's kind says of its items, which in a typed list often have none.
fn implied<'a>(api_version: Option<&'a str>, kind: &'a str) -> Implied<'a> {
    let of = kind.strip_suffix("List").filter(|of| !of.is_empty())?;
    Some((api_version?, of))
}

type Broken = Box<(String, Option<ObjectKey>, FieldFault)>;

fn object(
    node: Node<'_>,
    of_list: Implied<'_>,
    default_namespace: &str,
    remarks: &mut Vec<Remark>,
) -> std::result::Result<Object, Broken> {
    let root = Cursor::root(node);
    let (api_version, kind_text) =
        head(&root, of_list).map_err(|fault| Box::new((String::new(), None, fault)))?;
    let kind = kind(&root, api_version, kind_text)
        .map_err(|fault| Box::new((common::shown(kind_text), None, fault)))?;
    let Some(kind) = kind else {
        let name = node.get("metadata").and_then(|m| m.get("name"));
        return Ok(Object::Ignored {
            api_version: common::shown(api_version),
            kind: common::shown(kind_text),
            name: name
                .and_then(Node::text)
                .map(common::shown)
                .unwrap_or_default(),
        });
    };
    let key = common::key(&root, kind, default_namespace)
        .map_err(|fault| Box::new((kind.name().to_owned(), None, fault)))?;
    let read = match kind {
        ObjectKind::NetworkPolicy | ObjectKind::ApplicationNetworkPolicy => {
            network_policy::read(&root, key.clone(), remarks)
        }
        kind if kind.is_policy() => cluster_policy::read(&root, key.clone(), remarks),
        _ => objects::read(&root, key.clone(), remarks),
    };
    read.map_err(|fault| Box::new((key.to_string(), Some(key), fault)))
}

/// apiVersion and kind.
fn head<'n>(root: &Cursor<'n, '_>, of_list: Implied<'n>) -> Result<(&'n str, &'n str)> {
    let text = |key| root.get(key)?.map(|c| c.text()).transpose();
    match (text("apiVersion")?, text("kind")?, of_list) {
        (Some(api_version), Some(kind), _) => Ok((api_version, kind)),
        (api_version, None, Some((of, kind))) => Ok((api_version.unwrap_or(of), kind)),
        (None, Some(kind), Some((of, _))) => Ok((of, kind)),
        (_, None, None) => Err(root.missing("kind", "the object's kind")),
        (None, Some(_), None) => Err(root.missing("apiVersion", "the kind's group and version")),
    }
}

/// The kind, `None` where it has no part in policy. A version of a known kind that is not known is an error: policy must
/// not be passed over.
fn kind(root: &Cursor<'_, '_>, api_version: &str, kind: &str) -> Result<Option<ObjectKind>> {
    let (group, version) = match api_version.split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", api_version),
    };
    let removed = group == "extensions" && kind == "NetworkPolicy";
    let Some(known) = ObjectKind::ALL
        .into_iter()
        .find(|known| known.kind() == kind && (known.group() == group || removed))
    else {
        return match resembles(kind).filter(|_| is_built_in(group)) {
            // kubectl has no such kind: most often a misspelt one, and then policy would be lost.
            Some(known) => {
                Err(root
                    .get("kind")?
                    .as_ref()
                    .unwrap_or(root)
                    .fault(Fault::UnknownKind {
                        api_version: common::shown(api_version),
                        kind: common::shown(kind),
                        expected: known,
                    }))
            }
            None => Ok(None),
        };
    };
    if removed || !known.versions().contains(&version) {
        let cursor = root.get("apiVersion")?;
        return Err(cursor
            .as_ref()
            .unwrap_or(root)
            .unknown(api_version, expected_version(known)));
    }
    Ok(Some(known))
}

/// Whether an API group is Kubernetes' own, or Amazon's, so that what is in it is known.
fn is_built_in(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io") || group.ends_with(".k8s.aws")
}

/// The kind that a word is another spelling of: other case, plural, the short form of kubectl.
fn resembles(kind: &str) -> Option<&'static str> {
    let word: String = kind
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    let is = |known: &'static str, short: &str| {
        let singular = known.to_ascii_lowercase();
        let plural = match singular.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{singular}s"),
        };
        word == singular || word == plural || (!short.is_empty() && word == short)
    };
    ObjectKind::ALL
        .into_iter()
        .map(|known| (known.kind(), known.short()))
        .chain([("List", "")])
        .find(|(known, short)| is(known, short))
        .map(|(known, _)| known)
}

const fn expected_version(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::NetworkPolicy => "networking.k8s.io/v1",
        ObjectKind::ApplicationNetworkPolicy | ObjectKind::AmazonClusterNetworkPolicy => {
            "networking.k8s.aws/v1alpha1"
        }
        ObjectKind::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2 or v1beta1",
        ObjectKind::AdminNetworkPolicy | ObjectKind::BaselineAdminNetworkPolicy => {
            "policy.networking.k8s.io/v1alpha1"
        }
        ObjectKind::EndpointSlice => "discovery.k8s.io/v1",
        _ => "v1",
    }
}
