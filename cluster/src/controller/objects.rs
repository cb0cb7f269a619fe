//! PolicyEndpoint objects: what should be, what is, and whether that is the same.

use std::collections::BTreeMap;

use resolve::ObjectKey;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    FIELD_MANAGER,
    api::{OwnerReference, Raw, Resource},
};

/// Field managers of Amazon's controller: Go programs bear the name of their binary.
const AMAZON: [&str; 3] = [
    "controller",
    "amazon-network-policy-controller",
    "amazon-network-policy-controller-k8s",
];

/// An object: namespace (empty = a ClusterPolicyEndpoint) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Name {
    pub(crate) fn resource(&self) -> Resource {
        if self.namespace.is_empty() {
            Resource::CLUSTER_POLICY_ENDPOINTS
        } else {
            Resource::POLICY_ENDPOINTS
        }
    }
}

/// What podgate decides of an object, as a digest.
pub(crate) type Essence = [u8; 32];

/// An object as it should be.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    pub(crate) name: Name,
    pub(crate) essence: Essence,
    pub(crate) value: Value,
}

impl Desired {
    /// A document of the resolver with its owner.
    pub(crate) fn new(mut document: Value, owner: &OwnerReference) -> Self {
        let metadata = &document["metadata"];
        let text = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
        let name = Name {
            namespace: text("namespace"),
            name: text("name"),
        };
        document["metadata"]["ownerReferences"] = json!([owner]);
        let annotations = document["metadata"]["annotations"].clone();
        Self {
            essence: essence(&annotations, &json!([owner]), &document["spec"]),
            name,
            value: document,
        }
    }
}

/// An object as the API has it.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) uid: String,
    /// Orders what came by a watch and what a write returned.
    pub(crate) version: u64,
    /// podgate-controller wrote it.
    pub(crate) is_ours: bool,
    /// Amazon's controller wrote it.
    pub(crate) is_amazons: bool,
    /// The policy that owns it.
    pub(crate) policy: Option<ObjectKey>,
    pub(crate) essence: Essence,
    /// By type: message, and since when.
    pub(crate) conditions: BTreeMap<String, (String, String)>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Object {
    metadata: Metadata,
    spec: Value,
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    annotations: BTreeMap<String, String>,
    owner_references: Vec<OwnerReference>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    message: String,
    last_transition_time: String,
}

impl Observed {
    pub(crate) fn read(raw: &Raw) -> Self {
        let object: Object = serde_json::from_str(&raw.json).unwrap_or_default();
        let managers = || {
            raw.meta
                .managed_fields
                .iter()
                .map(|field| field.manager.as_str())
        };
        let is_ours = managers().any(|manager| manager == FIELD_MANAGER);
        let annotations: BTreeMap<_, _> = object
            .metadata
            .annotations
            .into_iter()
            .filter(|(key, _)| key.starts_with("podgate.dev/"))
            .collect();
        let owners = &object.metadata.owner_references;
        let conditions = object.status.conditions.into_iter();
        Self {
            uid: raw.meta.uid.clone(),
            version: raw.meta.resource_version.parse().unwrap_or_default(),
            is_amazons: !is_ours && managers().any(|manager| AMAZON.contains(&manager)),
            is_ours,
            policy: owners
                .iter()
                .find(|owner| owner.controller)
                .and_then(|owner| policy_of(owner, &raw.meta.namespace)),
            essence: essence(&json!(annotations), &json!(owners), &object.spec),
            conditions: conditions
                .map(|c| (c.kind, (c.message, c.last_transition_time)))
                .collect(),
        }
    }
}

fn policy_of(owner: &OwnerReference, namespace: &str) -> Option<ObjectKey> {
    let group = owner
        .api_version
        .split_once('/')
        .map_or("", |(group, _)| group);
    let resource = Resource::CLUSTER_POLICIES
        .into_iter()
        .chain(Resource::NAMESPACED_POLICIES)
        .find(|resource| resource.group == group && resource.kind == owner.kind)?;
    let meta = crate::api::Meta {
        namespace: namespace.to_owned(),
        name: owner.name.clone(),
        ..Default::default()
    };
    crate::inputs::object_key(resource, &meta)
}

/// `policyRef.kind` is left out: Amazon's definition of the object has no place for it, and the owner says the same.
fn essence(annotations: &Value, owners: &Value, spec: &Value) -> Essence {
    let mut spec = spec.clone();
    if let Some(reference) = spec.get_mut("policyRef").and_then(Value::as_object_mut) {
        reference.remove("kind");
    }
    let mut hash = Sha256::new();
    for part in [annotations, owners, &spec] {
        let text = part.to_string();
        hash.update(text.len().to_be_bytes());
        hash.update(text);
    }
    hash.finalize().into()
}

/// Every PolicyEndpoint of the cluster.
#[derive(Default)]
pub(crate) struct Objects {
    by_name: BTreeMap<Name, Observed>,
}

impl Objects {
    pub(crate) fn get(&self, name: &Name) -> Option<&Observed> {
        self.by_name.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Name, &Observed)> {
        self.by_name.iter()
    }

    /// Takes an object, unless a newer one is known; the policy that it concerns.
    pub(crate) fn put(&mut self, raw: &Raw) -> Option<ObjectKey> {
        let name = name_of(raw);
        let observed = Observed::read(raw);
        let before = self.by_name.get(&name);
        if before
            .is_some_and(|before| before.version >= observed.version && before.uid == observed.uid)
        {
            return None;
        }
        let policy = observed.policy.clone();
        self.by_name.insert(name, observed);
        policy
    }

    /// Forgets an object; the policy that it concerned.
    pub(crate) fn remove(&mut self, name: &Name) -> Option<ObjectKey> {
        self.by_name.remove(name)?.policy
    }

    /// Takes a complete list of one resource; the policies concerned.
    pub(crate) fn listed(
        &mut self,
        resource: Resource,
        items: &[Raw],
        version: &str,
    ) -> Vec<ObjectKey> {
        let version: u64 = version.parse().unwrap_or(u64::MAX);
        let now: std::collections::BTreeSet<Name> = items.iter().map(name_of).collect();
        let gone: Vec<Name> = self
            .by_name
            .iter()
            .filter(|(name, _)| name.resource() == resource && !now.contains(*name))
            // Written by us after the list was made.
            .filter(|(_, observed)| observed.version <= version)
            .map(|(name, _)| name.clone())
            .collect();
        let mut touched: Vec<ObjectKey> =
            gone.iter().filter_map(|name| self.remove(name)).collect();
        touched.extend(items.iter().filter_map(|raw| self.put(raw)));
        touched
    }

    /// Ours, of one policy.
    pub(crate) fn of_policy(&self, policy: &ObjectKey) -> impl Iterator<Item = (&Name, &Observed)> {
        // Objects of a policy are in its own namespace.
        let first = Name {
            namespace: policy.namespace.clone(),
            name: String::new(),
        };
        self.by_name
            .range(first..)
            .take_while(|(name, _)| name.namespace == policy.namespace)
            .filter(|(_, observed)| observed.is_ours && observed.policy.as_ref() == Some(policy))
    }
}

pub(crate) fn name_of(raw: &Raw) -> Name {
    Name {
        namespace: raw.meta.namespace.clone(),
        name: raw.meta.name.clone(),
    }
}
