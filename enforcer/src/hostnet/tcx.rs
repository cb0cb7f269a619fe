//! TCX links: programs at a hook by bpf(2), in front of every qdisc and filter (kernel 6.6 and newer).

use std::{
    ffi::CString,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use nix::errno::Errno;

use super::{Error, Hook, Op, bpf};

const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_LINK_TYPE_TCX: u32 = 11;
const BPF_F_BEFORE: u32 = 1 << 3;

/// A program at a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The program's id.
    pub prog_id: u32,
    /// The link that holds it there; none where it was attached without one.
    pub link_id: Option<u32>,
}

/// What a TCX link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its id.
    pub id: u32,
    /// The program that it runs.
    pub prog_id: u32,
    /// Where it is attached; none once its interface is gone or it was detached.
    pub ifindex: Option<u32>,
    /// The hook.
    pub hook: Hook,
}

/// Attaches the program at the head of the hook and returns the link.
///
/// The program stays for as long as a descriptor or a pin of the link does: the caller pins it. Takes 7 to 19 ms
/// under the RTNL lock.
///
/// # Errors
/// [`Error::NoTcx`] below 6.6, or the kernel refuses.
pub fn attach(ifindex: u32, hook: Hook, program: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    bpf::link_create(program, ifindex, attach_type(hook), BPF_F_BEFORE).map_err(|errno| {
        // A kernel without TCX does not know the attach type, nor does it answer a query of it.
        if errno == Errno::EINVAL && !supported() {
            return Error::NoTcx { ifindex, hook };
        }
        refused(
            verb(hook, "attach at TCX ingress", "attach at TCX egress"),
            ifindex,
            errno,
        )
    })
}

/// Gives the link to its pin: it lives for as long as that does.
///
/// # Errors
/// There is something of that name, or no bpffs.
pub fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    Ok(bpf::pin(link, &CString::new(path.as_os_str().as_bytes())?)?)
}

/// Opens a pinned link.
///
/// # Errors
/// There is none.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    Ok(bpf::open_pin(&CString::new(path.as_os_str().as_bytes())?)?)
}

/// Puts another program in the link's place, in one step.
///
/// # Errors
/// The link has lost its interface (ENOLINK), or the kernel refuses.
pub fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Error> {
    bpf::link_update(link, program).map_err(|errno| refused("update TCX link", 0, errno))
}

/// Takes the link off its interface, though others hold or pin it.
///
/// # Errors
/// The kernel refuses.
pub fn detach(link: BorrowedFd<'_>) -> Result<(), Error> {
    bpf::link_detach(link).map_err(|errno| refused("detach TCX link", 0, errno))
}

/// What stands at the hook, in the order in which the kernel runs it; nothing on a kernel without TCX.
///
/// # Errors
/// The interface is gone, or the kernel refuses.
pub fn query(ifindex: u32, hook: Hook) -> Result<Vec<Entry>, Error> {
    match bpf::query(ifindex, attach_type(hook)) {
        Ok(found) => Ok(found
            .into_iter()
            .map(|(prog_id, link_id)| Entry {
                prog_id,
                link_id: Some(link_id).filter(|id| *id != 0),
            })
            .collect()),
        Err(Errno::EINVAL) if !supported() => Ok(Vec::new()),
        Err(errno) => Err(refused(
            verb(hook, "query TCX ingress", "query TCX egress"),
            ifindex,
            errno,
        )),
    }
}

/// Whether anything stands at one of the interface's TCX hooks; false on a kernel without TCX. Costs two calls of bpf(2).
///
/// # Errors
/// The interface is gone, or the kernel refuses.
pub fn is_occupied(ifindex: u32) -> Result<bool, Error> {
    for hook in Hook::ALL {
        if !query(ifindex, hook)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a link's descriptor is; an error where it is no TCX link.
///
/// # Errors
/// The descriptor is something else, or the kernel refuses.
pub fn link_info(link: BorrowedFd<'_>) -> Result<LinkInfo, Error> {
    let fail = |errno| refused("look at TCX link", 0, errno);
    let raw = bpf::link_info(link).map_err(fail)?;
    let hook = match (raw.kind, raw.attach_type) {
        (BPF_LINK_TYPE_TCX, BPF_TCX_INGRESS) => Hook::Ingress,
        (BPF_LINK_TYPE_TCX, BPF_TCX_EGRESS) => Hook::Egress,
        _ => return Err(fail(Errno::EINVAL)),
    };
    let ifindex = Some(raw.ifindex).filter(|index| *index != 0);
    Ok(LinkInfo {
        id: raw.id,
        prog_id: raw.prog_id,
        ifindex,
        hook,
    })
}

/// The id of a program, from its descriptor.
///
/// # Errors
/// The descriptor is no program's.
pub fn prog_id(program: BorrowedFd<'_>) -> Result<u32, Error> {
    bpf::prog_id(program).map_err(|errno| refused("look at program", 0, errno))
}

/// Whether this kernel has TCX, asked of the kernel and not of its version: distributions carry it back.
pub fn supported() -> bool {
    // No interface has index 0: a kernel with TCX looks for it, one without does not know the type.
    match bpf::query(0, BPF_TCX_INGRESS) {
        Ok(_) => true,
        Err(errno) => errno == Errno::ENODEV,
    }
}

fn attach_type(hook: Hook) -> u32 {
    match hook {
        Hook::Ingress => BPF_TCX_INGRESS,
        Hook::Egress => BPF_TCX_EGRESS,
    }
}

fn verb(hook: Hook, ingress: &'static str, egress: &'static str) -> &'static str {
    match hook {
        Hook::Ingress => ingress,
        Hook::Egress => egress,
    }
}

fn refused(verb: &'static str, ifindex: u32, errno: Errno) -> Error {
    Error::Refused {
        op: Op { verb, ifindex },
        errno,
        detail: String::new(),
    }
}
