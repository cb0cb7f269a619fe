//! From endpoints and policies to tables and policy states.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use enforcer::grace::Grace;
use enforcer::hosts;
use policy::documents::Directions;
use policy::plan::{EndpointState, Write};
use policy::tables::{EndpointPolicy, Set, SetIndex};
use policy::{EndpointId, Policy, PolicyKey, compile, plan};
use state::{Phase, Record};
use verdict::PolicyState;

use super::{Engine, Options};
use crate::kernel::{self, Kernel, LOCK, Target};
use crate::local::{self, Local};
use crate::shared::Counts;

/// A change that failed is tried again after so long, then twice as long, and so on.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(10);
/// So many changes may come before what they leave behind is tidied up, even if no change waits that long.
pub(super) const UNTIDY_AT_MOST: u32 = 32;
/// What only endpoints that are gone needed is swept after so long at most.
const STALE_AT_MOST: Duration = Duration::from_secs(5);

/// What a plan leaves for after its policy states.
pub(super) struct Tidy {
    settle: Vec<Write>,
    sweep: Vec<Write>,
    /// The grace period that has to be over.
    grace: u64,
}

/// Which policies select an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    /// Equal for endpoints that the same versions of the same policies select.
    pub(super) digest: String,
    pub(super) policies: Vec<String>,
}

/// Profiles that are known.
pub(super) type Profiles = BTreeMap<EndpointId, Profile>;

impl Engine {
    /// Takes up the endpoints; those that came, went or changed.
    pub(super) fn gather(&mut self, problems: &mut Vec<String>) -> BTreeSet<EndpointId> {
        let records = match self.store.records() {
            Ok(records) => records,
            Err(error) => {
                problems.push(error.to_string());
                return BTreeSet::new();
            }
        };
        problems.extend(records.problems.iter().map(ToString::to_string));
        self.claims = hosts::Claims::of(&records.good);
        let kernel = self.kernel.as_ref();
        let lives = |record: &Record| match kernel {
            None => true,
            Some(kernel) => kernel
                .endpoints
                .entry(record.ifindex)
                .inspect_err(|error| tracing::warn!("{error}"))
                .is_ok_and(|entry| {
                    entry.is_some_and(|entry| entry.endpoint_id == record.endpoint_id)
                }),
        };
        let (with_entry, without): (Vec<Record>, Vec<Record>) =
            records.good.into_iter().partition(lives);
        self.without_entry = without
            .into_iter()
            .filter(|r| r.phase == Phase::Attached && kernel.is_some())
            .collect();
        let locals = local::gather(
            with_entry,
            &self.workloads,
            &self.config,
            &self.locals,
            Instant::now(),
        );
        let mut changed: BTreeSet<EndpointId> = locals
            .iter()
            .filter(|(id, local)| self.locals.get(id) != Some(local))
            .map(|(id, _)| *id)
            .collect();
        changed.extend(self.locals.keys().filter(|id| !locals.contains_key(id)));
        if let Some(kernel) = &mut self.kernel {
            let gone: Vec<EndpointId> = kernel
                .live
                .endpoints()
                .filter(|id| !locals.contains_key(id))
                .collect();
            gone.into_iter().for_each(|id| kernel.live.forget(id));
        }
        self.locals = locals;
        for id in &changed {
            self.profiles.remove(id);
        }
        changed
    }

    pub(super) fn hosts(&mut self, problems: &mut Vec<String>) {
        let Some(kernel) = &self.kernel else { return };
        let done = hosts::gather(&self.store).and_then(|wanted| {
            let mut set = hosts::HostSet::open(&kernel.pins)?;
            if set.read()? == wanted {
                return Ok(hosts::Changes::default());
            }
            match self.store.lock(LOCK) {
                Ok(locked) => Ok(set.apply(&locked, &wanted)?),
                Err(error) => {
                    problems.push(format!("bring the host set up to date: {error}"));
                    Ok(hosts::Changes::default())
                }
            }
        });
        self.refresh_claims(problems);
        match done {
            Ok(changes) if !changes.is_empty() => {
                tracing::info!(added = ?changes.added, removed = ?changes.removed, "host set changed");
            }
            Ok(_) => {}
            Err(error) => problems.push(format!("bring the host set up to date: {error}")),
        }
    }

    /// hostPorts, tunnels' ports and host paths: they come and go with pods and interfaces.
    fn refresh_claims(&self, problems: &mut Vec<String>) {
        let Some(kernel) = &self.kernel else { return };
        // The lock only where there is something to do: interfaces come with every pod.
        let refresh = || -> Result<bool, String> {
            if hosts::claims_hold(&self.claims, &kernel.pins).map_err(|e| e.to_string())? {
                return Ok(false);
            }
            let locked = self.store.lock(LOCK).map_err(|e| e.to_string())?;
            hosts::refresh_claims(&locked, &kernel.pins).map_err(|e| e.to_string())
        };
        match refresh() {
            Ok(true) => tracing::info!("hostPorts, ports of tunnels or host paths changed"),
            Ok(false) => {}
            Err(error) => problems.push(format!(
                "bring hostPorts and host paths up to date: {error}"
            )),
        }
    }

    /// Brings the kernel to what policy says: of the endpoints that changed, where that is all that changed.
    pub(super) fn apply(&mut self, endpoints: &BTreeSet<EndpointId>, everything: bool) {
        let begin = Instant::now();
        let done = match self.alike(endpoints).filter(|_| !everything) {
            Some(policy_states) => self.follow(&policy_states).map(|()| policy_states.len()),
            None => self.whole(),
        };
        match done {
            Ok(writes) => {
                let took = begin.elapsed().as_micros();
                Counts::add(&self.shared.counts.applied, 1);
                Counts::add(&self.shared.counts.apply_us, took as u64);
                let (endpoints, policies) = (self.locals.len(), self.intake.policies().len());
                tracing::debug!(
                    endpoints,
                    policies,
                    writes,
                    took_us = took,
                    "policy in force"
                );
                if self.status.error.take().is_some() {
                    tracing::info!("the change that could not be applied is in force now");
                }
                self.retry = None;
            }
            Err(error) => {
                self.compiled = None;
                let wait = self
                    .retry
                    .map_or(RETRY, |(_, wait)| (wait * 2).min(RETRY_AT_MOST));
                self.retry = Some((Instant::now() + wait, wait));
                Counts::add(&self.shared.counts.apply_errors, 1);
                let error = error.to_string();
                if self.status.error.as_ref() != Some(&error) {
                    tracing::error!(
                        "apply policy: {error}; the policy before stays in force, trying again"
                    );
                }
                self.status.error = Some(error);
            }
        }
    }

    /// Who is not known yet keeps its pending policy state; one that the plugin has let go is ours to correct.
    fn is_undecided(&self, local: &Local) -> bool {
        let pending = |kernel: &Kernel| {
            let policy_state = kernel
                .endpoints
                .policy_states
                .get(local.record.endpoint_index);
            policy_state.has(PolicyState::PENDING) || policy_state.revision() == 0
        };
        !local.known && self.kernel.as_ref().is_none_or(pending)
    }

    /// Policy states for endpoints that came or changed while no policy did: those whose policies another endpoint has too get
    /// its policy state, and no table has to change. `None` = everything has to be compiled.
    fn alike(&mut self, changed: &BTreeSet<EndpointId>) -> Option<Vec<Write>> {
        if self.compiled != Some(self.intake.version()) {
            return None;
        }
        let mut policy_states = Vec::new();
        for id in changed {
            let Some(local) = self.locals.get(id) else {
                // What only it needed is swept when there is time.
                self.tables.endpoints.remove(id);
                self.stale
                    .get_or_insert_with(|| Instant::now() + STALE_AT_MOST);
                continue;
            };
            if self.is_undecided(local) {
                continue;
            }
            let profile = self.profile(local);
            let (policy, policy_state) = if profile.policies.is_empty() {
                let empty = self.tables.sets.iter().position(|set| set.rules.is_empty());
                let set = empty.unwrap_or_else(|| {
                    self.tables.sets.push(Set::default());
                    self.tables.sets.len() - 1
                });
                let set = SetIndex(u32::try_from(set).ok()?);
                (
                    EndpointPolicy {
                        isolated: Directions::default(),
                        set,
                    },
                    EndpointState::default(),
                )
            } else {
                let live = &self.kernel.as_ref()?.live;
                self.profiles
                    .iter()
                    .filter(|(twin, has)| *twin != id && has.digest == profile.digest)
                    .find_map(|(twin, _)| {
                        Some((*self.tables.endpoints.get(twin)?, live.policy_state(*twin)?))
                    })?
            };
            self.tables.endpoints.insert(*id, policy);
            self.profiles.insert(*id, profile);
            let before = self
                .kernel
                .as_ref()
                .and_then(|kernel| kernel.live.policy_state(*id));
            if before != Some(policy_state) {
                policy_states.push(Write::PutPolicyState {
                    endpoint: *id,
                    policy_state,
                    new_revision: true,
                });
            }
        }
        Some(policy_states)
    }

    /// Flips policy states that lead to what is in the tables already.
    fn follow(&mut self, policy_states: &[Write]) -> Result<(), kernel::Error> {
        self.flip(policy_states)?;
        if !policy_states.is_empty() {
            let (settle, sweep) = self
                .tidy
                .take()
                .map_or_else(Default::default, |tidy| (tidy.settle, tidy.sweep));
            self.leave(settle, sweep);
        }
        Ok(())
    }

    /// Compiles, plans and carries out up to the policy states.
    fn whole(&mut self) -> Result<usize, kernel::Error> {
        self.observe();
        let decided = self
            .locals
            .values()
            .filter(|local| !self.is_undecided(local));
        let endpoints: Vec<policy::Endpoint> =
            decided.map(|local| local.endpoint.clone()).collect();
        self.compiled = None;
        self.stale = None;
        self.tables = compile(&endpoints, self.intake.policies(), &self.facts);
        let writes = self.carry_out()?;
        self.compiled = Some(self.intake.version());
        Ok(writes)
    }

    /// Takes notice of new versions of policies, once each.
    fn observe(&mut self) {
        let now = Instant::now();
        let policies = self.intake.policies();
        let is_new = |key: &PolicyKey, policy: &Arc<Policy>| {
            self.observed
                .get(key)
                .is_none_or(|before| !Arc::ptr_eq(before, policy))
        };
        let news: Vec<&Arc<Policy>> = policies
            .iter()
            .filter(|(key, policy)| is_new(key, policy))
            .map(|(_, policy)| policy)
            .collect();
        if news.is_empty() && policies.len() == self.observed.len() {
            return;
        }
        let endpoints: Vec<policy::Endpoint> =
            self.locals.values().map(|l| l.endpoint.clone()).collect();
        let late = |id| self.locals.get(&id).is_some_and(|local| local.is_late(now));
        for policy in news {
            self.facts.observe(policy, &endpoints, late);
        }
        self.facts.retain(
            |key| policies.contains_key(key),
            |id| self.locals.contains_key(&id),
        );
        self.profiles.clear();
        self.observed = policies.clone();
    }

    fn carry_out(&mut self) -> Result<usize, kernel::Error> {
        let Some(kernel) = &mut self.kernel else {
            self.status.generation += 1;
            return Ok(0);
        };
        for local in self.locals.values() {
            kernel.check_policy_state(local.id(), local.record.endpoint_index);
        }
        let plan = plan(&kernel.live, &self.tables);
        if !plan.is_empty() {
            tracing::trace!("plan\n{plan}");
        }
        let writes = plan.len();
        if plan.waits && !plan.prepare.is_empty() {
            // Policy states changed under a plan whose grace period was not waited for: programs may still use what they read.
            Grace::new()?.wait()?;
            kernel.live.grace();
        }
        // What an earlier plan left to do, this one has found again.
        self.tidy = None;
        kernel.write(&plan.prepare)?;
        self.flip(&plan.policy_states)?;
        if !plan.policy_states.is_empty() || !plan.settle.is_empty() || !plan.sweep.is_empty() {
            self.leave(plan.settle, plan.sweep);
        }
        Ok(writes)
    }

    /// Writes policy states, and gives all policy states the flags that policy does not decide.
    fn flip(&mut self, policy_states: &[Write]) -> Result<(), kernel::Error> {
        let (locals, options) = (&self.locals, &self.options);
        let Some(kernel) = &mut self.kernel else {
            return Ok(());
        };
        kernel.flip(policy_states, |id| {
            locals.get(&id).map(|local| target(local, options))
        })?;
        for local in locals
            .values()
            .filter(|local| self.tables.endpoints.contains_key(&local.id()))
        {
            kernel.correct(
                local.id(),
                local.record.endpoint_index,
                target(local, options),
            )?;
        }
        if !policy_states.is_empty() {
            self.status.generation += 1;
        }
        Ok(())
    }

    /// Policy states have flipped: what is to be done once no program uses the old ones.
    fn leave(&mut self, settle: Vec<Write>, sweep: Vec<Write>) {
        self.graces += 1;
        self.untidy += 1;
        self.tidy = Some(Tidy {
            settle,
            sweep,
            grace: self.graces,
        });
        if self.untidy <= UNTIDY_AT_MOST {
            // Who waits for it has ended only when the process does.
            let _ = self.ask_grace.send(self.graces);
            return;
        }
        // Changes come faster than grace periods go by: this one is waited for here.
        if Grace::new().and_then(|grace| grace.wait()).is_ok() {
            self.grace(self.graces);
        }
    }

    /// Which policies select an endpoint, in which versions.
    fn profile(&self, local: &Local) -> Profile {
        let (mut policies, mut text) = (Vec::new(), String::new());
        for policy in self.intake.policies().values() {
            if policy.selects(&local.endpoint, &self.facts) {
                text.push_str(&policy.key.to_string());
                for document in &policy.documents {
                    text.push('\n');
                    text.push_str(self.intake.digest(&document.identity).unwrap_or_default());
                }
                policies.push(policy.key.policy.to_string());
            }
        }
        policies.dedup();
        Profile {
            digest: state::layout::digest(text.as_bytes()),
            policies,
        }
    }

    /// The profiles of all endpoints, those that are known already as they are.
    pub(super) fn profile_all(&mut self) {
        // Digests of documents are made when they are told of.
        self.intake.conditions();
        let lacking: Vec<(EndpointId, Profile)> = self
            .locals
            .values()
            .filter(|local| !self.profiles.contains_key(&local.id()))
            .map(|local| (local.id(), self.profile(local)))
            .collect();
        self.profiles.extend(lacking);
        self.profiles.retain(|id, _| self.locals.contains_key(id));
    }

    /// A grace period is over: what the old policy states led to may be changed now, and after one more, swept.
    pub(super) fn grace(&mut self, number: u64) {
        let (Some(kernel), Some(tidy)) = (&mut self.kernel, &mut self.tidy) else {
            return;
        };
        if tidy.grace != number {
            return;
        }
        kernel.live.grace();
        let settle = std::mem::take(&mut tidy.settle);
        let sweep = if settle.is_empty() {
            std::mem::take(&mut tidy.sweep)
        } else {
            Vec::new()
        };
        let done = kernel.write(&settle).and_then(|()| kernel.write(&sweep));
        match done {
            Ok(()) if settle.is_empty() => {
                self.untidy = 0;
                self.tidy = None;
            }
            Ok(()) => {
                self.graces += 1;
                tidy.grace = self.graces;
                let _ = self.ask_grace.send(self.graces);
            }
            Err(error) => {
                tracing::warn!("tidy up tables: {error}; the next change does it");
                self.tidy = None;
            }
        }
    }
}

/// Interface and flags that policy does not decide.
fn target(local: &Local, options: &Options) -> Target {
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    Target {
        ifindex: local.record.ifindex,
        extra: flag(local.is_strict(), PolicyState::STRICT)
            | flag(options.suspended, PolicyState::SUSPENDED)
            | flag(options.events, PolicyState::LOG),
    }
}
