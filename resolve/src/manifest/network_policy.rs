//! NetworkPolicy, and Amazon's ApplicationNetworkPolicy: the same with domain names.

use super::{
    Remark,
    common::{block, number, only, only_policy, port_name, protocol, selector, version},
};
use crate::model::{
    Namespaces, Object, ObjectKey, ObjectKind, Peer, PodSet, PolicyObject, PortMatch, Rule,
};
use policy::{
    documents::{
        Action, Directions, Fault, Tier,
        cursor::{Cursor, Result},
    },
    select::Selector,
};

pub(super) fn read(
    root: &Cursor<'_, '_>,
    key: ObjectKey,
    remarks: &mut Vec<Remark>,
) -> Result<Object> {
    only_policy(root)?;
    let Some(spec) = root.get("spec")? else {
        return Err(root.missing("spec", "the policy"));
    };
    only(&spec, &["podSelector", "policyTypes", "ingress", "egress"])?;
    let pods = match spec.get("podSelector")? {
        Some(cursor) => selector(&cursor)?,
        None => Selector::default(),
    };
    let read_rules = |direction: &str, peers: &str, remarks: &mut Vec<Remark>| {
        let mut rules = Vec::new();
        if let Some(list) = spec.get(direction)? {
            for entry in list.items()? {
                rules.push(rule(&entry, peers, &key, remarks)?);
            }
        }
        Ok(rules)
    };
    let mut ingress = read_rules("ingress", "from", remarks)?;
    let mut egress = read_rules("egress", "to", remarks)?;
    let isolates = policy_types(&spec, !egress.is_empty())?;
    for (isolates, rules, field) in [
        (isolates.ingress, &mut ingress, "spec.ingress"),
        (isolates.egress, &mut egress, "spec.egress"),
    ] {
        if !isolates && !rules.is_empty() {
            rules.clear();
            remarks.push(Remark {
                field: field.to_owned(),
                text: "has no effect: spec.policyTypes does not name this direction".to_owned(),
            });
        }
    }
    let (uid, generation) = version(root)?;
    Ok(Object::Policy(Box::new(PolicyObject {
        subject: PodSet {
            namespaces: Namespaces::One(key.namespace.clone()),
            pods,
        },
        key,
        uid,
        generation,
        isolates,
        tier: Tier::NetworkPolicy,
        priority: 0,
        ingress,
        egress,
    })))
}

/// The directions that the policy is about. Without a word it is about ingress, and about egress if it has a rule for it.
fn policy_types(spec: &Cursor<'_, '_>, has_egress: bool) -> Result<Directions<bool>> {
    let mut named = Directions::default();
    if let Some(list) = spec.get("policyTypes")? {
        for entry in list.items()? {
            match entry.text()? {
                "Ingress" => named.ingress = true,
                "Egress" => named.egress = true,
                other => return Err(entry.unknown(other, "Ingress or Egress")),
            }
        }
    }
    if named == Directions::default() {
        named = Directions {
            ingress: true,
            egress: has_egress,
        };
    }
    Ok(named)
}

fn rule(
    entry: &Cursor<'_, '_>,
    peers_key: &str,
    key: &ObjectKey,
    remarks: &mut Vec<Remark>,
) -> Result<Rule> {
    // A list entry that is `null` is the empty rule, as for an API server.
    if entry.node.is_null() {
        return Ok(Rule {
            action: Action::Accept,
            peers: None,
            ports: None,
        });
    }
    only(entry, &[peers_key, "ports"])?;
    let mut peers = Vec::new();
    if let Some(list) = entry.get(peers_key)? {
        for peer_entry in list.items()? {
            peers.push(peer(&peer_entry, key, peers_key == "to", remarks)?);
        }
    }
    let mut ports = Vec::new();
    if let Some(list) = entry.get("ports")? {
        for port_entry in list.items()? {
            ports.push(port(&port_entry)?);
        }
    }
    // Absent and empty are the same: anybody, everything.
    Ok(Rule {
        action: Action::Accept,
        peers: (!peers.is_empty()).then_some(peers),
        ports: (!ports.is_empty()).then_some(ports),
    })
}

fn peer(
    entry: &Cursor<'_, '_>,
    key: &ObjectKey,
    egress: bool,
    remarks: &mut Vec<Remark>,
) -> Result<Peer> {
    let domains = egress && key.kind == ObjectKind::ApplicationNetworkPolicy;
    only(
        entry,
        if domains {
            &["podSelector", "namespaceSelector", "ipBlock", "domainNames"]
        } else {
            &["podSelector", "namespaceSelector", "ipBlock"]
        },
    )?;
    let pods = entry.get("podSelector")?;
    let namespaces = entry.get("namespaceSelector")?;
    let selects = pods.is_some() || namespaces.is_some();
    let names = if domains {
        entry.get("domainNames")?
    } else {
        None
    };
    if let Some(names) = names {
        if selects || entry.get("ipBlock")?.is_some() {
            return Err(names.fault(Fault::Refused(
                "may not be given together with another kind of peer",
            )));
        }
        return Ok(Peer::Domains(domain_names(&names)?));
    }
    match entry.get("ipBlock")? {
        Some(cursor) if selects => Err(cursor.fault(Fault::Refused(
            "may not be given together with podSelector or namespaceSelector",
        ))),
        Some(cursor) => ip_block(&cursor, remarks),
        None if !selects => Err(entry.fault(Fault::Refused(
            "must have a podSelector, a namespaceSelector or an ipBlock",
        ))),
        None => Ok(Peer::Pods(PodSet {
            namespaces: match namespaces {
                Some(cursor) => Namespaces::Select(selector(&cursor)?),
                None => Namespaces::One(key.namespace.clone()),
            },
            pods: match pods {
                Some(cursor) => selector(&cursor)?,
                None => Selector::default(),
            },
        })),
    }
}

/// A list of domain names, at least one.
pub(super) fn domain_names(list: &Cursor<'_, '_>) -> Result<Vec<String>> {
    let names = list
        .items()?
        .map(|name| name.text().map(str::to_owned))
        .collect::<Result<Vec<_>>>()?;
    if names.is_empty() {
        return Err(list.fault(Fault::Refused("must have an entry")));
    }
    Ok(names)
}

fn ip_block(entry: &Cursor<'_, '_>, remarks: &mut Vec<Remark>) -> Result<Peer> {
    only(entry, &["cidr", "except"])?;
    let Some(cursor) = entry.get("cidr")? else {
        return Err(entry.missing("cidr", "address/length"));
    };
    let cidr = block(&cursor, remarks)?;
    let mut except = Vec::new();
    if let Some(list) = entry.get("except")? {
        for hole in list.items()? {
            let hole_block = block(&hole, remarks)?;
            if hole_block.family() != cidr.family() {
                return Err(hole.fault(Fault::ExceptFamily {
                    except: hole_block,
                    cidr,
                }));
            }
            if !cidr.covers(&hole_block) || hole_block == cidr {
                return Err(hole.fault(Fault::ExceptOutside {
                    except: hole_block,
                    cidr,
                }));
            }
            except.push(hole_block);
        }
    }
    except.sort_unstable();
    except.dedup();
    Ok(Peer::Block { cidr, except })
}

fn port(entry: &Cursor<'_, '_>) -> Result<PortMatch> {
    only(entry, &["protocol", "port", "endPort"])?;
    let protocol = protocol(entry)?;
    let end = entry.get("endPort")?;
    let Some(cursor) = entry.get("port")? else {
        return match end {
            Some(end) => Err(end.fault(Fault::EndWithoutPort)),
            None => Ok(PortMatch::Numbers {
                protocol,
                ports: None,
            }),
        };
    };
    if cursor.node.text().is_some() {
        let name = port_name(&cursor)?;
        return match end {
            Some(end) => Err(end.fault(Fault::Refused("may not be given with a named port"))),
            None => Ok(PortMatch::Named {
                protocol: Some(protocol),
                name,
            }),
        };
    }
    let first = number(entry, "port")?.unwrap_or_default();
    let last = number(entry, "endPort")?.unwrap_or(first);
    if let Some(end) = end
        && last < first
    {
        return Err(end.fault(Fault::EndBeforePort {
            end: last,
            port: first,
        }));
    }
    Ok(PortMatch::Numbers {
        protocol,
        ports: Some((first, last)),
    })
}
