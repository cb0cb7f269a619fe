//! What the controller says of itself: readiness and metrics.

use super::election::Standing;
use crate::{
    contacts::Contacts,
    http::Answer,
    metrics::{Page, count},
};

#[derive(Default)]
pub(crate) struct Report {
    pub(crate) standing: Standing,
    pub(crate) is_listed: bool,
    pub(crate) leads: bool,
    pub(crate) stands_back: bool,
    pub(crate) caught_up: bool,
    pub(crate) policies: usize,
    pub(crate) objects: usize,
    pub(crate) pending: usize,
    pub(crate) writes: u64,
    pub(crate) deletes: u64,
    pub(crate) status_writes: u64,
    pub(crate) events: u64,
    pub(crate) errors: u64,
    pub(crate) last_error: Option<String>,
    pub(crate) contacts: Contacts,
}

impl Report {
    /// `/readyz`: leading, and the first resolve is written; or standing back behind Amazon's controller.
    pub(crate) fn readiness(&self) -> Answer {
        if self.is_listed && self.stands_back {
            let text = "ok: standing back, Amazon's network policy controller writes here\n";
            return (200, text.to_owned());
        }
        let mut why = Vec::new();
        if !self.is_listed {
            why.push("the initial lists are not read yet".to_owned());
        }
        let mut errors: Vec<&String> = self.contacts.errors().collect();
        errors.sort_unstable();
        errors.dedup();
        if !self.is_listed {
            why.extend(errors.into_iter().cloned());
        }
        if !self.leads {
            why.push(match self.standing.holder.as_str() {
                "" => "not leading".to_owned(),
                holder => format!("not leading: {holder} holds the Lease"),
            });
            why.extend(self.standing.error.clone());
        } else if !self.caught_up {
            why.push(format!("{} policies are still to be written", self.pending));
            why.extend(self.last_error.clone());
        }
        match why.is_empty() {
            true => (200, "ok\n".to_owned()),
            false => (503, why.join("\n") + "\n"),
        }
    }

    /// `/metrics`.
    pub(crate) fn metrics(&self) -> String {
        let mut page = Page::default();
        let is = |value: bool| f64::from(u8::from(value));
        page.gauge(
            "podgate_controller_leader",
            "Whether this process holds the Lease.",
            is(self.leads),
        );
        page.gauge(
            "podgate_controller_ready",
            "Whether it leads and every policy was written once.",
            is(self.readiness().0 == 200),
        );
        page.gauge(
            "podgate_controller_standing_back",
            "Whether Amazon's controller writes PolicyEndpoints here, so that this one does not.",
            is(self.stands_back),
        );
        page.gauge(
            "podgate_controller_behind_seconds",
            "Seconds since contact with the API was lost, 0 while every watch stands.",
            self.contacts.behind().as_secs_f64(),
        );
        page.gauge(
            "podgate_controller_policies",
            "Policies of every kind.",
            count(self.policies),
        );
        page.gauge(
            "podgate_controller_objects",
            "PolicyEndpoints and ClusterPolicyEndpoints that are ours.",
            count(self.objects),
        );
        page.gauge(
            "podgate_controller_pending",
            "Policies that are still to be written.",
            count(self.pending),
        );
        page.counter(
            "podgate_controller_object_writes_total",
            "Objects created or changed.",
            self.writes,
        );
        page.counter(
            "podgate_controller_object_deletes_total",
            "Objects deleted.",
            self.deletes,
        );
        page.counter(
            "podgate_controller_status_writes_total",
            "Statuses written.",
            self.status_writes,
        );
        page.counter(
            "podgate_controller_events_total",
            "Events sent.",
            self.events,
        );
        page.counter(
            "podgate_controller_write_errors_total",
            "Writes that failed.",
            self.errors,
        );
        page.counter(
            "podgate_controller_api_errors_total",
            "Lists and watches that failed.",
            self.contacts.failed(),
        );
        page.counter(
            "podgate_controller_api_lists_total",
            "Lists that were read.",
            self.contacts.lists(),
        );
        page.text()
    }
}
