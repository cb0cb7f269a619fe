//! Cluster-wide policies: rules in their order.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Expansion, View, lines,
    network::{domain_lines, grouped, own_ports},
    peers,
};
use crate::{
    allow::{Entries, PortSet},
    file::{Line, Set},
    model::{Pod, PolicyObject},
};
use policy::documents::{Action, Directions};

impl View<'_> {
    pub(super) fn cluster(
        &self,
        policy: &PolicyObject,
        subjects: &[&Arc<Pod>],
        out: &mut Expansion,
    ) {
        let mut sources = Vec::new();
        for (number, rule) in policy.ingress.iter().enumerate() {
            let field = format!("spec.ingress[{number}]");
            self.find_names(rule, &field, subjects, out);
            sources.push(self.blocks(policy.key.kind, rule, &(field + ".from"), out));
        }
        let egress = self.ordered_egress(policy, out);

        // Order holds within one group only, so each pod has all its rules in one: no group where all have the same.
        let mut own: BTreeMap<Vec<(usize, PortSet)>, Vec<&Arc<Pod>>> = BTreeMap::new();
        for pod in subjects {
            own.entry(own_ports(&policy.ingress, pod))
                .or_default()
                .push(pod);
        }
        if own.is_empty() {
            own.insert(Vec::new(), Vec::new());
        }
        let alone = own.len() == 1;
        for (ports, pods) in own {
            let mut ingress: Vec<Line> = Vec::new();
            for (number, rule) in policy.ingress.iter().enumerate() {
                let mut all = peers::numbers(rule);
                for (_, named) in ports.iter().filter(|(of, _)| *of == number) {
                    all.add(named);
                }
                let mut entries = Entries::default();
                for (block, except) in &sources[number] {
                    entries.add(*block, except, &all);
                }
                ingress.extend(lines(entries, rule.action));
            }
            let set = Set {
                group: None,
                pods: self.names(pods),
                selector: None,
                isolates: Directions::default(),
                ingress,
                egress: egress.clone(),
            };
            out.sets.push(if alone { set } else { grouped(set) });
        }
        super::network::merge_groups(&mut out.sets);
    }

    fn ordered_egress(&self, policy: &PolicyObject, out: &mut Expansion) -> Vec<Line> {
        let mut rules: Vec<(Action, Entries)> = policy
            .egress
            .iter()
            .enumerate()
            .map(|(number, rule)| {
                let entries = self.towards(
                    policy.key.kind,
                    rule,
                    &format!("spec.egress[{number}]"),
                    out,
                );
                (rule.action, entries)
            })
            .collect();
        let services = self.services_ordered(&mut rules, out);
        let mut egress = Vec::new();
        for (((action, entries), services), rule) in
            rules.into_iter().zip(services).zip(&policy.egress)
        {
            egress.extend(lines(entries, action));
            egress.extend(domain_lines(rule));
            egress.extend(lines(services, action));
        }
        egress
    }
}
