//! What can still be seen of a document that is broken.

use super::{
    Directions, Document, DocumentError, Identity, Kind, PolicyRef, Tier,
    cursor::Cursor,
    node::Node,
    parse::{self, Marks},
};

/// A document that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Place in the file, from 0.
    pub index: usize,
    /// Which document it is, if that much could be read: its last good version stays in force.
    pub identity: Option<Identity>,
    /// What is wrong.
    pub error: DocumentError,
    /// For where there is no good version: a document that isolates the pods this one can still be seen to select and
    /// lets nothing pass. It takes part in the policy's set like any other.
    pub isolating: Option<Box<Document>>,
}

/// The isolating stand-in; `None` where no pod can be seen.
pub(super) fn isolating(node: Node<'_>, kind: Kind, identity: &Identity) -> Option<Document> {
    let root = Cursor::root(node);
    let spec = node.get("spec")?;
    let listed = spec
        .get("podSelectorEndpoints")
        .and_then(Node::items)
        .into_iter()
        .flatten();
    let mut pods: Vec<_> = listed
        .filter_map(|entry| parse::pod(&Cursor::root(entry), identity).ok())
        .collect();
    pods.sort_unstable();
    pods.dedup();
    let selector = parse::selector(&root, kind).ok().flatten();
    if pods.is_empty() && selector.is_none() {
        return None;
    }
    let marks = parse::marks(&root).unwrap_or_else(|_| Marks::default());
    Some(Document {
        identity: identity.clone(),
        policy: parse::policy_ref(&root, identity).unwrap_or_else(|_| PolicyRef {
            kind: kind.name().to_owned(),
            namespace: identity.namespace.clone(),
            name: identity.name.clone(),
        }),
        group: marks.group,
        part: marks.part,
        ordered: marks.ordered,
        tier: Tier::NetworkPolicy,
        priority: 0,
        pods: pods.into(),
        selector,
        isolates: directions(&root, spec, kind),
        ingress: Vec::new(),
        egress: Vec::new(),
        unsupported: Vec::new(),
        service_wider: None,
        host_network_peer: None,
    })
}

/// The directions that the document means to judge; both where that cannot be told.
fn directions(root: &Cursor<'_, '_>, spec: Node<'_>, kind: Kind) -> Directions<bool> {
    let empty = |node: Node<'_>| {
        node.is_null() || node.items().is_some_and(|mut items| items.next().is_none())
    };
    let wants = |key| spec.get(key).is_some_and(|node| !empty(node));
    let judged = Directions {
        ingress: wants("ingress"),
        egress: wants("egress"),
    };
    match (kind, parse::isolation(root)) {
        (Kind::PolicyEndpoint, Ok(named)) => Directions {
            ingress: named.ingress || judged.ingress,
            egress: named.egress || judged.egress,
        },
        (Kind::ClusterPolicyEndpoint, _) if judged != Directions::default() => judged,
        _ => Directions {
            ingress: true,
            egress: true,
        },
    }
}
