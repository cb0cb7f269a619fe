//! Which local endpoints a policy selects: by name, or by label as long as labels can be trusted to be newer.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    documents::{Document, Labels},
    sets::{Policies, Policy, PolicyKey},
};

/// An endpoint of this node: the `endpoint id` of its record, which never repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u32);

/// What selection knows of a local endpoint. Several may bear one pod's name: its interfaces, an older sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Which endpoint.
    pub id: EndpointId,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// The pod's labels; `None` = not known, which is not the same as none.
    pub labels: Option<Labels>,
}

/// A label selector; every requirement must hold, so that the empty one takes everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// `matchLabels` (as In with one value) and `matchExpressions`, sorted.
    pub requirements: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What must be true of it.
    pub operator: Operator,
}

/// What must be true of a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operator {
    /// It has one of the values.
    In(BTreeSet<String>),
    /// It is absent or has none of the values.
    NotIn(BTreeSet<String>),
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl Selector {
    /// Whether labels match; unknown ones match the empty selector only.
    pub fn matches(&self, labels: Option<&Labels>) -> bool {
        let Some(labels) = labels else {
            return self.requirements.is_empty();
        };
        self.requirements.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.operator {
                Operator::In(values) => value.is_some_and(|v| values.contains(v)),
                Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}

/// For which endpoints a policy's selector no longer counts.
///
/// Amazon's controller leaves stale selectors in its objects, so names overrule them from the moment the controller can
/// have known the pod: once the name has stood in any version of the policy that came after the endpoint's ADD, or has
/// been left out of a version that came five seconds or more after the workload showed the pod's addresses. The selector
/// of a marked version always counts.
///
/// The caller has the clock: it calls [`Facts::observe`] for each version of a policy that it takes up, with the
/// endpoints that there are. What was in force before an endpoint came tells nothing of it (the name in it is an earlier
/// pod's). A caller that starts anew puts back what it kept of [`Facts::iter`] with [`Facts::settle`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    settled: BTreeMap<PolicyKey, BTreeSet<EndpointId>>,
}

impl Facts {
    /// Takes notice of one version of a policy. `late(id)`: this version came five seconds or more after the workload of
    /// that endpoint showed its addresses. A version counts once: do not pass it again with a later clock.
    pub fn observe(
        &mut self,
        policy: &Policy,
        endpoints: &[Endpoint],
        late: impl Fn(EndpointId) -> bool,
    ) {
        if policy.is_marked() {
            // Whoever marks a version (`resolve`, our controller) writes it anew with its selector: it is never stale.
            self.settled.remove(&policy.key);
            return;
        }
        if !policy.has_selector() {
            return;
        }
        for endpoint in endpoints {
            let concerns =
                |d: &Document| d.selector.is_some() && d.identity.namespace == endpoint.namespace;
            if policy.names(endpoint)
                || (late(endpoint.id) && policy.documents.iter().any(|d| concerns(d)))
            {
                self.settle(&policy.key, endpoint.id);
            }
        }
    }

    /// Names alone decide from now on for this endpoint.
    pub fn settle(&mut self, policy: &PolicyKey, endpoint: EndpointId) {
        if !self.is_settled(policy, endpoint) {
            self.settled
                .entry(policy.clone())
                .or_default()
                .insert(endpoint);
        }
    }

    /// Whether names alone decide for this endpoint.
    pub fn is_settled(&self, policy: &PolicyKey, endpoint: EndpointId) -> bool {
        self.settled
            .get(policy)
            .is_some_and(|set| set.contains(&endpoint))
    }

    /// All that is settled.
    pub fn iter(&self) -> impl Iterator<Item = (&PolicyKey, EndpointId)> {
        self.settled
            .iter()
            .flat_map(|(policy, set)| set.iter().map(move |id| (policy, *id)))
    }

    /// Forgets what concerns endpoints that are gone and policies that are gone.
    pub fn retain(
        &mut self,
        policy: impl Fn(&PolicyKey) -> bool,
        endpoint: impl Fn(EndpointId) -> bool,
    ) {
        self.settled.retain(|key, set| {
            set.retain(|id| endpoint(*id));
            !set.is_empty() && policy(key)
        });
    }
}

impl Policy {
    /// Whether any of its documents has a selector that counts at all.
    pub fn has_selector(&self) -> bool {
        self.key.group.is_none() && self.documents.iter().any(|d| d.selector.is_some())
    }

    /// Whether its documents bear the marks of a complete version.
    fn is_marked(&self) -> bool {
        self.documents.iter().all(|d| d.part.is_some())
    }

    /// Whether it selects the endpoint by name.
    pub fn names(&self, endpoint: &Endpoint) -> bool {
        self.documents.iter().any(|document| {
            let wanted = (endpoint.namespace.as_str(), endpoint.name.as_str());
            document
                .pods
                .binary_search_by(|pod| (&*pod.namespace, &*pod.name).cmp(&wanted))
                .is_ok()
        })
    }

    /// Whether it selects the endpoint.
    pub fn selects(&self, endpoint: &Endpoint, facts: &Facts) -> bool {
        self.names(endpoint) || self.selects_by_label(endpoint, facts)
    }

    /// Whether it selects the endpoint by its labels.
    fn selects_by_label(&self, endpoint: &Endpoint, facts: &Facts) -> bool {
        self.has_selector()
            && self.documents.iter().any(|d| may_select(d, endpoint))
            && !facts.is_settled(&self.key, endpoint.id)
    }
}

/// Whether the document's selector matches the endpoint, the question of staleness aside.
fn may_select(document: &Document, endpoint: &Endpoint) -> bool {
    document.selector.as_ref().is_some_and(|selector| {
        document.identity.namespace == endpoint.namespace
            && selector.matches(endpoint.labels.as_ref())
    })
}

/// For each endpoint, in the order given, the policies that select it, by their place in `policies`.
pub(crate) fn selection(
    endpoints: &[Endpoint],
    policies: &Policies,
    facts: &Facts,
) -> Vec<Vec<u32>> {
    let mut by_name: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
    for (place, endpoint) in endpoints.iter().enumerate() {
        by_name
            .entry((&endpoint.namespace, &endpoint.name))
            .or_default()
            .push(place);
    }
    let mut selected = vec![Vec::new(); endpoints.len()];
    for (number, policy) in (0u32..).zip(policies.values()) {
        let mut select = |place: usize| {
            if selected[place].last() != Some(&number) {
                selected[place].push(number);
            }
        };
        let mut places: Vec<usize> = policy
            .documents
            .iter()
            .flat_map(|document| document.pods.iter())
            .filter_map(|pod| by_name.get(&(&*pod.namespace, &*pod.name)))
            .flatten()
            .copied()
            .collect();
        if policy.has_selector() {
            let by_label = endpoints
                .iter()
                .enumerate()
                .filter(|(_, e)| policy.selects_by_label(e, facts));
            places.extend(by_label.map(|(place, _)| place));
        }
        places.sort_unstable();
        places.into_iter().for_each(&mut select);
    }
    selected
}
