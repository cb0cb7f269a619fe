//! Running the built binary: every call with folders and variables of its own.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// A call to be made.
#[derive(Debug)]
pub(crate) struct Podgate {
    pub(crate) command: String,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) arguments: Vec<String>,
    pub(crate) folder: TempDir,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Podgate {
    /// A call with every variable set to something sound.
    pub(crate) fn new(command: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let variables = [
            ("CNI_CONTAINERID", "Test-container_1.0"),
            ("CNI_NETNS", "/no/such/netns"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self {
            command: command.into(),
            variables,
            arguments: vec![],
            folder,
        }
    }

    /// Without any CNI variable.
    pub(crate) fn by_hand() -> Self {
        Self {
            variables: vec![],
            ..Self::new("")
        }
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// A configuration that logs to stderr.
    pub(crate) fn config(version: &str, members: &str) -> String {
        let log = if members.contains("pluginLogFile") {
            ""
        } else {
            r#","pluginLogFile":"stderr""#
        };
        format!(r#"{{"cniVersion":"{version}","name":"test","type":"podgate"{log}{members}}}"#)
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn write_node(&self, text: &str) {
        fs::create_dir_all(self.state_dir()).unwrap();
        fs::set_permissions(self.state_dir(), fs::Permissions::from_mode(0o700)).unwrap();
        let path = self.state_dir().join("node.json");
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn run(&self, input: &str) -> Reply {
        self.spawn(input, Stdio::piped())
    }

    /// With a stdout that takes nothing.
    pub(crate) fn without_stdout(&self, input: &str) -> Reply {
        self.spawn(
            input,
            File::options()
                .write(true)
                .open("/dev/full")
                .unwrap()
                .into(),
        )
    }

    fn spawn(&self, input: &str, stdout: Stdio) -> Reply {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podgate"));
        command
            .env_clear()
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped());
        command
            .env("PODGATE_STATE_DIR", self.state_dir())
            .env("PODGATE_BPF_DIR", self.folder.path().join("bpf"));
        if !self.command.is_empty() {
            command.env("CNI_COMMAND", &self.command);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().unwrap();
        // It may be done before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let reply = Reply {
            code: output.status.code().expect("ended by itself"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        };
        assert!(!reply.stderr.contains("panicked"), "{}", reply.stderr);
        reply
    }
}

/// The error object that a failed call printed: exactly one, with all its members.
pub(crate) fn error(reply: &Reply) -> Value {
    assert_ne!(reply.code, 0, "{reply:?}");
    let value: Value = serde_json::from_str(&reply.stdout)
        .unwrap_or_else(|_| panic!("one JSON object: {reply:?}"));
    let mut keys: Vec<_> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, ["cniVersion", "code", "details", "msg"], "{reply:?}");
    assert!(
        !value["msg"].as_str().unwrap().is_empty()
            && !value["details"].as_str().unwrap().is_empty(),
        "{reply:?}"
    );
    assert_eq!(value["code"], reply.code, "{reply:?}");
    value
}

pub(crate) fn code(reply: &Reply) -> i64 {
    error(reply)["code"].as_i64().unwrap()
}
