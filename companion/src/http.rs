//! Metrics and health. A port that is taken is logged and tried again; it never ends anything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics;
use crate::shared::Shared;

const AGAIN: Duration = Duration::from_secs(5);
/// An engine that has been silent for so long is stuck.
const SILENCE: Duration = Duration::from_secs(60);
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `/metrics`.
pub(crate) fn metrics_router(shared: Arc<Shared>, bpf_dir: PathBuf) -> Router {
    let answer = move || {
        let (shared, bpf_dir) = (Arc::clone(&shared), bpf_dir.clone());
        async move {
            // Reading counters blocks for a few milliseconds.
            let text =
                tokio::task::spawn_blocking(move || metrics::render(&shared, &bpf_dir)).await;
            match text {
                Ok(Ok(text)) => ([(header::CONTENT_TYPE, TEXT)], text).into_response(),
                _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
    };
    Router::new().route("/metrics", get(answer))
}

/// `/healthz`: it works. `/readyz`: what it says is in force.
pub(crate) fn health_router(shared: Arc<Shared>) -> Router {
    let ready = Arc::clone(&shared);
    let healthz = move || {
        let silent = shared.silent_for();
        async move {
            if silent < SILENCE {
                (StatusCode::OK, "ok\n".to_owned())
            } else {
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("the engine has not stirred for {} s\n", silent.as_secs()),
                )
            }
        }
    };
    let readyz = move || {
        let (known, silent) = (ready.known(), ready.silent_for());
        async move {
            match known.unready {
                _ if silent >= SILENCE => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the engine is stuck\n".to_owned(),
                ),
                Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
                None => (StatusCode::OK, "ok\n".to_owned()),
            }
        }
    };
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
}

/// Serves for ever. `0` = not at all.
pub(crate) async fn serve(what: &'static str, address: String, router: Router) {
    if address == "0" || address.is_empty() {
        return std::future::pending().await;
    }
    let mut told = false;
    loop {
        match bind(&address).await {
            Ok(listener) => {
                if let Ok(local) = listener.local_addr() {
                    tracing::info!(address = %local, "serving {what}");
                }
                told = false;
                if let Err(error) = axum::serve(listener, router.clone()).await {
                    tracing::warn!("serve {what}: {error}");
                }
            }
            Err(error) if !told => {
                tracing::warn!(
                    "serve {what} on {address}: {error}; trying again every {} s",
                    AGAIN.as_secs()
                );
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
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
