//! From the store to enforcement: endpoints and policies that changed, and the host set.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use enforcer::hosts;
use policy::{EndpointId, Policy};
use state::{Phase, Record};

use super::Engine;
use crate::enforcement::{EnforcementDelta, LocalEndpoint, Outcome};
use crate::kernel::LOCK;
use crate::local::{self, Local};
use crate::shared::Counts;

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
        self.locals = locals;
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

    /// Tells enforcement what changed, and takes notice of what came of it.
    pub(super) fn apply(&mut self, endpoints: &BTreeSet<EndpointId>) {
        let begin = Instant::now();
        let outcome = self.enforcement.apply(self.delta(endpoints), begin);
        self.applied(&outcome, begin);
    }

    /// Takes notice of what came of a change.
    pub(super) fn applied(&mut self, outcome: &Outcome, begin: Instant) {
        if !outcome.changed.is_empty() {
            self.status.generation += 1;
        }
        match &outcome.error {
            None => {
                let took = begin.elapsed().as_micros();
                Counts::add(&self.shared.counts.applied, 1);
                Counts::add(&self.shared.counts.apply_us, took as u64);
                let (endpoints, policies) = (self.locals.len(), self.intake.policies().len());
                tracing::debug!(
                    endpoints,
                    policies,
                    writes = outcome.writes,
                    took_us = took,
                    "policy in force"
                );
                if self.status.error.take().is_some() {
                    tracing::info!("the change that could not be applied is in force now");
                }
            }
            Some(error) => {
                Counts::add(&self.shared.counts.apply_errors, 1);
                if self.status.error.as_ref() != Some(error) {
                    tracing::error!(
                        "apply policy: {error}; the policy before stays in force, trying again"
                    );
                }
                self.status.error = Some(error.clone());
            }
        }
    }

    fn delta(&self, endpoints: &BTreeSet<EndpointId>) -> EnforcementDelta {
        let (policies, before) = (self.intake.policies(), self.enforcement.policies());
        let changed = policies
            .iter()
            .filter(|(key, policy)| before.get(key).is_none_or(|b| !Arc::ptr_eq(b, policy)))
            .map(|(key, policy)| (key.clone(), Some(Arc::clone(policy))));
        let gone = before
            .keys()
            .filter(|key| !policies.contains_key(key))
            .map(|key| (key.clone(), None));
        EnforcementDelta {
            endpoints: endpoints
                .iter()
                .filter_map(|id| self.locals.get(id))
                .map(local_endpoint)
                .collect(),
            gone: endpoints
                .iter()
                .filter(|id| !self.locals.contains_key(id))
                .copied()
                .collect(),
            policies: changed.chain(gone).collect(),
        }
    }

    /// Digest of the policies that select an endpoint, in these versions.
    pub(super) fn profile_digest(&self, policies: &[Arc<Policy>]) -> String {
        let mut text = String::new();
        for policy in policies {
            text.push_str(&policy.key.to_string());
            for document in &policy.documents {
                text.push('\n');
                text.push_str(self.intake.digest(&document.identity).unwrap_or_default());
            }
        }
        state::layout::digest(text.as_bytes())
    }
}

fn local_endpoint(local: &Local) -> LocalEndpoint {
    LocalEndpoint {
        endpoint: local.endpoint.clone(),
        ifindex: local.record.ifindex,
        endpoint_index: local.record.endpoint_index,
        strict: local.is_strict(),
        known: local.known,
        addresses_since: local.addresses_since,
    }
}
