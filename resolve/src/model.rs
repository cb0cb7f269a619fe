//! What manifests say, as far as policy needs it: defaults filled in, selectors parsed, everything else left out.

use std::{fmt, net::IpAddr};

use policy::{
    documents::{Action, Directions, Labels, Protocol, Tier},
    prefix::Prefix,
    select::Selector,
};

/// A kind of object that resolving knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `networking.k8s.io` NetworkPolicy.
    NetworkPolicy,
    /// `networking.k8s.aws` ApplicationNetworkPolicy.
    ApplicationNetworkPolicy,
    /// `policy.networking.k8s.io` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// `networking.k8s.aws` ClusterNetworkPolicy.
    AmazonClusterNetworkPolicy,
    /// `policy.networking.k8s.io` AdminNetworkPolicy.
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io` BaselineAdminNetworkPolicy.
    BaselineAdminNetworkPolicy,
    /// Pod.
    Pod,
    /// Namespace.
    Namespace,
    /// Node.
    Node,
    /// Service.
    Service,
    /// `discovery.k8s.io` EndpointSlice.
    EndpointSlice,
    /// Endpoints; what counts where a Service has no EndpointSlice.
    Endpoints,
}

impl ObjectKind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::NetworkPolicy,
        Self::ApplicationNetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::AmazonClusterNetworkPolicy,
        Self::AdminNetworkPolicy,
        Self::BaselineAdminNetworkPolicy,
        Self::Pod,
        Self::Namespace,
        Self::Node,
        Self::Service,
        Self::EndpointSlice,
        Self::Endpoints,
    ];

    /// Its name. Amazon's ClusterNetworkPolicy bears its group, because the other one can have the same name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ApplicationNetworkPolicy => "ApplicationNetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AmazonClusterNetworkPolicy => "ClusterNetworkPolicy.networking.k8s.aws",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
        }
    }

    /// The kind as manifests write it.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::AmazonClusterNetworkPolicy => "ClusterNetworkPolicy",
            other => other.name(),
        }
    }

    /// The short form that kubectl takes on its command line.
    pub(super) const fn short(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "netpol",
            Self::AdminNetworkPolicy => "anp",
            Self::BaselineAdminNetworkPolicy => "banp",
            Self::ClusterNetworkPolicy => "cnp",
            Self::Pod => "po",
            Self::Namespace => "ns",
            Self::Node => "no",
            Self::Service => "svc",
            Self::Endpoints => "ep",
            _ => "",
        }
    }

    /// The API group; empty for the core.
    pub(super) const fn group(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "networking.k8s.io",
            Self::ApplicationNetworkPolicy | Self::AmazonClusterNetworkPolicy => {
                "networking.k8s.aws"
            }
            Self::ClusterNetworkPolicy
            | Self::AdminNetworkPolicy
            | Self::BaselineAdminNetworkPolicy => "policy.networking.k8s.io",
            Self::Pod | Self::Namespace | Self::Node | Self::Service | Self::Endpoints => "",
            Self::EndpointSlice => "discovery.k8s.io",
        }
    }

    /// The versions of the group that are read.
    pub(super) const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::ClusterNetworkPolicy => &["v1alpha2", "v1beta1"],
            Self::ApplicationNetworkPolicy
            | Self::AmazonClusterNetworkPolicy
            | Self::AdminNetworkPolicy
            | Self::BaselineAdminNetworkPolicy => &["v1alpha1"],
            Self::EndpointSlice => &["v1", "v1beta1"],
            _ => &["v1"],
        }
    }

    /// Whether it is a policy.
    pub const fn is_policy(self) -> bool {
        matches!(
            self,
            Self::NetworkPolicy
                | Self::ApplicationNetworkPolicy
                | Self::ClusterNetworkPolicy
                | Self::AmazonClusterNetworkPolicy
                | Self::AdminNetworkPolicy
                | Self::BaselineAdminNetworkPolicy
        )
    }

    /// Whether its objects have a namespace.
    pub const fn is_namespaced(self) -> bool {
        matches!(
            self,
            Self::NetworkPolicy
                | Self::ApplicationNetworkPolicy
                | Self::Pod
                | Self::Service
                | Self::EndpointSlice
                | Self::Endpoints
        )
    }
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its namespace; empty for cluster-wide kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    /// `NetworkPolicy/namespace/name`, `Node/name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if !self.namespace.is_empty() {
            write!(f, "/{}", self.namespace)?;
        }
        write!(f, "/{}", self.name)
    }
}

/// An object of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A policy of any kind.
    Policy(Box<PolicyObject>),
    /// A pod.
    Pod(Box<Pod>),
    /// A namespace.
    Namespace(Namespace),
    /// A node.
    Node(Node),
    /// A Service.
    Service(Box<Service>),
    /// Endpoints of a Service.
    EndpointSlice(Box<EndpointSlice>),
    /// Endpoints of a Service, in the older form.
    Endpoints(Box<Endpoints>),
    /// Something that has no part in policy.
    Ignored {
        /// Its apiVersion.
        api_version: String,
        /// Its kind.
        kind: String,
        /// Its name, where it has one.
        name: String,
    },
}

impl Object {
    /// Which object it is; `None` for what is ignored.
    pub fn key(&self) -> Option<ObjectKey> {
        let key = |kind, namespace: &str, name: &str| {
            Some(ObjectKey {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        };
        match self {
            Self::Policy(policy) => Some(policy.key.clone()),
            Self::Pod(o) => key(ObjectKind::Pod, &o.namespace, &o.name),
            Self::Namespace(o) => key(ObjectKind::Namespace, "", &o.name),
            Self::Node(o) => key(ObjectKind::Node, "", &o.name),
            Self::Service(o) => key(ObjectKind::Service, &o.namespace, &o.name),
            Self::EndpointSlice(o) => key(ObjectKind::EndpointSlice, &o.namespace, &o.name),
            Self::Endpoints(o) => key(ObjectKind::Endpoints, &o.namespace, &o.name),
            Self::Ignored { .. } => None,
        }
    }
}

/// A policy: whom it is about, and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyObject {
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    /// `metadata.generation`; 0 where there is none.
    pub(super) generation: i64,
    pub(super) subject: PodSet,
    /// Directions that it isolates; a direction that a NetworkPolicy does not isolate has no rules here.
    pub(super) isolates: Directions<bool>,
    pub(super) tier: Tier,
    pub(super) priority: u16,
    pub(super) ingress: Vec<Rule>,
    pub(super) egress: Vec<Rule>,
}

impl PolicyObject {
    /// Which policy.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Its rules, of both directions.
    pub(super) fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.ingress.iter().chain(&self.egress)
    }

    /// The sets of pods that it names, as subject or as peers.
    pub(super) fn pod_sets(&self) -> impl Iterator<Item = &PodSet> {
        let peers = self
            .rules()
            .flat_map(|rule| rule.peers.iter().flatten())
            .filter_map(|peer| match peer {
                Peer::Pods(set) => Some(set),
                _ => None,
            });
        std::iter::once(&self.subject).chain(peers)
    }

    /// Whether rules hold in list order, rather than as a union.
    pub(super) fn is_ordered(&self) -> bool {
        self.tier != Tier::NetworkPolicy
    }
}

/// A set of pods, by label; pods of the host's network are never in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodSet {
    pub(super) namespaces: Namespaces,
    pub(super) pods: Selector,
}

/// A set of namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Namespaces {
    One(String),
    Select(Selector),
}

/// One rule of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) action: Action,
    /// `None` = anybody.
    pub(super) peers: Option<Vec<Peer>>,
    /// `None` = everything.
    pub(super) ports: Option<Vec<PortMatch>>,
}

/// One peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Pods(PodSet),
    Block {
        cidr: Prefix,
        except: Vec<Prefix>,
    },
    Networks(Vec<Prefix>),
    Nodes(Selector),
    /// Not enforced.
    Domains(Vec<String>),
}

/// One entry of a rule's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortMatch {
    Numbers {
        protocol: Protocol,
        /// `None` = every port.
        ports: Option<(u16, u16)>,
    },
    Named {
        /// `None` = whichever the pod's port has.
        protocol: Option<Protocol>,
        name: String,
    },
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) labels: Labels,
    pub(super) node: String,
    /// Its node's address.
    pub(super) host_address: Option<IpAddr>,
    /// The first of its addresses in its status.
    pub(super) primary_address: Option<IpAddr>,
    pub(super) host_network: bool,
    /// Succeeded or Failed: its addresses are its own no longer.
    pub(super) finished: bool,
    pub(super) terminating: bool,
    /// Not known counts as ready: manifests written by hand have no conditions.
    pub(super) ready: bool,
    /// Both families, sorted.
    pub(super) addresses: Vec<IpAddr>,
    /// Named ports: of containers, then of sidecars, then of other init containers.
    pub(super) ports: Vec<ContainerPort>,
}

impl Pod {
    /// Whether policies can be about it.
    pub(super) fn is_subject(&self) -> bool {
        !self.host_network
    }

    /// Whether it has addresses by which it can be a peer. Those of a pod of the host's network are its node's.
    pub(super) fn is_peer(&self) -> bool {
        !self.finished && !self.addresses.is_empty()
    }
}

/// A named port of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerPort {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// Of an init container that ends before the pod serves: no Service leads there.
    pub(super) init: bool,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub(super) name: String,
    pub(super) labels: Labels,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub(super) name: String,
    pub(super) labels: Labels,
    /// Sorted.
    pub(super) addresses: Vec<IpAddr>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Empty = none: its backends are in EndpointSlices.
    pub(super) selector: Labels,
    /// Cluster addresses, external ones and those of load balancers, sorted; none where it is headless.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<ServicePort>,
    pub(super) publish_not_ready: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServicePort {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    pub(super) target: Target,
}

/// Where a Service's port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Number(u16),
    Name(String),
}

/// Endpoints of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The Service; empty = none.
    pub(super) service: String,
    /// Written by the controller that follows the Service's selector.
    pub(super) of_selector: bool,
    pub(super) ports: Vec<SlicePort>,
    /// Addresses, and whether they take new connections.
    pub(super) endpoints: Vec<(IpAddr, bool)>,
}

/// Endpoints, by subset: each has ports of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    pub(super) namespace: String,
    /// The Service's name, too.
    pub(super) name: String,
    pub(super) subsets: Vec<EndpointSlice>,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlicePort {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
}
