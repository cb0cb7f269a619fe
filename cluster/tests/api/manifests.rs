//! conf/kubernetes on the real API server, and whether its roles are enough for the programs.

use std::path::Path;

use crate::support::{Api, Program, eventually, json_file};

fn binding(kind: &str, namespace: &str, role: &str, user: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}Binding\nmetadata: {{name: test-{role}{namespace}, namespace: {namespace:?}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {kind}, name: {role}}}\n\
         subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {user}}}]\n"
    )
}

#[test]
fn roles_are_enough_and_every_overlay_is_taken() {
    let api = Api::with_definitions();
    let overlays = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/kubernetes/overlays");
    for overlay in ["generic", "flannel", "eks"] {
        let path = overlays.join(overlay).display().to_string();
        api.kubectl(&[
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-k",
            &path,
        ]);
    }
    api.kubectl(&[
        "apply",
        "-k",
        &overlays.join("generic").display().to_string(),
    ]);
    api.apply(&binding("ClusterRole", "", "podgate-node", "node"));
    api.apply(&binding(
        "ClusterRole",
        "",
        "podgate-controller",
        "controller",
    ));
    api.apply(&binding(
        "Role",
        "kube-system",
        "podgate-controller",
        "controller",
    ));

    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let controller = Program::controller(&api, &api.kubeconfig("controller", api.port()), &[]);
    let sync = Program::sync(
        &api,
        &api.kubeconfig("node", api.port()),
        "node1",
        &store,
        &[],
    );
    controller.wait_ready();
    sync.wait_ready();
    // A policy with something to say of itself: an Event and a condition take rights too.
    api.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: nobody, namespace: default}\n\
         spec: {podSelector: {matchLabels: {app: nobody}}, policyTypes: [Ingress]}\n",
    );
    eventually("an Event on the policy", || {
        let events = api.list("events", "default");
        let told = |event: &serde_json::Value| {
            event["reason"] == "SelectsNothing"
                && event["type"] == "Normal"
                && event["involvedObject"]["name"] == "nobody"
        };
        events.iter().any(told).then_some(())
    });
    // A pod of the host's network as a peer: its node's address, and a condition that says so.
    api.node("node1", "192.0.2.1");
    api.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: agent, namespace: default, labels: {app: agent}}\n\
         spec: {nodeName: node1, hostNetwork: true, containers: [{name: c, image: none}]}\n",
    );
    api.pod_runs("default", "agent", "192.0.2.1");
    api.pod("default", "web", "node1", "{app: web}");
    api.apply(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: from-agent, namespace: default}\n\
         spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: agent}}}]}]}\n",
    );
    eventually("the condition on the object", || {
        let objects = api.list("policyendpoints", "default");
        let has = |object: &serde_json::Value| {
            let condition = &object["status"]["conditions"][0];
            condition["type"] == "HostNetworkPeer" && condition["status"] == "True"
        };
        objects.iter().any(has).then_some(())
    });
    eventually("the pod is known", || {
        json_file(&store.join("workloads/default/web.json"))
    });
    // Nothing was refused on the way.
    assert_eq!(
        controller.metric("podgate_controller_write_errors_total"),
        0.0
    );
    for log in [controller.process.log(), sync.process.log()] {
        assert!(!log.contains("forbidden"), "{log}");
    }
    // And nothing is written again.
    let (events, statuses) = (
        "podgate_controller_events_total",
        "podgate_controller_status_writes_total",
    );
    let before = (controller.metric(events), controller.metric(statuses));
    api.kubectl(&["label", "pod", "web", "-n", "default", "any=thing"]);
    eventually("a later change has been seen", || {
        (json_file(&store.join("workloads/default/web.json"))?["labels"]["any"] == "thing")
            .then_some(())
    });
    assert_eq!(
        (controller.metric(events), controller.metric(statuses)),
        before
    );
    assert!(controller.process.terminate().success());
    let controller = Program::controller(&api, &api.kubeconfig("controller", api.port()), &[]);
    controller.wait_ready();
    assert_eq!(controller.metric(statuses), 0.0, "a restart wrote a status");
}
