//! What the verifier of the running kernel makes of each program: a row of docs/kernels.md each. Run by scripts/vm-table.sh.
//!
//! aya throws the verifier's log away where a program loads. So the programs are loaded as always, and then once more by hand, with
//! the maps of the first time and a log of statistics alone (`BPF_LOG_STATS`, 5.2 and newer).

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, SchedClassifier};
use enforcer::load::{self, LoadOptions};
use enforcer::pins::Pins;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("PODGATE_BPF_OBJECT"));

const BPF_PROG_LOAD: libc::c_int = 5;
const SCHED_CLS: u32 = 3;
const LOG_STATS: u32 = 4;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// `union bpf_attr` for BPF_PROG_LOAD, as far as it is used.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// Loads a program and returns what the verifier says.
fn verify(program: &aya_obj::Program, function: &aya_obj::Function) -> Result<String> {
    let mut log = vec![0u8; 64 << 10];
    let mut attr = Load {
        prog_type: SCHED_CLS,
        insn_cnt: u32::try_from(function.instructions.len())?,
        insns: function.instructions.as_ptr() as u64,
        license: program.license.as_ptr() as u64,
        log_level: LOG_STATS,
        log_size: u32::try_from(log.len())?,
        log_buf: log.as_mut_ptr() as u64,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the attribute is as long as it says, and what it points to outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw mut attr,
            size_of_val(&attr),
        )
    };
    let said = String::from_utf8_lossy(&log)
        .trim_end_matches('\0')
        .to_owned();
    if fd < 0 {
        return Err(format!("{}: {said}", std::io::Error::last_os_error()).into());
    }
    // SAFETY: the kernel has just given this descriptor to us alone.
    drop(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) });
    Ok(said)
}

/// The maps that a loaded program uses, by name.
fn maps_of(info: &ProgramInfo) -> Result<HashMap<String, aya::maps::MapFd>> {
    let ids = info
        .map_ids()?
        .ok_or("the kernel does not tell a program's maps")?;
    ids.into_iter()
        .map(|id| {
            let info = MapInfo::from_id(id)?;
            let name = info.name_as_str().ok_or("a map without a name")?.to_owned();
            Ok((name, info.fd()?))
        })
        .collect()
}

/// The number behind a word of the log.
fn number(log: &str, word: &str) -> String {
    let mut words = log.split_whitespace();
    words
        .by_ref()
        .find(|w| *w == word)
        .and_then(|_| words.next())
        .unwrap_or("?")
        .to_owned()
}

fn rows(pins: &Pins) -> Result<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let info = |name| SchedClassifier::from_pin(pins.program(name))?.info();
    let mut fds = HashMap::new();
    for name in [
        load::PROGRAM_INGRESS,
        load::PROGRAM_EGRESS,
        load::PROGRAM_CLOCK,
    ] {
        fds.extend(maps_of(&info(name)?)?);
    }
    for name in [load::PROGRAM_INGRESS, load::PROGRAM_EGRESS] {
        let info = info(name)?;
        let mut object = aya_obj::Object::parse(OBJECT)?;
        let text: HashSet<usize> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        let maps = std::mem::take(&mut object.maps);
        let known = maps.iter().filter_map(|(map, definition)| {
            // The kernel keeps fifteen letters of a name.
            let fd = fds.get(&map[..map.len().min(15)])?;
            Some((map.as_str(), fd.as_fd().as_raw_fd(), definition))
        });
        object.relocate_maps(known, &text)?;
        object.relocate_calls(&text)?;
        let program = object.programs.get(name).ok_or("no such program")?;
        let function = &object.functions[&program.function_key()];
        let log = verify(program, function)?;
        println!(
            "| {} | `{name}` | {} | {} | {} | {} | {} | {} | {} |",
            release.trim(),
            function.instructions.len(),
            info.size_translated().unwrap_or(0) / 8,
            info.size_jitted(),
            number(&log, "processed"),
            number(&log, "total_states"),
            number(&log, "peak_states"),
            number(&log, "max_states_per_insn"),
        );
    }
    Ok(())
}

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let store = state::Store::create(dir.path())?;
    let bpf = PathBuf::from(format!(
        "/sys/fs/bpf/podgate-verifier-{}",
        std::process::id()
    ));
    let locked = store.lock(Duration::from_secs(5))?;
    let options = LoadOptions {
        flow_limit: 32_768,
        ..LoadOptions::default()
    };
    let done = load::load(&locked, &bpf, options)
        .map_err(Into::into)
        .and_then(|_| rows(&Pins::new(&bpf)));
    // A folder that is not there was not made.
    let _ = std::fs::remove_dir_all(&bpf);
    done
}
