//! Random worlds for the property tests: few addresses, ports, pods and policies, so that everything overlaps.

use std::{net::IpAddr, sync::Arc};

use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    documents::{
        Action, Directions, Document, Identity, Kind, Labels, PodName, PolicyRef, PortEntry,
        Protocol, Rule, Tier,
    },
    oracle::Question,
    prefix::{Family, Prefix},
    select::{Endpoint, EndpointId, Operator, Requirement, Selector},
    sets::{Policies, assemble},
    tables::{DIRECTIONS, Direction},
};

/// A number of cases that a plain test run can afford; `PROPTEST_CASES` asks for more.
pub(crate) fn cases(few: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(few);
    // Shrunk failures become named cases in the source, not seeds in a file.
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

pub(crate) fn address() -> impl Strategy<Value = IpAddr> {
    // 10.0.<0..4>.<0..8> and fd00::<0..4>:<0..8>: small enough to meet.
    (
        any::<bool>(),
        0u8..4,
        prop_oneof![0u8..8, Just(127), Just(128), Just(255)],
    )
        .prop_map(|(v6, net, host)| {
            if v6 {
                IpAddr::from([0xfd00, 0, 0, 0, 0, 0, u16::from(net), u16::from(host)])
            } else {
                IpAddr::from([10, 0, net, host])
            }
        })
}

pub(crate) fn block() -> impl Strategy<Value = Prefix> {
    (address(), prop_oneof![3 => Just(32u8), 1 => Just(31), 1 => Just(30), 1 => Just(29), 1 => Just(25), 2 => Just(24), 1 => Just(22), 1 => Just(8), 1 => Just(0)])
        .prop_map(|(address, len)| match Family::of(address) {
            Family::V4 => Prefix::new(address, len),
            Family::V6 if len == 0 => Prefix::everything(Family::V6),
            // The last group takes the part of IPv4's last byte.
            Family::V6 => Prefix::new(address, if len >= 24 { len + 96 } else { len + 88 }),
        })
}

fn port() -> impl Strategy<Value = u16> {
    select(vec![
        1u16, 79, 80, 81, 443, 8080, 2021, 20, 21, 32767, 32768, 65534, 65535,
    ])
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(Protocol::ALL.to_vec())
}

fn port_entry() -> impl Strategy<Value = PortEntry> {
    (option::of(protocol()), option::of((port(), port()))).prop_map(|(protocol, ports)| PortEntry {
        protocol,
        ports: ports.map(|(a, b)| (a.min(b), a.max(b))),
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = select(vec![Action::Accept, Action::Deny, Action::Pass]);
    (
        block(),
        vec(block(), 0..3),
        prop_oneof![Just(vec![]), vec(port_entry(), 1..4)],
        action,
    )
        .prop_map(|(cidr, mut except, mut ports, action)| {
            except.retain(|hole| cidr.covers(hole));
            ports.sort_unstable();
            ports.dedup();
            Rule {
                index: 0,
                cidr,
                except: except.into(),
                ports: ports.into(),
                action,
            }
        })
}

fn directions() -> impl Strategy<Value = Directions<bool>> {
    (any::<bool>(), any::<bool>()).prop_map(|(ingress, egress)| Directions { ingress, egress })
}

fn selector() -> impl Strategy<Value = Option<Selector>> {
    let values = || {
        vec(select(vec!["a".to_owned(), "b".to_owned()]), 1..3)
            .prop_map(|v| v.into_iter().collect())
    };
    let operator = prop_oneof![
        values().prop_map(Operator::In),
        values().prop_map(Operator::NotIn),
        Just(Operator::Exists),
        Just(Operator::DoesNotExist)
    ];
    let requirement = operator.prop_map(|operator| Requirement {
        key: "app".to_owned(),
        operator,
    });
    option::weighted(
        0.3,
        vec(requirement, 0..2).prop_map(|requirements| Selector { requirements }),
    )
}

pub(crate) fn document() -> impl Strategy<Value = Document> {
    let place = (
        0u8..3,
        0u8..4,
        option::weighted(0.1, Just("g".to_owned())),
        any::<bool>(),
        0u16..3,
    );
    let tier = prop_oneof![
        2 => Just(Tier::NetworkPolicy),
        1 => Just(Tier::Admin),
        1 => Just(Tier::Baseline)
    ];
    let rules = || vec(rule(), 0..4);
    (
        place,
        tier,
        vec(0u8..4, 0..3),
        selector(),
        directions(),
        rules(),
        rules(),
    )
        .prop_map(
            |(
                (policy, part, group, ordered, priority),
                tier,
                pods,
                selector,
                isolates,
                mut ingress,
                mut egress,
            )| {
                for rules in [&mut ingress, &mut egress] {
                    for (index, rule) in (0u32..).zip(rules.iter_mut()) {
                        rule.index = index;
                        if tier == Tier::NetworkPolicy {
                            rule.action = Action::Accept;
                        }
                    }
                }
                let cluster = tier != Tier::NetworkPolicy;
                let namespace = if cluster { "" } else { "default" };
                let mut pods: Vec<_> = pods
                    .into_iter()
                    .map(|pod| PodName {
                        namespace: "default".into(),
                        name: format!("pod-{pod}").into(),
                    })
                    .collect();
                pods.sort_unstable();
                pods.dedup();
                Document {
                    identity: Identity {
                        kind: if cluster {
                            Kind::ClusterPolicyEndpoint
                        } else {
                            Kind::PolicyEndpoint
                        },
                        namespace: namespace.to_owned(),
                        name: format!("p{policy}-{part}"),
                    },
                    policy: PolicyRef {
                        kind: if cluster {
                            "ClusterNetworkPolicy"
                        } else {
                            "NetworkPolicy"
                        }
                        .to_owned(),
                        namespace: namespace.to_owned(),
                        name: format!("p{policy}"),
                    },
                    group,
                    part: None,
                    // One policy in three holds in list order.
                    ordered: cluster && (ordered || policy == 0),
                    tier,
                    priority: if cluster { priority } else { 0 },
                    pods: pods.into(),
                    selector: if cluster { None } else { selector },
                    isolates: Directions {
                        ingress: !cluster && (isolates.ingress || !ingress.is_empty()),
                        egress: !cluster && (isolates.egress || !egress.is_empty()),
                    },
                    ingress,
                    egress,
                    unsupported: Vec::new(),
                    service_wider: None,
                    host_network_peer: None,
                }
            },
        )
}

/// Documents with unique identities, in the order in which their rules count.
pub(crate) fn documents() -> impl Strategy<Value = Vec<Arc<Document>>> {
    vec(document(), 0..7).prop_map(|mut list| {
        list.sort_by(|a, b| a.identity.cmp(&b.identity));
        list.dedup_by(|a, b| a.identity == b.identity);
        list.into_iter().map(Arc::new).collect()
    })
}

pub(crate) fn policies(documents: &[Arc<Document>]) -> Policies {
    assemble(documents.iter().cloned(), &Policies::new()).policies
}

/// Four pods, labelled a, b, not at all, and unknown.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    let labels = |value: &str| Some(Labels::from([("app".to_owned(), value.to_owned())]));
    [labels("a"), labels("b"), Some(Labels::new()), None]
        .into_iter()
        .zip(0u32..)
        .map(|(labels, n)| Endpoint {
            id: EndpointId(n + 1),
            namespace: "default".to_owned(),
            name: format!("pod-{n}"),
            labels,
        })
        .collect()
}

pub(crate) fn question() -> impl Strategy<Value = Question> {
    let protocol = select(vec![6u8, 17, 132, 1, 58, 47, 0, 255]);
    let direction: Vec<Direction> = DIRECTIONS.to_vec();
    (
        select(direction),
        address(),
        protocol,
        prop_oneof![port(), Just(0), any::<u16>()],
    )
        .prop_map(|(direction, peer, protocol, port)| Question {
            direction,
            peer,
            protocol,
            port,
        })
}

/// Addresses at the edges of everything that [`block`] makes.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let mut out: Vec<IpAddr> = vec![
        "9.9.9.9".parse().unwrap(),
        "2001:db8::1".parse().unwrap(),
        "10.9.9.9".parse().unwrap(),
        "fd00::9:9".parse().unwrap(),
    ];
    for net in 0..4u8 {
        for host in [
            0, 1, 2, 3, 4, 5, 6, 7, 100, 120, 124, 126, 127, 128, 129, 130, 132, 200, 248, 252,
            254, 255,
        ] {
            out.push([10, 0, net, host].into());
            out.push([0xfd00, 0, 0, 0, 0, 0, u16::from(net), u16::from(host)].into());
        }
    }
    out
}
