//! What the API refuses, and what to do about it.

use std::fmt;

use super::Resource;

/// A verb of the API, as RBAC rules name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
        })
    }
}

/// A request that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Error {
    /// RBAC does not allow it.
    #[error(
        "{verb} {resource}: forbidden; grant verb {verb:?} on resource {:?} of API group {:?} (conf/kubernetes has the roles): {message}",
        resource.plural, resource.group, verb = verb.to_string()
    )]
    Forbidden {
        verb: Verb,
        resource: Resource,
        message: String,
    },
    /// The credentials are not accepted.
    #[error(
        "{verb} {resource}: unauthorized; check the kubeconfig's user or the service account's token: {message}"
    )]
    Unauthorized {
        verb: Verb,
        resource: Resource,
        message: String,
    },
    /// The API does not have the resource.
    #[error("{verb} {resource}: not served by this API server; apply conf/crds if it is podgate's")]
    NotServed { verb: Verb, resource: Resource },
    /// The version that was asked for is too old: 410.
    #[error("{verb} {resource}: the resource version expired")]
    Expired { verb: Verb, resource: Resource },
    /// The object is not there.
    #[error("{verb} {resource} {name}: not found")]
    NotFound {
        verb: Verb,
        resource: Resource,
        name: String,
    },
    /// Somebody else was faster, or it is there already.
    #[error("{verb} {resource}: conflict: {message}")]
    Conflict {
        verb: Verb,
        resource: Resource,
        message: String,
    },
    /// The object is larger than the API server or etcd takes.
    #[error("{verb} {resource}: too large: {message}")]
    TooLarge {
        verb: Verb,
        resource: Resource,
        message: String,
    },
    /// Another answer.
    #[error("{verb} {resource}: {code}: {message}")]
    Refused {
        verb: Verb,
        resource: Resource,
        code: u16,
        message: String,
    },
    /// No answer.
    #[error("{verb} {resource}: no answer from the API server: {message}")]
    Unreachable {
        verb: Verb,
        resource: Resource,
        message: String,
    },
    /// An answer that cannot be read.
    #[error("{verb} {resource}: malformed answer: {message}")]
    Malformed {
        verb: Verb,
        resource: Resource,
        message: String,
    },
    /// The credentials' file cannot be used.
    #[error("read API credentials: {0}")]
    Credentials(String),
}

impl Error {
    /// By the status of an answer. `name` = of the object that was asked for; empty = a list.
    pub(super) fn of_status(
        verb: Verb,
        resource: Resource,
        name: &str,
        code: u16,
        message: String,
    ) -> Self {
        match code {
            401 => Self::Unauthorized {
                verb,
                resource,
                message,
            },
            403 => Self::Forbidden {
                verb,
                resource,
                message,
            },
            404 if name.is_empty() => Self::NotServed { verb, resource },
            404 => Self::NotFound {
                verb,
                resource,
                name: name.to_owned(),
            },
            409 => Self::Conflict {
                verb,
                resource,
                message,
            },
            410 => Self::Expired { verb, resource },
            413 => Self::TooLarge {
                verb,
                resource,
                message,
            },
            _ if message.contains("request is too large") || message.contains("too large") => {
                Self::TooLarge {
                    verb,
                    resource,
                    message,
                }
            }
            code => Self::Refused {
                verb,
                resource,
                code,
                message,
            },
        }
    }

    pub(super) fn of_kube(verb: Verb, resource: Resource, name: &str, error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                Self::of_status(verb, resource, name, status.code, status.message.clone())
            }
            other => Self::Unreachable {
                verb,
                resource,
                message: chain(other),
            },
        }
    }
}

/// An error with its causes: the first alone often says only that a service failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
