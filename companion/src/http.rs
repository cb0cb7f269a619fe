//! Metrics and health over HTTP, for clients that nobody has checked: any pod that policy lets through can connect.
//!
//! Invariants
//! - a client costs a bounded number of descriptors, bytes and seconds, whatever it sends or leaves unsent;
//! - one rendering of the metrics serves everybody who waits for it;
//! - no page names a pod, unless `--metrics-per-pod` says so.
//!
//! A port that is taken is logged once and tried again; it never ends anything.

mod limits;
mod pages;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

pub(crate) use limits::raise_open_files;
use limits::{Limits, Place};
pub(crate) use pages::{Health, Metrics};

/// A port that is taken, or a listener that fails, is tried again after so long.
const RETRY: Duration = Duration::from_secs(5);
/// A connection without complete headers is closed after so long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is closed after so long, answered or not.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a request's line and headers. hyper's least is 8 KiB.
const HEADER_BYTES: usize = 8 << 10;
const HEADERS: usize = 32;
/// Between two accepts while every place is taken: what floods the port does not take the CPU.
const PACE: Duration = Duration::from_millis(1);

/// What a port answers.
pub(crate) trait Pages: Send + Sync + 'static {
    /// The answer to a GET or HEAD of a path; the query is for the page to look at.
    fn page(
        &self,
        path: &str,
        query: Option<&str>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Serves pages on an address for ever. `0` or empty = not at all.
pub(crate) async fn serve(what: &'static str, address: String, pages: Arc<impl Pages>) {
    if address == "0" || address.is_empty() {
        return std::future::pending().await;
    }
    let limits = Limits::from_open_files();
    let mut failing = false;
    loop {
        match bind(&address).await {
            Ok(listener) => {
                failing = false;
                if let Ok(local) = listener.local_addr() {
                    tracing::info!(address = %local, "serving {what}");
                }
                accept(what, &listener, &limits, &pages).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    let seconds = RETRY.as_secs();
                    tracing::warn!(
                        "serve {what} on {address}: {error}; trying again every {seconds} s"
                    );
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Takes connections until the listener itself is broken.
async fn accept(
    what: &'static str,
    listener: &TcpListener,
    limits: &Limits,
    pages: &Arc<impl Pages>,
) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                failing = false;
                match limits.place(peer.ip(), is_own(&stream, peer.ip())) {
                    Some(place) => {
                        tokio::spawn(connection(stream, place, Arc::clone(pages)));
                    }
                    None => {
                        drop(stream);
                        tokio::time::sleep(PACE).await;
                    }
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!("accept a connection for {what}: {error}; trying again");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Whether the node itself has connected: the kubelet's probes come from the address that they go to.
fn is_own(stream: &TcpStream, peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback() || stream.local_addr().is_ok_and(|own| own.ip() == peer)
}

/// One request, one answer.
async fn connection(stream: TcpStream, place: Place, pages: Arc<impl Pages>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let pages = Arc::clone(&pages);
        async move {
            let uri = request.uri();
            Ok::<_, Infallible>(match *request.method() {
                hyper::Method::GET | hyper::Method::HEAD => {
                    pages.page(uri.path(), uri.query()).await
                }
                _ => pages::text(405, "only GET\n"),
            })
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    // How a client went wrong is its own affair.
    let _ = timeout(CONNECTION_TIMEOUT, served).await;
    drop(place);
}

/// `:8162` is every address of both families.
async fn bind(address: &str) -> std::io::Result<TcpListener> {
    let Some(port) = address.strip_prefix(':') else {
        return TcpListener::bind(address).await;
    };
    let port: u16 = port
        .parse()
        .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e))?;
    match TcpListener::bind(SocketAddr::from(([0u16; 8], port))).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from(([0u8; 4], port))).await
        }
        other => other,
    }
}
