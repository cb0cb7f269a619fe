//! A classifier of two instructions: `return code`.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// Return codes of a classifier.
pub const UNSPEC: i32 = -1;
pub const SHOT: i32 = 2;

pub struct Program {
    fd: OwnedFd,
    pub id: u32,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

impl Program {
    pub fn returning(code: i32) -> Self {
        // mov r0, code; exit
        let instructions: [u64; 2] = [u64::from(code.cast_unsigned()) << 32 | 0xb7, 0x95];
        let license = c"Apache-2.0";
        let mut name = [0; 16];
        name[..6].copy_from_slice(b"pgtest");
        let attr = ProgLoad {
            prog_type: BPF_PROG_TYPE_SCHED_CLS,
            insn_cnt: 2,
            insns: instructions.as_ptr().expose_provenance() as u64,
            license: license.as_ptr().expose_provenance() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
            prog_name: name,
        };
        raise_locked_memory();
        // SAFETY: `attr` is a structure of the length given; instructions and licence outlive the call, which
        // only reads them.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_LOAD,
                &raw const attr,
                size_of::<ProgLoad>(),
            )
        };
        assert!(fd >= 0, "load program: {}", io::Error::last_os_error());
        // SAFETY: the kernel gave us this new descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) };
        let id = prog_id_by_fdinfo(fd.as_fd());
        Self { fd, id }
    }
}

/// Before 5.11 the kernel charges programs to this limit of the process, and for a while after they have gone. Where the limit may not
/// be raised, loading tells what came of it.
fn raise_locked_memory() {
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the call reads one structure, which outlives it.
    let _ = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A field of /proc/self/fdinfo: the kernel's own account of a BPF object.
pub fn fdinfo(fd: BorrowedFd<'_>, field: &str) -> String {
    use std::os::fd::AsRawFd as _;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    text.lines()
        .find_map(|line| {
            line.strip_prefix(field)?
                .strip_prefix(':')
                .map(|v| v.trim().to_owned())
        })
        .unwrap_or_else(|| panic!("no {field} in {text}"))
}

fn prog_id_by_fdinfo(fd: BorrowedFd<'_>) -> u32 {
    fdinfo(fd, "prog_id").parse().unwrap()
}

#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Pins a program so that `tc` can take it.
pub fn pin(program: &Program, path: &std::path::Path) {
    use std::os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _};
    const BPF_OBJ_PIN: libc::c_int = 6;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let attr = ObjPin {
        pathname: path.as_ptr().expose_provenance() as u64,
        bpf_fd: program.fd.as_raw_fd().cast_unsigned(),
        file_flags: 0,
    };
    // SAFETY: `attr` is a structure of the length given; the path outlives the call, which only reads it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_PIN,
            &raw const attr,
            size_of::<ObjPin>(),
        )
    };
    assert_eq!(result, 0, "pin: {}", io::Error::last_os_error());
}
