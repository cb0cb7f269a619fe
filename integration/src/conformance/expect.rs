//! The truth about a step, as a person writes it: what each pod lets in and what it lets out.
//!
//! ```yaml
//! expect:
//!   ingress:
//!     x/a: ["x/b, y/* tcp/80", "o/1 v6"]   # isolated: this and nothing else
//!     x/b: []                              # isolated: nothing
//!     x/c: [mode, "deny y/b udp"]          # not isolated, but for one thing
//! ```
//!
//! A line is `[allow|deny] PEERS [to=DESTINATION] [PORTS] [v4|v6]`; PEERS, DESTINATION are names with `*`, PORTS are `tcp`, `tcp/80`,
//! `udp/80-81`. The last line that fits holds. A pod that is not named lets everything pass in standard mode and nothing in strict mode,
//! and so does one whose lines begin with `mode`. A connection is open when its source lets it out and its destination lets it in.
//! To a Service it is let out when it is to one of its backends, or where a line names the cluster address itself (`svc/NAME`, by the
//! Service's port, never `*`): a policy may name that address alone.

use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::case::Mode;

/// A transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// In lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp]
            .into_iter()
            .find(|protocol| protocol.name() == text)
    }
}

/// A connection as policy sees it.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// Who opens it, `namespace/name`.
    pub from: &'a str,
    /// Who takes it.
    pub to: &'a str,
    /// The address that it goes to: its family counts.
    pub address: IpAddr,
    /// By what.
    pub protocol: Protocol,
    /// The port of whoever takes it.
    pub port: u16,
}

/// The truth after a step.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// What pods let in.
    #[serde(default)]
    pub ingress: Sides,
    /// What pods let out.
    #[serde(default)]
    pub egress: Sides,
}

impl Expect {
    /// Whether a connection works.
    #[must_use]
    pub fn open(&self, mode: Mode, connection: &Connection<'_>) -> bool {
        self.lets_out(mode, connection) && self.lets_in(mode, connection)
    }

    /// Whether the source lets it out.
    #[must_use]
    pub fn lets_out(&self, mode: Mode, connection: &Connection<'_>) -> bool {
        connection.from == connection.to
            || self
                .egress
                .pass(mode, connection.from, connection.to, connection)
    }

    /// Whether a line of the source's own allows it, whatever the mode.
    #[must_use]
    pub fn lets_out_by_line(&self, connection: &Connection<'_>) -> bool {
        self.egress
            .pass(Mode::Strict, connection.from, connection.to, connection)
    }

    /// Whether the destination lets it in.
    #[must_use]
    pub fn lets_in(&self, mode: Mode, connection: &Connection<'_>) -> bool {
        connection.from == connection.to
            || self
                .ingress
                .pass(mode, connection.to, connection.from, connection)
    }
}

/// One direction: pods (with `*`) and their lines.
#[derive(Debug, Clone, Default)]
pub struct Sides(Vec<(Names, Side)>);

impl Sides {
    /// Whether the direction is spoken of at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds pods and their lines.
    ///
    /// # Errors
    /// When a line is none.
    pub fn push(&mut self, pods: &str, lines: &[String]) -> Result<(), String> {
        self.0.push((Names::parse(pods), Side::parse(lines)?));
        Ok(())
    }

    /// Those of `pods` that two keys name: the truth about them would be a guess.
    #[must_use]
    pub fn named_twice<'a>(&self, pods: &[&'a str]) -> Option<&'a str> {
        let named = |pod: &str| self.0.iter().filter(|(names, _)| names.has(pod)).count();
        pods.iter().copied().find(|pod| named(pod) > 1)
    }

    fn pass(&self, mode: Mode, pod: &str, peer: &str, connection: &Connection<'_>) -> bool {
        if is_outside(pod) {
            return true;
        }
        match self.0.iter().find(|(names, _)| names.has(pod)) {
            Some((_, side)) => side.pass(mode, peer, connection),
            None => mode == Mode::Standard,
        }
    }
}

/// Whether a name is one of the outside host's: nobody filters there.
fn is_outside(name: &str) -> bool {
    name.starts_with("o/")
}

impl<'de> Deserialize<'de> for Sides {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Sides;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("pods and their lines")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sides, A::Error> {
                let mut sides = Sides::default();
                while let Some((pods, lines)) = map.next_entry::<String, Vec<String>>()? {
                    sides.push(&pods, &lines).map_err(A::Error::custom)?;
                }
                Ok(sides)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[derive(Debug, Clone)]
struct Side {
    /// Begins from what the mode says, and not from nothing.
    by_mode: bool,
    lines: Vec<Line>,
}

impl Side {
    fn parse(lines: &[String]) -> Result<Self, String> {
        let by_mode = lines.first().is_some_and(|line| line == "mode");
        let rest = lines.iter().skip(usize::from(by_mode));
        Ok(Self {
            by_mode,
            lines: rest
                .map(|line| Line::parse(line))
                .collect::<Result<_, _>>()?,
        })
    }

    fn pass(&self, mode: Mode, peer: &str, connection: &Connection<'_>) -> bool {
        let last = self
            .lines
            .iter()
            .rev()
            .find(|line| line.fits(peer, connection));
        last.map_or(self.by_mode && mode == Mode::Standard, |line| line.allow)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    allow: bool,
    peers: Names,
    to: Option<Names>,
    ports: Vec<Ports>,
    v4: bool,
    v6: bool,
}

impl Line {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("line {text:?}: {why}");
        // A blank after a comma is for the eye.
        let joined = text.replace(", ", ",");
        let mut words = joined.split_whitespace().peekable();
        let allow = match words.peek() {
            Some(&"deny") => {
                words.next();
                false
            }
            Some(&"allow") => {
                words.next();
                true
            }
            _ => true,
        };
        let peers = Names::parse(words.next().ok_or_else(|| wrong("no peers"))?);
        let mut line = Self {
            allow,
            peers,
            to: None,
            ports: Vec::new(),
            v4: true,
            v6: true,
        };
        for word in words {
            if word == "v4" {
                line.v6 = false;
            } else if word == "v6" {
                line.v4 = false;
            } else if let Some(names) = word.strip_prefix("to=") {
                line.to = Some(Names::parse(names));
            } else {
                let ports = word
                    .split(',')
                    .map(Ports::parse)
                    .collect::<Option<Vec<_>>>();
                line.ports
                    .extend(ports.ok_or_else(|| wrong(&format!("{word:?} is no port")))?);
            }
        }
        Ok(line)
    }

    fn fits(&self, peer: &str, connection: &Connection<'_>) -> bool {
        let family = if connection.address.is_ipv4() {
            self.v4
        } else {
            self.v6
        };
        family
            && self.peers.has(peer)
            && self.to.as_ref().is_none_or(|to| to.has(connection.to))
            && (self.ports.is_empty() || self.ports.iter().any(|ports| ports.fit(connection)))
    }
}

/// Names, each with `*` for a whole namespace or name; `*` alone is everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Names(Vec<(String, String)>);

impl Names {
    fn parse(text: &str) -> Self {
        let names = text.split(',').map(str::trim);
        Self(
            names
                .map(|name| {
                    let (namespace, name) = name.split_once('/').unwrap_or((name, "*"));
                    (namespace.to_owned(), name.to_owned())
                })
                .collect(),
        )
    }

    fn has(&self, full: &str) -> bool {
        let (namespace, name) = full.split_once('/').unwrap_or((full, ""));
        let fits = |pattern: &str, text: &str| pattern == "*" || pattern == text;
        // A Service's address is meant only where it is named: a block that has it says nothing of its backends.
        self.0
            .iter()
            .any(|(n, m)| fits(n, namespace) && fits(m, name) && (namespace != "svc" || n == "svc"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ports {
    protocol: Protocol,
    first: u16,
    last: u16,
}

impl Ports {
    fn parse(text: &str) -> Option<Self> {
        let (protocol, ports) = text.split_once('/').unwrap_or((text, "0-65535"));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        Some(Self {
            protocol: Protocol::parse(protocol)?,
            first: first.parse().ok()?,
            last: last.parse().ok()?,
        })
    }

    fn fit(&self, connection: &Connection<'_>) -> bool {
        self.protocol == connection.protocol && (self.first..=self.last).contains(&connection.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(yaml: &str) -> Expect {
        serde_norway::from_str(yaml).expect("an expectation")
    }

    fn open(
        expect: &Expect,
        mode: Mode,
        from: &str,
        to: &str,
        protocol: Protocol,
        port: u16,
        v6: bool,
    ) -> bool {
        let address = if v6 { "::1" } else { "127.0.0.1" }
            .parse()
            .expect("an address");
        expect.open(
            mode,
            &Connection {
                from,
                to,
                address,
                protocol,
                port,
            },
        )
    }

    #[test]
    fn a_named_pod_lets_in_what_its_lines_say_in_both_modes() {
        let truth = expect("{ingress: {x/a: ['x/b, y/* tcp/80', 'o/1 v6']}, egress: {'*': ['*']}}");
        for mode in [Mode::Standard, Mode::Strict] {
            assert!(open(&truth, mode, "x/b", "x/a", Protocol::Tcp, 80, false));
            assert!(open(&truth, mode, "y/c", "x/a", Protocol::Tcp, 80, true));
            assert!(!open(&truth, mode, "y/c", "x/a", Protocol::Tcp, 81, true));
            assert!(!open(&truth, mode, "y/c", "x/a", Protocol::Udp, 80, true));
            assert!(!open(&truth, mode, "z/b", "x/a", Protocol::Tcp, 80, true));
            assert!(open(&truth, mode, "o/1", "x/a", Protocol::Udp, 9, true));
            assert!(!open(&truth, mode, "o/1", "x/a", Protocol::Udp, 9, false));
            assert!(
                open(&truth, mode, "x/a", "x/a", Protocol::Udp, 9, false),
                "itself"
            );
        }
    }

    #[test]
    fn a_pod_that_is_not_named_does_as_the_mode_says() {
        let truth = expect("{}");
        assert!(open(
            &truth,
            Mode::Standard,
            "x/b",
            "x/a",
            Protocol::Tcp,
            80,
            false
        ));
        assert!(!open(
            &truth,
            Mode::Strict,
            "x/b",
            "x/a",
            Protocol::Tcp,
            80,
            false
        ));
    }

    #[test]
    fn the_last_line_that_fits_holds_and_mode_is_a_beginning() {
        let truth = expect(
            "{ingress: {x/a: [mode, 'deny * tcp', '*/b to=*/a tcp/80-81']}, egress: {'*': ['*']}}",
        );
        assert!(open(
            &truth,
            Mode::Standard,
            "z/b",
            "x/a",
            Protocol::Tcp,
            81,
            false
        ));
        assert!(!open(
            &truth,
            Mode::Standard,
            "z/c",
            "x/a",
            Protocol::Tcp,
            81,
            false
        ));
        assert!(open(
            &truth,
            Mode::Standard,
            "z/c",
            "x/a",
            Protocol::Udp,
            81,
            false
        ));
        assert!(!open(
            &truth,
            Mode::Strict,
            "z/c",
            "x/a",
            Protocol::Udp,
            81,
            false
        ));
        assert!(open(
            &truth,
            Mode::Strict,
            "z/b",
            "x/a",
            Protocol::Tcp,
            81,
            false
        ));
    }

    #[test]
    fn what_is_no_line_is_an_error() {
        for line in ["x/a tcp80", "", "x/a tcp/80-", "x/a icmp"] {
            assert!(Line::parse(line).is_err(), "{line}");
        }
    }
}
