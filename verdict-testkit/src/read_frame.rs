//! Frames from words: `from=stranger v4 peer > pod ttl=3 tcp 40000 > 80 syn`.
//!
//! A frame is read from left to right, the outermost header first; `key=value` changes the header named before it, and
//! an ICMP error holds its embedded packet in brackets. `verdict/tests/corpus/README.md` lists the words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use verdict::layout::{Direction, V4 as FAMILY_V4, V6 as FAMILY_V6};
use verdict::packet::{proto, tcp};

use crate::frames::{self, Bytes, V4, V6, Wire};

/// MAC address of the pod's end.
pub(crate) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// MAC address of the host's end.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const STRANGER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x66];

/// An address by one of the names that every case knows, or written out.
///
/// # Errors
/// If it is neither a name nor an address of the family.
pub(crate) fn address(word: &str, family: u8) -> Result<IpAddr, String> {
    let known: Option<(&str, &str)> = match word {
        "pod" => Some(("10.0.0.2", "fd00::2")),
        "host" => Some(("10.0.0.1", "fd00::1")),
        "peer" => Some(("10.9.0.1", "fd09::1")),
        "other" => Some(("10.9.0.2", "fd09::2")),
        "service" => Some(("10.96.0.10", "fd96::10")),
        "far" => Some(("192.0.2.7", "2001:db8::7")),
        "any" => Some(("0.0.0.0", "::")),
        "pod-local" => Some(("169.254.0.2", "fe80::2")),
        "host-local" => Some(("169.254.0.1", "fe80::1")),
        "peer-local" => Some(("169.254.0.9", "fe80::9")),
        "all" => Some(("224.0.0.1", "ff02::1")),
        "routers" => Some(("224.0.0.2", "ff02::2")),
        "solicited-pod" => Some(("255.255.255.255", "ff02::1:ff00:2")),
        _ => None,
    };
    let text = known.map_or(
        word,
        |(four, six)| if family == FAMILY_V4 { four } else { six },
    );
    match text.parse() {
        Ok(ip @ IpAddr::V4(_)) if family == FAMILY_V4 => Ok(ip),
        Ok(ip @ IpAddr::V6(_)) if family == FAMILY_V6 => Ok(ip),
        _ => Err(format!("{word:?} is no address of IPv{family}")),
    }
}

fn v4_address(word: &str) -> Result<Ipv4Addr, String> {
    match address(word, FAMILY_V4)? {
        IpAddr::V4(a) => Ok(a),
        IpAddr::V6(_) => Err(format!("{word:?} is no IPv4 address")),
    }
}

fn v6_address(word: &str) -> Result<Ipv6Addr, String> {
    match address(word, FAMILY_V6)? {
        IpAddr::V6(a) => Ok(a),
        IpAddr::V4(_) => Err(format!("{word:?} is no IPv6 address")),
    }
}

fn mac(word: &str) -> Result<[u8; 6], String> {
    match word {
        "pod" => return Ok(POD_MAC),
        "host" => return Ok(HOST_MAC),
        "stranger" => return Ok(STRANGER_MAC),
        "broadcast" => return Ok([0xff; 6]),
        _ => {}
    }
    let mut out = [0; 6];
    let parts: Vec<&str> = word.split(':').collect();
    if parts.len() != 6 {
        return Err(format!("{word:?} is no MAC address"));
    }
    for (o, p) in out.iter_mut().zip(parts) {
        *o = u8::from_str_radix(p, 16).map_err(|e| format!("MAC address {word:?}: {e}"))?;
    }
    Ok(out)
}

/// A number, decimal or with `0x`.
pub(crate) fn number<T: TryFrom<u64>>(word: &str) -> Result<T, String> {
    let n = match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => word.parse(),
    };
    n.ok()
        .and_then(|n| T::try_from(n).ok())
        .ok_or_else(|| format!("{word:?} is no number that fits"))
}

fn hex(word: &str) -> Result<Vec<u8>, String> {
    let bytes = word.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return Err(format!("hex {word:?} has an odd number of digits"));
    }
    bytes
        .chunks(2)
        .map(|pair| {
            std::str::from_utf8(pair)
                .ok()
                .and_then(|p| u8::from_str_radix(p, 16).ok())
                .ok_or_else(|| format!("{word:?} is not hex"))
        })
        .collect()
}

/// The words of a frame, not read yet.
struct Words<'a> {
    words: std::iter::Peekable<std::str::SplitWhitespace<'a>>,
}

impl<'a> Words<'a> {
    fn next(&mut self, what: &str) -> Result<&'a str, String> {
        self.words
            .next()
            .ok_or_else(|| format!("{what} is missing"))
    }

    fn number<T: TryFrom<u64>>(&mut self, what: &str) -> Result<T, String> {
        number(self.next(what)?)
    }

    /// The next word if it is this one.
    fn take(&mut self, word: &str) -> bool {
        self.words.next_if(|w| *w == word).is_some()
    }

    /// The next word if it is a `key=value`.
    fn setting(&mut self) -> Option<(&'a str, &'a str)> {
        self.words.next_if(|w| w.contains('='))?.split_once('=')
    }

    fn arrow(&mut self) -> Result<(&'a str, &'a str), String> {
        let from = self.next("a source")?;
        if !self.take(">") {
            return Err(format!("expected \">\" after {from:?}"));
        }
        Ok((from, self.next("a destination")?))
    }
}

fn unknown<T>(what: &str, key: &str) -> Result<T, String> {
    Err(format!("{what} knows no {key:?}"))
}

/// Reads a frame as it stands at a hook; the MAC addresses are right for the direction unless named.
///
/// # Errors
/// What is wrong with the words.
pub fn frame(text: &str, direction: Direction) -> Result<Wire, String> {
    let mut words = Words {
        words: text.split_whitespace().peekable(),
    };
    let (mut to, mut from) = match direction {
        Direction::Ingress => (POD_MAC, HOST_MAC),
        Direction::Egress => (HOST_MAC, POD_MAC),
    };
    let (mut wire, mut tags, mut cut, mut pad) = (Wire::default(), Vec::new(), None, 0usize);
    while let Some((key, value)) = words.setting() {
        match key {
            "to" => to = mac(value)?,
            "from" => from = mac(value)?,
            "tag" => tags.push(match value.split_once(':') {
                Some((ethertype, tci)) => (number(ethertype)?, number(tci)?),
                None => (0x8100u16, number::<u16>(value)?),
            }),
            "beside" => wire.tag_beside = Some(number(value)?),
            "cut" => cut = Some(number::<u32>(value)? as usize),
            "pad" => pad = number::<u32>(value)? as usize,
            "gso" => wire.gso_size = number(value)?,
            "long" => wire.long = Some(number(value)?),
            _ => return unknown("a frame", key),
        }
    }
    let kind = words.next("a kind of frame")?;
    let (mut ethertype, mut body) = match kind {
        "raw" => {
            wire.bytes = Bytes(hex(words.words.next().unwrap_or_default())?);
            return Ok(wire);
        }
        "type" => (
            words.number("an ethertype")?,
            words.words.next().map_or(Ok(vec![0; 46]), hex)?,
        ),
        "arp" => (0x0806, arp(&mut words, from)?),
        "v4" => (0x0800, v4(&mut words)?),
        "v6" => (0x86dd, v6(&mut words)?),
        _ => return unknown("the reader", kind),
    };
    if let Some(word) = words.words.next() {
        return Err(format!("{word:?} was not expected"));
    }
    for (tpid, tci) in tags.into_iter().rev() {
        body = frames::tag(tci, ethertype, &body);
        ethertype = tpid;
    }
    let mut bytes = frames::ethernet(to, from, ethertype, &body);
    bytes.resize(bytes.len() + pad, 0);
    bytes.truncate(cut.unwrap_or(usize::MAX));
    wire.bytes = Bytes(bytes);
    Ok(wire)
}

fn arp(words: &mut Words<'_>, from: [u8; 6]) -> Result<Vec<u8>, String> {
    let operation = match words.next("request or reply")? {
        "request" => 1,
        "reply" => 2,
        other => number(other)?,
    };
    let (sender, target) = words.arrow()?;
    let (mut sender_mac, mut first_byte, mut length) = (from, None, 28);
    while let Some((key, value)) = words.setting() {
        match key {
            "hw" => sender_mac = mac(value)?,
            "hardware" => first_byte = Some(number::<u8>(value)?),
            "keep" => length = number::<u8>(value)?,
            _ => return unknown("arp", key),
        }
    }
    let mut out = frames::arp(
        operation,
        (sender_mac, v4_address(sender)?),
        ([0; 6], v4_address(target)?),
    );
    if let Some(byte) = first_byte {
        out[1] = byte;
    }
    out.truncate(usize::from(length));
    Ok(out)
}

fn v4(words: &mut Words<'_>) -> Result<Vec<u8>, String> {
    let (src, dst) = words.arrow()?;
    let mut header = V4::new(v4_address(src)?, v4_address(dst)?, 0);
    let (mut protocol, mut version, mut ihl) = (None, 4u8, None);
    loop {
        if words.take("more") {
            header.more = true;
            continue;
        }
        let Some((key, value)) = words.setting() else {
            break;
        };
        match key {
            "ttl" => header.ttl = number(value)?,
            "id" => header.id = number(value)?,
            "at" => header.offset = number(value)?,
            "options" => header.options = hex(value)?,
            "total" => header.total = Some(number(value)?),
            "proto" => protocol = Some(number(value)?),
            "version" => version = number(value)?,
            "ihl" => ihl = Some(number::<u8>(value)?),
            _ => return unknown("v4", key),
        }
    }
    let real = 5 + header.options.len().div_ceil(4) as u8;
    header.first_byte = Some((version << 4) | ihl.unwrap_or(real));
    let (named, payload) = transport(words, IpAddr::V4(header.src), IpAddr::V4(header.dst))?;
    header.protocol = protocol.unwrap_or(named);
    Ok(header.packet(&payload))
}

fn extension(value: &str) -> Result<(u8, Vec<u8>), String> {
    let parts: Vec<&str> = value.split(':').collect();
    match parts.as_slice() {
        ["alert"] => Ok((proto::HOP_BY_HOP, vec![0, 0, 5, 2, 0, 0, 1, 0])),
        ["hbh"] => Ok(V6::options(proto::HOP_BY_HOP, 1)),
        ["hbh", units] => Ok(V6::options(proto::HOP_BY_HOP, number(units)?)),
        ["dst"] => Ok(V6::options(proto::DESTINATION, 1)),
        ["dst", units] => Ok(V6::options(proto::DESTINATION, number(units)?)),
        ["rt", kind, left] => Ok(V6::routing(number(kind)?, number(left)?)),
        ["frag", at, id] => Ok(V6::fragment(number(at)?, false, number(id)?)),
        ["frag", at, "more", id] => Ok(V6::fragment(number(at)?, true, number(id)?)),
        ["ah"] => Ok(V6::authentication()),
        [kind, bytes] => Ok((number(kind)?, hex(bytes)?)),
        _ => unknown("v6", value),
    }
}

fn v6(words: &mut Words<'_>) -> Result<Vec<u8>, String> {
    let (src, dst) = words.arrow()?;
    let mut header = V6::new(v6_address(src)?, v6_address(dst)?, proto::NO_NEXT);
    let mut protocol = None;
    while let Some((key, value)) = words.setting() {
        match key {
            "hop" => header.hop_limit = number(value)?,
            "ext" => header.extensions.push(extension(value)?),
            "payload" => header.payload = Some(number(value)?),
            "version" => header.first_byte = Some(number::<u8>(value)? << 4),
            "proto" => protocol = Some(number(value)?),
            _ => return unknown("v6", key),
        }
    }
    let (named, payload) = transport(words, IpAddr::V6(header.src), IpAddr::V6(header.dst))?;
    header.protocol = protocol.unwrap_or(named);
    Ok(header.packet(&payload))
}

fn tcp_flags(words: &mut Words<'_>) -> u8 {
    let mut flags = 0;
    loop {
        if words.take("syn") {
            flags |= tcp::SYN;
        } else if words.take("ack") {
            flags |= tcp::ACK;
        } else if words.take("fin") {
            flags |= tcp::FIN;
        } else if words.take("rst") {
            flags |= tcp::RST;
        } else {
            return flags;
        }
    }
}

/// Number and bytes of the transport header with its data.
fn transport(words: &mut Words<'_>, src: IpAddr, dst: IpAddr) -> Result<(u8, Vec<u8>), String> {
    let six = dst.is_ipv6();
    let icmp = if six { proto::ICMPV6 } else { proto::ICMP };
    let kind = match words.words.next_if(|w| *w != "]") {
        Some(kind) => kind,
        None => return Ok((proto::NO_NEXT, Vec::new())),
    };
    let mut discovery = |kind: u8, target: bool, length: usize| -> Result<(u8, Vec<u8>), String> {
        let mut data = if target {
            v6_address(words.next("a target")?)?.octets().to_vec()
        } else {
            Vec::new()
        };
        data.resize(length, 0);
        Ok((proto::ICMPV6, frames::icmp(kind, 0, [0; 4], &data)))
    };
    let (protocol, mut l4) = match kind {
        "ns" => discovery(135, true, 16)?,
        "na" => discovery(136, true, 16)?,
        "rs" => discovery(133, false, 0)?,
        "ra" => discovery(134, false, 8)?,
        "redirect" => discovery(137, true, 32)?,
        "query" => discovery(130, true, 16)?,
        "report" => discovery(131, true, 16)?,
        "done" => discovery(132, true, 16)?,
        "report2" => {
            let groups: Vec<&str> = words.next("groups")?.split(',').collect();
            let mut data = Vec::new();
            for group in &groups {
                data.extend([4, 0, 0, 0]);
                data.extend(v6_address(group)?.octets());
            }
            let [a, b] = (groups.len() as u16).to_be_bytes();
            (proto::ICMPV6, frames::icmp(143, 0, [0, 0, a, b], &data))
        }
        "tcp" => {
            let (s, d) = words.arrow()?;
            let flags = tcp_flags(words);
            (
                proto::TCP,
                frames::tcp(number(s)?, number(d)?, flags, 5, &[]),
            )
        }
        "udp" => {
            let (s, d) = words.arrow()?;
            (proto::UDP, frames::udp(number(s)?, number(d)?, &[]))
        }
        "udplite" => {
            let (s, d) = words.arrow()?;
            (proto::UDPLITE, frames::udp(number(s)?, number(d)?, &[]))
        }
        "dccp" => {
            let (s, d) = words.arrow()?;
            (proto::DCCP, frames::sctp(number(s)?, number(d)?, &[]))
        }
        "sctp" => {
            let (s, d) = words.arrow()?;
            (proto::SCTP, frames::sctp(number(s)?, number(d)?, &[]))
        }
        "echo" | "reply" => {
            let [a, b] = words.number::<u16>("an identifier")?.to_be_bytes();
            let kind = match (kind, six) {
                ("echo", false) => 8,
                ("echo", true) => 128,
                (_, false) => 0,
                (_, true) => 129,
            };
            (icmp, frames::icmp(kind, 0, [a, b, 0, 1], &[]))
        }
        "icmp" => {
            let (kind, code) = (words.number("a type")?, words.number("a code")?);
            let mut embedded = Vec::new();
            if words.take("[") {
                embedded = match words.next("an embedded packet")? {
                    "v4" => v4(words)?,
                    "v6" => v6(words)?,
                    "bytes" => hex(words.next("hex")?)?,
                    other => return unknown("an ICMP error", other),
                };
                if !words.take("]") {
                    return Err("the embedded packet has no end".into());
                }
            }
            (icmp, frames::icmp(kind, code, [0; 4], &embedded))
        }
        "proto" => (words.number("a protocol")?, Vec::new()),
        "bytes" => (proto::NO_NEXT, hex(words.next("hex")?)?),
        _ => return unknown("the reader", kind),
    };
    let mut window = (0, usize::MAX);
    while let Some((key, value)) = words.setting() {
        match key {
            "hex" => l4.extend(hex(value)?),
            "data" => l4.resize(l4.len() + number::<u16>(value)? as usize, 0),
            "words" if protocol == proto::TCP => {
                l4[12] = number::<u8>(value)? << 4;
                l4.resize(
                    l4.len()
                        .max(20 + (usize::from(l4[12] >> 4) * 4).saturating_sub(20)),
                    1,
                );
            }
            "offset" if protocol == proto::TCP => l4[12] = number::<u8>(value)? << 4,
            "skip" => window.0 = number::<u16>(value)? as usize,
            "keep" => window.1 = number::<u16>(value)? as usize,
            _ => return unknown(kind, key),
        }
    }
    if protocol == proto::UDP {
        let length = (l4.len() as u16).to_be_bytes();
        l4[4..6].copy_from_slice(&length);
    }
    frames::fill_checksum(protocol, src, dst, &mut l4);
    let l4 = l4.into_iter().skip(window.0).take(window.1).collect();
    Ok((protocol, l4))
}
