//! Which policies hold for which endpoint, kept by delta.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use policy::{EndpointId, Policy, PolicyKey};

use super::{Enforcement, LocalEndpoint};

/// The policies that may select an endpoint, by its namespace.
#[derive(Debug, Default)]
pub(super) struct Namespaces(HashMap<String, BTreeSet<PolicyKey>>);

impl Namespaces {
    fn of(policy: &Policy) -> BTreeSet<&str> {
        let documents = policy.documents.iter();
        documents
            .flat_map(|document| {
                let selector = document.selector.as_ref();
                let by_label = selector.map(|_| document.identity.namespace.as_str());
                let by_name = document.pods.iter().map(|pod| &*pod.namespace);
                by_label.into_iter().chain(by_name)
            })
            .collect()
    }

    pub(super) fn add(&mut self, policy: &Policy) {
        for namespace in Self::of(policy) {
            let there = self.0.entry(namespace.to_owned()).or_default();
            there.insert(policy.key.clone());
        }
    }

    pub(super) fn remove(&mut self, policy: &Policy) {
        for namespace in Self::of(policy) {
            if let Some(there) = self.0.get_mut(namespace) {
                there.remove(&policy.key);
                if there.is_empty() {
                    self.0.remove(namespace);
                }
            }
        }
    }

    fn get(&self, namespace: &str) -> impl Iterator<Item = &PolicyKey> {
        self.0.get(namespace).into_iter().flatten()
    }
}

impl Enforcement {
    /// The compiled policies that select an endpoint, in the order of their keys.
    pub(super) fn selecting(&self, local: &LocalEndpoint) -> Vec<Arc<Policy>> {
        let mut policies: BTreeMap<&PolicyKey, &Arc<Policy>> = BTreeMap::new();
        // A policy that is held in its old version may have selected by what the new one does not have.
        let keys = self.namespaces.get(&local.endpoint.namespace);
        for key in keys.chain(self.held.keys()) {
            if let Some(policy) = self.compiled.get(key)
                && policy.selects(&local.endpoint, &self.facts)
            {
                policies.insert(key, policy);
            }
        }
        policies.into_values().cloned().collect()
    }

    /// Brings the compiler to what is to be in force: of the policies and endpoints that changed.
    pub(super) fn compile(&mut self) {
        let mut endpoints = std::mem::take(&mut self.changed_endpoints);
        let mut policies = std::mem::take(&mut self.changed_policies);
        let may_have_room = !endpoints.is_empty() || !policies.is_empty() || self.retry.is_some();
        if may_have_room {
            policies.extend(std::mem::take(&mut self.held).into_keys());
        }
        for key in policies {
            let wanted = self.policies.get(&key).cloned();
            endpoints.extend(self.compile_policy(&key, wanted));
        }
        // What was not known may be now, and what was pending may have been let go.
        let waiting = self.endpoints.keys();
        endpoints.extend(waiting.filter(|id| self.compiler.state(**id).is_none()));
        self.compile_endpoints(&endpoints);
    }

    /// A policy is compiled in this version from now on; the endpoints that this concerns.
    pub(super) fn compile_policy(
        &mut self,
        key: &PolicyKey,
        wanted: Option<Arc<Policy>>,
    ) -> Vec<EndpointId> {
        let before = self.compiled.get(key).cloned();
        if let (Some(before), Some(wanted)) = (&before, &wanted) {
            self.compiler.replace(before, wanted);
        }
        let mut concerned = Vec::new();
        for (id, local) in &self.endpoints {
            let had = before.as_ref().is_some_and(|before| {
                let profile = self.profiles.get(id);
                profile.is_some_and(|profile| profile.iter().any(|p| Arc::ptr_eq(p, before)))
            });
            let has = wanted
                .as_ref()
                .is_some_and(|policy| policy.selects(&local.endpoint, &self.facts));
            if had || has {
                concerned.push(*id);
            }
        }
        match wanted {
            Some(wanted) => self.compiled.insert(key.clone(), wanted),
            None => self.compiled.remove(key),
        };
        concerned
    }

    pub(super) fn compile_endpoints(&mut self, endpoints: &BTreeSet<EndpointId>) {
        for id in endpoints {
            let Some(local) = self.endpoints.get(id) else {
                self.profiles.remove(id);
                self.compiler.remove(*id);
                continue;
            };
            let profile = self.selecting(local);
            if self.is_undecided(local) {
                self.compiler.remove(*id);
            } else if self.is_closed(local) {
                self.compiler.close(*id);
            } else {
                self.compiler.assign(*id, &profile);
            }
            self.profiles.insert(*id, profile);
        }
    }
}
