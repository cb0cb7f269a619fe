//! Questions to `podgatectl`, and the store's files read without podgate's reader.

use std::fs;

use serde_json::Value;

use crate::node::Node;

impl Node {
    /// Waits until the companion has applied, or has a condition for, all that the store holds: `podgatectl wait --timeout 5s`.
    ///
    /// # Panics
    /// When that does not end with 0.
    #[track_caller]
    pub fn settle(&self) {
        let output = self.ctl(&["wait", "--timeout", "5s"]);
        assert!(output.success(), "{output}");
    }

    /// `podgatectl ... -o json`.
    ///
    /// # Panics
    /// When it does not end with 0 or prints no JSON.
    #[track_caller]
    #[must_use]
    pub fn ctl_json(&self, words: &[&str]) -> Value {
        self.ctl(&[words, &["-o", "json"]].concat())
            .expect_ok()
            .json()
    }

    /// All records of the store.
    #[must_use]
    pub fn records(&self) -> Vec<Value> {
        let entries = fs::read_dir(self.state_dir().join("pods"))
            .into_iter()
            .flatten()
            .flatten();
        let files = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
        files
            .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok())
            .collect()
    }
}
