//! Health, readiness and metrics over HTTP: a few texts, bounded in connections, size and time.
//!
//! A port that is taken is logged and tried again; it never ends the program.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tracing::{info, warn};

/// Connections at a time.
const CONNECTIONS: usize = 32;
/// A request's line and headers, in bytes.
const MAX_HEAD: usize = 8192;
/// For a whole exchange.
const EXCHANGE: Duration = Duration::from_secs(5);
/// Between two tries for a port that is taken.
const RETRY: Duration = Duration::from_secs(5);

/// An answer: the status, and the text.
pub(crate) type Answer = (u16, String);

/// Serves `answer` at `address` for ever. `what` names it in the log.
pub(crate) async fn serve<F>(what: &'static str, address: String, answer: F)
where
    F: Fn(&str) -> Option<Answer> + Send + Sync + 'static,
{
    if address.is_empty() || address == "0" {
        return;
    }
    let answer = Arc::new(answer);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut told = false;
    loop {
        let listener = match listen(&address).await {
            Ok(listener) => listener,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%address, %error, "cannot listen for {what}; trying again every {RETRY:?}");
                }
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        told = false;
        info!(%address, "serving {what}");
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let _ = tokio::time::timeout(EXCHANGE, exchange(stream, &*answer)).await;
                drop(place);
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn listen(address: &str) -> std::io::Result<TcpListener> {
    // ":8164" = every address of the host, as Go programs read it.
    let Some(port) = address.strip_prefix(':') else {
        return TcpListener::bind(address).await;
    };
    let port: u16 = port.parse().map_err(|_| {
        std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "not ADDRESS:PORT or :PORT",
        )
    })?;
    let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    match TcpListener::bind(any).await {
        Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {
            TcpListener::bind(("0.0.0.0", port)).await
        }
        other => other,
    }
}

async fn exchange(
    mut stream: TcpStream,
    answer: &(impl Fn(&str) -> Option<Answer> + Send + Sync),
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await?;
        if read == 0 || head.len() + read > MAX_HEAD {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..read]);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("");
    let (status, text) = match method {
        "GET" | "HEAD" => answer(path).unwrap_or((404, "not found\n".to_owned())),
        _ => (405, "only GET\n".to_owned()),
    };
    let reason = match status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(text.as_bytes()).await?;
    }
    stream.shutdown().await
}
