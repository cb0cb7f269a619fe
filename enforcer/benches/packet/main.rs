//! What a packet costs: the real programs beside a floor that makes the same look-ups and nothing else, and beside an
//! empty program, in one run of BPF_PROG_TEST_RUN. design.md, "Figures to hold". Run by `scripts/bench.sh packet`, or
//! `cargo bench -p enforcer --bench packet`.

mod asm;
#[path = "../../tests/million/carry.rs"]
mod carry;
#[path = "../../../companion/src/enforcement/kernel.rs"]
#[allow(
    dead_code,
    reason = "the companion's own: this takes what applies policy"
)]
mod companion;
#[path = "../../tests/kernel/mod.rs"]
mod kernel;
mod tiers;

use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use asm::Program;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, MapData};
use enforcer::maps::{self, *};
use kernel::{IFINDEX, Kernel, context};
use verdict::PolicyState;
use verdict::layout::{self, Direction, PORT_ALLOW, PORT_DENY};
use verdict_testkit::case::Change;
use verdict_testkit::generate::beginning;
use verdict_testkit::{Via, Wire, World as _, frame};

/// Many short rounds, in turn: on a busy machine some of each are undisturbed.
const ROUNDS: usize = 200;
const REPEAT: u32 = 10_000;
/// Peers and port ranges of the figures.
const PEERS: u32 = 60_000;
const RANGES: u16 = 24;
/// New flows a round: below every limit of the table that is loaded.
const NEW_FLOWS: u32 = 10_000;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// One thing to measure.
struct Measured {
    name: String,
    fd: OwnedFd,
    wire: Wire,
    ingress_ifindex: u32,
    want: u32,
    ns: Vec<f64>,
}

impl Measured {
    fn new(
        name: impl Into<String>,
        fd: BorrowedFd<'_>,
        wire: &Wire,
        ingress_ifindex: u32,
        want: u32,
    ) -> Result<Self> {
        Ok(Self {
            name: name.into(),
            fd: fd.try_clone_to_owned()?,
            wire: wire.clone(),
            ingress_ifindex,
            want,
            ns: Vec::new(),
        })
    }

    fn run(&mut self, repeat: u32) -> Result<()> {
        let ctx = context(self.ingress_ifindex, 0);
        let begin = Instant::now();
        let returned = test_run(self.fd.as_fd(), &self.wire.bytes.0, &ctx, repeat)?;
        self.ns
            .push(begin.elapsed().as_nanos() as f64 / f64::from(repeat));
        if returned != self.want {
            return Err(format!(
                "{}: the program returned {returned}, not {}",
                self.name, self.want
            )
            .into());
        }
        Ok(())
    }

    /// What a tenth of the rounds stayed below: what the program costs, not what its neighbours on the machine do.
    fn cost(&self) -> f64 {
        let mut ns = self.ns.clone();
        ns.sort_by(f64::total_cmp);
        ns[ns.len() / 10]
    }
}

/// BPF_PROG_TEST_RUN, for programs that aya has not loaded too.
fn test_run(program: BorrowedFd<'_>, frame: &[u8], ctx: &[u8], repeat: u32) -> Result<u32> {
    const BPF_PROG_TEST_RUN: libc::c_int = 10;
    let mut attr = [0u64; 16];
    attr[0] = program.as_raw_fd() as u64;
    attr[1] = frame.len() as u64;
    attr[2] = frame.as_ptr() as u64;
    attr[4] = u64::from(repeat);
    attr[5] = ctx.len() as u64;
    attr[6] = ctx.as_ptr() as u64;
    // SAFETY: the attribute is as long as it says, and what it points to outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            attr.as_mut_ptr(),
            size_of_val(&attr),
        )
    };
    if done != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok((attr[0] >> 32) as u32)
}

const PASS: u32 = u32::MAX;
const DROP: u32 = 2;

fn bytes_of<const N: usize>(words: &[u32]) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut()
        .zip(words.iter().flat_map(|w| w.to_ne_bytes()))
        .for_each(|(o, b)| *o = b);
    out
}

fn key_bytes(key: &layout::FlowKey) -> [u8; 44] {
    let ports = u32::from_ne_bytes({
        let ([a, b], [c, d]) = (
            key.local_port_be.to_ne_bytes(),
            key.remote_port_be.to_ne_bytes(),
        );
        [a, b, c, d]
    });
    let [e, f] = key.echo.to_ne_bytes();
    let kind = u32::from_ne_bytes([key.family, key.protocol, e, f]);
    let [l0, l1, l2, l3] = key.local.0;
    let [r0, r1, r2, r3] = key.remote.0;
    bytes_of(&[key.endpoint_id, ports, kind, l0, l1, l2, l3, r0, r1, r2, r3])
}

/// The look-ups of a tracked packet, and nothing else.
fn floor(kernel: &Kernel, direction: Direction, flow: &layout::FlowKey) -> Result<OwnedFd> {
    let map = |name| maps::data(&kernel.pins, name);
    let endpoint_index = kernel.endpoint_index();
    let (endpoints, policy_states, config) =
        (map("ENDPOINTS")?, map("POLICY_STATES")?, map("CONFIG")?);
    let (flows, passed) = (map("FLOWS")?, map("PASSED")?);
    // The working memory is the programs' own and not pinned; a per-CPU array costs as much.
    let program = Program::new()
        .lookup(passed.fd().as_fd(), &bytes_of::<4>(&[0]))
        .lookup(endpoints.fd().as_fd(), &bytes_of::<4>(&[IFINDEX]))
        .lookup(
            policy_states.fd().as_fd(),
            &bytes_of::<4>(&[endpoint_index]),
        )
        .lookup(config.fd().as_fd(), &bytes_of::<4>(&[0]))
        .jiffies()
        .lookup(flows.fd().as_fd(), &key_bytes(flow))
        .lookup(
            passed.fd().as_fd(),
            &bytes_of::<4>(&[endpoint_index * 2 + direction as u32]),
        );
    Ok(program.load()?)
}

fn begin(kernel: &mut Kernel) -> Result<()> {
    kernel.reset();
    for change in beginning() {
        kernel.change(&change)?;
    }
    Ok(())
}

fn fd_of(kernel: &Kernel, direction: Direction) -> Result<BorrowedFd<'_>> {
    let program = if direction == Direction::Ingress {
        &kernel.ingress
    } else {
        &kernel.egress
    };
    Ok(program.fd()?.as_fd())
}

fn print_all(measured: &[Measured], empty: f64, floor: impl Fn(&str) -> Option<f64>) {
    println!("{:<34} {:>8} {:>9} {:>9}", "", "ns", "x empty", "x floor");
    for m in measured {
        let ns = m.cost();
        let of_floor = floor(&m.name).map_or(String::new(), |f| format!("{:9.2}", ns / f));
        println!("{:<34} {ns:8.1} {:9.2} {of_floor}", m.name, ns / empty);
    }
}

/// A tracked packet of each family in each direction.
fn tracked(kernel: &mut Kernel) -> Result<f64> {
    begin(kernel)?;
    kernel.change(&Change::PolicyState(PolicyState::new(0, 1, 2)))?;
    let mut all = Vec::new();
    let plain = frame(
        "v4 peer > pod tcp 40000 > 80 ack data=100",
        Direction::Ingress,
    )?;
    all.push(Measured::new(
        "empty",
        Program::new().load()?.as_fd(),
        &plain,
        7,
        PASS,
    )?);
    all.push(Measured::new(
        "head of the frame",
        Program::new().head().load()?.as_fd(),
        &plain,
        7,
        PASS,
    )?);
    for family in ["v4", "v6"] {
        // A flow stands in the table once both sides have spoken.
        let (there, back) = (Direction::Ingress, Direction::Egress);
        let asks = frame(
            &format!("{family} peer > pod tcp 40000 > 80 ack data=100"),
            there,
        )?;
        let answers = frame(
            &format!("{family} pod > peer tcp 80 > 40000 ack data=100"),
            back,
        )?;
        kernel.packet(there, Via::Uplink, &asks)?;
        kernel.packet(back, Via::Uplink, &answers)?;
        for (direction, way, words) in [
            (
                Direction::Ingress,
                "in",
                "peer > pod tcp 40000 > 80 ack data=100",
            ),
            (
                Direction::Egress,
                "out",
                "pod > peer tcp 80 > 40000 ack data=100",
            ),
        ] {
            let wire = frame(&format!("{family} {words}"), direction)?;
            kernel.packet(direction, Via::Uplink, &wire)?;
            let flows: HashMap<MapData, FlowKey, FlowValue> = maps::hash(&kernel.pins, "FLOWS")?;
            let wanted = if family == "v4" {
                layout::V4
            } else {
                layout::V6
            };
            let key = flows
                .keys()
                .filter_map(std::result::Result::ok)
                .find(|k| k.0.family == wanted);
            let key = key.ok_or("no flow was recorded")?.0;
            all.push(Measured::new(
                format!("floor {family} {way}"),
                floor(kernel, direction, &key)?.as_fd(),
                &wire,
                7,
                PASS,
            )?);
            all.push(Measured::new(
                format!("tracked {family} {way}"),
                fd_of(kernel, direction)?,
                &wire,
                7,
                PASS,
            )?);
        }
    }
    for round in 0..=ROUNDS {
        for m in &mut all {
            m.run(REPEAT)?;
            if round == 0 {
                m.ns.clear();
            }
        }
    }
    let empty = all[0].cost();
    let floor_of = |name: &str| {
        let rest = name.strip_prefix("tracked ")?;
        all.iter()
            .find(|m| m.name == format!("floor {rest}"))
            .map(Measured::cost)
    };
    print_all(&all, empty, floor_of);
    let worst = all
        .iter()
        .filter_map(|m| Some(m.cost() / floor_of(&m.name)?))
        .fold(0.0, f64::max);
    let tracked: Vec<f64> = all
        .iter()
        .filter(|m| m.name.starts_with("tracked"))
        .map(Measured::cost)
        .collect();
    let slowest = tracked.iter().copied().fold(0.0, f64::max);
    println!(
        "tracked packet: at most {worst:.2} x its floor (to hold: 1.5), {:.2} x empty (8)\n",
        slowest / empty
    );
    Ok(tracked.iter().sum::<f64>() / tracked.len() as f64)
}

/// Peers 10.128.0.0 and on, each a class with 24 port ranges; as exact addresses or as prefixes.
fn fill_peers(kernel: &Kernel, prefixes: bool) -> Result<()> {
    let mut rules: HashMap<MapData, RuleKey, RuleValue> = maps::hash(&kernel.pins, "RULES")?;
    let mut ports: LpmTrie<MapData, PortData, u32> = maps::trie(&kernel.pins, "PORTS")?;
    let mut exact: HashMap<MapData, PeerKey, PeerValue> = maps::hash(&kernel.pins, "PEERS")?;
    let mut trie: LpmTrie<MapData, PrefixData, PrefixValue> = maps::trie(&kernel.pins, "PREFIXES")?;
    for class in 1..=64u32 {
        for direction in 0..2 {
            let key = layout::RuleKey {
                class,
                set: 1,
                direction,
                family: layout::V4,
            };
            rules.insert(
                RuleKey(key),
                RuleValue(layout::RuleValue::new(&key, class)),
                0,
            )?;
        }
        for range in 0..RANGES {
            let port_be = (1024 + range * 64).to_be();
            let key = layout::PortKey {
                prefix_len: 58,
                port_set: class,
                protocol_be: 6u16.to_be(),
                port_be,
            };
            let value = if range % 2 == 0 {
                PORT_ALLOW
            } else {
                PORT_DENY
            };
            ports.insert(&port_key(&key), value, 0)?;
        }
    }
    for i in 0..PEERS {
        let addr = layout::Addr::v4((0x0a80_0000 + i * 4).to_be_bytes());
        let class = 1 + i % 64;
        if prefixes {
            let key = layout::PrefixKey {
                prefix_len: 32 + 30,
                family: 4,
                addr,
            };
            let value = layout::PrefixValue::new(&key, class, class, 0);
            trie.insert(&prefix_key(&key), PrefixValue(value), 0)?;
        } else {
            let key = layout::PeerKey { family: 4, addr };
            exact.insert(
                PeerKey(key),
                PeerValue(layout::PeerValue::new(&key, class)),
                0,
            )?;
        }
    }
    Ok(())
}

/// A new flow among many peers: the verdict alone (denied, allowed without room), and with the flow recorded.
fn new_flow(kernel: &mut Kernel, prefixes: bool, tracked: f64) -> Result<()> {
    begin(kernel)?;
    fill_peers(kernel, prefixes)?;
    let flags = PolicyState::ISOLATED_INGRESS | PolicyState::RULES_INGRESS;
    kernel.change(&Change::PolicyState(PolicyState::new(flags, 1, 2)))?;
    let allowed = frame(
        "v4 10.129.0.0 > pod tcp 40000 > 1030 syn",
        Direction::Ingress,
    )?;
    let denied = frame(
        "v4 10.129.0.0 > pod tcp 40000 > 1100 syn",
        Direction::Ingress,
    )?;
    let ingress = fd_of(kernel, Direction::Ingress)?.try_clone_to_owned()?;
    let mut verdict = Measured::new("denied", ingress.as_fd(), &denied, 7, DROP)?;

    // Another source port each time, then the real program, or an empty one to know what the varying costs.
    const SOURCE_PORT: i32 = 14 + 20;
    let count = asm::counter()?;
    let empty = Program::new().load()?;
    // A program array forgets its programs when nobody in user space holds it: both live until the end.
    let arrays = [
        asm::program_array(empty.as_fd())?,
        asm::program_array(ingress.as_fd())?,
    ];
    let varying = |array: &OwnedFd| {
        Program::new()
            .vary(count.as_fd(), SOURCE_PORT)
            .tail_call(array.as_fd())
            .load()
    };
    let mut varied = Measured::new(
        "varied, empty",
        varying(&arrays[0])?.as_fd(),
        &allowed,
        7,
        PASS,
    )?;
    let mut recorded = Measured::new("recorded", varying(&arrays[1])?.as_fd(), &allowed, 7, PASS)?;
    for round in 0..=ROUNDS / 5 {
        verdict.run(REPEAT)?;
        varied.run(NEW_FLOWS)?;
        recorded.run(NEW_FLOWS)?;
        if round == 0 {
            for m in [&mut verdict, &mut varied, &mut recorded] {
                m.ns.clear();
            }
        }
        kernel.forget_flows();
    }
    let (verdict, recorded) = (verdict.cost(), recorded.cost() - varied.cost());
    let (what, more) = if prefixes {
        ("prefixes", 8.0)
    } else {
        ("exact peers", 0.0)
    };
    println!("new flow, {PEERS} {what}, {RANGES} port ranges each:");
    println!(
        "  verdict alone      {verdict:8.1} ns = {:5.2} x tracked (to hold: {})",
        verdict / tracked,
        5.0 + more
    );
    println!(
        "  with flow recorded {recorded:8.1} ns = {:5.2} x tracked (to hold: {})",
        recorded / tracked,
        12.0 + more
    );
    Ok(())
}

/// Instructions that the verifier looked at, and those of the program.
fn verified(kernel: &Kernel) -> Result<()> {
    println!(
        "\n{:<18} {:>12} {:>14} {:>10}",
        "program", "instructions", "verified insns", "jited"
    );
    for info in aya::programs::loaded_programs() {
        let Ok(info) = info else { continue };
        let ours = [&kernel.ingress, &kernel.egress]
            .iter()
            .any(|p| p.info().is_ok_and(|i| i.id() == info.id()));
        if ours {
            println!(
                "{:<18} {:>12} {:>14} {:>10}",
                info.name_as_str().unwrap_or("?"),
                info.size_translated().unwrap_or(0) / 8,
                info.verified_instruction_count().unwrap_or(0),
                info.size_jitted()
            );
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    // `cargo test --all-targets` starts benches too, without this.
    if !std::env::args().any(|a| a == "--bench") {
        return Ok(());
    }
    kernel::own_namespace();
    let mut kernel = Kernel::load();
    let tracked = tracked(&mut kernel)?;
    new_flow(&mut kernel, false, tracked)?;
    new_flow(&mut kernel, true, tracked)?;
    tiers::with_and_without(&mut kernel)?;
    verified(&kernel)
}
