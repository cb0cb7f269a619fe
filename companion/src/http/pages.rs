//! What the two ports answer.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tokio::sync::Mutex;

use super::Pages;
use crate::metrics;
use crate::shared::{Known, Shared};

/// Without a heartbeat for so long the engine is stuck.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
/// A rendering that is younger serves again.
const FRESH: Duration = Duration::from_millis(200);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// A plain answer.
pub(super) fn text(code: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    answer(code, PLAIN, body.into())
}

fn answer(code: u16, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    if let Ok(code) = code.try_into() {
        *response.status_mut() = code;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// `/metrics`.
pub(crate) struct Metrics {
    shared: Arc<Shared>,
    options: Arc<metrics::Options>,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Metrics {
    pub(crate) fn new(shared: Arc<Shared>, bpf_dir: PathBuf, per_pod: bool) -> Self {
        Self {
            shared,
            options: Arc::new(metrics::Options { bpf_dir, per_pod }),
            last: Mutex::default(),
        }
    }

    /// The metrics, rendered once for all who ask meanwhile.
    async fn rendered(&self) -> Option<Bytes> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((begun, text)) = &*last
            && (*begun >= asked || begun.elapsed() < FRESH)
        {
            return Some(text.clone());
        }
        let begun = Instant::now();
        let (shared, options) = (Arc::clone(&self.shared), Arc::clone(&self.options));
        // Reading counters blocks for a few milliseconds.
        let text = tokio::task::spawn_blocking(move || metrics::render(&shared, &options)).await;
        let text = Bytes::from(text.ok()?.ok()?);
        *last = Some((begun, text.clone()));
        Some(text)
    }
}

impl Pages for Metrics {
    async fn page(&self, path: &str, _: Option<&str>) -> Response<Full<Bytes>> {
        if path != "/metrics" {
            return text(404, "not here; /metrics is\n");
        }
        match self.rendered().await {
            Some(metrics) => answer(200, OPEN_METRICS, metrics),
            None => text(500, "the metrics cannot be rendered; see the log\n"),
        }
    }
}

/// `/healthz`: the engine works. `/readyz`: what the store says is in force.
pub(crate) struct Health(pub(crate) Arc<Shared>);

impl Pages for Health {
    async fn page(&self, path: &str, query: Option<&str>) -> Response<Full<Bytes>> {
        let silence = self.0.silent_for();
        let checks = match path {
            "/healthz" | "/livez" => vec![heartbeat(silence)],
            "/readyz" => ready(silence, &self.0.known()),
            _ => return text(404, "not here; /healthz and /readyz are\n"),
        };
        let verbose = query.is_some_and(|q| q.split('&').any(|word| word == "verbose"));
        let code = if checks.iter().all(|check| check.is_ok) {
            200
        } else {
            503
        };
        text(code, written(&checks, verbose))
    }
}

/// One thing that has to be so. What it says names no pod, policy or file: anybody may read it.
struct Check {
    name: &'static str,
    is_ok: bool,
    detail: String,
}

fn heartbeat(silence: Duration) -> Check {
    Check {
        name: "engine",
        is_ok: silence < SILENCE,
        detail: format!("no heartbeat from the engine for {} s", silence.as_secs()),
    }
}

fn ready(silence: Duration, known: &Known) -> Vec<Check> {
    vec![
        heartbeat(silence),
        Check {
            name: "policy",
            is_ok: known.unready.is_none(),
            detail: known
                .unready
                .map_or_else(String::new, |why| why.to_string()),
        },
        Check {
            name: "attachments",
            is_ok: known.faults == 0,
            detail: format!(
                "{} endpoints are not enforced as they should be: see `podgatectl status`",
                known.faults
            ),
        },
    ]
}

fn written(checks: &[Check], verbose: bool) -> String {
    let mut text = String::new();
    for check in checks {
        // Writing into a string cannot fail.
        let _ = match (check.is_ok, verbose) {
            (true, true) => writeln!(text, "[+]{} ok", check.name),
            (false, true) => writeln!(text, "[-]{}: {}", check.name, check.detail),
            (true, false) => Ok(()),
            (false, false) => writeln!(text, "{}", check.detail),
        };
    }
    if !verbose && text.is_empty() {
        text.push_str("ok\n");
    }
    text
}
