//! The real programs as a world for cases: loaded once, run by BPF_PROG_TEST_RUN on the loopback device of a network
//! namespace of their own.
#![allow(clippy::unwrap_used, reason = "a module of tests")]
#![allow(dead_code, reason = "each test takes what it needs")]

use std::any::Any;
use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuHashMap};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use enforcer::endpoint::{Endpoints, NewEndpoint};
use enforcer::load::{LoadOptions, PROGRAM_EGRESS, PROGRAM_INGRESS, load};
use enforcer::maps::{self, *};
use enforcer::pins::Pins;
use enforcer::quota::Quota;
use ipnetwork::IpNetwork;
use nix::sched::{CloneFlags, unshare};
use state::Store;
use verdict::flow::TICK_JIFFIES;
use verdict::layout::{self, Config, Direction};
use verdict::{PolicyState, Reason};
use verdict_testkit::case::Change;
use verdict_testkit::{Outcome, Via, Wire, World};

/// The loopback device of every namespace.
pub(crate) const IFINDEX: u32 = 1;
/// What a program returns for "pass": `TC_ACT_UNSPEC`.
const PASS: u32 = u32::MAX;
/// What a program returns for "drop": `TC_ACT_SHOT`.
const DROP: u32 = 2;
/// Segments that a GSO packet is said to have.
const SEGMENTS: u32 = 3;

/// The programs, their maps, and what a case has put into them.
pub(crate) struct Kernel {
    _state: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) bpf: PathBuf,
    pub(crate) pins: Pins,
    pub(crate) ingress: SchedClassifier,
    pub(crate) egress: SchedClassifier,
    pub(crate) endpoints: Endpoints,
    reasons: PerCpuHashMap<MapData, u32, CounterValue>,
    passed: PerCpuArray<MapData, CounterValue>,
    /// Whether the kernel takes an ingress interface in the context (not 5.10).
    pub(crate) carries_ingress_interface: bool,
    /// Whether the kernel takes a segment size in the context.
    pub(crate) carries_gso: bool,
    hz: u32,
    sockets: Vec<Box<dyn Any>>,
}

/// `struct __sk_buff`, as far as a test may set it.
pub(crate) fn context(ingress_ifindex: u32, gso_size: u16) -> [u8; 192] {
    let mut ctx = [0; 192];
    let mut put = |at: usize, n: u32| ctx[at..at + 4].copy_from_slice(&n.to_ne_bytes());
    put(36, ingress_ifindex);
    put(40, IFINDEX);
    if gso_size != 0 {
        put(164, SEGMENTS);
        put(176, u32::from(gso_size));
    }
    ctx
}

/// Puts the calling thread into a network namespace of its own, with loopback up.
pub(crate) fn own_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs CAP_SYS_ADMIN");
    let up = std::process::Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .unwrap();
    assert!(up.success());
}

impl Kernel {
    /// Loads maps and programs under pins of their own; the calling thread has a namespace of its own.
    pub(crate) fn load() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let bpf = PathBuf::from(format!(
            "/sys/fs/bpf/podgate-test-run-{}-{:x}",
            std::process::id(),
            random()
        ));
        let pins = Pins::new(&bpf);
        let locked = store.lock(Duration::from_secs(5)).unwrap();
        load(
            &locked,
            &bpf,
            LoadOptions {
                flow_limit: 524_288,
                ..LoadOptions::default()
            },
        )
        .unwrap();
        drop(locked);
        let program = |name| SchedClassifier::from_pin(pins.program(name)).unwrap();
        let (ingress, egress) = (program(PROGRAM_INGRESS), program(PROGRAM_EGRESS));
        let config: Array<_, ConfigValue> = maps::array(&pins, "CONFIG").unwrap();
        let takes = |ctx: &[u8]| {
            let frame = [0u8; 64];
            let options = TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(ctx),
                ..Default::default()
            };
            ingress.test_run(options).is_ok()
        };
        assert!(
            takes(&context(0, 0)),
            "BPF_PROG_TEST_RUN does not work here"
        );
        Self {
            carries_ingress_interface: takes(&context(7, 0)),
            carries_gso: takes(&context(0, 1000)),
            hz: config.get(&0, 0).unwrap().0.hz,
            endpoints: Endpoints::open(&bpf).unwrap(),
            reasons: maps::per_cpu_hash(&pins, "REASONS").unwrap(),
            passed: maps::per_cpu_array(&pins, "PASSED").unwrap(),
            _state: dir,
            store,
            bpf,
            pins,
            ingress,
            egress,
            sockets: Vec::new(),
        }
    }

    /// Takes away all that a case has put in.
    pub(crate) fn reset(&mut self) {
        self.sockets.clear();
        self.forget_flows();
        self.delete_endpoint();
        self.clear::<PeerKey, PeerValue>("PEERS");
        self.clear::<PeerKey, u32>("HOSTS");
        self.clear::<u32, u32>("HOSTPATHS");
        self.clear::<HostPortKey, u32>("HOSTPORTS");
        self.clear::<RuleKey, RuleValue>("RULES");
        self.clear_trie::<PrefixData, PrefixValue>("PREFIXES");
        self.clear_trie::<PortData, u32>("PORTS");
        let mut fragments = maps::lru::<FragmentKey, FlowValue>(&self.pins, "FRAGMENTS").unwrap();
        let keys: Vec<_> = fragments.keys().filter_map(Result::ok).collect();
        keys.iter().for_each(|k| drop(fragments.remove(k)));
        let keys: Vec<u32> = self.reasons.keys().filter_map(Result::ok).collect();
        keys.iter().for_each(|k| drop(self.reasons.remove(k)));
    }

    /// Empties the flow table, and the counts of what it holds.
    pub(crate) fn forget_flows(&self) {
        self.clear::<FlowKey, FlowValue>("FLOWS");
        self.clear::<u32, NurseryBucket>("NURSERY");
        let quota = Quota::open(&self.pins).unwrap();
        for endpoint_index in [0, self.endpoint_index()] {
            quota.forget(endpoint_index);
        }
    }

    fn clear<K: Pod, V: Pod>(&self, name: &'static str) {
        let mut map = maps::hash::<K, V>(&self.pins, name).unwrap();
        let keys: Vec<K> = map.keys().filter_map(Result::ok).collect();
        keys.iter().for_each(|k| drop(map.remove(k)));
    }

    fn clear_trie<K: Pod, V: Pod>(&self, name: &'static str) {
        let mut map: LpmTrie<_, K, V> = maps::trie(&self.pins, name).unwrap();
        let keys: Vec<_> = map.keys().filter_map(Result::ok).collect();
        keys.iter().for_each(|k| drop(map.remove(k)));
    }

    fn delete_endpoint(&mut self) {
        let locked = self.store.lock(Duration::from_secs(5)).unwrap();
        self.endpoints.delete(&locked, IFINDEX, None).unwrap();
    }

    pub(crate) fn endpoint_index(&self) -> u32 {
        self.endpoints
            .entry(IFINDEX)
            .unwrap()
            .map_or(0, |r| r.endpoint_index)
    }

    fn endpoint_id(&self) -> Option<u32> {
        self.endpoints
            .entry(IFINDEX)
            .unwrap()
            .map(|r| r.endpoint_id)
    }

    fn hash<K: Pod, V: Pod>(&self, name: &'static str) -> HashMap<MapData, K, V> {
        maps::hash(&self.pins, name).unwrap()
    }

    fn set<K: Pod, V: Pod>(&self, name: &'static str, key: K, value: Option<V>) {
        let mut map = self.hash::<K, V>(name);
        match value {
            Some(value) => map.insert(key, value, 0).unwrap(),
            None => drop(map.remove(&key)),
        }
    }

    /// Time passes: everything that carries a time was seen earlier. (The clock itself cannot be moved.)
    fn wait(&self, seconds: u32) {
        let ticks = (u64::from(seconds) * u64::from(self.hz) / TICK_JIFFIES) as u32;
        let older = |mut v: FlowValue| {
            v.0.seen = v.0.seen.wrapping_sub(ticks);
            v
        };
        let mut flows = self.hash::<FlowKey, FlowValue>("FLOWS");
        let all: Vec<_> = flows.iter().filter_map(Result::ok).collect();
        all.into_iter()
            .for_each(|(k, v)| flows.insert(k, older(v), 2).unwrap());
        let mut nursery = self.hash::<u32, NurseryBucket>("NURSERY");
        let all: Vec<_> = nursery.iter().filter_map(Result::ok).collect();
        for (key, mut bucket) in all {
            for seen in &mut bucket.0.seen {
                *seen = seen.wrapping_sub(ticks);
            }
            nursery.insert(key, bucket, 2).unwrap();
        }
        let mut fragments = maps::lru::<FragmentKey, FlowValue>(&self.pins, "FRAGMENTS").unwrap();
        let all: Vec<_> = fragments.iter().filter_map(Result::ok).collect();
        all.into_iter()
            .for_each(|(k, v)| fragments.insert(k, older(v), 2).unwrap());
    }

    fn passed(&self, endpoint_index: u32, direction: Direction) -> u64 {
        self.passed
            .get(&(endpoint_index * 2 + direction as u32), 0)
            .unwrap()
            .iter()
            .map(|c| c.0.packets)
            .sum()
    }

    /// The one reason that was counted since the last call, with its packets; `Tracked` has no counter by reason.
    fn reason(
        &mut self,
        endpoint_index: u32,
        direction: Direction,
    ) -> Result<(Reason, u64), String> {
        let mut found = Vec::new();
        for entry in self.reasons.iter() {
            let (key, values) = entry.map_err(|e| e.to_string())?;
            found.push((key, values.iter().map(|c| c.0.packets).sum::<u64>()));
        }
        found
            .iter()
            .for_each(|(key, _)| drop(self.reasons.remove(key)));
        match found.as_slice() {
            [] => Ok((Reason::Tracked, 0)),
            [(key, packets)] => {
                let reason = Reason::from_number(*key as u8)
                    .ok_or_else(|| format!("reason {}", *key as u8))?;
                let wanted = if reason == Reason::NoEndpoint {
                    0
                } else {
                    endpoint_index
                };
                if key >> 16 != wanted || (key >> 8) & 0xff != direction as u32 {
                    return Err(format!(
                        "{reason} counted under key {key:#x}, not for endpoint index {wanted}"
                    ));
                }
                Ok((reason, *packets))
            }
            more => Err(format!("{} reasons counted for one packet", more.len())),
        }
    }
}

impl World for Kernel {
    fn change(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::Endpoint(spec) => {
                self.delete_endpoint();
                let Some(spec) = spec else { return Ok(()) };
                let new = NewEndpoint {
                    ifindex: IFINDEX,
                    mac: spec.mac,
                    host_mac: verdict_testkit::HOST_MAC,
                    addresses: spec.addresses.clone(),
                    extra_sources: spec
                        .extra
                        .iter()
                        .map(|(a, l)| IpNetwork::new(*a, *l).unwrap())
                        .collect(),
                    source_guard: spec.guard,
                    flags: 0,
                };
                let locked = self.store.lock(Duration::from_secs(5)).unwrap();
                let reserved = self.endpoints.reserve(&locked).map_err(|e| e.to_string())?;
                let entry = self
                    .endpoints
                    .create(&locked, reserved, &new)
                    .map_err(|e| e.to_string())?;
                self.endpoints
                    .policy_states
                    .set(entry.endpoint_index, PolicyState(0));
            }
            Change::PolicyState(policy_state) => self
                .endpoints
                .policy_states
                .set(self.endpoint_index(), *policy_state),
            Change::Peer(key, value) => self.set("PEERS", PeerKey(*key), value.map(PeerValue)),
            Change::Prefix(key, value) => {
                let mut trie: LpmTrie<_, PrefixData, PrefixValue> =
                    maps::trie(&self.pins, "PREFIXES").unwrap();
                match value {
                    Some(value) => trie
                        .insert(&prefix_key(key), PrefixValue(*value), 0)
                        .unwrap(),
                    None => drop(trie.remove(&prefix_key(key))),
                }
            }
            Change::Rule(key, value) => {
                let value = value.map(|says| RuleValue(layout::RuleValue::new(key, says)));
                self.set("RULES", RuleKey(*key), value);
            }
            Change::Port(key, value) => {
                let mut trie: LpmTrie<_, PortData, u32> = maps::trie(&self.pins, "PORTS").unwrap();
                match value {
                    Some(value) => trie.insert(&port_key(key), *value, 0).unwrap(),
                    None => drop(trie.remove(&port_key(key))),
                }
            }
            Change::Host(key, there) => self.set("HOSTS", PeerKey(*key), there.then_some(1u32)),
            Change::HostPath(via) => self.set("HOSTPATHS", via.ifindex(IFINDEX), Some(1u32)),
            Change::HostPort(key) => self.set("HOSTPORTS", HostPortKey(*key), Some(1u32)),
            // Both families: new namespaces have bindv6only = 0.
            Change::Listen(6, port) => {
                self.sockets.push(Box::new(
                    TcpListener::bind(("::", *port)).map_err(|e| e.to_string())?,
                ));
            }
            Change::Listen(_, port) => {
                self.sockets.push(Box::new(
                    UdpSocket::bind(("::", *port)).map_err(|e| e.to_string())?,
                ));
            }
            Change::Config(config) => {
                let mut map: Array<_, ConfigValue> = maps::array(&self.pins, "CONFIG").unwrap();
                map.set(
                    0,
                    ConfigValue(Config {
                        hz: self.hz,
                        ..*config
                    }),
                    0,
                )
                .unwrap();
            }
            Change::Wait(seconds) => self.wait(*seconds),
            Change::Jiffies(_) | Change::Capacity(_) => {
                return Err("only the model can do that".into());
            }
        }
        Ok(())
    }

    fn packet(&mut self, direction: Direction, via: Via, wire: &Wire) -> Result<Outcome, String> {
        let program = match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        };
        // Towards the host no rule asks for it: where the kernel cannot carry it, it stays away.
        let from = if self.carries_ingress_interface {
            via.ifindex(IFINDEX)
        } else {
            0
        };
        let ctx = context(from, wire.gso_size);
        let endpoint_index = self.endpoint_index();
        let before = self.passed(endpoint_index, direction);
        let options = TestRunOptions {
            data_in: Some(&wire.bytes.0),
            ctx_in: Some(&ctx),
            ..TestRunOptions::default()
        };
        let result = program
            .test_run(options)
            .map_err(|e| format!("run program: {e:?}"))?;
        let dropped = match result.return_value {
            PASS => false,
            DROP => true,
            other => return Err(format!("the program returned {other}")),
        };
        let segments = if wire.gso_size == 0 {
            1
        } else {
            u64::from(SEGMENTS)
        };
        let (reason, counted) = self.reason(endpoint_index, direction)?;
        if reason != Reason::Tracked && counted != segments {
            return Err(format!(
                "{reason} counted {counted} packets, not {segments}"
            ));
        }
        let passed = self.passed(endpoint_index, direction) - before;
        if passed != if dropped { 0 } else { segments } {
            return Err(format!("{passed} packets counted as passed"));
        }
        Ok(Outcome { dropped, reason })
    }

    fn flows(&mut self) -> Result<usize, String> {
        let endpoint_id = self.endpoint_id();
        let flows = self.hash::<FlowKey, FlowValue>("FLOWS");
        let nursery = self.hash::<u32, NurseryBucket>("NURSERY");
        let young = nursery.iter().filter_map(Result::ok).flat_map(|(_, b)| {
            let slots = b.0.check.into_iter().zip(b.0.keys);
            slots
                .filter_map(|(check, key)| (check != 0).then_some(FlowKey(key)))
                .collect::<Vec<_>>()
        });
        Ok(flows
            .keys()
            .filter_map(Result::ok)
            .chain(young)
            .filter(|k| Some(k.0.endpoint_id) == endpoint_id)
            .count())
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.bpf);
    }
}

fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

/// Names of the cases that a run left out, with the reason, as sorted lines.
#[derive(Default)]
pub(crate) struct LeftOut(BTreeSet<(String, String)>);

impl LeftOut {
    pub(crate) fn add(&mut self, why: &str, case: &str) {
        self.0.insert((why.to_owned(), case.to_owned()));
    }

    pub(crate) fn print(&self) {
        let mut last = "";
        for (why, case) in &self.0 {
            if why != last {
                println!("not carried: {why}");
                last = why;
            }
            println!("    {case}");
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
