//! A cheap fingerprint of what the store holds: equal fingerprints, equal contents. It reads no file.
//!
//! Paths count relative to the store's folder, and the digest is the same in every build: two programs that reach one
//! store by different paths, or of different releases, get the same fingerprint.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Store, file, layout};

/// A digest of each part of the store that policy depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StoreFingerprint {
    /// [`crate::Listing::digest`] of the documents.
    pub documents: String,
    /// Of `pods/`.
    pub pods: String,
    /// Of `workloads/`.
    pub workloads: String,
    /// Of `node.json` and `node-addresses.json`.
    pub node: String,
}

impl StoreFingerprint {
    /// Takes the fingerprint of the store as it is now.
    ///
    /// # Errors
    /// If the documents cannot be listed.
    pub fn take(store: &Store) -> Result<Self, crate::Error> {
        Ok(Self::with_documents(store, store.scan_documents()?.digest))
    }

    /// The same, where the digest of the documents' listing is at hand.
    #[must_use]
    pub fn with_documents(store: &Store, documents: String) -> Self {
        let layout = store.layout();
        let folder = |path: PathBuf| {
            let mut paths = Vec::new();
            collect(&path, 0, &mut paths);
            digest(store.root(), paths)
        };
        Self {
            documents,
            pods: folder(layout.pods()),
            workloads: folder(layout.workloads()),
            node: digest(store.root(), vec![layout.node(), layout.node_addresses()]),
        }
    }
}

/// The files of a folder and of the folders in it. Names that begin with a dot are never read and do not count.
fn collect(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if file::is_hidden(&entry.file_name()) {
            continue;
        }
        if depth == 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth + 1, paths);
        } else {
            paths.push(entry.path());
        }
    }
}

fn digest(root: &Path, mut paths: Vec<PathBuf>) -> String {
    paths.sort_unstable();
    let mut digest = Sha256::new();
    for path in paths {
        let name = path.strip_prefix(root).unwrap_or(&path).as_os_str();
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name.as_bytes());
        match fs::metadata(&path) {
            Ok(file) => {
                digest.update([1]);
                digest.update(file.size().to_le_bytes());
                digest.update(file.ctime().to_le_bytes());
                digest.update(file.ctime_nsec().to_le_bytes());
                digest.update(file.ino().to_le_bytes());
            }
            Err(_) => digest.update([0]),
        }
    }
    layout::hex(&digest.finalize()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_changes_its_own_digest() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let first = StoreFingerprint::take(&store).unwrap();
        assert_eq!(first, StoreFingerprint::take(&store).unwrap());
        fs::create_dir(dir.path().join("workloads/ns")).unwrap();
        fs::write(dir.path().join("workloads/ns/p.json"), "{}").unwrap();
        fs::write(dir.path().join("workloads/.hidden"), "{}").unwrap();
        let second = StoreFingerprint::take(&store).unwrap();
        assert_ne!(first.workloads, second.workloads);
        assert_eq!(
            (&first.pods, &first.documents, &first.node),
            (&second.pods, &second.documents, &second.node)
        );
        fs::write(dir.path().join("node.json"), "{}").unwrap();
        fs::write(dir.path().join("policies/a.yaml"), "x").unwrap();
        let third = StoreFingerprint::take(&store).unwrap();
        assert_ne!(second.node, third.node);
        assert_ne!(second.documents, third.documents);
        assert_eq!(second.workloads, third.workloads);
    }

    #[test]
    fn two_paths_to_one_store_give_one_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path().join("store")).unwrap();
        fs::write(dir.path().join("store/node.json"), "{}").unwrap();
        fs::write(dir.path().join("store/policies/a.yaml"), "x").unwrap();
        fs::write(dir.path().join("store/pods/a_eth0.json"), "{}").unwrap();
        let elsewhere = dir.path().join("store/../store");
        let same = Store::open(elsewhere).unwrap();
        assert_eq!(
            StoreFingerprint::take(&store).unwrap(),
            StoreFingerprint::take(&same).unwrap()
        );
    }

    #[test]
    fn the_digest_is_no_secret_of_a_build() {
        // printf '' | sha256sum | cut -c1-32
        assert_eq!(
            digest(Path::new("/"), Vec::new()),
            "e3b0c44298fc1c149afbf4c8996fb924"
        );
    }
}
