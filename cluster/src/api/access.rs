//! The client, made anew when its credentials are refused, and plain requests.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{Method, Request, header};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::{Error, Resource, Scope, Verb};

/// A connection that is not made in this time counts as refused.
const CONNECT: Duration = Duration::from_secs(5);
/// Longer than any watch lasts without a bookmark.
const SILENCE: Duration = Duration::from_secs(320);
/// A request that is no watch is given up after this.
const REQUEST: Duration = Duration::from_secs(30);
/// Credentials are read again at most this often.
const RELOAD: Duration = Duration::from_secs(2);

/// Access to one API server. Clones share the client.
#[derive(Clone)]
pub(crate) struct Access {
    inner: Arc<Inner>,
}

struct Inner {
    kubeconfig: Option<PathBuf>,
    client: Mutex<Made>,
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Made {
    client: Option<Client>,
    at: Option<Instant>,
}

/// What is sent with a request that writes.
pub(crate) struct Body<'a> {
    /// The media type.
    pub(crate) content_type: &'a str,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
}

impl<'a> Body<'a> {
    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self {
            content_type: "application/json",
            bytes: value.to_string().into_bytes(),
        }
    }

    /// For server-side apply; JSON is YAML.
    pub(crate) fn apply(value: &serde_json::Value) -> Self {
        Self {
            content_type: "application/apply-patch+yaml",
            bytes: value.to_string().into_bytes(),
        }
    }
}

impl Access {
    /// By a kubeconfig's current context, or as a pod of the cluster.
    pub(crate) fn new(kubeconfig: Option<PathBuf>) -> Self {
        Self {
            inner: Arc::new(Inner {
                kubeconfig,
                client: Mutex::default(),
                turn: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// The client; made when there is none.
    pub(super) async fn client(&self) -> Result<Client, Error> {
        if let Some(client) = self.made().client.clone() {
            return Ok(client);
        }
        // One is enough for all who wait for it.
        let _turn = self.inner.turn.lock().await;
        if let Some(client) = self.made().client.clone() {
            return Ok(client);
        }
        let client = self.connect().await?;
        let mut made = self.made();
        made.client = Some(client.clone());
        made.at = Some(Instant::now());
        Ok(client)
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Made> {
        self.inner
            .client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Client, Error> {
        let failed = |error: String| Error::Credentials(error);
        let mut config = match &self.inner.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)
                    .map_err(|error| failed(format!("{}: {error}", path.display())))?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(|error| failed(format!("{}: {error}", path.display())))?
            }
            None => Config::incluster().map_err(|error| {
                failed(format!("{error}; outside a cluster give --kubeconfig FILE"))
            })?,
        };
        config.connect_timeout = Some(CONNECT);
        config.read_timeout = Some(SILENCE);
        Client::try_from(config).map_err(|error| failed(error.to_string()))
    }

    /// After an answer that credentials are wrong: the next request reads them again.
    pub(super) fn look_at(&self, error: &Error) {
        if matches!(
            error,
            Error::Unauthorized { .. } | Error::Unreachable { .. }
        ) {
            let mut made = self.made();
            if made.at.is_some_and(|at| at.elapsed() > RELOAD) {
                made.client = None;
            }
        }
    }

    /// One request with an answer in one piece.
    pub(crate) async fn send(
        &self,
        verb: Verb,
        resource: Resource,
        name: &str,
        path: &str,
        accept: Option<&str>,
        body: Option<Body<'_>>,
    ) -> Result<String, Error> {
        let method = match verb {
            Verb::Get | Verb::List | Verb::Watch => Method::GET,
            Verb::Create => Method::POST,
            Verb::Update => Method::PUT,
            Verb::Patch => Method::PATCH,
            Verb::Delete => Method::DELETE,
        };
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(header::ACCEPT, accept.unwrap_or("application/json"));
        let mut bytes = Vec::new();
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, body.content_type);
            bytes = body.bytes;
        }
        let malformed = |error: http::Error| Error::Malformed {
            verb,
            resource,
            message: error.to_string(),
        };
        let request = request.body(bytes).map_err(malformed)?;
        let client = self.client().await?;
        let answer = tokio::time::timeout(REQUEST, client.request_text(request)).await;
        let result = match answer {
            Err(_) => Err(Error::Unreachable {
                verb,
                resource,
                message: format!("none within {REQUEST:?}"),
            }),
            Ok(answer) => answer.map_err(|error| Error::of_kube(verb, resource, name, &error)),
        };
        if let Err(error) = &result {
            self.look_at(error);
        }
        result
    }

    /// Reads one object.
    pub(crate) async fn get(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> Result<String, Error> {
        let path = object_path(resource, namespace, name);
        self.send(Verb::Get, resource, name, &path, None, None)
            .await
    }

    /// Creates an object.
    pub(crate) async fn create(
        &self,
        resource: Resource,
        namespace: &str,
        object: &serde_json::Value,
    ) -> Result<String, Error> {
        let path = resource.path(resource.versions[0], &Scope::of(namespace));
        let body = Body::json(object);
        self.send(Verb::Create, resource, "", &path, None, Some(body))
            .await
    }

    /// Replaces an object; its resourceVersion must be the one that was read.
    pub(crate) async fn replace(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        object: &serde_json::Value,
    ) -> Result<String, Error> {
        let path = object_path(resource, namespace, name);
        let body = Body::json(object);
        self.send(Verb::Update, resource, name, &path, None, Some(body))
            .await
    }

    /// Server-side apply as `manager`; `part` = a subresource such as `/status`, or empty.
    pub(crate) async fn apply(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        part: &str,
        manager: &str,
        object: &serde_json::Value,
    ) -> Result<String, Error> {
        let path = object_path(resource, namespace, name);
        let path = format!("{path}{part}?fieldManager={manager}&force=true");
        let body = Body::apply(object);
        self.send(Verb::Patch, resource, name, &path, None, Some(body))
            .await
    }

    /// Deletes an object, if it still is the one with this uid.
    pub(crate) async fn delete(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<(), Error> {
        let path = object_path(resource, namespace, name);
        let options = serde_json::json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid},
        });
        let body = Body::json(&options);
        let answer = self
            .send(Verb::Delete, resource, name, &path, None, Some(body))
            .await;
        match answer {
            // It is gone, or another one stands there, which is not what was to be deleted.
            Err(Error::NotFound { .. } | Error::Conflict { .. }) => Ok(()),
            other => other.map(drop),
        }
    }
}

fn object_path(resource: Resource, namespace: &str, name: &str) -> String {
    let list = resource.path(resource.versions[0], &Scope::of(namespace));
    format!("{list}/{name}")
}
