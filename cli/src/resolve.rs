//! `podgatectl resolve`: NetworkPolicy in, documents out.
//!
//! Manifests from files, folders or the standard input become the documents that the companion reads. [`sources`] reads, [`report`] tells,
//! `resolve` decides, [`folder`] writes. Nothing is written while an input is broken, unless `--keep-going`; then what is broken
//! keeps the documents that an earlier run made of it.

mod folder;
mod links;
mod report;
mod sources;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use resolve::{Cluster, Marks, ObjectKey, Options, PolicyFile};

use self::folder::{Folder, Plan};
use self::report::Told;
use self::sources::{Input, Sources};
use crate::args::{Format, Resolve};
use crate::context::Context;
use crate::error::Error;
use crate::output;

/// `--diff` found differences, as diff(1) says it.
const DIFFERENT: u8 = 1;
/// `--diff` could not tell, as diff(1) says it.
const TROUBLE: u8 = 2;

pub(crate) fn run(context: &Context, options: &Resolve) -> Result<ExitCode, Error> {
    let result = resolve(context, options);
    match result {
        Err(error) if options.diff => {
            eprintln!("podgatectl: {error}");
            Ok(ExitCode::from(TROUBLE))
        }
        result => result,
    }
}

fn resolve(context: &Context, options: &Resolve) -> Result<ExitCode, Error> {
    let prints = matches!(context.format, Format::Json | Format::Yaml);
    if options.output_dir.is_none() && options.diff {
        return Err(Error::Asked(
            "--diff compares with a folder: give --output-dir".into(),
        ));
    }
    if options.diff && prints {
        return Err(Error::Asked("--diff and -o do not go together".into()));
    }
    if options.watch && (prints || options.output_dir.is_none()) {
        return Err(Error::Asked(
            "--watch writes: give --output-dir, and no -o".into(),
        ));
    }
    let mut sources = Sources::new(
        &options.filename,
        &options.namespace,
        options.watch && !options.keep_going,
    )?;
    if options.watch {
        return watch::run(options, &mut sources);
    }
    let mut resolver = Resolver::new(options);
    let input = sources.read();
    if !resolver.take(&input) {
        return Err(input.refused());
    }
    let failed = !input.is_whole();
    let files: Vec<&PolicyFile> = resolver.cluster.files().map(|file| &**file).collect();
    match &options.output_dir {
        Some(_) if !prints => {
            let plan = resolver.plan(options, &input)?;
            if options.diff {
                let differs = plan.print_diff()?;
                return Ok(match (failed, differs) {
                    (true, _) => ExitCode::from(TROUBLE),
                    (false, true) => ExitCode::from(DIFFERENT),
                    (false, false) => ExitCode::SUCCESS,
                });
            }
            plan.carry_out()?;
        }
        _ => print(context.format, &files)?,
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// A cluster kept over passes, and what was told about it.
struct Resolver {
    cluster: Cluster,
    keys: BTreeSet<ObjectKey>,
    told: Told,
    keep_going: bool,
}

impl Resolver {
    fn new(options: &Resolve) -> Self {
        Self {
            cluster: Cluster::new(Options {
                strict_services: options.strict_services,
                host_network_peers: options.host_network_peers.into(),
                node: options.node.clone(),
                endpoint_addresses: false,
            }),
            keys: BTreeSet::new(),
            told: Told::default(),
            keep_going: options.keep_going,
        }
    }

    /// Takes what was read, and tells of what is wrong in it; `false` when it may not be used.
    fn take(&mut self, input: &Input) -> bool {
        self.told.input(input);
        if !input.is_whole() && !self.keep_going {
            return false;
        }
        let objects: BTreeMap<_, _> = input.objects();
        // What is broken now stays as it was in the pass before: a pod that is left out could be left open.
        let spared = input.spared();
        let gone: Vec<_> = self
            .keys
            .iter()
            .filter(|key| !objects.contains_key(*key) && !spared.has(key))
            .cloned()
            .collect();
        for key in gone {
            self.cluster.remove(&key);
            self.keys.remove(&key);
        }
        for (key, object) in objects {
            self.cluster.apply(object.clone());
            self.keys.insert(key);
        }
        self.cluster.resolve();
        self.told
            .policies(self.cluster.files().map(|file| &**file), input);
        true
    }

    /// What has to be written and removed, looked up in the folders themselves.
    fn plan(&self, options: &Resolve, input: &Input) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        if let Some(path) = &options.output_dir {
            let mut wanted = BTreeMap::new();
            for file in self.cluster.files() {
                wanted.insert(file.file_name().to_owned(), file.to_yaml());
            }
            plan.documents(Folder::documents(path)?, wanted, &input.spared())?;
        }
        if let (Some(path), Some(_)) = (&options.workloads_dir, &options.node) {
            let wanted = self.cluster.workloads().map(folder::workload);
            let wanted = wanted.collect::<Result<BTreeMap<_, _>, _>>()?;
            plan.workloads(Folder::workloads(path)?, wanted, input.is_whole())?;
        }
        Ok(plan)
    }
}

/// Prints the documents: YAML one after another, JSON as one List.
fn print(format: Format, files: &[&PolicyFile]) -> Result<(), Error> {
    if format == Format::Json {
        let items: Vec<_> = files
            .iter()
            .flat_map(|file| file.documents(&Marks::default()))
            .collect();
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items});
        return output::print(format, &list, String::new);
    }
    let text: String = files.iter().map(|file| file.to_yaml()).collect();
    output::text(&text)
}
