//! The variables that a call may set, read once. An empty variable counts as unset.

use std::ffi::OsString;

/// Variables of the CNI protocol and our own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`
    pub command: Option<String>,
    /// `CNI_CONTAINERID`
    pub container_id: Option<String>,
    /// `CNI_NETNS`
    pub netns: Option<String>,
    /// `CNI_IFNAME`
    pub ifname: Option<String>,
    /// `CNI_ARGS`
    pub args: Option<String>,
    /// `NETWORK_POLICY_ENFORCING_MODE`
    pub mode: Option<String>,
    /// `PODGATE_STATE_DIR`
    pub state_dir: Option<String>,
    /// `PODGATE_BPF_DIR`
    pub bpf_dir: Option<String>,
}

impl Environment {
    /// Reads the variables through `lookup`. What is no UTF-8 is kept readable with replacement characters, which
    /// no validator accepts where it matters.
    pub fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name| {
            lookup(name)
                .map(|value| value.to_string_lossy().into_owned())
                .filter(|value| !value.is_empty())
        };
        Self {
            command: get("CNI_COMMAND"),
            container_id: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            ifname: get("CNI_IFNAME"),
            args: get("CNI_ARGS"),
            mode: get("NETWORK_POLICY_ENFORCING_MODE"),
            state_dir: get("PODGATE_STATE_DIR"),
            bpf_dir: get("PODGATE_BPF_DIR"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn empty_is_unset_and_bad_utf8_is_visible() {
        let environment = Environment::read(|name| match name {
            "CNI_COMMAND" => Some("ADD".into()),
            "CNI_NETNS" => Some("".into()),
            "CNI_IFNAME" => Some(OsString::from_vec(vec![b'e', 0xff])),
            _ => None,
        });
        let expected = Environment {
            command: Some("ADD".into()),
            ifname: Some("e\u{fffd}".into()),
            ..Environment::default()
        };
        assert_eq!(environment, expected);
    }
}
