//! Leader election by a Lease, with the rules of client-go: a holder that does not renew for the lease's duration, as the
//! observer's own clock measures it, has lost it. Clocks of different machines are never compared.

use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Access, Error, Resource};

/// How long a lease holds without being renewed.
pub(crate) const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for this long stops writing: before anybody else may begin.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// This process's part in the election.
pub(crate) struct Lease {
    access: Access,
    namespace: String,
    name: &'static str,
    identity: String,
    /// The record as last seen, and when it was first seen so.
    seen: Option<(Spec, Instant)>,
    /// When it was last renewed by us.
    renewed: Option<Instant>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    holder_identity: String,
    renew_time: String,
    acquire_time: String,
    lease_transitions: u64,
    lease_duration_seconds: u64,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
}

impl Lease {
    pub(crate) fn new(
        access: Access,
        namespace: String,
        name: &'static str,
        identity: String,
    ) -> Self {
        Self {
            access,
            namespace,
            name,
            identity,
            seen: None,
            renewed: None,
        }
    }

    /// Whether we may write at this moment.
    pub(crate) fn is_held(&self) -> bool {
        self.renewed.is_some_and(|at| at.elapsed() < RENEW_DEADLINE)
    }

    /// Until when we may write without a further renewal; `None` = we may not.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        self.renewed
            .map(|at| at + RENEW_DEADLINE)
            .filter(|until| *until > Instant::now())
    }

    /// Who holds it, as last seen.
    pub(crate) fn holder(&self) -> &str {
        self.seen
            .as_ref()
            .map_or("", |(spec, _)| &spec.holder_identity)
    }

    /// Takes or renews it where that is possible; whether we hold it now.
    pub(crate) async fn try_hold(&mut self) -> Result<bool, Error> {
        let began = Instant::now();
        let text = match self
            .access
            .get(Resource::LEASES, &self.namespace, self.name)
            .await
        {
            Ok(text) => text,
            Err(Error::NotFound { .. }) => {
                let object = self.object(None, 0, None);
                return self.outcome(
                    began,
                    self.access
                        .create(Resource::LEASES, &self.namespace, &object)
                        .await,
                );
            }
            Err(error) => return Err(error),
        };
        let object: Object = serde_json::from_str(&text).map_err(|error| Error::Malformed {
            verb: super::Verb::Get,
            resource: Resource::LEASES,
            message: error.to_string(),
        })?;
        let spec = object.spec;
        let is_ours = spec.holder_identity == self.identity;
        if !is_ours {
            self.renewed = None;
        }
        match &self.seen {
            Some((before, _)) if *before == spec => {}
            _ => self.seen = Some((spec.clone(), Instant::now())),
        }
        let duration = Duration::from_secs(spec.lease_duration_seconds.clamp(1, 3600));
        let expired = self
            .seen
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() > duration);
        if !is_ours && !spec.holder_identity.is_empty() && !expired {
            return Ok(false);
        }
        let transitions = spec.lease_transitions + u64::from(!is_ours);
        let acquired = is_ours.then_some(spec.acquire_time.as_str());
        let object = self.object(
            Some(&object.metadata.resource_version),
            transitions,
            acquired,
        );
        let answer = self
            .access
            .replace(Resource::LEASES, &self.namespace, self.name, &object)
            .await;
        self.outcome(began, answer)
    }

    /// Gives it back, so that the next holder need not wait.
    pub(crate) async fn release(&mut self) {
        if !self.is_held() {
            return;
        }
        self.renewed = None;
        let Ok(text) = self
            .access
            .get(Resource::LEASES, &self.namespace, self.name)
            .await
        else {
            return;
        };
        let Ok(mut object) = serde_json::from_str::<Value>(&text) else {
            return;
        };
        if object["spec"]["holderIdentity"] == self.identity.as_str() {
            object["spec"]["holderIdentity"] = "".into();
            object["spec"]["leaseDurationSeconds"] = 1.into();
            let _ = self
                .access
                .replace(Resource::LEASES, &self.namespace, self.name, &object)
                .await;
        }
    }

    fn outcome(&mut self, began: Instant, answer: Result<String, Error>) -> Result<bool, Error> {
        match answer {
            Ok(_) => {
                self.renewed = Some(began);
                self.seen = None;
                Ok(true)
            }
            // Somebody else was faster.
            Err(Error::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn object(&self, version: Option<&str>, transitions: u64, acquired: Option<&str>) -> Value {
        let now = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        let mut metadata = json!({"name": self.name, "namespace": self.namespace});
        if let Some(version) = version {
            metadata["resourceVersion"] = version.into();
        }
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": LEASE_DURATION.as_secs(),
                "acquireTime": acquired.filter(|time| !time.is_empty()).unwrap_or(&now),
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        })
    }
}
