//! `podgatectl install` and `uninstall`: podgate comes into a node's CNI chain, and goes.

mod chain;
mod conflist;
mod engines;
mod files;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use enforcer::attach::Programs;
use enforcer::endpoint::Endpoints;
use state::Store;

use self::chain::{Change, Method};
use crate::args::{Install, Uninstall};
use crate::context::Context;
use crate::error::Error;

/// How often `--watch` looks at the original: within this time a list that was written anew has podgate in front of it.
const WATCH: Duration = Duration::from_millis(500);
/// How long to wait for the node's lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// The programs beside the plugin.
const HOST_PROGRAMS: [&str; 2] = ["podgated", "podgatectl"];

/// Installs, or says what it would do.
pub(crate) fn run(context: &Context, options: &Install) -> Result<ExitCode, Error> {
    let list = conflist(options.conflist.as_deref(), &options.cni_conf_dir)?;
    let types = conflist::types(&chain::read(&list)?)
        .map_err(|e| Error::Asked(format!("read {}: {e}", list.display())))?;
    let others = engines::found(&types);
    if !others.is_empty() && !options.force {
        return Err(Error::Asked(format!(
            "install: another engine enforces policy here:\n  {}\nWith --force podgate is installed all the same.",
            others.join("\n  ")
        )));
    }
    programs(options)?;
    node_config(context, options)?;
    if !options.plugin_only && !options.no_service {
        service(options)?;
    }
    // Last: from here on the runtime calls the plugin.
    let method = match (options.in_place, options.rendered) {
        (true, _) => Method::InPlace,
        (_, true) => Method::Rendered,
        _ => chain::method(&types),
    };
    say_chain(
        &list,
        &chain::install(&list, method, options.dry_run)?,
        options.dry_run,
    );
    if options.watch {
        watch(&list, method);
    }
    println!(
        "{}: new pods are enforced from their first packet; `podgatectl status` lists running pods that are not",
        if options.dry_run {
            "would be installed"
        } else {
            "installed"
        }
    );
    Ok(ExitCode::SUCCESS)
}

/// Uninstalls, or says what it would do.
pub(crate) fn uninstall(context: &Context, options: &Uninstall) -> Result<ExitCode, Error> {
    let dry_run = options.dry_run;
    // First: from here on the runtime does not call the plugin for new pods.
    match conflist(options.conflist.as_deref(), &options.cni_conf_dir) {
        Ok(list) => {
            let changes = chain::uninstall(&list, dry_run)?;
            changes
                .iter()
                .for_each(|change| say_chain(&list, change, dry_run));
        }
        Err(error) => println!("chain: {error}"),
    }
    if !options.no_service {
        let unit = options.systemd_dir.join(files::UNIT_NAME);
        if unit.exists() {
            if !dry_run {
                files::systemctl(&["disable", "--now", files::UNIT_NAME])?;
            }
            files::remove(&unit, dry_run)?;
            if !dry_run {
                files::systemctl(&["daemon-reload"])?;
            }
            println!(
                "service: {} {}",
                done("stopped and removed", dry_run),
                unit.display()
            );
        }
    }
    if options.pods == crate::args::Pass::Open {
        open_pods(context, dry_run)?;
    } else {
        println!("pods: running pods keep what was in force until they end");
    }
    println!(
        "left in place: programs in {} (running pods' DEL needs the plugin), {} and {}",
        options.cni_bin_dir.display(),
        context.state_dir.display(),
        context.bpf_dir.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// What podgate's entry in a list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListState {
    /// It stands where it belongs.
    InPlace,
    /// It stands elsewhere.
    Misplaced,
    /// There is none.
    Missing,
}

/// The list that the runtime takes: the first by name, ours included.
pub(crate) fn list_in_force(folder: &Path) -> Option<PathBuf> {
    chain::in_force(folder)
}

/// Whether podgate stands in a list, and at its place.
pub(crate) fn state_of(list: &Path) -> Result<ListState, Error> {
    let text = chain::read(list)?;
    let fail = |e| Error::Asked(format!("read {}: {e}", list.display()));
    if conflist::remove(&text).map_err(fail)?.is_none() {
        return Ok(ListState::Missing);
    }
    Ok(match conflist::insert(&text).map_err(fail)? {
        None => ListState::InPlace,
        Some(_) => ListState::Misplaced,
    })
}

/// Other engines that enforce policy beside a list.
pub(crate) fn other_engines(list: &Path) -> Vec<String> {
    let types = chain::read(list)
        .ok()
        .and_then(|text| conflist::types(&text).ok());
    engines::found(&types.unwrap_or_default())
}

fn conflist(named: Option<&Path>, folder: &Path) -> Result<PathBuf, Error> {
    named.map_or_else(|| chain::original(folder), |path| Ok(path.to_owned()))
}

fn programs(options: &Install) -> Result<(), Error> {
    let from = options.from.clone().map_or_else(files::own_folder, Ok)?;
    let host: &[&str] = if options.plugin_only {
        &[]
    } else {
        &HOST_PROGRAMS
    };
    let plugin = std::iter::once((&options.cni_bin_dir, "podgate"));
    for (folder, name) in plugin.chain(host.iter().map(|name| (&options.bin_dir, *name))) {
        let written = files::program(&from, folder, name, options.dry_run)?;
        let what = if written {
            done("written", options.dry_run)
        } else {
            "unchanged"
        };
        println!("program: {what} {}", folder.join(name).display());
    }
    Ok(())
}

/// `NETWORK_POLICY_ENFORCING_MODE` of a DaemonSet never reaches a plugin: the installer writes it down.
fn node_config(context: &Context, options: &Install) -> Result<(), Error> {
    let mut keys = Vec::new();
    keys.extend(options.mode.map(|_| "networkPolicyEnforcingMode"));
    keys.extend(options.source.map(|_| "source"));
    keys.extend(options.node_name.as_ref().map(|_| "nodeName"));
    if keys.is_empty() {
        return Ok(());
    }
    if !options.dry_run {
        let store = Store::create(&context.state_dir)?;
        let locked = store.lock(LOCK_TIMEOUT)?;
        locked.update_node_config(|node| {
            if let Some(mode) = options.mode {
                node.enforcing_mode = Some(mode.into());
            }
            if let Some(source) = options.source {
                node.source = source.into();
            }
            if let Some(name) = &options.node_name {
                node.node_name = Some(name.clone());
            }
        })?;
    }
    println!(
        "node.json: {} {}",
        done("written", options.dry_run),
        keys.join(", ")
    );
    Ok(())
}

fn service(options: &Install) -> Result<(), Error> {
    let written = files::unit(&options.systemd_dir, options.dry_run)?;
    if !options.dry_run {
        if written {
            files::systemctl(&["daemon-reload"])?;
        }
        files::systemctl(&["enable", files::UNIT_NAME])?;
        files::systemctl(&["restart", files::UNIT_NAME])?;
    }
    println!(
        "service: {} {}",
        done("started", options.dry_run),
        files::UNIT_NAME
    );
    Ok(())
}

/// Keeps podgate in the chain for as long as it runs.
fn watch(list: &Path, method: Method) -> ! {
    println!("watching {}", list.display());
    let mut last = String::new();
    loop {
        thread::sleep(WATCH);
        let now = match chain::install(list, method, false) {
            Ok(change @ Change::Written(_)) => {
                say_chain(list, &change, false);
                String::new()
            }
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        // Said once, not twice a second.
        if now != last && !now.is_empty() {
            eprintln!("podgatectl: {now}; the list of before stays");
        }
        last = now;
    }
}

/// Takes the filters from every endpoint, and the endpoints out of the kernel.
fn open_pods(context: &Context, dry_run: bool) -> Result<(), Error> {
    let store = context.store()?;
    let records = store.records()?.good;
    if !dry_run && !records.is_empty() {
        let mut endpoints = Endpoints::open(&context.bpf_dir)?;
        let programs = Programs::open(&context.pins())?;
        for record in &records {
            // One at a time: an ADD that waits for the lock comes in between.
            let locked = store.lock(LOCK_TIMEOUT)?;
            programs.release(record.ifindex, record.attach_mode)?;
            endpoints.delete(&locked, record.ifindex, Some(record.endpoint_id))?;
            locked.remove_record(record)?;
        }
    }
    println!("pods: {} {}", done("opened", dry_run), records.len());
    Ok(())
}

fn say_chain(list: &Path, change: &Change, dry_run: bool) {
    match change {
        Change::None => println!("chain: unchanged {}", list.display()),
        Change::Written(path) => println!("chain: {} {}", done("written", dry_run), path.display()),
        Change::Removed(path) => println!("chain: {} {}", done("removed", dry_run), path.display()),
    }
}

fn done(what: &'static str, dry_run: bool) -> &'static str {
    match (dry_run, what) {
        (false, what) => what,
        (true, "written") => "would write",
        (true, "removed") => "would remove",
        (true, "started") => "would start",
        (true, "opened") => "would open",
        (true, _) => "would stop and remove",
    }
}
