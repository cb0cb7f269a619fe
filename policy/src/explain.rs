//! Why: the verdict for one packet, with the policy and rule that give it. It reads the documents in force, not the
//! tables; tests hold both to each other.

use std::{fmt, net::IpAddr, sync::Arc};

use crate::{
    documents::{Action, Document, Identity, Rule, Tier},
    portmap::{Pieces, Verdict},
    select::{Endpoint, Facts},
    sets::{Policies, Policy, PolicyKey},
    tables::Direction,
};

/// A rule by its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// The policy: kind, namespace, name, group.
    pub policy: PolicyKey,
    /// The document that holds the rule.
    pub document: Identity,
    /// Place in the document's list for the direction, from 0.
    pub index: u32,
    /// Where it stands.
    pub tier: Tier,
    /// What it does.
    pub action: Action,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rule {} of {} ({} tier, {})",
            self.policy,
            self.index,
            self.document,
            self.tier.name(),
            self.action.name()
        )
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Allow or Deny; Default = no policy has a say, the mode decides.
    pub verdict: Verdict,
    /// The rule that gives the verdict. None where nothing matched: see `isolated_by`.
    pub rule: Option<RuleRef>,
    /// Rules that matched and passed the packet on, in the order asked.
    pub passed_on: Vec<RuleRef>,
    /// The policies that isolate the endpoint for the direction; without any, Baseline and then the mode decide.
    pub isolated_by: Vec<PolicyKey>,
}

/// Explains the verdict for a packet of an endpoint; protocols without ports have port 0.
pub fn explain(
    endpoint: &Endpoint,
    policies: &Policies,
    facts: &Facts,
    direction: Direction,
    peer: IpAddr,
    protocol: u8,
    port: u16,
) -> Explanation {
    let mine: Vec<&Policy> = policies
        .values()
        .map(Arc::as_ref)
        .filter(|p| p.selects(endpoint, facts))
        .collect();
    let isolated_by: Vec<PolicyKey> = mine
        .iter()
        .filter(|p| *p.isolates().get(direction))
        .map(|p| p.key.clone())
        .collect();
    let search = Search {
        mine: &mine,
        direction,
        peer,
        protocol,
        port,
    };
    let mut passed_on = Vec::new();
    let mut answer = search.tier(Tier::Admin, &mut passed_on);
    if answer.is_none() {
        answer = if isolated_by.is_empty() {
            search.tier(Tier::Baseline, &mut passed_on)
        } else {
            search
                .matches(Tier::NetworkPolicy)
                .next()
                .map(|(_, _, rule)| rule)
        };
    }
    let verdict = match &answer {
        Some(rule) if rule.action == Action::Accept => Verdict::Allow,
        Some(_) => Verdict::Deny,
        None if isolated_by.is_empty() => Verdict::Default,
        None => Verdict::Deny,
    };
    Explanation {
        verdict,
        rule: answer,
        passed_on,
        isolated_by,
    }
}

struct Search<'a> {
    mine: &'a [&'a Policy],
    direction: Direction,
    peer: IpAddr,
    protocol: u8,
    port: u16,
}

impl<'a> Search<'a> {
    /// The rule that decides in a tier; a Pass goes to `passed_on`.
    fn tier(&self, tier: Tier, passed_on: &mut Vec<RuleRef>) -> Option<RuleRef> {
        let lowest = self
            .matches(tier)
            .map(|(_, document, _)| document.priority)
            .min()?;
        let mut best: Option<RuleRef> = None;
        for policy in self.mine {
            let mut rules = self
                .matches(tier)
                .filter(|(own, document, _)| {
                    std::ptr::eq(*own, *policy) && document.priority == lowest
                })
                .map(|(_, _, rule)| rule);
            // The first of equals is named.
            let candidate = if policy.ordered() {
                rules.next()
            } else {
                rules.min_by_key(|rule| rule.action)
            };
            if let Some(candidate) =
                candidate.filter(|c| best.as_ref().is_none_or(|b| c.action < b.action))
            {
                best = Some(candidate);
            }
        }
        match best {
            Some(rule) if rule.action == Action::Pass => {
                passed_on.push(rule);
                None
            }
            best => best,
        }
    }

    /// Every rule of a tier that matches, in the order of policies, documents and lists.
    fn matches(
        &self,
        tier: Tier,
    ) -> impl Iterator<Item = (&'a Policy, &'a Document, RuleRef)> + '_ {
        let documents = self
            .mine
            .iter()
            .flat_map(|policy| policy.documents.iter().map(|d| (*policy, d.as_ref())));
        documents
            .filter(move |(_, document)| document.tier == tier)
            .flat_map(move |(policy, document)| {
                document
                    .rules(self.direction)
                    .iter()
                    .filter(|rule| self.holds(rule))
                    .map(move |rule| {
                        let reference = RuleRef {
                            policy: policy.key.clone(),
                            document: document.identity.clone(),
                            index: rule.index,
                            tier,
                            action: rule.action,
                        };
                        (policy, document, reference)
                    })
            })
    }

    fn holds(&self, rule: &Rule) -> bool {
        rule.cidr.holds(self.peer)
            && !rule.except.iter().any(|hole| hole.holds(self.peer))
            && Pieces::covered(&rule.ports).get(self.protocol, self.port)
    }
}
