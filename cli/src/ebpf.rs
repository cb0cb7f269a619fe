//! `podgatectl ebpf`: the kernel objects themselves.

mod dump;
pub(crate) use dump::flags;

use std::process::ExitCode;

use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, SchedClassifier};
use enforcer::attach::Programs;
use enforcer::endpoint::Endpoints;
use enforcer::load::{PROGRAM_CLOCK, PROGRAM_EGRESS, PROGRAM_INGRESS};
use enforcer::maps;
use serde::Serialize;

use crate::args::Ebpf;
use crate::context::Context;
use crate::error::Error;
use crate::output::{self, Table};

pub(crate) fn run(context: &Context, verb: &Ebpf) -> Result<ExitCode, Error> {
    match verb {
        Ebpf::Progs => progs(context)?,
        Ebpf::Maps => list_maps(context)?,
        Ebpf::DumpMaps { map } => dump::run(context, map.as_deref())?,
        Ebpf::LoadedEbpfdata => loaded(context)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Program {
    name: &'static str,
    id: u32,
    tag: String,
    instructions_verified: Option<u32>,
    bytes_translated: Option<u32>,
    maps: usize,
    pin: String,
}

/// The pinned programs.
fn programs(context: &Context) -> Result<Vec<Program>, Error> {
    let pins = context.pins();
    let mut all = Vec::new();
    for name in [PROGRAM_INGRESS, PROGRAM_EGRESS, PROGRAM_CLOCK] {
        let info = info_of(&pins.program(name))?;
        all.push(Program {
            name,
            id: info.id(),
            tag: format!("{:016x}", info.tag()),
            instructions_verified: info.verified_instruction_count(),
            bytes_translated: info.size_translated(),
            maps: info.map_ids().map_err(not_told)?.map_or(0, |m| m.len()),
            pin: pins.program(name).display().to_string(),
        });
    }
    Ok(all)
}

fn info_of(path: &std::path::Path) -> Result<ProgramInfo, Error> {
    SchedClassifier::from_pin(path)
        .and_then(|p| p.info())
        .map_err(|e| {
            Error::Asked(format!(
                "open program {}: {e} (is anything loaded? `podgatectl load` does it)",
                path.display()
            ))
        })
}

fn not_told(e: impl std::fmt::Display) -> Error {
    Error::Asked(format!("ask the kernel about its objects: {e}"))
}

fn progs(context: &Context) -> Result<(), Error> {
    let all = programs(context)?;
    output::print(context.format, &all, || {
        let mut t = Table::new(&["NAME", "ID", "TAG", "VERIFIED", "MAPS", "PIN"]);
        for p in &all {
            let verified = p
                .instructions_verified
                .map_or_else(|| "-".into(), |n| n.to_string());
            t.row([
                p.name.into(),
                p.id.to_string(),
                p.tag.clone(),
                verified,
                p.maps.to_string(),
                p.pin.clone(),
            ]);
        }
        output::or_sentence(&t, "no programs")
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MapRow {
    name: &'static str,
    id: u32,
    map_type: String,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    memory_bytes: Option<u64>,
    pin: String,
}

fn map_rows(context: &Context) -> Result<Vec<MapRow>, Error> {
    let pins = context.pins();
    let mut all = Vec::new();
    for name in maps::ALL {
        let data = maps::data(&pins, name)?;
        let info: MapInfo = data.info().map_err(not_told)?;
        all.push(MapRow {
            name,
            id: info.id(),
            map_type: info
                .map_type()
                .map_or_else(|_| "?".into(), |t| format!("{t:?}").to_lowercase()),
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            memory_bytes: memory_of(&data),
            pin: pins.map(name).display().to_string(),
        });
    }
    Ok(all)
}

/// Memory that the kernel accounts to a map.
fn memory_of(data: &aya::maps::MapData) -> Option<u64> {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let path = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    text.lines()
        .find_map(|l| l.strip_prefix("memlock:"))?
        .trim()
        .parse()
        .ok()
}

fn list_maps(context: &Context) -> Result<(), Error> {
    let all = map_rows(context)?;
    output::print(context.format, &all, || {
        let mut t = Table::new(&["NAME", "ID", "TYPE", "KEY", "VALUE", "ENTRIES", "MEMORY"]);
        for m in &all {
            t.row([
                m.name.to_ascii_lowercase(),
                m.id.to_string(),
                m.map_type.clone(),
                m.key_size.to_string(),
                m.value_size.to_string(),
                m.max_entries.to_string(),
                m.memory_bytes
                    .map_or_else(|| "-".into(), |b| format!("{} KiB", b / 1024)),
            ]);
        }
        output::or_sentence(&t, "no maps")
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Loaded {
    programs: Vec<Program>,
    maps: Vec<MapRow>,
    attachments: Vec<Attachment>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Attachment {
    ifindex: u32,
    interface: String,
    endpoint_index: u32,
    endpoint_id: u32,
    attach_mode: Option<&'static str>,
    fault: Option<String>,
}

fn loaded(context: &Context) -> Result<(), Error> {
    let endpoints = Endpoints::open(&context.bpf_dir)?;
    let attached = Programs::open(&context.pins())?;
    let mut attachments = Vec::new();
    for entry in endpoints.entries()? {
        let link = enforcer::hostnet::link_by_index(entry.ifindex)?;
        let tcx = context
            .pins()
            .link(entry.ifindex, verdict::Direction::Ingress)
            .exists();
        let (mode, name) = if tcx {
            (state::AttachMode::Tcx, "tcx")
        } else {
            (state::AttachMode::Clsact, "clsact")
        };
        let fault = match &link {
            Some(_) => attached.verify(entry.ifindex, mode)?.map(|f| f.to_string()),
            None => Some("the interface is gone".into()),
        };
        attachments.push(Attachment {
            ifindex: entry.ifindex,
            interface: link.map_or_else(|| "-".into(), |l| l.name),
            endpoint_index: entry.endpoint_index,
            endpoint_id: entry.endpoint_id,
            attach_mode: Some(name),
            fault,
        });
    }
    let all = Loaded {
        programs: programs(context)?,
        maps: map_rows(context)?,
        attachments,
    };
    output::print(context.format, &all, || {
        let mut t = Table::new(&[
            "INTERFACE",
            "IFINDEX",
            "ENDPOINT_INDEX",
            "ENDPOINT_ID",
            "ATTACHED",
        ]);
        for a in &all.attachments {
            let how = a
                .fault
                .clone()
                .unwrap_or_else(|| a.attach_mode.unwrap_or("-").to_owned());
            t.row([
                a.interface.clone(),
                a.ifindex.to_string(),
                a.endpoint_index.to_string(),
                a.endpoint_id.to_string(),
                how,
            ]);
        }
        let programs: Vec<String> = all
            .programs
            .iter()
            .map(|p| format!("{} (id {})", p.name, p.id))
            .collect();
        format!(
            "programs: {}\n{}",
            programs.join(", "),
            output::or_sentence(&t, "no endpoints")
        )
    })
}
