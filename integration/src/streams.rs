//! Streams that go on by themselves: servers that send all the time, clients that only listen, and what fills a flow table.

pub mod ends;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

pub use ends::{End, Target, Transport};

use crate::cmd::Cmd;
use crate::node::Place;
use crate::tools;
use crate::traffic::Helper;

/// TCP and UDP at one port of some addresses.
#[must_use]
pub fn targets(addresses: &[IpAddr], port: u16) -> Vec<Target> {
    let target = |address: &IpAddr, transport| Target {
        transport,
        address: SocketAddr::new(*address, port),
    };
    addresses
        .iter()
        .flat_map(|address| [Transport::Tcp, Transport::Udp].map(|t| target(address, t)))
        .collect()
}

fn words(command: &str, targets: &[Target]) -> Vec<String> {
    let mut words = vec![command.to_owned()];
    words.extend(targets.iter().map(ToString::to_string));
    words
}

/// A server that sends to all who have come.
#[derive(Debug)]
pub struct Pour(Helper);

impl Pour {
    /// Sends to each every `gap`.
    #[track_caller]
    #[must_use]
    pub fn start(place: &Place, on: &[Target], gap: Duration) -> Self {
        let mut words = words("pour", on);
        words.push(format!("--gap={}", gap.as_micros()));
        Self(Helper::ready(place, &words))
    }

    /// Greets whoever comes, and speaks again when told.
    #[track_caller]
    #[must_use]
    pub fn quiet(place: &Place, on: &[Target]) -> Self {
        Self::start(place, on, Duration::ZERO)
    }

    /// Sends once to all.
    #[track_caller]
    pub fn speak(&mut self) -> Vec<End> {
        self.0.ask("speak")
    }

    /// What was sent and heard so far, one entry a connection.
    #[track_caller]
    pub fn report(&mut self) -> Vec<End> {
        self.0.ask("report")
    }
}

/// Clients that listen.
#[derive(Debug)]
pub struct Drink(Helper);

impl Drink {
    /// Whether a connection to the target can be opened and is greeted.
    #[track_caller]
    #[must_use]
    pub fn works(place: &Place, to: Target, patience: Duration) -> bool {
        let words = [
            "drink",
            &to.to_string(),
            "--limit",
            &patience.as_millis().to_string(),
        ];
        // Its input is closed: it ends once it has been greeted, or could not be.
        Cmd::new(tools::traffic())
            .args(words)
            .arg("--netns")
            .arg(&place.netns)
            .timeout(patience + Duration::from_secs(5))
            .run()
            .success()
    }

    /// Opens one connection to each target; returns once each has heard the server.
    #[track_caller]
    #[must_use]
    pub fn open(place: &Place, to: &[Target]) -> Self {
        Self::many(place, to, 1)
    }

    /// Opens so many connections to each target; returns once each has heard the server.
    #[track_caller]
    #[must_use]
    pub fn many(place: &Place, to: &[Target], connections: usize) -> Self {
        let mut words = words("drink", to);
        words.push(format!("--connections={connections}"));
        Self(Helper::ready(place, &words))
    }

    /// Sends once on each.
    #[track_caller]
    pub fn speak(&mut self) -> Vec<End> {
        self.0.ask("speak")
    }

    /// What came so far, one entry a connection.
    #[track_caller]
    pub fn report(&mut self) -> Vec<End> {
        self.0.ask("report")
    }
}

/// A TCP SYN to each of the 65,535 ports of an address; how many were sent.
#[track_caller]
#[must_use]
pub fn scan(place: &Place, to: IpAddr) -> u64 {
    number(place, &["scan", &to.to_string()], "sent")
}

/// One question from each of the 65,535 local ports to a UDP server; how many were answered.
#[track_caller]
#[must_use]
pub fn ask_from_every_port(place: &Place, to: SocketAddr) -> u64 {
    number(place, &["ask", &to.to_string()], "answered")
}

fn number(place: &Place, words: &[&str], key: &str) -> u64 {
    let reply: Value = Cmd::new(tools::traffic())
        .args(words)
        .arg("--netns")
        .arg(&place.netns)
        .timeout(Duration::from_secs(120))
        .json();
    reply[key]
        .as_u64()
        .unwrap_or_else(|| panic!("podgate-traffic {words:?} said {reply}"))
}
