//! List and watch of one resource, for ever.
//!
//! Invariants: [`Update::Listed`] comes only of a list that was read to its end, so what it lacks is gone; after a watch that
//! ended the next one begins where it ended; an expired version (410) leads to a new list and to nothing else.

use std::time::{Duration, Instant};

use futures::{AsyncBufReadExt as _, StreamExt as _};
use http::{Request, header};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc::Sender;

use super::{Access, Error, Meta, Raw, Resource, Scope, Verb};

const PAGE: usize = 500;
/// How long a watch lasts, in seconds; then it is asked for again.
const WATCH_SECONDS: u32 = 290;
/// A watch that shows not even a bookmark in this time is given up.
const WATCH_SILENCE: Duration = Duration::from_secs(150);
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const LAST_BACK_OFF: Duration = Duration::from_secs(5);
/// How often a resource that is not served is asked for.
const NOT_SERVED: Duration = Duration::from_secs(10);
/// A resource that was served and is not counts as gone after this: an API server that starts does not serve CRDs at once.
const SURELY_GONE: Duration = Duration::from_secs(30);

/// What is followed.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) resource: Resource,
    pub(crate) scope: Scope,
    /// A field selector; empty = all.
    pub(crate) fields: String,
    /// Only the metadata is of interest.
    pub(crate) metadata_only: bool,
}

impl Query {
    pub(crate) fn all(resource: Resource) -> Self {
        Self {
            resource,
            scope: Scope::Cluster,
            fields: String::new(),
            metadata_only: false,
        }
    }
}

/// What came.
#[derive(Debug)]
pub(crate) enum Update {
    /// All of them, as of a version.
    Listed { items: Vec<Raw>, version: String },
    /// One is new or different.
    Changed(Raw),
    /// One is gone.
    Gone(Meta),
    /// Nothing but a newer version, and a sign of life.
    Bookmark(String),
    /// No contact, or refused; it is tried again.
    Trouble(Error),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    metadata: ListMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StatusObject {
    code: u16,
    message: String,
}

#[derive(Deserialize)]
struct WithMeta {
    metadata: Meta,
}

/// Follows `query` until the receiver is gone; each update bears `token`.
pub(crate) async fn follow<T: Clone>(
    access: Access,
    query: Query,
    token: T,
    out: Sender<(T, Update)>,
) {
    let mut follower = Follower {
        access,
        query,
        served: 0,
        back_off: FIRST_BACK_OFF,
    };
    // The version from which to watch; empty = list first.
    let mut version = String::new();
    // Whether the receiver has been told of anything but "there are none".
    let mut served_before = true;
    let mut ever_served = false;
    let mut missing_since: Option<Instant> = None;
    loop {
        if version.is_empty() {
            match follower.list().await {
                Ok((items, now)) => {
                    (served_before, ever_served, missing_since) = (true, true, None);
                    follower.back_off = FIRST_BACK_OFF;
                    version.clone_from(&now);
                    if send(
                        &out,
                        &token,
                        Update::Listed {
                            items,
                            version: now,
                        },
                    )
                    .await
                    {
                        return;
                    }
                }
                Err(Error::NotServed { .. }) if follower.query.resource.is_optional() => {
                    let first = missing_since.is_none() && !ever_served;
                    let since = *missing_since.get_or_insert_with(Instant::now);
                    // That it is not served is an answer, too.
                    let mut update = Update::Bookmark(String::new());
                    if served_before && (first || since.elapsed() > SURELY_GONE) {
                        served_before = false;
                        update = Update::Listed {
                            items: Vec::new(),
                            version: String::new(),
                        };
                    }
                    if send(&out, &token, update).await {
                        return;
                    }
                    tokio::time::sleep(NOT_SERVED).await;
                }
                Err(Error::Expired { .. }) => {}
                Err(error) => {
                    if send(&out, &token, Update::Trouble(error)).await {
                        return;
                    }
                    follower.rest().await;
                }
            }
            continue;
        }
        let began = Instant::now();
        match follower.watch(&mut version, &token, &out).await {
            Ok(()) if began.elapsed() < LAST_BACK_OFF => follower.rest().await,
            Ok(()) => {}
            Err(Ended::Closed) => return,
            Err(Ended::Failed(Error::Expired { .. } | Error::NotServed { .. })) => version.clear(),
            Err(Ended::Failed(error)) => {
                if send(&out, &token, Update::Trouble(error)).await {
                    return;
                }
                follower.rest().await;
            }
        }
    }
}

/// Whether the receiver is gone.
async fn send<T: Clone>(out: &Sender<(T, Update)>, token: &T, update: Update) -> bool {
    out.send((token.clone(), update)).await.is_err()
}

/// Why a watch ended before its time.
enum Ended {
    /// Nobody listens.
    Closed,
    Failed(Error),
}

struct Follower {
    access: Access,
    query: Query,
    /// Which of the resource's versions the API serves.
    served: usize,
    back_off: Duration,
}

impl Follower {
    async fn rest(&mut self) {
        tokio::time::sleep(self.back_off).await;
        self.back_off = (self.back_off * 2).min(LAST_BACK_OFF);
    }

    fn path(&self, parameters: &str) -> String {
        let version = self.query.resource.versions[self.served];
        let list = self.query.resource.path(version, &self.query.scope);
        let fields = if self.query.fields.is_empty() {
            String::new()
        } else {
            format!("&fieldSelector={}", self.query.fields.replace('=', "%3D"))
        };
        format!("{list}?{parameters}{fields}")
    }

    fn malformed(&self, verb: Verb, message: &dyn std::error::Error) -> Error {
        Error::Malformed {
            verb,
            resource: self.query.resource,
            message: message.to_string(),
        }
    }

    async fn list(&mut self) -> Result<(Vec<Raw>, String), Error> {
        let accept = self
            .query
            .metadata_only
            .then_some("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
        let mut items = Vec::new();
        let mut next = String::new();
        loop {
            let path = self.path(&format!("limit={PAGE}&continue={next}"));
            let answer = self
                .access
                .send(Verb::List, self.query.resource, "", &path, accept, None)
                .await;
            let text = match answer {
                Err(Error::NotServed { .. })
                    if self.served + 1 < self.query.resource.versions.len() =>
                {
                    self.served += 1;
                    continue;
                }
                Err(error) => {
                    if matches!(error, Error::NotServed { .. }) {
                        self.served = 0;
                    }
                    return Err(error);
                }
                Ok(text) => text,
            };
            let list: List<'_> =
                serde_json::from_str(&text).map_err(|error| self.malformed(Verb::List, &error))?;
            for item in list.items.unwrap_or_default() {
                items.push(self.raw(Verb::List, item.get())?);
            }
            if list.metadata.next.is_empty() {
                return Ok((items, list.metadata.resource_version));
            }
            next = list.metadata.next;
        }
    }

    fn raw(&self, verb: Verb, json: &str) -> Result<Raw, Error> {
        let object: WithMeta =
            serde_json::from_str(json).map_err(|error| self.malformed(verb, &error))?;
        Ok(Raw {
            meta: object.metadata,
            json: json.into(),
        })
    }

    async fn watch<T: Clone>(
        &mut self,
        version: &mut String,
        token: &T,
        out: &Sender<(T, Update)>,
    ) -> Result<(), Ended> {
        let resource = self.query.resource;
        let path = self.path(&format!(
            "watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}"
        ));
        let accept = match self.query.metadata_only {
            true => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            false => "application/json",
        };
        let request = Request::builder()
            .uri(path)
            .header(header::ACCEPT, accept)
            .body(Vec::new())
            .map_err(|error| Ended::Failed(self.malformed(Verb::Watch, &error)))?;
        let client = self.access.client().await.map_err(Ended::Failed)?;
        let stream = client.request_stream(request).await.map_err(|error| {
            let error = Error::of_kube(Verb::Watch, resource, "", &error);
            self.access.look_at(&error);
            Ended::Failed(error)
        })?;
        let mut lines = std::pin::pin!(stream.lines());
        // The watch stands: in contact.
        if send(out, token, Update::Bookmark(version.clone())).await {
            return Err(Ended::Closed);
        }
        self.back_off = FIRST_BACK_OFF;
        loop {
            let silent = |message: String| {
                Ended::Failed(Error::Unreachable {
                    verb: Verb::Watch,
                    resource,
                    message,
                })
            };
            let line = match tokio::time::timeout(WATCH_SILENCE, lines.next()).await {
                Err(_) => return Err(silent(format!("nothing came for {WATCH_SILENCE:?}"))),
                Ok(None) => return Ok(()),
                Ok(Some(Err(error))) => return Err(silent(error.to_string())),
                Ok(Some(Ok(line))) => line,
            };
            let update = self.take(&line, version).map_err(Ended::Failed)?;
            if send(out, token, update).await {
                return Err(Ended::Closed);
            }
        }
    }

    /// One line of a watch.
    fn take(&self, line: &str, version: &mut String) -> Result<Update, Error> {
        let line: Line<'_> =
            serde_json::from_str(line).map_err(|error| self.malformed(Verb::Watch, &error))?;
        if line.kind == "ERROR" {
            let status: StatusObject = serde_json::from_str(line.object.get()).unwrap_or_default();
            return Err(Error::of_status(
                Verb::Watch,
                self.query.resource,
                "",
                status.code,
                status.message,
            ));
        }
        let raw = self.raw(Verb::Watch, line.object.get())?;
        version.clone_from(&raw.meta.resource_version);
        Ok(match line.kind {
            "DELETED" => Update::Gone(raw.meta),
            "BOOKMARK" => Update::Bookmark(version.clone()),
            _ => Update::Changed(raw),
        })
    }
}
