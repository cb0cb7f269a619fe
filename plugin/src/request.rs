//! What a call asks for, checked: the identifiers of the CNI variables and the pod that `CNI_ARGS` names.

use std::{collections::BTreeSet, fmt};

use serde::Deserialize;

use crate::{
    config::{self, Config, Places},
    environment::Environment,
    object::{Object, WrongType},
    prev::{self, PrevResult},
};

/// A request that cannot be carried out as it stands.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable that this command needs is not set.
    #[error("read {0}: the variable is not set")]
    Missing(&'static str),
    /// A variable holds something else than it must.
    #[error("read {variable}: {value:?} is not {expected}")]
    Variable {
        /// The variable, or the key within `CNI_ARGS`.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A pair of `CNI_ARGS` without an equals sign.
    #[error("read CNI_ARGS: {0:?} is not of the form KEY=value")]
    Args(String),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The result of the plugins before us.
    #[error(transparent)]
    Prev(#[from] prev::Error),
    /// The list of attachments that are still valid has another shape.
    #[error(transparent)]
    Attachments(WrongType),
}

/// One call's identity: a container and the interface that the runtime gave a name to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Attachment {
    /// The container's (sandbox') id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// The interface's name within the container.
    pub ifname: String,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

impl Attachment {
    /// From `CNI_CONTAINERID` and `CNI_IFNAME`.
    ///
    /// # Errors
    /// One of them is not set or holds characters that the specification does not allow.
    pub fn read(environment: &Environment) -> Result<Self, Error> {
        let container_id = required("CNI_CONTAINERID", environment.container_id.as_ref())?;
        if !is_identifier(&container_id) {
            return Err(Error::Variable {
                variable: "CNI_CONTAINERID",
                value: container_id,
                expected: IDENTIFIER,
            });
        }
        let ifname = required("CNI_IFNAME", environment.ifname.as_ref())?;
        if !is_interface_name(&ifname) {
            let expected =
                "the name of an interface (1 to 15 characters, no slash, colon or space)";
            return Err(Error::Variable {
                variable: "CNI_IFNAME",
                value: ifname,
                expected,
            });
        }
        Ok(Self {
            container_id,
            ifname,
        })
    }
}

/// The pod that a call is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace; `default` where nobody names one.
    pub namespace: String,
    /// Its name; the container id where nobody gives one.
    pub name: String,
    /// Its uid.
    pub uid: Option<String>,
}

impl Pod {
    /// Reads `CNI_ARGS`: pairs `KEY=value` in any order, parted by semicolons. Keys that are not ours are another
    /// plugin's, whatever `IgnoreUnknown` says.
    ///
    /// # Errors
    /// A pair without an equals sign, and names that no object of Kubernetes has.
    pub fn read(args: &str, container_id: &str) -> Result<Self, Error> {
        let mut pod = Self {
            namespace: "default".into(),
            name: container_id.into(),
            uid: None,
        };
        for pair in args.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| Error::Args(pair.to_owned()))?;
            let variable = match key {
                "K8S_POD_NAMESPACE" => "K8S_POD_NAMESPACE of CNI_ARGS",
                "K8S_POD_NAME" => "K8S_POD_NAME of CNI_ARGS",
                "K8S_POD_UID" => "K8S_POD_UID of CNI_ARGS",
                _ => continue,
            };
            if value.is_empty() {
                continue;
            }
            if !is_identifier(value) {
                return Err(Error::Variable {
                    variable,
                    value: value.to_owned(),
                    expected: IDENTIFIER,
                });
            }
            match key {
                "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
                "K8S_POD_NAME" => value.clone_into(&mut pod.name),
                _ => pod.uid = Some(value.to_owned()),
            }
        }
        Ok(pod)
    }
}

/// ADD, and CHECK, which asks for the same things.
#[derive(Debug, Clone)]
pub struct AddRequest {
    /// The call.
    pub attachment: Attachment,
    /// The pod's network namespace.
    pub netns: String,
    /// The pod.
    pub pod: Pod,
    /// The configuration.
    pub config: Config,
    /// The result of the plugins before us.
    pub prev: PrevResult,
}

impl AddRequest {
    /// Reads everything that ADD and CHECK need.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn read(environment: &Environment, config: &Object) -> Result<Self, Error> {
        let attachment = Attachment::read(environment)?;
        let netns = required("CNI_NETNS", environment.netns.as_ref())?;
        let pod = Pod::read(
            environment.args.as_deref().unwrap_or_default(),
            &attachment.container_id,
        )?;
        let prev = PrevResult::read(config);
        Ok(Self {
            attachment,
            netns,
            pod,
            config: Config::read(config, environment)?,
            prev: prev?,
        })
    }
}

/// DEL: it needs to know whose endpoints go and where they are written down, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelRequest {
    /// The call.
    pub attachment: Attachment,
    /// Folders.
    pub places: Places,
}

impl DelRequest {
    /// Reads what DEL needs; a mode that is wrong by now must not keep a pod from going.
    ///
    /// # Errors
    /// The identity or the folders cannot be read.
    pub fn read(environment: &Environment, config: &Object) -> Result<Self, Error> {
        Ok(Self {
            attachment: Attachment::read(environment)?,
            places: Places::read(config, environment)?,
        })
    }
}

/// GC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcRequest {
    /// The network whose records may go.
    pub network: String,
    /// Folders.
    pub places: Places,
    /// The attachments that are still in use; `None` = the runtime did not say.
    pub valid: Option<BTreeSet<Attachment>>,
}

impl GcRequest {
    /// Reads what GC needs.
    ///
    /// # Errors
    /// The network's name, the folders or the list of attachments cannot be read.
    pub fn read(environment: &Environment, config: &Object) -> Result<Self, Error> {
        let expected = "a list of {containerID, ifname}";
        let mut valid = None;
        // The key's name in the specification, then the one that an earlier text of it had. libcni sends both, and null
        // for a caller without a list.
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            let list = config
                .read::<Option<Vec<Attachment>>>(key, expected)
                .map_err(Error::Attachments)?;
            valid = valid.or(list.flatten());
        }
        Ok(Self {
            network: config::network(config)?,
            places: Places::read(config, environment)?,
            valid: valid.map(|list| list.into_iter().collect()),
        })
    }
}

const IDENTIFIER: &str = "a name of letters, digits, dots, dashes and underscores that begins with a letter or digit (253 characters at most)";

fn required(name: &'static str, value: Option<&String>) -> Result<String, Error> {
    value.cloned().ok_or(Error::Missing(name))
}

/// The specification's rule for container ids and names of networks, `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, which holds the
/// names of Kubernetes too. The bound on the length is that of Kubernetes' names.
#[must_use]
pub fn is_identifier(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 253
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// The kernel's rule for names of interfaces (`dev_valid_name`).
#[must_use]
pub fn is_interface_name(text: &str) -> bool {
    let is_bad = |c: char| matches!(c, '/' | ':' | '\0' | '\u{fffd}') || c.is_whitespace();
    (1..=15).contains(&text.len()) && text != "." && text != ".." && !text.chars().any(is_bad)
}

#[cfg(test)]
mod tests;
