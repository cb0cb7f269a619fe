//! `podgatectl ebpf dump-maps`: what the maps hold, as stable sorted lines.

use std::net::IpAddr;

use aya::Pod;
use aya::maps::MapData;
use enforcer::maps::{
    self, ConfigValue, CounterValue, EndpointValue, FlowKey, FlowValue, HostPortKey, NurseryBucket,
    PeerKey, PeerValue, PortData, PrefixData, PrefixValue, RuleKey, RuleValue, SourceData,
};
use enforcer::pins::Pins;
use serde::Serialize;
use verdict::flow::FlowVerdict;
use verdict::layout::{
    Addr, CLASS_BASE_MASK, CLASS_BITS, ENDPOINT_INDEXES, INLINE_ADDRS, PORT_ALLOW, PORT_DENY,
    RULE_ALLOW_ALL, RULE_DEFAULT_ALL, RULE_DENY_ALL, RULE_NONE, V4, Versioned,
};
use verdict::{Direction, PolicyState, Reason};

use crate::context::Context;
use crate::error::Error;
use crate::output;

#[derive(Serialize)]
struct Dump {
    map: String,
    lines: Vec<String>,
}

/// Maps without lines of their own: the ring is read by the companion, the clock and the rates are moments.
const WITHOUT_LINES: [&str; 5] = ["EVENTS", "CLOCK", "RATES", "FRAGMENTS", "NURSERY_EMPTY"];

pub(super) fn run(context: &Context, asked: Option<&str>) -> Result<(), Error> {
    let pins = context.pins();
    let names: Vec<&'static str> = match asked {
        None => maps::ALL
            .iter()
            .copied()
            .filter(|n| !matches!(*n, "FLOWS" | "NURSERY") && !WITHOUT_LINES.contains(n))
            .collect(),
        Some(asked) => vec![named(&pins, asked)?],
    };
    let mut dumps = Vec::new();
    for name in names {
        let mut lines = lines_of(&pins, name)?;
        lines.sort();
        dumps.push(Dump {
            map: name.to_ascii_lowercase(),
            lines,
        });
    }
    output::print(context.format, &dumps, || {
        let mut text = String::new();
        for d in &dumps {
            text.push_str(&format!("{} ({})\n", d.map, d.lines.len()));
            for l in &d.lines {
                text.push_str(&format!("  {l}\n"));
            }
        }
        text
    })
}

/// A map by name, in any case, or by the kernel's number.
fn named(pins: &Pins, asked: &str) -> Result<&'static str, Error> {
    let by_name = maps::ALL.iter().find(|n| n.eq_ignore_ascii_case(asked));
    if let Some(name) = by_name {
        return Ok(name);
    }
    if let Ok(id) = asked.parse::<u32>() {
        for name in maps::ALL {
            if maps::data(pins, name)?.info().is_ok_and(|i| i.id() == id) {
                return Ok(name);
            }
        }
    }
    let known: Vec<String> = maps::ALL.iter().map(|n| n.to_ascii_lowercase()).collect();
    Err(Error::Asked(format!(
        "dump map {asked:?}: podgate has no such map (it has {})",
        known.join(", ")
    )))
}

fn flow(k: &verdict::layout::FlowKey, v: &verdict::layout::FlowValue) -> String {
    let verdict = FlowVerdict(v.verdict);
    format!(
        "endpoint {} {} {} -> {} {:?} opened by {} {} revision {} seen {} state {}",
        k.endpoint_id,
        k.protocol,
        socket(k.family, k.local, k.local_port_be),
        socket(k.family, k.remote, k.remote_port_be),
        verdict.kind(),
        verdict.opener().name(),
        if verdict.allowed() {
            "allowed"
        } else {
            "refused"
        },
        verdict.revision(),
        v.seen,
        v.state
    )
}

fn lines_of(pins: &Pins, name: &'static str) -> Result<Vec<String>, Error> {
    Ok(match name {
        "ENDPOINTS" => hash(pins, name, |i: u32, EndpointValue(e)| {
            let own: Vec<String> = (0..INLINE_ADDRS)
                .filter_map(
                    |n| match (e.families >> n & 1, e.families >> (n + INLINE_ADDRS) & 1) {
                        (1, _) => Some(e.addrs[n].to_ip(V4).to_string()),
                        (_, 1) => Some(e.addrs[n].to_ip(verdict::layout::V6).to_string()),
                        _ => None,
                    },
                )
                .collect();
            let mac: Vec<String> = e.mac.iter().map(|b| format!("{b:02x}")).collect();
            format!(
                "{i} index {} endpoint {} mac {} flags {:#x} own {}",
                e.endpoint_index,
                e.endpoint_id,
                mac.join(":"),
                e.flags,
                own.join(",")
            )
        })?,
        "POLICY_STATES" => array(
            pins,
            name,
            ENDPOINT_INDEXES,
            |endpoint_index, policy_state: u64| {
                let w = PolicyState(policy_state);
                (policy_state != 0).then(|| {
                    format!(
                        "{endpoint_index} revision {} set {} {}",
                        w.revision(),
                        w.set(),
                        flags(w)
                    )
                })
            },
        )?,
        "FLOWS" => hash(pins, name, |FlowKey(k), FlowValue(v)| flow(&k, &v))?,
        "SOURCES" => trie(
            pins,
            name,
            |len, SourceData([endpoint_id, family, a, b, c, d]), _: u32| {
                format!(
                    "endpoint_id {endpoint_id} {}/{}",
                    Addr([a, b, c, d]).to_ip(family as u8),
                    len.saturating_sub(64)
                )
            },
        )?,
        "HOSTS" => hash(pins, name, |PeerKey(k), _: u32| {
            k.addr.to_ip(k.family as u8).to_string()
        })?,
        "HOSTPATHS" => hash(pins, name, |i: u32, _: u32| i.to_string())?,
        "HOSTPORTS" => hash(pins, name, |HostPortKey(k), _: u32| {
            format!("{} {}", k.protocol, u16::from_be(k.port_be))
        })?,
        "PEERS" => hash(pins, name, |PeerKey(k), PeerValue(v)| {
            format!("{} class {}", k.addr.to_ip(k.family as u8), class(v.class))
        })?,
        "PREFIXES" => trie(
            pins,
            name,
            |len, PrefixData([family, a, b, c, d]), PrefixValue(v)| {
                format!(
                    "{}/{} class {}",
                    Addr([a, b, c, d]).to_ip(family as u8),
                    len.saturating_sub(32),
                    class(v.class)
                )
            },
        )?,
        "RULES" => hash(pins, name, |RuleKey(k), RuleValue(v)| {
            let what = versions(v.says, |says| match says {
                RULE_NONE => "none".into(),
                RULE_ALLOW_ALL => "allow".into(),
                RULE_DENY_ALL => "deny".into(),
                RULE_DEFAULT_ALL => "default".into(),
                n => format!("ports {n}"),
            });
            format!(
                "set {} {} v{} class {} {what}",
                k.set,
                direction(k.direction),
                k.family,
                class_name(k.class)
            )
        })?,
        "PORTS" => trie(pins, name, |len, PortData([set, rest]), v: u32| {
            let [a, b, c, d] = rest.to_ne_bytes();
            let (protocol, port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let what = match v {
                PORT_ALLOW => "allow",
                PORT_DENY => "deny",
                _ => "default",
            };
            match len {
                32 => format!("ports {set} any {what}"),
                _ => format!(
                    "ports {set} protocol {protocol} {port}/{} {what}",
                    len.saturating_sub(48)
                ),
            }
        })?,
        "CONFIG" => array(pins, name, 1, |_, ConfigValue(c)| Some(format!("{c:?}")))?,
        "FLOWS_CREATED" | "FLOWS_DELETED" => array(
            pins,
            name,
            ENDPOINT_INDEXES,
            |endpoint_index, flows: u64| (flows != 0).then(|| format!("{endpoint_index} {flows}")),
        )?,
        "NURSERY" => {
            let map = maps::hash::<u32, NurseryBucket>(pins, name)?;
            let mut lines = Vec::new();
            for entry in map.iter() {
                let (_, NurseryBucket(b)) = entry.map_err(|e| unreadable(name, &e))?;
                for slot in (0..b.check.len()).filter(|slot| b.check[*slot] != 0) {
                    let value = verdict::layout::FlowValue {
                        verdict: b.verdict[slot],
                        seen: b.seen[slot],
                        state: b.state[slot],
                    };
                    lines.push(flow(&b.keys[slot], &value));
                }
            }
            lines
        }
        "NODE" => array(pins, name, 2, |i, n: u64| {
            Some(format!(
                "last {} {n}",
                if i == 0 { "endpoint id" } else { "revision" }
            ))
        })?,
        "PASSED" => {
            let map: aya::maps::PerCpuArray<MapData, CounterValue> =
                maps::per_cpu_array(pins, name)?;
            let mut lines = Vec::new();
            for i in 0..ENDPOINT_INDEXES * 2 {
                let values = map.get(&i, 0).map_err(|e| unreadable(name, &e))?;
                let (packets, bytes) = sum(values.iter());
                if packets != 0 {
                    lines.push(format!(
                        "index {} {} {packets} packets {bytes} bytes",
                        i / 2,
                        direction((i % 2) as u8)
                    ));
                }
            }
            lines
        }
        "REASONS" => {
            let map: aya::maps::PerCpuHashMap<MapData, u32, CounterValue> =
                maps::per_cpu_hash(pins, name)?;
            let mut lines = Vec::new();
            for entry in map.iter() {
                let (key, values) = entry.map_err(|e| unreadable(name, &e))?;
                let (packets, bytes) = sum(values.iter());
                let reason = Reason::from_number(key as u8).map_or("?", Reason::name);
                let way = direction((key >> 8) as u8);
                lines.push(format!(
                    "index {} {way} {reason} {packets} packets {bytes} bytes",
                    key >> 16
                ));
            }
            lines
        }
        other => {
            return Err(Error::Asked(format!(
                "dump map {}: it has no lines of its own (the companion reads it)",
                other.to_ascii_lowercase()
            )));
        }
    })
}

fn unreadable(name: &'static str, e: &dyn std::fmt::Display) -> Error {
    Error::Asked(format!("read map {name}: {e}"))
}

fn hash<K: Pod, V: Pod>(
    pins: &Pins,
    name: &'static str,
    line: impl Fn(K, V) -> String,
) -> Result<Vec<String>, Error> {
    let map: aya::maps::HashMap<MapData, K, V> = maps::hash(pins, name)?;
    map.iter()
        .map(|e| e.map(|(k, v)| line(k, v)).map_err(|e| unreadable(name, &e)))
        .collect()
}

fn trie<K: Pod, V: Pod>(
    pins: &Pins,
    name: &'static str,
    line: impl Fn(u32, K, V) -> String,
) -> Result<Vec<String>, Error> {
    let map: aya::maps::lpm_trie::LpmTrie<MapData, K, V> = maps::trie(pins, name)?;
    map.iter()
        .map(|e| {
            e.map(|(k, v)| line(k.prefix_len(), k.data(), v))
                .map_err(|e| unreadable(name, &e))
        })
        .collect()
}

fn array<V: Pod>(
    pins: &Pins,
    name: &'static str,
    entries: u32,
    line: impl Fn(u32, V) -> Option<String>,
) -> Result<Vec<String>, Error> {
    let map: aya::maps::Array<MapData, V> = maps::array(pins, name)?;
    let mut lines = Vec::new();
    for i in 0..entries {
        lines.extend(line(i, map.get(&i, 0).map_err(|e| unreadable(name, &e))?));
    }
    Ok(lines)
}

fn sum<'a>(values: impl Iterator<Item = &'a CounterValue>) -> (u64, u64) {
    values.fold((0, 0), |(p, b), CounterValue(c)| {
        (p + c.packets, b + c.bytes)
    })
}

fn direction(number: u8) -> &'static str {
    if number == Direction::Ingress as u8 {
        "ingress"
    } else {
        "egress"
    }
}

fn socket(family: u8, addr: Addr, port_be: u16) -> String {
    match addr.to_ip(family) {
        IpAddr::V4(a) => format!("{a}:{}", u16::from_be(port_be)),
        IpAddr::V6(a) => format!("[{a}]:{}", u16::from_be(port_be)),
    }
}

/// Flags of a policy state by name.
pub(crate) fn flags(policy_state: PolicyState) -> String {
    const NAMES: [(u64, &str); 8] = [
        (PolicyState::PENDING, "pending"),
        (PolicyState::STRICT, "strict"),
        (PolicyState::ISOLATED_INGRESS, "isolated-ingress"),
        (PolicyState::ISOLATED_EGRESS, "isolated-egress"),
        (PolicyState::RULES_INGRESS, "rules-ingress"),
        (PolicyState::RULES_EGRESS, "rules-egress"),
        (PolicyState::SUSPENDED, "suspended"),
        (PolicyState::LOG, "log"),
    ];
    let set: Vec<&str> = NAMES
        .iter()
        .filter(|(f, _)| policy_state.has(*f))
        .map(|(_, n)| *n)
        .collect();
    if set.is_empty() {
        "standard".into()
    } else {
        set.join(",")
    }
}

/// What holds, and while a change is on its way what held before it.
fn versions(value: Versioned, name: impl Fn(u32) -> String) -> String {
    match value.parts() {
        (_, new, 0) => name(new),
        (old, new, since) => format!("{} (before revision {since}: {})", name(new), name(old)),
    }
}

fn class(value: Versioned) -> String {
    versions(value, class_name)
}

/// Base and class; a class that is its base has no number of its own.
fn class_name(class: u32) -> String {
    match (class >> CLASS_BITS, class & !CLASS_BASE_MASK) {
        (0, own) => own.to_string(),
        (base, 0) => format!("base-{base}"),
        (base, own) => format!("{own} of base-{base}"),
    }
}
