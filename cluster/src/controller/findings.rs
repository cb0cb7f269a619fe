//! What the resolver found, as Events and conditions.

use std::collections::BTreeMap;

use resolve::{FindingKind, ObjectKey, PolicyFile};

use super::events::Event;
use crate::inputs::PolicyMeta;

#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) events: Vec<Event>,
    /// By type: message.
    pub(crate) conditions: BTreeMap<String, String>,
}

pub(crate) fn findings(
    key: &ObjectKey,
    meta: &PolicyMeta,
    file: Option<&PolicyFile>,
    too_large: Option<&String>,
) -> Findings {
    let mut out = Findings::default();
    let mut event = |reason, is_warning, message| {
        out.events
            .push(Event::new(key, meta, reason, is_warning, message));
    };
    if let Some(reason) = &meta.invalid {
        let message = format!("{reason}; what this policy said before stays in force");
        event("InvalidPolicy", true, message);
    }
    if let Some(error) = too_large {
        let message = format!("{error}; the objects stay as they were: make it several policies");
        event("TooLarge", true, message.clone());
        out.conditions.insert("TooLarge".to_owned(), message);
    }
    let Some(file) = file else {
        return out;
    };
    // What is said about several fields is one condition: a type stands in the list once.
    for finding in file.findings() {
        if finding.kind.is_condition() {
            let message = out.conditions.entry(finding.kind.name().to_owned());
            let message = message.or_default();
            if !message.is_empty() {
                message.push_str("; ");
            }
            message.push_str(&finding.to_string());
            continue;
        }
        // That a policy selects nobody is often meant.
        let is_warning = finding.kind != FindingKind::SelectsNothing;
        let event = Event::new(
            key,
            meta,
            finding.kind.name(),
            is_warning,
            finding.to_string(),
        );
        out.events.push(event);
    }
    out
}
