//! Metrics in Prometheus' text form: a few gauges and counters, written out by hand.

use std::fmt::Write as _;

/// A page of metrics.
#[derive(Default)]
pub(crate) struct Page(String);

impl Page {
    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: impl Into<f64>) {
        self.add(name, help, "gauge", value.into());
    }

    /// Its name ends in `_total`.
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) {
        #[expect(clippy::cast_precision_loss, reason = "an exposition has floats only")]
        self.add(name, help, "counter", value as f64);
    }

    fn add(&mut self, name: &str, help: &str, kind: &str, value: f64) {
        let _ = write!(
            self.0,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
        );
    }

    pub(crate) fn text(self) -> String {
        self.0
    }
}

/// A count as a gauge's value.
pub(crate) fn count(value: usize) -> f64 {
    u32::try_from(value).map_or(f64::MAX, f64::from)
}
