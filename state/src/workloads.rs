//! Local pods that the store knows before their address, written by sync and resolve.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Problem, ProblemKind, Store,
    file::{self, Durability},
    layout,
    records::to_json,
};

/// One pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Its namespace; where the file does not say, the folder does.
    #[serde(default)]
    pub namespace: String,
    /// Its name; where the file does not say, the file's name does.
    #[serde(default)]
    pub name: String,
    /// Its uid.
    #[serde(default)]
    pub uid: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its addresses, once the API has them. (The key is `self`.)
    #[serde(default, rename = "self", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// What `workloads/` holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workloads {
    /// Pods by (namespace, name).
    pub pods: BTreeMap<(String, String), Workload>,
    /// Files that are none.
    pub problems: Vec<Problem>,
}

impl Store {
    /// Every pod that the store knows.
    pub fn workloads(&self) -> Result<Workloads, Error> {
        let root = self.layout().workloads();
        let mut workloads = Workloads::default();
        for folder in file::names(&root, "")? {
            let path = root.join(&folder);
            if !path.is_dir() {
                continue;
            }
            let names = match file::names(&path, "") {
                Ok(names) => names,
                Err(error) => {
                    workloads.problems.push(Problem {
                        path,
                        kind: ProblemKind::of(&error),
                    });
                    continue;
                }
            };
            let namespace = folder.to_str().and_then(layout::decode);
            for name in names {
                let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".json")) else {
                    continue;
                };
                match read(
                    path.join(&name),
                    namespace.as_deref(),
                    layout::decode(stem).as_deref(),
                ) {
                    Ok(Some(pod)) => {
                        workloads
                            .pods
                            .insert((pod.namespace.clone(), pod.name.clone()), pod);
                    }
                    Ok(None) => {}
                    Err(problem) => workloads.problems.push(problem),
                }
            }
        }
        Ok(workloads)
    }

    /// One pod, `None` when the store does not know it.
    pub fn workload(&self, namespace: &str, pod: &str) -> Result<Option<Workload>, Error> {
        let path = self.layout().workload(namespace, pod)?;
        for folder in path.ancestors().skip(1).take(2) {
            match file::check_folder(folder) {
                Err(file::Error::Missing { .. }) => return Ok(None),
                other => other?,
            }
        }
        read(path, Some(namespace), Some(pod)).map_err(|problem| Error::Content { problem })
    }

    /// Write a pod, flushed. To be written after every document of its namespace.
    pub fn put_workload(&self, workload: &Workload) -> Result<(), Error> {
        let path = self
            .layout()
            .workload(&workload.namespace, &workload.name)?;
        let bytes = to_json(&path, workload)?;
        Ok(file::replace(&path, &bytes, Durability::Durable)?)
    }

    /// Remove a pod; `false` when it was not there.
    pub fn remove_workload(&self, namespace: &str, pod: &str) -> Result<bool, Error> {
        Ok(file::remove(
            &self.layout().workload(namespace, pod)?,
            Durability::Durable,
        )?)
    }
}

fn read(
    path: PathBuf,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<Option<Workload>, Problem> {
    let bytes = match file::read(&path) {
        Ok(bytes) => bytes,
        Err(file::Error::Missing { .. }) => return Ok(None),
        Err(error) => {
            return Err(Problem {
                path,
                kind: ProblemKind::of(&error),
            });
        }
    };
    parse(&bytes, namespace, name)
        .map(Some)
        .map_err(|reason| Problem {
            path,
            kind: ProblemKind::Torn(reason),
        })
}

/// File name and content must agree: a pod's file renamed by hand must not make another pod known.
fn parse(bytes: &[u8], namespace: Option<&str>, name: Option<&str>) -> Result<Workload, String> {
    let mut pod: Workload = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let agree = |field: &mut String, path: Option<&str>, what: &str| match path {
        None if field.is_empty() => Err(format!("{what} is in neither path nor content")),
        Some(path) if field.is_empty() => {
            path.clone_into(field);
            Ok(())
        }
        Some(path) if field != path => Err(format!("{what} {field:?} does not fit the path")),
        _ => Ok(()),
    };
    agree(&mut pod.namespace, namespace, "namespace")?;
    agree(&mut pod.name, name, "name")?;
    Ok(pod)
}
