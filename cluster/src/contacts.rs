//! The contact with the API: what stands, since when it does not, and why.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    api::{Scope, Update},
    inputs::Token,
};

/// The contact with the API, by what is followed.
#[derive(Clone, Default)]
pub(crate) struct Contacts {
    by_token: BTreeMap<Token, Contact>,
    /// Requests that failed.
    errors: u64,
    /// Lists that were read.
    lists: u64,
}

#[derive(Clone)]
struct Contact {
    version: String,
    /// Since when there is none; `None` = in contact.
    lost: Option<(Instant, SystemTime)>,
    error: Option<String>,
}

impl Contacts {
    /// Something is followed from now on.
    pub(crate) fn expect(&mut self, token: &Token) {
        self.by_token.entry(token.clone()).or_insert(Contact {
            version: String::new(),
            lost: Some((Instant::now(), SystemTime::now())),
            error: None,
        });
    }

    pub(crate) fn forget(&mut self, token: &Token) {
        self.by_token.remove(token);
    }

    pub(crate) fn heard(&mut self, token: &Token, update: &Update) {
        let Some(contact) = self.by_token.get_mut(token) else {
            return;
        };
        match update {
            Update::Trouble(error) => {
                self.errors += 1;
                let text = error.to_string();
                if contact.error.as_ref() != Some(&text) {
                    tracing::warn!(error = %text, "the API does not answer as it should; trying again");
                }
                contact.error = Some(text);
                contact
                    .lost
                    .get_or_insert((Instant::now(), SystemTime::now()));
                return;
            }
            Update::Listed { version, .. } => {
                self.lists += 1;
                contact.version.clone_from(version);
            }
            Update::Bookmark(version) => contact.version.clone_from(version),
            Update::Changed(raw) => contact.version.clone_from(&raw.meta.resource_version),
            Update::Gone(meta) => contact.version.clone_from(&meta.resource_version),
        }
        if contact.error.take().is_some() {
            tracing::info!(resource = %token.0, "in contact with the API again");
        }
        contact.lost = None;
    }

    /// How long what is followed has been out of contact, at most.
    pub(crate) fn behind(&self) -> Duration {
        let lost = self.by_token.values().filter_map(|contact| contact.lost);
        lost.map(|(since, _)| since.elapsed())
            .max()
            .unwrap_or_default()
    }

    pub(crate) fn last(&self) -> SystemTime {
        let lost = self.by_token.values().filter_map(|contact| contact.lost);
        lost.map(|(_, at)| at).min().unwrap_or_else(SystemTime::now)
    }

    pub(crate) fn errors(&self) -> impl Iterator<Item = &String> {
        self.by_token
            .values()
            .filter_map(|contact| contact.error.as_ref())
    }

    pub(crate) fn failed(&self) -> u64 {
        self.errors
    }

    pub(crate) fn lists(&self) -> u64 {
        self.lists
    }

    pub(crate) fn versions(&self) -> BTreeMap<String, String> {
        let name = |(resource, scope): &Token| match scope {
            Scope::Cluster => resource.to_string(),
            Scope::Namespace(namespace) => format!("{resource}/{namespace}"),
        };
        self.by_token
            .iter()
            .map(|(token, contact)| (name(token), contact.version.clone()))
            .collect()
    }
}
