//! `applied/`: the version in force of each policy, written by a thread of its own, because each write is flushed to the disk.
//!
//! The newest version of a policy replaces an older one that still waits. A write that fails is tried again until it
//! succeeds. The thread ends, with all that waits written, when the writer is dropped.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use policy::Document;
use state::applied::Applied;
use state::{RelPath, Store};

/// What comes within this time is flushed together.
const GATHER: Duration = Duration::from_millis(5);
/// So many policies are flushed together at most.
const BATCH: usize = 512;
/// A write that failed is tried again after so long, then twice as long, and so on.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_AT_MOST: Duration = Duration::from_secs(30);
/// At the end of the process a store that cannot be written is tried so often.
const LAST_TRIES: u32 = 3;

/// A policy's version: its documents, each with its file. `None` = the policy is gone.
type Version = Option<Vec<(Arc<Document>, RelPath)>>;

#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<Sender<(String, Version)>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<Mutex<Option<String>>>,
}

impl Writer {
    pub(super) fn start(store: &Store) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        let failure = Arc::new(Mutex::new(None));
        let (store, told) = (store.clone(), Arc::clone(&failure));
        let thread = thread::Builder::new()
            .name("applied".into())
            .spawn(move || run(&store, &inbox, &told))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            failure,
        })
    }

    /// Has a policy's version written, or removed.
    pub(super) fn put(&self, policy: String, version: Version) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only when this sender does, or by a panic, which ends the process.
            let _ = jobs.send((policy, version));
        }
    }

    /// Why the last write failed, as long as none has succeeded since.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(store: &Store, inbox: &Receiver<(String, Version)>, failure: &Mutex<Option<String>>) {
    let mut waiting: BTreeMap<String, Version> = BTreeMap::new();
    let mut wait = GATHER;
    let mut tries = 0;
    loop {
        if waiting.is_empty() {
            match inbox.recv() {
                Ok((policy, version)) => waiting.insert(policy, version),
                Err(_) => return,
            };
        }
        let mut over = false;
        loop {
            match inbox.recv_timeout(wait) {
                Ok((policy, version)) => {
                    waiting.insert(policy, version);
                    wait = wait.min(GATHER);
                    if waiting.len() >= BATCH && tries == 0 {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    over = true;
                    break;
                }
            }
        }
        let batch: Vec<String> = waiting.keys().take(BATCH).cloned().collect();
        let told = |error: Option<String>| {
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = error;
        };
        match write(store, &waiting, &batch) {
            Ok(()) => {
                batch.iter().for_each(|policy| {
                    waiting.remove(policy);
                });
                if tries > 0 {
                    tracing::info!("versions in force are kept again");
                    told(None);
                }
                (wait, tries) = (GATHER, 0);
            }
            Err(error) => {
                if tries == 0 {
                    tracing::warn!("keep versions in force: {error}; trying again");
                }
                told(Some(format!("keep versions in force: {error}")));
                tries += 1;
                wait = (RETRY * 2u32.pow(tries.min(10) - 1)).min(RETRY_AT_MOST);
                if over {
                    if tries > LAST_TRIES {
                        return;
                    }
                    thread::sleep(RETRY);
                }
            }
        }
    }
}

fn write(
    store: &Store,
    waiting: &BTreeMap<String, Version>,
    batch: &[String],
) -> Result<(), state::Error> {
    let (mut put, mut gone) = (Vec::new(), Vec::new());
    for policy in batch {
        match waiting.get(policy) {
            Some(Some(version)) => put.push(render(policy, version)),
            _ => gone.push(policy.clone()),
        }
    }
    store.update_applied(&put, &gone)
}

fn render(policy: &str, version: &[(Arc<Document>, RelPath)]) -> Applied {
    let mut bytes = Vec::new();
    let mut sources = BTreeMap::new();
    for (document, path) in version {
        bytes.extend_from_slice(&document.to_json());
        bytes.push(b'\n');
        sources.insert(document.identity.to_string(), path.clone());
    }
    Applied {
        policy: policy.to_owned(),
        sources,
        bytes,
    }
}
