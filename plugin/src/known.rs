//! Whether a document could select a pod, as far as the plugin can tell without reading one.

use state::{Source, Store};

use crate::request::Pod;

/// Whether some document could select `pod`: one in its namespace, or a cluster-wide one. In doubt, yes: the companion's
/// index is missing or is not about the files that are there now, or, with `source: cluster`, the store does not know the
/// pod by its uid yet, so that its documents may still be on the way. What cannot be read is a doubt too.
#[must_use]
pub fn could_select(store: &Store, source: Source, pod: &Pod) -> bool {
    look(store, source, pod).unwrap_or_else(|error| {
        tracing::warn!("look for documents that could select the pod: {error}; it waits for the companion's word");
        true
    })
}

fn look(store: &Store, source: Source, pod: &Pod) -> Result<bool, state::Error> {
    // A pod is known once all documents of its namespace are there: so this comes before the look at those.
    if source == Source::Cluster && !is_known(store, pod)? {
        return Ok(true);
    }
    let Some(index) = store.read_index()? else {
        return Ok(true);
    };
    if index.cluster_wide || index.namespaces.contains(&pod.namespace) {
        return Ok(true);
    }
    // Last what costs most: a stat of every file.
    Ok(store.scan_documents()?.digest != index.listing_digest)
}

fn is_known(store: &Store, pod: &Pod) -> Result<bool, state::Error> {
    let workload = store.workload(&pod.namespace, &pod.name)?;
    Ok(workload.is_some_and(|workload| pod.uid.as_ref() == Some(&workload.uid)))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use state::{Index, Workload};

    use super::*;

    fn pod(uid: Option<&str>) -> Pod {
        Pod {
            namespace: "shop".into(),
            name: "web".into(),
            uid: uid.map(Into::into),
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path().join("state")).unwrap();
        (folder, store)
    }

    fn index(store: &Store, namespaces: &[&str], cluster_wide: bool) {
        let listing_digest = store.scan_documents().unwrap().digest;
        let namespaces = namespaces.iter().map(|&name| name.to_owned()).collect();
        store
            .write_index(&Index {
                listing_digest,
                namespaces,
                cluster_wide,
            })
            .unwrap();
    }

    #[test]
    fn without_an_index_anything_could() {
        let (_folder, store) = store();
        assert!(could_select(&store, Source::Files, &pod(None)));
    }

    #[test]
    fn only_its_namespace_and_cluster_wide_documents_could() {
        let (_folder, store) = store();
        for (namespaces, cluster_wide, expected) in [
            (&[][..], false, false),
            (&["other"], false, false),
            (&["shop"], false, true),
            (&[], true, true),
        ] {
            index(&store, namespaces, cluster_wide);
            let could = could_select(&store, Source::Files, &pod(None));
            assert_eq!(could, expected, "{namespaces:?} {cluster_wide}");
        }
    }

    #[test]
    fn an_index_of_other_files_says_nothing() {
        let (folder, store) = store();
        index(&store, &[], false);
        fs::write(folder.path().join("state/policies/new.yaml"), "kind: X").unwrap();
        assert!(could_select(&store, Source::Files, &pod(None)));
        index(&store, &[], false);
        assert!(!could_select(&store, Source::Files, &pod(None)));
    }

    #[test]
    fn an_unreadable_index_is_a_doubt() {
        let (folder, store) = store();
        index(&store, &[], false);
        fs::write(folder.path().join("state/status/index.json"), "{").unwrap();
        assert!(could_select(&store, Source::Files, &pod(None)));
    }

    #[test]
    fn with_a_cluster_the_pod_must_be_known_by_its_uid() {
        let (_folder, store) = store();
        index(&store, &[], false);
        assert!(could_select(&store, Source::Cluster, &pod(Some("u1"))));
        let workload = Workload {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u1".into(),
            labels: BTreeMap::new(),
            addresses: vec![],
        };
        store.put_workload(&workload).unwrap();
        assert!(!could_select(&store, Source::Cluster, &pod(Some("u1"))));
        assert!(could_select(&store, Source::Cluster, &pod(Some("u2"))));
        assert!(could_select(&store, Source::Cluster, &pod(None)));
    }
}
