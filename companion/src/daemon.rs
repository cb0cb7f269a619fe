//! The process: locks, threads, watchers, signals.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use enforcer::grace::Grace;
use enforcer::hostnet::watch::{Change, Watcher as NetWatcher};
use state::Store;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::flags::Flags;
use crate::log_file::{self, Rotation};
use crate::scheduler::{Message, Options};
use crate::shared::{Shared, Unready};
use crate::startup::Restored;
use crate::store_watch::{StoreWatch, Waiter};
use crate::threads::{self, SMALL_STACK};
use crate::upkeep::Upkeep;
use crate::{events, http, logging, systemd};

/// Something that failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(5);
/// The node's lock is waited for so long.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Stack of a thread that does real work.
const LARGE_STACK: usize = 2 << 20;
/// A burst of network changes is taken as one.
const BURST: Duration = Duration::from_millis(20);

/// Why the companion could not start, or had to end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A flag that asks for what is not there.
    #[error(
        "--enable-cloudwatch-logs: not built yet; use --enable-policy-event-logs with --flow-log-file and ship that file"
    )]
    CloudWatch,
    /// The log.
    #[error("open log {}: {source}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] state::Error),
    /// Another companion runs.
    #[error("become the companion: {0} (is another podgated running?)")]
    Lock(#[from] state::lock::Error),
    /// The runtime, a thread or a signal.
    #[error("{verb}: {source}")]
    System {
        /// What was tried.
        verb: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A thread ended by itself.
    #[error("thread {0} has ended; see the log")]
    Thread(&'static str),
}

/// Runs the companion until it is told to end.
///
/// # Errors
/// If it cannot start.
pub fn run(flags: &Flags) -> Result<(), Error> {
    if flags.enable_cloudwatch_logs {
        return Err(Error::CloudWatch);
    }
    threads::end_process_on_panic();
    let rotation = Rotation {
        max_bytes: u64::from(flags.log_file_max_size) * 1_000_000,
        backups: flags.log_file_max_backups,
    };
    let log = flags.log_file.as_deref();
    logging::begin(&flags.log_level, log, rotation).map_err(|source| Error::Log {
        path: flags.log_file.clone().unwrap_or_default(),
        source,
    })?;
    http::raise_open_files();
    let store = Store::create(&flags.state_dir)?;
    let _alive = store.companion_lock()?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        state_dir = %flags.state_dir.display(),
        bpf_dir = %flags.bpf_dir.display(),
        "podgated starts"
    );
    if !flags.enable_network_policy {
        tracing::warn!(
            "--enable-network-policy=false: enforcement of all endpoints is suspended, nothing is dropped"
        );
    }
    if let Some(size) = flags.conntrack_cache_table_size {
        write_table_size(&store, size);
    }
    // Watched from before the first look on: nothing falls between.
    let (watch, waiter) = StoreWatch::start(&store).map_err(state::Error::from)?;

    let (ended, mut thread_ended) = unbounded_channel();
    let (to_scheduler, inbox) = mpsc::channel();
    let ask_grace = grace_thread(to_scheduler.clone(), &ended)?;
    let options = Options {
        bpf_dir: flags.bpf_dir.clone(),
        suspended: !flags.enable_network_policy,
        events: flags.enable_policy_event_logs,
        sweep: Duration::from_secs(flags.conntrack_cache_cleanup_period.into()),
    };
    let shared = Arc::new(Shared::default());
    shared.update(|known| known.unready = Some(Unready::Starting));
    // Dropped at the end: the thread ends with it.
    let _events = flags
        .enable_policy_event_logs
        .then(|| events_thread(&shared, flags, rotation, &ended))
        .transpose()?;
    http_thread(&shared, flags, &ended)?;
    let upkeep = Upkeep {
        store: store.clone(),
        bpf_dir: flags.bpf_dir.clone(),
        said: String::new(),
    };
    let (_upkeep, stop) = mpsc::channel();
    spawn("upkeep", SMALL_STACK, &ended, move || upkeep.run(&stop))?;
    let for_scheduler = Arc::clone(&shared);
    let scheduler = spawn("scheduler", LARGE_STACK, &ended, move || {
        let restored = Restored::restore(store, options, for_scheduler, ask_grace);
        match restored.gather(watch).scheduler() {
            Ok(scheduler) => scheduler.run(&inbox),
            Err(error) => tracing::error!("start the flows' thread: {error}"),
        }
    })?;
    store_thread(waiter, to_scheduler.clone(), &ended)?;

    let runtime = runtime()?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = signals() => result,
            name = thread_ended.recv() => Err(Error::Thread(name.unwrap_or("none"))),
            () = watch_network(&to_scheduler) => Err(Error::Thread("network watch")),
            () = systemd::report(Arc::clone(&shared)) => Ok(()),
        }
    });
    systemd::stopping();
    // The scheduler ends between two passes; what is in the maps stays in force.
    let _ = to_scheduler.send(Message::Stop);
    let joined = scheduler.join().map_err(|_| Error::Thread("scheduler"));
    tracing::info!("podgated ends");
    result.and(joined)
}

/// The one thread that waits for sockets; what blocks has a few threads beside it.
fn runtime() -> Result<Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_stack_size(LARGE_STACK)
        .build()
        .map_err(|source| Error::System {
            verb: "start runtime",
            source,
        })
}

/// `--conntrack-cache-table-size` is for the next load.
fn write_table_size(store: &Store, size: u32) {
    let done = store
        .lock(LOCK_TIMEOUT)
        .map_err(|e| e.to_string())
        .and_then(|locked| {
            locked
                .update_node_config(|config| config.conntrack_cache_table_size = Some(size))
                .map_err(|e| e.to_string())
        });
    match done {
        Ok(_) => {}
        Err(error) => tracing::error!("write flow table size to node.json: {error}"),
    }
}

/// A thread that waits for grace periods, one after the other.
fn grace_thread(
    to_scheduler: Sender<Message>,
    ended: &UnboundedSender<&'static str>,
) -> Result<Sender<u64>, Error> {
    let (ask, asked): (Sender<u64>, Receiver<u64>) = mpsc::channel();
    let work = move || {
        let mut grace: Option<Grace> = None;
        while let Ok(mut number) = asked.recv() {
            // One wait is enough for all that were asked for before it begins.
            while let Ok(later) = asked.try_recv() {
                number = later;
            }
            let waited = match &mut grace {
                Some(grace) => grace.wait(),
                none => Grace::new().and_then(|new| none.insert(new).wait()),
            };
            if let Err(error) = waited {
                tracing::debug!("{error}; waiting by the clock instead");
                thread::sleep(Duration::from_millis(100));
            }
            if to_scheduler.send(Message::Grace(number)).is_err() {
                return;
            }
        }
    };
    spawn("grace", SMALL_STACK, ended, work)?;
    Ok(ask)
}

/// Until the process is told to end. SIGHUP has the log files opened anew.
async fn signals() -> Result<(), Error> {
    let listen = |kind| {
        signal(kind).map_err(|source| Error::System {
            verb: "wait for signals",
            source,
        })
    };
    let (mut term, mut int, mut hup) = (
        listen(SignalKind::terminate())?,
        listen(SignalKind::interrupt())?,
        listen(SignalKind::hangup())?,
    );
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
            _ = hup.recv() => {
                log_file::reopen_all();
                tracing::info!("log files are opened anew");
            }
        }
    }
}

/// Metrics and health, on a thread and a runtime of their own: what clients do there holds nothing else up.
fn http_thread(
    shared: &Arc<Shared>,
    flags: &Flags,
    ended: &UnboundedSender<&'static str>,
) -> Result<(), Error> {
    let runtime = runtime()?;
    let metrics = http::Metrics::new(
        Arc::clone(shared),
        flags.bpf_dir.clone(),
        flags.metrics_per_pod,
    );
    let health = http::Health(Arc::clone(shared));
    let (metrics_addr, health_addr) = (
        flags.metrics_bind_addr.clone(),
        flags.health_probe_bind_addr.clone(),
    );
    spawn("http", LARGE_STACK, ended, move || {
        runtime.block_on(async {
            tokio::join!(
                http::serve("metrics", metrics_addr, Arc::new(metrics)),
                http::serve("health", health_addr, Arc::new(health)),
            )
        });
    })
    .map(drop)
}

/// A thread that tells when something in the store has changed.
fn store_thread(
    waiter: Waiter,
    to_scheduler: Sender<Message>,
    ended: &UnboundedSender<&'static str>,
) -> Result<(), Error> {
    spawn("store", SMALL_STACK, ended, move || {
        waiter.run(|| to_scheduler.send(Message::Store).is_ok());
    })
    .map(drop)
}

fn events_thread(
    shared: &Arc<Shared>,
    flags: &Flags,
    rotation: Rotation,
    ended: &UnboundedSender<&'static str>,
) -> Result<Sender<()>, Error> {
    let (stop, stopped) = mpsc::channel();
    let shared = Arc::clone(shared);
    let options = events::Options {
        bpf_dir: flags.bpf_dir.clone(),
        file: flags.flow_log_file.clone(),
        rotation,
    };
    spawn("events", SMALL_STACK, ended, move || {
        events::run(&shared, options, &stopped);
    })?;
    Ok(stop)
}

fn spawn(
    name: &'static str,
    stack: usize,
    ended: &UnboundedSender<&'static str>,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    threads::spawn(name, stack, ended, work).map_err(|source| Error::System {
        verb: "start a thread",
        source,
    })
}

/// Tells of changes of the host's network; ends only when nobody listens.
async fn watch_network(to_scheduler: &Sender<Message>) {
    loop {
        match NetWatcher::start() {
            Ok(mut watcher) => {
                // Whatever happened before it watched.
                if to_scheduler
                    .send(Message::Network(vec![Change::Lost]))
                    .is_err()
                {
                    return;
                }
                while let Some(change) = watcher.next().await {
                    let mut changes = vec![change];
                    if !matches!(change, Change::Tc { .. }) {
                        tokio::time::sleep(BURST).await;
                    }
                    while let Some(more) = watcher.try_next() {
                        changes.push(more);
                    }
                    if to_scheduler.send(Message::Network(changes)).is_err() {
                        return;
                    }
                }
            }
            Err(error) => tracing::error!("{error}; trying again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}
