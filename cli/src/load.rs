//! `podgatectl load`: makes the kernel objects, outside of any memory-limited container.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use enforcer::load::{LoadOptions, Loaded, TOOLCHAIN, load};
use serde::Serialize;
use state::Store;

use crate::args::Load;
use crate::context::Context;
use crate::error::Error;
use crate::output;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    loaded: &'static str,
    pins: String,
    layout_version: u32,
    conntrack_cache_table_size: u32,
    built_by: &'static str,
    milliseconds: u128,
}

pub(crate) fn run(context: &Context, options: &Load) -> Result<ExitCode, Error> {
    let begin = Instant::now();
    let store = Store::create(&context.state_dir)?;
    let locked = store.lock(Duration::from_secs(10))?;
    let node = match options.conntrack_cache_table_size {
        Some(size) => locked.update_node_config(|n| n.conntrack_cache_table_size = Some(size))?,
        None => store.node_config()?,
    };
    let load_options = LoadOptions::from(&node);
    let loaded = load(&locked, &context.bpf_dir, load_options)?;
    drop(locked);
    let report = Report {
        loaded: match loaded {
            Loaded::Fresh => "fresh",
            Loaded::Present => "present",
        },
        pins: context.pins().root().display().to_string(),
        layout_version: verdict::layout::LAYOUT_VERSION,
        conntrack_cache_table_size: load_options.flow_limit,
        built_by: TOOLCHAIN,
        milliseconds: begin.elapsed().as_millis(),
    };
    output::print(context.format, &report, || match loaded {
        Loaded::Fresh => format!(
            "loaded and pinned under {} in {} ms\n",
            report.pins, report.milliseconds
        ),
        Loaded::Present => format!("already loaded under {}\n", report.pins),
    })?;
    Ok(ExitCode::SUCCESS)
}
