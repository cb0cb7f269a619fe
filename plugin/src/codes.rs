//! The one place where an error becomes a CNI error code and a word on what to do.

use enforcer::{attach, endpoint, hostnet, hosts, load};

use crate::{error::Error, plan, request, wire};

/// A code of a CNI error object and, being small, the exit code too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u8);

impl Code {
    /// No error.
    pub const SUCCESS: Self = Self(0);
    /// The version is not one of ours.
    pub const VERSION: Self = Self(1);
    /// A CNI variable is missing or wrong.
    pub const VARIABLES: Self = Self(4);
    /// Reading stdin or writing stdout failed.
    pub const IO: Self = Self(5);
    /// Stdin holds no JSON.
    pub const JSON: Self = Self(6);
    /// The configuration is wrong, `prevResult` included.
    pub const CONFIG: Self = Self(7);
    /// The lock was held too long; try again.
    pub const TRY_AGAIN: Self = Self(11);
    /// The node is not ready for pods.
    pub const NOT_READY: Self = Self(50);
    /// Attaching failed.
    pub const ATTACH: Self = Self(100);
    /// The attachment, read back, is not what it has to be.
    pub const READ_BACK: Self = Self(101);
    /// A map is full.
    pub const MAP_FULL: Self = Self(102);
    /// No bpffs, or not what should be pinned there.
    pub const BPFFS: Self = Self(103);
    /// The state store.
    pub const STORE: Self = Self(104);
    /// The kernel lacks something or refuses.
    pub const KERNEL: Self = Self(105);
    /// A defect of podgate itself.
    pub const DEFECT: Self = Self(106);
}

/// The code of an error.
#[must_use]
pub fn code(error: &Error) -> Code {
    match error {
        Error::Wire(error) => wire(error),
        Error::Request(error) => request(error),
        Error::Plan(_) => Code::ATTACH,
        Error::Store(error) => store(error),
        Error::Network(error) => network(error),
        Error::Kernel(_) | Error::NoPrivileges => Code::KERNEL,
        Error::Tcx(_) => Code::CONFIG,
        Error::Load(error) => load(error),
        Error::Endpoint(error) => endpoint(error),
        Error::Hosts(error) => hosts(error),
        Error::Attach(error) => attach(error),
        Error::Differs { .. } => Code::READ_BACK,
        Error::PolicyUnknown { .. } | Error::NotReady(_) => Code::NOT_READY,
        Error::Left { .. } | Error::Orphans(_) => Code::STORE,
        Error::Undone { cause, .. } => code(cause),
        Error::Panic(_) => Code::DEFECT,
    }
}

fn wire(error: &wire::Error) -> Code {
    match error {
        wire::Error::NoCommand | wire::Error::UnknownCommand(_) => Code::VARIABLES,
        wire::Error::Stdin(_) => Code::IO,
        wire::Error::TooLong | wire::Error::Empty | wire::Error::Json(_) => Code::JSON,
        wire::Error::NotAnObject(_) | wire::Error::VersionType(_) => Code::CONFIG,
        wire::Error::Version(_) | wire::Error::NotInVersion { .. } => Code::VERSION,
    }
}

fn request(error: &request::Error) -> Code {
    match error {
        request::Error::Missing(_) | request::Error::Variable { .. } | request::Error::Args(_) => {
            Code::VARIABLES
        }
        request::Error::Config(_) | request::Error::Prev(_) | request::Error::Attachments(_) => {
            Code::CONFIG
        }
    }
}

fn store(error: &state::Error) -> Code {
    match error {
        error if error.is_lock_timeout() => Code::TRY_AGAIN,
        state::Error::Node(state::node::Error::Json { .. } | state::node::Error::Field { .. }) => {
            Code::CONFIG
        }
        _ => Code::STORE,
    }
}

fn network(error: &hostnet::Error) -> Code {
    match error {
        hostnet::Error::Netns { .. } | hostnet::Error::HostNetns { .. } => Code::VARIABLES,
        hostnet::Error::NoTcx { .. } => Code::CONFIG,
        _ => Code::ATTACH,
    }
}

fn load(error: &load::Error) -> Code {
    match error {
        load::Error::Bpffs(_) | load::Error::Pin { .. } => Code::BPFFS,
        load::Error::Map(error) if error.is_full() => Code::MAP_FULL,
        _ => Code::KERNEL,
    }
}

fn endpoint(error: &endpoint::Error) -> Code {
    match error {
        error if error.is_full() => Code::MAP_FULL,
        error if error.is_not_loaded() => Code::BPFFS,
        endpoint::Error::Exists { .. } => Code::ATTACH,
        _ => Code::KERNEL,
    }
}

fn hosts(error: &hosts::Error) -> Code {
    match error {
        hosts::Error::Map(error) if error.is_full() => Code::MAP_FULL,
        hosts::Error::Map(_) => Code::KERNEL,
        hosts::Error::Node(state::node::Error::Json { .. } | state::node::Error::Field { .. }) => {
            Code::CONFIG
        }
        hosts::Error::Node(_) => Code::STORE,
        hosts::Error::Records(error) => store(error),
        _ => Code::ATTACH,
    }
}

fn attach(error: &attach::Error) -> Code {
    match error {
        attach::Error::Net(error) => network(error),
        attach::Error::NoTcx { .. } => Code::CONFIG,
        attach::Error::ReadBack { .. } => Code::READ_BACK,
        attach::Error::Kernel(_) => Code::KERNEL,
        attach::Error::Program { .. } => Code::BPFFS,
        _ => Code::ATTACH,
    }
}

/// What to do about an error.
#[must_use]
pub fn details(error: &Error) -> String {
    match error {
        Error::Undone { cause, failures } => {
            format!(
                "{}; what could not be undone: {}",
                details(cause),
                failures.join("; ")
            )
        }
        Error::NotReady(cause) => details(cause),
        other => advice(other).to_owned(),
    }
}

const ROOT: &str = "run the plugin as root, as container runtimes do";

fn advice(error: &Error) -> &'static str {
    match error {
        Error::Wire(error) => advice_on_input(error),
        Error::Request(error) => advice_on_request(error),
        Error::Plan(plan::Error::NotOurs { .. }) => {
            "podgate enforces veth pairs: use it behind ptp, bridge, aws-cni or another plugin that makes them, not in the \
             chain of a macvlan, ipvlan or SR-IOV network"
        }
        Error::Store(error) if error.is_lock_timeout() => {
            "the call may be repeated; where this goes on, see what the named process is doing"
        }
        Error::Store(error) if error.is_unwritable() => {
            "the state folder (stateDir or PODGATE_STATE_DIR) must be writable for root and have space"
        }
        Error::Store(state::Error::Node(_)) => {
            "correct the file, or remove it: the mode is then the chain's"
        }
        Error::Store(_) => {
            "see `podgatectl status`; the state folder is stateDir or PODGATE_STATE_DIR"
        }
        Error::Network(hostnet::Error::Netns { source, .. })
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            ROOT
        }
        Error::Network(hostnet::Error::Netns { .. } | hostnet::Error::HostNetns { .. }) => {
            "CNI_NETNS must be the path of the pod's own network namespace; it is gone, or cannot be entered"
        }
        Error::Network(_) => "see `podgatectl status` and the kernel's log",
        Error::Kernel(_) => "podgate needs Linux 5.10 or newer",
        Error::NoPrivileges => ROOT,
        Error::Tcx(_) => "leave attachMode at clsact, or run Linux 6.6 or newer",
        Error::Load(load::Error::Bpffs(_)) => {
            "mount a bpffs as the message says, or name a folder on one (bpfDir or PODGATE_BPF_DIR)"
        }
        Error::Endpoint(error) if error.is_full() => {
            "the node has as many endpoints as its tables hold; see `podgatectl status`"
        }
        Error::Load(_) | Error::Endpoint(_) | Error::Attach(_) | Error::Hosts(_) => {
            "see `podgatectl status`; `podgatectl load` loads the kernel programs by hand"
        }
        Error::Differs { .. } => {
            "podgated repairs this within a second; where it does not run, repeat the ADD or delete the pod"
        }
        Error::PolicyUnknown { .. } => {
            "start podgated (`systemctl status podgated`); onPolicyUnknown says what becomes of pods while it is away"
        }
        Error::Left { .. } | Error::Orphans(_) => {
            "the call may be repeated; podgated's orphans scan removes what is gone"
        }
        Error::Panic(_) => {
            "this is a defect of podgate: please report it with the lines of the plugin's log"
        }
        Error::NotReady(_) | Error::Undone { .. } => "",
    }
}

fn advice_on_input(error: &wire::Error) -> &'static str {
    match error {
        wire::Error::NoCommand => {
            "podgate is run by a container runtime as part of a chain (see --help); call it with CNI_COMMAND set"
        }
        wire::Error::UnknownCommand(_) => "call podgate with a command of the CNI specification",
        wire::Error::Version(_) | wire::Error::NotInVersion { .. } => {
            "set cniVersion of the configuration list to a version that podgate speaks and that has the command"
        }
        _ => "pass the network configuration as one JSON object on stdin, as libcni does",
    }
}

fn advice_on_request(error: &request::Error) -> &'static str {
    match error {
        request::Error::Missing(_) | request::Error::Variable { .. } | request::Error::Args(_) => {
            "the runtime sets the CNI variables of a call; correct the one that is named"
        }
        request::Error::Prev(_) => {
            "put podgate into a chain, behind the plugin that makes the pod's interface"
        }
        request::Error::Config(_) => {
            "correct podgate's entry in the configuration list, or the variable that is named"
        }
        request::Error::Attachments(_) => "nothing was removed; the list comes from the runtime",
    }
}
