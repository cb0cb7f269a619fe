//! Which policies enforcement is told of: those that can select a pod of a namespace that has endpoints here. Ten thousand
//! others cost it nothing, and a change of one of them neither.

use std::collections::BTreeSet;
use std::sync::Arc;

use policy::{Kind, Policies, Policy, PolicyKey};

/// Policies with their version in force; `None` = it is to forget it.
pub(crate) type Told = Vec<(PolicyKey, Option<Arc<Policy>>)>;

/// What enforcement knows.
#[derive(Debug, Default)]
pub(crate) struct PolicyFeed {
    namespaces: BTreeSet<String>,
    told: BTreeSet<PolicyKey>,
}

impl PolicyFeed {
    /// Begins with what an earlier run had in force: the part of it that enforcement begins with, too.
    pub(crate) fn begin(policies: &Policies, namespaces: BTreeSet<String>) -> (Self, Policies) {
        let concern = |policy: &Policy| namespaces.iter().any(|one| concerns(policy, one));
        let mut known = policies.clone();
        known.retain(|_, policy| concern(policy));
        let told = known.keys().cloned().collect();
        (Self { namespaces, told }, known)
    }

    /// Endpoints are in these namespaces now: policies that are in force already and concern it from now on, and those that
    /// do not any more. Enforcement is to be told of them *before* it is told of the endpoints, for a version that was in
    /// force before an endpoint came says nothing of it. Policies in `changed` are left to [`Self::changed`].
    pub(crate) fn namespaces(
        &mut self,
        now: BTreeSet<String>,
        policies: &Policies,
        changed: &BTreeSet<PolicyKey>,
    ) -> Told {
        if now == self.namespaces {
            return Told::new();
        }
        let new: Vec<&String> = now.difference(&self.namespaces).collect();
        let mut told = Told::new();
        for (key, policy) in policies {
            let wanted = new.iter().any(|one| concerns(policy, one));
            if wanted && !changed.contains(key) && self.told.insert(key.clone()) {
                told.push((key.clone(), Some(Arc::clone(policy))));
            }
        }
        let stays = |key: &PolicyKey| {
            changed.contains(key)
                || policies
                    .get(key)
                    .is_some_and(|policy| now.iter().any(|one| concerns(policy, one)))
        };
        let gone: Vec<PolicyKey> = self
            .told
            .iter()
            .filter(|key| !stays(key))
            .cloned()
            .collect();
        for key in gone {
            self.told.remove(&key);
            told.push((key, None));
        }
        self.namespaces = now;
        told
    }

    /// What enforcement is to be told of policies whose version in force changed.
    pub(crate) fn changed(&mut self, changed: BTreeSet<PolicyKey>, policies: &Policies) -> Told {
        let mut told = Told::new();
        for key in changed {
            let policy = policies
                .get(&key)
                .filter(|policy| self.namespaces.iter().any(|one| concerns(policy, one)));
            let known = if policy.is_some() {
                self.told.insert(key.clone());
                true
            } else {
                self.told.remove(&key)
            };
            if known {
                told.push((key, policy.map(Arc::clone)));
            }
        }
        told
    }
}

/// Whether a policy, in this version, can select a pod of the namespace.
fn concerns(policy: &Policy, namespace: &str) -> bool {
    policy.documents.iter().any(|document| {
        let own = document.identity.kind == Kind::PolicyEndpoint
            && document.identity.namespace == namespace;
        own || {
            // Sorted by namespace.
            let place = document
                .pods
                .partition_point(|pod| *pod.namespace < *namespace);
            document
                .pods
                .get(place)
                .is_some_and(|pod| *pod.namespace == *namespace)
        }
    })
}

#[cfg(test)]
mod tests {
    use policy::{assemble, documents};

    use super::*;

    fn policies(documents: &[(&str, &str, &str)]) -> Policies {
        let all = documents.iter().map(|(namespace, name, pod)| {
            let text = format!(
                "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
                 spec: {{policyRef: {{name: {name}, namespace: {namespace}}}, podSelectorEndpoints: [{{name: x, namespace: {pod}, podIP: 10.0.0.1}}]}}\n"
            );
            let read = documents::read(text.as_bytes());
            Arc::new(read.good().next().unwrap().clone())
        });
        assemble(all, &Policies::new()).policies
    }

    fn names(told: &Told) -> Vec<(String, bool)> {
        told.iter()
            .map(|(key, policy)| (key.policy.name.clone(), policy.is_some()))
            .collect()
    }

    #[test]
    fn only_what_concerns_a_local_namespace_is_told() {
        let all = policies(&[("a", "p", "a"), ("b", "q", "b"), ("c", "r", "a")]);
        let (mut feed, known) = PolicyFeed::begin(&all, ["a".to_owned()].into());
        assert_eq!(known.len(), 2, "its own, and one that names a pod of it");
        let q: BTreeSet<PolicyKey> = all
            .keys()
            .filter(|k| k.policy.name == "q")
            .cloned()
            .collect();
        assert!(
            feed.changed(q.clone(), &all).is_empty(),
            "nobody is concerned"
        );
        // An endpoint comes to b: what is in force there is told before it.
        let both: BTreeSet<String> = ["a".to_owned(), "b".to_owned()].into();
        let none = BTreeSet::new();
        let told = feed.namespaces(both.clone(), &all, &none);
        assert_eq!(names(&told), [("q".to_owned(), true)]);
        assert!(feed.namespaces(both, &all, &none).is_empty(), "once");
        // The policy goes; it is forgotten once.
        let mut fewer = all.clone();
        fewer.retain(|key, _| key.policy.name != "q");
        assert_eq!(
            names(&feed.changed(q.clone(), &fewer)),
            [("q".to_owned(), false)]
        );
        assert!(feed.changed(q, &fewer).is_empty());
        // The last endpoint of a goes.
        let told = feed.namespaces(["b".to_owned()].into(), &all, &none);
        assert_eq!(
            names(&told),
            [("p".to_owned(), false), ("r".to_owned(), false)]
        );
    }
}
