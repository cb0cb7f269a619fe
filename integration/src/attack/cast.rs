//! Who plays in an attack, and frames written with their names.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;
use verdict::Direction;

use super::sockets::Sender;
use crate::frames::{Mac, mac, to_hex};
use crate::node::Place;

/// Somebody who sends and receives frames.
#[derive(Debug)]
pub struct Actor {
    /// Its namespace.
    pub place: Place,
    /// Its interface.
    pub iface: String,
    /// Its hardware address.
    pub mac: Mac,
    /// That of its gateway.
    pub gateway: Mac,
    sender: Sender,
}

impl Actor {
    /// One who sends from an interface.
    #[track_caller]
    #[must_use]
    pub fn new(place: &Place, iface: &str, gateway: Mac) -> Self {
        let sender = Sender::open(place, iface);
        Self {
            place: place.clone(),
            iface: iface.to_owned(),
            mac: sender.mac(),
            gateway,
            sender,
        }
    }
}

/// Names of addresses and actors, in one of the two worlds: with podgate and without.
#[derive(Debug, Default)]
pub struct Cast {
    actors: BTreeMap<&'static str, Actor>,
    addresses: BTreeMap<String, [Option<IpAddr>; 2]>,
}

/// What is fresh in each run of an attack.
#[derive(Debug)]
pub struct Values {
    /// Ports that nobody uses: `$S` and `$T`.
    pub ports: [u16; 2],
    /// An identification of fragments: `$I`.
    pub id: u16,
    /// Bytes that tell the frames from others: `mark`, or `{mark}` within hexadecimal digits.
    pub mark: [u8; 8],
}

impl Values {
    /// Fresh ones.
    #[must_use]
    pub fn fresh() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Also an option of neighbour discovery, as long as its second byte says.
        let mut mark = *b"A\x01TACK\0\0";
        mark[6..].copy_from_slice(&number.to_be_bytes());
        Self {
            ports: [10_000 + number, 40_000 + number],
            id: number,
            mark,
        }
    }
}

/// One line of an attack: `jail: v4 jail > friend tcp $S > 22 syn mark`, or with `jail/14:` in pages, 14 bytes of it linear.
pub(super) struct Line {
    pub(super) actor: String,
    linear: Option<u16>,
    pub(super) bytes: Vec<u8>,
}

impl Cast {
    /// Adds an actor.
    pub fn actor(&mut self, name: &'static str, actor: Actor) {
        self.actors.insert(name, actor);
    }

    /// Names an address.
    pub fn address(&mut self, name: &str, address: IpAddr) {
        let both = self.addresses.entry(name.to_owned()).or_default();
        both[usize::from(address.is_ipv6())] = Some(address);
    }

    /// An actor by name.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    #[must_use]
    pub fn who(&self, name: &str) -> &Actor {
        self.actors
            .get(name)
            .unwrap_or_else(|| panic!("nobody is called {name}"))
    }

    /// An address by name and family.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    #[must_use]
    pub fn ip(&self, name: &str, v6: bool) -> IpAddr {
        self.addresses
            .get(name)
            .and_then(|both| both[usize::from(v6)])
            .unwrap_or_else(|| panic!("nobody has the address {name}, IPv6 {v6}"))
    }

    /// Makes the frame of a line.
    ///
    /// # Panics
    /// When the line is not right.
    #[track_caller]
    pub(super) fn line(&self, text: &str, values: &Values) -> Line {
        let (head, frame) = text
            .split_once(": ")
            .unwrap_or_else(|| panic!("no actor before {text:?}"));
        let (name, linear) = match head.split_once('/') {
            Some((name, linear)) => (name, linear.parse().ok()),
            None => (head, None),
        };
        let actor = self.who(name);
        let words = format!(
            "from={} to={} {}",
            colons(actor.mac),
            colons(actor.gateway),
            self.words(frame, values)
        );
        let wire = verdict_testkit::frame(&words, Direction::Egress)
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        Line {
            actor: name.to_owned(),
            linear,
            bytes: wire.bytes.0,
        }
    }

    /// The words with addresses, ports and marks in the place of their names.
    fn words(&self, frame: &str, values: &Values) -> String {
        let (mut v6, mut words) = (false, Vec::new());
        for word in frame.split_whitespace() {
            match word {
                "v4" | "arp" => v6 = false,
                "v6" => v6 = true,
                "type" => v6 = false,
                _ => {}
            }
            words.push(self.word(word, v6, values));
        }
        words.join(" ")
    }

    fn word(&self, word: &str, v6: bool, values: &Values) -> String {
        if word == "mark" {
            return format!("hex={}", to_hex(&values.mark));
        }
        if let Some(address) = self
            .addresses
            .get(word)
            .and_then(|both| both[usize::from(v6)])
        {
            return address.to_string();
        }
        if let Some((key @ ("from" | "to" | "hw"), name)) = word.split_once('=')
            && let Some(actor) = self.actors.get(name)
        {
            return format!("{key}={}", colons(actor.mac));
        }
        let mut word = word
            .replace("$S", &values.ports[0].to_string())
            .replace("$T", &values.ports[1].to_string())
            .replace("$I", &values.id.to_string())
            .replace("{mark}", &to_hex(&values.mark));
        // `{name}` within hexadecimal digits.
        while let Some((before, rest)) = word.split_once('{')
            && let Some((name, after)) = rest.split_once('}')
        {
            let digits = match name.strip_suffix("-mac") {
                Some(actor) => to_hex(&self.who(actor).mac),
                None => match self.ip(name, v6) {
                    IpAddr::V4(address) => to_hex(&address.octets()),
                    IpAddr::V6(address) => to_hex(&address.octets()),
                },
            };
            word = format!("{before}{digits}{after}");
        }
        word
    }

    /// Sends a line's frame.
    #[track_caller]
    pub(super) fn send(&self, line: &Line) {
        let sender = &self.who(&line.actor).sender;
        match line.linear {
            Some(linear) => sender.send_paged(&line.bytes, linear),
            None => sender.send(&line.bytes),
        }
    }

    /// The bytes of a line's frame.
    #[track_caller]
    #[must_use]
    pub fn bytes(&self, text: &str, values: &Values) -> Vec<u8> {
        self.line(text, values).bytes
    }

    /// Makes and sends the frame of a line at once.
    #[track_caller]
    pub fn play(&self, text: &str, values: &Values) {
        self.send(&self.line(text, values));
    }
}

fn colons(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Hardware address and addresses of an interface, as `ip` says them: the link-local one last.
#[track_caller]
pub(super) fn interface(place: &Place, iface: &str) -> (Mac, Vec<IpAddr>) {
    let link: Value = place.cmd("ip").args(["-j", "addr", "show", iface]).json();
    let mut addresses: Vec<IpAddr> = link[0]["addr_info"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|info| info["local"].as_str()?.parse().ok())
        .collect();
    addresses.sort_by_key(is_link_local);
    (
        mac(link[0]["address"].as_str().unwrap_or_default()),
        addresses,
    )
}

pub(super) fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
