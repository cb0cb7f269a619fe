//! Running a command with a time-out, its output at hand when something fails.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A command that will be run with a time-out.
#[derive(Debug)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    unset: Vec<OsString>,
    stdin: Vec<u8>,
    timeout: Duration,
}

/// What a command left: status and output.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; `None` when a signal or the time-out ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From spawn to exit.
    pub elapsed: Duration,
    /// Whether the time-out ended it.
    pub timed_out: bool,
}

impl Cmd {
    /// A command with a time-out of 30 s and an empty standard input.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            envs: Vec::new(),
            unset: Vec::new(),
            stdin: Vec::new(),
            timeout: Duration::from_secs(30),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs
            .push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Removes an environment variable, unless it is set here too.
    #[must_use]
    pub fn unset(mut self, key: impl AsRef<OsStr>) -> Self {
        self.unset.push(key.as_ref().to_owned());
        self
    }

    /// What the command reads.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Another time-out than 30 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The `std` command: program, arguments, environment.
    #[must_use]
    pub fn to_std(&self) -> Command {
        let mut command = Command::new(&self.program);
        for key in &self.unset {
            command.env_remove(key);
        }
        command
            .args(&self.args)
            .envs(self.envs.iter().map(|(key, value)| (key, value)));
        command
    }

    fn line(&self) -> String {
        let envs = self
            .envs
            .iter()
            .map(|(key, value)| format!("{}={} ", key.to_string_lossy(), value.to_string_lossy()));
        let args = self
            .args
            .iter()
            .map(|arg| format!(" {}", arg.to_string_lossy()));
        envs.chain([self.program.to_string_lossy().into_owned()])
            .chain(args)
            .collect()
    }

    /// Runs it; a command that cannot be started is a failure of the test.
    #[track_caller]
    #[must_use]
    pub fn run(self) -> Output {
        let line = self.line();
        let start = Instant::now();
        let mut child = self
            .to_std()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {line}: {error}"));
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let input = self.stdin;
        // Detached threads: a grandchild that keeps a pipe open must not hold the test beyond the time-out.
        std::thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(&input)));
        let (stdout, stderr) = (drain(stdout), drain(stderr));
        let (code, timed_out) = wait(&mut child, start + crate::patience(self.timeout));
        let elapsed = start.elapsed();
        let grace = Duration::from_secs(1);
        let text = |rx: std::sync::mpsc::Receiver<Vec<u8>>| {
            String::from_utf8_lossy(&rx.recv_timeout(grace).unwrap_or_default()).into_owned()
        };
        Output {
            line,
            code,
            stdout: text(stdout),
            stderr: text(stderr),
            elapsed,
            timed_out,
        }
    }

    /// Runs it and returns its standard output.
    ///
    /// # Panics
    /// When it does not end with 0.
    #[track_caller]
    pub fn ok(self) -> String {
        self.run().expect_ok().stdout
    }

    /// Runs it and parses its standard output as JSON (nothing at all is `null`).
    ///
    /// # Panics
    /// When it does not end with 0 or prints something else.
    #[track_caller]
    #[must_use]
    pub fn json(self) -> Value {
        self.run().expect_ok().json()
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = tx.send(bytes);
    });
    rx
}

fn wait(child: &mut Child, deadline: Instant) -> (Option<i32>, bool) {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return (status.code(), false),
            Ok(None) if Instant::now() >= deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return (None, true);
            }
            Ok(None) => std::thread::sleep(Duration::from_micros(500)),
            Err(error) => panic!("wait for a child: {error}"),
        }
    }
}

impl Output {
    /// Whether it ended with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Itself, if it ended with 0.
    ///
    /// # Panics
    /// Otherwise, with all of its output.
    #[track_caller]
    #[must_use]
    pub fn expect_ok(self) -> Self {
        assert!(self.success(), "command failed\n{self}");
        self
    }

    /// Its standard output as JSON; nothing at all is `null`.
    ///
    /// # Panics
    /// When it is something else.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        if self.stdout.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error})\n{self}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match (self.timed_out, self.code) {
            (true, _) => "timed out".to_owned(),
            (_, Some(code)) => format!("exit code {code}"),
            (_, None) => "ended by a signal".to_owned(),
        };
        write!(
            f,
            "$ {}\n  {end} after {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.line,
            self.elapsed,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }
}
