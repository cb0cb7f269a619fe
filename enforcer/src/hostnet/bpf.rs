//! The few commands of bpf(2) that TCX needs and aya does not give by interface index.
//!
//! The only module of `hostnet` with unsafe code.

use std::{
    ffi::CStr,
    mem::size_of,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::errno::Errno;

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

/// An attribute structure of bpf(2).
///
/// # Safety
/// `repr(C)` without padding bytes, and every address in it is of memory that is valid for what the command
/// that takes the structure does with it, for as long as the structure lives.
unsafe trait Attr {}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}
// SAFETY: all fields are integers that lie without a gap (32 bytes); no addresses.
unsafe impl Attr for LinkCreate {}
const _: () = assert!(size_of::<LinkCreate>() == 32);

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}
// SAFETY: four integers; no addresses.
unsafe impl Attr for LinkUpdate {}

#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}
// SAFETY: one integer; no address.
unsafe impl Attr for LinkDetach {}

#[repr(C)]
struct Query {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}
// SAFETY: integers without a gap (64 bytes); the two addresses are set in `query` only, to arrays of `count`
// words that outlive the call.
unsafe impl Attr for Query {}
const _: () = assert!(size_of::<Query>() == 64);

#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}
// SAFETY: integers without a gap; the address is set in `info` only, to `info_len` bytes that outlive the call.
unsafe impl Attr for InfoByFd {}

#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}
// SAFETY: integers without a gap; the address is set in `pin` and `open_pin` only, to a path that outlives the call.
unsafe impl Attr for Object {}

/// `struct bpf_link_info` as far as a TCX link fills it.
#[repr(C)]
#[derive(Default)]
pub(super) struct RawLinkInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) prog_id: u32,
    pad: u32,
    pub(super) ifindex: u32,
    pub(super) attach_type: u32,
}

/// `struct bpf_prog_info`, its first two fields.
#[repr(C)]
#[derive(Default)]
struct RawProgInfo {
    kind: u32,
    id: u32,
}

/// Makes a link of the program to the interface and returns its descriptor.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
) -> Result<OwnedFd, Errno> {
    let mut attr = LinkCreate {
        prog_fd: number(program),
        target_ifindex: ifindex,
        attach_type,
        flags,
        relative_fd: 0,
        pad: 0,
        expected_revision: 0,
    };
    let fd = call(BPF_LINK_CREATE, &mut attr)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: BPF_LINK_CREATE returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives an object a name on a bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let mut attr = Object {
        pathname: path.as_ptr().expose_provenance() as u64,
        bpf_fd: number(object),
        file_flags: 0,
    };
    call(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens what has a name on a bpffs.
pub(super) fn open_pin(path: &CStr) -> Result<OwnedFd, Errno> {
    let mut attr = Object {
        pathname: path.as_ptr().expose_provenance() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let fd = RawFd::try_from(call(BPF_OBJ_GET, &mut attr)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: BPF_OBJ_GET returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts another program in a link's place, atomically.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = LinkUpdate {
        link_fd: number(link),
        new_prog_fd: number(program),
        flags: 0,
        old_prog_fd: 0,
    };
    call(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a link off its interface, whoever else holds it.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> Result<(), Errno> {
    call(
        BPF_LINK_DETACH,
        &mut LinkDetach {
            link_fd: number(link),
        },
    )
    .map(drop)
}

/// What a link is.
pub(super) fn link_info(link: BorrowedFd<'_>) -> Result<RawLinkInfo, Errno> {
    let mut info = RawLinkInfo::default();
    // SAFETY: RawLinkInfo is made of integers only, any bytes are a value of it.
    unsafe { read_info(link, &mut info) }?;
    Ok(info)
}

/// The id of a program.
pub(super) fn prog_id(program: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut info = RawProgInfo::default();
    // SAFETY: RawProgInfo is made of integers only, any bytes are a value of it.
    unsafe { read_info(program, &mut info) }?;
    Ok(info.id)
}

/// Pairs of program and link id (0 = attached without a link) of a hook, first to run first.
pub(super) fn query(ifindex: u32, attach_type: u32) -> Result<Vec<(u32, u32)>, Errno> {
    // BPF_MPROG_MAX is 64, so one call is enough on the kernels known; ENOSPC is answered with what is needed.
    let mut room = 64;
    loop {
        let (mut programs, mut links) = (vec![0_u32; room], vec![0_u32; room]);
        let mut attr = Query {
            target_ifindex: ifindex,
            attach_type,
            query_flags: 0,
            attach_flags: 0,
            prog_ids: programs.as_mut_ptr().expose_provenance() as u64,
            count: room as u32,
            pad: 0,
            prog_attach_flags: 0,
            link_ids: links.as_mut_ptr().expose_provenance() as u64,
            link_attach_flags: 0,
            revision: 0,
        };
        let result = call(BPF_PROG_QUERY, &mut attr);
        let count = attr.count as usize;
        match result {
            Ok(_) => return Ok(programs.into_iter().zip(links).take(count).collect()),
            Err(Errno::ENOSPC) if count > room => room = count,
            Err(errno) => return Err(errno),
        }
    }
}

/// # Safety
/// Every pattern of bytes is a value of `T`.
unsafe fn read_info<T>(fd: BorrowedFd<'_>, info: &mut T) -> Result<(), Errno> {
    let mut attr = InfoByFd {
        bpf_fd: number(fd),
        info_len: size_of::<T>() as u32,
        info: std::ptr::from_mut(info).expose_provenance() as u64,
    };
    call(BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn call<A: Attr>(command: libc::c_int, attr: &mut A) -> Result<libc::c_long, Errno> {
    // SAFETY: `attr` is a valid structure of the length given, and by `Attr` whatever it points to is valid for
    // the command; the kernel reads and writes within these bounds only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    Errno::result(result)
}
