//! From a tree to a [`Document`], field by field.

use std::{collections::HashSet, str::FromStr, sync::Arc};

use super::{
    API_VERSION, Action, Directions, Document, GENERATION, GROUP, HOST_NETWORK_PEER, Identity,
    Kind, ORDERED, PARTS, Part, PodName, PolicyRef, PortEntry, Ports, Protocol, Rule,
    SERVICE_WIDER, Tier,
    cursor::{Cursor, Result},
    fault::Fault,
};
use crate::{
    prefix::Prefix,
    select::{Operator, Requirement, Selector},
};

/// The kind of a document, by `apiVersion` and `kind`; `implied` is what a typed list says of its items.
pub(super) fn kind(root: &Cursor<'_, '_>, implied: Option<Kind>) -> Result<Kind> {
    let api_version = root.get("apiVersion")?.map(|c| c.text()).transpose()?;
    let kind = root.get("kind")?.map(|c| c.text()).transpose()?;
    match (api_version, kind, implied) {
        (Some(API_VERSION), Some("PolicyEndpoint"), _) => Ok(Kind::PolicyEndpoint),
        (Some(API_VERSION), Some("ClusterPolicyEndpoint"), _) => Ok(Kind::ClusterPolicyEndpoint),
        (None | Some(API_VERSION), None, Some(kind)) => Ok(kind),
        _ => Err(root.fault(Fault::OtherKind {
            api_version: shown(api_version.unwrap_or("(none)")),
            kind: shown(kind.unwrap_or("(none)")),
        })),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Which document this is.
pub(super) fn identity(root: &Cursor<'_, '_>, kind: Kind) -> Result<Identity> {
    let Some(metadata) = root.get("metadata")? else {
        return Err(root.missing("metadata", "a mapping with a name"));
    };
    let name = match metadata.get("name")?.map(|c| c.text()).transpose()? {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => return Err(metadata.missing("name", "the document's name")),
    };
    let namespace = match kind {
        Kind::ClusterPolicyEndpoint => String::new(),
        Kind::PolicyEndpoint => match metadata.get("namespace")?.map(|c| c.text()).transpose()? {
            Some(namespace) if !namespace.is_empty() => namespace.to_owned(),
            _ => "default".to_owned(),
        },
    };
    Ok(Identity {
        kind,
        namespace,
        name,
    })
}

/// What the annotations say.
#[derive(Default)]
pub(super) struct Marks {
    pub(super) group: Option<String>,
    pub(super) part: Option<Part>,
    pub(super) ordered: bool,
    pub(super) service_wider: Option<String>,
    pub(super) host_network_peer: Option<String>,
}

pub(super) fn marks(root: &Cursor<'_, '_>) -> Result<Marks> {
    let Some(metadata) = root.get("metadata")? else {
        return Ok(Marks::default());
    };
    let Some(annotations) = metadata.get("annotations")? else {
        return Ok(Marks::default());
    };
    let group = annotations.get(GROUP)?.map(|c| c.scalar()).transpose()?;
    let ordered = match annotations.get(ORDERED)? {
        None => false,
        Some(mark) => match mark.scalar()?.as_str() {
            "true" => true,
            "false" => false,
            other => return Err(mark.unknown(other, "\"true\" or \"false\"")),
        },
    };
    let text = |key| annotations.get(key)?.map(|c| c.scalar()).transpose();
    let service_wider = text(SERVICE_WIDER)?;
    let host_network_peer = text(HOST_NETWORK_PEER)?;
    let part = match annotations.get(PARTS)? {
        None => None,
        Some(parts) => {
            let text = parts.scalar()?;
            let of = match text.parse::<u32>() {
                Ok(of) if of > 0 => of,
                _ => return Err(parts.unknown(&text, "the number of parts, from 1")),
            };
            let generation = annotations
                .get(GENERATION)?
                .map(|c| c.scalar())
                .transpose()?;
            let Some(generation) = generation else {
                return Err(annotations.missing(GENERATION, "what all parts of one version share"));
            };
            Some(Part { generation, of })
        }
    };
    Ok(Marks {
        group,
        part,
        ordered,
        service_wider,
        host_network_peer,
    })
}

/// `spec`, or a fault where there is none.
fn spec<'n, 'c>(root: &'c Cursor<'n, '_>) -> Result<Cursor<'n, 'c>> {
    root.get("spec")?
        .ok_or_else(|| root.missing("spec", "a mapping"))
}

pub(super) fn policy_ref(root: &Cursor<'_, '_>, identity: &Identity) -> Result<PolicyRef> {
    let own = || PolicyRef {
        kind: identity.kind.name().to_owned(),
        namespace: identity.namespace.clone(),
        name: identity.name.clone(),
    };
    let spec = spec(root)?;
    let Some(reference) = spec.get("policyRef")? else {
        return Ok(own());
    };
    let text = |key| -> Result<Option<String>> {
        Ok(reference
            .get(key)?
            .map(|c| c.text())
            .transpose()?
            .filter(|t| !t.is_empty())
            .map(str::to_owned))
    };
    let Some(name) = text("name")? else {
        return Err(reference.missing("name", "the policy's name"));
    };
    let (default_kind, namespace) = match identity.kind {
        Kind::PolicyEndpoint => (
            "NetworkPolicy",
            text("namespace")?.unwrap_or_else(|| identity.namespace.clone()),
        ),
        Kind::ClusterPolicyEndpoint => (
            "ClusterNetworkPolicy",
            text("namespace")?.unwrap_or_default(),
        ),
    };
    Ok(PolicyRef {
        kind: text("kind")?.unwrap_or_else(|| default_kind.to_owned()),
        namespace,
        name,
    })
}

/// One entry of `podSelectorEndpoints`.
pub(super) fn pod(entry: &Cursor<'_, '_>, identity: &Identity) -> Result<PodName> {
    let name = match entry.get("name")?.map(|c| c.text()).transpose()? {
        Some(name) if !name.is_empty() => name,
        _ => return Err(entry.missing("name", "the pod's name")),
    };
    let namespace = match entry.get("namespace")?.map(|c| c.text()).transpose()? {
        Some(namespace) if !namespace.is_empty() => namespace,
        _ if identity.namespace.is_empty() => "default",
        _ => &identity.namespace,
    };
    Ok(PodName {
        namespace: namespace.into(),
        name: name.into(),
    })
}

fn pods(root: &Cursor<'_, '_>, identity: &Identity) -> Result<Box<[PodName]>> {
    let spec = spec(root)?;
    let Some(list) = spec.get("podSelectorEndpoints")? else {
        return Ok(Box::default());
    };
    let mut pods = list
        .items()?
        .map(|entry| pod(&entry, identity))
        .collect::<Result<Vec<_>>>()?;
    pods.sort_unstable();
    pods.dedup();
    Ok(pods.into())
}

/// `spec.podSelector`; cluster-wide documents have none.
pub(super) fn selector(root: &Cursor<'_, '_>, kind: Kind) -> Result<Option<Selector>> {
    if kind == Kind::ClusterPolicyEndpoint {
        return Ok(None);
    }
    let spec = spec(root)?;
    let Some(selector) = spec.get("podSelector")? else {
        return Ok(None);
    };
    let mut requirements = Vec::new();
    if let Some(labels) = selector.get("matchLabels")? {
        for (key, value) in labels.entries()? {
            requirements.push(Requirement {
                key: key.to_owned(),
                operator: Operator::In([value.text()?.to_owned()].into()),
            });
        }
    }
    if let Some(expressions) = selector.get("matchExpressions")? {
        for expression in expressions.items()? {
            requirements.push(requirement(&expression)?);
        }
    }
    // A selector that is there but no mapping (`podSelector: all`) fails at the first `get` above.
    requirements.sort_unstable();
    requirements.dedup();
    Ok(Some(Selector { requirements }))
}

fn requirement(expression: &Cursor<'_, '_>) -> Result<Requirement> {
    let key = match expression.get("key")? {
        Some(key) => key.text()?.to_owned(),
        None => return Err(expression.missing("key", "a label's key")),
    };
    let Some(operator) = expression.get("operator")? else {
        return Err(expression.missing("operator", "In, NotIn, Exists or DoesNotExist"));
    };
    let values = match expression.get("values")? {
        None => None,
        Some(values) => Some(
            values
                .items()?
                .map(|v| Ok(v.text()?.to_owned()))
                .collect::<Result<_>>()?,
        ),
    };
    let values = values.unwrap_or_else(std::collections::BTreeSet::new);
    let word = operator.text()?;
    let refuse = |problem| {
        Err(expression.fault(Fault::Values {
            operator: word.to_owned(),
            problem,
        }))
    };
    let operator = match (word, values.is_empty()) {
        ("In", false) => Operator::In(values),
        ("NotIn", false) => Operator::NotIn(values),
        ("Exists", true) => Operator::Exists,
        ("DoesNotExist", true) => Operator::DoesNotExist,
        ("In" | "NotIn", true) => return refuse("needs values"),
        ("Exists" | "DoesNotExist", false) => return refuse("takes no values"),
        _ => return Err(operator.unknown(word, "In, NotIn, Exists or DoesNotExist")),
    };
    Ok(Requirement { key, operator })
}

/// What `podIsolation` names.
pub(super) fn isolation(root: &Cursor<'_, '_>) -> Result<Directions<bool>> {
    let mut isolates = Directions::default();
    let spec = spec(root)?;
    if let Some(list) = spec.get("podIsolation")? {
        for entry in list.items()? {
            match entry.text()? {
                "Ingress" => isolates.ingress = true,
                "Egress" => isolates.egress = true,
                other => return Err(entry.unknown(other, "Ingress or Egress")),
            }
        }
    }
    Ok(isolates)
}

fn tier(root: &Cursor<'_, '_>, kind: Kind) -> Result<(Tier, u16)> {
    if kind == Kind::PolicyEndpoint {
        return Ok((Tier::NetworkPolicy, 0));
    }
    let spec = spec(root)?;
    let Some(tier) = spec.get("tier")? else {
        return Err(spec.missing("tier", "Admin or Baseline"));
    };
    let tier = match tier.text()? {
        "Admin" => Tier::Admin,
        "Baseline" => Tier::Baseline,
        other => return Err(tier.unknown(other, "Admin or Baseline")),
    };
    let priority = spec.get("priority")?.map_or(Ok(0), |p| p.int(0, 1000))?;
    Ok((tier, priority as u16))
}

/// The rules of one direction.
struct Rules {
    rules: Vec<Rule>,
    unsupported: Vec<String>,
    /// Entries of the list, those without effect included.
    listed: usize,
}

/// Port lists that were seen, so that equal ones are stored once.
#[derive(Default)]
struct Lists {
    seen: HashSet<Ports>,
    /// The list that is being read.
    entries: Vec<PortEntry>,
    /// The one before: rules in a row mostly have the same.
    last: Option<Ports>,
}

impl Lists {
    /// The list that has been read, as one that is shared.
    fn share(&mut self) -> Ports {
        let entries = &mut self.entries;
        entries.sort_unstable();
        entries.dedup();
        if entries
            .iter()
            .any(|e| e.protocol.is_none() && e.ports.is_none())
        {
            entries.clear();
        }
        if let Some(last) = self.last.as_ref().filter(|last| ***last == **entries) {
            return Arc::clone(last);
        }
        let known = self.seen.get(entries.as_slice()).cloned();
        let list = known.unwrap_or_else(|| {
            let list: Ports = entries.as_slice().into();
            self.seen.insert(Arc::clone(&list));
            list
        });
        self.last = Some(Arc::clone(&list));
        list
    }
}

fn rules(root: &Cursor<'_, '_>, kind: Kind, key: &str, lists: &mut Lists) -> Result<Rules> {
    let mut out = Rules {
        rules: Vec::new(),
        unsupported: Vec::new(),
        listed: 0,
    };
    let spec = spec(root)?;
    let Some(list) = spec.get(key)? else {
        return Ok(out);
    };
    for (index, entry) in list.items()?.enumerate() {
        out.listed += 1;
        if key == "egress"
            && entry
                .get("domainName")?
                .is_some_and(|d| d.node.text() != Some(""))
        {
            out.unsupported.push(format!("{}.domainName", entry.path()));
            continue;
        }
        out.rules.push(rule(
            &entry,
            kind,
            u32::try_from(index).unwrap_or(u32::MAX),
            lists,
        )?);
    }
    Ok(out)
}

fn rule(entry: &Cursor<'_, '_>, kind: Kind, index: u32, lists: &mut Lists) -> Result<Rule> {
    let Some(cidr) = entry.get("cidr")? else {
        return Err(entry.missing("cidr", "an address or address/length"));
    };
    let cidr = block(&cidr)?;
    let mut except = Vec::new();
    if let Some(list) = entry.get("except")? {
        for hole in list.items()? {
            let block = block(&hole)?;
            if block.family() != cidr.family() {
                return Err(hole.fault(Fault::ExceptFamily {
                    except: block,
                    cidr,
                }));
            }
            if !cidr.covers(&block) {
                return Err(hole.fault(Fault::ExceptOutside {
                    except: block,
                    cidr,
                }));
            }
            except.push(block);
        }
        except.sort_unstable();
        except.dedup();
    }
    lists.entries.clear();
    if let Some(list) = entry.get("ports")? {
        for port in list.items()? {
            lists.entries.push(port_entry(&port, kind)?);
        }
    }
    let action = match kind {
        Kind::PolicyEndpoint => Action::Accept,
        Kind::ClusterPolicyEndpoint => {
            let Some(action) = entry.get("action")? else {
                return Err(entry.missing("action", "Accept, Deny or Pass"));
            };
            match action.text()? {
                "Accept" => Action::Accept,
                "Deny" => Action::Deny,
                "Pass" => Action::Pass,
                other => return Err(action.unknown(other, "Accept, Deny or Pass")),
            }
        }
    };
    Ok(Rule {
        index,
        cidr,
        except: except.into(),
        ports: lists.share(),
        action,
    })
}

fn block(cursor: &Cursor<'_, '_>) -> Result<Prefix> {
    Prefix::from_str(cursor.text()?).map_err(|e| cursor.fault(e))
}

fn port_entry(entry: &Cursor<'_, '_>, kind: Kind) -> Result<PortEntry> {
    let protocol = match entry.get("protocol")? {
        None => None,
        Some(protocol) => match protocol.text()? {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            other => return Err(protocol.unknown(other, "TCP, UDP or SCTP")),
        },
    };
    let port = match entry.get("port")? {
        None => None,
        Some(port) => Some(port.int(1, 65535)? as u16),
    };
    let end = match entry.get("endPort")? {
        None => None,
        Some(end_port) => match (port, end_port.int(1, 65535)? as u16) {
            (None, _) => return Err(end_port.fault(Fault::EndWithoutPort)),
            (Some(port), end) if end < port => {
                return Err(end_port.fault(Fault::EndBeforePort { end, port }));
            }
            (Some(_), end) => Some(end),
        },
    };
    let protocol = match (kind, protocol, port) {
        (Kind::ClusterPolicyEndpoint, None, Some(_)) => Some(Protocol::Tcp),
        (_, protocol, _) => protocol,
    };
    Ok(PortEntry {
        protocol,
        ports: port.map(|first| (first, end.unwrap_or(first))),
    })
}

/// The whole document.
pub(super) fn document(root: &Cursor<'_, '_>, kind: Kind) -> Result<Document> {
    let identity = identity(root, kind)?;
    let marks = marks(root)?;
    let policy = policy_ref(root, &identity)?;
    let (tier, priority) = tier(root, kind)?;
    let mut lists = Lists::default();
    let ingress = rules(root, kind, "ingress", &mut lists)?;
    let egress = rules(root, kind, "egress", &mut lists)?;
    let isolates = match kind {
        Kind::ClusterPolicyEndpoint => Directions::default(),
        Kind::PolicyEndpoint => {
            let named = isolation(root)?;
            Directions {
                ingress: named.ingress || ingress.listed > 0,
                egress: named.egress || egress.listed > 0,
            }
        }
    };
    Ok(Document {
        pods: pods(root, &identity)?,
        selector: selector(root, kind)?,
        identity,
        policy,
        group: marks.group,
        part: marks.part,
        ordered: marks.ordered,
        tier,
        priority,
        isolates,
        ingress: ingress.rules,
        egress: egress.rules,
        unsupported: [ingress.unsupported, egress.unsupported].concat(),
        service_wider: marks.service_wider,
        host_network_peer: marks.host_network_peer,
    })
}
