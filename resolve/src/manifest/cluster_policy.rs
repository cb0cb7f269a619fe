//! ClusterNetworkPolicy (upstream's and Amazon's), AdminNetworkPolicy, BaselineAdminNetworkPolicy: one shape with other
//! words.

use super::{
    Remark,
    common::{block, number, one_of, only, only_policy, port_name, protocol, selector, version},
    network_policy::domain_names,
};
use crate::model::{
    Namespaces, Object, ObjectKey, ObjectKind, Peer, PodSet, PolicyObject, PortMatch, Rule,
};
use policy::{
    documents::{
        Action, Directions, Fault, Protocol, Tier,
        cursor::{Cursor, Result},
    },
    select::Selector,
};

/// A BaselineAdminNetworkPolicy has no priority: it stands behind every policy of its tier that has one.
const LAST: u16 = 1000;

const ONE_PEER: &str = "must have exactly one kind of peer";

pub(super) fn read(
    root: &Cursor<'_, '_>,
    key: ObjectKey,
    remarks: &mut Vec<Remark>,
) -> Result<Object> {
    only_policy(root)?;
    let Some(spec) = root.get("spec")? else {
        return Err(root.missing("spec", "the policy"));
    };
    let (tier, priority) = match key.kind {
        ObjectKind::AdminNetworkPolicy => {
            only(&spec, &["priority", "subject", "ingress", "egress"])?;
            (Tier::Admin, priority(&spec)?)
        }
        ObjectKind::BaselineAdminNetworkPolicy => {
            only(&spec, &["subject", "ingress", "egress"])?;
            (Tier::Baseline, LAST)
        }
        _ => {
            only(&spec, &["tier", "priority", "subject", "ingress", "egress"])?;
            (tier(&spec)?, priority(&spec)?)
        }
    };
    let Some(subject) = spec.get("subject")? else {
        return Err(spec.missing("subject", "namespaces or pods"));
    };
    let (kind, cursor) = one_of(
        &subject,
        &["namespaces", "pods"],
        "must have exactly one of namespaces and pods",
    )?;
    let subject = pod_set(kind, &cursor)?;
    let read_rules = |direction: &str, peers: &'static str, remarks: &mut Vec<Remark>| {
        let mut rules = Vec::new();
        if let Some(list) = spec.get(direction)? {
            for entry in list.items()? {
                rules.push(rule(&entry, peers, key.kind, remarks)?);
            }
        }
        Ok(rules)
    };
    let ingress = read_rules("ingress", "from", remarks)?;
    let egress = read_rules("egress", "to", remarks)?;
    let (uid, generation) = version(root)?;
    Ok(Object::Policy(Box::new(PolicyObject {
        key,
        uid,
        generation,
        subject,
        isolates: Directions::default(),
        tier,
        priority,
        ingress,
        egress,
    })))
}

fn tier(spec: &Cursor<'_, '_>) -> Result<Tier> {
    let Some(tier) = spec.get("tier")? else {
        return Err(spec.missing("tier", "Admin or Baseline"));
    };
    match tier.text()? {
        "Admin" => Ok(Tier::Admin),
        "Baseline" => Ok(Tier::Baseline),
        other => Err(tier.unknown(other, "Admin or Baseline")),
    }
}

fn priority(spec: &Cursor<'_, '_>) -> Result<u16> {
    let Some(priority) = spec.get("priority")? else {
        return Err(spec.missing("priority", "a number from 0 to 1000"));
    };
    Ok(u16::try_from(priority.int(0, 1000)?).unwrap_or(LAST))
}

/// What `namespaces` or `pods` of a subject or a peer select.
fn pod_set(kind: &str, cursor: &Cursor<'_, '_>) -> Result<PodSet> {
    if kind == "namespaces" {
        return Ok(PodSet {
            namespaces: Namespaces::Select(selector(cursor)?),
            pods: Selector::default(),
        });
    }
    only(cursor, &["namespaceSelector", "podSelector"])?;
    let part = |key| match cursor.get(key)? {
        Some(cursor) => selector(&cursor),
        None => Ok(Selector::default()),
    };
    Ok(PodSet {
        namespaces: Namespaces::Select(part("namespaceSelector")?),
        pods: part("podSelector")?,
    })
}

fn action(entry: &Cursor<'_, '_>, kind: ObjectKind) -> Result<Action> {
    let (accept, pass, expected) = match kind {
        ObjectKind::AdminNetworkPolicy => ("Allow", true, "Allow, Deny or Pass"),
        ObjectKind::BaselineAdminNetworkPolicy => ("Allow", false, "Allow or Deny"),
        _ => ("Accept", true, "Accept, Deny or Pass"),
    };
    let Some(cursor) = entry.get("action")? else {
        return Err(entry.missing("action", expected));
    };
    match cursor.text()? {
        word if word == accept => Ok(Action::Accept),
        "Deny" => Ok(Action::Deny),
        "Pass" if pass => Ok(Action::Pass),
        other => Err(cursor.unknown(other, expected)),
    }
}

fn rule(
    entry: &Cursor<'_, '_>,
    peers_key: &'static str,
    kind: ObjectKind,
    remarks: &mut Vec<Remark>,
) -> Result<Rule> {
    only(entry, &["name", "action", peers_key, "ports", "protocols"])?;
    let action = action(entry, kind)?;
    let Some(list) = entry.get(peers_key)? else {
        return Err(entry.missing(peers_key, "a list of peers"));
    };
    let mut peers = Vec::new();
    for peer_entry in list.items()? {
        let read = peer(&peer_entry, peers_key == "to", remarks)?;
        if matches!(read, Peer::Domains(_)) && action == Action::Deny {
            return Err(peer_entry.fault(Fault::Refused("domainNames cannot be denied")));
        }
        peers.push(read);
    }
    if peers.is_empty() {
        return Err(list.fault(Fault::Refused("must have an entry")));
    }
    let mut ports = Vec::new();
    for (key, read) in [
        ("ports", port as fn(&Cursor<'_, '_>) -> Result<PortMatch>),
        ("protocols", transport),
    ] {
        if let Some(list) = entry.get(key)? {
            for port_entry in list.items()? {
                ports.push(read(&port_entry)?);
            }
        }
    }
    Ok(Rule {
        action,
        peers: Some(peers),
        ports: (!ports.is_empty()).then_some(ports),
    })
}

fn peer(entry: &Cursor<'_, '_>, egress: bool, remarks: &mut Vec<Remark>) -> Result<Peer> {
    let known: &[&str] = if egress {
        &["namespaces", "pods", "nodes", "networks", "domainNames"]
    } else {
        &["namespaces", "pods"]
    };
    let (kind, cursor) = one_of(entry, known, ONE_PEER)?;
    match kind {
        "nodes" => Ok(Peer::Nodes(selector(&cursor)?)),
        "domainNames" => Ok(Peer::Domains(domain_names(&cursor)?)),
        "networks" => {
            let mut networks = cursor
                .items()?
                .map(|network| block(&network, remarks))
                .collect::<Result<Vec<_>>>()?;
            if networks.is_empty() {
                return Err(cursor.fault(Fault::Refused("must have an entry")));
            }
            networks.sort_unstable();
            networks.dedup();
            Ok(Peer::Networks(networks))
        }
        kind => Ok(Peer::Pods(pod_set(kind, &cursor)?)),
    }
}

/// An entry of `ports`.
fn port(entry: &Cursor<'_, '_>) -> Result<PortMatch> {
    let (kind, cursor) = one_of(
        entry,
        &["portNumber", "portRange", "namedPort"],
        "must have exactly one of portNumber, portRange and namedPort",
    )?;
    match kind {
        "namedPort" => Ok(PortMatch::Named {
            protocol: None,
            name: port_name(&cursor)?,
        }),
        "portNumber" => {
            only(&cursor, &["protocol", "port"])?;
            let Some(port) = number(&cursor, "port")? else {
                return Err(cursor.missing("port", "a port number"));
            };
            Ok(PortMatch::Numbers {
                protocol: protocol(&cursor)?,
                ports: Some((port, port)),
            })
        }
        _ => {
            only(&cursor, &["protocol", "start", "end"])?;
            Ok(PortMatch::Numbers {
                protocol: protocol(&cursor)?,
                ports: Some(range(&cursor)?),
            })
        }
    }
}

/// An entry of `protocols`.
fn transport(entry: &Cursor<'_, '_>) -> Result<PortMatch> {
    let (kind, cursor) = one_of(
        entry,
        &["tcp", "udp", "sctp", "destinationNamedPort"],
        "must have exactly one of tcp, udp, sctp and destinationNamedPort",
    )?;
    let protocol = match kind {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => {
            return Ok(PortMatch::Named {
                protocol: None,
                name: port_name(&cursor)?,
            });
        }
    };
    only(&cursor, &["destinationPort"])?;
    let ports = match cursor.get("destinationPort")? {
        None => None,
        Some(port) => {
            let (kind, value) = one_of(
                &port,
                &["number", "range"],
                "must have exactly one of number and range",
            )?;
            if kind == "number" {
                number(&port, "number")?.map(|n| (n, n))
            } else {
                only(&value, &["start", "end"])?;
                Some(range(&value)?)
            }
        }
    };
    Ok(PortMatch::Numbers { protocol, ports })
}

/// `start` and `end`.
fn range(cursor: &Cursor<'_, '_>) -> Result<(u16, u16)> {
    let Some(start) = number(cursor, "start")? else {
        return Err(cursor.missing("start", "a port number"));
    };
    let Some(end) = number(cursor, "end")? else {
        return Err(cursor.missing("end", "a port number"));
    };
    if end < start {
        return Err(cursor.fault(Fault::EndBeforePort { end, port: start }));
    }
    Ok((start, end))
}
