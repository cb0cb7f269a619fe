//! Expired flows are removed, and each endpoint's quota kept right, on a thread of its own: a sweep of a large table takes
//! a while, and no policy waits for it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use enforcer::endpoint::Endpoints;
use enforcer::flows::Flows;
use enforcer::pins::Pins;
use state::Store;

use crate::kernel::LOCK;
use crate::shared::{Counts, Shared};
use crate::warnings::Warnings;

/// The fill of the table is looked at so often.
const POLL: Duration = Duration::from_secs(2);
/// Flows are swept at most so often where the table is short.
const SWEEP_SHORT: Duration = Duration::from_secs(5);
/// The rest between two slices of a sweep: others get the CPU and the buckets' locks.
const REST: Duration = Duration::from_millis(1);

/// What the thread is told.
#[derive(Debug)]
enum Order {
    /// The kernel objects are there, or others are.
    Open,
    /// They are gone.
    Close,
    /// So many endpoints there are.
    Endpoints(usize),
}

/// The scheduler's end. The thread ends when it is dropped.
#[derive(Debug)]
pub(crate) struct FlowSweeper(Sender<Order>);

impl FlowSweeper {
    pub(crate) fn start(
        store: &Store,
        bpf_dir: PathBuf,
        period: Duration,
        shared: &Arc<Shared>,
    ) -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let mut sweeper = Sweeper {
            store: store.clone(),
            shared: Arc::clone(shared),
            bpf_dir,
            period,
            wanted: false,
            open: None,
            count: 0,
            last: Instant::now(),
            next: Instant::now() + period,
            warnings: Warnings::default(),
        };
        std::thread::Builder::new()
            .name("flows".into())
            .spawn(move || sweeper.run(&inbox))?;
        Ok(Self(orders))
    }

    pub(crate) fn open(&self) {
        let _ = self.0.send(Order::Open);
    }

    pub(crate) fn close(&self) {
        let _ = self.0.send(Order::Close);
    }

    pub(crate) fn endpoints(&self, count: usize) {
        let _ = self.0.send(Order::Endpoints(count));
    }
}

struct Sweeper {
    store: Store,
    shared: Arc<Shared>,
    bpf_dir: PathBuf,
    period: Duration,
    wanted: bool,
    open: Option<(Flows, Endpoints)>,
    count: usize,
    last: Instant,
    next: Instant,
    warnings: Warnings,
}

impl Sweeper {
    fn run(&mut self, inbox: &Receiver<Order>) {
        loop {
            match inbox.recv_timeout(POLL) {
                Ok(Order::Open) => (self.wanted, self.open) = (true, None),
                Ok(Order::Close) => (self.wanted, self.open) = (false, None),
                Ok(Order::Endpoints(count)) => self.count = count,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !self.wanted {
                continue;
            }
            let done = self.poll();
            self.warnings.take("look after the flow table", done.err());
        }
    }

    fn poll(&mut self) -> Result<(), String> {
        let (flows, endpoints) = match &mut self.open {
            Some(open) => open,
            none => {
                let flows = Flows::open(&Pins::new(&self.bpf_dir)).map_err(|e| e.to_string())?;
                let endpoints = Endpoints::open(&self.bpf_dir).map_err(|e| e.to_string())?;
                none.insert((flows, endpoints))
            }
        };
        let text = |e: enforcer::maps::Error| e.to_string();
        if !flows.has_minimum(self.count).map_err(text)? {
            let locked = self.store.lock(LOCK).map_err(|e| e.to_string())?;
            flows.set_minimum(&locked, self.count).map_err(text)?;
        }
        let short = flows.is_short().map_err(text)?;
        if short {
            self.next = self.next.min(self.last + SWEEP_SHORT);
        }
        if self.next > Instant::now() {
            return Ok(());
        }
        self.last = Instant::now();
        self.next = self.last + self.period;
        let mut rest = || std::thread::sleep(REST);
        let mut summary = flows
            .sweep(endpoints, &mut rest)
            .map_err(|e| e.to_string())?;
        if short && flows.is_short().map_err(text)? {
            summary.shrunk = flows
                .shrink(endpoints, &mut rest)
                .map_err(|e| e.to_string())?;
        }
        let counts = &self.shared.counts;
        Counts::add(&counts.swept_expired, summary.expired);
        Counts::add(&counts.swept_dead, summary.dead);
        Counts::add(&counts.swept_shrunk, summary.shrunk);
        if summary.expired + summary.dead + summary.shrunk > 0 {
            let (took, flows) = (self.last.elapsed().as_millis(), summary.before);
            let (expired, dead, shrunk) = (summary.expired, summary.dead, summary.shrunk);
            tracing::debug!(flows, expired, dead, shrunk, took_ms = took, "flows swept");
        }
        Ok(())
    }
}
