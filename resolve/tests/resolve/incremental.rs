//! What comes of changes is what comes of the objects alone, and a change touches no policy that it does not concern.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};
use resolve::{Changes, Cluster, Object, Options, PolicyChange, WorkloadChange};
use serde_json::Value;

use crate::{
    harness::{cluster, namespace, objects, pod, policy, service},
    random::{cases, clusters, text},
};

/// What a user of the changes has on disk.
#[derive(Debug, Default, PartialEq)]
struct Disk {
    policies: BTreeMap<String, String>,
    workloads: BTreeMap<(String, String), resolve::Workload>,
}

impl Disk {
    fn take(&mut self, changes: Changes) {
        for change in changes.policies {
            match change {
                PolicyChange::Write(file) => {
                    let text = file.to_yaml();
                    self.policies.insert(file.file_name().to_owned(), text);
                }
                PolicyChange::Remove { file_name, .. } => {
                    assert!(self.policies.remove(&file_name).is_some(), "{file_name}");
                }
            }
        }
        for change in changes.workloads {
            match change {
                WorkloadChange::Put(workload) => {
                    self.workloads.insert(
                        (workload.namespace.clone(), workload.name.clone()),
                        workload,
                    );
                }
                WorkloadChange::Remove { namespace, name } => {
                    assert!(self.workloads.remove(&(namespace, name)).is_some());
                }
            }
        }
    }
}

fn read(object: &Value) -> Object {
    objects(&object.to_string()).remove(0)
}

/// Every pod on the node that is asked about, so that workloads are part of it.
fn on_node(mut objects: Vec<Value>) -> Vec<Value> {
    for object in &mut objects {
        if object["kind"] == "Pod" {
            object["spec"]["nodeName"] = "n1".into();
        }
    }
    objects
}

proptest! {
    #![proptest_config(cases(150))]

    /// From one cluster to another by way of any change, resolving in between or not.
    #[test]
    fn changes_come_to_what_a_fresh_start_comes_to(
        before in clusters(),
        after in clusters(),
        strict_services: bool,
        steps in vec((any::<prop::sample::Index>(), any::<bool>(), 0u8..3), 0..40),
    ) {
        let options = Options { strict_services, node: Some("n1".to_owned()), ..Options::default() };
        let (before, after) = (on_node(before), on_node(after));
        let all: Vec<&Value> = before.iter().chain(&after).collect();
        let mut cluster = Cluster::new(options.clone());
        let mut disk = Disk::default();
        let mut now = BTreeMap::new();
        for object in &before {
            let read = read(object);
            now.insert(read.key().unwrap(), object);
            cluster.apply(read);
        }
        disk.take(cluster.resolve());
        for (index, put, resolve) in steps {
            let object = all[index.index(all.len())];
            let read = read(object);
            let key = read.key().unwrap();
            if put {
                let changed = cluster.apply(read);
                prop_assert!(changed || now.contains_key(&key));
                now.insert(key, object);
            } else {
                prop_assert_eq!(cluster.remove(&key), now.remove(&key).is_some());
            }
            if resolve > 0 {
                disk.take(cluster.resolve());
            }
        }
        disk.take(cluster.resolve());
        prop_assert_eq!(cluster.resolve(), Changes::default());

        let objects: Vec<Value> = now.into_values().cloned().collect();
        let mut fresh = crate::harness::cluster(options, &text(&objects));
        let mut expected = Disk::default();
        expected.take(fresh.resolve());
        prop_assert_eq!(disk, expected);
    }
}

/// The files that a change writes.
fn written(cluster: &mut Cluster, text: &str) -> Vec<String> {
    for object in objects(text) {
        cluster.apply(object);
    }
    let changes = cluster.resolve();
    changes
        .policies
        .iter()
        .map(|change| change.file_name().to_owned())
        .collect()
}

#[test]
fn a_change_touches_the_policies_that_name_what_changed() {
    let mut text = String::new();
    for ns in ["x", "y", "z"] {
        text += &(namespace(ns, &format!("team={ns}"))
            + &pod(&format!("{ns}/a"), ns.as_bytes()[0], "app=a", "http:80"));
        text += &policy(
            &format!("{ns}/own"),
            "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}",
        );
    }
    text += &policy(
        "x/of-y",
        "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: y}}}]}]}",
    );
    text += &policy(
        "x/dns",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: dns}}}], ports: [{port: 53, protocol: UDP}]}]}",
    );
    text += &policy(
        "x/web",
        "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 8080}]}]}",
    );
    let mut cluster = cluster(Options::default(), &text);
    assert_eq!(cluster.resolve().policies.len(), 6);
    let mut written = |text: &str| written(&mut cluster, text);

    // A new peer in z; a label that nobody asks for; a pod in y, whom x's policy names by namespace.
    assert_eq!(
        written(&pod("z/b", 1, "app=b", "")),
        ["z_own_NetworkPolicy.yaml"]
    );
    assert_eq!(written(&pod("z/b", 1, "app=b,more=1", "")), [""; 0]);
    assert_eq!(
        written(&pod("y/b", 2, "app=c", "")),
        ["x_of-y_NetworkPolicy.yaml"]
    );
    assert_eq!(
        written(&namespace("y", "team=q")),
        ["x_of-y_NetworkPolicy.yaml"]
    );
    assert_eq!(
        written(&pod("z/dns", 3, "app=dns", "")),
        ["x_dns_NetworkPolicy.yaml"]
    );
    // A Service is named where a rule allows its backends, and touched where its backends change.
    assert_eq!(
        written(&service(
            "z/dns",
            "app=dns",
            "10.96.0.10",
            "[{port: 53, protocol: UDP}]"
        )),
        ["x_dns_NetworkPolicy.yaml"]
    );
    assert_eq!(
        written(&service(
            "z/web",
            "app=b",
            "10.96.0.11",
            "[{port: 80, targetPort: 8081}]"
        )),
        [""; 0]
    );
    assert_eq!(
        written(&service(
            "z/web",
            "app=b",
            "10.96.0.11",
            "[{port: 80, targetPort: 8080}]"
        )),
        ["x_web_NetworkPolicy.yaml"]
    );
    assert_eq!(
        written(&pod("z/b", 1, "app=none", "")),
        ["x_web_NetworkPolicy.yaml", "z_own_NetworkPolicy.yaml"]
    );
    assert_eq!(
        written(&service(
            "z/dns",
            "app=dns",
            "10.96.0.12",
            "[{port: 53, protocol: UDP}]"
        )),
        ["x_dns_NetworkPolicy.yaml"]
    );
}
