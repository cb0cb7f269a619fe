//! Named cases: what the tables hold, which frames come, what each of them meets.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use verdict::decide;
use verdict::layout::{
    Addr, Config, Direction, ENDPOINT_GUARD, ENDPOINT_MORE_SOURCES, Endpoint, HostPortKey,
    INLINE_ADDRS, PeerKey, PeerValue, PortKey, PortValue, PrefixKey, PrefixValue, RuleKey,
    SOURCE_EXTRA, SOURCE_OWN, SourceKey, V4,
};
use verdict::policy_state::PolicyState;
use verdict::reason::Reason;
use verdict::{Env, Scratch};

use crate::frames::Wire;
use crate::read_frame::HOST_MAC;
use crate::tables::Tables;

/// Where a packet came into the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// Made by the host itself, or re-fragmented there: no interface.
    Host,
    /// The endpoint's own host veth.
    Own,
    /// The node's uplink.
    Uplink,
    /// Another pod's host veth.
    Other,
}

impl Via {
    /// By its name in a case.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "host" => Self::Host,
            "own" => Self::Own,
            "uplink" => Self::Uplink,
            "other" => Self::Other,
            _ => return None,
        })
    }

    /// Its interface index, where the endpoint's own is `own`.
    pub const fn ifindex(self, own: u32) -> u32 {
        match self {
            Self::Host => 0,
            Self::Own => own,
            Self::Uplink => own + 1000,
            Self::Other => own + 1001,
        }
    }
}

/// What an endpoint row is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// MAC address of the pod's end.
    pub mac: [u8; 6],
    /// Whether the source guard is on.
    pub guard: bool,
    /// The pod's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Further sources: address and prefix length.
    pub extra: Vec<(IpAddr, u8)>,
}

impl EndpointSpec {
    /// The row, and the keys of the addresses that do not stand in it.
    pub fn row(
        &self,
        ifindex: u32,
        endpoint_index: u32,
        endpoint_id: u32,
    ) -> (Endpoint, Vec<(SourceKey, u32)>) {
        let mut row = Endpoint {
            ifindex,
            endpoint_index,
            endpoint_id,
            mac: self.mac,
            host_mac: HOST_MAC,
            flags: if self.guard { ENDPOINT_GUARD } else { 0 },
            families: 0,
            pad: [0; 2],
            addrs: [Addr::ZERO; INLINE_ADDRS],
        };
        for (i, ip) in self.addresses.iter().take(INLINE_ADDRS).enumerate() {
            let (family, addr) = Addr::from_ip(*ip);
            row.addrs[i] = addr;
            row.families |= 1 << (i + if family == V4 { 0 } else { INLINE_ADDRS });
        }
        let whole = |ip: &IpAddr| (*ip, if ip.is_ipv4() { 32 } else { 128 }, SOURCE_OWN);
        let own = self.addresses.iter().skip(INLINE_ADDRS).map(whole);
        let extra = self.extra.iter().map(|(ip, len)| (*ip, *len, SOURCE_EXTRA));
        let more: Vec<_> = extra.chain(own).collect();
        if !more.is_empty() {
            row.flags |= ENDPOINT_MORE_SOURCES;
        }
        let key = |(ip, len, value): (IpAddr, u8, u32)| {
            let (family, addr) = Addr::from_ip(ip);
            let key = SourceKey {
                prefix_len: SourceKey::FIXED_BITS + u32::from(len),
                endpoint_id,
                family: u32::from(family),
                addr,
            };
            (key, value)
        };
        (row, more.into_iter().map(key).collect())
    }
}

/// A change of the world between packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The endpoint's row is made anew, or goes.
    Endpoint(Option<EndpointSpec>),
    /// The policy state.
    PolicyState(PolicyState),
    /// An exact peer.
    Peer(PeerKey, Option<PeerValue>),
    /// A prefix of peers.
    Prefix(PrefixKey, Option<PrefixValue>),
    /// A rule.
    Rule(RuleKey, Option<u32>),
    /// A port set's entry.
    Port(PortKey, Option<PortValue>),
    /// An address of the host set.
    Host(PeerKey, bool),
    /// An interface by which the host's own traffic comes back.
    HostPath(Via),
    /// A hostPort.
    HostPort(HostPortKey),
    /// A socket of the host: protocol and port.
    Listen(u8, u16),
    /// The node's settings.
    Config(Config),
    /// Seconds pass.
    Wait(u32),
    /// The kernel's jiffies. Only the model can do it.
    Jiffies(u64),
    /// Entries that the flow table takes. Only the model can do it.
    Capacity(usize),
}

/// One line of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something changes.
    Change(Change),
    /// A packet comes and meets this.
    Packet {
        /// Direction, the pod's.
        direction: Direction,
        /// Where it came into the host.
        via: Via,
        /// The frame.
        wire: Wire,
        /// What it meets.
        reason: Reason,
    },
    /// So many flows of the endpoint stand in the table.
    Flows(usize),
}

/// A named case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Why it can be replayed on the model only, where it says so itself.
    pub model_only: Option<String>,
    /// Line and step.
    pub steps: Vec<(usize, Step)>,
}

/// What a packet met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it was dropped.
    pub dropped: bool,
    /// Why.
    pub reason: Reason,
}

/// Something that cases are replayed on: the model, or the real programs.
pub trait World {
    /// Makes the change.
    ///
    /// # Errors
    /// If it cannot be made.
    fn change(&mut self, change: &Change) -> Result<(), String>;
    /// Sends the packet through the hook of its direction.
    ///
    /// # Errors
    /// If it cannot be sent.
    fn packet(&mut self, direction: Direction, via: Via, wire: &Wire) -> Result<Outcome, String>;
    /// Flows of the endpoint in the table.
    ///
    /// # Errors
    /// If the table cannot be read.
    fn flows(&mut self) -> Result<usize, String>;
}

/// A case that came out otherwise than it says.
#[derive(Debug)]
pub struct Failure {
    /// Name of the case.
    pub case: String,
    /// Line in its file.
    pub line: usize,
    /// What went otherwise.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (line {}): {}", self.case, self.line, self.detail)
    }
}

impl std::error::Error for Failure {}

impl Case {
    /// Every case of a corpus file.
    ///
    /// # Errors
    /// The first line that cannot be read, with its number.
    pub fn read_all(text: &str) -> Result<Vec<Self>, String> {
        super::read_case::cases(text)
    }

    /// Every case of the `.txt` files of a folder, by file, in the order of their names.
    ///
    /// # Errors
    /// The first file that cannot be read, with the line.
    pub fn read_folder(folder: &Path) -> Result<Vec<(String, Vec<Self>)>, String> {
        let at = |path: &Path, e: &dyn fmt::Display| format!("{}: {e}", path.display());
        let entries = fs::read_dir(folder).map_err(|e| at(folder, &e))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "txt"));
        paths.sort();
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path).map_err(|e| at(&path, &e))?;
            let cases = Self::read_all(&text).map_err(|e| at(&path, &e))?;
            Ok((
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                cases,
            ))
        };
        paths.into_iter().map(read).collect()
    }

    /// Why `BPF_PROG_TEST_RUN` cannot carry the case, if it cannot.
    pub fn not_carried(&self) -> Option<&str> {
        if let Some(why) = &self.model_only {
            return Some(why);
        }
        self.steps.iter().find_map(|(_, step)| match step {
            Step::Packet { wire, .. } => wire.not_carried(),
            Step::Change(Change::Jiffies(_)) => Some("the kernel's clock cannot be set"),
            Step::Change(Change::Capacity(_)) => Some("the table's size cannot be set"),
            _ => None,
        })
    }

    /// Whether some packet towards the pod came in by an interface (5.10 cannot carry that).
    pub fn needs_ingress_interface(&self) -> bool {
        self.steps.iter().any(|(_, step)| {
            matches!(step, Step::Packet { direction: Direction::Ingress, via, .. } if *via != Via::Host)
        })
    }

    /// Replays the case.
    ///
    /// # Errors
    /// The first step that came out otherwise.
    pub fn replay(&self, world: &mut impl World) -> Result<(), Failure> {
        for (line, step) in &self.steps {
            let fail = |detail: String| Failure {
                case: self.name.clone(),
                line: *line,
                detail,
            };
            match step {
                Step::Change(change) => world.change(change).map_err(fail)?,
                Step::Packet {
                    direction,
                    via,
                    wire,
                    reason,
                } => {
                    let met = world.packet(*direction, *via, wire).map_err(fail)?;
                    let wanted = Outcome {
                        dropped: reason.is_drop(),
                        reason: *reason,
                    };
                    if met != wanted {
                        let action = |o: Outcome| if o.dropped { "drop" } else { "pass" };
                        return Err(fail(format!(
                            "expected {} {}, met {} {}",
                            action(wanted),
                            wanted.reason,
                            action(met),
                            met.reason
                        )));
                    }
                }
                Step::Flows(wanted) => {
                    let found = world.flows().map_err(fail)?;
                    if found != *wanted {
                        return Err(fail(format!("expected {wanted} flows, found {found}")));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The model as a world: one endpoint, on an interface of its own.
#[derive(Debug, Default)]
pub struct ModelWorld {
    /// The tables.
    pub tables: Tables,
    work: Scratch,
    endpoint_id: u32,
}

impl ModelWorld {
    /// Interface of the endpoint.
    pub const IFINDEX: u32 = 10;
    /// Endpoint index of the endpoint.
    pub const ENDPOINT_INDEX: u32 = 1;
}

impl World for ModelWorld {
    fn change(&mut self, change: &Change) -> Result<(), String> {
        let t = &mut self.tables;
        match change {
            Change::Endpoint(None) => {
                t.endpoints.remove(&Self::IFINDEX);
            }
            Change::Endpoint(Some(spec)) => {
                self.endpoint_id += 1;
                t.forget_flows_of_index(Self::ENDPOINT_INDEX);
                let (row, sources) =
                    spec.row(Self::IFINDEX, Self::ENDPOINT_INDEX, self.endpoint_id);
                t.endpoints.insert(Self::IFINDEX, row);
                sources
                    .iter()
                    .for_each(|(key, value)| t.add_source(key, *value));
            }
            Change::PolicyState(policy_state) => {
                t.policy_states.insert(Self::ENDPOINT_INDEX, policy_state.0);
            }
            Change::Peer(key, Some(value)) => {
                t.peers.insert(*key, *value);
            }
            Change::Peer(key, None) => {
                t.peers.remove(key);
            }
            Change::Prefix(key, value) => t.set_prefix(key, *value),
            Change::Rule(key, Some(value)) => {
                t.rules.insert(*key, *value);
            }
            Change::Rule(key, None) => {
                t.rules.remove(key);
            }
            Change::Port(key, value) => t.set_port(key, *value),
            Change::Host(key, true) => {
                t.hosts.insert(*key);
            }
            Change::Host(key, false) => {
                t.hosts.remove(key);
            }
            Change::HostPath(via) => {
                t.host_paths.insert(via.ifindex(Self::IFINDEX));
            }
            Change::HostPort(key) => {
                t.host_ports.insert(*key);
            }
            Change::Listen(protocol, port) => {
                t.sockets.insert((*protocol, *port));
            }
            Change::Config(config) => t.config = Some(*config),
            Change::Wait(seconds) => t.advance(*seconds),
            Change::Jiffies(jiffies) => t.jiffies = *jiffies,
            Change::Capacity(entries) => t.flow_capacity = *entries,
        }
        Ok(())
    }

    fn packet(&mut self, direction: Direction, via: Via, wire: &Wire) -> Result<Outcome, String> {
        let meta = wire.meta(Self::IFINDEX, via.ifindex(Self::IFINDEX));
        let reason = decide(&self.tables, &wire.bytes, &meta, direction, &mut self.work).reason;
        Ok(Outcome {
            dropped: reason.is_drop(),
            reason,
        })
    }

    fn flows(&mut self) -> Result<usize, String> {
        let endpoint_id = self.tables.endpoint(Self::IFINDEX).map(|e| e.endpoint_id);
        Ok(self
            .tables
            .flows()
            .iter()
            .filter(|(key, _)| Some(key.endpoint_id) == endpoint_id)
            .count())
    }
}
