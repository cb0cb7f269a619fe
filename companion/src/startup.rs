//! The start, as a chain of types: what an earlier run had in force is [`Restored`]; with all that the store holds now it
//! is [`Gathered`]; only then there is a [`Scheduler`], which compiles and publishes. So nothing can be decided, written or
//! forgotten on half of the knowledge.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use policy::Policies;
use published::SelectorOverrides;
use state::{Store, StoreFingerprint};

use crate::document_store::DocumentStore;
use crate::enforcement::{self, Enforcement};
use crate::flow_sweeper::FlowSweeper;
use crate::local_endpoints::{LocalEndpoints, Parts};
use crate::maintenance::Maintenance;
use crate::policy_feed::PolicyFeed;
use crate::scheduler::{Options, Scheduler, Todo};
use crate::shared::Shared;
use crate::status_writer::StatusWriter;
use crate::store_watch::StoreWatch;
use crate::warnings::Warnings;

/// A store that cannot be read at all is tried again after so long.
const AGAIN: Duration = Duration::from_millis(100);

/// What an earlier run had in force.
pub(crate) struct Restored {
    store: Store,
    options: Options,
    shared: Arc<Shared>,
    documents: DocumentStore,
    /// The versions that were in force.
    in_force: Policies,
    enforcement: Enforcement,
    overrides: SelectorOverrides,
}

/// All that the store holds now, beside it.
pub(crate) struct Gathered {
    restored: Restored,
    watch: StoreWatch,
    endpoints: LocalEndpoints,
    fingerprint: StoreFingerprint,
    until_ns: u64,
    maintenance: Maintenance,
    warnings: Warnings,
}

impl Restored {
    /// Reads what an earlier run has kept.
    pub(crate) fn restore(
        store: Store,
        options: Options,
        shared: Arc<Shared>,
        ask_grace: Sender<u64>,
    ) -> Self {
        shared.beat();
        let documents = DocumentStore::restore(&store);
        let flags = enforcement::Options {
            suspended: options.suspended,
            events: options.events,
        };
        let enforcement = Enforcement::new(store.clone(), flags, ask_grace);
        let overrides = SelectorOverrides::read(&store).unwrap_or_else(|error| {
            tracing::warn!("read what is known of selectors: {error}");
            None
        });
        shared.beat();
        Self {
            store,
            options,
            shared,
            in_force: documents.policies().clone(),
            documents,
            enforcement,
            overrides: overrides.unwrap_or_default(),
        }
    }

    /// Reads everything that the store holds; tries again as long as it cannot be read at all. `watch` watches since before.
    pub(crate) fn gather(mut self, watch: StoreWatch) -> Gathered {
        let until_ns = state::clock::monotonic_ns();
        let shared = Arc::clone(&self.shared);
        self.documents.begin(Instant::now(), || shared.beat());
        let mut warnings = Warnings::default();
        let maintenance = Maintenance::new(&self.store, &self.shared, self.options.bpf_dir.clone());
        let digest = self.documents.listing_digest().to_owned();
        let fingerprint = StoreFingerprint::with_documents(&self.store, digest);
        let mut endpoints = LocalEndpoints::new(&self.store);
        loop {
            shared.beat();
            if endpoints.load(Parts::ALL, None, Instant::now()) {
                break;
            }
            let problem = endpoints.problems().next().cloned();
            warnings.take("read the store at the start", problem);
            thread::sleep(AGAIN);
        }
        warnings.take("read the store at the start", None);
        Gathered {
            restored: self,
            watch,
            endpoints,
            fingerprint,
            until_ns,
            maintenance,
            warnings,
        }
    }
}

impl Gathered {
    /// Everything is loaded: puts back what was known of selectors, and makes the kernel whole.
    ///
    /// # Errors
    /// If the flows' thread cannot be started.
    pub(crate) fn scheduler(self) -> std::io::Result<Scheduler> {
        let Restored {
            store,
            options,
            shared,
            documents,
            in_force,
            mut enforcement,
            overrides,
        } = self.restored;
        let (feed, known) = PolicyFeed::begin(&in_force, self.endpoints.namespaces());
        enforcement.restore(known);
        let here = |id| self.endpoints.locals().contains_key(&id);
        let facts = overrides.facts(documents.policies(), here);
        enforcement.restore_facts(facts);
        let mut warnings = self.warnings;
        let error = self.maintenance.load_for(&self.endpoints).err();
        warnings.take("load the kernel objects anew", error);
        let flows = FlowSweeper::start(&store, options.bpf_dir.clone(), options.sweep, &shared)?;
        let mut status = StatusWriter::new(&store, &shared, options.suspended, options.events);
        status.unsettle();
        status.seen(self.fingerprint, Some(self.until_ns));
        let now = Instant::now();
        Ok(Scheduler {
            todo: Todo {
                parts: Parts::ALL,
                hosts: true,
                enforce: true,
                publish: true,
            },
            watch: self.watch,
            documents,
            endpoints: self.endpoints,
            feed,
            trim: Some(now),
            enforcement,
            maintenance: self.maintenance,
            flows,
            status,
            warnings,
            bpf_dir: options.bpf_dir,
            next_full: now + Duration::from_secs(60),
            store,
            shared,
        })
    }
}
