//! PolicyEndpoint objects of one scope, put together by policy.

use std::collections::{BTreeMap, BTreeSet};

use policy::documents::{GENERATION, GROUP, PARTS};
use resolve::POLICY_GENERATION;
use serde_json::{Map, Value, json};

use crate::api::{Raw, Resource};

/// A policy, as documents refer to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PolicyName {
    /// Empty for cluster-wide ones.
    pub(crate) namespace: String,
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    pub(crate) policy: PolicyName,
    /// What the store holds of it.
    value: Value,
    /// `UID/GENERATION` of the policy it was resolved from; `None` = not by podgate.
    policy_generation: Option<String>,
    /// Group, generation and number of the parts of its set.
    set: Option<(Option<String>, String, usize)>,
    /// Namespace and name of the pods that it lists.
    pods: BTreeSet<(String, String)>,
}

impl Document {
    /// Reads an object; `None` where it is none at all, which the API does not let happen.
    pub(crate) fn read(resource: Resource, raw: &Raw) -> Option<Self> {
        let object: Value = serde_json::from_str(&raw.json).ok()?;
        let mut spec = object.get("spec").cloned().unwrap_or_else(|| json!({}));
        let text = |value: &Value, key: &str| {
            let text = value.get(key).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let reference = spec.get("policyRef").cloned().unwrap_or_default();
        let mut policy = PolicyName {
            namespace: raw.meta.namespace.clone(),
            kind: text(&reference, "kind"),
            name: text(&reference, "name"),
        };
        if policy.name.is_empty() {
            // It is its own policy.
            policy.kind = resource.kind.to_owned();
            policy.name.clone_from(&raw.meta.name);
        } else if policy.kind.is_empty() {
            policy.kind = kind_of_owner(resource, raw);
            if let Some(reference) = spec.get_mut("policyRef").and_then(Value::as_object_mut) {
                reference.insert("kind".into(), policy.kind.as_str().into());
            }
        }
        let annotations = &raw.meta.annotations;
        let ours: Map<String, Value> = annotations
            .iter()
            .filter(|(key, _)| key.starts_with("podgate.dev/"))
            .map(|(key, value)| (key.clone(), value.as_str().into()))
            .collect();
        let mut metadata = json!({ "name": raw.meta.name, "annotations": ours });
        if !raw.meta.namespace.is_empty() {
            metadata["namespace"] = raw.meta.namespace.as_str().into();
        }
        let parts = annotations.get(PARTS).and_then(|text| text.parse().ok());
        let pods = spec.get("podSelectorEndpoints").and_then(Value::as_array);
        Some(Self {
            policy_generation: annotations.get(POLICY_GENERATION).cloned(),
            set: parts.map(|parts| {
                let generation = annotations.get(GENERATION).cloned().unwrap_or_default();
                (annotations.get(GROUP).cloned(), generation, parts)
            }),
            pods: pods
                .into_iter()
                .flatten()
                .map(|pod| (text(pod, "namespace"), text(pod, "name")))
                .collect(),
            value: json!({
                "apiVersion": policy::documents::API_VERSION,
                "kind": resource.kind,
                "metadata": metadata,
                "spec": spec,
            }),
            policy,
        })
    }
}

/// Amazon's definition of the object has no place for the policy's kind: the owner tells it.
fn kind_of_owner(resource: Resource, raw: &Raw) -> String {
    let owner = raw
        .meta
        .owner_references
        .iter()
        .find(|owner| owner.controller);
    match owner {
        Some(owner)
            if owner.kind == "ClusterNetworkPolicy"
                && owner.api_version.starts_with("networking.k8s.aws/") =>
        {
            "ClusterNetworkPolicy.networking.k8s.aws".to_owned()
        }
        Some(owner) if Resource::of_policy_kind(&owner.kind).is_some() => owner.kind.clone(),
        _ if resource == Resource::POLICY_ENDPOINTS => "NetworkPolicy".to_owned(),
        _ => "ClusterNetworkPolicy".to_owned(),
    }
}

/// The objects of one scope, by policy.
#[derive(Default)]
pub(crate) struct Documents {
    /// The policy of each object.
    objects: BTreeMap<String, PolicyName>,
    policies: BTreeMap<PolicyName, BTreeMap<String, Document>>,
}

impl Documents {
    /// Takes an object; which policies that touches.
    pub(crate) fn put(&mut self, name: &str, document: Document) -> Vec<PolicyName> {
        let before = self.objects.get(name);
        let same = before == Some(&document.policy)
            && self
                .policies
                .get(&document.policy)
                .and_then(|of| of.get(name))
                == Some(&document);
        if same {
            return Vec::new();
        }
        let mut touched = self.remove(name);
        touched.push(document.policy.clone());
        self.objects
            .insert(name.to_owned(), document.policy.clone());
        self.policies
            .entry(document.policy.clone())
            .or_default()
            .insert(name.to_owned(), document);
        touched
    }

    /// Forgets an object; which policies that touches.
    pub(crate) fn remove(&mut self, name: &str) -> Vec<PolicyName> {
        let Some(policy) = self.objects.remove(name) else {
            return Vec::new();
        };
        if let Some(of) = self.policies.get_mut(&policy) {
            of.remove(name);
            if of.is_empty() {
                self.policies.remove(&policy);
            }
        }
        vec![policy]
    }

    /// Names of the objects.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.objects.keys()
    }

    /// The policies that have objects.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &PolicyName> {
        self.policies.keys()
    }

    /// One List of a policy's objects; `None` where it has none.
    pub(crate) fn list(&self, policy: &PolicyName) -> Option<Vec<u8>> {
        let items: Vec<&Value> = self
            .policies
            .get(policy)?
            .values()
            .map(|d| &d.value)
            .collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        Some(list.to_string().into_bytes())
    }

    /// Whether the objects say all that generation `UID/GENERATION` of a policy means for a pod. Of objects without
    /// podgate's mark existence is enough. `listed` = the policy selects the pod and selects by name only.
    pub(crate) fn cover(
        &self,
        policy: &PolicyName,
        generation: &str,
        listed: Option<&(String, String)>,
    ) -> bool {
        let Some(documents) = self.policies.get(policy) else {
            return false;
        };
        if documents
            .values()
            .any(|document| document.policy_generation.is_none())
        {
            return true;
        }
        let present = || {
            documents
                .values()
                .filter(|document| document.policy_generation.as_deref() == Some(generation))
        };
        let complete = |document: &&Document| {
            let Some((group, version, parts)) = &document.set else {
                return true;
            };
            // Groups of a NetworkPolicy only add; what isolates is in the set without one.
            let counts = group.is_none() || listed.is_some() || policy.namespace.is_empty();
            let same = present().filter(|other| other.set == document.set).count();
            counts && same >= *parts && !version.is_empty()
        };
        match listed {
            None => present().any(|document| complete(&document)),
            Some(pod) => present()
                .filter(|document| complete(document))
                .any(|document| document.pods.contains(pod)),
        }
    }
}
