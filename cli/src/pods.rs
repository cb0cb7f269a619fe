//! `podgatectl pods`: the endpoints under enforcement; `-o wide` with drops by reason.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;

use enforcer::endpoint::Endpoints;
use enforcer::observe::{self, Counted};
use published::status::Endpoints as Applied;
use serde::Serialize;
use state::Record;
use verdict::PolicyState;

use crate::args::{Format, Pods};
use crate::context::Context;
use crate::ebpf::flags;
use crate::error::Error;
use crate::output::{self, Table};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    namespace: String,
    name: String,
    interface: String,
    container_id: String,
    veth: String,
    ifindex: u32,
    addresses: Vec<IpAddr>,
    mode: state::Mode,
    phase: state::Phase,
    attach_mode: state::AttachMode,
    source_guard: bool,
    /// What the policy state says; absent where the kernel has no entry.
    policy_state: Option<String>,
    revision: Option<u64>,
    policies: Vec<String>,
    flows: u64,
    passed: u64,
    dropped: u64,
    /// Packets by direction and reason.
    reasons: BTreeMap<String, u64>,
}

pub(crate) fn run(context: &Context, options: &Pods) -> Result<ExitCode, Error> {
    let store = context.store()?;
    let (namespace, name) = match options
        .pod
        .as_deref()
        .map(|p| p.split_once('/').map_or((None, p), |(n, p)| (Some(n), p)))
    {
        Some((namespace, name)) => (namespace, Some(name)),
        None => (None, None),
    };
    let namespace = namespace.or(options.namespace.as_deref());
    let wanted = |r: &Record| {
        namespace.is_none_or(|n| n == r.pod_namespace) && name.is_none_or(|n| n == r.pod_name)
    };
    let records: Vec<Record> = store.records()?.good.into_iter().filter(wanted).collect();
    let applied: BTreeMap<u32, Vec<String>> = Applied::read(&store)?
        .map(|a| {
            a.endpoints
                .into_iter()
                .map(|e| (e.endpoint_id, e.policies))
                .collect()
        })
        .unwrap_or_default();
    let endpoints = match Endpoints::open(&context.bpf_dir) {
        Ok(endpoints) => Some(endpoints),
        Err(e) if e.is_not_loaded() => None,
        Err(e) => return Err(e.into()),
    };
    let counted = match &endpoints {
        Some(e) => observe::counters(e.pins())?,
        None => BTreeMap::new(),
    };
    let mut pods = Vec::new();
    for record in records {
        let entry = match &endpoints {
            Some(e) => e
                .entry(record.ifindex)?
                .filter(|entry| entry.endpoint_id == record.endpoint_id)
                .map(|entry| (entry, e.policy_states.get(entry.endpoint_index))),
            None => None,
        };
        let policy_state = entry.map(|(_, policy_state)| policy_state);
        let mine = entry
            .and_then(|(entry, _)| counted.get(&entry.endpoint_index).cloned())
            .unwrap_or_default();
        pods.push(pod(record, policy_state, &mine, &applied));
    }
    pods.sort_by(|a, b| {
        (&a.namespace, &a.name, &a.interface).cmp(&(&b.namespace, &b.name, &b.interface))
    });
    output::print(context.format, &pods, || {
        table(&pods, context.format == Format::Wide)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn pod(
    record: Record,
    policy_state: Option<PolicyState>,
    counted: &Counted,
    applied: &BTreeMap<u32, Vec<String>>,
) -> Pod {
    Pod {
        policy_state: policy_state.map(flags),
        revision: policy_state.map(PolicyState::revision),
        policies: applied
            .get(&record.endpoint_id)
            .cloned()
            .unwrap_or_default(),
        flows: counted.flows,
        passed: counted.passed.packets,
        dropped: counted.dropped().packets,
        reasons: counted
            .reasons
            .iter()
            .map(|((direction, reason), c)| {
                (format!("{}/{}", direction.name(), reason.name()), c.packets)
            })
            .collect(),
        namespace: record.pod_namespace,
        name: record.pod_name,
        interface: record.ifname,
        container_id: record.container_id,
        veth: record.veth,
        ifindex: record.ifindex,
        addresses: record.addresses,
        mode: record.mode,
        phase: record.phase,
        attach_mode: record.attach_mode,
        source_guard: record.source_guard,
    }
}

fn table(pods: &[Pod], wide: bool) -> String {
    let mut header = vec![
        "NAMESPACE",
        "POD",
        "INTERFACE",
        "MODE",
        "STATE",
        "POLICIES",
        "PASSED",
        "DROPPED",
    ];
    if wide {
        header.extend(["ADDRESSES", "VETH", "FLOWS", "REASONS"]);
    }
    let mut t = Table::new(&header);
    for p in pods {
        let state = p
            .policy_state
            .clone()
            .unwrap_or_else(|| "no entry: all is dropped".into());
        let mut cells = vec![
            p.namespace.clone(),
            p.name.clone(),
            p.interface.clone(),
            format!("{:?}", p.mode).to_lowercase(),
            state,
            p.policies.len().to_string(),
            p.passed.to_string(),
            p.dropped.to_string(),
        ];
        if wide {
            let addresses: Vec<String> = p.addresses.iter().map(ToString::to_string).collect();
            let reasons: Vec<String> = p.reasons.iter().map(|(r, n)| format!("{r}={n}")).collect();
            cells.extend([
                addresses.join(","),
                p.veth.clone(),
                p.flows.to_string(),
                reasons.join(" "),
            ]);
        }
        t.row(cells);
    }
    output::or_sentence(&t, "no pods under enforcement")
}
