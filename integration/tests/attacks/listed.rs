//! The list of attacks for readers holds them all.

use std::fs;

use integration::tools::workspace;

/// The names of this binary's tests, as it lists them itself.
fn names() -> Vec<String> {
    let list = integration::Cmd::new(std::env::current_exe().unwrap())
        .args(["--list", "--format", "terse"])
        .ok();
    list.lines()
        .filter_map(|line| Some(line.strip_suffix(": test")?.to_owned()))
        .collect()
}

#[test]
fn docs_name_every_attack_and_no_other() {
    let docs = fs::read_to_string(workspace().join("docs/attacks.md")).unwrap();
    let names = names();
    for name in names.iter().filter(|name| !name.starts_with("listed::")) {
        assert!(
            docs.contains(&format!("`{name}`")),
            "docs/attacks.md does not name {name}"
        );
    }
    // What looks like a test of this binary is one.
    let quoted = docs.split('`').skip(1).step_by(2);
    let modules = [
        "headers::",
        "fragments::",
        "link::",
        "icmp::",
        "flows::",
        "host::",
        "live::",
        "tunnels::",
    ];
    for name in quoted.filter(|name| modules.iter().any(|module| name.starts_with(module))) {
        assert!(
            names.iter().any(|known| known == name),
            "docs/attacks.md names {name}, which there is not"
        );
    }
}
