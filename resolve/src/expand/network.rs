//! NetworkPolicy: a union of what rules allow.

use std::{collections::BTreeMap, sync::Arc};

use super::{Expansion, View, lines, peers};
use crate::{
    allow::{Entries, PortSet},
    file::{Line, Set, What, group_name},
    model::{Namespaces, Pod, PolicyObject, Rule},
};
use policy::documents::{Action, Directions};

/// What one pod has beyond the others: numbers for the named ports of ingress rules, Services that lead to itself alone.
type Own = (Vec<(usize, PortSet)>, Entries);

impl View<'_> {
    pub(super) fn network(
        &self,
        policy: &PolicyObject,
        subjects: &[&Arc<Pod>],
        out: &mut Expansion,
    ) {
        let mut ingress = Entries::default();
        let mut sources = Vec::new();
        for (number, rule) in policy.ingress.iter().enumerate() {
            let field = format!("spec.ingress[{number}]");
            self.find_names(rule, &field, subjects, out);
            let blocks = self.blocks(policy.key.kind, rule, &(field + ".from"), out);
            let ports = peers::numbers(rule);
            for (block, except) in &blocks {
                ingress.add(*block, except, &ports);
            }
            sources.push(blocks);
        }
        let mut egress = Entries::default();
        let mut domains = Vec::new();
        for (number, rule) in policy.egress.iter().enumerate() {
            egress.add_all(self.towards(
                policy.key.kind,
                rule,
                &format!("spec.egress[{number}]"),
                out,
            ));
            domains.extend(domain_lines(rule));
        }
        let mut own_services = Vec::new();
        if policy.isolates.egress {
            own_services = self.services_allowed(&mut egress, subjects, out);
        }

        let mut own: BTreeMap<Own, Vec<&Arc<Pod>>> = BTreeMap::new();
        let mut services = own_services.into_iter();
        for pod in subjects {
            let ports = own_ports(&policy.ingress, pod);
            let services = services.next().unwrap_or_default();
            if !ports.is_empty() || !services.is_empty() {
                own.entry((ports, services)).or_default().push(pod);
            }
        }

        let selector = match &policy.subject.namespaces {
            Namespaces::One(_) => Some(policy.subject.pods.clone()),
            Namespaces::Select(_) => None,
        };
        let mut base = Set {
            group: None,
            pods: self.names(subjects.iter().copied()),
            selector,
            isolates: policy.isolates,
            ingress: lines(ingress, Action::Accept).collect(),
            egress: lines(egress, Action::Accept).collect(),
        };
        base.egress.extend(domains);
        out.sets.push(base);
        for ((ports, services), pods) in own {
            let mut ingress = Entries::default();
            for (number, ports) in &ports {
                for (block, except) in &sources[*number] {
                    ingress.add(*block, except, ports);
                }
            }
            // Peers that select nobody leave a group with nothing to say.
            if ingress.is_empty() && services.is_empty() {
                continue;
            }
            out.sets.push(grouped(Set {
                group: None,
                pods: self.names(pods),
                selector: None,
                isolates: Directions::default(),
                ingress: lines(ingress, Action::Accept).collect(),
                egress: lines(services, Action::Accept).collect(),
            }));
        }
        merge_groups(&mut out.sets);
    }
}

/// The numbers that named ports of ingress rules have on a pod, by rule.
pub(super) fn own_ports(rules: &[Rule], pod: &Pod) -> Vec<(usize, PortSet)> {
    rules
        .iter()
        .enumerate()
        .map(|(number, rule)| (number, peers::names_on(rule, pod)))
        .filter(|(_, ports)| !ports.is_nothing())
        .collect()
}

/// Lines that name domains: not enforced, and seen to be so. Names of ports mean nothing on them.
pub(super) fn domain_lines(rule: &Rule) -> impl Iterator<Item = Line> {
    let ports = peers::numbers(rule);
    let names = peers::domains(rule).filter({
        let nothing = ports.is_nothing();
        move |_| !nothing
    });
    names.map(move |name| Line {
        what: What::Domain(name.clone()),
        ports: ports.clone(),
        action: rule.action,
    })
}

/// The set with the name of its group: a digest of what it says, so that it is the same for the same rules.
pub(super) fn grouped(mut set: Set) -> Set {
    set.group = Some(group_name(&set));
    set
}

/// Groups that say the same in different words are one.
pub(super) fn merge_groups(sets: &mut Vec<Set>) {
    sets.sort_by(|a, b| a.group.cmp(&b.group));
    sets.dedup_by(|second, first| {
        let same = second.group.is_some() && second.group == first.group;
        if same {
            first.pods.append(&mut second.pods);
            first.pods.sort_unstable();
        }
        same
    });
}
