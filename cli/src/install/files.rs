//! The program files and the systemd unit, each replaced as a whole.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;

/// The companion's unit, as it stands in conf/.
const UNIT: &str = include_str!("../../../conf/podgated.service");
/// Its name.
pub(crate) const UNIT_NAME: &str = "podgated.service";

/// Puts a program of `from` into `to`; false where the same bytes stand there already. A runtime that starts the plugin at
/// this moment runs the old one or the new one, never half of one.
pub(crate) fn program(from: &Path, to: &Path, name: &str, dry_run: bool) -> Result<bool, Error> {
    let (source, target) = (from.join(name), to.join(name));
    let read = |path: &Path| fs::read(path);
    let bytes = read(&source).map_err(|e| Error::io("read", &source, e))?;
    if same_file(&source, &target) || read(&target).is_ok_and(|there| there == bytes) {
        return Ok(false);
    }
    if !dry_run {
        replace(&target, &bytes, 0o755)?;
    }
    Ok(true)
}

/// Writes the unit; false where it stands there already.
pub(crate) fn unit(folder: &Path, dry_run: bool) -> Result<bool, Error> {
    let path = folder.join(UNIT_NAME);
    if fs::read_to_string(&path).is_ok_and(|there| there == UNIT) {
        return Ok(false);
    }
    if !dry_run {
        replace(&path, UNIT.as_bytes(), 0o644)?;
    }
    Ok(true)
}

/// Runs systemctl; what it says goes to the terminal.
pub(crate) fn systemctl(words: &[&str]) -> Result<(), Error> {
    let line = format!("systemctl {}", words.join(" "));
    match Command::new("systemctl").args(words).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::Asked(format!("run {line}: {status}"))),
        Err(e) => Err(Error::Asked(format!(
            "run {line}: {e}; where there is no systemd, use --no-service and start podgated by other means"
        ))),
    }
}

/// Removes a file; false where there is none.
pub(crate) fn remove(path: &Path, dry_run: bool) -> Result<bool, Error> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(false);
    }
    if !dry_run {
        fs::remove_file(path).map_err(|e| Error::io("remove", path, e))?;
    }
    Ok(true)
}

/// The folder of the program that runs: where the other programs of a release lie, unless told otherwise.
pub(crate) fn own_folder() -> Result<PathBuf, Error> {
    let path = std::env::current_exe()?;
    Ok(path.parent().unwrap_or(Path::new("/")).to_owned())
}

fn same_file(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    id(one).is_some_and(|one| id(other) == Some(one))
}

fn replace(target: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let fail = |e: io::Error| Error::io("write", target, e);
    let folder = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(fail)?;
    let mut temp = tempfile::Builder::new()
        .prefix(".podgate-")
        .tempfile_in(folder)
        .map_err(fail)?;
    io::Write::write_all(&mut temp, bytes).map_err(fail)?;
    let file: &File = temp.as_file();
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(fail)?;
    file.sync_all().map_err(fail)?;
    temp.persist(target).map_err(|e| fail(e.error))?;
    Ok(state::file::sync_folder(folder)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_replaced_as_a_whole_and_only_where_it_differs() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("podgate"), "new").unwrap();
        let bin = to.path().join("bin");
        let install = |dry_run| program(from.path(), &bin, "podgate", dry_run).unwrap();
        assert!(install(true) && !bin.exists());
        assert!(install(false));
        let target = bin.join("podgate");
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");
        assert_eq!(
            fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert!(!install(false));
        assert!(program(&bin, &bin, "podgate", false).is_ok_and(|written| !written));
        assert!(program(from.path(), &bin, "missing", false).is_err());
    }
}
