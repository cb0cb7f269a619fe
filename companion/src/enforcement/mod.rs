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
mod room;
mod selection;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use enforcer::grace::Grace;
use policy::compiler::EndpointState;
use policy::plan::{Leftover, Plan, Step, Taken};
use policy::{Compiler, EndpointId, Facts, Policies, Policy, PolicyKey};
use state::Store;
use verdict::PolicyState;

pub(crate) use self::delta::{EndpointView, EnforcementDelta, LocalEndpoint, Outcome, TooLarge};
pub(crate) use self::kernel::Error;
use self::kernel::{KernelTables, Target};
use self::room::Held;
use self::selection::Namespaces;

/// A change that failed is tried again after so long, then twice as long, and so on.
const RETRY: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(10);

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
    namespaces: Namespaces,
    /// Policies and endpoints that changed since they were compiled.
    changed_policies: BTreeSet<PolicyKey>,
    changed_endpoints: BTreeSet<EndpointId>,

    // What is compiled.
    compiler: Compiler,
    /// The policies as compiled: what does not fit is there in its old version, or not at all.
    compiled: Policies,
    profiles: BTreeMap<EndpointId, Vec<Arc<Policy>>>,
    held: BTreeMap<PolicyKey, Held>,

    // What is in force.
    in_force: Policies,
    /// Endpoints for which a policy was put in force: not those that are pending, or closed for lack of room.
    decided: BTreeSet<EndpointId>,
    told_held: BTreeSet<PolicyKey>,
    plan: Option<Plan>,
    leftover: Vec<Leftover>,
    graces: u64,
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
            namespaces: Namespaces::default(),
            changed_policies: BTreeSet::new(),
            changed_endpoints: BTreeSet::new(),
            compiler: Compiler::default(),
            compiled: Policies::new(),
            profiles: BTreeMap::new(),
            held: BTreeMap::new(),
            in_force: Policies::new(),
            decided: BTreeSet::new(),
            told_held: BTreeSet::new(),
            plan: None,
            leftover: Vec::new(),
            graces: 0,
            retry: None,
        }
    }

    /// Takes up the kernel objects and reads what they hold. The next [`Enforcement::apply`] looks at everything.
    ///
    /// # Errors
    /// If they cannot be opened or read: it stays without them.
    pub(crate) fn open(&mut self, bpf_dir: &Path) -> Result<(), Error> {
        self.close();
        let kernel = KernelTables::open(&self.store, bpf_dir)?;
        self.compiler = Compiler::with_hints(kernel.image.hints());
        self.decided = kernel
            .image
            .endpoints()
            .filter(|id| kernel.image.state(*id) != Some(EndpointState::CLOSED))
            .collect();
        self.kernel = Some(kernel);
        Ok(())
    }

    /// The kernel objects are gone, or others are there.
    pub(crate) fn close(&mut self) {
        (self.kernel, self.plan) = (None, None);
        self.leftover.clear();
        self.compiler = Compiler::default();
        self.recompile();
    }

    /// Everything is compiled anew by the next change.
    fn recompile(&mut self) {
        self.compiled.clear();
        self.profiles.clear();
        self.held.clear();
        self.changed_policies = self.policies.keys().cloned().collect();
        self.changed_endpoints = self.endpoints.keys().copied().collect();
        let known: Vec<EndpointId> = self.compiler.endpoints().collect();
        known.into_iter().for_each(|id| self.compiler.remove(id));
    }

    /// Puts back what an earlier run had in force, before the first [`Enforcement::apply`]. These versions count as
    /// observed.
    pub(crate) fn restore(&mut self, policies: Policies) {
        for policy in policies.values() {
            self.namespaces.add(policy);
        }
        self.in_force.clone_from(&policies);
        self.policies = policies;
        self.recompile();
    }

    /// Puts back what an earlier run had learnt of selectors ([`Enforcement::facts`]).
    pub(crate) fn restore_facts(&mut self, facts: Facts) {
        self.facts = facts;
        self.recompile();
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

    /// What is in force for an endpoint; `None` = it is not known here.
    pub(crate) fn view(&self, id: EndpointId) -> Option<EndpointView> {
        let local = self.endpoints.get(&id)?;
        let state = self.compiler.state(id);
        Some(EndpointView {
            decided: state.is_some(),
            isolated: state.map(|state| state.isolated).unwrap_or_default(),
            policies: match self.profiles.get(&id) {
                Some(profile) => profile.clone(),
                None => self.selecting(local),
            },
        })
    }

    /// Entries in the kernel: exact peers, prefix peers, rules, port sets.
    pub(crate) fn sizes(&self) -> Option<[usize; 4]> {
        let image = &self.kernel.as_ref()?.image;
        let entries = image.entries();
        Some([
            entries.peers,
            entries.prefixes,
            entries.rules,
            image.port_sets(),
        ])
    }

    /// When [`Enforcement::tick`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.retry.map(|(at, _)| at)
    }

    /// Does what is due by the clock: what failed is tried again.
    pub(crate) fn tick(&mut self, now: Instant) -> Outcome {
        if self.due().is_none_or(|at| at > now) {
            return Outcome::default();
        }
        self.apply(EnforcementDelta::default(), now)
    }

    /// Brings the kernel to what policy says after a change.
    pub(crate) fn apply(&mut self, delta: EnforcementDelta, now: Instant) -> Outcome {
        self.take(delta, now);
        let mut outcome = Outcome::default();
        match self.put_in_force(&mut outcome) {
            Ok(()) => self.retry = None,
            Err(error) => {
                let wait = self
                    .retry
                    .map_or(RETRY, |(_, wait)| (wait * 2).min(RETRY_AT_MOST));
                self.retry = Some((now + wait, wait));
                outcome.error = Some(error.to_string());
            }
        }
        outcome
    }

    /// Takes notice of a change.
    fn take(&mut self, delta: EnforcementDelta, now: Instant) {
        for id in delta.gone {
            self.endpoints.remove(&id);
            self.profiles.remove(&id);
            self.changed_endpoints.insert(id);
        }
        for endpoint in delta.endpoints {
            self.profiles.remove(&endpoint.id());
            self.changed_endpoints.insert(endpoint.id());
            self.endpoints.insert(endpoint.id(), endpoint);
        }
        if !delta.policies.is_empty() {
            let endpoints: Vec<policy::Endpoint> = self
                .endpoints
                .values()
                .map(|local| local.endpoint.clone())
                .collect();
            for (key, policy) in delta.policies {
                if let Some(before) = self.policies.remove(&key) {
                    self.namespaces.remove(&before);
                }
                if let Some(policy) = policy {
                    let late = |id| self.endpoints.get(&id).is_some_and(|e| e.is_late(now));
                    self.facts.observe(&policy, &endpoints, late);
                    self.namespaces.add(&policy);
                    self.policies.insert(key.clone(), policy);
                }
                self.changed_policies.insert(key);
            }
        }
        let (policies, endpoints) = (&self.policies, &self.endpoints);
        self.facts.retain(
            |key| policies.contains_key(key),
            |id| endpoints.contains_key(&id),
        );
    }

    fn put_in_force(&mut self, outcome: &mut Outcome) -> Result<(), Error> {
        self.finish_plan()?;
        if let Some(kernel) = &mut self.kernel {
            let gone: Vec<EndpointId> = kernel
                .image
                .endpoints()
                .filter(|id| !self.endpoints.contains_key(id))
                .collect();
            gone.into_iter().for_each(|id| kernel.image.forget(id));
            for local in self.endpoints.values() {
                kernel.check_policy_state(local.id(), local.endpoint_index);
            }
        }
        self.compile();
        let mut refused = Ok(());
        let (plan, done) = loop {
            let Some(mut plan) = self.plan_that_fits()? else {
                self.is_in_force();
                return Ok(());
            };
            tracing::trace!(?plan, "plan");
            outcome.writes = plan.len();
            outcome.changed = plan.endpoints().collect();
            let done = self.run(&mut plan);
            // A table may be full before its count says so: its memory is the node's, and others may have filled it.
            let is_full = done.as_ref().err().is_some_and(Error::is_full);
            if !(plan.failed() && is_full && self.hold_largest("memory")) {
                break (plan, done);
            }
            refused = done;
        };
        if plan.in_force() {
            self.leftover.clear();
            self.is_in_force();
        }
        if !plan.failed() && plan.next() != Step::Done {
            if plan.next() == Step::Grace {
                self.ask_grace();
            }
            self.plan = Some(plan);
        }
        done?;
        self.correct()?;
        // Nobody tells when there is room again: what was refused is tried again by the clock.
        refused
    }

    /// What is compiled is in force.
    fn is_in_force(&mut self) {
        self.in_force.clone_from(&self.compiled);
        let decided = self.compiler.endpoints();
        self.decided = decided
            .filter(|id| !self.held.values().any(|held| held.closes(*id)))
            .collect();
        self.told_held.retain(|key| self.held.contains_key(key));
    }

    fn run(&mut self, plan: &mut Plan) -> Result<(), Error> {
        let (endpoints, options) = (&self.endpoints, self.options);
        let Some(kernel) = &mut self.kernel else {
            return Ok(());
        };
        kernel.run(plan, &mut self.compiler, |id| {
            endpoints.get(&id).map(|local| target(local, options))
        })
    }

    /// Brings the plan that is on its way to where another may follow: all entries in one version. Where tables are
    /// filling up, to its very end.
    fn finish_plan(&mut self) -> Result<(), Error> {
        let Some(mut plan) = self.plan.take() else {
            return Ok(());
        };
        let to_the_end = self.is_filling_up();
        while plan.next() != Step::Done && (to_the_end || !plan.is_settled()) {
            if plan.next() == Step::Grace {
                if let Err(error) = Grace::new().and_then(|grace| grace.wait()) {
                    self.plan = Some(plan);
                    return Err(error.into());
                }
                self.grace_taken(&mut plan);
            }
            if let Err(error) = self.run(&mut plan) {
                self.plan = Some(plan);
                return Err(error);
            }
        }
        if plan.in_force() {
            self.is_in_force();
        }
        self.leftover = plan.leftover();
        Ok(())
    }

    fn grace_taken(&mut self, plan: &mut Plan) {
        if let Some(kernel) = &mut self.kernel {
            plan.took(Taken::Done, &mut self.compiler, &mut kernel.image);
        }
    }

    fn ask_grace(&mut self) {
        self.graces += 1;
        // Who waits for it has ended only when the process does.
        let _ = self.ask_grace.send(self.graces);
    }

    /// A grace period is over: what the old policy states led to may be changed now, and after one more, swept.
    pub(crate) fn grace_over(&mut self, number: u64) {
        let waits = |plan: &Plan| plan.next() == Step::Grace;
        if number != self.graces || !self.plan.as_ref().is_some_and(waits) {
            return;
        }
        let Some(mut plan) = self.plan.take() else {
            return;
        };
        self.grace_taken(&mut plan);
        if let Err(error) = self.run(&mut plan) {
            tracing::warn!("clean up tables: {error}; the next change does it");
        }
        if plan.next() == Step::Grace {
            self.ask_grace();
        }
        if plan.next() != Step::Done {
            self.plan = Some(plan);
        }
    }

    /// Gives all policy states the flags that policy does not decide.
    fn correct(&mut self) -> Result<(), Error> {
        let Some(kernel) = &mut self.kernel else {
            return Ok(());
        };
        for local in self.endpoints.values() {
            if self.compiler.state(local.id()).is_some() {
                let target = target(local, self.options);
                kernel.correct(local.id(), local.endpoint_index, target)?;
            }
        }
        Ok(())
    }

    /// An endpoint that is not known yet keeps its pending policy state; one that the plugin has let go is ours to correct.
    fn is_undecided(&self, local: &LocalEndpoint) -> bool {
        let pending = |kernel: &KernelTables| {
            let policy_state = kernel.endpoints.policy_states.get(local.endpoint_index);
            policy_state.has(PolicyState::PENDING) || policy_state.revision() == 0
        };
        !local.known && self.kernel.as_ref().is_none_or(pending)
    }
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
