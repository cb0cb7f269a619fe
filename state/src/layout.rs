//! Where each file of the store is: the only place that joins paths.
//!
//! | path | writer |
//! |---|---|
//! | `node.json` | installer, podgatectl |
//! | `node-addresses.json` | sync |
//! | `pods/<containerid>_<ifname>.json` | plugin |
//! | `workloads/<namespace>/<pod>.json` | sync, resolve |
//! | `policies/cluster/<namespace>/<policy>.json` | sync |
//! | `policies/**` | resolve, people |
//! | `applied/`, `status/`, `quarantine/` | companion |
//! | `lock`, `podgated.lock` | whoever holds it |
//!
//! A component of a file name is an id with every byte outside `[A-Za-z0-9._-]`, and a leading dot, as `%XX`. `~` is never
//! part of one, so `<name>~<hash>` (for names that are too long or already taken) never meets a plain name.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The folder where nothing else is said.
pub const DEFAULT_ROOT: &str = "/var/lib/podgate";

/// A component longer than this is cut and gets a hash: NAME_MAX is 255, suffixes must fit.
const MAX_COMPONENT: usize = 200;
/// How much of a cut component stays readable.
const KEPT_OF_CUT: usize = 120;
/// Longest id that is taken at all; Linux passes no longer environment string than 128 KiB.
const MAX_ID: usize = 4096;
/// Interface names have at most 15 bytes.
const MAX_IFNAME: usize = 15;

/// An id that cannot name a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("name {what} {id:?}: {reason}")]
pub struct Error {
    what: &'static str,
    id: String,
    reason: &'static str,
}

/// The paths of one store. Immutable; no method touches the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The store's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The node's lock.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Held by the companion for as long as it lives.
    #[must_use]
    pub fn companion_lock(&self) -> PathBuf {
        self.root.join("podgated.lock")
    }

    /// The lock of podgate-sync, held as long as it lives.
    #[must_use]
    pub fn sync_lock(&self) -> PathBuf {
        self.root.join("sync.lock")
    }

    /// `node.json`.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        self.root.join("node.json")
    }

    /// `node-addresses.json`.
    #[must_use]
    pub fn node_addresses(&self) -> PathBuf {
        self.root.join("node-addresses.json")
    }

    /// Folder of the endpoint records.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Folder of the pods that the store knows.
    #[must_use]
    pub fn workloads(&self) -> PathBuf {
        self.root.join("workloads")
    }

    /// Folder of the policy documents.
    #[must_use]
    pub fn policies(&self) -> PathBuf {
        self.root.join("policies")
    }

    /// Folder of the last good versions.
    #[must_use]
    pub fn applied(&self) -> PathBuf {
        self.root.join("applied")
    }

    /// Folder of what the companion says.
    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.root.join("status")
    }

    /// Folder of copies of what could not be read.
    #[must_use]
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Every folder of a complete store, the root first.
    #[must_use]
    pub fn folders(&self) -> [PathBuf; 7] {
        [
            self.root.clone(),
            self.pods(),
            self.workloads(),
            self.policies(),
            self.applied(),
            self.status(),
            self.quarantine(),
        ]
    }

    /// The two files that may hold the record of an interface: the plain name, and the one for when that is another's.
    pub fn record(&self, container_id: &str, ifname: &str) -> Result<[PathBuf; 2], Error> {
        let name = format!("{}_{}", container(container_id)?, interface(ifname)?);
        let hash = hash(&[container_id, ifname]);
        let taken = format!("{}~{hash}.json", cut(&name));
        let plain = if name.len() > MAX_COMPONENT {
            taken.clone()
        } else {
            format!("{name}.json")
        };
        let pods = self.pods();
        Ok([pods.join(plain), pods.join(taken)])
    }

    /// What the file name of each record of a container begins with.
    pub(crate) fn record_prefix(container_id: &str) -> Result<String, Error> {
        let name = format!("{}_", container(container_id)?);
        Ok(cut(&name).to_owned())
    }

    /// The file of a pod that the store knows.
    pub fn workload(&self, namespace: &str, pod: &str) -> Result<PathBuf, Error> {
        let folder = component("namespace", namespace)?;
        Ok(self
            .workloads()
            .join(folder)
            .join(component("pod", pod)? + ".json"))
    }

    /// The file of a policy that sync writes.
    pub fn cluster_policy(&self, namespace: &str, policy: &str) -> Result<PathBuf, Error> {
        let folder = component("namespace", namespace)?;
        Ok(self
            .policies()
            .join("cluster")
            .join(folder)
            .join(component("policy", policy)? + ".json"))
    }

    /// The file of a policy's version in force.
    pub(crate) fn applied_policy(&self, policy: &str) -> Result<PathBuf, Error> {
        Ok(self.applied().join(hashed("policy", policy)? + ".doc"))
    }

    /// The file of one part of the companion's status.
    pub fn status_file(&self, name: &str) -> Result<PathBuf, Error> {
        Ok(self.status().join(component("status", name)? + ".json"))
    }

    /// A quarantined copy and its reason.
    pub(crate) fn quarantined(&self, source: &str) -> Result<[PathBuf; 2], Error> {
        let name = hashed("source", source)?;
        let folder = self.quarantine();
        Ok([
            folder.join(format!("{name}.copy")),
            folder.join(format!("{name}.reason")),
        ])
    }
}

/// A container id as the CNI specification has it, upper case and any length included.
fn container(id: &str) -> Result<&str, Error> {
    let what = "container id";
    check(what, id)?;
    let error = |reason| Error {
        what,
        id: id.to_owned(),
        reason,
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if !id.bytes().all(allowed) {
        return Err(error("only letters, digits, '_', '.' and '-' are allowed"));
    }
    if !id.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(error("must begin with a letter or a digit"));
    }
    Ok(id)
}

fn interface(name: &str) -> Result<String, Error> {
    let what = "interface";
    check(what, name)?;
    let error = |reason| Error {
        what,
        id: name.to_owned(),
        reason,
    };
    if name.len() > MAX_IFNAME {
        return Err(error("longer than 15 bytes"));
    }
    if name == "."
        || name == ".."
        || name
            .bytes()
            .any(|byte| matches!(byte, b'/' | b':') || byte.is_ascii_whitespace())
    {
        return Err(error("not a name the kernel would take"));
    }
    Ok(encode(name))
}

fn check(what: &'static str, id: &str) -> Result<(), Error> {
    let error = |reason| Error {
        what,
        id: id.chars().take(80).collect(),
        reason,
    };
    if id.is_empty() {
        return Err(error("empty"));
    }
    if id.len() > MAX_ID {
        return Err(error("too long"));
    }
    if id.contains('\0') {
        return Err(error("holds a zero byte"));
    }
    Ok(())
}

/// An id as one component of a path; cut and hashed when it is too long.
fn component(what: &'static str, id: &str) -> Result<String, Error> {
    check(what, id)?;
    let name = encode(id);
    if name.len() <= MAX_COMPONENT {
        return Ok(name);
    }
    Ok(format!("{}~{}", cut(&name), hash(&[id])))
}

/// An id as a component that always carries its hash.
fn hashed(what: &'static str, id: &str) -> Result<String, Error> {
    check(what, id)?;
    Ok(format!("{}~{}", cut(&encode(id)), hash(&[id])))
}

fn cut(name: &str) -> &str {
    // Encoded names are ASCII.
    name.get(..KEPT_OF_CUT).unwrap_or(name)
}

fn encode(id: &str) -> String {
    use std::fmt::Write as _;
    let mut name = String::with_capacity(id.len());
    for (index, byte) in id.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'_' | b'-')
            || (byte == b'.' && index > 0);
        if plain {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "%{byte:02X}");
        }
    }
    name
}

/// The id of a component; `None` for one that was cut, or that no id gives.
pub(crate) fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digit = |byte: u8| {
                    char::from(byte)
                        .to_digit(16)
                        .and_then(|digit| u8::try_from(digit).ok())
                };
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                bytes.push(high << 4 | low);
            }
            b'~' => return None,
            byte => bytes.push(byte),
        }
    }
    let id = String::from_utf8(bytes).ok()?;
    (encode(&id) == name).then_some(id)
}

fn hash(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    hex(&digest.finalize()[..16])
}

/// The SHA-256 of some bytes, in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn name(path: &Path) -> &str {
        path.file_name().unwrap().to_str().unwrap()
    }

    #[test]
    fn plain_ids_stay_readable() {
        let layout = Layout::new("/s");
        let [plain, _] = layout.record("0Ab_c.d-e", "eth0").unwrap();
        assert_eq!(plain, Path::new("/s/pods/0Ab_c.d-e_eth0.json"));
        assert_eq!(
            layout.workload("ns", "web-0.a").unwrap(),
            Path::new("/s/workloads/ns/web-0.a.json")
        );
        assert_eq!(
            layout.cluster_policy("ns", "p").unwrap(),
            Path::new("/s/policies/cluster/ns/p.json")
        );
        assert_eq!(
            layout.status_file("index").unwrap(),
            Path::new("/s/status/index.json")
        );
    }

    #[test]
    fn ids_that_could_leave_their_folder_are_refused() {
        let layout = Layout::new("/s");
        for id in [
            "",
            "a/b",
            "../x",
            ".a",
            "-a",
            "_a",
            "a b",
            "a\0",
            "ä",
            &"a".repeat(MAX_ID + 1),
        ] {
            assert!(layout.record(id, "eth0").is_err(), "{id:?}");
        }
        for ifname in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-bytes-xx"] {
            assert!(layout.record("a", ifname).is_err(), "{ifname:?}");
        }
        for id in ["..", "a/b", "/etc/passwd", ".hidden"] {
            let path = layout.workload(id, id).unwrap();
            assert_eq!(
                path.strip_prefix("/s/workloads").unwrap().iter().count(),
                2,
                "{path:?}"
            );
            assert!(!name(&path).starts_with('.'));
        }
    }

    #[test]
    fn the_error_says_what_and_why() {
        let error = container("a/b").unwrap_err();
        assert_eq!(
            error.to_string(),
            "name container id \"a/b\": only letters, digits, '_', '.' and '-' are allowed"
        );
    }

    #[test]
    fn names_of_any_length_fit() {
        let layout = Layout::new("/s");
        let long = "a".repeat(MAX_ID);
        let [plain, taken] = layout.record(&long, "eth0").unwrap();
        assert_eq!(plain, taken);
        assert!(name(&plain).starts_with(&Layout::record_prefix(&long).unwrap()));
        for id in [253, 300, 4096].map(|length| "ä".repeat(length / 2)) {
            assert!(name(&layout.workload("ns", &id).unwrap()).len() <= 200);
            assert!(name(&layout.applied_policy(&id).unwrap()).len() <= 200);
        }
        assert_ne!(
            layout.record(&long[1..], "a").unwrap(),
            layout.record(&long[1..], "b").unwrap()
        );
    }

    proptest! {
        #[test]
        fn components_come_back(id in ".{1,60}") {
            prop_assume!(!id.contains('\0'));
            let name = component("id", &id).unwrap();
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'));
            prop_assert!(!name.starts_with('.') && name.len() <= 255 - ".json".len());
            match decode(&name) {
                Some(back) => prop_assert_eq!(back, id),
                None => prop_assert!(name.contains('~')),
            }
        }

        #[test]
        fn decoding_never_panics_and_is_canonical(name in ".{0,80}") {
            if let Some(id) = decode(&name) {
                prop_assert_eq!(encode(&id), name);
            }
        }

        #[test]
        fn different_endpoints_have_different_second_names(
            ids in proptest::collection::hash_set(("[a-c_.-]{0,4}", "[a-c_]{1,4}"), 2..40),
        ) {
            let layout = Layout::new("/s");
            let names: HashSet<_> = ids.iter()
                .map(|(id, ifname)| layout.record(&format!("a{id}"), ifname).unwrap()[1].clone())
                .collect();
            prop_assert_eq!(names.len(), ids.len());
        }

        #[test]
        fn a_record_is_found_by_its_containers_prefix(id in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,300}", ifname in "[a-z0-9@]{1,15}") {
            let prefix = Layout::record_prefix(&id).unwrap();
            for path in Layout::new("/s").record(&id, &ifname).unwrap() {
                prop_assert!(name(&path).starts_with(&prefix));
                prop_assert!(name(&path).len() <= 255);
            }
        }
    }
}
