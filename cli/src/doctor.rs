//! `podgatectl doctor`: what is wrong with this node, each finding with what to do about it. It changes nothing.

use std::fs;
use std::process::ExitCode;

use enforcer::attach::Programs;
use enforcer::endpoint::Endpoints;
use enforcer::kernel::{self, KernelVersion};
use enforcer::{bpffs, load, observe, orphans};
use serde::Serialize;
use state::Store;

use crate::args::Doctor;
use crate::context::Context;
use crate::error::Error;
use crate::install;
use crate::output;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum Severity {
    /// As it should be.
    Ok,
    /// Works, and somebody should look at it.
    Warning,
    /// Pods fail to start, or are not enforced as they should be.
    Error,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    check: &'static str,
    severity: Severity,
    finding: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, check: &'static str, finding: impl Into<String>) {
        self.add(check, Severity::Ok, finding, "");
    }

    fn warning(
        &mut self,
        check: &'static str,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(check, Severity::Warning, finding, remedy);
    }

    fn error(
        &mut self,
        check: &'static str,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(check, Severity::Error, finding, remedy);
    }

    fn add(
        &mut self,
        check: &'static str,
        severity: Severity,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Finding {
            check,
            severity,
            finding: finding.into(),
            remedy: remedy.into(),
        });
    }
}

/// Looks at everything; ends with 1 where something is an error.
pub(crate) fn run(context: &Context, options: &Doctor) -> Result<ExitCode, Error> {
    let mut findings = Findings::default();
    check_kernel(&mut findings);
    check_bpffs(context, &mut findings);
    check_chain(options, &mut findings);
    match Store::open(&context.state_dir) {
        Ok(store) => {
            check_companion(&store, &mut findings);
            check_settings(&store, &mut findings);
            check_records(&store, &mut findings);
            check_endpoints(context, &store, &mut findings);
            check_orphans(context, &store, &mut findings);
        }
        Err(error) if error.is_missing() => findings.warning(
            "store",
            format!("{}: not there", context.state_dir.display()),
            "the first ADD or podgated makes it; with PODGATE_STATE_DIR set here, the plugin and podgated need the same",
        ),
        Err(error) => findings.error("store", error.to_string(), "repair or remove the folder"),
    }
    let worst = findings.0.iter().map(|finding| finding.severity).max();
    output::print(context.format, &findings.0, || text(&findings.0))?;
    Ok(if worst == Some(Severity::Error) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn check_kernel(findings: &mut Findings) {
    match KernelVersion::running().and_then(|kernel| kernel.require(kernel::OLDEST)) {
        Ok(running) => findings.ok("kernel", running.to_string()),
        Err(error) => findings.error("kernel", error.to_string(), "boot a newer kernel"),
    }
}

fn check_bpffs(context: &Context, findings: &mut Findings) {
    match bpffs::check(&context.bpf_dir) {
        Ok(()) => findings.ok("bpffs", context.bpf_dir.display().to_string()),
        // The error says what to run.
        Err(error) => findings.error("bpffs", error.to_string(), ""),
    }
    let pins = context.pins();
    if load::is_loaded(&pins) {
        findings.ok("programs", format!("pinned in {}", pins.root().display()));
    } else {
        findings.warning(
            "programs",
            format!("none pinned in {}", pins.root().display()),
            "podgatectl load (the first ADD does it too)",
        );
    }
    let ours = pins.root().file_name();
    let others: Vec<String> = fs::read_dir(&context.bpf_dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| Some(entry.file_name().as_os_str()) != ours)
        .map(|entry| entry.path().display().to_string())
        .collect();
    if !others.is_empty() {
        findings.warning(
            "programs",
            format!("pins of another layout: {}", others.join(", ")),
            "they go with the pods that were started under that release",
        );
    }
}

fn check_chain(options: &Doctor, findings: &mut Findings) {
    let Some(list) = install::list_in_force(&options.cni_conf_dir) else {
        findings.warning(
            "chain",
            format!("no CNI configuration in {}", options.cni_conf_dir.display()),
            "install the cluster's network plugin, then podgatectl install",
        );
        return;
    };
    match install::state_of(&list) {
        Ok(install::ListState::InPlace) => findings.ok("chain", list.display().to_string()),
        Ok(install::ListState::Misplaced) => findings.error(
            "chain",
            format!("{}: podgate is not at its place", list.display()),
            "podgatectl install moves it (behind bandwidth and tuning, before portmap)",
        ),
        Ok(install::ListState::Missing) => findings.error(
            "chain",
            format!(
                "{}: podgate is not in the list that the runtime takes: new pods are not enforced",
                list.display()
            ),
            "podgatectl install",
        ),
        Err(error) => findings.error(
            "chain",
            error.to_string(),
            "the runtime cannot read it either",
        ),
    }
    for engine in install::other_engines(&list) {
        findings.error("other engines", engine, "");
    }
    let plugin = options.cni_bin_dir.join("podgate");
    if plugin.is_file() {
        findings.ok("plugin", plugin.display().to_string());
    } else {
        findings.error(
            "plugin",
            format!("{} is not there", plugin.display()),
            "podgatectl install",
        );
    }
}

fn check_companion(store: &Store, findings: &mut Findings) {
    let said = published::status::Companion::read(store).ok().flatten();
    match said {
        Some(said) if store.companion_alive() => {
            findings.ok(
                "companion",
                format!("running, pid {}, version {}", said.pid, said.version),
            );
            if said.version != env!("CARGO_PKG_VERSION") {
                findings.warning(
                    "versions",
                    format!(
                        "podgated is {}, podgatectl {}",
                        said.version,
                        env!("CARGO_PKG_VERSION")
                    ),
                    "systemctl restart podgated after an upgrade",
                );
            }
            if said.suspended {
                findings.error(
                    "companion",
                    "enforcement is SUSPENDED: nothing is dropped",
                    "start podgated without --enable-network-policy=false",
                );
            }
            for problem in said.problems {
                findings.warning("companion", problem, "");
            }
        }
        _ => findings.error(
            "companion",
            "away: what is in force stays, and new pods follow onPolicyUnknown",
            "systemctl start podgated; journalctl -u podgated",
        ),
    }
}

fn check_settings(store: &Store, findings: &mut Findings) {
    match store.node_config() {
        Ok(node) => {
            let mode = node.enforcing_mode.unwrap_or_default();
            findings.ok(
                "node.json",
                format!(
                    "mode of new pods: {}, source: {}",
                    mode.as_str(),
                    node.source.as_str()
                ),
            );
        }
        Err(error) => findings.error(
            "node.json",
            error.to_string(),
            "every ADD fails until it reads well",
        ),
    }
}

fn check_records(store: &Store, findings: &mut Findings) {
    match store.records() {
        Ok(records) => {
            for problem in &records.problems {
                findings.error(
                    "records",
                    problem.to_string(),
                    "the endpoint keeps what is in force; repair or remove the file",
                );
            }
        }
        Err(error) => findings.error("records", error.to_string(), ""),
    }
}

fn check_endpoints(context: &Context, store: &Store, findings: &mut Findings) {
    let endpoints = match Endpoints::open(&context.bpf_dir) {
        Ok(endpoints) => endpoints,
        Err(error) if error.is_not_loaded() => return,
        Err(error) => return findings.error("endpoints", error.to_string(), ""),
    };
    let records = store
        .records()
        .map(|records| records.good)
        .unwrap_or_default();
    match Programs::open(endpoints.pins()) {
        Ok(programs) => {
            let mut whole = 0;
            for record in &records {
                let name = format!(
                    "{}/{} {}",
                    record.pod_namespace, record.pod_name, record.ifname
                );
                match programs.verify(record.ifindex, record.attach_mode) {
                    Ok(None) => whole += 1,
                    Ok(Some(fault)) => findings.error(
                        "endpoints",
                        format!("{name}: {fault}"),
                        "a running podgated repairs it within a second",
                    ),
                    Err(error) => findings.warning(
                        "endpoints",
                        format!("{name}: {error}"),
                        "the scan removes what is gone",
                    ),
                }
            }
            findings.ok(
                "endpoints",
                format!("{whole} of {} attached as recorded", records.len()),
            );
        }
        Err(error) => findings.error("endpoints", error.to_string(), "podgatectl load"),
    }
    for link in observe::without_enforcement(&endpoints).unwrap_or_default() {
        findings.warning(
            "endpoints",
            format!("{}: a pod's interface without enforcement", link.name),
            "restart the pod: it was started before podgate came into the chain",
        );
    }
}

fn check_orphans(context: &Context, store: &Store, findings: &mut Findings) {
    match orphans::describe(store, &context.bpf_dir) {
        Ok(found) => {
            for orphan in &found {
                findings.warning(
                    "orphans",
                    orphan.to_string(),
                    "the next scan removes it: podgated at start and every ten minutes, or CNI GC",
                );
            }
        }
        Err(error) => findings.warning("orphans", error.to_string(), ""),
    }
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.severity {
            Severity::Ok => "ok      ",
            Severity::Warning => "warning ",
            Severity::Error => "ERROR   ",
        };
        text += &format!("{mark} {:<14} {}\n", finding.check, finding.finding);
        if !finding.remedy.is_empty() {
            text += &format!("{:23} -> {}\n", "", finding.remedy);
        }
    }
    text
}
