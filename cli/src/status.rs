//! `podgatectl status`: the node at a glance.

use std::process::ExitCode;

use enforcer::attach::Programs;
use enforcer::endpoint::Endpoints;
use enforcer::observe;
use policy::documents::Condition;
use published::status::{Companion, Documents};
use serde::Serialize;
use verdict::PolicyState;

use crate::context::Context;
use crate::error::Error;
use crate::output;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    loaded: bool,
    pins: String,
    layout_version: u32,
    companion: Option<Companion>,
    companion_alive: bool,
    documents: usize,
    /// Documents and files whose condition is not Applied.
    conditions: Vec<String>,
    endpoints: usize,
    pending: usize,
    /// Endpoints whose attachment is not in force, with what is wrong.
    faults: Vec<String>,
    /// Endpoints whose sources are not checked.
    unguarded: Vec<String>,
    /// Host ends of pods' veth pairs that no endpoint entry enforces.
    without_enforcement: Vec<String>,
    problems: Vec<String>,
}

pub(crate) fn run(context: &Context) -> Result<ExitCode, Error> {
    let store = context.store()?;
    let records = store.records()?;
    let documents = Documents::read(&store)?.unwrap_or_default();
    let conditions = documents
        .documents
        .iter()
        .filter(|d| d.condition != Condition::Applied)
        .map(|d| {
            format!("{} {} ({}) {}", d.condition, d.identity, d.file, d.message)
                .trim_end()
                .to_owned()
        })
        .chain(
            documents
                .files
                .iter()
                .map(|f| format!("{} {}: {}", f.condition, f.path, f.message)),
        )
        .collect();
    let mut status = Status {
        loaded: false,
        pins: context.pins().root().display().to_string(),
        layout_version: verdict::layout::LAYOUT_VERSION,
        companion: Companion::read(&store)?,
        companion_alive: store.companion_alive(),
        documents: documents.documents.len(),
        conditions,
        endpoints: records.good.len(),
        pending: 0,
        faults: Vec::new(),
        unguarded: Vec::new(),
        without_enforcement: Vec::new(),
        problems: records.problems.iter().map(ToString::to_string).collect(),
    };
    for r in records.good.iter().filter(|r| !r.source_guard) {
        status
            .unguarded
            .push(format!("{}/{} {}", r.pod_namespace, r.pod_name, r.ifname));
    }
    match Endpoints::open(&context.bpf_dir) {
        Ok(endpoints) => kernel(&endpoints, &records.good, &mut status)?,
        Err(e) if e.is_not_loaded() => {}
        Err(e) => return Err(e.into()),
    }
    output::print(context.format, &status, || text(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn kernel(
    endpoints: &Endpoints,
    records: &[state::Record],
    status: &mut Status,
) -> Result<(), Error> {
    status.loaded = true;
    let programs = Programs::open(endpoints.pins())?;
    for record in records {
        let name = format!(
            "{}/{} {} ({})",
            record.pod_namespace, record.pod_name, record.ifname, record.veth
        );
        let Some(entry) = endpoints
            .entry(record.ifindex)?
            .filter(|entry| entry.endpoint_id == record.endpoint_id)
        else {
            status.faults.push(format!(
                "{name}: no entry in the kernel, everything is dropped"
            ));
            continue;
        };
        status.pending += usize::from(
            endpoints
                .policy_states
                .get(entry.endpoint_index)
                .has(PolicyState::PENDING),
        );
        match programs.verify(record.ifindex, record.attach_mode) {
            Ok(None) => {}
            Ok(Some(fault)) => status.faults.push(format!("{name}: {fault}")),
            Err(enforcer::attach::Error::Net(e)) if e.is_gone() => {
                status.faults.push(format!(
                    "{name}: the interface is gone (the companion's scan removes the record)"
                ));
            }
            Err(e) => return Err(e.into()),
        }
    }
    status.without_enforcement = observe::without_enforcement(endpoints)?
        .into_iter()
        .map(|l| l.name)
        .collect();
    Ok(())
}

fn text(s: &Status) -> String {
    let mut lines = Vec::new();
    lines.push(if s.loaded {
        format!(
            "kernel objects   loaded under {} (layout {})",
            s.pins, s.layout_version
        )
    } else {
        format!(
            "kernel objects   not loaded: `podgatectl load` or the first ADD does it ({})",
            s.pins
        )
    });
    lines.push(match (&s.companion, s.companion_alive) {
        (Some(c), true) => format!(
            "companion        running, pid {}, generation {}{}{}",
            c.pid,
            c.generation,
            if c.suspended { ", ENFORCEMENT SUSPENDED" } else { "" },
            c.error.as_ref().map_or_else(String::new, |e| format!(", LAST CHANGE NOT APPLIED: {e}"))
        ),
        _ => "companion        away: policies in force stay, new pods follow onPolicyUnknown (start podgated)".into(),
    });
    lines.push(format!(
        "documents        {} ({} with a condition)",
        s.documents,
        s.conditions.len()
    ));
    lines.push(format!(
        "endpoints        {} ({} pending)",
        s.endpoints, s.pending
    ));
    let companion_problems = s.companion.iter().flat_map(|c| c.problems.iter());
    for (title, items) in [
        ("conditions", &s.conditions),
        ("NOT ENFORCED AS RECORDED", &s.faults),
        ("POD INTERFACES WITHOUT ENFORCEMENT", &s.without_enforcement),
        ("source guard off", &s.unguarded),
        (
            "problems",
            &s.problems
                .iter()
                .chain(companion_problems)
                .cloned()
                .collect(),
        ),
    ] {
        if !items.is_empty() {
            lines.push(format!("{title}:"));
            lines.extend(items.iter().map(|i| format!("  {i}")));
        }
    }
    lines.join("\n") + "\n"
}
