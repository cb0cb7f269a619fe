//! A cluster in manifests, resolved and compiled, to be asked who reaches whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use policy::{
    Direction, Endpoint, EndpointId, Facts, Policies, Tables, assemble, compile,
    documents::{self, Condition},
};
use resolve::{Changes, Cluster, Marks, Options, PolicyChange, manifest};
use serde_json::{Value, json};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;

/// All objects of a text.
pub(crate) fn values(yaml: &str) -> Vec<Value> {
    yaml.split("\n---")
        .map(|part| serde_norway::from_str::<Value>(part).unwrap())
        .filter(|value| !value.is_null())
        .collect()
}

/// Reads manifests that must be good.
pub(crate) fn objects(text: &str) -> Vec<resolve::Object> {
    let read = manifest::read(text.as_bytes());
    read.into_iter().map(|item| item.unwrap().object).collect()
}

/// A cluster with these objects.
pub(crate) fn cluster(options: Options, text: &str) -> Cluster {
    let mut cluster = Cluster::new(options);
    for object in objects(text) {
        cluster.apply(object);
    }
    cluster
}

/// A node that has every pod, and the documents of the store.
pub(crate) struct World {
    pub(crate) tables: Tables,
    pub(crate) endpoints: BTreeMap<String, EndpointId>,
    pub(crate) addresses: BTreeMap<String, Vec<IpAddr>>,
    pub(crate) conditions: BTreeMap<String, (Condition, String)>,
    pub(crate) warnings: Vec<String>,
    pub(crate) changes: Changes,
}

pub(crate) fn world(text: &str) -> World {
    world_with(Options::default(), text)
}

pub(crate) fn world_with(options: Options, text: &str) -> World {
    let mut cluster = cluster(options, text);
    let changes = cluster.resolve();
    world_of(&values(text), &cluster, changes)
}

/// Compiles what a cluster came to, for the pods among these objects. They are known by label as well as by name.
pub(crate) fn world_of(objects: &[Value], cluster: &Cluster, changes: Changes) -> World {
    let mut texts = Vec::new();
    let mut warnings = Vec::new();
    for file in cluster.files() {
        texts.push(file.to_yaml());
        warnings.extend(
            file.findings()
                .iter()
                .map(|w| format!("{}: {w}", file.policy)),
        );
    }
    let mut placed = Vec::new();
    for text in &texts {
        let reading = documents::read(text.as_bytes());
        let broken: Vec<String> = reading.broken().map(|b| b.error.to_string()).collect();
        assert!(broken.is_empty(), "{broken:?} in {text}");
        placed.extend(reading.documents.into_iter().flatten().map(Arc::new));
    }
    let identities: BTreeSet<_> = placed.iter().map(|d| d.identity.clone()).collect();
    assert_eq!(identities.len(), placed.len(), "documents share a name");
    let assembly = assemble(placed, &Policies::new());
    let mut endpoints = Vec::new();
    let mut addresses = BTreeMap::new();
    let mut ids = BTreeMap::new();
    for pod in objects.iter().filter(|o| o["kind"] == "Pod") {
        let name = name_of(pod);
        addresses.insert(name.clone(), addresses_of(pod));
        if pod["spec"]["hostNetwork"] == json!(true) {
            continue;
        }
        let id = EndpointId(u32::try_from(endpoints.len()).unwrap() + 1);
        ids.insert(name.clone(), id);
        let (namespace, name) = name.split_once('/').unwrap();
        let labels = pod["metadata"]["labels"].as_object();
        endpoints.push(Endpoint {
            id,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: Some(
                labels
                    .into_iter()
                    .flatten()
                    .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
                    .collect(),
            ),
        });
    }
    World {
        tables: compile(&endpoints, &assembly.policies, &Facts::default()),
        endpoints: ids,
        addresses,
        conditions: assembly
            .conditions
            .into_iter()
            .map(|(id, condition)| (id.to_string(), condition))
            .collect(),
        warnings,
        changes,
    }
}

pub(crate) fn name_of(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!(
        "{}/{}",
        metadata["namespace"].as_str().unwrap_or("default"),
        metadata["name"].as_str().unwrap()
    )
}

pub(crate) fn addresses_of(pod: &Value) -> Vec<IpAddr> {
    pod["status"]["podIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|ip| ip["ip"].as_str().unwrap().parse().unwrap())
        .collect()
}

impl World {
    /// Whether a pod's direction lets an address's packet through, in standard mode.
    pub(crate) fn passes(
        &self,
        pod: &str,
        direction: Direction,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> bool {
        // A pod of the host's network has no endpoint, and nothing stops it.
        let Some(id) = self.endpoints.get(pod) else {
            return true;
        };
        self.tables
            .allows(*id, direction, peer, protocol, port, false)
            .unwrap()
    }

    /// Whether one pod reaches another, at every pair of addresses of one family: a mixed answer fails.
    pub(crate) fn reaches(&self, from: &str, to: &str, protocol: u8, port: u16) -> bool {
        let mut answers = BTreeSet::new();
        for source in &self.addresses[from] {
            for target in &self.addresses[to] {
                if source.is_ipv4() == target.is_ipv4() {
                    answers.insert(
                        self.passes(from, Direction::Egress, *target, protocol, port)
                            && self.passes(to, Direction::Ingress, *source, protocol, port),
                    );
                }
            }
        }
        assert_eq!(answers.len(), 1, "{from} to {to}: the families differ");
        answers.contains(&true)
    }

    pub(crate) fn egress(&self, pod: &str, to: &str, protocol: u8, port: u16) -> bool {
        self.passes(pod, Direction::Egress, to.parse().unwrap(), protocol, port)
    }

    pub(crate) fn ingress(&self, pod: &str, from: &str, protocol: u8, port: u16) -> bool {
        self.passes(
            pod,
            Direction::Ingress,
            from.parse().unwrap(),
            protocol,
            port,
        )
    }

    /// The documents of the file with this name.
    pub(crate) fn file(&self, name: &str) -> Vec<Value> {
        let change = self.changes.policies.iter().find(|c| c.file_name() == name);
        match change {
            Some(PolicyChange::Write(file)) => file.documents(&Marks::default()),
            other => panic!("{name}: {other:?} of {:?}", self.changes.policies),
        }
    }
}

/// A pod's manifest: `ns/name`, last part of its addresses (10.0.0.N, fd00::N), labels, ports `name:number/PROTOCOL`.
pub(crate) fn pod(name: &str, n: u8, labels: &str, ports: &str) -> String {
    pod_with(
        name,
        &format!("10.0.0.{n} fd00::{n:x}"),
        labels,
        ports,
        json!({}),
    )
}

/// The same with any addresses, and with more to its spec and status.
pub(crate) fn pod_with(
    name: &str,
    addresses: &str,
    labels: &str,
    ports: &str,
    more: Value,
) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    let ports: Vec<Value> = words(ports)
        .map(|port| {
            let (name, rest) = port.split_once(':').unwrap();
            let (number, protocol) = rest.split_once('/').unwrap_or((rest, "TCP"));
            json!({"name": name, "containerPort": number.parse::<u16>().unwrap(), "protocol": protocol})
        })
        .collect();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels_of(labels)},
        "spec": {"containers": [{"name": "c", "ports": ports}]},
        "status": {"podIPs": words(addresses).map(|ip| json!({"ip": ip})).collect::<Vec<_>>()},
    });
    merge(&mut pod, more);
    format!("\n---\n{pod}\n")
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', ',']).filter(|word| !word.is_empty())
}

fn labels_of(text: &str) -> Value {
    words(text)
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap();
            (key.to_owned(), Value::from(value))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

pub(crate) fn namespace(name: &str, labels: &str) -> String {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels_of(labels)}});
    format!("\n---\n{object}\n")
}

/// A NetworkPolicy with the body of its spec.
pub(crate) fn policy(name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!(
        "\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// A Service: selector, cluster addresses, ports as YAML.
pub(crate) fn service(name: &str, selector: &str, addresses: &str, ports: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    let addresses: Vec<&str> = words(addresses).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"selector": labels_of(selector), "clusterIP": addresses.first(), "clusterIPs": addresses,
                 "ports": serde_norway::from_str::<Value>(ports).unwrap()},
    });
    format!("\n---\n{object}\n")
}
