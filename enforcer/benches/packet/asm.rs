//! Kernel programs by hand: what the real ones are measured against.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    imm: i32,
}

const fn insn(code: u8, dst: u8, src: u8, offset: i16, imm: i32) -> Insn {
    Insn {
        code,
        registers: (src << 4) | dst,
        offset,
        imm,
    }
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;

const LOOKUP: i32 = 1;
const SKB_STORE_BYTES: i32 = 9;
const TAIL_CALL: i32 = 12;
const JIFFIES: i32 = 118;

/// A program that is being written. Register 6 holds the context.
pub(crate) struct Program(Vec<Insn>);

impl Program {
    pub(crate) fn new() -> Self {
        Self(vec![insn(0xbf, 6, 1, 0, 0)])
    }

    /// Puts bytes (a multiple of four) at the bottom of a piece of stack that ends at `-below`.
    fn stack(&mut self, bytes: &[u8], at: i16) {
        for (i, word) in bytes.chunks_exact(4).enumerate() {
            let word = i32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
            self.0.push(insn(0x62, 10, 0, at + i as i16 * 4, word));
        }
    }

    /// Looks a key up; ends the program where it is not found. Register 0 holds the value's address.
    pub(crate) fn lookup(mut self, map: BorrowedFd<'_>, key: &[u8]) -> Self {
        let at = -(key.len().next_multiple_of(8) as i16);
        self.stack(key, at);
        self.0.push(insn(0x18, 1, 1, 0, map.as_raw_fd()));
        self.0.push(insn(0, 0, 0, 0, 0));
        self.0.push(insn(0xbf, 2, 10, 0, 0));
        self.0.push(insn(0x07, 2, 0, 0, i32::from(at)));
        self.0.push(insn(0x85, 0, 0, 0, LOOKUP));
        // Not found: 1, which no run returns otherwise.
        self.0.push(insn(0x55, 0, 0, 2, 0));
        self.0.push(insn(0xb7, 0, 0, 0, 1));
        self.0.push(insn(0x95, 0, 0, 0, 0));
        self
    }

    /// Loads the frame's first 70 bytes onto the stack.
    pub(crate) fn head(mut self) -> Self {
        self.0.push(insn(0xbf, 1, 6, 0, 0));
        self.0.push(insn(0xb7, 2, 0, 0, 0));
        self.0.push(insn(0xbf, 3, 10, 0, 0));
        self.0.push(insn(0x07, 3, 0, 0, -72));
        self.0.push(insn(0xb7, 4, 0, 0, 70));
        self.0.push(insn(0x85, 0, 0, 0, 26));
        self
    }

    pub(crate) fn jiffies(mut self) -> Self {
        self.0.push(insn(0x85, 0, 0, 0, JIFFIES));
        self
    }

    /// Counts in the first word of an array and writes two bytes of the count into the frame.
    pub(crate) fn vary(self, counter: BorrowedFd<'_>, frame_offset: i32) -> Self {
        let mut p = self.lookup(counter, &[0; 4]);
        p.0.push(insn(0x79, 1, 0, 0, 0));
        p.0.push(insn(0x07, 1, 0, 0, 1));
        p.0.push(insn(0x7b, 0, 1, 0, 0));
        p.0.push(insn(0x7b, 10, 1, -16, 0));
        p.0.push(insn(0xbf, 1, 6, 0, 0));
        p.0.push(insn(0xb7, 2, 0, 0, frame_offset));
        p.0.push(insn(0xbf, 3, 10, 0, 0));
        p.0.push(insn(0x07, 3, 0, 0, -16));
        p.0.push(insn(0xb7, 4, 0, 0, 2));
        p.0.push(insn(0xb7, 5, 0, 0, 0));
        p.0.push(insn(0x85, 0, 0, 0, SKB_STORE_BYTES));
        p
    }

    /// Goes on in the program that a program array holds.
    pub(crate) fn tail_call(mut self, programs: BorrowedFd<'_>) -> Self {
        self.0.push(insn(0xbf, 1, 6, 0, 0));
        self.0.push(insn(0x18, 2, 1, 0, programs.as_raw_fd()));
        self.0.push(insn(0, 0, 0, 0, 0));
        self.0.push(insn(0xb7, 3, 0, 0, 0));
        self.0.push(insn(0x85, 0, 0, 0, TAIL_CALL));
        self
    }

    /// Passes, and loads.
    pub(crate) fn load(mut self) -> io::Result<OwnedFd> {
        self.0.push(insn(0xb7, 0, 0, 0, -1));
        self.0.push(insn(0x95, 0, 0, 0, 0));
        let mut log = vec![0u8; 1 << 16];
        let mut attr = [0u64; 16];
        attr[0] = u64::from(BPF_PROG_TYPE_SCHED_CLS) | (self.0.len() as u64) << 32;
        attr[1] = self.0.as_ptr() as u64;
        attr[2] = c"GPL".as_ptr() as u64;
        attr[3] = 1 | (log.len() as u64) << 32;
        attr[4] = log.as_mut_ptr() as u64;
        bpf(BPF_PROG_LOAD, &attr).map_err(|e| {
            let text = String::from_utf8_lossy(&log);
            io::Error::other(format!("{e}: {}", text.trim_end_matches('\0')))
        })
    }
}

fn bpf(command: libc::c_int, attr: &[u64; 16]) -> io::Result<OwnedFd> {
    // SAFETY: the attribute is as long as it says, and what it points to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(attr)) };
    match i32::try_from(fd) {
        // SAFETY: a descriptor that the kernel has just made for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn map(kind: u32, value_size: u32) -> io::Result<OwnedFd> {
    let mut attr = [0u64; 16];
    attr[0] = u64::from(kind) | 4 << 32;
    attr[1] = u64::from(value_size) | 1 << 32;
    bpf(BPF_MAP_CREATE, &attr)
}

/// An array of one counter.
pub(crate) fn counter() -> io::Result<OwnedFd> {
    map(BPF_MAP_TYPE_ARRAY, 8)
}

/// A program array that holds one program.
pub(crate) fn program_array(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let array = map(BPF_MAP_TYPE_PROG_ARRAY, 4)?;
    let (key, value) = (0u32, program.as_raw_fd());
    let mut attr = [0u64; 16];
    attr[0] = array.as_raw_fd() as u64;
    attr[1] = (&raw const key) as u64;
    attr[2] = (&raw const value) as u64;
    // SAFETY: as in `bpf`; this command returns no descriptor.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_UPDATE_ELEM,
            attr.as_ptr(),
            size_of_val(&attr),
        )
    };
    if done == 0 {
        Ok(array)
    } else {
        Err(io::Error::last_os_error())
    }
}
