//! What sync says of itself: readiness, metrics, `status/sync.json`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use state::Store;

use crate::{
    args::SyncArgs,
    contacts::Contacts,
    http::Answer,
    metrics::{Page, count},
};

/// `status/sync.json` is written at least this often while nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A condition, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    message: String,
}

impl Problem {
    pub(crate) fn new(kind: &'static str, message: String) -> Self {
        Self { kind, message }
    }
}

/// What is said.
pub(crate) struct Report {
    node: String,
    resolves: bool,
    pub(crate) caught_up: bool,
    pub(crate) pods: usize,
    pub(crate) waiting: usize,
    pub(crate) policies: usize,
    pub(crate) writes: u64,
    pub(crate) contacts: Contacts,
    pub(crate) problems: Vec<Problem>,
    store_error: Option<String>,
    store_errors: u64,
    published: Option<(Vec<u8>, Instant)>,
}

/// `status/sync.json`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    node_name: &'a str,
    resolve: bool,
    /// The initial lists are in the store.
    synced: bool,
    /// RFC 3339; now, while every watch stands.
    last_contact: String,
    /// Seconds since contact was lost; 0 while every watch stands.
    behind_seconds: u64,
    pods: usize,
    /// Pods that the store does not know yet.
    pods_waiting: usize,
    policies: usize,
    conditions: Vec<Problem>,
    resource_versions: BTreeMap<String, String>,
}

impl Report {
    pub(crate) fn new(args: &SyncArgs) -> Self {
        Self {
            node: args.node_name.clone(),
            resolves: args.resolve,
            caught_up: false,
            pods: 0,
            waiting: 0,
            policies: 0,
            writes: 0,
            contacts: Contacts::default(),
            problems: Vec::new(),
            store_error: None,
            store_errors: 0,
            published: None,
        }
    }

    pub(crate) fn store_failed(&mut self, error: Option<String>) {
        if error.is_some() && self.store_error != error {
            self.store_errors += 1;
        }
        self.store_error = error;
    }

    /// `/readyz`.
    pub(crate) fn readiness(&self) -> Answer {
        let mut why = Vec::new();
        if let Some(error) = &self.store_error {
            why.push(format!("store: {error}"));
        }
        if !self.caught_up {
            why.push("the initial lists are not in the store yet".to_owned());
            let mut errors: Vec<&String> = self.contacts.errors().collect();
            errors.sort_unstable();
            errors.dedup();
            why.extend(errors.into_iter().cloned());
        }
        match why.is_empty() {
            true => (200, "ok\n".to_owned()),
            false => (503, why.join("\n") + "\n"),
        }
    }

    /// Writes `status/sync.json` where it says something new, at most once a tick.
    pub(crate) fn publish(&mut self, store: &Store, is_tick: bool) {
        let mut conditions = self.problems.clone();
        for error in self.contacts.errors() {
            conditions.push(Problem::new("ApiError", error.clone()));
        }
        if let Some(error) = &self.store_error {
            conditions.push(Problem::new("StoreUnwritable", error.clone()));
        }
        conditions.dedup();
        let status = Status {
            node_name: &self.node,
            resolve: self.resolves,
            synced: self.caught_up && self.store_error.is_none(),
            last_contact: humantime::format_rfc3339_seconds(self.contacts.last()).to_string(),
            behind_seconds: self.contacts.behind().as_secs(),
            pods: self.pods,
            pods_waiting: self.waiting,
            policies: self.policies,
            conditions,
            resource_versions: self.contacts.versions(),
        };
        // What changes by itself is no reason to write.
        let Ok(essence) = serde_json::to_vec(&Status {
            last_contact: String::new(),
            behind_seconds: status.behind_seconds.min(1),
            conditions: status.conditions.clone(),
            resource_versions: BTreeMap::new(),
            ..status
        }) else {
            return;
        };
        let due = match &self.published {
            None => true,
            Some((before, at)) if *before != essence => is_tick || at.elapsed() > HEARTBEAT / 10,
            Some((_, at)) => is_tick && at.elapsed() > HEARTBEAT,
        };
        if due && store.write_status("sync", &status).is_ok() {
            self.published = Some((essence, Instant::now()));
        }
    }

    /// `/metrics`.
    pub(crate) fn metrics(&self) -> String {
        let mut page = Page::default();
        let ready = self.readiness().0 == 200;
        page.gauge(
            "podgate_sync_ready",
            "Whether the initial lists are in the store and it can be written.",
            u8::from(ready),
        );
        page.gauge(
            "podgate_sync_behind_seconds",
            "Seconds since contact with the API was lost, 0 while every watch stands.",
            self.contacts.behind().as_secs_f64(),
        );
        page.gauge(
            "podgate_sync_pods",
            "Pods of this node that policy can be about.",
            count(self.pods),
        );
        page.gauge("podgate_sync_pods_waiting", "Pods that the store does not know yet, because documents that could select them are missing.", count(self.waiting));
        page.gauge(
            "podgate_sync_policies",
            "Policies of the cluster in the store.",
            count(self.policies),
        );
        page.counter(
            "podgate_sync_store_writes_total",
            "Files written or removed.",
            self.writes,
        );
        page.counter(
            "podgate_sync_store_errors_total",
            "Times that the store could not be written.",
            self.store_errors,
        );
        page.counter(
            "podgate_sync_api_errors_total",
            "Requests that failed.",
            self.contacts.failed(),
        );
        page.counter(
            "podgate_sync_api_lists_total",
            "Lists that were read.",
            self.contacts.lists(),
        );
        page.text()
    }
}
