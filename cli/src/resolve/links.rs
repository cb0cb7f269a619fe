//! The links by which a path is found: where one of them is swapped, what stands at the path is another.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// Links on one path that are followed, as the kernel does.
const MAX_LINKS: usize = 40;

/// Names in folders.
pub(super) type Names = BTreeMap<PathBuf, Vec<OsString>>;

/// Adds each component of a path with the folder that it stands in, and of each link in it the components of its target.
pub(super) fn follow(path: &Path, found: &mut Names) {
    let mut left: Vec<OsString> = parts(path);
    let mut here = match path.is_absolute() {
        true => PathBuf::from("/"),
        false => std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
    };
    let mut links = 0;
    while let Some(part) = left.pop() {
        if part == OsStr::new("..") {
            here.pop();
            continue;
        }
        let names = found.entry(here.clone()).or_default();
        if !names.contains(&part) {
            names.push(part.clone());
        }
        let next = here.join(&part);
        match std::fs::read_link(&next) {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                if target.is_absolute() {
                    here = PathBuf::from("/");
                }
                left.extend(parts(&target));
            }
            _ => here = next,
        }
    }
}

/// The components of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::{Names, follow};

    #[test]
    fn each_link_is_followed_to_where_it_stands() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("rev/one")).unwrap();
        symlink("one", root.join("rev/current")).unwrap();
        symlink(root.join("rev/current"), root.join("in")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let mut found = Names::new();
        follow(&root.join("in/web.yaml"), &mut found);
        let names = |folder: &str| found[&root.join(folder)].clone();
        assert_eq!(found[&root], ["in", "rev"]);
        assert_eq!(names("rev"), ["current", "one"]);
        assert_eq!(names("rev/one"), ["web.yaml"]);
        follow(&root.join("loop/x"), &mut found);
    }
}
