//! Objects of the API on their way into the resolver, and what has to be known about policies beside it.
//!
//! Invariant: a list replaces what came under its token before; what cannot be read keeps its last good version.

use std::collections::{BTreeMap, BTreeSet};

use resolve::{Changes, Cluster, Object, ObjectKey, ObjectKind, Options, manifest};

use crate::api::{Meta, OwnerReference, Raw, Resource, Scope};

/// What is followed: a resource in a scope.
pub(crate) type Token = (Resource, Scope);

/// What is known of a policy beside its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyMeta {
    /// `UID/GENERATION`.
    pub(crate) generation: String,
    pub(crate) owner: OwnerReference,
    /// Why this generation cannot be used.
    pub(crate) invalid: Option<String>,
}

/// The resolver, and the lists that fill it.
pub(crate) struct Inputs {
    pub(crate) cluster: Cluster,
    keys: BTreeMap<Token, BTreeSet<ObjectKey>>,
    policies: BTreeMap<ObjectKey, PolicyMeta>,
    /// Policies whose metadata changed since the last [`Inputs::resolve`].
    renewed: BTreeSet<ObjectKey>,
}

impl Inputs {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            cluster: Cluster::new(options),
            keys: BTreeMap::new(),
            policies: BTreeMap::new(),
            renewed: BTreeSet::new(),
        }
    }

    /// Takes a complete list.
    pub(crate) fn listed(&mut self, token: &Token, items: &[Raw]) {
        let now: BTreeSet<ObjectKey> = items
            .iter()
            .filter_map(|raw| object_key(token.0, &raw.meta))
            .collect();
        let before = self.keys.remove(token).unwrap_or_default();
        for key in before.difference(&now) {
            self.forget(key);
        }
        self.keys.insert(token.clone(), now);
        for raw in items {
            self.apply(token.0, raw);
        }
    }

    /// Takes one object.
    pub(crate) fn changed(&mut self, token: &Token, raw: &Raw) {
        if let Some(key) = object_key(token.0, &raw.meta) {
            self.keys.entry(token.clone()).or_default().insert(key);
            self.apply(token.0, raw);
        }
    }

    /// One object is gone.
    pub(crate) fn gone(&mut self, token: &Token, meta: &Meta) {
        if let Some(key) = object_key(token.0, meta) {
            if let Some(keys) = self.keys.get_mut(token) {
                keys.remove(&key);
            }
            self.forget(&key);
        }
    }

    /// What came under a token is no longer followed.
    pub(crate) fn drop_token(&mut self, token: &Token) {
        for key in self.keys.remove(token).unwrap_or_default() {
            self.forget(&key);
        }
    }

    /// Whether a token's list has been read.
    pub(crate) fn has(&self, token: &Token) -> bool {
        self.keys.contains_key(token)
    }

    /// Resolves; the second value names policies whose uid, generation or validity is new.
    pub(crate) fn resolve(&mut self) -> (Changes, BTreeSet<ObjectKey>) {
        (self.cluster.resolve(), std::mem::take(&mut self.renewed))
    }

    /// Every policy.
    pub(crate) fn policies(&self) -> &BTreeMap<ObjectKey, PolicyMeta> {
        &self.policies
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.cluster.remove(key);
        if self.policies.remove(key).is_some() {
            self.renewed.insert(key.clone());
        }
    }

    fn apply(&mut self, resource: Resource, raw: &Raw) {
        let read = read(resource, &raw.json);
        let invalid = match read {
            Ok(object) => {
                self.cluster.apply(object);
                None
            }
            Err(reason) => Some(reason),
        };
        let Some(key) = object_key(resource, &raw.meta) else {
            return;
        };
        if !key.kind.is_policy() {
            if let Some(reason) = invalid {
                tracing::warn!(object = %key, %reason, "object not understood; its last good version is used");
            }
            return;
        }
        let meta = PolicyMeta {
            generation: raw.meta.policy_generation(),
            owner: OwnerReference {
                api_version: resource.api_version(resource.versions[0]),
                kind: resource.kind.to_owned(),
                name: raw.meta.name.clone(),
                uid: raw.meta.uid.clone(),
                controller: true,
                block_owner_deletion: true,
            },
            invalid,
        };
        if self.policies.get(&key) != Some(&meta) {
            self.policies.insert(key.clone(), meta);
            self.renewed.insert(key);
        }
    }
}

/// Reads an object as a manifest: items of a typed list have no kind of their own.
fn read(resource: Resource, json: &str) -> Result<Object, String> {
    let list = format!(
        r#"{{"apiVersion":"{}","kind":"{}List","items":[{json}]}}"#,
        resource.api_version(resource.versions[0]),
        resource.kind,
    );
    match manifest::read(list.as_bytes()).pop() {
        Some(Ok(item)) => Ok(item.object),
        Some(Err(error)) => Err(if error.field.is_empty() {
            error.fault.to_string()
        } else {
            format!("{}: {}", error.field, error.fault)
        }),
        None => Err("no object".to_owned()),
    }
}

/// The resolver's key of an object; `None` for resources that it does not know.
pub(crate) fn object_key(resource: Resource, meta: &Meta) -> Option<ObjectKey> {
    let kind = match resource {
        Resource::PODS => ObjectKind::Pod,
        Resource::NAMESPACES => ObjectKind::Namespace,
        Resource::NODES => ObjectKind::Node,
        Resource::SERVICES => ObjectKind::Service,
        Resource::ENDPOINT_SLICES => ObjectKind::EndpointSlice,
        Resource::NETWORK_POLICIES => ObjectKind::NetworkPolicy,
        Resource::CLUSTER_NETWORK_POLICIES => ObjectKind::ClusterNetworkPolicy,
        Resource::ADMIN_NETWORK_POLICIES => ObjectKind::AdminNetworkPolicy,
        Resource::BASELINE_ADMIN_NETWORK_POLICIES => ObjectKind::BaselineAdminNetworkPolicy,
        Resource::AMAZON_CLUSTER_NETWORK_POLICIES => ObjectKind::AmazonClusterNetworkPolicy,
        Resource::APPLICATION_NETWORK_POLICIES => ObjectKind::ApplicationNetworkPolicy,
        _ => return None,
    };
    Some(ObjectKey {
        kind,
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
    })
}
