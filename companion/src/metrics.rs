//! Prometheus' exposition: read from the kernel and the engine's counts when it is asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use enforcer::endpoint::Endpoints;
use enforcer::flows::Flows;
use enforcer::observe;
use enforcer::pins::Pins;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use verdict::layout::Counter;

use crate::shared::{Pod, Shared};

type Count = prometheus_client::metrics::counter::Counter<u64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Packets {
    direction: &'static str,
    reason: &'static str,
    verdict: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PodDrops {
    namespace: String,
    pod: String,
    direction: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PodLabels {
    namespace: String,
    pod: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByDirection {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByMode {
    mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCondition {
    condition: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByTable {
    table: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByWhy {
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Version {
    version: &'static str,
}

/// What is rendered.
#[derive(Debug)]
pub(crate) struct Options {
    /// Folder of the kernel objects.
    pub(crate) bpf_dir: PathBuf,
    /// Series that name pods too; otherwise only sums over all pods.
    pub(crate) per_pod: bool,
}

/// All metrics as text.
pub(crate) fn render(shared: &Shared, options: &Options) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("podgate");
    engine(&mut registry, shared);
    let mut amazon = Registry::default();
    // Without maps there is nothing to count; what cannot be read is left out, not made up.
    if let Err(error) = kernel(&mut registry, &mut amazon, shared, options) {
        tracing::debug!("read counters for the metrics: {error}");
    }
    let mut out = String::with_capacity(16 << 10);
    text::encode_registry(&mut out, &registry)?;
    text::encode_registry(&mut out, &amazon)?;
    text::encode_eof(&mut out)?;
    Ok(out)
}

fn engine(registry: &mut Registry, shared: &Shared) {
    let known = shared.known();
    let info = Family::<Version, Gauge>::default();
    info.get_or_create(&Version {
        version: env!("CARGO_PKG_VERSION"),
    })
    .set(1);
    registry.register("build_info", "Version of podgated", info);

    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge(
        "policy_generation",
        "Versions of policy that came into force",
        known.generation,
    );
    gauge(
        "attachment_faults",
        "Endpoints that are not enforced as they should be",
        known.faults,
    );
    gauge(
        "enforcement_suspended",
        "1 while enforcement is suspended on this node",
        u64::from(known.suspended),
    );
    gauge(
        "broken_files",
        "Files below policies/ in which something cannot be read",
        known.broken_files,
    );
    gauge(
        "ready",
        "1 when what the store says is in force",
        u64::from(known.unready.is_none()),
    );

    let documents = Family::<ByCondition, Gauge>::default();
    for (condition, count) in &known.conditions {
        documents
            .get_or_create(&ByCondition { condition })
            .set(*count as i64);
    }
    registry.register("documents", "Policy documents by condition", documents);

    let endpoints = Family::<ByMode, Gauge>::default();
    for mode in ["strict", "standard"] {
        let count = known
            .pods
            .values()
            .filter(|pod| pod.strict == (mode == "strict"))
            .count();
        endpoints.get_or_create(&ByMode { mode }).set(count as i64);
    }
    registry.register(
        "endpoints",
        "Pod interfaces under enforcement, by mode",
        endpoints,
    );

    let tables = Family::<ByTable, Gauge>::default();
    for (table, entries) in known.tables {
        tables.get_or_create(&ByTable { table }).set(entries as i64);
    }
    registry.register("table_entries", "Entries of the policy tables", tables);

    let counts = &shared.counts;
    let load = |counter: &AtomicU64| ConstCounter::new(counter.load(Ordering::Relaxed));
    registry.register(
        "policy_applied",
        "Passes that changed policy",
        load(&counts.applied),
    );
    registry.register(
        "policy_apply_errors",
        "Passes that failed; the policy before stayed in force",
        load(&counts.apply_errors),
    );
    let seconds = counts.apply_us.load(Ordering::Relaxed) as f64 / 1e6;
    registry.register(
        "policy_apply_seconds",
        "Time from compiling to policy states, summed",
        ConstCounter::new(seconds),
    );
    registry.register(
        "repairs",
        "Attachments, entries and pins that were put back",
        load(&counts.repairs),
    );
    registry.register(
        "orphans_removed",
        "Rows, records and links that were left over",
        load(&counts.orphans),
    );
    registry.register("events", "Flow events read", load(&counts.events));
    registry.register(
        "events_lost",
        "Flow events that were not sent or not read",
        load(&counts.events_lost),
    );
    let swept = Family::<ByWhy, Count>::default();
    for (why, count) in [
        ("expired", &counts.swept_expired),
        ("dead", &counts.swept_dead),
        ("shrunk", &counts.swept_shrunk),
    ] {
        swept
            .get_or_create(&ByWhy { why })
            .inc_by(count.load(Ordering::Relaxed));
    }
    registry.register("flows_swept", "Flows removed from the table, by why", swept);
}

fn kernel(
    registry: &mut Registry,
    amazon: &mut Registry,
    shared: &Shared,
    options: &Options,
) -> Result<(), Box<dyn std::error::Error>> {
    let known = shared.known();
    let pins = &Pins::new(&options.bpf_dir);
    let counted = observe::counters(pins)?;
    let pods: BTreeMap<u32, &Pod> = known
        .pods
        .values()
        .filter(|_| options.per_pod)
        .map(|pod| (pod.endpoint_index, pod))
        .collect();
    let (packets, bytes) = (
        Family::<Packets, Count>::default(),
        Family::<Packets, Count>::default(),
    );
    let (mut tracked_packets, mut tracked_bytes) = (0, 0);
    let drops = Family::<PodDrops, Count>::default();
    let (pod_packets, pod_flows) = (
        Family::<PodLabels, Count>::default(),
        Family::<PodLabels, Gauge>::default(),
    );
    let dropped = Family::<ByDirection, Count>::default();
    let dropped_bytes = Family::<ByDirection, Count>::default();
    for direction in ["ingress", "egress"] {
        dropped.get_or_create(&ByDirection { direction }).inc_by(0);
        dropped_bytes
            .get_or_create(&ByDirection { direction })
            .inc_by(0);
    }
    for (endpoint_index, counted) in &counted {
        let pod = pods.get(endpoint_index);
        if let Some(pod) = pod {
            let labels = PodLabels {
                namespace: pod.namespace.clone(),
                pod: pod.name.clone(),
            };
            pod_packets
                .get_or_create(&labels)
                .inc_by(counted.passed.packets);
            pod_flows
                .get_or_create(&labels)
                .inc_by(counted.flows as i64);
        }
        for ((direction, reason), counter) in &counted.reasons {
            let (direction, verdict) = (
                direction.name(),
                if reason.is_drop() { "drop" } else { "pass" },
            );
            let labels = Packets {
                direction,
                reason: reason.name(),
                verdict,
            };
            packets.get_or_create(&labels).inc_by(counter.packets);
            bytes.get_or_create(&labels).inc_by(counter.bytes);
            if !reason.is_drop() {
                continue;
            }
            dropped
                .get_or_create(&ByDirection { direction })
                .inc_by(counter.packets);
            dropped_bytes
                .get_or_create(&ByDirection { direction })
                .inc_by(counter.bytes);
            if let Some(pod) = pod {
                let labels = PodDrops {
                    namespace: pod.namespace.clone(),
                    pod: pod.name.clone(),
                    direction,
                    reason: reason.name(),
                };
                drops.get_or_create(&labels).inc_by(counter.packets);
            }
        }
        let more = tracked(counted);
        tracked_packets += more.packets;
        tracked_bytes += more.bytes;
    }
    registry.register(
        "packets",
        "Packets by direction, reason and verdict, but those of tracked flows",
        packets,
    );
    registry.register(
        "packet_bytes",
        "Bytes by direction, reason and verdict, but those of tracked flows",
        bytes,
    );
    registry.register(
        "tracked_packets",
        "Packets of tracked flows that passed",
        ConstCounter::new(tracked_packets),
    );
    registry.register(
        "tracked_bytes",
        "Bytes of tracked flows that passed",
        ConstCounter::new(tracked_bytes),
    );
    if options.per_pod {
        registry.register("pod_drops", "Packets dropped, by pod", drops);
        registry.register("pod_packets", "Packets passed, by pod", pod_packets);
        registry.register("pod_flows", "Assured flows, by pod", pod_flows);
    }
    amazon.register("network_policy_drop_count", "Packets dropped", dropped);
    amazon.register("network_policy_drop_bytes", "Bytes dropped", dropped_bytes);

    let flows = Flows::open(pins)?;
    let (held, config) = (flows.held(0), flows.config()?);
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge("flows", "Assured flows in the table", held);
    gauge(
        "flows_limit",
        "Flows that the table may hold",
        u64::from(config.flow_limit),
    );
    gauge(
        "flows_minimum",
        "Flows that each endpoint may always hold",
        u64::from(config.flow_minimum),
    );
    let endpoints = Endpoints::open(&options.bpf_dir)?;
    gauge(
        "endpoint_entries",
        "Endpoint entries in the kernel",
        endpoints.entries()?.len() as u64,
    );
    gauge(
        "interfaces_without_enforcement",
        "Host ends of pods' veth pairs that no endpoint entry enforces",
        observe::without_enforcement(&endpoints)?.len() as u64,
    );
    Ok(())
}

/// What passed and has no other reason was tracked.
fn tracked(counted: &observe::Counted) -> Counter {
    let mut left = counted.passed;
    for ((_, reason), counter) in &counted.reasons {
        if !reason.is_drop() {
            left.packets = left.packets.saturating_sub(counter.packets);
            left.bytes = left.bytes.saturating_sub(counter.bytes);
        }
    }
    left
}
