//! Servers and clients inside the pods' namespaces: one thread a namespace, many connections at once.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, interval, timeout_at};

use super::expect::Protocol;
use crate::node::Place;

/// How often a datagram is sent anew.
const AGAIN: Duration = Duration::from_millis(50);

/// One connection to try.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The client's address, where it has several.
    pub from: Option<IpAddr>,
    /// Where to.
    pub to: SocketAddr,
    /// By what.
    pub protocol: Protocol,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A server answered, and said who it is and on which port it was asked: `x/a 80`.
    Answer(String),
    /// Nothing came back: what a dropped packet looks like.
    Silence,
    /// Anything else, such as a reset: nobody here sends one, so it is never right.
    Other(String),
}

struct Batch {
    targets: Vec<Target>,
    patience: Duration,
    at_once: Arc<Semaphore>,
    reply: oneshot::Sender<Vec<Outcome>>,
}

/// A namespace's thread: it serves all the while, and asks when told.
#[derive(Debug)]
pub struct Prober {
    batches: Option<mpsc::UnboundedSender<Batch>>,
    thread: Option<JoinHandle<()>>,
    label: String,
}

/// Replies that are on their way.
#[derive(Debug)]
pub struct Replies {
    reply: oneshot::Receiver<Vec<Outcome>>,
    label: String,
}

impl Replies {
    /// Waits for them, in the order of the targets.
    ///
    /// # Errors
    /// When the namespace's thread died.
    pub fn wait(self) -> Result<Vec<Outcome>, String> {
        self.reply
            .blocking_recv()
            .map_err(|_| format!("the prober in {} ended", self.label))
    }
}

impl Prober {
    /// Enters a namespace and serves there under a name, on TCP, UDP and, where the kernel has it, SCTP. Where it has several
    /// addresses, datagrams are taken on each: the answer must come from the one that was asked.
    ///
    /// # Errors
    /// When the namespace or a port cannot be had.
    pub fn start(
        place: &Place,
        name: &str,
        ports: &[u16],
        addresses: &[IpAddr],
    ) -> Result<Self, String> {
        let (batches, inbox) = mpsc::unbounded_channel();
        let (ready, is_ready) = oneshot::channel();
        let (netns, ports, who) = (place.netns.clone(), ports.to_vec(), name.to_owned());
        let addresses = addresses.to_vec();
        let thread = std::thread::Builder::new()
            .name(format!("probe {name}"))
            .spawn(move || {
                let runtime = File::open(&netns)
                    .and_then(|file| setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from))
                    .and_then(|()| {
                        tokio::runtime::Builder::new_current_thread()
                            .enable_all()
                            .build()
                    });
                match runtime {
                    Ok(runtime) => runtime.block_on(live(&who, &ports, &addresses, ready, inbox)),
                    Err(error) => drop(ready.send(Err(error))),
                }
            })
            .map_err(|error| format!("start a thread: {error}"))?;
        let prober = Self {
            batches: Some(batches),
            thread: Some(thread),
            label: name.to_owned(),
        };
        match is_ready.blocking_recv() {
            Ok(Ok(())) => Ok(prober),
            Ok(Err(error)) => Err(format!("serve in {name}: {error}")),
            Err(_) => Err(format!("the prober in {name} ended")),
        }
    }

    /// One without a namespace, which dies at the first question.
    #[must_use]
    pub fn idle() -> Self {
        Self {
            batches: None,
            thread: None,
            label: String::new(),
        }
    }

    /// Tries as many at once as `at_once` has permits; each has `patience` from its begin.
    #[must_use]
    pub fn ask(
        &self,
        targets: Vec<Target>,
        patience: Duration,
        at_once: &Arc<Semaphore>,
    ) -> Replies {
        let (sender, reply) = oneshot::channel();
        let batch = Batch {
            targets,
            patience,
            at_once: at_once.clone(),
            reply: sender,
        };
        if let Some(batches) = &self.batches {
            // A thread that died drops the sender, and the wait says so.
            let _ = batches.send(batch);
        }
        Replies {
            reply,
            label: self.label.clone(),
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        drop(self.batches.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether this kernel has SCTP.
#[must_use]
pub fn has_sctp() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, Some(socket2::Protocol::SCTP)).is_ok()
}

async fn live(
    name: &str,
    ports: &[u16],
    addresses: &[IpAddr],
    ready: oneshot::Sender<io::Result<()>>,
    mut inbox: mpsc::UnboundedReceiver<Batch>,
) {
    let served = serve(name, ports, addresses).await;
    let failed = served.is_err();
    let _ = ready.send(served);
    if failed {
        return;
    }
    while let Some(batch) = inbox.recv().await {
        let tries: Vec<_> = batch
            .targets
            .into_iter()
            .map(|target| tokio::spawn(attempt(target, batch.patience, batch.at_once.clone())))
            .collect();
        let mut outcomes = Vec::with_capacity(tries.len());
        for one in tries {
            outcomes.push(
                one.await
                    .unwrap_or_else(|error| Outcome::Other(error.to_string())),
            );
        }
        let _ = batch.reply.send(outcomes);
    }
}

async fn serve(name: &str, ports: &[u16], addresses: &[IpAddr]) -> io::Result<()> {
    for &port in ports {
        let answer: Arc<str> = format!("{name} {port}").into();
        for protocol in [Protocol::Tcp, Protocol::Sctp] {
            if protocol == Protocol::Sctp && !has_sctp() {
                continue;
            }
            let listener = listen(protocol, port)?;
            let answer = answer.clone();
            tokio::spawn(async move {
                loop {
                    let Ok((mut stream, _)) = listener.accept().await else {
                        continue;
                    };
                    let answer = answer.clone();
                    tokio::spawn(async move { stream.write_all(answer.as_bytes()).await });
                }
            });
        }
        for &address in addresses {
            let socket = UdpSocket::bind((address, port)).await?;
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 64];
                loop {
                    if let Ok((_, from)) = socket.recv_from(&mut buffer).await {
                        let _ = socket.send_to(answer.as_bytes(), from).await;
                    }
                }
            });
        }
    }
    Ok(())
}

fn stream_socket(protocol: Protocol, v6: bool) -> io::Result<Socket> {
    let protocol = match protocol {
        Protocol::Sctp => socket2::Protocol::SCTP,
        _ => socket2::Protocol::TCP,
    };
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn listen(protocol: Protocol, port: u16) -> io::Result<TcpListener> {
    let socket = stream_socket(protocol, true)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

async fn attempt(target: Target, patience: Duration, at_once: Arc<Semaphore>) -> Outcome {
    // Nobody closes it.
    let _permit = at_once.acquire_owned().await;
    let deadline = Instant::now() + patience;
    let tried = async {
        match target.protocol {
            Protocol::Udp => ask_udp(target).await,
            Protocol::Tcp | Protocol::Sctp => ask_stream(target).await,
        }
    };
    match timeout_at(deadline, tried).await {
        Err(_) => Outcome::Silence,
        Ok(Ok(answer)) => Outcome::Answer(answer),
        Ok(Err(error)) => Outcome::Other(error.to_string()),
    }
}

async fn ask_stream(target: Target) -> io::Result<String> {
    let socket = stream_socket(target.protocol, target.to.is_ipv6())?;
    if let Some(from) = target.from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    let mut stream = TcpSocket::from_std_stream(socket.into())
        .connect(target.to)
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn ask_udp(target: Target) -> io::Result<String> {
    let any: IpAddr = match target.to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((target.from.unwrap_or(any), 0)).await?;
    socket.connect(target.to).await?;
    let mut again = interval(AGAIN);
    let mut buffer = [0; 64];
    loop {
        tokio::select! {
            _ = again.tick() => { socket.send(b"?").await?; }
            heard = socket.recv(&mut buffer) => {
                return Ok(String::from_utf8_lossy(&buffer[..heard?]).into_owned());
            }
        }
    }
}
