//! Putting policy in force: the tables, the plan, the maps, the policy states, grace periods, clean-up and retry.
//!
//! [`Enforcement`] is told what changed ([`EnforcementDelta`]) and answers what came of it ([`Outcome`]). It owns which
//! policies select which endpoint ([`policy::Facts`] included) and all that the policy maps hold. It knows no files, no
//! documents that are not in force, and no scheduling: the caller hands on grace periods ([`Enforcement::grace_over`])
//! and calls [`Enforcement::tick`] when [`Enforcement::due`] has come.
//!
//! Invariants
//! - a policy state is written only after all that it leads to is in the tables; what fails leaves in force what was;
//! - an endpoint that is not `known` keeps its pending policy state;
//! - without kernel objects everything is compiled and nothing written, and compiled counts as in force.

mod delta;
mod kernel;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use enforcer::grace::Grace;
use policy::documents::Directions;
use policy::plan::{EndpointState, Write};
use policy::tables::{EndpointPolicy, Set, SetIndex};
use policy::{EndpointId, Facts, Policies, Policy, Tables, compile, plan};
use state::Store;
use verdict::PolicyState;

pub(crate) use self::delta::{EndpointView, EnforcementDelta, LocalEndpoint, Outcome, TooLarge};
pub(crate) use self::kernel::Error;
use self::kernel::{KernelTables, Target};

/// A change that failed is tried again after so long, then twice as long, and so on.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(10);
/// So many changes may come before what they leave behind is cleaned up, even if no change waits that long.
const PENDING_CLEANUPS_AT_MOST: u32 = 32;
/// What only endpoints that are gone needed is swept after so long at most.
const STALE_AT_MOST: Duration = Duration::from_secs(5);

/// What a plan leaves for after its policy states.
struct PendingCleanup {
    settle: Vec<Write>,
    sweep: Vec<Write>,
    /// The grace period that has to be over.
    grace: u64,
}

/// What holds for every endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// `--enable-network-policy=false`.
    pub(crate) suspended: bool,
    /// `--enable-policy-event-logs`.
    pub(crate) events: bool,
}

/// See the module.
pub(crate) struct Enforcement {
    store: Store,
    options: Options,
    ask_grace: Sender<u64>,
    kernel: Option<KernelTables>,

    // What is to be in force.
    endpoints: BTreeMap<EndpointId, LocalEndpoint>,
    policies: Policies,
    facts: Facts,
    /// Which policies select an endpoint, where that is known.
    profiles: BTreeMap<EndpointId, Vec<Arc<Policy>>>,

    // What is.
    tables: Tables,
    in_force: Policies,
    /// The tables are not compiled from the present policies.
    outdated: bool,
    /// The tables hold what only endpoints that are gone needed: compile by then.
    stale: Option<Instant>,
    cleanup: Option<PendingCleanup>,
    graces: u64,
    cleanups_pending: u32,
    retry: Option<(Instant, Duration)>,
}

impl Enforcement {
    /// Begins without kernel objects and with nothing to enforce. A number that goes out by `ask_grace` is to come back
    /// by [`Enforcement::grace_over`] once a grace period has gone by.
    pub(crate) fn new(store: Store, options: Options, ask_grace: Sender<u64>) -> Self {
        Self {
            store,
            options,
            ask_grace,
            kernel: None,
            endpoints: BTreeMap::new(),
            policies: Policies::new(),
            facts: Facts::default(),
            profiles: BTreeMap::new(),
            tables: Tables::default(),
            in_force: Policies::new(),
            outdated: true,
            stale: None,
            cleanup: None,
            graces: 0,
            cleanups_pending: 0,
            retry: None,
        }
    }

    /// Takes up the kernel objects and reads what they hold. The next [`Enforcement::apply`] looks at everything.
    ///
    /// # Errors
    /// If they cannot be opened or read: it stays without them.
    pub(crate) fn open(&mut self, bpf_dir: &Path) -> Result<(), Error> {
        self.close();
        self.kernel = Some(KernelTables::open(&self.store, bpf_dir)?);
        // What an earlier run left behind is cleaned up after the first plan.
        self.cleanups_pending = PENDING_CLEANUPS_AT_MOST;
        Ok(())
    }

    /// The kernel objects are gone, or others are there.
    pub(crate) fn close(&mut self) {
        (self.kernel, self.cleanup) = (None, None);
        self.outdated = true;
    }

    /// Puts back what an earlier run had in force, before the first [`Enforcement::apply`]. These versions count as
    /// observed.
    pub(crate) fn restore(&mut self, policies: Policies) {
        self.policies = policies;
        self.outdated = true;
    }

    /// Puts back what an earlier run had learnt of selectors ([`Enforcement::facts`]).
    pub(crate) fn restore_facts(&mut self, facts: Facts) {
        self.facts = facts;
        self.profiles.clear();
        self.outdated = true;
    }

    /// What is known of selectors: to be kept over a restart.
    pub(crate) const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The policies that are in force.
    #[expect(
        dead_code,
        reason = "for the store of versions in force, which is being rebuilt"
    )]
    pub(crate) const fn in_force(&self) -> &Policies {
        &self.in_force
    }

    /// What does not fit.
    #[expect(dead_code, reason = "for the conditions, which are being rebuilt")]
    pub(crate) fn too_large(&self) -> TooLarge {
        TooLarge::default()
    }

    /// What is in force for an endpoint; `None` = it is not known here.
    pub(crate) fn view(&self, id: EndpointId) -> Option<EndpointView> {
        let local = self.endpoints.get(&id)?;
        let decided = self.tables.endpoints.get(&id);
        Some(EndpointView {
            decided: decided.is_some(),
            isolated: decided.map(|d| d.isolated).unwrap_or_default(),
            policies: match self.profiles.get(&id) {
                Some(profile) => profile.clone(),
                None => self.profile(local),
            },
        })
    }

    /// Entries in the kernel: exact peers, prefix peers, rules, port sets.
    pub(crate) fn sizes(&self) -> Option<[usize; 4]> {
        self.kernel.as_ref().map(|kernel| kernel.live.sizes())
    }

    /// When [`Enforcement::tick`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        [self.retry.map(|(at, _)| at), self.stale]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due by the clock: what failed is tried again.
    pub(crate) fn tick(&mut self, now: Instant) -> Outcome {
        if self.due().is_none_or(|at| at > now) {
            return Outcome::default();
        }
        self.outdated = true;
        self.apply(EnforcementDelta::default(), now)
    }

    /// Brings the kernel to what policy says after a change.
    pub(crate) fn apply(&mut self, delta: EnforcementDelta, now: Instant) -> Outcome {
        let changed = self.take(delta, now);
        let mut outcome = Outcome::default();
        let reused = if self.outdated {
            None
        } else {
            self.reuse_policy(&changed)
        };
        let done = match reused {
            Some(policy_states) => self.follow(&policy_states, &mut outcome),
            None => self.whole(&mut outcome),
        };
        match done {
            Ok(()) => {
                self.retry = None;
                self.in_force.clone_from(&self.policies);
            }
            Err(error) => {
                self.outdated = true;
                let wait = self
                    .retry
                    .map_or(RETRY, |(_, wait)| (wait * 2).min(RETRY_AT_MOST));
                self.retry = Some((now + wait, wait));
                outcome.error = Some(error.to_string());
            }
        }
        outcome
    }

    /// Takes notice of a change; the endpoints that came, changed or went.
    fn take(&mut self, delta: EnforcementDelta, now: Instant) -> BTreeSet<EndpointId> {
        let mut changed: BTreeSet<EndpointId> = delta.gone.iter().copied().collect();
        for id in delta.gone {
            self.endpoints.remove(&id);
            self.profiles.remove(&id);
            if let Some(kernel) = &mut self.kernel {
                kernel.live.forget(id);
            }
        }
        for endpoint in delta.endpoints {
            changed.insert(endpoint.id());
            self.profiles.remove(&endpoint.id());
            self.endpoints.insert(endpoint.id(), endpoint);
        }
        if !delta.policies.is_empty() {
            let endpoints: Vec<policy::Endpoint> = self
                .endpoints
                .values()
                .map(|local| local.endpoint.clone())
                .collect();
            let late = |id| self.endpoints.get(&id).is_some_and(|e| e.is_late(now));
            for (key, policy) in delta.policies {
                match policy {
                    Some(policy) => {
                        self.facts.observe(&policy, &endpoints, late);
                        self.policies.insert(key, policy);
                    }
                    None => {
                        self.policies.remove(&key);
                    }
                }
            }
            self.profiles.clear();
            self.outdated = true;
        }
        let (policies, endpoints) = (&self.policies, &self.endpoints);
        self.facts.retain(
            |key| policies.contains_key(key),
            |id| endpoints.contains_key(&id),
        );
        changed
    }

    /// An endpoint that is not known yet keeps its pending policy state; one that the plugin has let go is ours to correct.
    fn is_undecided(&self, local: &LocalEndpoint) -> bool {
        let pending = |kernel: &KernelTables| {
            let policy_state = kernel.endpoints.policy_states.get(local.endpoint_index);
            policy_state.has(PolicyState::PENDING) || policy_state.revision() == 0
        };
        !local.known && self.kernel.as_ref().is_none_or(pending)
    }

    /// The policies that select an endpoint.
    fn profile(&self, local: &LocalEndpoint) -> Vec<Arc<Policy>> {
        self.policies
            .values()
            .filter(|policy| policy.selects(&local.endpoint, &self.facts))
            .cloned()
            .collect()
    }

    /// Policy states for endpoints that came or changed while no policy did: one whose policies another endpoint has too
    /// gets its policy state, and no table has to change. `None` = everything has to be compiled.
    fn reuse_policy(&mut self, changed: &BTreeSet<EndpointId>) -> Option<Vec<Write>> {
        self.profile_all();
        let mut policy_states = Vec::new();
        for id in changed {
            let Some(local) = self.endpoints.get(id) else {
                // What only it needed is swept when there is time.
                self.tables.endpoints.remove(id);
                self.stale
                    .get_or_insert_with(|| Instant::now() + STALE_AT_MOST);
                continue;
            };
            if self.is_undecided(local) {
                continue;
            }
            let profile = self.profiles.get(id)?;
            let (policy, policy_state) = if profile.is_empty() {
                let empty = self.tables.sets.iter().position(|set| set.rules.is_empty());
                let set = empty.unwrap_or_else(|| {
                    self.tables.sets.push(Set::default());
                    self.tables.sets.len() - 1
                });
                let policy = EndpointPolicy {
                    isolated: Directions::default(),
                    set: SetIndex(u32::try_from(set).ok()?),
                };
                (policy, EndpointState::default())
            } else {
                let live = &self.kernel.as_ref()?.live;
                self.profiles
                    .iter()
                    .filter(|(other, has)| *other != id && are_same(has, profile))
                    .find_map(|(other, _)| {
                        Some((
                            *self.tables.endpoints.get(other)?,
                            live.policy_state(*other)?,
                        ))
                    })?
            };
            self.tables.endpoints.insert(*id, policy);
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

    fn profile_all(&mut self) {
        let lacking: Vec<(EndpointId, Vec<Arc<Policy>>)> = self
            .endpoints
            .values()
            .filter(|local| !self.profiles.contains_key(&local.id()))
            .map(|local| (local.id(), self.profile(local)))
            .collect();
        self.profiles.extend(lacking);
    }

    /// Writes policy states that lead to what is in the tables already.
    fn follow(&mut self, policy_states: &[Write], outcome: &mut Outcome) -> Result<(), Error> {
        self.flip(policy_states, outcome)?;
        if !policy_states.is_empty() {
            let (settle, sweep) = self
                .cleanup
                .take()
                .map_or_else(Default::default, |pending| (pending.settle, pending.sweep));
            self.leave(settle, sweep);
        }
        Ok(())
    }

    /// Compiles, plans and carries out up to the policy states.
    fn whole(&mut self, outcome: &mut Outcome) -> Result<(), Error> {
        let decided = self
            .endpoints
            .values()
            .filter(|local| !self.is_undecided(local));
        let endpoints: Vec<policy::Endpoint> =
            decided.map(|local| local.endpoint.clone()).collect();
        self.outdated = true;
        self.stale = None;
        self.tables = compile(&endpoints, &self.policies, &self.facts);
        self.carry_out(outcome)?;
        self.outdated = false;
        Ok(())
    }

    fn carry_out(&mut self, outcome: &mut Outcome) -> Result<(), Error> {
        let Some(kernel) = &mut self.kernel else {
            return Ok(());
        };
        for local in self.endpoints.values() {
            kernel.check_policy_state(local.id(), local.endpoint_index);
        }
        let plan = plan(&kernel.live, &self.tables);
        if !plan.is_empty() {
            tracing::trace!("plan\n{plan}");
        }
        if plan.waits && !plan.prepare.is_empty() {
            // Policy states changed under a plan whose grace period was not waited for: programs may still use what they read.
            Grace::new()?.wait()?;
            kernel.live.grace();
        }
        // What an earlier plan left to do, this one has found again.
        self.cleanup = None;
        kernel.write(&plan.prepare)?;
        outcome.writes = plan.len();
        self.flip(&plan.policy_states, outcome)?;
        if !plan.policy_states.is_empty() || !plan.settle.is_empty() || !plan.sweep.is_empty() {
            self.leave(plan.settle, plan.sweep);
        }
        Ok(())
    }

    /// Writes policy states, and gives all policy states the flags that policy does not decide.
    fn flip(&mut self, policy_states: &[Write], outcome: &mut Outcome) -> Result<(), Error> {
        let (endpoints, options) = (&self.endpoints, self.options);
        let Some(kernel) = &mut self.kernel else {
            return Ok(());
        };
        kernel.flip(policy_states, |id| {
            endpoints.get(&id).map(|local| target(local, options))
        })?;
        for write in policy_states {
            if let Write::PutPolicyState { endpoint, .. } = write {
                outcome.changed.insert(*endpoint);
            }
        }
        outcome.writes = outcome.writes.max(policy_states.len());
        for local in endpoints
            .values()
            .filter(|local| self.tables.endpoints.contains_key(&local.id()))
        {
            kernel.correct(local.id(), local.endpoint_index, target(local, options))?;
        }
        Ok(())
    }

    /// Policy states were written: what is to be done once no program uses the old ones.
    fn leave(&mut self, settle: Vec<Write>, sweep: Vec<Write>) {
        self.graces += 1;
        self.cleanups_pending += 1;
        self.cleanup = Some(PendingCleanup {
            settle,
            sweep,
            grace: self.graces,
        });
        if self.cleanups_pending <= PENDING_CLEANUPS_AT_MOST {
            // Who waits for it has ended only when the process does.
            let _ = self.ask_grace.send(self.graces);
            return;
        }
        // Changes come faster than grace periods go by: this one is waited for here.
        if Grace::new().and_then(|grace| grace.wait()).is_ok() {
            self.grace_over(self.graces);
        }
    }

    /// A grace period is over: what the old policy states led to may be changed now, and after one more, swept.
    pub(crate) fn grace_over(&mut self, number: u64) {
        let (Some(kernel), Some(pending)) = (&mut self.kernel, &mut self.cleanup) else {
            return;
        };
        if pending.grace != number {
            return;
        }
        kernel.live.grace();
        let settle = std::mem::take(&mut pending.settle);
        let sweep = if settle.is_empty() {
            std::mem::take(&mut pending.sweep)
        } else {
            Vec::new()
        };
        let done = kernel.write(&settle).and_then(|()| kernel.write(&sweep));
        match done {
            Ok(()) if settle.is_empty() => {
                self.cleanups_pending = 0;
                self.cleanup = None;
            }
            Ok(()) => {
                self.graces += 1;
                pending.grace = self.graces;
                let _ = self.ask_grace.send(self.graces);
            }
            Err(error) => {
                tracing::warn!("clean up tables: {error}; the next change does it");
                self.cleanup = None;
            }
        }
    }
}

/// Whether two lists name the same versions of the same policies.
fn are_same(one: &[Arc<Policy>], other: &[Arc<Policy>]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Interface and flags that policy does not decide.
fn target(local: &LocalEndpoint, options: Options) -> Target {
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    Target {
        ifindex: local.ifindex,
        extra: flag(local.strict, PolicyState::STRICT)
            | flag(options.suspended, PolicyState::SUSPENDED)
            | flag(options.events, PolicyState::LOG),
    }
}
