//! The helper process's ends of streams: a server that sends all the time, clients that listen, and the two ways to fill a flow table.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, SockaddrStorage, send, sendto};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::wire::monotonic_ns;

/// What is sent each time.
const WORD: &[u8] = b"podgate-stream\n";

/// How bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, one stream of it used as TCP is.
    Sctp,
}

/// An address with its transport: `tcp/ADDRESS:PORT`, `udp/ADDRESS:PORT` or `sctp/ADDRESS:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// How.
    pub transport: Transport,
    /// Where.
    pub address: SocketAddr,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (transport, address) = text
            .split_once('/')
            .ok_or("a target is tcp/ADDRESS:PORT, udp/... or sctp/...")?;
        let transport = match transport {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            "sctp" => Transport::Sctp,
            other => return Err(format!("{other} is none of tcp, udp and sctp")),
        };
        let address = address.parse().map_err(|e| format!("{address}: {e}"))?;
        Ok(Self { transport, address })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        };
        write!(f, "{transport}/{}", self.address)
    }
}

impl Target {
    /// A socket for connections.
    fn stream_socket(&self) -> io::Result<Socket> {
        let protocol = match self.transport {
            Transport::Sctp => Protocol::SCTP,
            _ => Protocol::TCP,
        };
        let socket = Socket::new(
            Domain::for_address(self.address),
            Type::STREAM,
            Some(protocol),
        )?;
        socket.set_reuse_address(true)?;
        Ok(socket)
    }
}

/// What one end of one stream has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// The other side, as a [`Target`].
    pub peer: String,
    /// Bytes handed to the kernel.
    pub sent: u64,
    /// Bytes that came.
    pub received: u64,
    /// When the last of them came (`CLOCK_MONOTONIC`).
    pub last_received_ns: u64,
    /// The longest time without any, since the report before.
    pub longest_gap_ns: u64,
}

impl End {
    /// Words handed to the kernel.
    #[must_use]
    pub fn words_sent(&self) -> u64 {
        self.sent / WORD.len() as u64
    }

    /// Words that came.
    #[must_use]
    pub fn words_heard(&self) -> u64 {
        self.received / WORD.len() as u64
    }
}

enum Way {
    /// A connection.
    Stream(TcpStream),
    /// A socket that serves many peers.
    UdpTo(Arc<UdpSocket>, SocketAddr),
    /// A socket with one peer.
    Udp(UdpSocket),
}

struct Stream {
    peer: Target,
    way: Way,
    sent: AtomicU64,
    received: AtomicU64,
    last_ns: AtomicU64,
    gap_ns: AtomicU64,
}

impl Stream {
    fn new(peer: Target, way: Way) -> Arc<Self> {
        Arc::new(Self {
            peer,
            way,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            last_ns: AtomicU64::new(0),
            gap_ns: AtomicU64::new(0),
        })
    }

    /// Sends the word, if the kernel takes it now.
    fn speak(&self) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = match &self.way {
            Way::Stream(stream) => send(stream.as_raw_fd(), WORD, flags),
            Way::Udp(socket) => send(socket.as_raw_fd(), WORD, flags),
            Way::UdpTo(socket, to) => {
                sendto(socket.as_raw_fd(), WORD, &SockaddrStorage::from(*to), flags)
            }
        };
        // A full buffer or a broken connection shows at the other end.
        self.sent
            .fetch_add(sent.unwrap_or(0) as u64, Ordering::Relaxed);
    }

    fn hear(&self, bytes: usize) {
        let now = monotonic_ns();
        let before = self.last_ns.swap(now, Ordering::Relaxed);
        if before != 0 {
            self.gap_ns
                .fetch_max(now.saturating_sub(before), Ordering::Relaxed);
        }
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Reads until the connection is over. A UDP socket is told now and then that nobody listens, and goes on.
    fn read(&self) {
        let mut buffer = [0; 4096];
        loop {
            let read = match &self.way {
                Way::Stream(stream) => {
                    let mut stream = stream;
                    stream.read(&mut buffer)
                }
                Way::Udp(socket) => socket.recv(&mut buffer),
                Way::UdpTo(..) => return,
            };
            match (read, &self.way) {
                (Ok(0), Way::Stream(_)) => return,
                (Ok(bytes), _) => self.hear(bytes),
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                (Err(_), Way::Stream(_)) => return,
                (Err(_), _) => {}
            }
        }
    }

    fn end(&self) -> End {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        End {
            peer: self.peer.to_string(),
            sent: load(&self.sent),
            received: load(&self.received),
            last_received_ns: load(&self.last_ns),
            longest_gap_ns: self.gap_ns.swap(0, Ordering::Relaxed),
        }
    }
}

/// All streams of a helper.
#[derive(Clone, Default)]
pub struct Streams(Arc<Mutex<Vec<Arc<Stream>>>>);

impl Streams {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<Stream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, stream: &Arc<Stream>) {
        self.all().push(Arc::clone(stream));
    }

    /// What each has seen.
    #[must_use]
    pub fn report(&self) -> Vec<End> {
        self.all().iter().map(|stream| stream.end()).collect()
    }

    /// Sends once on each.
    pub fn speak(&self) {
        self.all().iter().for_each(|stream| stream.speak());
    }

    /// Sends on each, again and again, from a thread of its own.
    pub fn speak_every(&self, gap: Duration) {
        let streams = self.clone();
        std::thread::spawn(move || {
            loop {
                streams.speak();
                std::thread::sleep(gap);
            }
        });
    }

    /// Listens; whoever comes is greeted at once.
    ///
    /// # Errors
    /// If an address cannot be had.
    pub fn listen(&self, on: &[Target]) -> io::Result<()> {
        for target in on {
            if target.transport == Transport::Udp {
                let socket = UdpSocket::bind(target.address)?;
                let streams = self.clone();
                std::thread::spawn(move || streams.serve_udp(&Arc::new(socket)));
            } else {
                let socket = target.stream_socket()?;
                socket.bind(&target.address.into())?;
                // A thousand come at once.
                socket.listen(4096)?;
                let (listener, transport) = (TcpListener::from(socket), target.transport);
                let streams = self.clone();
                std::thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        streams.serve(stream, transport);
                    }
                });
            }
        }
        Ok(())
    }

    fn serve(&self, stream: TcpStream, transport: Transport) {
        let Ok(address) = stream.peer_addr() else {
            return;
        };
        let _ = stream.set_nodelay(true);
        let peer = Target { transport, address };
        let stream = Stream::new(peer, Way::Stream(stream));
        stream.speak();
        self.add(&stream);
        std::thread::spawn(move || stream.read());
    }

    fn serve_udp(&self, socket: &Arc<UdpSocket>) {
        let mut peers = HashMap::new();
        let mut buffer = [0; 4096];
        loop {
            // An ICMP error of an earlier answer is no end.
            let Ok((bytes, from)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let stream: &mut Arc<Stream> = peers.entry(from).or_insert_with(|| {
                let peer = Target {
                    transport: Transport::Udp,
                    address: from,
                };
                let stream = Stream::new(peer, Way::UdpTo(Arc::clone(socket), from));
                stream.speak();
                self.add(&stream);
                stream
            });
            stream.hear(bytes);
        }
    }

    /// Opens connections to each target and waits until each was greeted.
    ///
    /// # Errors
    /// If one was not in time.
    pub fn connect(&self, to: &[Target], connections: usize, limit: Duration) -> io::Result<()> {
        let deadline = Instant::now() + limit;
        for target in to {
            for _ in 0..connections {
                let way = if target.transport == Transport::Udp {
                    let any = if target.address.is_ipv4() {
                        SocketAddr::from(([0, 0, 0, 0], 0))
                    } else {
                        SocketAddr::from(([0_u16; 8], 0))
                    };
                    let socket = UdpSocket::bind(any)?;
                    socket.connect(target.address)?;
                    Way::Udp(socket)
                } else {
                    let socket = target.stream_socket()?;
                    socket.connect_timeout(&target.address.into(), limit)?;
                    let stream = TcpStream::from(socket);
                    // SCTP has another option for it, and its first words are not held back.
                    let _ = stream.set_nodelay(true);
                    Way::Stream(stream)
                };
                let stream = Stream::new(*target, way);
                stream.speak();
                self.add(&stream);
                std::thread::spawn(move || stream.read());
            }
        }
        loop {
            let silent: Vec<Arc<Stream>> = self
                .all()
                .iter()
                .filter(|stream| stream.received.load(Ordering::Relaxed) == 0)
                .cloned()
                .collect();
            let Some(one) = silent.first() else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    format!("{} of {} hear nothing", one.peer, silent.len()),
                ));
            }
            // A first datagram may be lost, where a neighbour has to be found first.
            silent
                .iter()
                .filter(|stream| stream.peer.transport == Transport::Udp)
                .for_each(|stream| stream.speak());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A bare SYN to every port of an address; how many the kernel sent.
///
/// # Errors
/// If sockets cannot be had.
pub fn scan(to: IpAddr) -> io::Result<u32> {
    let mut sent = 0;
    for port in 1..=u16::MAX {
        let to = SocketAddr::new(to, port);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        match socket.connect(&to.into()) {
            Ok(()) => sent += 1,
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {
                sent += 1;
            }
            // The answer was quicker than the call.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => sent += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Asks a UDP server from every local port, some at a time; how many were answered.
///
/// # Errors
/// If sockets cannot be had.
pub fn ask(to: SocketAddr) -> io::Result<u32> {
    const AT_ONCE: usize = 128;
    let any = if to.is_ipv4() {
        IpAddr::from([0, 0, 0, 0])
    } else {
        IpAddr::from([0_u16; 8])
    };
    let mut answered = 0;
    let ports: Vec<u16> = (1..=u16::MAX).collect();
    for some in ports.chunks(AT_ONCE) {
        let mut waiting = Vec::with_capacity(some.len());
        for port in some {
            let socket = UdpSocket::bind(SocketAddr::new(any, *port))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            waiting.push(socket);
        }
        for _ in 0..10 {
            waiting.iter().for_each(|socket| drop(socket.send(WORD)));
            waiting.retain(|socket| {
                let mut buffer = [0; 256];
                let heard = socket.recv(&mut buffer).is_ok();
                answered += u32::from(heard);
                !heard
            });
            if waiting.is_empty() {
                break;
            }
        }
    }
    Ok(answered)
}
