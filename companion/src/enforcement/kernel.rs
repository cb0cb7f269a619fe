//! The policy tables and policy states in the kernel, what they are known to hold, and a plan carried out on them.

use std::path::Path;
use std::time::{Duration, Instant};

use enforcer::apply::{Capacity, Flip, SLICE, Tables};
use enforcer::endpoint::Endpoints;
use enforcer::maps;
use enforcer::pins::Pins;
use policy::compiler::{EndpointState, RuleSetId};
use policy::plan::{Image, Plan, Step, Taken, rule_at};
use policy::tables::DIRECTIONS;
use policy::{Compiler, EndpointId, Prefix};
use state::Store;
use verdict::PolicyState;
use verdict::layout::PrefixKey;

/// For so long the node's lock is waited for.
const LOCK: Duration = Duration::from_secs(10);

/// Why a change could not be made. What was in force is in force then, and trying again goes on from there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Map(#[from] maps::Error),
    #[error(transparent)]
    Endpoint(#[from] enforcer::endpoint::Error),
    #[error(transparent)]
    Grace(#[from] enforcer::grace::Error),
    #[error(transparent)]
    Lock(#[from] state::lock::Error),
}

impl Error {
    /// Whether a table has no room.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Map(error) if error.is_full())
    }
}

/// The tables, open.
pub(super) struct KernelTables {
    store: Store,
    pub(super) endpoints: Endpoints,
    tables: Tables,
    pub(super) image: Image,
    pub(super) capacity: Capacity,
}

/// Flags of a policy state that policy does not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) ifindex: u32,
    /// `STRICT`, `SUSPENDED`, `LOG`.
    pub(super) extra: u64,
}

impl KernelTables {
    /// Opens the tables and reads what they hold.
    pub(super) fn open(store: &Store, bpf_dir: &Path) -> Result<Self, Error> {
        let pins = Pins::new(bpf_dir);
        let mut kernel = Self {
            store: store.clone(),
            endpoints: Endpoints::open(bpf_dir)?,
            tables: Tables::open(&pins)?,
            image: Image::restored(),
            capacity: Tables::capacity(&pins)?,
        };
        kernel.restore()?;
        Ok(kernel)
    }

    /// What an earlier run left in the tables is where this one begins: unchanged endpoints keep their policy states.
    fn restore(&mut self) -> Result<(), Error> {
        let mut newest = 0;
        for entry in self.endpoints.entries()? {
            let policy_state = self.endpoints.policy_states.get(entry.endpoint_index);
            if !policy_state.has(PolicyState::PENDING) && policy_state.revision() != 0 {
                newest = newest.max(policy_state.revision());
                let id = EndpointId(entry.endpoint_id);
                self.image.found_state(id, endpoint_state(policy_state));
            }
        }
        // A plan that came to no end: if some policy state has its revision, its new versions are where to go on from.
        let holds = |(old, new, since): (u32, u32, u64)| if newest >= since { new } else { old };
        let contents = self.tables.contents()?;
        for (key, value) in contents.peers {
            let versions = value.class.parts();
            let at = Prefix::exact(key.addr.to_ip(key.family as u8));
            self.image.found_peer(at, holds(versions), versions.2 != 0);
        }
        for (key, value) in contents.prefixes {
            let versions = value.class.parts();
            let len = key.prefix_len.saturating_sub(PrefixKey::FIXED_BITS) as u8;
            let at = Prefix::new(key.addr.to_ip(key.family as u8), len);
            self.image.found_peer(at, holds(versions), versions.2 != 0);
        }
        for (key, value) in contents.rules {
            if let Some((set, at)) = rule_at(&key) {
                let versions = value.says.parts();
                self.image
                    .found_rule(set, at, holds(versions), versions.2 != 0);
            }
        }
        self.image.found_ports(contents.ports);
        Ok(())
    }

    /// Carries a plan out up to its next grace period, or to its end, in slices of the lock. `target` tells an endpoint's
    /// interface and mode; those it does not know, and those whose entry is gone, are passed over.
    ///
    /// # Errors
    /// The first step that failed. What a plan has prepared is undone then.
    pub(super) fn run(
        &mut self,
        plan: &mut Plan,
        compiler: &mut Compiler,
        target: impl Fn(EndpointId) -> Option<Target>,
    ) -> Result<(), Error> {
        let mut first_error: Option<Error> = None;
        loop {
            if matches!(plan.next(), Step::Grace | Step::Done) {
                break;
            }
            let locked = self.store.lock(LOCK)?;
            let begin = Instant::now();
            while begin.elapsed() < SLICE {
                let (endpoints, tables) = (&mut self.endpoints, &mut self.tables);
                let done: Result<Taken, Error> = match plan.next() {
                    Step::Grace | Step::Done => break,
                    Step::Revision => endpoints
                        .next_revision(&locked)
                        .map(Taken::Revision)
                        .map_err(Error::from),
                    Step::Write(write) => tables
                        .write(&locked, &write)
                        .map(|()| Taken::Done)
                        .map_err(Error::from),
                    Step::State {
                        endpoint,
                        state,
                        revision,
                    } => match target(endpoint) {
                        None => Ok(Taken::Done),
                        Some(target) => {
                            let flip = Flip {
                                revision: Some(revision),
                                ..flip(endpoint, state, target)
                            };
                            Tables::flip(endpoints, &locked, &flip)
                                .map(|_| Taken::Done)
                                .map_err(Error::from)
                        }
                    },
                };
                let undoing = plan.failed();
                let taken = *done.as_ref().unwrap_or(&Taken::Failed);
                plan.took(taken, compiler, &mut self.image);
                if let Err(error) = done {
                    first_error.get_or_insert(error);
                    if !undoing && !plan.failed() {
                        // The same step is to be tried again, later.
                        return first_error.map_or(Ok(()), Err);
                    }
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Gives flags that policy does not decide (mode, suspension, logging) to a policy state that lacks them.
    pub(super) fn correct(
        &mut self,
        endpoint: EndpointId,
        endpoint_index: u32,
        target: Target,
    ) -> Result<bool, Error> {
        let Some(state) = self.image.state(endpoint) else {
            return Ok(false);
        };
        let mut flip = flip(endpoint, state, target);
        let now = self.endpoints.policy_states.get(endpoint_index);
        if now.flags() == flip.flags {
            return Ok(false);
        }
        let locked = self.store.lock(LOCK)?;
        // A flow that was evaluated under another mode, or let pass by suspension, is evaluated again.
        if (now.flags() ^ flip.flags) & !PolicyState::LOG != 0 {
            flip.revision = Some(self.endpoints.next_revision(&locked)?);
        }
        Ok(Tables::flip(&mut self.endpoints, &locked, &flip)?)
    }

    /// Compares what is known of a policy state with what stands there: the plugin, or a stranger, may have written it.
    pub(super) fn check_policy_state(&mut self, endpoint: EndpointId, endpoint_index: u32) {
        let now = self.endpoints.policy_states.get(endpoint_index);
        if now.has(PolicyState::PENDING) || now.revision() == 0 {
            self.image.forget(endpoint);
        } else if self.image.state(endpoint) != Some(endpoint_state(now)) {
            // The plugin has let it go by its mode: that is what it has until a plan says otherwise.
            self.image.found_state(endpoint, endpoint_state(now));
        }
    }
}

const STATE_FLAGS: [(u64, u64); 2] = [
    (PolicyState::ISOLATED_INGRESS, PolicyState::RULES_INGRESS),
    (PolicyState::ISOLATED_EGRESS, PolicyState::RULES_EGRESS),
];

/// The part of a policy state that policy decides.
fn endpoint_state(policy_state: PolicyState) -> EndpointState {
    let mut out = EndpointState {
        set: RuleSetId(policy_state.set()),
        ..EndpointState::default()
    };
    for direction in DIRECTIONS {
        *out.isolated.get_mut(direction) = policy_state.isolated(direction);
        *out.rules.get_mut(direction) = policy_state.has_rules(direction);
    }
    out
}

fn flip(endpoint: EndpointId, state: EndpointState, target: Target) -> Flip {
    let mut flags = target.extra;
    for (direction, (isolated, rules)) in DIRECTIONS.into_iter().zip(STATE_FLAGS) {
        if *state.isolated.get(direction) {
            flags |= isolated;
        }
        if *state.rules.get(direction) {
            flags |= rules;
        }
    }
    Flip {
        ifindex: target.ifindex,
        endpoint_id: endpoint.0,
        flags,
        set: state.set.0,
        revision: None,
    }
}
