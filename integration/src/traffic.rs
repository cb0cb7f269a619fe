//! The harness's side of `podgate-traffic`: each handle is a helper process in some namespace.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cmd::Cmd;
use crate::frames::Summary;
use crate::node::Place;
use crate::tools;
use crate::wire::{FloodReport, SinkReport, SourceCount};

/// Longest wait for a helper's reply.
const REPLY: Duration = Duration::from_secs(10);

/// A helper process that takes lines and gives JSON lines.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    replies: Receiver<Value>,
    what: String,
}

impl Helper {
    #[track_caller]
    fn start(place: &Place, words: &[String]) -> Self {
        let what = format!("podgate-traffic {} in {}", words.join(" "), place.label);
        let mut child = Command::new(tools::traffic())
            .args(words)
            .arg("--netns")
            .arg(&place.netns)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {what}: {error}"));
        let (sender, replies) = channel();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        std::thread::spawn(move || {
            for line in stdout
                .into_iter()
                .flat_map(|stdout| BufReader::new(stdout).lines().map_while(Result::ok))
            {
                let Ok(value) = serde_json::from_str(&line) else {
                    continue;
                };
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            stdin,
            replies,
            what,
        }
    }

    /// Starts a helper that says when it is ready.
    #[track_caller]
    pub(crate) fn ready(place: &Place, words: &[String]) -> Self {
        let helper = Self::start(place, words);
        let hello = helper.reply();
        assert_eq!(hello["event"], "ready", "{} said {hello}", helper.what);
        helper
    }

    #[track_caller]
    fn reply(&self) -> Value {
        self.replies
            .recv_timeout(REPLY)
            .unwrap_or_else(|error| panic!("{} gave no reply: {error}", self.what))
    }

    #[track_caller]
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, line: &str) -> T {
        self.tell(line);
        let reply = self.reply();
        serde_json::from_value(reply)
            .unwrap_or_else(|error| panic!("{} gave another reply: {error}", self.what))
    }

    #[track_caller]
    fn tell(&mut self, line: &str) {
        let written = self
            .stdin
            .as_mut()
            .map(|stdin| stdin.write_all(format!("{line}\n").as_bytes()));
        assert!(
            matches!(written, Some(Ok(()))),
            "{} takes no line: {written:?}",
            self.what
        );
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // A closed input ends it; the kill is for one that hangs.
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How one attempt to talk to a server ended.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    tag = "outcome",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
pub enum Outcome {
    /// The server answered.
    Open {
        /// The client's address as the server saw it.
        seen_as: IpAddr,
        /// How long it took.
        elapsed_ms: f64,
    },
    /// A reset or an ICMP error said that nobody listens.
    Refused {
        /// The kernel's words.
        detail: String,
    },
    /// Nothing came back.
    Timeout {
        /// The kernel's words.
        detail: String,
    },
    /// The connection was broken off.
    Reset {
        /// The kernel's words.
        detail: String,
    },
    /// There is no way there.
    Unreachable {
        /// The kernel's words.
        detail: String,
    },
    /// Something else.
    Error {
        /// The kernel's words.
        detail: String,
    },
}

impl Outcome {
    /// Whether the server answered.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. })
    }

    /// Whether packets vanished without a word, as dropped ones do.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }
}

/// How long a client tries before it calls a silence a drop.
pub const PATIENCE: Duration = Duration::from_millis(400);

/// Tries TCP once.
#[track_caller]
#[must_use]
pub fn tcp(place: &Place, to: IpAddr, port: u16) -> Outcome {
    attempt(place, SocketAddr::new(to, port), false, None, PATIENCE)
}

/// Tries UDP for a while.
#[track_caller]
#[must_use]
pub fn udp(place: &Place, to: IpAddr, port: u16) -> Outcome {
    attempt(place, SocketAddr::new(to, port), true, None, PATIENCE)
}

/// Tries TCP once from a certain local address.
#[track_caller]
#[must_use]
pub fn tcp_from(place: &Place, from: IpAddr, to: IpAddr, port: u16) -> Outcome {
    attempt(
        place,
        SocketAddr::new(to, port),
        false,
        Some(SocketAddr::new(from, 0)),
        PATIENCE,
    )
}

/// Tries UDP from a certain local address.
#[track_caller]
#[must_use]
pub fn udp_from(place: &Place, from: IpAddr, to: IpAddr, port: u16) -> Outcome {
    attempt(
        place,
        SocketAddr::new(to, port),
        true,
        Some(SocketAddr::new(from, 0)),
        PATIENCE,
    )
}

/// One attempt with everything said.
#[track_caller]
#[must_use]
pub fn attempt(
    place: &Place,
    to: SocketAddr,
    udp: bool,
    from: Option<SocketAddr>,
    patience: Duration,
) -> Outcome {
    let mut cmd = Cmd::new(tools::traffic())
        .arg("connect")
        .arg(to.to_string())
        .arg("--netns")
        .arg(&place.netns);
    cmd = cmd.args(["--timeout", &patience.as_millis().to_string()]);
    if udp {
        cmd = cmd.arg("--udp");
    }
    if let Some(from) = from {
        cmd = cmd.args(["--from", &from.to_string()]);
    }
    let reply = cmd.timeout(patience + Duration::from_secs(5)).json();
    serde_json::from_value(reply.clone())
        .unwrap_or_else(|error| panic!("podgate-traffic said {reply}: {error}"))
}

/// One echo request to an address: whether it was answered.
#[track_caller]
#[must_use]
pub fn ping(place: &Place, to: IpAddr) -> bool {
    place
        .cmd("ping")
        .args(["-c", "1", "-W", "1", "-n", &to.to_string()])
        .run()
        .success()
}

/// Servers that answer with what they heard and from whom.
#[derive(Debug)]
pub struct Server(Helper);

impl Server {
    /// Listens on TCP and UDP ports, on all addresses of both families.
    #[track_caller]
    #[must_use]
    pub fn start(place: &Place, tcp: &[u16], udp: &[u16]) -> Self {
        let list = |ports: &[u16]| {
            ports
                .iter()
                .map(u16::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        let mut words = vec!["serve".to_owned()];
        words.extend((!tcp.is_empty()).then(|| format!("--tcp={}", list(tcp))));
        words.extend((!udp.is_empty()).then(|| format!("--udp={}", list(udp))));
        Self(Helper::ready(place, &words))
    }

    /// The helper's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.child.id()
    }
}

/// A client that tries anew every few milliseconds until a server answers.
#[derive(Debug)]
pub struct Knock(Helper);

impl Knock {
    /// Starts it.
    #[track_caller]
    #[must_use]
    pub fn start(place: &Place, to: IpAddr, port: u16) -> Self {
        let to = SocketAddr::new(to, port).to_string();
        Self(Helper::ready(place, &["knock".to_owned(), to]))
    }

    /// Waits for the answer; returns when it came, by the real-time clock.
    ///
    /// # Panics
    /// When none came within five seconds.
    #[track_caller]
    #[must_use]
    pub fn answered(self) -> SystemTime {
        let reply = self.0.reply();
        let at = reply["openedAtNs"]
            .as_str()
            .and_then(|text| text.parse().ok());
        UNIX_EPOCH + Duration::from_nanos(at.unwrap_or_else(|| panic!("{}: {reply}", self.0.what)))
    }
}

/// A connection that stays open.
#[derive(Debug)]
pub struct Session(Helper);

impl Session {
    /// Opens a TCP connection and makes a first exchange.
    ///
    /// # Panics
    /// When that does not work.
    #[track_caller]
    #[must_use]
    pub fn tcp(place: &Place, to: IpAddr, port: u16) -> Self {
        Self::open(place, SocketAddr::new(to, port), false, None)
    }

    /// Opens a UDP flow and makes a first exchange.
    ///
    /// # Panics
    /// When that does not work.
    #[track_caller]
    #[must_use]
    pub fn udp(place: &Place, to: IpAddr, port: u16) -> Self {
        Self::open(place, SocketAddr::new(to, port), true, None)
    }

    /// Opens a connection from a certain local address and port.
    ///
    /// # Panics
    /// When that does not work.
    #[track_caller]
    #[must_use]
    pub fn open(place: &Place, to: SocketAddr, udp: bool, from: Option<SocketAddr>) -> Self {
        let mut words = vec!["session".to_owned(), to.to_string()];
        words.extend(udp.then(|| "--udp".to_owned()));
        words.extend(from.map(|from| format!("--from={from}")));
        let helper = Helper::start(place, &words);
        let first = helper.reply();
        assert_eq!(first["outcome"], "open", "{}: {first}", helper.what);
        Self(helper)
    }

    /// One exchange on the open connection.
    #[track_caller]
    pub fn exchange(&mut self, patience: Duration) -> Outcome {
        self.0.ask(&format!("ping {}", patience.as_millis()))
    }

    /// Whether an exchange works within the usual patience.
    #[track_caller]
    pub fn works(&mut self) -> bool {
        self.exchange(PATIENCE).is_open()
    }
}

/// Packets per second and destination that this machine's receivers keep up with.
fn rate() -> u64 {
    if crate::is_emulated() { 500 } else { 10_000 }
}

/// The stamped generator.
#[derive(Debug)]
pub struct Flood(Helper);

impl Flood {
    /// Sends to each destination from now on, as soon as there is a way: 10,000 packets a second, or 500 where the machine is
    /// emulated, so that the receivers keep up.
    #[track_caller]
    #[must_use]
    pub fn start(place: &Place, to: &[SocketAddr]) -> Self {
        Self::at_rate(place, to, rate())
    }

    /// As [`Flood::start`], but IPv4 packets only from the moment on at which aws-cni has made the pod's neighbour entry for its gateway.
    #[track_caller]
    #[must_use]
    pub fn start_after_aws(place: &Place, to: &[SocketAddr]) -> Self {
        let mut words = vec![
            "flood".to_owned(),
            format!("--rate={}", rate()),
            "--after-neighbour=169.254.1.1".to_owned(),
        ];
        words.extend(to.iter().map(SocketAddr::to_string));
        Self(Helper::ready(place, &words))
    }

    /// Another rate.
    #[track_caller]
    #[must_use]
    pub fn at_rate(place: &Place, to: &[SocketAddr], rate: u64) -> Self {
        let mut words = vec!["flood".to_owned(), format!("--rate={rate}")];
        words.extend(to.iter().map(SocketAddr::to_string));
        Self(Helper::ready(place, &words))
    }

    /// What was sent so far, by destination.
    #[track_caller]
    pub fn report(&mut self) -> std::collections::BTreeMap<SocketAddr, FloodReport> {
        self.0.ask("report")
    }

    /// Stops it.
    #[track_caller]
    pub fn stop(mut self) -> std::collections::BTreeMap<SocketAddr, FloodReport> {
        self.0.ask("stop")
    }
}

/// The receiver of stamped packets.
#[derive(Debug)]
pub struct Sink {
    helper: Helper,
    /// Its port.
    pub port: u16,
}

impl Sink {
    /// Receives on a free port.
    #[track_caller]
    #[must_use]
    pub fn start(place: &Place) -> Self {
        Self::on(place, 0)
    }

    /// Receives on a certain port.
    #[track_caller]
    #[must_use]
    pub fn on(place: &Place, port: u16) -> Self {
        let helper = Helper::start(place, &["sink".to_owned(), port.to_string()]);
        let hello = helper.reply();
        let port = hello["port"]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok());
        let port = port.unwrap_or_else(|| panic!("{} said {hello}", helper.what));
        Self { helper, port }
    }

    /// What came so far, by source; all that reached the socket before the call is counted.
    #[track_caller]
    pub fn report(&mut self) -> SinkReport {
        self.helper.ask("report")
    }

    /// What came so far of what was sent between two moments (`CLOCK_MONOTONIC` nanoseconds).
    #[track_caller]
    pub fn window(&mut self, from_ns: u64, to_ns: u64) -> SinkReport {
        self.helper.ask(&format!("report {from_ns} {to_ns}"))
    }

    /// What came so far from one address.
    #[track_caller]
    pub fn from(&mut self, source: IpAddr) -> SourceCount {
        self.report()
            .remove(&source.to_string())
            .unwrap_or_default()
    }
}

/// One kind of frame that a capture saw.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// What the frames say.
    pub summary: Summary,
    /// Whether the namespace sent them.
    pub outgoing: bool,
    /// How many.
    pub count: u64,
    /// When the last was seen.
    pub last_seen_ns: u64,
    /// The latest stamp in them; 0 = none.
    pub last_sent_ns: u64,
}

/// A capture of all frames in a namespace.
#[derive(Debug)]
pub struct Capture(Helper);

impl Capture {
    /// Captures on all interfaces.
    #[track_caller]
    #[must_use]
    pub fn start(place: &Place) -> Self {
        Self(Helper::ready(place, &["capture".to_owned()]))
    }

    /// Captures on one interface.
    #[track_caller]
    #[must_use]
    pub fn on(place: &Place, iface: &str) -> Self {
        Self(Helper::ready(
            place,
            &["capture".to_owned(), format!("--iface={iface}")],
        ))
    }

    /// What was seen so far, all that came before the call included.
    #[track_caller]
    pub fn report(&mut self) -> Vec<Seen> {
        self.0.ask("report")
    }

    /// Frames that came in and are under policy: neither ARP nor neighbour and router discovery.
    #[track_caller]
    pub fn incoming(&mut self) -> Vec<Seen> {
        self.report()
            .into_iter()
            .filter(|seen| !seen.outgoing && !seen.summary.is_link_upkeep())
            .collect()
    }

    /// How many packets came in from an address.
    #[track_caller]
    pub fn count_from(&mut self, source: IpAddr) -> u64 {
        self.incoming()
            .iter()
            .filter(|seen| seen.summary.source == Some(source))
            .map(|seen| seen.count)
            .sum()
    }

    /// The first frames, as bytes.
    #[track_caller]
    pub fn frames(&mut self) -> Vec<Vec<u8>> {
        let frames: Vec<String> = self.0.ask("frames");
        frames
            .iter()
            .filter_map(|frame| crate::frames::from_hex(frame))
            .collect()
    }
}

/// Sends raw frames from an interface.
///
/// # Panics
/// When the kernel does not take one.
#[track_caller]
pub fn send_frames(place: &Place, iface: &str, frames: &[Vec<u8>]) {
    let lines: String = frames
        .iter()
        .map(|frame| crate::frames::to_hex(frame) + "\n")
        .collect();
    let reply = Cmd::new(tools::traffic())
        .args(["send", iface])
        .arg("--netns")
        .arg(&place.netns)
        .stdin(lines)
        .json();
    assert_eq!(
        reply["sent"],
        frames.len(),
        "raw frames in {}: {reply}",
        place.label
    );
}
