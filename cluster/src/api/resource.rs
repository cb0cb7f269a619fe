//! The resources that are asked for, and their paths.

use std::fmt;

/// A resource of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Resource {
    /// Its API group; empty = the core.
    pub(crate) group: &'static str,
    /// Versions that can be read, the preferred one first.
    pub(crate) versions: &'static [&'static str],
    /// Its name in paths.
    pub(crate) plural: &'static str,
    /// Its kind.
    pub(crate) kind: &'static str,
}

/// Where objects are looked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scope {
    /// The whole cluster.
    Cluster,
    /// One namespace.
    Namespace(String),
}

const fn resource(
    group: &'static str,
    versions: &'static [&'static str],
    plural: &'static str,
    kind: &'static str,
) -> Resource {
    Resource {
        group,
        versions,
        plural,
        kind,
    }
}

const POLICY: &str = "policy.networking.k8s.io";
const AMAZON: &str = "networking.k8s.aws";

impl Resource {
    pub(crate) const PODS: Self = resource("", &["v1"], "pods", "Pod");
    pub(crate) const NAMESPACES: Self = resource("", &["v1"], "namespaces", "Namespace");
    pub(crate) const NODES: Self = resource("", &["v1"], "nodes", "Node");
    pub(crate) const SERVICES: Self = resource("", &["v1"], "services", "Service");
    pub(crate) const EVENTS: Self = resource("", &["v1"], "events", "Event");
    pub(crate) const ENDPOINT_SLICES: Self = resource(
        "discovery.k8s.io",
        &["v1"],
        "endpointslices",
        "EndpointSlice",
    );
    pub(crate) const LEASES: Self = resource("coordination.k8s.io", &["v1"], "leases", "Lease");
    pub(crate) const NETWORK_POLICIES: Self = resource(
        "networking.k8s.io",
        &["v1"],
        "networkpolicies",
        "NetworkPolicy",
    );
    pub(crate) const CLUSTER_NETWORK_POLICIES: Self = resource(
        POLICY,
        &["v1alpha2", "v1beta1"],
        "clusternetworkpolicies",
        "ClusterNetworkPolicy",
    );
    pub(crate) const ADMIN_NETWORK_POLICIES: Self = resource(
        POLICY,
        &["v1alpha1"],
        "adminnetworkpolicies",
        "AdminNetworkPolicy",
    );
    pub(crate) const BASELINE_ADMIN_NETWORK_POLICIES: Self = resource(
        POLICY,
        &["v1alpha1"],
        "baselineadminnetworkpolicies",
        "BaselineAdminNetworkPolicy",
    );
    pub(crate) const AMAZON_CLUSTER_NETWORK_POLICIES: Self = resource(
        AMAZON,
        &["v1alpha1"],
        "clusternetworkpolicies",
        "ClusterNetworkPolicy",
    );
    pub(crate) const APPLICATION_NETWORK_POLICIES: Self = resource(
        AMAZON,
        &["v1alpha1"],
        "applicationnetworkpolicies",
        "ApplicationNetworkPolicy",
    );
    pub(crate) const POLICY_ENDPOINTS: Self =
        resource(AMAZON, &["v1alpha1"], "policyendpoints", "PolicyEndpoint");
    pub(crate) const CLUSTER_POLICY_ENDPOINTS: Self = resource(
        AMAZON,
        &["v1alpha1"],
        "clusterpolicyendpoints",
        "ClusterPolicyEndpoint",
    );

    /// Kinds of policy that have a namespace.
    pub(crate) const NAMESPACED_POLICIES: [Self; 2] =
        [Self::NETWORK_POLICIES, Self::APPLICATION_NETWORK_POLICIES];

    /// Kinds of policy of the whole cluster.
    pub(crate) const CLUSTER_POLICIES: [Self; 4] = [
        Self::CLUSTER_NETWORK_POLICIES,
        Self::ADMIN_NETWORK_POLICIES,
        Self::BASELINE_ADMIN_NETWORK_POLICIES,
        Self::AMAZON_CLUSTER_NETWORK_POLICIES,
    ];

    /// Whether a cluster can do without it: kinds that come with a CRD of somebody else.
    pub(crate) fn is_optional(self) -> bool {
        Self::CLUSTER_POLICIES.contains(&self) || self == Self::APPLICATION_NETWORK_POLICIES
    }

    /// The kind as `policyRef` has it: Amazon's ClusterNetworkPolicy bears its group.
    pub(crate) fn policy_kind(self) -> &'static str {
        if self == Self::AMAZON_CLUSTER_NETWORK_POLICIES {
            "ClusterNetworkPolicy.networking.k8s.aws"
        } else {
            self.kind
        }
    }

    /// The policy's resource by its kind in `policyRef`.
    pub(crate) fn of_policy_kind(kind: &str) -> Option<Self> {
        Self::CLUSTER_POLICIES
            .into_iter()
            .chain(Self::NAMESPACED_POLICIES)
            .find(|resource| resource.policy_kind() == kind)
    }

    /// `group/version`, or `v1` of the core.
    pub(crate) fn api_version(self, version: &str) -> String {
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }

    /// The path of its list.
    pub(crate) fn path(self, version: &str, scope: &Scope) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{}/{version}", self.group)
        };
        match scope {
            Scope::Cluster => format!("{root}/{}", self.plural),
            Scope::Namespace(namespace) => {
                format!("{root}/namespaces/{namespace}/{}", self.plural)
            }
        }
    }
}

impl Scope {
    /// The scope of an object's own path: its namespace, if it has one.
    pub(crate) fn of(namespace: &str) -> Self {
        if namespace.is_empty() {
            Self::Cluster
        } else {
            Self::Namespace(namespace.to_owned())
        }
    }
}

impl fmt::Display for Resource {
    /// `networkpolicies.networking.k8s.io`, `pods`: as kubectl names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}
