//! Real traffic inside a network namespace: servers, clients, a stamped generator and its receiver, raw frames, a capture.
//!
//! A helper process of the harness: it enters `--netns` itself, reports JSON lines on standard output, takes commands as lines on
//! standard input and ends when that closes, so that no test leaves one behind.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use integration::frames::{self, Summary};
use integration::patience;
use integration::streams::Target;
use integration::streams::ends::{self, Streams};
use integration::wire::{FloodReport, STAMP_LEN, SinkReport, SourceCount, Stamp, monotonic_ns};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, sendto,
    setsockopt, socket, sockopt,
};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// Network namespace to enter first.
    #[arg(long, global = true)]
    netns: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer each line (TCP) or datagram (UDP) with the peer's address and what came.
    Serve {
        /// TCP ports.
        #[arg(long, value_delimiter = ',')]
        tcp: Vec<u16>,
        /// UDP ports.
        #[arg(long, value_delimiter = ',')]
        udp: Vec<u16>,
    },
    /// Try once to talk to a server, and say how it ended.
    Connect {
        /// Where to.
        to: SocketAddr,
        /// UDP instead of TCP.
        #[arg(long)]
        udp: bool,
        /// Local address and port.
        #[arg(long)]
        from: Option<SocketAddr>,
        /// How long to try, in milliseconds.
        #[arg(long, default_value_t = 500)]
        timeout: u64,
    },
    /// Try TCP anew every few milliseconds until a server answers, and say when (nanoseconds of the real-time clock).
    Knock {
        /// Where to.
        to: SocketAddr,
        /// Local address and port.
        #[arg(long)]
        from: Option<SocketAddr>,
        /// How long to try, in milliseconds.
        #[arg(long, default_value_t = 5000)]
        timeout: u64,
    },
    /// Hold a connection; each line `ping MILLISECONDS` on standard input is one exchange.
    Session {
        /// Where to.
        to: SocketAddr,
        /// UDP instead of TCP.
        #[arg(long)]
        udp: bool,
        /// Local address and port.
        #[arg(long)]
        from: Option<SocketAddr>,
    },
    /// Send stamped UDP packets to each destination; ends by the line `stop`.
    Flood {
        /// Where to, each at the full rate.
        to: Vec<SocketAddr>,
        /// Packets per second and destination.
        #[arg(long, default_value_t = 10_000)]
        rate: u64,
        /// Send IPv4 only once this neighbour's entry is permanent.
        #[arg(long)]
        after_neighbour: Option<String>,
    },
    /// Count stamped UDP packets per source; `report FROM TO` prints the counts of what was sent then (nanoseconds).
    Sink {
        /// UDP port.
        port: u16,
    },
    /// Count all frames of the namespace by what they say; `report` prints the counts, `frames` those kept, as hex.
    Capture {
        /// Only frames of this interface.
        #[arg(long)]
        iface: Option<String>,
        /// How many frames to keep.
        #[arg(long, default_value_t = 256)]
        keep: usize,
    },
    /// Serve streams: greet whoever comes, then send to all of them; `speak` sends once, `report` prints what each has seen.
    Pour {
        /// Where, as tcp/ADDRESS:PORT, udp/ADDRESS:PORT or sctp/ADDRESS:PORT.
        on: Vec<Target>,
        /// Microseconds from one word to the next; 0 = only when told.
        #[arg(long, default_value_t = 0)]
        gap: u64,
    },
    /// Open streams and listen; `speak` sends once on each, `report` prints what each has seen.
    Drink {
        /// Where to, as tcp/ADDRESS:PORT, udp/ADDRESS:PORT or sctp/ADDRESS:PORT.
        to: Vec<Target>,
        /// Connections to each.
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Milliseconds until each must have been greeted.
        #[arg(long, default_value_t = 8000)]
        limit: u64,
    },
    /// Send a SYN to every TCP port of an address.
    Scan {
        /// Where to.
        to: IpAddr,
    },
    /// Ask a UDP server from every local port.
    Ask {
        /// Where to.
        to: SocketAddr,
    },
    /// Send raw frames, given as hex on standard input, one a line.
    Send {
        /// Interface.
        iface: String,
    },
}

fn main() {
    let args = Args::parse();
    if let Err(error) = enter(args.netns.as_deref()).and_then(|()| run(args.command)) {
        eprintln!("podgate-traffic: {error}");
        std::process::exit(1);
    }
}

/// Enters the namespace; no other thread runs yet, and all later ones inherit it.
fn enter(netns: Option<&std::path::Path>) -> io::Result<()> {
    let Some(path) = netns else { return Ok(()) };
    let file = File::open(path).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("open namespace {}: {error}", path.display()),
        )
    })?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

fn run(command: Command) -> io::Result<()> {
    match command {
        Command::Serve { tcp, udp } => serve(&tcp, &udp),
        Command::Connect {
            to,
            udp,
            from,
            timeout,
        } => {
            let start = Instant::now();
            let result = attempt(to, udp, from, Duration::from_millis(timeout));
            say(&outcome(result, start));
            Ok(())
        }
        Command::Knock { to, from, timeout } => {
            knock(to, from, Duration::from_millis(timeout));
            Ok(())
        }
        Command::Session { to, udp, from } => session(to, udp, from),
        Command::Flood {
            to,
            rate,
            after_neighbour,
        } => flood(&to, rate, after_neighbour.as_deref()),
        Command::Sink { port } => sink(port),
        Command::Capture { iface, keep } => capture(iface.as_deref(), keep),
        Command::Pour { on, gap } => {
            let streams = Streams::default();
            streams.listen(&on)?;
            if gap != 0 {
                streams.speak_every(Duration::from_micros(gap));
            }
            tell(&streams);
            Ok(())
        }
        Command::Drink {
            to,
            connections,
            limit,
        } => {
            let streams = Streams::default();
            streams.connect(&to, connections, Duration::from_millis(limit))?;
            tell(&streams);
            Ok(())
        }
        Command::Scan { to } => {
            say(&json!({"sent": ends::scan(to)?}));
            Ok(())
        }
        Command::Ask { to } => {
            say(&json!({"answered": ends::ask(to)?}));
            Ok(())
        }
        Command::Send { iface } => send(&iface),
    }
}

fn say(value: &Value) {
    let mut out = io::stdout().lock();
    // Nobody listens any more: the test is over.
    if writeln!(out, "{value}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Says that streams are there, and what is asked about them.
fn tell(streams: &Streams) {
    say(&json!({"event": "ready"}));
    each_line(|line| {
        if line == "speak" {
            streams.speak();
        }
        say(&json!(streams.report()));
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `on` for each line of standard input, then returns.
fn each_line(mut on: impl FnMut(&str)) {
    for line in io::stdin().lock().lines() {
        match line {
            Ok(line) => on(line.trim()),
            Err(_) => return,
        }
    }
}

// ---- servers and clients

fn serve(tcp: &[u16], udp: &[u16]) -> io::Result<()> {
    for &port in tcp {
        let listener = TcpListener::bind(("::", port))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(&stream));
            }
        });
    }
    for &port in udp {
        // A socket for each address answers from the address that was asked; the wildcard one is for addresses yet to come.
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        for address in local_addresses().into_iter().chain([any]) {
            let socket = udp_server(SocketAddr::new(address, port))?;
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    let reply = [
                        format!("{} ", plain(peer.ip())).as_bytes(),
                        &buffer[..length],
                    ]
                    .concat();
                    let _ = socket.send_to(&reply, peer);
                }
            });
        }
    }
    say(&json!({"event": "ready"}));
    each_line(|_| {});
    Ok(())
}

/// A UDP socket that may stand beside the wildcard's.
fn udp_server(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&local.into())?;
    Ok(socket.into())
}

/// The namespace's addresses but for link-local ones.
fn local_addresses() -> Vec<IpAddr> {
    let entries = nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.address);
    let addresses = entries.filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .filter(|v6| !v6.ip().is_unicast_link_local())
                .map(|v6| IpAddr::V6(v6.ip()))
        })
    });
    addresses.collect()
}

/// An IPv4 address that a dual-stack socket shows as IPv6, as IPv4.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

fn answer(stream: &TcpStream) -> Option<()> {
    let peer = plain(stream.peer_addr().ok()?.ip());
    for line in BufReader::new(stream).lines() {
        let line = line.ok()?;
        let mut out = stream;
        out.write_all(format!("{peer} {line}\n").as_bytes()).ok()?;
    }
    Some(())
}

/// One exchange; the reply's first word is the address that the server saw.
fn attempt(
    to: SocketAddr,
    udp: bool,
    from: Option<SocketAddr>,
    timeout: Duration,
) -> io::Result<String> {
    let deadline = Instant::now() + timeout;
    if udp {
        let socket = udp_client(to, from)?;
        return exchange_udp(&socket, "hello", deadline);
    }
    let stream = tcp_client(to, from, timeout)?;
    exchange_tcp(&stream, "hello", deadline)
}

fn udp_client(to: SocketAddr, from: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() {
        SocketAddr::from(([0, 0, 0, 0], 0))
    } else {
        SocketAddr::from(([0_u16; 8], 0))
    };
    let socket = UdpSocket::bind(from.unwrap_or(any))?;
    socket.connect(to)?;
    Ok(socket)
}

fn tcp_client(
    to: SocketAddr,
    from: Option<SocketAddr>,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(from) = from {
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
    }
    socket.connect_timeout(&to.into(), timeout)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}

fn exchange_tcp(mut stream: &TcpStream, word: &str, deadline: Instant) -> io::Result<String> {
    stream.write_all(format!("{word}\n").as_bytes())?;
    stream.set_read_timeout(Some(left(deadline)?))?;
    let mut reply = String::new();
    // One byte at a time would lose nothing here: replies are one line, and a session has one exchange at a time.
    BufReader::with_capacity(1, stream).read_line(&mut reply)?;
    match reply.trim() {
        "" => Err(ErrorKind::UnexpectedEof.into()),
        reply => Ok(reply.to_owned()),
    }
}

fn exchange_udp(socket: &UdpSocket, word: &str, deadline: Instant) -> io::Result<String> {
    let word = format!("{word}-{:x}", monotonic_ns());
    let mut buffer = [0; 2048];
    loop {
        socket.send(word.as_bytes())?;
        socket.set_read_timeout(Some(left(deadline)?.min(Duration::from_millis(50))))?;
        match socket.recv(&mut buffer) {
            // A late reply to an earlier exchange is not this one's.
            Ok(length) if buffer[..length].ends_with(word.as_bytes()) => {
                return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
}

fn knock(to: SocketAddr, from: Option<SocketAddr>, timeout: Duration) {
    let start = Instant::now();
    say(&json!({"event": "ready"}));
    let mut tries = 0_u64;
    while start.elapsed() < patience(timeout) {
        tries += 1;
        if attempt(to, false, from, patience(Duration::from_millis(5))).is_ok() {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            say(
                &json!({"outcome": "open", "openedAtNs": now.as_nanos().to_string(), "tries": tries}),
            );
            return;
        }
    }
    say(&json!({"outcome": "timeout", "tries": tries}));
}

fn outcome(result: io::Result<String>, start: Instant) -> Value {
    let elapsed = start.elapsed().as_secs_f64() * 1000.0;
    match result {
        Ok(reply) => {
            json!({"outcome": "open", "seenAs": reply.split(' ').next(), "elapsedMs": elapsed})
        }
        Err(error) => {
            let outcome = match error.kind() {
                ErrorKind::ConnectionRefused => "refused",
                ErrorKind::TimedOut | ErrorKind::WouldBlock => "timeout",
                ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => {
                    "reset"
                }
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable",
                _ => "error",
            };
            json!({"outcome": outcome, "detail": error.to_string(), "elapsedMs": elapsed})
        }
    }
}

fn session(to: SocketAddr, udp: bool, from: Option<SocketAddr>) -> io::Result<()> {
    let start = Instant::now();
    let limit = Duration::from_secs(5);
    let client: Box<dyn Fn(Instant) -> io::Result<String>> = if udp {
        let socket = udp_client(to, from)?;
        Box::new(move |deadline| exchange_udp(&socket, "ping", deadline))
    } else {
        let stream = tcp_client(to, from, limit)?;
        Box::new(move |deadline| exchange_tcp(&stream, "ping", deadline))
    };
    say(&outcome(client(start + limit), start));
    each_line(|line| {
        let start = Instant::now();
        let timeout = line
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .unwrap_or(500);
        say(&outcome(
            client(start + Duration::from_millis(timeout)),
            start,
        ));
    });
    Ok(())
}

// ---- generator and receiver

fn flood(to: &[SocketAddr], rate: u64, after_neighbour: Option<&str>) -> io::Result<()> {
    let reports = Arc::new(Mutex::new(BTreeMap::<String, FloodReport>::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for &to in to {
        let any = if to.is_ipv4() {
            SocketAddr::from(([0, 0, 0, 0], 0))
        } else {
            SocketAddr::from(([0_u16; 8], 0))
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        let (reports, stop) = (Arc::clone(&reports), Arc::clone(&stop));
        let neighbour = after_neighbour.filter(|_| to.is_ipv4()).map(str::to_owned);
        threads.push(std::thread::spawn(move || {
            while neighbour
                .as_ref()
                .is_some_and(|neighbour| !is_permanent(neighbour))
                && !stop.load(Ordering::Relaxed)
            {
                std::thread::sleep(Duration::from_micros(200));
            }
            generate(&socket, to, rate, &reports, &stop);
        }));
    }
    say(&json!({"event": "ready"}));
    each_line(|line| {
        if line == "stop" {
            stop.store(true, Ordering::Relaxed);
            for thread in threads.drain(..) {
                let _ = thread.join();
            }
        }
        say(&json!(*lock(&reports)));
    });
    Ok(())
}

/// Whether the neighbour table holds a complete, permanent entry for an IPv4 address.
fn is_permanent(neighbour: &str) -> bool {
    let table = std::fs::read_to_string("/proc/thread-self/net/arp").unwrap_or_default();
    let mut words = table.lines().map(str::split_whitespace);
    words.any(|mut line| line.next() == Some(neighbour) && line.nth(1) == Some("0x6"))
}

/// Sends at `rate` by the clock: what a late wake-up missed is caught up at once, for 200 ms at most.
fn generate(
    socket: &UdpSocket,
    to: SocketAddr,
    rate: u64,
    reports: &Mutex<BTreeMap<String, FloodReport>>,
    stop: &AtomicBool,
) {
    let gap = 1_000_000_000 / rate.max(1);
    let mut due = monotonic_ns();
    let mut report = FloodReport::default();
    while !stop.load(Ordering::Relaxed) {
        let now = monotonic_ns();
        due = due.max(now.saturating_sub(200_000_000));
        while due <= now {
            let sent_ns = monotonic_ns();
            let stamp = Stamp {
                sequence: report.sent,
                sent_ns,
            };
            if socket
                .send_to(&stamp.to_bytes(), to)
                .is_ok_and(|length| length == STAMP_LEN)
            {
                if report.sent == 0 {
                    report.first_sent_ns = sent_ns;
                }
                report.sent += 1;
                report.last_sent_ns = sent_ns;
            } else {
                report.refused += 1;
            }
            due += gap;
        }
        lock(reports).insert(to.to_string(), report.clone());
        std::thread::sleep(Duration::from_nanos(gap.min(1_000_000)));
    }
}

/// A marker that a receiver sends to itself: once it has come out of the socket, so has all that came before.
struct Markers {
    seen: Mutex<u64>,
    changed: Condvar,
    sender: UdpSocket,
    port: u16,
}

const MARKER: &[u8; 8] = b"PDGTMARK";

impl Markers {
    fn new(port: u16) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            seen: Mutex::new(0),
            changed: Condvar::new(),
            sender: UdpSocket::bind("127.0.0.1:0")?,
            port,
        }))
    }

    /// Takes a payload if it is a marker.
    fn take(&self, payload: &[u8]) -> bool {
        let Some(number) = payload
            .strip_prefix(MARKER)
            .and_then(|rest| rest.get(..8)?.try_into().ok())
            .map(u64::from_be_bytes)
        else {
            return false;
        };
        let mut seen = lock(&self.seen);
        *seen = (*seen).max(number);
        self.changed.notify_all();
        true
    }

    /// Waits until all that reached the socket before has been read.
    fn sync(&self) {
        let number = monotonic_ns();
        let marker = [&MARKER[..], &number.to_be_bytes()].concat();
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut seen = lock(&self.seen);
        while *seen < number && Instant::now() < deadline {
            // Sent again now and then: a full socket drops the marker too.
            let _ = self.sender.send_to(&marker, ("127.0.0.1", self.port));
            (seen, _) = self
                .changed
                .wait_timeout(seen, Duration::from_millis(20))
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// All stamps of a source, so that a question about any stretch of time can be answered afterwards.
type Arrived = BTreeMap<IpAddr, (Vec<Stamp>, u64)>;

/// What was sent from `from` to `to` and came.
fn window(arrived: &Arrived, from: u64, to: u64) -> SinkReport {
    let report = arrived.iter().map(|(source, (stamps, others))| {
        let mut count = SourceCount {
            others: *others,
            ..SourceCount::default()
        };
        for stamp in stamps
            .iter()
            .filter(|stamp| (from..=to).contains(&stamp.sent_ns))
        {
            count.count(*stamp);
        }
        (source.to_string(), count)
    });
    report.collect()
}

fn sink(port: u16) -> io::Result<()> {
    let socket = UdpSocket::bind(("::", port))?;
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).map_err(io::Error::from)?;
    let port = socket.local_addr()?.port();
    let markers = Markers::new(port)?;
    let arrived = Arc::new(Mutex::new(Arrived::new()));
    let (thread_markers, thread_arrived) = (Arc::clone(&markers), Arc::clone(&arrived));
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let payload = &buffer[..length];
            if thread_markers.take(payload) {
                continue;
            }
            let mut arrived = lock(&thread_arrived);
            let (stamps, others) = arrived.entry(plain(peer.ip())).or_default();
            match Stamp::parse(payload) {
                Some(stamp) => stamps.push(stamp),
                None => *others += 1,
            }
        }
    });
    say(&json!({"event": "ready", "port": port}));
    each_line(|line| {
        markers.sync();
        let mut bounds = line
            .split(' ')
            .skip(1)
            .map(|word| word.parse().unwrap_or(u64::MAX));
        let (from, to) = (
            bounds.next().unwrap_or(0),
            bounds.next().unwrap_or(u64::MAX),
        );
        say(&json!(window(&lock(&arrived), from, to)));
    });
    Ok(())
}

// ---- raw frames

fn packet_socket() -> io::Result<std::os::fd::OwnedFd> {
    socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .map_err(io::Error::from)
}

/// The link address of an interface, as the kernel lists it: family, index and hardware address filled in.
fn link_address(iface: &str) -> io::Result<LinkAddr> {
    let mut all = nix::ifaddrs::getifaddrs().map_err(io::Error::from)?;
    all.find_map(|entry| {
        (entry.interface_name == iface)
            .then(|| {
                entry
                    .address
                    .and_then(|address| address.as_link_addr().copied())
            })
            .flatten()
    })
    .ok_or_else(|| io::Error::new(ErrorKind::NotFound, format!("no interface {iface} here")))
}

#[derive(Default)]
struct Captured {
    counts: BTreeMap<(Summary, bool), (u64, u64, u64)>,
    kept: Vec<String>,
}

fn capture(iface: Option<&str>, keep: usize) -> io::Result<()> {
    let socket = packet_socket()?;
    setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20)).map_err(io::Error::from)?;
    let only = iface
        .map(link_address)
        .transpose()?
        .map(|link| link.ifindex());
    let markers = Markers::new(9)?;
    let captured = Arc::new(Mutex::new(Captured::default()));
    let (thread_markers, thread_captured) = (Arc::clone(&markers), Arc::clone(&captured));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, Some(link))) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            let frame = &buffer[..length];
            // Loopback frames carry markers: Ethernet, IPv4 and UDP headers are 42 bytes.
            if frame
                .get(42..)
                .is_some_and(|payload| thread_markers.take(payload))
            {
                continue;
            }
            if only.is_some_and(|only| only != link.ifindex()) {
                continue;
            }
            let Some((summary, stamp)) = frames::parse(frame) else {
                continue;
            };
            const PACKET_OUTGOING: u8 = 4;
            let mut captured = lock(&thread_captured);
            if captured.kept.len() < keep {
                captured.kept.push(frames::to_hex(frame));
            }
            let (count, last_seen, last_sent) = captured
                .counts
                .entry((summary, link.pkttype() == PACKET_OUTGOING))
                .or_default();
            *count += 1;
            *last_seen = monotonic_ns();
            *last_sent = (*last_sent).max(stamp.map_or(0, |stamp| stamp.sent_ns));
        }
    });
    say(&json!({"event": "ready"}));
    each_line(|line| {
        markers.sync();
        let captured = lock(&captured);
        if line == "frames" {
            say(&json!(captured.kept));
            return;
        }
        let rows = captured.counts.iter().map(|((summary, outgoing), (count, last_seen, last_sent))| {
            json!({"summary": summary, "outgoing": outgoing, "count": count, "lastSeenNs": last_seen, "lastSentNs": last_sent})
        });
        say(&rows.collect());
    });
    Ok(())
}

fn send(iface: &str) -> io::Result<()> {
    let socket = packet_socket()?;
    let link = link_address(iface)?;
    let mut sent = 0_u64;
    let mut failed = Vec::new();
    each_line(|line| match frames::from_hex(line) {
        Some(frame) if !frame.is_empty() => {
            match sendto(socket.as_raw_fd(), &frame, &link, MsgFlags::empty()) {
                Ok(_) => sent += 1,
                Err(error) => failed.push(error.to_string()),
            }
        }
        _ => failed.push(format!("not hexadecimal: {line}")),
    });
    say(&json!({"sent": sent, "failed": failed}));
    Ok(())
}
