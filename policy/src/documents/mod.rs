//! PolicyEndpoint and ClusterPolicyEndpoint documents (`networking.k8s.aws/v1alpha1`): what they say, and how they
//! are read.
//!
//! [`read()`] takes a whole file (JSON, one or many YAML documents, `List`s) and gives one result per document, so that a
//! broken one never blocks another. Unknown fields are ignored, `null` is absent.

mod broken;
pub mod cursor;
mod fault;
mod merge;
pub mod node;
mod parse;
pub mod read;
mod render;
pub mod split;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, sync::Arc};

pub use broken::Broken;
pub use fault::{DocumentError, Fault};
pub use render::{port_json, selector_json};

pub use read::{MAX_FILE_BYTES, Reading, read};

use crate::{prefix::Prefix, select::Selector};

/// `apiVersion` of every document.
pub const API_VERSION: &str = "networking.k8s.aws/v1alpha1";
/// Annotation: the group within one policyRef; documents with a group select by name only.
pub const GROUP: &str = "podgate.dev/group";
/// Annotation: how many documents make up one version of the policy.
pub const PARTS: &str = "podgate.dev/parts";
/// Annotation: what all parts of one version share.
pub const GENERATION: &str = "podgate.dev/generation";
/// Annotation: cluster rules of one policyRef hold in list order.
pub const ORDERED: &str = "podgate.dev/ordered";

/// Annotation: Services whose address is allowed although not every backend is, `namespace/name` with commas between.
pub const SERVICE_WIDER: &str = "podgate.dev/service-wider";

/// Annotation: pods of the host's network that are peers, `namespace/name` with commas between: their whole node is meant.
pub const HOST_NETWORK_PEER: &str = "podgate.dev/host-network-peer";

/// Kind of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Namespaced; rules allow.
    PolicyEndpoint,
    /// Cluster-wide; rules have a tier, a priority and an action.
    ClusterPolicyEndpoint,
}

impl Kind {
    /// The name as documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PolicyEndpoint => "PolicyEndpoint",
            Self::ClusterPolicyEndpoint => "ClusterPolicyEndpoint",
        }
    }
}

/// What makes two documents the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Kind.
    pub kind: Kind,
    /// Namespace; `default` where the document has none, empty for the cluster-wide kind.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for Identity {
    /// `PolicyEndpoint/namespace/name` or `ClusterPolicyEndpoint/name`: stable, one line, made for keys of a store.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::PolicyEndpoint => {
                write!(f, "{}/{}/{}", self.kind.name(), self.namespace, self.name)
            }
            Kind::ClusterPolicyEndpoint => write!(f, "{}/{}", self.kind.name(), self.name),
        }
    }
}

/// The policy that a document is a part of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRef {
    /// Kind; absent = `NetworkPolicy` (`ClusterNetworkPolicy` in a ClusterPolicyEndpoint).
    pub kind: String,
    /// Namespace; empty where the policy is cluster-wide.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{}/{}", self.kind, self.name),
            namespace => write!(f, "{}/{namespace}/{}", self.kind, self.name),
        }
    }
}

/// Where a document's rules stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Before every NetworkPolicy.
    Admin,
    /// Allow lists; the union over policies.
    NetworkPolicy,
    /// Where no NetworkPolicy isolates the pod.
    Baseline,
}

impl Tier {
    /// As documents and users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Baseline => "Baseline",
        }
    }
}

/// What a rule does with what it matches. The order is that of precedence at equal priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Refuse.
    Deny,
    /// Allow.
    Accept,
    /// Leave to what comes after the tier.
    Pass,
}

impl Action {
    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deny => "Deny",
            Self::Accept => "Accept",
            Self::Pass => "Pass",
        }
    }
}

/// A transport that documents can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// One entry of a port list, the defaults of its kind already filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortEntry {
    /// The transport; none = any protocol, and with ports TCP, UDP and SCTP at these ports.
    pub protocol: Option<Protocol>,
    /// First and last port; none = every port (and, without a protocol, everything).
    pub ports: Option<(u16, u16)>,
}

/// A port list: sorted, without repetition, shared where rules have the same; empty = everything.
pub type Ports = Arc<[PortEntry]>;

/// One rule of one direction: a block, its holes, its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Place in the document's list, from 0.
    pub index: u32,
    /// The addresses.
    pub cidr: Prefix,
    /// Holes in `cidr`, and in it only.
    pub except: Box<[Prefix]>,
    /// The ports.
    pub ports: Ports,
    /// What it does; always Accept in a PolicyEndpoint.
    pub action: Action,
}

/// A pod by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// Namespace.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
}

/// A value for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Directions<T> {
    /// Towards the pod.
    pub ingress: T,
    /// From the pod.
    pub egress: T,
}

/// Completeness marks of a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// What all parts of one version share.
    pub generation: String,
    /// How many parts the version has.
    pub of: u32,
}

/// One good document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Which document this is.
    pub identity: Identity,
    /// The policy it is a part of; absent policyRef = the document itself.
    pub policy: PolicyRef,
    /// Group within the policy.
    pub group: Option<String>,
    /// Completeness marks, if it has any.
    pub part: Option<Part>,
    /// Cluster rules of this policy hold in list order.
    pub ordered: bool,
    /// Where its rules stand; NetworkPolicy for a PolicyEndpoint.
    pub tier: Tier,
    /// Lower first; 0 for a PolicyEndpoint.
    pub priority: u16,
    /// Pods by name: sorted, without repetition.
    pub pods: Box<[PodName]>,
    /// Pods by label, of the document's namespace; absent selects nothing.
    pub selector: Option<Selector>,
    /// Directions that it isolates: those it names and those it has a rule for. Never for the cluster-wide kind.
    pub isolates: Directions<bool>,
    /// Rules towards the pod, in list order.
    pub ingress: Vec<Rule>,
    /// Rules from the pod, in list order.
    pub egress: Vec<Rule>,
    /// Fields that podgate cannot enforce, such as `spec.egress[2].domainName`; they let nothing pass.
    pub unsupported: Vec<String>,
    /// Services whose address is allowed although not every backend is, as [`SERVICE_WIDER`] names them.
    pub service_wider: Option<String>,
    /// Peers of the host's network, as [`HOST_NETWORK_PEER`] names them.
    pub host_network_peer: Option<String>,
}

impl Document {
    /// The rules of a direction.
    pub fn rules(&self, direction: crate::tables::Direction) -> &[Rule] {
        match direction {
            crate::tables::Direction::Ingress => &self.ingress,
            crate::tables::Direction::Egress => &self.egress,
        }
    }
}

/// How a document stands, in the words of `status` and `podgatectl`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Condition {
    /// In force as written.
    Applied,
    /// Cannot be read; its last good version stays in force.
    Broken,
    /// Parts of its policy are missing; the version before stays in force.
    Incomplete,
    /// Another file holds the same document, and that one is in force.
    Duplicate,
    /// In force, but for rules that podgate cannot enforce; these let nothing pass.
    Unsupported,
    /// In force; a Service's address is allowed although not every backend is.
    ServiceWider,
    /// In force; a peer is a pod of the host's network, so its whole node is allowed.
    HostNetworkPeer,
}

impl Condition {
    /// The name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Applied => "Applied",
            Self::Broken => "Broken",
            Self::Incomplete => "Incomplete",
            Self::Duplicate => "Duplicate",
            Self::Unsupported => "Unsupported",
            Self::ServiceWider => "ServiceWider",
            Self::HostNetworkPeer => "HostNetworkPeer",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Labels of a pod.
pub type Labels = BTreeMap<String, String>;
