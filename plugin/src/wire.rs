//! The door to the runtime: the only file that reads the environment and stdin, writes stdout, and names the
//! `cni_plugin` crate.
//!
//! Of that crate we take the command names and the shapes of its error and version replies. Its loader ends the process,
//! answers every error under version 1.0.0, refuses STATUS, GC, 1.1.0 and upper-case container ids, and its typed
//! result cannot hold what aws-cni returns (docs/adr/); so reading, versions and the result are ours.

use std::{
    any::Any,
    io::{self, IsTerminal, Read, Write},
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use cni_plugin::reply::{ErrorReply, VersionReply};
use semver::Version;
use serde_json::error::Category;

use crate::{
    codes::{self, Code},
    environment::Environment,
    error::Error as Failure,
    object::{Object, WrongType},
};

/// The versions of the specification that we speak, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", NEWEST];
/// Under which we answer where the caller's own version cannot be had.
const NEWEST: &str = "1.1.0";
/// Longer input is nobody's configuration: Kubernetes bounds annotations, the largest part of one, by 256 KiB.
const MAX_INPUT: u64 = 8 << 20;

/// Input that is no call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `CNI_COMMAND` is not set.
    #[error("read CNI_COMMAND: the variable is not set")]
    NoCommand,
    /// `CNI_COMMAND` is none of the specification's.
    #[error("read CNI_COMMAND: {0:?} is not ADD, DEL, CHECK, GC, STATUS or VERSION")]
    UnknownCommand(String),
    /// Stdin cannot be read.
    #[error("read stdin: {0}")]
    Stdin(#[source] io::Error),
    /// Stdin is longer than anything a runtime sends.
    #[error("read stdin: the configuration is longer than {MAX_INPUT} bytes")]
    TooLong,
    /// Stdin holds nothing.
    #[error("read stdin: it is empty, and the network configuration should be there")]
    Empty,
    /// Stdin holds no JSON.
    #[error("read stdin: no JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// Stdin holds JSON that is no object.
    #[error("read stdin: the network configuration is not an object: {0}")]
    NotAnObject(#[source] serde_json::Error),
    /// `cniVersion` is no text.
    #[error(transparent)]
    VersionType(#[from] WrongType),
    /// `cniVersion` is a version that we do not speak.
    #[error("read cniVersion: {0:?} is not a version that podgate speaks ({list})", list = VERSIONS.join(", "))]
    Version(String),
    /// The version does not have the command.
    #[error(
        "read CNI_COMMAND: version {version} of the specification has no {command}, {since} is the first"
    )]
    NotInVersion {
        /// The version asked for.
        version: &'static str,
        /// The command.
        command: &'static str,
        /// The first version that has it.
        since: &'static str,
    },
}

/// What the runtime wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach.
    Add,
    /// Take away.
    Del,
    /// Compare.
    Check,
    /// Take away what is no longer in use.
    Gc,
    /// Say whether ADD would succeed.
    Status,
    /// Say which versions we speak.
    Version,
}

impl Command {
    fn parse(text: &str) -> Result<Self, Error> {
        use cni_plugin::Command as Known;
        match (text, text.parse()) {
            ("GC", _) => Ok(Self::Gc),
            ("STATUS", _) => Ok(Self::Status),
            (_, Ok(Known::Add)) => Ok(Self::Add),
            (_, Ok(Known::Del)) => Ok(Self::Del),
            (_, Ok(Known::Check)) => Ok(Self::Check),
            (_, Ok(Known::Version)) => Ok(Self::Version),
            (_, Err(_)) => Err(Error::UnknownCommand(text.chars().take(64).collect())),
        }
    }

    /// Its name in the specification.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The first of [`VERSIONS`] that has it.
    fn since(self) -> &'static str {
        match self {
            Self::Add | Self::Del | Self::Version => "0.3.0",
            Self::Check => "0.4.0",
            Self::Gc | Self::Status => "1.1.0",
        }
    }
}

/// A call: what is wanted, under which version, with which configuration.
#[derive(Debug)]
pub struct Call {
    /// What is wanted.
    pub command: Command,
    /// The version asked for; one of [`VERSIONS`].
    pub version: &'static str,
    /// The variables.
    pub environment: Environment,
    /// The network configuration.
    pub config: Object,
}

/// Reads one call. `input` is what stdin held, as far as it could be read.
fn parse(environment: Environment, input: Result<&[u8], Error>) -> Result<Call, Failure> {
    let command = Command::parse(environment.command.as_deref().ok_or(Error::NoCommand)?)?;
    let bytes = input?;
    if command == Command::Version {
        // Before 1.0.0 it had no input.
        let config = if bytes.trim_ascii().is_empty() {
            Object::default()
        } else {
            object(bytes)?
        };
        return Ok(Call {
            command,
            version: NEWEST,
            environment,
            config,
        });
    }
    let config = object(bytes)?;
    // A configuration without a version is one of 0.1.0, says the specification.
    let asked = config
        .read::<String>("cniVersion", "a string")?
        .unwrap_or_else(|| "0.1.0".to_owned());
    let version = VERSIONS
        .into_iter()
        .find(|known| *known == asked)
        .ok_or(Error::Version(asked))?;
    let since = command.since();
    let position = |version| VERSIONS.iter().position(|known| *known == version);
    if position(version) < position(since) {
        return Err(Error::NotInVersion {
            version,
            command: command.name(),
            since,
        }
        .into());
    }
    Ok(Call {
        command,
        version,
        environment,
        config,
    })
}

fn object(bytes: &[u8]) -> Result<Object, Error> {
    if bytes.trim_ascii().is_empty() {
        return Err(Error::Empty);
    }
    Object::parse(bytes).map_err(|error| match error.classify() {
        Category::Data => Error::NotAnObject(error),
        Category::Io | Category::Syntax | Category::Eof => Error::Json(error),
    })
}

fn read_stdin(environment: &Environment) -> Result<Vec<u8>, Error> {
    let stdin = io::stdin();
    // By hand, without a command: nobody is going to type a configuration.
    if environment.command.is_none() && stdin.is_terminal() {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::with_capacity(4096);
    stdin
        .lock()
        .take(MAX_INPUT + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::Stdin)?;
    if bytes.len() as u64 > MAX_INPUT {
        Err(Error::TooLong)
    } else {
        Ok(bytes)
    }
}

/// The version for a reply, whatever else is wrong with the input: the one asked for where it is a version at all.
fn version_asked(input: &[u8]) -> Version {
    let asked = Object::parse(input)
        .ok()
        .and_then(|config| config.read::<String>("cniVersion", "").ok().flatten());
    let version = asked
        .filter(|text| text.len() <= 32)
        .and_then(|text| Version::parse(&text).ok());
    version.unwrap_or_else(|| known_version(NEWEST))
}

fn known_version(text: &str) -> Version {
    Version::parse(text).unwrap_or_else(|_| Version::new(1, 1, 0))
}

fn version_reply(asked: &Version) -> String {
    let supported_versions = VERSIONS.into_iter().map(known_version).collect();
    to_json(&VersionReply {
        cni_version: asked.clone(),
        supported_versions,
    })
}

fn error_reply(version: &Version, error: &Failure) -> String {
    let msg = error.to_string();
    let code = i32::from(codes::code(error).0);
    to_json(&ErrorReply {
        cni_version: version.clone(),
        code,
        msg: &msg,
        details: codes::details(error),
    })
}

fn to_json(reply: &impl serde::Serialize) -> String {
    // Texts and numbers always serialize; should they not, an error object without a cause is still one.
    let fallback = |_| format!(r#"{{"cniVersion":"{NEWEST}","code":5,"msg":"write the reply"}}"#);
    serde_json::to_string(reply).unwrap_or_else(fallback)
}

/// Serves one call: reads it, has `handle` carry it out, and writes exactly one JSON object, or nothing where the
/// command has no result. A panic of `handle` is one more error. Stdout sees one write, at the end.
pub fn serve(handle: impl FnOnce(&Call) -> Result<Option<String>, Failure>) -> ExitCode {
    let environment = Environment::read(|name| std::env::var_os(name));
    if environment.command.is_none() && about() {
        return ExitCode::SUCCESS;
    }
    panic::set_hook(Box::new(keep_panic));
    let input = read_stdin(&environment);
    let asked = version_asked(input.as_deref().unwrap_or_default());
    let outcome = guarded(|| {
        let call = parse(environment, input.as_deref().map_err(Error::again))?;
        if call.command == Command::Version {
            Ok(Some(version_reply(&asked)))
        } else {
            handle(&call)
        }
    });
    let (code, reply) = match outcome {
        Ok(reply) => (Code::SUCCESS, reply),
        Err(error) => (codes::code(&error), Some(error_reply(&asked, &error))),
    };
    match reply.map_or(Ok(()), |reply| write_stdout(&reply)) {
        Ok(()) => ExitCode::from(code.0),
        Err(error) => {
            tracing::error!("write stdout: {error}");
            ExitCode::from(Code::IO.0)
        }
    }
}

/// Runs `work`; its panic is one more error.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let error = Failure::Panic(last_panic(&*payload));
        tracing::error!("{error}");
        Err(error)
    })
}

impl Error {
    /// An input error lent out is made anew: `io::Error` cannot be cloned.
    fn again(&self) -> Self {
        match self {
            Self::Stdin(error) => Self::Stdin(io::Error::new(error.kind(), error.to_string())),
            _ => Self::TooLong,
        }
    }
}

fn write_stdout(reply: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(format!("{reply}\n").as_bytes())?;
    stdout.flush()
}

static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

fn keep_panic(info: &PanicHookInfo<'_>) {
    let place = info
        .location()
        .map_or_else(String::new, |location| format!(" ({location})"));
    let text = format!("{}{place}", text_of(info.payload()));
    *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
}

fn last_panic(payload: &(dyn Any + Send)) -> String {
    let last = LAST_PANIC
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    last.unwrap_or_else(|| text_of(payload).to_owned())
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown cause")
}

/// For the person who runs the plugin by hand. Returns whether that was all that was wanted.
fn about() -> bool {
    let name = concat!("podgate ", env!("CARGO_PKG_VERSION"));
    let text = format!(
        "{name}\nCNI plugin that enforces Kubernetes NetworkPolicy from a pod's first packet.\n\
         A container runtime runs it as one of a chain: CNI_COMMAND and its kin in the environment, the network \
         configuration on stdin.\nCNI protocol versions supported: {}",
        VERSIONS.join(", ")
    );
    let argument = std::env::args_os().nth(1);
    match argument.as_ref().and_then(|argument| argument.to_str()) {
        Some("--version" | "-V") => write_stdout(name).is_ok(),
        Some("--help" | "-h") => write_stdout(&text).is_ok(),
        _ => {
            // As libcni's skeleton does; the error object on stdout follows.
            let _ = writeln!(io::stderr(), "{text}");
            false
        }
    }
}

#[cfg(test)]
mod tests;
