//! The manifests of a cluster, as files in a folder: what a person would keep in a repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::case::Step;
use super::cluster;

/// Manifests by `Kind namespace/name`.
#[derive(Debug, Clone, Default)]
pub struct Manifests(BTreeMap<String, Value>);

impl Manifests {
    /// Takes a manifest; one of the same name goes.
    pub fn put(&mut self, manifest: Value) {
        self.0.insert(name_of(&manifest), manifest);
    }

    /// Removes one.
    ///
    /// # Errors
    /// When there is none: the case is wrong.
    pub fn remove(&mut self, name: &str) -> Result<Value, String> {
        self.0
            .remove(name)
            .ok_or_else(|| format!("there is no {name}"))
    }

    /// Does what a step says, but for the recycled pods.
    ///
    /// # Errors
    /// When the step speaks of what is not there.
    pub fn change(&mut self, step: &Step) -> Result<(), String> {
        for name in &step.delete {
            self.remove(name)?;
        }
        for (name, spec) in &step.policies {
            let (namespace, name) = name
                .split_once('/')
                .ok_or_else(|| format!("policy {name}: no namespace"))?;
            self.put(json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": name, "namespace": namespace}, "spec": spec,
            }));
        }
        for manifest in &step.apply {
            self.put(manifest.clone());
        }
        for (name, labels) in &step.label {
            let manifest = self
                .0
                .get_mut(name)
                .ok_or_else(|| format!("there is no {name}"))?;
            for (key, value) in labels {
                match (value, &mut manifest["metadata"]["labels"]) {
                    (Value::Null, Value::Object(there)) => drop(there.remove(key)),
                    (value, there) => there[key] = value.clone(),
                }
            }
        }
        Ok(())
    }

    /// Adds, in every namespace, what opens a direction.
    pub fn open(&mut self, direction: &str) {
        for namespace in cluster::NAMESPACES {
            self.put(cluster::opener(namespace, direction));
        }
    }

    /// Makes the folder hold exactly these; returns how many files changed.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, folder: &Path, before: &Self) -> Result<usize, String> {
        let told = |path: PathBuf| move |error| format!("{}: {error}", path.display());
        let mut changed = 0;
        for name in before.0.keys().filter(|name| !self.0.contains_key(*name)) {
            let path = folder.join(file_name(name));
            fs::remove_file(&path).map_err(told(path))?;
            changed += 1;
        }
        for (name, manifest) in &self.0 {
            if before.0.get(name) == Some(manifest) {
                continue;
            }
            let path = folder.join(file_name(name));
            let text = serde_norway::to_string(manifest).map_err(|error| error.to_string())?;
            fs::write(&path, text).map_err(told(path))?;
            changed += 1;
        }
        Ok(changed)
    }
}

/// Kinds of the same name in two groups have their group before it.
fn name_of(manifest: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, metadata) = (word(&manifest["kind"]), &manifest["metadata"]);
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{}", word(&metadata["name"])),
        None => format!("{kind} {}", word(&metadata["name"])),
    }
}

fn file_name(name: &str) -> String {
    format!("{}.yaml", name.replace([' ', '/'], "_"))
}
