//! `podgate-controller`: policies of the cluster, resolved into PolicyEndpoint objects.
//!
//! One task a watch and one a write speak to one loop, which owns the state; the election has a task of its own.

mod election;
mod events;
mod findings;
mod objects;
mod reconcile;
mod report;
mod write;

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use resolve::Options;
use tokio::sync::{mpsc, watch};
use tracing::info;

use self::{election::Standing, reconcile::Controller, report::Report};
use crate::{
    api::{Access, follow},
    args::ControllerArgs,
    http,
};

/// Updates that wait for the loop; the watches wait when there are more.
const QUEUE: usize = 4096;
/// How often failed writes are looked at.
const TICK: Duration = Duration::from_millis(250);
/// For giving the Lease back.
const RELEASE: Duration = Duration::from_secs(3);

pub(crate) async fn run(args: ControllerArgs, stop: impl Future<Output = ()>) {
    let report = Arc::new(Mutex::new(Report::default()));
    serve(&args, &report);
    let access = Access::new(args.kubeconfig.clone());
    let (updates, mut arriving) = mpsc::channel(QUEUE);
    let queries = Controller::queries();
    let mut controller = Controller::new(
        &queries,
        Options {
            host_network_peers: args.host_network_peers.into(),
            endpoint_addresses: true,
            ..Options::default()
        },
    );
    for query in queries {
        let token = (query.resource, query.scope.clone());
        tokio::spawn(follow(access.clone(), query, token, updates.clone()));
    }
    let (stopping, stopped) = watch::channel(false);
    let (standing, mut stands) = watch::channel(Standing::default());
    let election = tokio::spawn(election::run(access.clone(), args, standing, stopped));
    let (done, mut finished) = mpsc::channel(QUEUE);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stop = std::pin::pin!(stop);
    info!("podgate-controller runs");
    loop {
        tokio::select! {
            Some((token, update)) = arriving.recv() => {
                controller.take(&token, update);
                while let Ok((token, update)) = arriving.try_recv() {
                    controller.take(&token, update);
                }
            }
            Some(outcome) = finished.recv() => controller.done(outcome),
            _ = stands.changed() => {}
            _ = tick.tick() => {}
            () = &mut stop => break,
        }
        let now = stands.borrow().clone();
        for work in controller.settle(now.leads()) {
            let (access, stands, done) = (access.clone(), stands.clone(), done.clone());
            tokio::spawn(async move {
                let _ = done
                    .send(write::carry_out(access, work, stands).await)
                    .await;
            });
        }
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        report.standing = now;
        controller.report(&mut report);
    }
    let _ = stopping.send(true);
    let _ = tokio::time::timeout(RELEASE, election).await;
}

fn serve(args: &ControllerArgs, report: &Arc<Mutex<Report>>) {
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
