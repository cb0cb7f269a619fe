//! `podgate-sync`: this node's part of the API in the node's store.
//!
//! One task a watch sends what came to one loop, which owns the state: it takes all that is there, then writes documents,
//! then workloads, then what it says of itself.

mod documents;
mod mirror;
mod namespaces;
mod report;
mod store;

use std::{
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use state::Store;
use tokio::sync::mpsc;
use tracing::{error, info};

use self::{mirror::Mirror, report::Report, store::Written};
use crate::{api::Access, args::SyncArgs, http};

/// Updates that wait for the loop; the watches wait when there are more.
const QUEUE: usize = 1024;
/// How often failed writes, idle namespaces and the report are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Why sync cannot run at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("another podgate-sync runs on this store; stop it, or give another --state-dir: {0}")]
    Lock(#[from] state::lock::Error),
    #[error("open the store {}: {source}; give --state-dir, or create it with podgatectl install", path.display())]
    Store { path: PathBuf, source: state::Error },
}

pub(crate) async fn run(args: SyncArgs, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let report = Arc::new(Mutex::new(Report::new(&args)));
    serve(&args, &report);
    let mut stop = std::pin::pin!(stop);
    let store = tokio::select! {
        store = open(&args, &report) => store?,
        () = &mut stop => return Ok(()),
    };
    // Held until the end.
    let _lock = store.sync_lock()?;
    let written = Written::read(store).map_err(|source| Error::Store {
        path: args.state_dir.clone(),
        source,
    })?;
    let (updates, mut arriving) = mpsc::channel(QUEUE);
    let access = Access::new(args.kubeconfig.clone());
    info!(node = %args.node_name, resolve = args.resolve, "podgate-sync runs");
    let mut mirror = Mirror::new(&args, access, updates, written);
    mirror.begin();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut is_tick = false;
        tokio::select! {
            Some((token, update)) = arriving.recv() => {
                mirror.take(&token, update);
                while let Ok((token, update)) = arriving.try_recv() {
                    mirror.take(&token, update);
                }
            }
            _ = tick.tick() => is_tick = true,
            () = &mut stop => return Ok(()),
        }
        mirror.settle(is_tick);
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        mirror.report(&mut report);
        report.publish(mirror.store(), is_tick);
    }
}

/// A store that is read-only or full at the start is tried again; one that others could write is an error.
async fn open(args: &SyncArgs, report: &Mutex<Report>) -> Result<Store, Error> {
    loop {
        let source = match Store::create(&args.state_dir) {
            Ok(store) => return Ok(store),
            Err(source) => source,
        };
        if !source.is_unwritable() {
            return Err(Error::Store {
                path: args.state_dir.clone(),
                source,
            });
        }
        error!(error = %source, "store cannot be written; trying again");
        report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .store_failed(Some(source.to_string()));
        tokio::time::sleep(TICK).await;
    }
}

fn serve(args: &SyncArgs, report: &Arc<Mutex<Report>>) {
    let of = Arc::clone(report);
    tokio::spawn(http::serve(
        "health",
        args.health_probe_bind_addr.clone(),
        move |path| {
            let report = of.lock().unwrap_or_else(PoisonError::into_inner);
            match path {
                "/healthz" => Some((200, "ok\n".to_owned())),
                "/readyz" => Some(report.readiness()),
                _ => None,
            }
        },
    ));
    let of = Arc::clone(report);
    tokio::spawn(http::serve(
        "metrics",
        args.metrics_bind_addr.clone(),
        move |path| {
            let report = of.lock().unwrap_or_else(PoisonError::into_inner);
            (path == "/metrics").then(|| (200, report.metrics()))
        },
    ));
}
