//! `podgatectl wait`: until everything that the store held at the call has been applied, or has a condition that says
//! why not.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use policy::documents::Condition;
use published::status::{Companion, Documents};
use serde::{Deserialize, Serialize};
use state::{Store, StoreFingerprint};

use crate::args::Wait;
use crate::context::Context;
use crate::error::Error;
use crate::output;

/// How often the companion's status is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Some document has a condition that keeps it from being applied (with `--strict`).
const NOT_APPLIED: u8 = 3;
/// No companion was there all the while.
const NO_COMPANION: u8 = 4;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    applied: bool,
    generation: u64,
    milliseconds: u128,
    not_applied: Vec<String>,
}

/// What podgate-sync says of itself in `status/sync.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sync {
    synced: bool,
    behind_seconds: u64,
    pods_waiting: usize,
}

impl Sync {
    /// What is still missing.
    fn missing(&self) -> Option<String> {
        if !self.synced {
            return Some("the initial lists are not in the store".into());
        }
        if self.behind_seconds > 0 {
            return Some(format!(
                "no contact with the API for {} s",
                self.behind_seconds
            ));
        }
        (self.pods_waiting > 0)
            .then(|| format!("{} pods wait for their documents", self.pods_waiting))
    }
}

/// Waits until the store holds what the API says; why it does not.
fn synced(store: &Store, until: Instant) -> Result<Result<(), String>, Error> {
    loop {
        let why = match store.read_status::<Sync>("sync")? {
            _ if !store.sync_alive() => Some("no podgate-sync fills the store".to_owned()),
            None => Some("podgate-sync has said nothing yet".to_owned()),
            Some(sync) => sync.missing(),
        };
        match why {
            None => return Ok(Ok(())),
            Some(why) if Instant::now() >= until => return Ok(Err(why)),
            Some(_) => sleep(LOOK),
        }
    }
}

pub(crate) fn run(context: &Context, options: &Wait) -> Result<ExitCode, Error> {
    let store = context.store()?;
    let begin = Instant::now();
    if options.synced
        && let Err(why) = synced(&store, begin + options.timeout)?
    {
        eprintln!("podgatectl: not synced within {:?}: {why}", options.timeout);
        return Ok(ExitCode::FAILURE);
    }
    let at = state::clock::monotonic_ns();
    let fingerprint = StoreFingerprint::take(&store)?;
    let mut seen_alive = false;
    let generation = loop {
        seen_alive |= store.companion_alive();
        let status = Companion::read(&store)?;
        if seen_alive
            && let Some(status) = &status
            && status.has_applied(&fingerprint, at)
        {
            break status.generation;
        }
        if begin.elapsed() >= options.timeout {
            if !seen_alive {
                eprintln!(
                    "podgatectl: no companion holds {}: start podgated",
                    context.state_dir.display()
                );
                return Ok(ExitCode::from(NO_COMPANION));
            }
            let why = status
                .and_then(|s| s.error)
                .unwrap_or_else(|| "it is not done".into());
            eprintln!(
                "podgatectl: not applied within {:?}: {why}",
                options.timeout
            );
            return Ok(ExitCode::FAILURE);
        }
        sleep(LOOK);
    };
    let not_applied = conditions(&store)?;
    for line in &not_applied {
        eprintln!("podgatectl: {line}");
    }
    let report = Report {
        applied: true,
        generation,
        milliseconds: begin.elapsed().as_millis(),
        not_applied,
    };
    output::print(context.format, &report, String::new)?;
    Ok(if options.strict && !report.not_applied.is_empty() {
        ExitCode::from(NOT_APPLIED)
    } else {
        ExitCode::SUCCESS
    })
}

/// What has a condition that keeps it from being applied, one line each.
fn conditions(store: &state::Store) -> Result<Vec<String>, Error> {
    let Some(documents) = Documents::read(store)? else {
        return Ok(Vec::new());
    };
    let of_documents = documents
        .documents
        .iter()
        .filter(|d| {
            !matches!(
                d.condition,
                Condition::Applied | Condition::ServiceWider | Condition::HostNetworkPeer
            )
        })
        .map(|d| {
            format!(
                "{}: {} ({}){}",
                d.identity,
                d.condition,
                d.file,
                tail(&d.message)
            )
        });
    let of_files = documents
        .files
        .iter()
        .map(|f| format!("{}: {}: {}", f.path, f.condition, f.message));
    Ok(of_documents.chain(of_files).collect())
}

fn tail(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}
