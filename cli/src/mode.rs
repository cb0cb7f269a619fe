//! `podgatectl mode`: what an endpoint does in a direction for which no policy isolates it.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use state::{EnforcingMode, Mode, Store};

use crate::args::ModeOptions;
use crate::context::Context;
use crate::error::Error;
use crate::output;

/// How long to wait for the node's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Of new pods, unless the plugin's environment or its entry in the chain says otherwise.
    node: &'static str,
    strict: usize,
    standard: usize,
    /// Endpoints whose mode this call changed.
    changed: usize,
    companion_alive: bool,
}

/// Shows the modes; sets the node's, and with `--apply` that of each running endpoint.
pub(crate) fn run(context: &Context, options: &ModeOptions) -> Result<ExitCode, Error> {
    let wanted = options.mode.map(EnforcingMode::from);
    let store = if wanted.is_some() {
        Store::create(&context.state_dir)?
    } else {
        context.store()?
    };
    let mut changed = 0;
    if let Some(mode) = wanted {
        set_node(&store, mode)?;
        if options.apply {
            changed = set_endpoints(&store, mode)?;
        }
    }
    let records = store.records()?.good;
    let count = |mode| records.iter().filter(|record| record.mode == mode).count();
    let report = Report {
        node: store
            .node_config()?
            .enforcing_mode
            .unwrap_or_default()
            .as_str(),
        strict: count(Mode::Strict),
        standard: count(Mode::Standard),
        changed,
        companion_alive: store.companion_alive(),
    };
    output::print(context.format, &report, || text(&report, wanted.is_some()))?;
    Ok(ExitCode::SUCCESS)
}

fn set_node(store: &Store, mode: EnforcingMode) -> Result<(), Error> {
    let locked = store.lock(LOCK_TIMEOUT)?;
    locked.update_node_config(|node| node.enforcing_mode = Some(mode))?;
    Ok(())
}

/// Writes the mode into each record; the companion takes it from there into the kernel.
fn set_endpoints(store: &Store, mode: EnforcingMode) -> Result<usize, Error> {
    let mode = match mode {
        EnforcingMode::Strict => Mode::Strict,
        EnforcingMode::Standard => Mode::Standard,
        EnforcingMode::None => {
            return Err(Error::Asked(
                "apply mode none: running endpoints cannot leave enforcement one by one; \
                 `podgatectl uninstall --pods open` opens them all"
                    .into(),
            ));
        }
    };
    let mut changed = 0;
    for listed in store.records()?.good {
        // One at a time: an ADD that waits for the lock comes in between, and may have changed the record.
        let locked = store.lock(LOCK_TIMEOUT)?;
        let Some(mut record) = store.record(&listed.container_id, &listed.ifname)? else {
            continue;
        };
        if record.mode != mode {
            record.mode = mode;
            locked.put_record(&record)?;
            changed += 1;
        }
    }
    Ok(changed)
}

fn text(report: &Report, set: bool) -> String {
    let mut text = format!(
        "new pods     {}\nrunning      {} strict, {} standard",
        report.node, report.strict, report.standard
    );
    if report.changed > 0 {
        let when = if report.companion_alive {
            "in force within a second"
        } else {
            "in force once podgated runs (it is away)"
        };
        text += &format!("\nchanged      {}, {when}", report.changed);
    } else if set && report.strict + report.standard > 0 {
        text += "\nrunning endpoints keep the mode of their ADD; --apply changes them";
    }
    text + "\n"
}
