//! The cluster for real: a node with its companion, nine pods wired by cnitool, servers in all of them, Services by nftables.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::case::{Mode, Recycled};
use super::cluster::{self, Service};
use super::expect::{Connection, Expect, Protocol};
use super::manifests::Manifests;
use super::prober::{Outcome, Prober, Target};
use crate::chain::{Chain, ptp};
use crate::{Companion, Node, Pod, node, tools};

/// How long `podgatectl wait` may take.
const APPLIED: &str = "20s";

/// Who answers at an address.
#[derive(Debug, Clone)]
struct Party {
    /// `namespace/name`, as the case has it now.
    name: String,
    addresses: [IpAddr; 2],
    /// The prober whose namespace has the address.
    at: usize,
    /// Whether a case put it in the place of another.
    exchanged: bool,
}

/// One probe of a step.
#[derive(Debug, Clone)]
pub struct Probe {
    from: usize,
    target: Target,
    /// What a server that gets it says.
    answer: String,
    /// In words.
    pub about: String,
    /// What policy says.
    pub open: bool,
}

/// A node in one mode, with everything on it.
pub struct World<'n> {
    node: &'n Node,
    mode: Mode,
    _companion: Companion,
    chain: Chain,
    /// By the slot: x/a, x/b, ... z/c. Slots keep their addresses whoever has them.
    pods: Vec<Pod<'n>>,
    probers: Vec<Prober>,
    parties: Vec<Party>,
    services: Vec<Service>,
    folder: PathBuf,
    /// What every case begins with.
    base: Manifests,
    written: Manifests,
    sctp: bool,
}

impl<'n> World<'n> {
    /// Wires everything.
    ///
    /// # Errors
    /// What did not work.
    pub fn start(node: &'n Node, mode: Mode) -> Result<Self, String> {
        quick_tracking(node);
        let load = node.ctl(&["load", "--conntrack-cache-table-size", "1048576"]);
        if !load.success() {
            return Err(format!("podgatectl load\n{load}"));
        }
        // Flows of thousands of probes are swept before they fill a share.
        let companion = Companion::start(node, &["--conntrack-cache-cleanup-period", "5"]);
        let mut plugin = ptp();
        plugin["capabilities"] = json!({"ips": true});
        let chain = Chain::new("conform").with(plugin).with_podgate(
            node,
            json!({"networkPolicyEnforcingMode": mode.to_string()}),
        );
        let folder = node.dir().join("manifests");
        std::fs::create_dir_all(&folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut world = Self {
            node,
            mode,
            _companion: companion,
            chain,
            pods: Vec::new(),
            probers: Vec::new(),
            parties: Vec::new(),
            services: cluster::services(),
            folder,
            base: Manifests::default(),
            written: Manifests::default(),
            sctp: super::prober::has_sctp(),
        };
        for manifest in cluster::surroundings() {
            world.base.put(manifest);
        }
        for (n, namespace) in cluster::NAMESPACES.into_iter().enumerate() {
            for (p, name) in cluster::PODS.into_iter().enumerate() {
                let pod = world.add_pod(namespace, name, cluster::addresses(n, p));
                let slot = world.pods.len();
                world.probers.push(serve(&pod, cluster::addresses(n, p))?);
                world.parties.push(Party {
                    name: pod.full_name(),
                    addresses: cluster::addresses(n, p),
                    at: slot,
                    exchanged: false,
                });
                world.base.put(cluster::pod(
                    namespace,
                    name,
                    pod.uid(),
                    &cluster::labels(name),
                    name,
                    cluster::addresses(n, p),
                ));
                world.pods.push(pod);
            }
        }
        let at = world.probers.len();
        let outside: Vec<IpAddr> = (0..cluster::OUTSIDE).flat_map(node::outside).collect();
        world.probers.push(Prober::start(
            &node.outside(),
            "o",
            &cluster::PORTS,
            &outside,
        )?);
        for number in 0..cluster::OUTSIDE {
            world.parties.push(Party {
                name: format!("o/{number}"),
                addresses: node::outside(number),
                at,
                exchanged: false,
            });
        }
        world.wire_services();
        Ok(world)
    }

    /// Its mode.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The manifests that every case begins with.
    #[must_use]
    pub fn base(&self) -> Manifests {
        self.base.clone()
    }

    /// `namespace/name` of every pod there is now.
    #[must_use]
    pub fn pod_names(&self) -> Vec<&str> {
        self.parties
            .iter()
            .map(|party| party.name.as_str())
            .filter(|name| !name.starts_with("o/"))
            .collect()
    }

    fn add_pod(&self, namespace: &str, name: &str, addresses: [IpAddr; 2]) -> Pod<'n> {
        let mut pod = self.node.pod_in(namespace, name);
        let ips = json!({"ips": addresses}).to_string();
        let result = pod.add_env(&self.chain, &[("CAP_ARGS", &ips)]);
        assert_eq!(
            pod.addresses(),
            addresses,
            "the chain gave other addresses: {result}"
        );
        pod
    }

    fn wire_services(&self) {
        for service in &self.services {
            let (backend, port) = service.backends[service.chosen];
            let party = self.parties.iter().find(|party| party.name == backend);
            let addresses = party
                .map(|party| party.addresses)
                .unwrap_or_else(|| panic!("no pod {backend}"));
            for (cluster, pod) in service.cluster.into_iter().zip(addresses) {
                self.node.service(
                    cluster::SERVICE_PROTOCOL.name(),
                    (cluster, service.port),
                    (pod, port),
                );
            }
        }
    }

    // ---- changes

    /// A pod ends, and a new one gets its address.
    ///
    /// # Errors
    /// When there is no such pod, or no server can be had in the new one.
    pub fn recycle(
        &mut self,
        manifests: &mut Manifests,
        old: &str,
        new: &Recycled,
    ) -> Result<(), String> {
        let (namespace, old_name) = old.split_once('/').unwrap_or_default();
        let slot = self
            .parties
            .iter()
            .position(|party| party.name == old)
            .filter(|slot| *slot < self.pods.len());
        let slot = slot.ok_or_else(|| format!("there is no pod {old}"))?;
        manifests.remove(&format!("Pod {old}"))?;
        let addresses = self.parties[slot].addresses;
        self.end_pod(slot);
        let pod = self.add_pod(namespace, &new.name, addresses);
        self.probers[slot] = serve(&pod, addresses)?;
        self.parties[slot].name = pod.full_name();
        self.parties[slot].exchanged = true;
        manifests.put(cluster::pod(
            namespace,
            &new.name,
            pod.uid(),
            &json!(new.labels),
            old_name,
            addresses,
        ));
        self.pods[slot] = pod;
        Ok(())
    }

    fn end_pod(&mut self, slot: usize) {
        // Its sockets hold the namespace: they go first.
        self.probers[slot] = Prober::idle();
        self.pods[slot].del(&self.chain);
        self.pods[slot].remove_netns();
    }

    /// Puts back the pods that a case exchanged.
    ///
    /// # Errors
    /// When no server can be had.
    pub fn restore(&mut self) -> Result<(), String> {
        for slot in 0..self.pods.len() {
            let (namespace, name) = (cluster::NAMESPACES[slot / 3], cluster::PODS[slot % 3]);
            let full = format!("{namespace}/{name}");
            if !self.parties[slot].exchanged {
                continue;
            }
            let addresses = self.parties[slot].addresses;
            self.end_pod(slot);
            let pod = self.add_pod(namespace, name, addresses);
            self.probers[slot] = serve(&pod, addresses)?;
            self.parties[slot].name = full;
            self.parties[slot].exchanged = false;
            self.base.put(cluster::pod(
                namespace,
                name,
                pod.uid(),
                &cluster::labels(name),
                name,
                addresses,
            ));
            self.pods[slot] = pod;
        }
        Ok(())
    }

    /// Makes manifests the truth of the node: files, `podgatectl resolve`, `podgatectl wait`.
    ///
    /// # Errors
    /// When one of the two commands fails, with all that it said.
    pub fn apply(&mut self, manifests: Manifests) -> Result<(), String> {
        manifests.write(&self.folder, &self.written)?;
        self.written = manifests;
        let state = self.node.state_dir();
        let resolve = self
            .node
            .cmd(tools::podgate("podgatectl"))
            .args(["resolve", "-f"])
            .arg(&self.folder)
            .arg("--output-dir")
            .arg(state.join("policies/resolve"))
            .arg("--workloads-dir")
            .arg(state.join("workloads"))
            .args(["--node", cluster::NODE])
            .run();
        if !resolve.success() {
            return Err(format!("podgatectl resolve\n{resolve}"));
        }
        let wait = self.node.ctl(&["wait", "--strict", "--timeout", APPLIED]);
        if !wait.success() {
            return Err(format!("podgatectl wait\n{wait}"));
        }
        Ok(())
    }

    // ---- probes

    /// Every probe of a step, with the truth about it.
    #[must_use]
    pub fn probes(&self, expect: &Expect) -> Vec<Probe> {
        let mut probes = Vec::new();
        let mut protocols = vec![Protocol::Tcp, Protocol::Udp];
        protocols.extend(self.sctp.then_some(Protocol::Sctp));
        for from in &self.parties {
            for to in self
                .parties
                .iter()
                .filter(|to| from.at < self.pods.len() || to.at < self.pods.len())
            {
                for family in 0..2 {
                    for port in cluster::PORTS {
                        for &protocol in &protocols {
                            let address = to.addresses[family];
                            let connection = Connection {
                                from: &from.name,
                                to: &to.name,
                                address,
                                protocol,
                                port,
                            };
                            let open = expect.open(self.mode, &connection);
                            probes.push(self.probe(
                                from,
                                SocketAddr::new(address, port),
                                protocol,
                                (to, port),
                                open,
                                &to.name,
                            ));
                        }
                    }
                }
            }
            if from.at < self.pods.len() {
                probes.extend(
                    self.services
                        .iter()
                        .flat_map(|service| self.service_probes(from, service, expect)),
                );
            }
        }
        probes
    }

    /// To a Service: the source must let out to one of the backends at least, and the one chosen must let in.
    fn service_probes(&self, from: &Party, service: &Service, expect: &Expect) -> Vec<Probe> {
        let by_name: BTreeMap<&str, &Party> = self
            .parties
            .iter()
            .map(|party| (party.name.as_str(), party))
            .collect();
        let Some(chosen) = by_name.get(service.backends[service.chosen].0) else {
            // Its pod has made room for another one, and a proxy would send nobody there.
            return Vec::new();
        };
        let port = service.backends[service.chosen].1;
        let protocol = cluster::SERVICE_PROTOCOL;
        // A pod that reaches itself by its Service: let out only where policy lets it out to itself or a fellow.
        if from.name == chosen.name {
            return Vec::new();
        }
        [0, 1]
            .into_iter()
            .map(|family| {
                let lets_out = service.backends.iter().any(|(to, port)| {
                    let address = by_name
                        .get(to)
                        .map_or(service.cluster[family], |to| to.addresses[family]);
                    let connection = Connection {
                        from: &from.name,
                        to,
                        address,
                        protocol,
                        port: *port,
                    };
                    *to != from.name && expect.lets_out(self.mode, &connection)
                });
                let own = format!(
                    "svc/{}",
                    service.name.rsplit('/').next().unwrap_or_default()
                );
                let itself = Connection {
                    from: &from.name,
                    to: &own,
                    address: service.cluster[family],
                    protocol,
                    port: service.port,
                };
                let lets_out = lets_out || expect.lets_out_by_line(&itself);
                let address = chosen.addresses[family];
                let connection = Connection {
                    from: &from.name,
                    to: &chosen.name,
                    address,
                    protocol,
                    port,
                };
                let open = lets_out && expect.lets_in(self.mode, &connection);
                let to = SocketAddr::new(service.cluster[family], service.port);
                self.probe(
                    from,
                    to,
                    protocol,
                    (chosen, port),
                    open,
                    &format!("service {}", service.name),
                )
            })
            .collect()
    }

    fn probe(
        &self,
        from: &Party,
        to: SocketAddr,
        protocol: Protocol,
        server: (&Party, u16),
        open: bool,
        what: &str,
    ) -> Probe {
        let (party, port) = server;
        let outside = from.at == self.pods.len();
        let answers = if party.at == self.pods.len() {
            "o"
        } else {
            &party.name
        };
        Probe {
            from: from.at,
            target: Target {
                from: outside.then(|| from.addresses[usize::from(to.is_ipv6())]),
                to,
                protocol,
            },
            answer: format!("{answers} {port}"),
            about: format!("{} -> {what} ({} {to})", from.name, protocol.name()),
            open,
        }
    }

    /// Runs probes, so many at once; returns the outcome of each.
    ///
    /// # Errors
    /// When a prober died.
    pub fn run(
        &self,
        probes: &[Probe],
        patience: Duration,
        at_once: usize,
    ) -> Result<Vec<Outcome>, String> {
        let at_once = Arc::new(Semaphore::new(at_once));
        let mut by_place: Vec<Vec<usize>> = vec![Vec::new(); self.probers.len()];
        for (index, probe) in probes.iter().enumerate() {
            by_place[probe.from].push(index);
        }
        let asked: Vec<_> = self
            .probers
            .iter()
            .zip(&by_place)
            .map(|(prober, indexes)| {
                prober.ask(
                    indexes.iter().map(|index| probes[*index].target).collect(),
                    patience,
                    &at_once,
                )
            })
            .collect();
        let mut outcomes = vec![Outcome::Silence; probes.len()];
        for (replies, indexes) in asked.into_iter().zip(&by_place) {
            for (index, outcome) in indexes.iter().zip(replies.wait()?) {
                outcomes[*index] = outcome;
            }
        }
        Ok(outcomes)
    }

    /// What the node can say about a wrong probe, for a person.
    #[must_use]
    pub fn explain(&self) -> String {
        let policies: Value = self.node.ctl_json(&["policies"]);
        policies.to_string()
    }
}

impl Probe {
    /// Whether an outcome is what policy says.
    #[must_use]
    pub fn is_right(&self, outcome: &Outcome) -> bool {
        if self.open {
            *outcome == Outcome::Answer(self.answer.clone())
        } else {
            *outcome == Outcome::Silence
        }
    }
}

fn serve(pod: &Pod<'_>, addresses: [IpAddr; 2]) -> Result<Prober, String> {
    Prober::start(&pod.place(), &pod.full_name(), &cluster::PORTS, &addresses)
}

/// Thousands of probes a second are gone from the node's own connection tracking as soon as they are over.
fn quick_tracking(node: &Node) {
    node.sh(
        "cd /proc/sys/net/netfilter
        for each in udp_timeout udp_timeout_stream tcp_timeout_syn_sent tcp_timeout_syn_recv tcp_timeout_time_wait tcp_timeout_close tcp_timeout_close_wait tcp_timeout_last_ack tcp_timeout_fin_wait; do
          echo 5 > nf_conntrack_$each
        done",
    );
}
