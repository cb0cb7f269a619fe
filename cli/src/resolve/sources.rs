//! Manifests from files, folders and the standard input.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use policy::documents::split;
use resolve::manifest::{self, Item, ManifestError};
use resolve::{Object, ObjectKey};

use crate::error::Error;

/// Folders inside folders that are looked into: a link back up must not go on for ever.
const MAX_DEPTH: usize = 16;

/// Where manifests come from. What was read stays, so that a look again costs one stat(2) a file.
pub(super) struct Sources {
    named: Vec<PathBuf>,
    namespace: String,
    stdin: Option<Vec<u8>>,
    /// A file that holds an error counts as broken as a whole: it gives what it gave before.
    whole_files: bool,
    cache: BTreeMap<PathBuf, Known>,
}

/// What is known of a file.
struct Known {
    /// The version that was read last.
    stamp: Stamp,
    /// Of the names given, the one that it was found by.
    name: PathBuf,
    /// What it holds, as of its last version that is not broken.
    items: Parsed,
    /// Why its present version is not used.
    faults: Vec<String>,
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// That of no file.
    const NONE: Self = Self {
        inode: 0,
        size: 0,
        modified: (0, 0),
        changed: (0, 0),
    };

    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

type Parsed = std::rc::Rc<Vec<Result<Item, Box<ManifestError>>>>;

/// One file's content.
pub(super) struct File {
    /// Its name as errors show it.
    pub(super) name: String,
    /// What it holds.
    pub(super) items: Parsed,
}

/// All that was read in one pass.
#[derive(Default)]
pub(super) struct Input {
    /// Files, in the order given.
    pub(super) files: Vec<File>,
    /// What could not be read at all.
    pub(super) unreadable: Vec<String>,
    /// What is broken now, and gives what it gave before.
    pub(super) held: Vec<String>,
}

impl Sources {
    /// Looks at the names given; `-` is read here, once.
    pub(super) fn new(
        names: &[PathBuf],
        namespace: &str,
        whole_files: bool,
    ) -> Result<Self, Error> {
        if !manifest::is_namespace(namespace) {
            return Err(Error::Asked(format!(
                "--namespace {namespace:?}: expected a name of lower case letters, digits and `-`"
            )));
        }
        let mut stdin = None;
        if names.iter().any(|name| is_stdin(name)) {
            let mut bytes = Vec::new();
            std::io::stdin()
                .read_to_end(&mut bytes)
                .map_err(|error| Error::Asked(format!("read standard input: {error}")))?;
            stdin = Some(bytes);
        }
        Ok(Self {
            named: names.to_vec(),
            namespace: namespace.to_owned(),
            stdin,
            whole_files,
            cache: BTreeMap::new(),
        })
    }

    /// The names given.
    pub(super) fn named(&self) -> &[PathBuf] {
        &self.named
    }

    /// Reads everything; what has not changed since the last time is not read again. A file that was good and is empty,
    /// cut off or unreadable now, or a name given that is gone, gives what it gave before: a shell that redirects into a
    /// file empties it first.
    pub(super) fn read(&mut self) -> Input {
        let mut input = Input::default();
        let mut before = std::mem::take(&mut self.cache);
        for name in &self.named.clone() {
            if is_stdin(name) {
                let bytes = self.stdin.as_deref().unwrap_or_default();
                if is_blank(bytes) {
                    let why = format!("standard input: {BLANK}");
                    input.unreadable.push(why);
                }
                let items = manifest::read_in(bytes, &self.namespace);
                input.files.push(File {
                    name: "standard input".into(),
                    items: items.into(),
                });
                continue;
            }
            let mut paths = Vec::new();
            if let Err(why) = walk(name, 0, true, &mut paths) {
                let known = before.iter().filter(|(_, known)| known.name == *name);
                let gone: Vec<PathBuf> = known.map(|(path, _)| path.clone()).collect();
                match gone.is_empty() {
                    true => input.unreadable.push(why),
                    false => input.held.push(format!("{why}: {HELD}")),
                }
                paths.extend(gone);
            }
            for path in paths {
                // Named twice, by itself and by its folder, say: read once.
                if self.cache.contains_key(&path) {
                    continue;
                }
                let old = before.remove(&path);
                match self.load(&path, name, old) {
                    Ok(known) => {
                        let shown = path.display().to_string();
                        let faults = known.faults.iter();
                        input
                            .held
                            .extend(faults.map(|why| format!("{shown}: {why}")));
                        input.files.push(File {
                            name: shown,
                            items: known.items.clone(),
                        });
                        self.cache.insert(path, known);
                    }
                    Err(why) => input.unreadable.push(format!("{}: {why}", path.display())),
                }
            }
        }
        input
    }

    /// One file, as it is or as it was.
    fn load(&self, path: &Path, name: &Path, old: Option<Known>) -> Result<Known, String> {
        let read = fs::metadata(path).and_then(|metadata| {
            let stamp = Stamp::of(&metadata);
            match &old {
                Some(old) if old.stamp == stamp => Ok((stamp, None)),
                _ => Ok((stamp, Some(fs::read(path)?))),
            }
        });
        let (old, error) = match (read, old) {
            (Ok((_, None)), Some(old)) => return Ok(old),
            (Ok((stamp, bytes)), old) => {
                let bytes = bytes.unwrap_or_default();
                let items: Parsed = manifest::read_in(&bytes, &self.namespace).into();
                let mut faults = Vec::new();
                if let Some(old) = &old {
                    if is_blank(&bytes) && !old.items.is_empty() {
                        faults.push(format!("{BLANK}: {HELD}"));
                    } else if self.whole_files && old.items.iter().all(Result::is_ok) {
                        let errors = items.iter().filter_map(|item| item.as_ref().err());
                        faults.extend(errors.map(ToString::to_string));
                    }
                } else if path == name && is_blank(&bytes) {
                    return Err(BLANK.to_owned());
                }
                let items = match old {
                    Some(old) if !faults.is_empty() => old.items,
                    _ => items,
                };
                return Ok(Known {
                    stamp,
                    name: name.to_owned(),
                    items,
                    faults,
                });
            }
            (Err(error), Some(old)) => (old, error),
            (Err(error), None) => return Err(error.to_string()),
        };
        // It cannot be read: what it gave stays, and it is read again whatever its stamp says.
        Ok(Known {
            stamp: Stamp::NONE,
            faults: vec![format!("{error}: {HELD}")],
            ..old
        })
    }
}

/// What a file without any document is told to be.
const BLANK: &str = "is empty (write an empty List where nothing is meant)";
/// What becomes of what was good.
const HELD: &str = "what it gave before stays";

/// No document at all, not even an empty List.
fn is_blank(bytes: &[u8]) -> bool {
    split::documents(&String::from_utf8_lossy(bytes)).is_empty()
}

fn is_stdin(name: &Path) -> bool {
    name == Path::new("-")
}

/// The files of a name: itself, or what a folder has with an extension of manifests, by name, folders in folders too. What
/// begins with a dot is left out: editors and Kubernetes' own volumes hide their works behind it.
fn walk(path: &Path, depth: usize, named: bool, found: &mut Vec<PathBuf>) -> Result<(), String> {
    let told = |error: std::io::Error| format!("{}: {error}", path.display());
    let metadata = match fs::metadata(path) {
        Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(told)?,
    };
    if !metadata.is_dir() {
        if named || is_manifest(path) {
            found.push(path.to_owned());
        }
        return Ok(());
    }
    if depth > MAX_DEPTH {
        return Err(format!("{}: folders too deep", path.display()));
    }
    let mut inside = Vec::new();
    for entry in fs::read_dir(path).map_err(told)? {
        let entry = entry.map_err(told)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            inside.push(entry.path());
        }
    }
    inside.sort();
    for path in inside {
        walk(&path, depth + 1, false, found)?;
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"))
}

impl Input {
    /// Whether nothing in it is broken.
    pub(super) fn is_whole(&self) -> bool {
        self.unreadable.is_empty() && self.errors().next().is_none()
    }

    /// Broken manifests, with the file's name.
    pub(super) fn errors(&self) -> impl Iterator<Item = (&str, &ManifestError)> {
        self.files.iter().flat_map(|file| {
            let errors = file.items.iter().filter_map(|item| item.as_ref().err());
            errors.map(|error| (file.name.as_str(), &**error))
        })
    }

    /// Manifests, with the file's name, in the order given.
    pub(super) fn items(&self) -> impl Iterator<Item = (&str, &Item)> {
        self.files.iter().flat_map(|file| {
            let items = file.items.iter().filter_map(|item| item.as_ref().ok());
            items.map(|item| (file.name.as_str(), item))
        })
    }

    /// What counts: of several of one name the last.
    pub(super) fn objects(&self) -> BTreeMap<ObjectKey, &Object> {
        self.items()
            .filter_map(|(_, item)| Some((item.object.key()?, &item.object)))
            .collect()
    }

    /// The policies whose manifest is broken: what an earlier run made of them stays.
    pub(super) fn spared(&self) -> Spared {
        let mut spared = Spared {
            all: !self.unreadable.is_empty(),
            keys: BTreeSet::new(),
        };
        for (_, error) in self.errors() {
            match &error.key {
                Some(key) => drop(spared.keys.insert(key.clone())),
                // It may be any.
                None => spared.all = true,
            }
        }
        spared
    }

    /// Why nothing was done.
    pub(super) fn refused(&self) -> Error {
        let count = self.unreadable.len() + self.errors().count();
        let noun = if count == 1 { "error" } else { "errors" };
        Error::Asked(format!(
            "{count} {noun} in the input, nothing written (--keep-going leaves out what is broken)"
        ))
    }
}

/// What may not be removed though no manifest that can be read has it.
pub(super) struct Spared {
    /// Everything: a text that cannot be read may hold anything.
    pub(super) all: bool,
    /// These.
    pub(super) keys: BTreeSet<ObjectKey>,
}

impl Spared {
    /// Whether an object is spared.
    pub(super) fn has(&self, key: &ObjectKey) -> bool {
        self.all || self.keys.contains(key)
    }
}
