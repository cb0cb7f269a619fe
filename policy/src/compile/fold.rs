//! The groups that hold an address, folded into one port map: Admin by priority, then NetworkPolicy, then Baseline by
//! priority, then the default.

use super::groups::Group;
use crate::{
    documents::{Action, Tier},
    portmap::{Pieces, PortMap, Verdict},
};

/// What some rules say of a packet; `None` = nothing.
type Answers = Pieces<Option<Action>>;

/// Folds the groups of one direction. `isolated`: some policy isolates the endpoint for it, so that Baseline is not
/// consulted and what nothing allows is denied; that denial is the word's (`Default`), not the map's.
pub(crate) fn port_map(mut listed: Vec<&Group>, isolated: bool) -> PortMap {
    listed.sort_by_key(|group| group.rank);
    let (admin, rest): (Vec<_>, Vec<_>) = listed
        .into_iter()
        .partition(|group| group.rank.tier == Tier::Admin);
    let (network, baseline): (Vec<_>, Vec<_>) = rest
        .into_iter()
        .partition(|group| group.rank.tier == Tier::NetworkPolicy);

    let after_admin = tier(&admin);
    if isolated {
        let allowed = network.iter().fold(Pieces::uniform(false), |all, group| {
            all.combine(&group.ports, |a, b| a || b)
        });
        return after_admin.combine(&allowed, |answer, allowed| match answer {
            Some(Action::Deny) => Verdict::Deny,
            Some(Action::Accept) => Verdict::Allow,
            Some(Action::Pass) | None if allowed => Verdict::Allow,
            Some(Action::Pass) | None => Verdict::Default,
        });
    }
    after_admin.combine(&tier(&baseline), |first, second| {
        let answer = if matches!(first, Some(Action::Pass) | None) {
            second
        } else {
            first
        };
        match answer {
            Some(Action::Deny) => Verdict::Deny,
            Some(Action::Accept) => Verdict::Allow,
            Some(Action::Pass) | None => Verdict::Default,
        }
    })
}

/// One tier: of the priorities that answer, the lowest number; at equal priority Deny before Accept before Pass. Pass
/// ends the tier.
fn tier(groups: &[&Group]) -> Answers {
    let mut out = Answers::uniform(None);
    for level in groups.chunk_by(|a, b| a.rank.priority == b.rank.priority) {
        let answer = level
            .chunk_by(|a, b| a.rank.policy == b.rank.policy)
            .map(policy)
            .fold(Answers::uniform(None), |all, one| {
                all.combine(&one, strongest)
            });
        out = out.combine(&answer, Option::or);
    }
    out
}

/// One policy at one priority: the first rule in its list that matches, or the strongest where it is not ordered.
fn policy(groups: &[&Group]) -> Answers {
    groups.iter().fold(Answers::uniform(None), |all, group| {
        let one = group
            .ports
            .combine(&group.ports, |covered, _| covered.then_some(group.action));
        if group.rank.order.is_some() {
            all.combine(&one, Option::or)
        } else {
            all.combine(&one, strongest)
        }
    })
}

/// Deny before Accept before Pass before nothing.
fn strongest(a: Option<Action>, b: Option<Action>) -> Option<Action> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
