//! The folders that are written to: what is there, what should be, and the way from one to the other.
//!
//! Only what bears the mark of an earlier run is ever changed or removed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use resolve::{self, Workload};
use serde::Serialize;
use similar::TextDiff;
use state::Layout;
use state::file::{self, Durability};

use super::sources::Spared;
use crate::error::Error;
use crate::output;

/// The key by which a workload file shows who wrote it.
const MANAGED_BY: &str = "managedBy";

/// A folder's files, by their path in it.
pub(super) struct Folder {
    path: PathBuf,
    files: BTreeMap<String, There>,
}

/// A file that is there.
struct There {
    text: Vec<u8>,
    ours: bool,
}

impl Folder {
    /// A folder of documents, which need not be there yet.
    pub(super) fn documents(path: &Path) -> Result<Self, Error> {
        let mut folder = Self::new(path);
        for name in names(path)? {
            folder.read(&name, resolve::is_managed)?;
        }
        Ok(folder)
    }

    /// A folder of workloads: one folder in it for each namespace.
    pub(super) fn workloads(path: &Path) -> Result<Self, Error> {
        let mut folder = Self::new(path);
        for namespace in names(path)? {
            let inner = path.join(&namespace);
            if inner.is_dir() {
                for name in names(&inner)? {
                    folder.read(&format!("{namespace}/{name}"), is_our_workload)?;
                }
            }
        }
        Ok(folder)
    }

    fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            files: BTreeMap::new(),
        }
    }

    fn read(&mut self, name: &str, ours: impl Fn(&[u8]) -> bool) -> Result<(), Error> {
        let path = self.path.join(name);
        if !path.is_file() {
            return Ok(());
        }
        let text = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
        let ours = ours(&text);
        self.files.insert(name.to_owned(), There { text, ours });
        Ok(())
    }
}

/// What a folder has, but for what is hidden; nothing where there is no folder.
fn names(path: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| Error::io("read", path, error))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Error::io("read", path, error))?;
        // A name that is no text is none of ours.
        if let Ok(name) = entry.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    Ok(names)
}

fn is_our_workload(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(bytes)
        .is_ok_and(|value| value[MANAGED_BY] == resolve::MANAGED_BY_VALUE)
}

/// The file of a pod, and its content.
pub(super) fn workload(workload: &Workload) -> Result<(String, String), Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct File {
        #[serde(flatten)]
        workload: state::Workload,
        managed_by: &'static str,
    }
    let file = File {
        workload: state::Workload {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            uid: workload.uid.clone(),
            labels: workload.labels.clone(),
            addresses: workload.addresses.clone(),
        },
        managed_by: resolve::MANAGED_BY_VALUE,
    };
    let text = serde_json::to_string_pretty(&file).map_err(|e| Error::Encode(e.to_string()))?;
    // As the store names it: what is longer than a file's name may be is shortened there.
    let layout = Layout::new("");
    let path = layout
        .workload(&workload.namespace, &workload.name)
        .map_err(state::Error::from)?;
    let name = path.strip_prefix(layout.workloads()).unwrap_or(&path);
    Ok((name.display().to_string(), text + "\n"))
}

fn counted(count: usize, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

/// One file's change.
struct Change {
    path: PathBuf,
    before: Option<Vec<u8>>,
    /// `None` = the file goes.
    after: Option<String>,
    /// It says that the documents of its namespace are all there.
    is_workload: bool,
}

/// What is to do, in order: documents, then what no policy asks for any more, then workloads, which say that the documents
/// of their namespace are all there.
#[derive(Default)]
pub(super) struct Plan {
    changes: Vec<Change>,
    policies: usize,
}

impl Plan {
    /// Adds the documents; what an earlier run wrote and nothing asks for goes, but for what is spared.
    pub(super) fn documents(
        &mut self,
        mut folder: Folder,
        wanted: BTreeMap<String, String>,
        spared: &Spared,
    ) -> Result<(), Error> {
        self.policies = wanted.len();
        for (name, text) in wanted {
            let there = folder.files.remove(&name);
            self.write(&folder.path, &name, text, there, false)?;
        }
        let kept: Vec<String> = spared.keys.iter().map(resolve::file_name).collect();
        for (name, there) in folder.files {
            if there.ours && !spared.all && !kept.contains(&name) {
                self.remove(&folder.path, &name, there);
            }
        }
        Ok(())
    }

    /// Adds the workloads.
    pub(super) fn workloads(
        &mut self,
        mut folder: Folder,
        wanted: BTreeMap<String, String>,
        whole: bool,
    ) -> Result<(), Error> {
        for (name, text) in wanted {
            let there = folder.files.remove(&name);
            self.write(&folder.path, &name, text, there, true)?;
        }
        for (name, there) in folder.files {
            // A pod whose manifest is broken is not gone.
            if there.ours && whole {
                self.remove(&folder.path, &name, there);
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        folder: &Path,
        name: &str,
        text: String,
        there: Option<There>,
        is_workload: bool,
    ) -> Result<(), Error> {
        if there.as_ref().is_some_and(|there| !there.ours) {
            return Err(Error::Asked(format!(
                "{}: is not marked as written by `resolve`: not written over, and nothing written; move it away",
                folder.join(name).display(),
            )));
        }
        let before = there.map(|there| there.text);
        if before.as_deref() != Some(text.as_bytes()) {
            self.changes.push(Change {
                path: folder.join(name),
                before,
                after: Some(text),
                is_workload,
            });
        }
        Ok(())
    }

    fn remove(&mut self, folder: &Path, name: &str, there: There) {
        self.changes.push(Change {
            path: folder.join(name),
            before: Some(there.text),
            after: None,
            is_workload: false,
        });
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Does it, and says what was done. A file that cannot be written does not end it for the others; but where a document
    /// could not be, no workload is, which would say that it was.
    pub(super) fn carry_out(&self) -> Result<(), Error> {
        let mut lines = String::new();
        let mut failed = None;
        let mut held_back = false;
        for change in &self.changes {
            if change.is_workload && held_back {
                continue;
            }
            let path = &change.path;
            let done = match &change.after {
                None => file::remove(path, Durability::Durable).map(|_| "removed"),
                Some(text) => file::replace(path, text.as_bytes(), Durability::Durable)
                    .map(|()| change.before.as_ref().map_or("created", |_| "changed")),
            };
            match done {
                Ok(done) => lines.push_str(&format!("{done} {}\n", path.display())),
                Err(error) => {
                    held_back |= !change.is_workload;
                    failed.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failed {
            output::text(&lines)?;
            return Err(error.into());
        }
        lines.push_str(&format!(
            "{}, {} changed\n",
            counted(self.policies, "policy", "policies"),
            counted(self.changes.len(), "file", "files"),
        ));
        output::text(&lines)
    }

    /// Prints what it would do as diff(1) shows it; whether there is anything.
    pub(super) fn print_diff(&self) -> Result<bool, Error> {
        let mut text = String::new();
        for change in &self.changes {
            let name = change.path.display().to_string();
            let header = |there: bool| {
                if there {
                    name.clone()
                } else {
                    "/dev/null".into()
                }
            };
            let before = String::from_utf8_lossy(change.before.as_deref().unwrap_or_default());
            let after = change.after.as_deref().unwrap_or_default();
            let diff = TextDiff::from_lines(before.as_ref(), after);
            text.push_str(
                &diff
                    .unified_diff()
                    .header(
                        &header(change.before.is_some()),
                        &header(change.after.is_some()),
                    )
                    .to_string(),
            );
        }
        output::text(&text)?;
        Ok(!self.changes.is_empty())
    }
}
