//! For which endpoints a policy's selector no longer counts ([`policy::Facts`]), kept over restarts:
//! `status/facts.json`.

use policy::{EndpointId, Facts, Policies};
use serde::{Deserialize, Serialize};
use state::Store;

const FILE: &str = "facts";

/// Which selectors no longer count. Void after a reboot, like the endpoint ids in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SelectorOverrides {
    /// Policy, as its key prints, and endpoint id.
    pub settled: Vec<(String, u32)>,
}

impl SelectorOverrides {
    /// What is to be kept.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let settled = facts.iter().map(|(key, id)| (key.to_string(), id.0));
        Self {
            settled: settled.collect(),
        }
    }

    /// What was kept, for the policies and endpoints that there are.
    #[must_use]
    pub fn facts(&self, policies: &Policies, is_here: impl Fn(EndpointId) -> bool) -> Facts {
        let mut facts = Facts::default();
        for key in policies.keys() {
            let name = key.to_string();
            let ids = self.settled.iter().filter(|(policy, _)| *policy == name);
            ids.map(|(_, id)| EndpointId(*id))
                .filter(|id| is_here(*id))
                .for_each(|id| facts.settle(key, id));
        }
        facts
    }

    /// Reads them; `None` = none were kept in this boot.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn read(store: &Store) -> Result<Option<Self>, state::Error> {
        store.read_status(FILE)
    }

    /// Writes them.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&self, store: &Store) -> Result<(), state::Error> {
        store.write_status(FILE, self)
    }
}
