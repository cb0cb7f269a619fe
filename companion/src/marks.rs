//! A cheap mark of what the store holds: equal marks, equal contents. It reads no file.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use state::Store;

/// A mark of each part of the store that policy depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Marks {
    /// [`state::Listing::digest`] of the documents.
    pub documents: String,
    /// Of `pods/`.
    pub pods: String,
    /// Of `workloads/`.
    pub workloads: String,
    /// Of `node.json` and `node-addresses.json`.
    pub node: String,
}

impl Marks {
    /// Looks at the store now.
    ///
    /// # Errors
    /// If the documents cannot be listed.
    pub fn look(store: &Store) -> Result<Self, state::Error> {
        Ok(Self::with_documents(store, store.scan_documents()?.digest))
    }

    /// The same, where the documents' listing is at hand.
    pub fn with_documents(store: &Store, documents: String) -> Self {
        let layout = store.layout();
        Self {
            documents,
            pods: folder(&layout.pods()),
            workloads: folder(&layout.workloads()),
            node: mark(|all| {
                for path in [layout.node(), layout.node_addresses()] {
                    all.push(stamp(&path));
                }
            }),
        }
    }
}

type Stamp = (Vec<u8>, u64, i64, i64, u64);

fn folder(path: &Path) -> String {
    mark(|all| collect(path, 0, all))
}

/// Names that begin with a dot are never read, so they do not count either.
fn collect(path: &Path, depth: usize, all: &mut Vec<Stamp>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden {
            continue;
        }
        if depth == 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth + 1, all);
        } else {
            all.push(stamp(&entry.path()));
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let name = path.as_os_str().as_encoded_bytes().to_vec();
    match fs::metadata(path) {
        Ok(m) => (name, m.size(), m.ctime(), m.ctime_nsec(), m.ino()),
        Err(_) => (name, u64::MAX, 0, 0, 0),
    }
}

fn mark(fill: impl FnOnce(&mut Vec<Stamp>)) -> String {
    let mut all = Vec::new();
    fill(&mut all);
    all.sort_unstable();
    let mut hasher = DefaultHasher::new();
    all.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_moves_its_own_mark() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let first = Marks::look(&store).unwrap();
        assert_eq!(first, Marks::look(&store).unwrap());
        fs::create_dir(dir.path().join("workloads/ns")).unwrap();
        fs::write(dir.path().join("workloads/ns/p.json"), "{}").unwrap();
        fs::write(dir.path().join("workloads/.hidden"), "{}").unwrap();
        let second = Marks::look(&store).unwrap();
        assert_ne!(first.workloads, second.workloads);
        assert_eq!(
            (&first.pods, &first.documents, &first.node),
            (&second.pods, &second.documents, &second.node)
        );
        fs::write(dir.path().join("node.json"), "{}").unwrap();
        fs::write(dir.path().join("policies/a.yaml"), "x").unwrap();
        let third = Marks::look(&store).unwrap();
        assert_ne!(second.node, third.node);
        assert_ne!(second.documents, third.documents);
        assert_eq!(second.workloads, third.workloads);
    }
}
