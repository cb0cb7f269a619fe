//! The CNI configuration folder: which list is in force, and how podgate comes into it and goes.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::conflist;
use crate::error::Error;

/// What the runtime loads, by libcni's rule.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];
/// Names of a list of our own, in the order in which they are tried: the first that sorts before the original.
const RENDERED: [&str; 2] = ["05-podgate.conflist", "00-podgate.conflist"];
/// Ends the name of the copy of a list as it was. The runtime does not load such files.
const COPY: &str = ".before-podgate";

/// How podgate comes into the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Its entry is put into the list that is there.
    InPlace,
    /// A list of our own, made from the original, stands in front of it. The writer of the original may write it again at any
    /// time (aws-node does at each start): there is no moment without podgate.
    Rendered,
}

/// What was done to the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing: it is as it should be.
    None,
    /// This file was written.
    Written(PathBuf),
    /// This file was removed.
    Removed(PathBuf),
}

/// The list that the runtime takes: the first by name.
pub(crate) fn in_force(folder: &Path) -> Option<PathBuf> {
    first(folder, |_| true).ok().flatten()
}

/// The list that the runtime would take without us.
pub(crate) fn original(folder: &Path) -> Result<PathBuf, Error> {
    let found = first(folder, |name| !RENDERED.contains(&name));
    found.map_err(|e| Error::io("read folder", folder, e))?.ok_or_else(|| {
        Error::Asked(format!(
            "find a CNI configuration in {}: there is none; install the cluster's network plugin first, or name a list with --conflist",
            folder.display()
        ))
    })
}

fn first(folder: &Path, counts: impl Fn(&str) -> bool) -> std::io::Result<Option<PathBuf>> {
    let names = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    Ok(names
        .filter(|path| {
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            EXTENSIONS.contains(&extension) && counts(name)
        })
        .min())
}

/// The method that fits the list: Amazon's is written again by aws-node.
pub(crate) fn method(types: &[String]) -> Method {
    if types.first().is_some_and(|kind| kind == "aws-cni") {
        Method::Rendered
    } else {
        Method::InPlace
    }
}

/// Reads a list.
pub(crate) fn read(list: &Path) -> Result<String, Error> {
    fs::read_to_string(list).map_err(|e| Error::io("read", list, e))
}

/// Brings podgate into the chain of `list`.
pub(crate) fn install(list: &Path, method: Method, dry_run: bool) -> Result<Change, Error> {
    let text = read(list)?;
    let made = conflist::insert(&text).map_err(|e| refused(list, &e))?;
    let (path, made) = match method {
        Method::InPlace => match made {
            None => return Ok(Change::None),
            Some(made) => (list.to_owned(), made),
        },
        Method::Rendered => {
            let (path, made) = (rendered(list)?, made.unwrap_or_else(|| text.clone()));
            if fs::read_to_string(&path).is_ok_and(|there| there == made) {
                return Ok(Change::None);
            }
            (path, made)
        }
    };
    if !dry_run {
        if method == Method::InPlace {
            write(&copy_of(list), &text, list)?;
        }
        write(&path, &made, list)?;
    }
    Ok(Change::Written(path))
}

/// Takes podgate out of the chain of `list`: its entry, and the list of our own.
pub(crate) fn uninstall(list: &Path, dry_run: bool) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    let text = read(list)?;
    if let Some(made) = conflist::remove(&text).map_err(|e| refused(list, &e))? {
        if !dry_run {
            write(list, &made, list)?;
            remove(&copy_of(list))?;
        }
        changes.push(Change::Written(list.to_owned()));
    }
    let folder = list.parent().unwrap_or(Path::new("/"));
    for name in RENDERED {
        let path = folder.join(name);
        if path.exists() {
            if !dry_run {
                remove(&path)?;
            }
            changes.push(Change::Removed(path));
        }
    }
    Ok(changes)
}

fn refused(list: &Path, error: &conflist::Error) -> Error {
    Error::Asked(format!("change {}: {error}", list.display()))
}

fn copy_of(list: &Path) -> PathBuf {
    let mut name = list.as_os_str().to_owned();
    name.push(COPY);
    name.into()
}

/// Where a list of our own stands: in the same folder, before the original.
fn rendered(list: &Path) -> Result<PathBuf, Error> {
    let name = list.file_name().and_then(|n| n.to_str()).unwrap_or("");
    let ours = RENDERED.iter().find(|ours| **ours < name).ok_or_else(|| {
        Error::Asked(format!(
            "put a list before {}: no name of ours sorts before it; use --in-place",
            list.display()
        ))
    })?;
    Ok(list.with_file_name(ours))
}

/// Replaces a file by a rename within its folder, which containerd notices (a rename from elsewhere it does not), with the
/// permissions of `like`.
fn write(path: &Path, text: &str, like: &Path) -> Result<(), Error> {
    let fail = |e| Error::io("write", path, e);
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mode = fs::metadata(like).map_err(fail)?.permissions().mode();
    let mut temp = tempfile::Builder::new()
        .prefix(".podgate-")
        .tempfile_in(folder)
        .map_err(fail)?;
    temp.write_all(text.as_bytes()).map_err(fail)?;
    let file = temp.as_file();
    file.set_permissions(Permissions::from_mode(mode & 0o7777))
        .map_err(fail)?;
    file.sync_all().map_err(fail)?;
    temp.persist(path).map_err(|e| fail(e.error))?;
    Ok(state::file::sync_folder(folder)?)
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"name":"n","plugins":[{"type":"aws-cni"},{"type":"portmap"}]}"#;

    fn folder(name: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join(name);
        fs::write(&list, LIST).unwrap();
        fs::set_permissions(&list, Permissions::from_mode(0o640)).unwrap();
        (folder, list)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn in_place_and_back() {
        let (folder, list) = folder("10-x.conflist");
        assert_eq!(original(folder.path()).unwrap(), list);
        let method = Method::InPlace;
        assert_eq!(
            install(&list, method, true).unwrap(),
            Change::Written(list.clone())
        );
        assert_eq!(read(&list).unwrap(), LIST, "a dry run");
        assert_eq!(
            install(&list, method, false).unwrap(),
            Change::Written(list.clone())
        );
        assert_eq!(install(&list, method, false).unwrap(), Change::None);
        assert_eq!(
            names(folder.path()),
            ["10-x.conflist", "10-x.conflist.before-podgate"]
        );
        assert_eq!(read(&copy_of(&list)).unwrap(), LIST);
        assert_eq!(
            fs::metadata(&list).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert_eq!(
            uninstall(&list, false).unwrap(),
            [Change::Written(list.clone())]
        );
        assert_eq!(read(&list).unwrap(), LIST);
        assert_eq!(names(folder.path()), ["10-x.conflist"]);
        assert_eq!(uninstall(&list, false).unwrap(), []);
    }

    #[test]
    fn a_list_of_our_own_follows_the_original() {
        let (folder, list) = folder("10-aws.conflist");
        let ours = folder.path().join("05-podgate.conflist");
        let method = method(&conflist::types(LIST).unwrap());
        assert_eq!(method, Method::Rendered);
        assert_eq!(
            install(&list, method, false).unwrap(),
            Change::Written(ours.clone())
        );
        assert_eq!(read(&list).unwrap(), LIST, "the original stays");
        assert_eq!(original(folder.path()).unwrap(), list);
        assert_eq!(install(&list, method, false).unwrap(), Change::None);
        fs::write(&list, LIST.replace("\"n\"", "\"m\"")).unwrap();
        assert_eq!(
            install(&list, method, false).unwrap(),
            Change::Written(ours.clone())
        );
        assert!(read(&ours).unwrap().contains("\"m\""));
        assert_eq!(uninstall(&list, false).unwrap(), [Change::Removed(ours)]);
        assert_eq!(names(folder.path()), ["10-aws.conflist"]);
    }

    #[test]
    fn a_list_that_sorts_first_gets_a_name_before_it() {
        let (folder, list) = folder("01-x.conflist");
        let ours = folder.path().join("00-podgate.conflist");
        assert_eq!(
            install(&list, Method::Rendered, false).unwrap(),
            Change::Written(ours)
        );
        let (_folder, list) = self::folder("00-a.conflist");
        assert!(install(&list, Method::Rendered, false).is_err());
    }
}
