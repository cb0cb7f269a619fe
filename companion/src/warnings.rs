//! What is wrong is said once, when it begins, when it changes and when it is over; and again from time to time while it
//! lasts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Something that stays wrong is said again after so long.
const AGAIN: Duration = Duration::from_secs(600);

/// What is wrong now, by what was tried.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    told: BTreeMap<&'static str, (String, Instant)>,
}

impl Warnings {
    /// Takes notice of how an attempt ended: `what` is the attempt, as in "look for orphans".
    pub(crate) fn take(&mut self, what: &'static str, error: Option<String>) {
        let now = Instant::now();
        match (error, self.told.get(what)) {
            (None, None) => {}
            (None, Some(_)) => {
                self.told.remove(what);
                tracing::info!("{what}: works again");
            }
            (Some(error), Some((before, at))) if *before == error && now < *at + AGAIN => {}
            (Some(error), _) => {
                tracing::warn!("{what}: {error}");
                self.told.insert(what, (error, now));
            }
        }
    }

    /// All that is wrong now, for the status.
    pub(crate) fn now(&self) -> impl Iterator<Item = String> {
        self.told
            .iter()
            .map(|(what, (error, _))| format!("{what}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_wrong_is_held_once_and_goes() {
        let mut warnings = Warnings::default();
        warnings.take("look", Some("gone".into()));
        let first = warnings.told["look"].1;
        warnings.take("look", Some("gone".into()));
        assert_eq!(warnings.told["look"].1, first, "not said again");
        warnings.take("look", Some("elsewhere".into()));
        assert_eq!(warnings.now().collect::<Vec<_>>(), ["look: elsewhere"]);
        warnings.take("look", None);
        assert_eq!(warnings.now().count(), 0);
    }
}
