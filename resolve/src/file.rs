//! The file of one policy: its documents, cut to size and marked, so that a node takes them as a whole.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    allow::PortSet,
    finding::Finding,
    model::{ObjectKey, PolicyObject},
};
use policy::{
    documents::{
        API_VERSION, Action, Directions, GENERATION, GROUP, HOST_NETWORK_PEER, Kind, ORDERED,
        PARTS, PolicyRef, SERVICE_WIDER, Tier, port_json, selector_json, split,
    },
    prefix::Prefix,
    select::Selector,
};

/// Annotation: who wrote a document; only what bears it with the value `resolve` is ever removed by `resolve`.
pub const MANAGED_BY: &str = "podgate.dev/managed-by";

/// The value of [`MANAGED_BY`] in what `resolve` wrote.
pub const MANAGED_BY_VALUE: &str = "resolve";

/// Annotation: uid and metadata.generation of the policy that was resolved, `uid/generation`.
pub const POLICY_GENERATION: &str = "podgate.dev/policy-generation";

/// The longest name of a file: with what a temporary file adds, it stays below the 255 bytes of file systems.
const LONGEST_NAME: usize = 200;
/// How much of a longer one stays readable.
const KEPT_OF_LONG: usize = 120;

/// Entries of each list of one document, at most.
const CHUNK: usize = 200;

/// Documents of one group, before they are cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) group: Option<String>,
    /// Sorted.
    pub(super) pods: Vec<Member>,
    pub(super) selector: Option<Selector>,
    pub(super) isolates: Directions<bool>,
    pub(super) ingress: Vec<Line>,
    pub(super) egress: Vec<Line>,
}

/// A pod that a set is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) namespace: String,
    pub(super) name: String,
    /// hostIP and podIP, where [`crate::Options::endpoint_addresses`] asks for them.
    pub(super) addresses: Option<(Option<IpAddr>, Option<IpAddr>)>,
}

impl Member {
    fn to_json(&self) -> Value {
        let mut out = Map::new();
        if let Some((host, pod)) = &self.addresses {
            let text = |address: &Option<IpAddr>| match address {
                Some(address) => Value::from(address.to_string()),
                None => "".into(),
            };
            out.insert("hostIP".into(), text(host));
            out.insert("podIP".into(), text(pod));
        }
        out.insert("name".into(), self.name.as_str().into());
        out.insert("namespace".into(), self.namespace.as_str().into());
        out.into()
    }
}

/// What the objects of a policy are marked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks<'a> {
    /// The value of [`MANAGED_BY`].
    pub managed_by: &'a str,
    /// Whether [`POLICY_GENERATION`] stands on them.
    pub policy_generation: bool,
}

impl Default for Marks<'_> {
    /// Those of `podgatectl resolve`.
    fn default() -> Self {
        Self {
            managed_by: MANAGED_BY_VALUE,
            policy_generation: false,
        }
    }
}

/// One rule of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) what: What,
    pub(super) ports: PortSet,
    pub(super) action: Action,
}

/// What a line is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Block { cidr: Prefix, except: Vec<Prefix> },
    Domain(String),
}

/// The file of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// The policy.
    pub policy: PolicyRef,
    key: ObjectKey,
    name: String,
    kind: Kind,
    tier: Tier,
    priority: u16,
    sets: Vec<Set>,
    uid: String,
    generation: i64,
    findings: Vec<Finding>,
    wider: Vec<String>,
    host_network: Vec<String>,
}

impl PolicyFile {
    pub(super) fn new(
        policy: &PolicyObject,
        sets: Vec<Set>,
        findings: Vec<Finding>,
        wider: BTreeSet<String>,
        host_network: BTreeSet<String>,
    ) -> Self {
        Self {
            policy: policy_ref(policy.key()),
            key: policy.key().clone(),
            name: file_name(policy.key()),
            kind: match policy.is_ordered() {
                true => Kind::ClusterPolicyEndpoint,
                false => Kind::PolicyEndpoint,
            },
            tier: policy.tier,
            priority: policy.priority,
            sets,
            uid: policy.uid.clone(),
            generation: policy.generation,
            findings,
            wider: wider.into_iter().collect(),
            host_network: host_network.into_iter().collect(),
        }
    }

    /// The policy's manifest.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// The file's name, see [`file_name()`].
    pub fn file_name(&self) -> &str {
        &self.name
    }

    /// The uid of the manifest that was resolved; empty where it has none.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The `metadata.generation` of the manifest that was resolved; 0 where it has none.
    pub fn generation(&self) -> i64 {
        self.generation
    }

    /// What to tell the user.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Services, `namespace/name`, whose address is allowed although not every backend is.
    pub fn service_wider(&self) -> &[String] {
        &self.wider
    }

    /// The documents, in the order of the file.
    pub fn documents(&self, marks: &Marks<'_>) -> Vec<Value> {
        self.sets
            .iter()
            .flat_map(|set| self.parts(set, marks))
            .collect()
    }

    /// The documents as one `List` in JSON.
    pub fn to_list_json(&self, marks: &Marks<'_>) -> Vec<u8> {
        json!({"apiVersion": "v1", "kind": "List", "items": self.documents(marks)})
            .to_string()
            .into_bytes()
    }

    /// The file's text: YAML, each document after a line `---`.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        for document in self.documents(&Marks::default()) {
            out += "---\n";
            // A tree of maps, lists, texts and numbers always renders.
            out += &serde_norway::to_string(&document).unwrap_or_default();
        }
        out
    }

    /// The documents of one set: its three lists cut each on its own, as Amazon's controller does.
    fn parts(&self, set: &Set, marks: &Marks<'_>) -> Vec<Value> {
        let longest = set.pods.len().max(set.ingress.len()).max(set.egress.len());
        let count = longest.div_ceil(CHUNK).max(1);
        let specs: Vec<Value> = (0..count).map(|part| self.spec(set, part)).collect();
        let texts: Vec<String> = specs.iter().map(ToString::to_string).collect();
        let generation = digest(&texts, 16);
        let stem = self.stem(set);
        specs
            .into_iter()
            .enumerate()
            .map(|(part, spec)| {
                let mut annotations = Map::new();
                annotations.insert(MANAGED_BY.into(), marks.managed_by.into());
                annotations.insert(PARTS.into(), count.to_string().into());
                annotations.insert(GENERATION.into(), generation.as_str().into());
                if let Some(group) = &set.group {
                    annotations.insert(GROUP.into(), group.as_str().into());
                }
                if self.kind == Kind::ClusterPolicyEndpoint {
                    annotations.insert(ORDERED.into(), "true".into());
                }
                if !self.wider.is_empty() {
                    annotations.insert(SERVICE_WIDER.into(), self.wider.join(",").into());
                }
                if !self.host_network.is_empty() {
                    let pods = self.host_network.join(",");
                    annotations.insert(HOST_NETWORK_PEER.into(), pods.into());
                }
                if marks.policy_generation {
                    let of = format!("{}/{}", self.uid, self.generation);
                    annotations.insert(POLICY_GENERATION.into(), of.into());
                }
                let mut metadata = Map::new();
                metadata.insert("name".into(), format!("{stem}-{}", part + 1).into());
                if !self.policy.namespace.is_empty() {
                    metadata.insert("namespace".into(), self.policy.namespace.as_str().into());
                }
                metadata.insert("annotations".into(), annotations.into());
                json!({
                    "apiVersion": API_VERSION,
                    "kind": self.kind.name(),
                    "metadata": metadata,
                    "spec": spec,
                })
            })
            .collect()
    }

    /// The name of a set's documents without their number: no two sets of a namespace share one.
    fn stem(&self, set: &Set) -> String {
        let of = [
            self.policy.kind.as_str(),
            &self.policy.name,
            set.group.as_deref().unwrap_or(""),
        ];
        let name: String = self.policy.name.chars().take(200).collect();
        let name = name.trim_end_matches(['-', '.']);
        format!("{name}-{}", digest(&of, 10))
    }

    fn spec(&self, set: &Set, part: usize) -> Value {
        let mut spec = Map::new();
        let mut reference = Map::new();
        reference.insert("kind".into(), self.policy.kind.as_str().into());
        reference.insert("name".into(), self.policy.name.as_str().into());
        if !self.policy.namespace.is_empty() {
            reference.insert("namespace".into(), self.policy.namespace.as_str().into());
        }
        spec.insert("policyRef".into(), reference.into());
        if self.kind == Kind::ClusterPolicyEndpoint {
            spec.insert("tier".into(), self.tier.name().into());
            spec.insert("priority".into(), self.priority.into());
        } else {
            let directions = [
                (set.isolates.ingress, "Ingress"),
                (set.isolates.egress, "Egress"),
            ];
            let isolation = directions.iter().filter(|(is, _)| *is);
            spec.insert(
                "podIsolation".into(),
                isolation.map(|(_, name)| Value::from(*name)).collect(),
            );
            if let Some(selector) = &set.selector {
                spec.insert("podSelector".into(), selector_json(selector));
            }
        }
        let pods = chunk(&set.pods, part).iter();
        spec.insert(
            "podSelectorEndpoints".into(),
            pods.map(Member::to_json).collect(),
        );
        for (key, list) in [("ingress", &set.ingress), ("egress", &set.egress)] {
            let rules = chunk(list, part).iter();
            spec.insert(
                key.into(),
                rules.map(|line| line_json(line, self.kind)).collect(),
            );
        }
        spec.into()
    }
}

fn chunk<T>(list: &[T], part: usize) -> &[T] {
    let from = (part * CHUNK).min(list.len());
    &list[from..(from + CHUNK).min(list.len())]
}

fn line_json(line: &Line, kind: Kind) -> Value {
    let mut out = Map::new();
    match &line.what {
        What::Domain(name) => {
            out.insert("domainName".into(), name.as_str().into());
        }
        What::Block { cidr, except } => {
            out.insert("cidr".into(), cidr.to_string().into());
            if !except.is_empty() {
                let holes = except.iter().map(|hole| Value::from(hole.to_string()));
                out.insert("except".into(), holes.collect());
            }
        }
    }
    if let PortSet::Some(entries) = &line.ports {
        out.insert("ports".into(), entries.iter().map(port_json).collect());
    }
    if kind == Kind::ClusterPolicyEndpoint {
        out.insert("action".into(), line.action.name().into());
    }
    out.into()
}

/// A name for what a set of lines says: the same for the same lines.
pub(super) fn group_name(set: &Set) -> String {
    let texts: Vec<String> = set
        .ingress
        .iter()
        .map(|line| ("ingress", line))
        .chain(set.egress.iter().map(|line| ("egress", line)))
        .map(|(key, line)| format!("{key} {}", line_json(line, Kind::ClusterPolicyEndpoint)))
        .collect();
    digest(&texts, 10)
}

/// A digest that reads as text everywhere: `g` and hexadecimal digits.
fn digest(texts: &[impl AsRef<str>], digits: usize) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.as_ref().len().to_be_bytes());
        hash.update(text.as_ref());
    }
    let hex = hash
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect::<String>();
    format!("g{}", &hex[..digits])
}

pub(super) fn policy_ref(key: &ObjectKey) -> PolicyRef {
    PolicyRef {
        kind: key.kind.name().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

/// The name of a policy's file: `<namespace>_<policy>_<kind>.yaml`; of a cluster-wide one `cluster_<policy>_<kind>.yaml`.
/// Where that is longer than 200 bytes, it is the beginning, `~` and a digest, as everywhere in the store.
pub fn file_name(key: &ObjectKey) -> String {
    let namespace = match key.namespace.as_str() {
        "" => "cluster",
        namespace => namespace,
    };
    let name = format!("{namespace}_{}_{}.yaml", key.name, key.kind.name());
    if name.len() <= LONGEST_NAME {
        return name;
    }
    let beginning: String = name.chars().take(KEPT_OF_LONG).collect();
    format!("{beginning}~{}.yaml", digest(&[&name], 32))
}

/// Whether a file is one that `resolve` wrote: every document of it bears the mark.
pub fn is_managed(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let mark = format!("{MANAGED_BY}: {MANAGED_BY_VALUE}");
    let documents = split::documents(text);
    !documents.is_empty()
        && documents
            .iter()
            .all(|part| part.lines().any(|line| line.trim() == mark))
}
