//! Cases as data.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::expect::Expect;

/// What a direction does for which no policy isolates a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is open.
    Standard,
    /// It is closed.
    Strict,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standard => "standard",
            Self::Strict => "strict",
        })
    }
}

/// One scenario. The cluster is as it was before the next one begins.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    /// What it shows, unique.
    pub name: String,
    /// Whether the short run has it.
    #[serde(default)]
    pub short: bool,
    /// The modes in which it runs.
    #[serde(default = "both")]
    pub modes: Vec<Mode>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

fn both() -> Vec<Mode> {
    vec![Mode::Standard, Mode::Strict]
}

/// One change, and the truth after it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// NetworkPolicies that come or change: `namespace/name` to the whole `spec`.
    #[serde(default)]
    pub policies: BTreeMap<String, Value>,
    /// Manifests of any kind that come or change.
    #[serde(default)]
    pub apply: Vec<Value>,
    /// Manifests that go: `Kind namespace/name`, or `Kind name`.
    #[serde(default)]
    pub delete: Vec<String>,
    /// Labels that change: `Kind namespace/name` to the labels, null for one that goes.
    #[serde(default)]
    pub label: BTreeMap<String, Map<String, Value>>,
    /// Pods that end, their address going to a new pod: `namespace/name` to the new one's name and labels.
    #[serde(default)]
    pub recycle: BTreeMap<String, Recycled>,
    /// The truth.
    pub expect: Expect,
}

/// The pod that gets an address used before.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recycled {
    /// Its name, in the same namespace.
    pub name: String,
    /// All of its labels.
    pub labels: BTreeMap<String, String>,
}

/// All cases of a folder's YAML files, each a list.
///
/// # Errors
/// What is wrong in which file.
pub fn read_folder(folder: &Path) -> Result<Vec<Case>, String> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .map_err(|error| format!("{}: {error}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        cases.extend(read_yaml::<Vec<Case>>(&file)?);
    }
    Ok(cases)
}

/// A YAML file.
///
/// # Errors
/// What is wrong in it.
pub(super) fn read_yaml<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    // By way of JSON's model, in which an enum is a map and not a YAML tag.
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let value: Value = serde_norway::from_str(&text).map_err(|error| told(&error))?;
    serde_json::from_value(value).map_err(|error| told(&error))
}
