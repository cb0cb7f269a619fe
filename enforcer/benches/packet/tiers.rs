//! The same NetworkPolicy alone, and with cluster policies of both tiers around it: tiers are folded when tables are made, so a packet
//! pays for none of them.

use std::collections::BTreeMap;

use policy::{Endpoint, EndpointId, Facts, Policies, assemble};
use serde_json::{Value, json};
use verdict::layout::Direction;
use verdict_testkit::frame;

use super::carry::Carrier;
use super::companion::Target;
use super::kernel::{IFINDEX, Kernel};
use super::{DROP, Measured, PASS, RANGES, REPEAT, ROUNDS, Result, begin, fd_of};

const PEERS: u32 = 5_000;
/// Policies of each tier, three rules each.
const POLICIES: u16 = 100;
/// So often each of both takes its turn.
const TURNS: usize = 10;

fn endpoint(endpoint_id: u32) -> Endpoint {
    Endpoint {
        id: EndpointId(endpoint_id),
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        labels: None,
    }
}

fn document(kind: &str, name: &str, mut spec: Value) -> Value {
    spec["podSelectorEndpoints"] =
        json!([{"name": "web", "namespace": "shop", "podIP": "10.0.0.2", "hostIP": "10.0.0.1"}]);
    spec["policyRef"] = json!({"name": name, "namespace": "shop"});
    json!({
        "apiVersion": "networking.k8s.aws/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    })
}

/// Peers 10.128.0.0 and on, each with 24 ranges of TCP ports from 1024.
fn network_policy() -> Value {
    let ports: Vec<Value> = (0..RANGES)
        .map(|range| 1024 + range * 128)
        .map(|port| json!({"protocol": "TCP", "port": port, "endPort": port + 63}))
        .collect();
    let rules: Vec<Value> = (0..PEERS)
        .map(|i| std::net::Ipv4Addr::from(0x0a80_0000 + i * 4))
        .map(|peer| json!({"cidr": peer.to_string(), "ports": ports}))
        .collect();
    document(
        "PolicyEndpoint",
        "peers",
        json!({"podIsolation": ["Ingress"], "ingress": rules}),
    )
}

/// Policies of a tier that say something of every peer, at ports that the NetworkPolicy names too, or at ports of their own: what a
/// packet looks its port up in grows by ports, whoever names them.
fn cluster_policies(tier: &str, own_ports: bool) -> Vec<Value> {
    let policy = |number: u16| {
        let first = if own_ports {
            10_000 + number * 128
        } else {
            1024 + number % RANGES * 128
        };
        let ports = json!([{"protocol": "TCP", "port": first, "endPort": first + 63}]);
        let rules = json!([
            {"cidr": "10.0.0.0/8", "action": "Accept", "ports": ports},
            {"cidr": format!("10.{}.0.0/16", 100 + number), "action": "Pass", "ports": ports},
            {"cidr": "192.168.0.0/16", "action": "Deny", "ports": ports},
        ]);
        let name = format!("{}-{number}", tier.to_lowercase());
        document(
            "ClusterPolicyEndpoint",
            &name,
            json!({"tier": tier, "priority": number, "ingress": rules}),
        )
    };
    (0..POLICIES).map(policy).collect()
}

fn both_tiers(own_ports: bool) -> Policies {
    let mut all = vec![network_policy()];
    for tier in ["Admin", "Baseline"] {
        all.extend(cluster_policies(tier, own_ports));
    }
    policies(&all)
}

fn policies(documents: &[Value]) -> Policies {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": documents});
    let reading = policy::documents::read(list.to_string().as_bytes());
    let good = reading
        .good()
        .cloned()
        .map(std::sync::Arc::new)
        .collect::<Vec<_>>();
    assemble(good, &Policies::new()).policies
}

pub(crate) fn with_and_without(kernel: &mut Kernel) -> Result<()> {
    begin(kernel)?;
    let endpoint_id = kernel
        .endpoints
        .entry(IFINDEX)?
        .ok_or("no endpoint")?
        .endpoint_id;
    let mut carrier = Carrier::open(&kernel.store, &kernel.bpf)?;
    let worlds = [
        ("no tiers", policies(&[network_policy()])),
        ("same ports", both_tiers(false)),
        ("200 more ports", both_tiers(true)),
    ];
    let frames = [
        (
            "tracked",
            "v4 10.128.0.4 > pod tcp 40000 > 1030 ack data=100",
            PASS,
        ),
        (
            "new, denied",
            "v4 10.128.0.4 > pod tcp 40000 > 1100 syn",
            DROP,
        ),
        (
            "new, from nobody",
            "v4 192.0.2.7 > pod tcp 40000 > 1030 syn",
            DROP,
        ),
    ];
    let ingress = fd_of(kernel, Direction::Ingress)?.try_clone_to_owned()?;
    let mut costs: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for _ in 0..TURNS {
        for (world, (_, policies)) in worlds.iter().enumerate() {
            let whom = (EndpointId(endpoint_id), kernel.endpoint_index());
            let target = Target {
                ifindex: IFINDEX,
                extra: 0,
            };
            let endpoints = [endpoint(endpoint_id)];
            carrier.put_in_force(
                &endpoints,
                policies.clone(),
                &Facts::default(),
                whom,
                target,
            )?;
            for (which, (name, words, want)) in frames.iter().enumerate() {
                let wire = frame(words, Direction::Ingress)?;
                let mut measured =
                    Measured::new(*name, std::os::fd::AsFd::as_fd(&ingress), &wire, 7, *want)?;
                // The first packet opens the flow, or is judged again.
                measured.run(1)?;
                measured.ns.clear();
                for _ in 0..ROUNDS / TURNS {
                    measured.run(REPEAT)?;
                }
                costs.entry((world, which)).or_default().extend(measured.ns);
            }
        }
    }
    println!(
        "\n{} cluster policies of both tiers around a policy of {PEERS} peers with {RANGES} port ranges each (ns):",
        2 * POLICIES
    );
    print!("{:<20}", "");
    worlds.iter().for_each(|(name, _)| print!("{name:>22}"));
    println!();
    for (which, (name, ..)) in frames.iter().enumerate() {
        let cost = |world: usize| {
            let mut ns = costs.get(&(world, which)).cloned().unwrap_or_default();
            ns.sort_by(f64::total_cmp);
            ns[ns.len() / 10]
        };
        print!("{name:<20}{:>22.1}", cost(0));
        for world in 1..worlds.len() {
            print!("{:>12.1} = {:4.2} x", cost(world), cost(world) / cost(0));
        }
        println!();
    }
    Ok(())
}
