//! What goes wrong around controller and sync: no API, narrow rights, no definitions, a second one of each.

use std::{fs, path::Path, process::Command};

use crate::support::{Api, Program, Proxy, eventually, fingerprint, free_port, json_file};

const DENY_ALL: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: deny-all, namespace: default}\n\
     spec: {podSelector: {}, policyTypes: [Ingress, Egress]}\n";

fn workload(store: &Path, name: &str) -> std::path::PathBuf {
    store.join(format!("workloads/default/{name}.json"))
}

#[test]
fn the_api_goes_away_and_comes_back() {
    let api = Api::with_definitions();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let way = Proxy::to(api.port());
    let controller = Program::controller(&api, &api.admin(), &[]);
    let by_proxy = api.kubeconfig("admin", way.port);
    let sync = Program::sync(&api, &by_proxy, "node1", &store, &[]);
    controller.wait_ready();
    sync.wait_ready();
    api.apply(DENY_ALL);
    api.pod("default", "first", "node1", "{app: web}");
    eventually("the pod is known", || json_file(&workload(&store, "first")));
    let policies = fingerprint(&store.join("policies"));
    assert!(!policies.is_empty());

    // Forty pods of another node: nothing of them reaches this one.
    let pods_elsewhere: String = (0..40)
        .map(|number| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: far-{number}, namespace: elsewhere, labels: {{app: web}}}}\n\
                 spec: {{nodeName: node2, containers: [{{name: c, image: none}}]}}\n"
            )
        })
        .collect();
    api.kubectl(&["create", "namespace", "elsewhere"]);
    let before = way.received();
    api.apply(&pods_elsewhere);
    api.kubectl(&["label", "pod", "first", "seen=yes"]);
    eventually("a later change of a pod of this node", || {
        (json_file(&workload(&store, "first"))?["labels"]["seen"] == "yes").then_some(())
    });
    let received = way.received() - before;
    assert!(
        received < 10_000,
        "{received} bytes for pods of another node"
    );
    let pods = fingerprint(&store.join("workloads"));

    way.cut();
    let status = |store: &Path| json_file(&store.join("status/sync.json"));
    eventually("sync says that it is behind", || {
        let status = status(&store)?;
        let condition = status["conditions"]
            .to_string()
            .contains("no answer from the API server");
        (status["behindSeconds"].as_u64()? > 0 && condition).then_some(())
    });
    assert!(sync.metric("podgate_sync_behind_seconds") > 0.0);
    assert_eq!(fingerprint(&store.join("policies")), policies);
    assert_eq!(fingerprint(&store.join("workloads")), pods);

    // Meanwhile: one pod goes, one comes, the policy says something else.
    api.kubectl(&["delete", "pod", "first", "--force", "--grace-period=0"]);
    api.pod("default", "second", "node1", "{app: web}");
    api.kubectl(&["label", "namespace", "default", "any=thing"]);
    way.mend();
    eventually("what came meanwhile", || {
        json_file(&workload(&store, "second"))
    });
    eventually("what went meanwhile", || {
        (!workload(&store, "first").exists()).then_some(())
    });
    assert!(
        store
            .join("policies/cluster/default/deny-all.json")
            .exists()
    );
    eventually("not behind any more", || {
        (status(&store)?["behindSeconds"] == 0).then_some(())
    });

    // Started without the API: what the store holds stays, and is taken over.
    way.cut();
    assert!(sync.process.terminate().success());
    let policies = fingerprint(&store.join("policies"));
    let sync = Program::sync(&api, &by_proxy, "node1", &store, &[]);
    eventually("not ready, and why", || {
        let (code, text) = sync.readiness()?;
        (code == 503 && text.contains("no answer from the API server")).then_some(())
    });
    assert_eq!(fingerprint(&store.join("policies")), policies);
    way.mend();
    sync.wait_ready();
    assert_eq!(
        fingerprint(&store.join("policies")),
        policies,
        "written though nothing changed"
    );
}

#[test]
fn rights_definitions_ports_and_seconds() {
    let api = Api::start();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");

    // Without the definitions: it says which is missing, and goes on once it is there.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let address = format!("127.0.0.1:{taken_port}");
    let controller = Program::controller(&api, &api.admin(), &["--metrics-bind-addr", &address]);
    eventually("what is missing", || {
        let (code, text) = controller.readiness()?;
        (code == 503
            && text.contains("policyendpoints.networking.k8s.aws: not served")
            && text.contains("conf/crds"))
        .then_some(())
    });
    // A port that is taken is told and tried again.
    eventually("the port is told", || {
        controller
            .process
            .log()
            .contains("cannot listen for metrics")
            .then_some(())
    });
    api.define();
    controller.wait_ready();
    drop(taken);
    eventually("the port is taken once it is free", || {
        std::net::TcpStream::connect(("127.0.0.1", taken_port)).ok()
    });

    // A user without rights: which verb on which resource.
    let narrow = api.kubeconfig("narrow", api.port());
    let sync = Program::sync(&api, &narrow, "node1", &store, &[]);
    eventually("which right is missing", || {
        let (code, text) = sync.readiness()?;
        (code == 503 && text.contains(r#"grant verb "list" on resource "pods" of API group """#))
            .then_some(())
    });
    api.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: narrow}\n\
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}\n\
         subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: narrow}]\n",
    );
    sync.wait_ready();
    // The node does not exist: ready, and said.
    eventually("no such node", || {
        let status = json_file(&store.join("status/sync.json"))?;
        status["conditions"]
            .to_string()
            .contains("NodeNotFound")
            .then_some(())
    });

    // A second sync on the store ends with a clear word.
    let mut second = Program::sync(&api, &narrow, "node1", &store, &[]);
    let status = eventually("the second sync ends", || second.process.ended());
    assert_eq!(status.code(), Some(1));
    assert!(
        second
            .process
            .log()
            .contains("another podgate-sync runs on this store")
    );

    // A second controller waits, and takes over when the first one ends.
    let other = Program::controller(&api, &api.admin(), &[]);
    eventually("the second controller waits", || {
        let (code, text) = other.readiness()?;
        (code == 503 && text.contains("holds the Lease")).then_some(())
    });
    assert!(controller.process.terminate().success());
    other.wait_ready();

    // Wrong credentials.
    let wrong = folder.path().join("wrong.kubeconfig");
    let text = fs::read_to_string(&narrow)
        .unwrap()
        .replace("token-narrow", "nonsense");
    fs::write(&wrong, text).unwrap();
    let stranger = Program::sync(&api, &wrong, "node1", &folder.path().join("other"), &[]);
    eventually("credentials", || {
        stranger
            .readiness()
            .filter(|(code, text)| *code == 503 && text.contains("unauthorized"))
    });

    // A port where nobody serves.
    let nobody = api.kubeconfig("admin", free_port());
    let lost = Program::controller(&api, &nobody, &[]);
    eventually("nobody there", || {
        lost.readiness()
            .filter(|(code, text)| *code == 503 && text.contains("no answer from the API server"))
    });
}

#[test]
fn amazons_controller_is_there() {
    let api = Api::with_definitions();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    api.apply(DENY_ALL);
    // As Amazon's controller leaves it: no kind in policyRef, no marks, its field manager.
    let manifest = "apiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {name: deny-all-x7k2p, namespace: default}\n\
         spec: {policyRef: {name: deny-all, namespace: default}, podIsolation: [Ingress, Egress], podSelector: {}, podSelectorEndpoints: []}\n";
    let file = folder.path().join("amazon.yaml");
    fs::write(&file, manifest).unwrap();
    api.kubectl(&[
        "create",
        "--field-manager=controller",
        "-f",
        &file.display().to_string(),
    ]);
    let controller = Program::controller(&api, &api.admin(), &[]);
    let sync = Program::sync(&api, &api.admin(), "node1", &store, &[]);
    controller.wait_ready();
    assert!(controller.readiness().unwrap().1.contains("standing back"));
    assert_eq!(controller.metric("podgate_controller_standing_back"), 1.0);
    // Existence of its object is enough for a pod to be known.
    api.pod("default", "web", "node1", "{app: web}");
    eventually("the pod is known", || json_file(&workload(&store, "web")));
    assert!(
        store
            .join("policies/cluster/default/deny-all.json")
            .exists()
    );
    assert_eq!(api.list("policyendpoints", "default").len(), 1);
    // Its controller is gone, and its objects with it.
    api.kubectl(&["delete", "policyendpoint", "--all", "-n", "default"]);
    eventually("podgate writes", || {
        let objects = api.list("policyendpoints", "default");
        objects
            .iter()
            .any(|o| o["metadata"]["annotations"]["podgate.dev/parts"].is_string())
            .then_some(())
    });
    drop(sync);
}

#[test]
fn sync_resolves_by_itself() {
    let api = Api::with_definitions();
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let sync = Program::sync(&api, &api.admin(), "node1", &store, &["--resolve"]);
    sync.wait_ready();
    api.apply(DENY_ALL);
    api.pod("default", "web", "node1", "{app: web}");
    api.pod("default", "far", "node2", "{app: web}");
    eventually("the pod is known", || json_file(&workload(&store, "web")));
    let file = json_file(&store.join("policies/cluster/default/deny-all.json")).unwrap();
    assert_eq!(file["items"][0]["spec"]["policyRef"]["name"], "deny-all");
    assert!(!workload(&store, "far").exists());
    assert!(api.list("policyendpoints", "default").is_empty());
    api.kubectl(&["delete", "networkpolicy", "deny-all"]);
    eventually("the policy's file is gone", || {
        (!store
            .join("policies/cluster/default/deny-all.json")
            .exists())
        .then_some(())
    });
    assert!(workload(&store, "web").exists());
}

/// A small file system of its own, gone with the test.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display().to_string();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", &path])
            .status();
        assert!(
            mounted.expect("mount runs").success(),
            "mounting a tmpfs takes root"
        );
        Self(folder)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn the_store_is_full_for_a_while() {
    let api = Api::with_definitions();
    let small = Small::mount();
    let store = small.0.path().join("store");
    let controller = Program::controller(&api, &api.admin(), &[]);
    let sync = Program::sync(&api, &api.admin(), "node1", &store, &[]);
    controller.wait_ready();
    sync.wait_ready();
    let ballast = small.0.path().join("ballast");
    // Fails when nothing is left, which is what it is for.
    let _ = fs::write(&ballast, vec![0; 1 << 20]);
    api.apply(DENY_ALL);
    api.pod("default", "web", "node1", "{app: web}");
    eventually("the store's condition", || {
        let (code, text) = sync.readiness()?;
        (code == 503 && text.contains("store:")).then_some(())
    });
    assert!(
        !workload(&store, "web").exists(),
        "a pod is known without its documents"
    );
    fs::remove_file(&ballast).unwrap();
    sync.wait_ready();
    eventually("nothing is lost", || json_file(&workload(&store, "web")));
    let file = json_file(&store.join("policies/cluster/default/deny-all.json")).unwrap();
    assert_eq!(file["kind"], "List");
}
