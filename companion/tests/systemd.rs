//! What the companion tells systemd, over the socket that systemd gives (sd_notify(3)), and its unit file.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used)]

mod node;

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use node::{LONG, Node};

/// The lines of the next message.
fn next(socket: &UnixDatagram) -> Vec<String> {
    let mut bytes = [0; 4096];
    let length = socket.recv(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes[..length]);
    text.lines().map(str::to_owned).collect()
}

fn until(socket: &UnixDatagram, wanted: &str) {
    for _ in 0..100 {
        if next(socket).iter().any(|line| line == wanted) {
            return;
        }
    }
    panic!("no {wanted}");
}

#[test]
fn ready_without_maps_alive_while_the_engine_is_and_stopping_at_the_end() {
    let mut node = Node::new();
    let path = node.store.root().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    node.start_under(&["env", &variable, "WATCHDOG_USEC=4000000"], &[]);
    until(&socket, "READY=1");
    until(&socket, "WATCHDOG=1");
    until(&socket, "WATCHDOG=1");
    node.stop("TERM");
    until(&socket, "STOPPING=1");
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/podgated.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    for line in ["Type=notify", "Restart=always", "ExecStartPre=-/"] {
        assert!(text.lines().any(|l| l.starts_with(line)), "{line}");
    }
    // Where systemd is installed it looks at every line; that the programs are not installed here is no fault of the unit.
    let Ok(output) = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&unit)
        .output()
    else {
        println!("systemd-analyze is not installed: the unit is not verified");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let wrong: Vec<&str> = said
        .lines()
        .filter(|l| l.contains("podgated.service") && !l.contains("is not executable"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
