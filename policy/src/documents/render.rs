//! A document back as JSON, in one form only: what `applied/` keeps and digests compare.

use serde_json::{Map, Value, json};

use super::{
    API_VERSION, Document, GENERATION, GROUP, HOST_NETWORK_PEER, Kind, ORDERED, PARTS, PortEntry,
    Rule, SERVICE_WIDER, Tier,
};
use crate::select::{Operator, Selector};

impl Document {
    /// The document as JSON that [`super::read()`] turns into an equal one; equal documents give equal bytes.
    pub fn to_json(&self) -> Vec<u8> {
        let cluster = self.identity.kind == Kind::ClusterPolicyEndpoint;
        let mut metadata = Map::new();
        metadata.insert("name".into(), self.identity.name.as_str().into());
        if !cluster {
            metadata.insert("namespace".into(), self.identity.namespace.as_str().into());
        }
        metadata.insert("annotations".into(), self.annotations());

        let mut spec = Map::new();
        spec.insert(
            "policyRef".into(),
            json!({ "kind": self.policy.kind, "namespace": self.policy.namespace, "name": self.policy.name }),
        );
        if cluster {
            spec.insert("tier".into(), self.tier.name().into());
            spec.insert("priority".into(), self.priority.into());
        } else {
            let mut isolation = Vec::new();
            if self.isolates.ingress {
                isolation.push("Ingress");
            }
            if self.isolates.egress {
                isolation.push("Egress");
            }
            spec.insert("podIsolation".into(), isolation.into());
        }
        if let Some(selector) = &self.selector {
            spec.insert("podSelector".into(), selector_json(selector));
        }
        let pods = self
            .pods
            .iter()
            .map(|p| json!({ "name": p.name, "namespace": p.namespace }));
        spec.insert("podSelectorEndpoints".into(), pods.collect());
        spec.insert("ingress".into(), self.rules_json(&self.ingress, "ingress"));
        spec.insert("egress".into(), self.rules_json(&self.egress, "egress"));
        let document = json!({
            "apiVersion": API_VERSION,
            "kind": self.identity.kind.name(),
            "metadata": metadata,
            "spec": spec,
        });
        document.to_string().into_bytes()
    }

    fn annotations(&self) -> Value {
        let mut out = Map::new();
        if let Some(group) = &self.group {
            out.insert(GROUP.into(), group.as_str().into());
        }
        if let Some(part) = &self.part {
            out.insert(PARTS.into(), part.of.to_string().into());
            out.insert(GENERATION.into(), part.generation.as_str().into());
        }
        if self.ordered {
            out.insert(ORDERED.into(), "true".into());
        }
        if let Some(services) = &self.service_wider {
            out.insert(SERVICE_WIDER.into(), services.as_str().into());
        }
        if let Some(pods) = &self.host_network_peer {
            out.insert(HOST_NETWORK_PEER.into(), pods.as_str().into());
        }
        out.into()
    }

    /// The list of a direction; what is unsupported stands where it stood, so that every index stays true.
    fn rules_json(&self, rules: &[Rule], key: &str) -> Value {
        let unsupported = self.unsupported.iter().filter_map(|path| {
            let index: usize = path
                .strip_prefix(&format!("spec.{key}["))?
                .strip_suffix("].domainName")?
                .parse()
                .ok()?;
            Some((index, json!({ "domainName": "unsupported.invalid" })))
        });
        let rules = rules
            .iter()
            .map(|rule| (rule.index as usize, self.rule_json(rule)));
        let mut list: Vec<_> = rules.chain(unsupported).collect();
        list.sort_by_key(|(index, _)| *index);
        list.into_iter().map(|(_, rule)| rule).collect()
    }

    fn rule_json(&self, rule: &Rule) -> Value {
        let mut out = Map::new();
        out.insert("cidr".into(), rule.cidr.to_string().into());
        if !rule.except.is_empty() {
            out.insert(
                "except".into(),
                rule.except.iter().map(ToString::to_string).collect(),
            );
        }
        if !rule.ports.is_empty() {
            out.insert("ports".into(), rule.ports.iter().map(port_json).collect());
        }
        if self.identity.kind == Kind::ClusterPolicyEndpoint && self.tier != Tier::NetworkPolicy {
            out.insert("action".into(), rule.action.name().into());
        }
        out.into()
    }
}

/// One entry of a port list.
pub fn port_json(entry: &PortEntry) -> Value {
    let mut out = Map::new();
    if let Some(protocol) = entry.protocol {
        out.insert("protocol".into(), protocol.name().into());
    }
    if let Some((first, last)) = entry.ports {
        out.insert("port".into(), first.into());
        if last != first {
            out.insert("endPort".into(), last.into());
        }
    }
    out.into()
}

/// A label selector.
pub fn selector_json(selector: &Selector) -> Value {
    let expressions = selector.requirements.iter().map(|requirement| {
        let (operator, values) = match &requirement.operator {
            Operator::In(values) => ("In", Some(values)),
            Operator::NotIn(values) => ("NotIn", Some(values)),
            Operator::Exists => ("Exists", None),
            Operator::DoesNotExist => ("DoesNotExist", None),
        };
        let mut out = Map::new();
        out.insert("key".into(), requirement.key.as_str().into());
        out.insert("operator".into(), operator.into());
        if let Some(values) = values {
            out.insert("values".into(), values.iter().map(String::as_str).collect());
        }
        Value::from(out)
    });
    json!({ "matchExpressions": expressions.collect::<Value>() })
}
