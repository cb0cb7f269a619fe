//! Events on policies: what a person should know who looks at one with `kubectl describe`.
//!
//! The name is made of what is said, so that the same thing is never said twice while the first Event is there.

use std::time::SystemTime;

use resolve::ObjectKey;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::{
    FIELD_MANAGER,
    api::{Access, Error, Resource},
    inputs::PolicyMeta,
};

/// Longest message that is sent, in bytes; the API takes 1,024.
const LONGEST: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Event {
    namespace: String,
    name: String,
    kind: String,
    api_version: String,
    uid: String,
    pub(crate) reason: &'static str,
    /// Otherwise Normal.
    is_warning: bool,
    message: String,
}

impl Event {
    pub(crate) fn new(
        policy: &ObjectKey,
        meta: &PolicyMeta,
        reason: &'static str,
        is_warning: bool,
        mut message: String,
    ) -> Self {
        if message.len() > LONGEST {
            let end = (0..=LONGEST).rev().find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or_default());
            message.push_str(" ...");
        }
        Self {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            kind: meta.owner.kind.clone(),
            api_version: meta.owner.api_version.clone(),
            uid: meta.owner.uid.clone(),
            reason,
            is_warning,
            message,
        }
    }

    pub(crate) async fn send(&self, access: &Access) -> Result<(), Error> {
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut hash = Sha256::new();
        for part in [&self.uid, self.reason, &self.message] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        let digest: String = hash.finalize()[..8]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let name: String = self.name.chars().take(200).collect();
        let name = format!("{}.{digest}", name.trim_end_matches(['-', '.']));
        // Events about cluster-wide objects are in `default`.
        let namespace = match self.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        };
        let mut about = json!({
            "apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": self.uid,
        });
        if !self.namespace.is_empty() {
            about["namespace"] = self.namespace.as_str().into();
        }
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": name, "namespace": namespace },
            "involvedObject": about,
            "reason": self.reason,
            "message": self.message,
            "type": if self.is_warning { "Warning" } else { "Normal" },
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": { "component": FIELD_MANAGER },
            "reportingComponent": FIELD_MANAGER,
        });
        access
            .create(Resource::EVENTS, namespace, &event)
            .await
            .map(drop)
    }
}
