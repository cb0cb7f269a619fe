//! What is kept right by looking, beside the engine: the settings of the running programs and the store's temp files.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use enforcer::pins::Pins;
use enforcer::settings::Settings;
use state::Store;

/// A change of `node.json` reaches the programs within a second.
const LOOK: Duration = Duration::from_millis(500);
/// The node's lock is waited for so long.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Temp files of writers that were killed are looked for so often.
const SWEEP: Duration = Duration::from_secs(600);

/// The work of the thread.
pub(crate) struct Upkeep {
    pub(crate) store: Store,
    pub(crate) bpf_dir: PathBuf,
    /// What was said last, so that it is said once.
    pub(crate) said: String,
}

impl Upkeep {
    /// Works until the other end of `stop` is gone.
    pub(crate) fn run(mut self, stop: &Receiver<()>) {
        let mut swept: Option<Instant> = None;
        loop {
            if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
                swept = Some(Instant::now());
                self.sweep_temps();
            }
            let said = self.settings().err().unwrap_or_default();
            if said != self.said {
                if !said.is_empty() {
                    tracing::warn!("bring the programs' settings up to date: {said}");
                }
                self.said = said;
            }
            if stop.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Has the programs read what `node.json` says. Maps may be made anew at any time, so they are opened each time.
    fn settings(&self) -> Result<(), String> {
        let mut settings = match Settings::open(&Pins::new(&self.bpf_dir)) {
            Ok(settings) => settings,
            Err(error) if error.is_missing() => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        // What cannot be read is not the default: the settings stay until it can.
        let node = self.store.node_config().map_err(|e| e.to_string())?;
        if settings.are(&node).map_err(|e| e.to_string())? {
            return Ok(());
        }
        let locked = self.store.lock(LOCK_TIMEOUT).map_err(|e| e.to_string())?;
        let node = self.store.node_config().map_err(|e| e.to_string())?;
        settings.apply(&locked, &node).map_err(|e| e.to_string())?;
        tracing::info!("the programs read the settings of node.json anew");
        Ok(())
    }

    fn sweep_temps(&self) {
        match self.store.sweep_temps() {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "temp files of writers that were killed"),
            Err(error) => tracing::warn!("remove temp files of writers that were killed: {error}"),
        }
    }
}
