//! What `explain` is given, in a real store as the companion leaves it.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;

use published::SelectorOverrides;
use published::in_force::for_endpoint;
use published::status::{Document, Documents, Endpoint, Endpoints};
use state::applied::Applied;
use state::{Mode, Record, Store, Workload};

fn published_endpoint(id: u32, policies: &[&str]) -> Endpoint {
    Endpoint {
        endpoint_id: id,
        endpoint_index: id,
        ifindex: 1,
        container_id: "c".into(),
        ifname: "eth0".into(),
        namespace: "shop".into(),
        pod: "web".into(),
        mode: Mode::Strict,
        generation: 1,
        digest: String::new(),
        policies: policies.iter().map(ToString::to_string).collect(),
        isolated_ingress: true,
        isolated_egress: false,
        known: true,
    }
}

/// One policy in force, which selects by label.
fn apply(store: &Store, documents: &mut Documents, name: &str, value: &str) {
    let identity = format!("PolicyEndpoint/shop/{name}");
    let text = format!(
        "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  policyRef: {{name: {name}, namespace: shop}}\n  podIsolation: [Ingress]\n\
         \x20 podSelector: {{matchLabels: {{app: {value}}}}}\n"
    );
    store
        .update_applied(
            &[Applied {
                policy: format!("NetworkPolicy/shop/{name}"),
                sources: [].into(),
                bytes: text.into_bytes(),
            }],
            &[],
        )
        .unwrap();
    documents.documents.push(Document {
        identity,
        file: format!("{name}.yaml"),
        policy: format!("NetworkPolicy/shop/{name}"),
        condition: policy::documents::Condition::Applied,
        message: String::new(),
        digest: None,
        endpoints: 1,
    });
}

#[test]
fn the_policies_that_select_with_the_labels_and_overrides_that_count() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path().join("state")).unwrap();
    // What ADD brought; the workload knows better.
    let record: Record = serde_json::from_str(
        r#"{"schema": 1, "phase": "attached", "bootId": "b", "network": "n", "containerId": "c", "cniIfname": "eth0",
            "ifname": "eth0", "podNamespace": "shop", "podName": "web", "podUid": "u1", "labels": {"app": "old"},
            "netns": "", "ifindex": 1, "veth": "v", "endpointId": 7, "endpointIndex": 7, "mac": "", "addresses": [],
            "mode": "strict", "attachMode": "clsact", "layoutVersion": 2}"#,
    )
    .unwrap();
    let workload = Workload {
        namespace: "shop".into(),
        name: "web".into(),
        uid: "u1".into(),
        labels: BTreeMap::from([("app".into(), "web".into())]),
        addresses: Vec::new(),
    };
    store.put_workload(&workload).unwrap();
    let mut documents = Documents::default();
    apply(&store, &mut documents, "mine", "web");
    apply(&store, &mut documents, "stale", "web");
    apply(&store, &mut documents, "other", "web");
    store.write_status("documents", &documents).unwrap();

    assert!(for_endpoint(&store, &record).unwrap().policies.is_empty());
    let endpoints = Endpoints {
        endpoints: vec![
            published_endpoint(6, &["NetworkPolicy/shop/other"]),
            published_endpoint(7, &["NetworkPolicy/shop/mine", "NetworkPolicy/shop/stale"]),
        ],
    };
    store.write_status("endpoints", &endpoints).unwrap();
    let overrides = SelectorOverrides {
        settled: vec![("NetworkPolicy/shop/stale".into(), 7)],
    };
    overrides.write(&store).unwrap();

    let found = for_endpoint(&store, &record).unwrap();
    let names: Vec<String> = found.policies.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["NetworkPolicy/shop/mine"]);
    assert_eq!(found.endpoint.labels, Some(workload.labels.clone()));

    // A workload of an earlier pod of that name says nothing about this one.
    store
        .put_workload(&Workload {
            uid: "u0".into(),
            ..workload
        })
        .unwrap();
    let found = for_endpoint(&store, &record).unwrap();
    assert_eq!(found.endpoint.labels, record.labels);
    assert!(found.policies.is_empty());
}
