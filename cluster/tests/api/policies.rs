//! From `kubectl apply` to the node's store: controller and sync on a real API server.

use crate::support::{Api, Program, eventually, fingerprint, json_file};
use serde_json::Value;

const NODE: &str = "node1";

fn allow_from_client(selector: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {selector}}}}}, policyTypes: [Ingress], ingress: [{{from: [{{podSelector: {{matchLabels: {{app: client}}}}}}], ports: [{{port: http}}]}}]}}\n"
    )
}

/// Pods that a file of documents lists, and the blocks that it allows to come in.
fn listed(file: &Value) -> (Vec<String>, Vec<String>) {
    let of = |key: &str, field: &str| {
        let items = file["items"].as_array().cloned().unwrap_or_default();
        let mut texts: Vec<String> = items
            .iter()
            .flat_map(|item| item["spec"][key].as_array().cloned().unwrap_or_default())
            .filter_map(|entry| entry[field].as_str().map(str::to_owned))
            .collect();
        texts.sort();
        texts.dedup();
        texts
    };
    (of("podSelectorEndpoints", "name"), of("ingress", "cidr"))
}

#[test]
fn a_policys_life() {
    let api = Api::with_definitions();
    let store = tempfile::tempdir().unwrap();
    let store = store.path().join("store");
    let web = store.join("policies/cluster/shop/web.json");
    let workload = |name: &str| store.join(format!("workloads/shop/{name}.json"));

    api.node(NODE, "192.0.2.1");
    api.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n");
    api.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: elsewhere}\n");
    let controller = Program::controller(&api, &api.admin(), &[]);
    let sync = Program::sync(&api, &api.admin(), NODE, &store, &[]);
    controller.wait_ready();
    sync.wait_ready();
    assert_eq!(
        json_file(&store.join("node-addresses.json")).unwrap()["addresses"],
        serde_json::json!(["192.0.2.1"])
    );

    // A policy is there before its pods: a pod is known once its documents are in the store.
    api.apply(&allow_from_client("web"));
    eventually("the policy's objects", || {
        (!api.list("policyendpoints", "shop").is_empty()).then_some(())
    });
    api.pod("shop", "web-1", NODE, "{app: web}");
    api.pod("shop", "client-1", "node2", "{app: client}");
    let known = eventually("the pod is known", || json_file(&workload("web-1")));
    assert_eq!(known["labels"]["app"], "web");
    assert!(
        web.exists(),
        "a pod is known before its documents are in the store"
    );
    assert!(!workload("client-1").exists(), "a pod of another node");

    // Addresses come later.
    api.pod_runs("shop", "client-1", "10.0.0.2");
    api.pod_runs("shop", "web-1", "10.0.0.1");
    eventually("the peer's address", || {
        let (pods, blocks) = listed(&json_file(&web)?);
        (pods == ["web-1"] && blocks == ["10.0.0.2/32"]).then_some(())
    });
    eventually("the pod's own address", || {
        (json_file(&workload("web-1"))?["self"] == serde_json::json!(["10.0.0.1"])).then_some(())
    });
    let object = eventually("hostIP and podIP", || {
        let objects = api.list("policyendpoints", "shop");
        objects.into_iter().find(|object| {
            let pod = &object["spec"]["podSelectorEndpoints"][0];
            pod["hostIP"] == "192.0.2.1" && pod["podIP"] == "10.0.0.1"
        })
    });
    let policy: Value = serde_json::from_str(&api.kubectl(&[
        "get",
        "networkpolicy",
        "web",
        "-n",
        "shop",
        "-o",
        "json",
    ]))
    .unwrap();
    let owner = &object["metadata"]["ownerReferences"][0];
    assert_eq!(owner["uid"], policy["metadata"]["uid"]);
    assert_eq!(owner["controller"], true);
    assert_eq!(owner["kind"], "NetworkPolicy");
    let marks = &object["metadata"]["annotations"];
    assert!(marks["podgate.dev/parts"].is_string() && marks["podgate.dev/generation"].is_string());
    let uid = policy["metadata"]["uid"].as_str().unwrap();
    assert!(
        marks["podgate.dev/policy-generation"]
            .as_str()
            .unwrap()
            .contains(uid)
    );

    // Another selector: other pods, and the peers of before.
    api.apply(&allow_from_client("db"));
    eventually("the selector's change", || {
        let file = json_file(&web)?;
        let selector = &file["items"][0]["spec"]["podSelector"];
        (listed(&file).0.is_empty() && selector["matchLabels"]["app"] == "db"
            || selector["matchExpressions"][0]["values"][0] == "db")
            .then_some(())
    });
    api.pod("shop", "web-1", NODE, "{app: db}");
    eventually("the relabelled pod is selected", || {
        (listed(&json_file(&web)?).0 == ["web-1"]).then_some(())
    });
    eventually("the relabelled pod's labels", || {
        (json_file(&workload("web-1"))?["labels"]["app"] == "db").then_some(())
    });

    // What concerns no policy writes no object.
    let versions = || -> Vec<String> {
        let objects = api.list("policyendpoints", "shop");
        let version = |o: &Value| {
            o["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        objects.iter().map(version).collect()
    };
    let before = versions();
    api.kubectl(&["label", "pod", "web-1", "-n", "shop", "colour=blue"]);
    api.kubectl(&["annotate", "pod", "web-1", "-n", "shop", "note=any"]);
    eventually("the label has come to the node", || {
        (json_file(&workload("web-1"))?["labels"]["colour"] == "blue").then_some(())
    });
    assert_eq!(
        versions(),
        before,
        "a label that no policy asks for led to a write"
    );

    // Restarts write nothing, neither objects nor files.
    let files = fingerprint(&store.join("policies"));
    let pods = fingerprint(&store.join("workloads"));
    assert!(controller.process.terminate().success());
    assert!(sync.process.terminate().success());
    let controller = Program::controller(&api, &api.admin(), &[]);
    let sync = Program::sync(&api, &api.admin(), NODE, &store, &[]);
    controller.wait_ready();
    sync.wait_ready();
    assert_eq!(
        versions(),
        before,
        "the controller's restart led to a write"
    );
    assert_eq!(
        fingerprint(&store.join("policies")),
        files,
        "sync's restart led to a write"
    );
    assert_eq!(
        fingerprint(&store.join("workloads")),
        pods,
        "sync's restart led to a write"
    );
    for count in ["object_writes", "object_deletes", "status_writes"] {
        assert_eq!(
            controller.metric(&format!("podgate_controller_{count}_total")),
            0.0
        );
    }

    // Deleted and made again word for word: the object has the new policy's uid.
    api.kubectl(&["delete", "networkpolicy", "web", "-n", "shop"]);
    api.apply(&allow_from_client("db"));
    eventually("the new policy's uid", || {
        let policy: Value = serde_json::from_str(&api.kubectl(&[
            "get",
            "networkpolicy",
            "web",
            "-n",
            "shop",
            "-o",
            "json",
        ]))
        .ok()?;
        let objects = api.list("policyendpoints", "shop");
        let uid = &policy["metadata"]["uid"];
        let mut owners = objects.iter().map(|o| &o["metadata"]["ownerReferences"]);
        (!objects.is_empty()
            && owners.all(|owners| {
                owners.as_array().is_some_and(|o| o.len() == 1) && owners[0]["uid"] == *uid
            }))
        .then_some(())
    });

    // What is somebody else's stays.
    api.apply(
        "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {name: by-hand, namespace: shop}\n\
         spec: {policyRef: {name: by-hand, namespace: shop}, podIsolation: [Egress], podSelector: {matchLabels: {app: none}}}\n",
    );
    eventually("a foreign object comes to the node too", || {
        json_file(&store.join("policies/cluster/shop/by-hand.json"))
    });
    api.kubectl(&["delete", "networkpolicy", "web", "-n", "shop"]);
    eventually("the policy's objects are gone", || {
        (api.list("policyendpoints", "shop").len() == 1).then_some(())
    });
    eventually("the policy's file is gone", || {
        (!web.exists()).then_some(())
    });
    assert!(store.join("policies/cluster/shop/by-hand.json").exists());
    api.kubectl(&[
        "delete",
        "pod",
        "web-1",
        "-n",
        "shop",
        "--grace-period=0",
        "--force",
    ]);
    eventually("the pod's file is gone", || {
        (!workload("web-1").exists()).then_some(())
    });
    drop((controller, sync));
}
