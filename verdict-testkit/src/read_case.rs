//! Cases from text; `verdict/tests/corpus/README.md` lists the words.

use std::net::IpAddr;

use verdict::layout::{
    Addr, Config, Direction, HostPortKey, PORT_ALLOW, PORT_DEFAULT, PORT_DENY, PORT_SET_LIMIT,
    PeerKey, PeerValue, PortKey, PortValue, PrefixKey, PrefixValue, RULE_ALLOW_ALL,
    RULE_DEFAULT_ALL, RULE_DENY_ALL, RuleKey, V4, V6,
};
use verdict::packet::proto;
use verdict::policy_state::PolicyState;
use verdict::reason::Reason;

use crate::case::{Case, Change, EndpointSpec, Step, Via};
use crate::read_frame::{POD_MAC, address, frame, number};
use crate::tables::Tables;

/// The world that each case begins with: a guarded endpoint, the host's addresses, peer and other as classes 1 and 2.
fn beginning() -> Result<Vec<(usize, Step)>, String> {
    let mut steps = vec![
        Change::Config(Tables::CONFIG),
        Change::Endpoint(Some(endpoint("")?)),
    ];
    for family in [V4, V6] {
        for name in ["host", "host-local"] {
            steps.push(Change::Host(peer_key(address(name, family)?), true));
        }
        for (name, class) in [("peer", 1), ("other", 2)] {
            let key = peer_key(address(name, family)?);
            steps.push(Change::Peer(key, Some(PeerValue::new(&key, class))));
        }
    }
    Ok(steps
        .into_iter()
        .map(|change| (0, Step::Change(change)))
        .collect())
}

/// Reads every case of a file.
pub(crate) fn cases(text: &str) -> Result<Vec<Case>, String> {
    let mut all: Vec<Case> = Vec::new();
    let mut revision = 0;
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let line = line
            .split_once('#')
            .map_or(line, |(before, _)| before)
            .trim();
        if line.is_empty() {
            continue;
        }
        let at = |e: String| format!("line {number}: {e}");
        let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match (verb, all.last_mut()) {
            ("case", _) => {
                if all.iter().any(|c| c.name == rest) {
                    return Err(at(format!("{rest:?} is the name of two cases")));
                }
                revision = 0;
                all.push(Case {
                    name: rest.to_owned(),
                    model_only: None,
                    steps: beginning().map_err(at)?,
                });
            }
            (_, None) => return Err(at("no case has begun".into())),
            ("model-only", Some(case)) => case.model_only = Some(rest.to_owned()),
            (_, Some(case)) => {
                for step in step(verb, rest, &mut revision).map_err(at)? {
                    case.steps.push((number, step));
                }
            }
        }
    }
    Ok(all)
}

fn step(verb: &str, rest: &str, revision: &mut u64) -> Result<Vec<Step>, String> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let one = |change| Ok(vec![Step::Change(change)]);
    match (verb, words.as_slice()) {
        ("in", _) => packet(rest, Direction::Ingress).map(|p| vec![p]),
        ("out", _) => packet(rest, Direction::Egress).map(|p| vec![p]),
        ("flows", [n]) => Ok(vec![Step::Flows(number::<u32>(n)? as usize)]),
        ("endpoint", ["none"]) => one(Change::Endpoint(None)),
        ("endpoint", _) => one(Change::Endpoint(Some(endpoint(rest)?))),
        ("word", flags) => one(Change::PolicyState(word(flags, revision)?)),
        ("peer", [addr, class]) => Ok(peer(addr, Some(number(class)?))?
            .into_iter()
            .map(Step::Change)
            .collect()),
        ("no-peer", [addr]) => Ok(peer(addr, None)?.into_iter().map(Step::Change).collect()),
        ("torn-peer", [addr]) => {
            let key = peer_key(any_address(addr)?);
            let mut value = PeerValue::new(&key, 1);
            value.class.new ^= 1 << 32;
            one(Change::Peer(key, Some(value)))
        }
        ("torn-prefix", [prefix]) => {
            let (key, mut value) = prefix_of(prefix, 1)?;
            value.class.old ^= 1 << 32;
            one(Change::Prefix(key, Some(value)))
        }
        ("rule", [direction, class, action]) => {
            let value = rule_value(action)?;
            Ok(rule_keys(direction, class)?
                .map(|key| Step::Change(Change::Rule(key, Some(value))))
                .to_vec())
        }
        ("no-rule", [direction, class]) => Ok(rule_keys(direction, class)?
            .map(|key| Step::Change(Change::Rule(key, None)))
            .to_vec()),
        ("port", [set, what, action]) => one(Change::Port(
            port_key(set, what)?,
            Some(port_value(action)?),
        )),
        ("host", [addr]) => one(Change::Host(peer_key(any_address(addr)?), true)),
        ("no-host", [addr]) => one(Change::Host(peer_key(any_address(addr)?), false)),
        ("host-path", [via]) => one(Change::HostPath(via_of(via)?)),
        ("host-port", [what]) => {
            let (protocol, port) = protocol_port(what)?;
            one(Change::HostPort(HostPortKey {
                protocol: u16::from(protocol),
                port_be: port.to_be(),
            }))
        }
        ("listen", [what]) => {
            let (protocol, port) = protocol_port(what)?;
            one(Change::Listen(protocol, port))
        }
        ("limits", settings) => one(Change::Config(limits(settings)?)),
        ("wait", [seconds]) => one(Change::Wait(number(seconds.trim_end_matches('s'))?)),
        ("jiffies", [n]) => one(Change::Jiffies(number(n)?)),
        ("capacity", [n]) => one(Change::Capacity(number::<u32>(n)? as usize)),
        _ => Err(format!("{verb:?} is not known, or not with {rest:?}")),
    }
}

fn packet(rest: &str, direction: Direction) -> Result<Step, String> {
    let (words, outcome) = rest
        .rsplit_once("=>")
        .ok_or("a packet needs \"=> pass|drop REASON\"")?;
    let (action, reason) = outcome
        .trim()
        .split_once(' ')
        .ok_or("an outcome is \"pass|drop REASON\"")?;
    let reason: Reason = reason
        .trim()
        .parse()
        .map_err(|e| format!("{reason:?}: {e}"))?;
    if reason.is_drop() != (action == "drop") || !matches!(action, "pass" | "drop") {
        return Err(format!("{reason} is not a reason to {action}"));
    }
    let words = words.trim();
    let (via, words) = match words.strip_prefix("via=") {
        Some(after) => {
            let (name, words) = after
                .split_once(char::is_whitespace)
                .ok_or("a frame is missing")?;
            (via_of(name)?, words)
        }
        None if direction == Direction::Egress => (Via::Own, words),
        None => (Via::Uplink, words),
    };
    Ok(Step::Packet {
        direction,
        via,
        wire: frame(words, direction)?,
        reason,
    })
}

fn via_of(name: &str) -> Result<Via, String> {
    Via::from_name(name).ok_or_else(|| format!("{name:?} is no way into the host"))
}

fn any_address(word: &str) -> Result<IpAddr, String> {
    word.parse().map_err(|_| format!("{word:?} is no address"))
}

fn peer_key(ip: IpAddr) -> PeerKey {
    let (family, addr) = Addr::from_ip(ip);
    PeerKey {
        family: u32::from(family),
        addr,
    }
}

/// `guard=off addresses=A,B extra=P/L,...`; what is not named is as usual.
fn endpoint(rest: &str) -> Result<EndpointSpec, String> {
    let mut spec = EndpointSpec {
        mac: POD_MAC,
        guard: true,
        addresses: Vec::new(),
        extra: Vec::new(),
    };
    for (name, family) in [("pod", V4), ("pod", V6), ("pod-local", V6)] {
        spec.addresses.push(address(name, family)?);
    }
    for word in rest.split_whitespace() {
        match word.split_once('=') {
            Some(("guard", on)) => spec.guard = on == "on",
            Some(("addresses", list)) => {
                spec.addresses = list
                    .split(',')
                    .filter(|a| !a.is_empty())
                    .map(any_address)
                    .collect::<Result<_, _>>()?;
            }
            Some(("extra", list)) => {
                for prefix in list.split(',') {
                    let (addr, len) = prefix
                        .split_once('/')
                        .ok_or_else(|| format!("{prefix:?} is no prefix"))?;
                    spec.extra.push((any_address(addr)?, number(len)?));
                }
            }
            _ => return Err(format!("an endpoint knows no {word:?}")),
        }
    }
    Ok(spec)
}

fn word(words: &[&str], revision: &mut u64) -> Result<PolicyState, String> {
    let (mut flags, mut set) = (0, 1);
    *revision += 1;
    for word in words {
        match *word {
            "pending" => flags |= PolicyState::PENDING,
            "standard" => {}
            "strict" => flags |= PolicyState::STRICT,
            "isolated-in" => flags |= PolicyState::ISOLATED_INGRESS | PolicyState::RULES_INGRESS,
            "isolated-out" => flags |= PolicyState::ISOLATED_EGRESS | PolicyState::RULES_EGRESS,
            "rules-in" => flags |= PolicyState::RULES_INGRESS,
            "rules-out" => flags |= PolicyState::RULES_EGRESS,
            "suspended" => flags |= PolicyState::SUSPENDED,
            "log" => flags |= PolicyState::LOG,
            "none" => return Ok(PolicyState(0)),
            other => match other.split_once('=') {
                Some(("set", n)) => set = number(n)?,
                Some(("revision", n)) => *revision = number(n)?,
                _ => return Err(format!("a word knows no {other:?}")),
            },
        }
    }
    Ok(PolicyState::new(flags, set, *revision))
}

fn prefix_of(text: &str, class: u32) -> Result<(PrefixKey, PrefixValue), String> {
    let (addr, len) = text
        .split_once('/')
        .ok_or_else(|| format!("{text:?} is no prefix"))?;
    let (family, addr) = Addr::from_ip(any_address(addr)?);
    let len: u32 = number(len)?;
    let key = PrefixKey {
        prefix_len: PrefixKey::FIXED_BITS + len,
        family: u32::from(family),
        addr,
    };
    Ok((key, PrefixValue::new(&key, class, class, 0)))
}

/// A peer by address, prefix or one of the names (both families then).
fn peer(text: &str, class: Option<u32>) -> Result<Vec<Change>, String> {
    if text.contains('/') {
        let (key, value) = prefix_of(text, class.unwrap_or(0))?;
        return Ok(vec![Change::Prefix(key, class.map(|_| value))]);
    }
    let both = [address(text, V4), address(text, V6)];
    let found: Vec<IpAddr> = both.into_iter().flatten().collect();
    if found.is_empty() {
        return Err(format!("{text:?} is no address"));
    }
    Ok(found
        .into_iter()
        .map(peer_key)
        .map(|key| Change::Peer(key, class.map(|c| PeerValue::new(&key, c))))
        .collect())
}

/// `SET:in CLASS`, or `in CLASS` for set 1; for both families.
fn rule_keys(direction: &str, class: &str) -> Result<[RuleKey; 2], String> {
    let (set, direction) = match direction.split_once(':') {
        Some((set, direction)) => (number(set)?, direction),
        None => (1, direction),
    };
    let direction = match direction {
        "in" => Direction::Ingress as u8,
        "out" => Direction::Egress as u8,
        other => return Err(format!("{other:?} is no direction")),
    };
    let class = number(class)?;
    Ok([V4, V6].map(|family| RuleKey {
        class,
        set,
        direction,
        family,
    }))
}

fn rule_value(word: &str) -> Result<u32, String> {
    Ok(match word {
        "allow" => RULE_ALLOW_ALL,
        "deny" => RULE_DENY_ALL,
        "default" => RULE_DEFAULT_ALL,
        number_of_set => number::<u32>(number_of_set).map(|n| n.min(PORT_SET_LIMIT - 1))?,
    })
}

fn protocol_of(word: &str) -> Result<u8, String> {
    Ok(match word {
        "tcp" => proto::TCP,
        "udp" => proto::UDP,
        "sctp" => proto::SCTP,
        "icmp" => proto::ICMP,
        "icmpv6" => proto::ICMPV6,
        other => number(other)?,
    })
}

fn protocol_port(word: &str) -> Result<(u8, u16), String> {
    let (protocol, port) = word
        .split_once('/')
        .ok_or_else(|| format!("{word:?} is no protocol/port"))?;
    Ok((protocol_of(protocol)?, number(port)?))
}

/// `any`, `tcp`, `tcp/80` or `tcp/1024/6` (the first six bits of the port).
fn port_key(set: &str, what: &str) -> Result<PortKey, String> {
    let port_set = number(set)?;
    let parts: Vec<&str> = what.split('/').collect();
    let (protocol, port, bits) = match parts.as_slice() {
        ["any"] => (0, 0, PortKey::ANY_PROTOCOL_BITS),
        [protocol] => (protocol_of(protocol)?, 0, PortKey::ANY_PORT_BITS),
        [protocol, port] => (protocol_of(protocol)?, number(port)?, PortKey::FULL_BITS),
        [protocol, port, bits] => (
            protocol_of(protocol)?,
            number(port)?,
            PortKey::ANY_PORT_BITS + number::<u32>(bits)?,
        ),
        _ => return Err(format!("{what:?} is no protocol/port/bits")),
    };
    Ok(PortKey {
        prefix_len: bits,
        port_set,
        protocol_be: u16::from(protocol).to_be(),
        port_be: u16::to_be(port),
    })
}

fn port_value(word: &str) -> Result<PortValue, String> {
    Ok(match word {
        "allow" => PORT_ALLOW,
        "deny" => PORT_DENY,
        "default" => PORT_DEFAULT,
        other => return Err(format!("{other:?} is no verdict")),
    })
}

fn limits(settings: &[&str]) -> Result<Config, String> {
    let mut config = Tables::CONFIG;
    for setting in settings {
        match setting.split_once('=') {
            Some(("flows", n)) => config.flow_limit = number(n)?,
            Some(("minimum", n)) => config.flow_minimum = number(n)?,
            Some(("buckets", n)) => config.nursery_mask = number::<u32>(n)? - 1,
            _ => return Err(format!("limits know no {setting:?}")),
        }
    }
    Ok(config)
}
