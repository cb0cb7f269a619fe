//! Builds the kernel programs (`enforcer-ebpf`) and hands their path to `load.rs`.
//!
//! Two ways, tried in this order, both with cargo itself: Debian's `rustc-web` (`/usr/bin/rustc` with a ready-built
//! `core` for BPF), or a nightly toolchain with `rust-src`. Where neither is there the build fails and says what to
//! install: a binary without its programs must never come out by accident.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const SEPARATOR: char = '\x1f';

enum Toolchain {
    DebianRustcWeb,
    Nightly,
}

fn main() {
    if let Err(message) = build() {
        // The one way for a build script to fail with a message that cargo shows.
        println!("cargo::error={message}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let here =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?);
    let root = here
        .parent()
        .ok_or("the crate has no parent folder")?
        .to_path_buf();
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    for watched in [
        "enforcer-ebpf/src",
        "enforcer-ebpf/Cargo.toml",
        "verdict/src",
        "verdict/Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo::rerun-if-env-changed=PODGATE_BPF_TOOLCHAIN");

    let linker = find_linker()?;
    let toolchain = find_toolchain()?;
    let arch = env::var("CARGO_CFG_TARGET_ARCH").map_err(|e| e.to_string())?;
    let target_dir = out.join("bpf");
    let mut cargo = match toolchain {
        Toolchain::DebianRustcWeb => {
            let mut c =
                Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
            clean(&mut c);
            c.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
            c.args(["build", "--release"]);
            c
        }
        Toolchain::Nightly => {
            let mut c = Command::new("rustup");
            clean(&mut c);
            c.args([
                "run",
                "nightly",
                "cargo",
                "build",
                "--release",
                "-Z",
                "build-std=core",
            ]);
            c
        }
    };
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // 5.10 to 6.1 refuse a loop whose way back is not a jump ("back-edge from insn"): block placement may put the end
        // of a body right above its head, from where it just falls through.
        "-Clink-arg=--llvm-args=-disable-block-placement".into(),
    ];
    cargo
        .current_dir(&root)
        .args([
            "--package",
            "enforcer-ebpf",
            "--bin",
            "podgate-bpf",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&target_dir)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            flags.join(&SEPARATOR.to_string()),
        )
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker);
    if Path::new(&root).join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    let output = cargo
        .output()
        .map_err(|e| format!("run cargo for the kernel programs: {e}"))?;
    if !output.status.success() {
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            println!("cargo::warning={line}");
        }
        return Err(format!(
            "build of the kernel programs failed: {}",
            output.status
        ));
    }
    let object = target_dir.join(TARGET).join("release/podgate-bpf");
    println!("cargo::rustc-env=PODGATE_BPF_OBJECT={}", object.display());
    let name = match toolchain {
        Toolchain::DebianRustcWeb => "Debian rustc-web",
        Toolchain::Nightly => "nightly with rust-src",
    };
    println!("cargo::rustc-env=PODGATE_BPF_TOOLCHAIN_USED={name}");
    Ok(())
}

/// Takes away what the outer cargo set for the host's build.
fn clean(command: &mut Command) {
    for name in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTDOC",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
        "RUSTUP_TOOLCHAIN",
        "RUSTC_LINKER",
    ] {
        command.env_remove(name);
    }
}

fn find_linker() -> Result<PathBuf, String> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|h| PathBuf::from(h).join(".cargo")));
    let mut folders: Vec<PathBuf> = env::var_os("PATH")
        .map(|p| env::split_paths(&p).collect())
        .unwrap_or_default();
    folders.extend(home.map(|h| h.join("bin")));
    folders
        .into_iter()
        .map(|f| f.join("bpf-linker"))
        .find(|f| f.is_file())
        .ok_or_else(|| "bpf-linker is missing: run scripts/setup.sh".into())
}

fn find_toolchain() -> Result<Toolchain, String> {
    let wanted = env::var("PODGATE_BPF_TOOLCHAIN").unwrap_or_default();
    let debian = || {
        Path::new(DEBIAN_RUSTC).is_file()
            && Command::new(DEBIAN_RUSTC)
                .args(["--print", "target-libdir", "--target", TARGET])
                .output()
                .is_ok_and(|o| {
                    o.status.success()
                        && Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir()
                })
    };
    let nightly = || {
        Command::new("rustup")
            .args(["component", "list", "--toolchain", "nightly", "--installed"])
            .output()
            .is_ok_and(|o| {
                o.status.success()
                    && String::from_utf8_lossy(&o.stdout)
                        .lines()
                        .any(|l| l.starts_with("rust-src"))
            })
    };
    match wanted.as_str() {
        "debian" if debian() => Ok(Toolchain::DebianRustcWeb),
        "nightly" if nightly() => Ok(Toolchain::Nightly),
        "" if debian() => Ok(Toolchain::DebianRustcWeb),
        "" if nightly() => Ok(Toolchain::Nightly),
        _ => Err("no toolchain for the kernel programs: run scripts/setup.sh (Debian: apt-get install rustc-web \
                  libstd-rust-web-dev-bpf; elsewhere: rustup toolchain install nightly --component rust-src)"
            .into()),
    }
}
