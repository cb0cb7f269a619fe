//! The bytes of a frame, what the kernel tells beside them, and the room for a frame's beginning.

use crate::layout::Addr;

/// The bytes of a frame, from its Ethernet header on.
pub trait Frame {
    /// Copies `N` bytes at `offset`; false if the frame does not have them. Never changes the frame.
    fn load<const N: usize>(&self, offset: u32, into: &mut [u8; N]) -> bool;

    /// Copies `length` bytes (at most [`HEAD_BYTES`]) at `offset` into a head; false if the
    /// frame does not have them. One call for what most packets need: in the kernel each costs as much as a look-up.
    fn head(&self, offset: u32, length: u32, into: &mut Head) -> bool {
        let mut byte = [0];
        (0..length).all(|i| self.load(offset + i, &mut byte) && into.set(i, byte[0]))
    }
}

/// What the kernel tells beside the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// The host veth.
    pub ifindex: u32,
    /// The interface by which the packet came into the host; 0 = made on the host itself (or re-fragmented there).
    pub ingress_ifindex: u32,
    /// Length of the frame with its Ethernet header; of all segments where GSO applies.
    pub len: u32,
    /// Whether the kernel takes the frame as addressed to the host itself (its MAC address is the host veth's now).
    pub to_host: bool,
    /// Whether this is a GSO packet.
    pub gso: bool,
    /// Whether a VLAN tag stands beside the bytes.
    pub vlan_present: bool,
    /// The tag control information of that tag.
    pub vlan_tci: u16,
}

/// Bytes of a frame that are read at once: Ethernet, IPv6 and TCP up to its flags.
pub const HEAD_BYTES: u32 = 70;

/// A [`Head`] has room for any length under this mask: so the verifier of 5.10 sees that a length fits.
pub const HEAD_MASK: u32 = 0x7f;

/// Words of a [`Head`].
const HEAD_WORDS: usize = (Head::FRONT + HEAD_MASK).div_ceil(4) as usize;

/// The first bytes of a frame, from the third byte on: so the IP header behind an Ethernet header lies on words, and an
/// address is read as words and not byte by byte (the BPF target has no unaligned loads).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Head(pub [u32; HEAD_WORDS]);

impl Head {
    /// Nothing read yet.
    pub const EMPTY: Self = Self([0; HEAD_WORDS]);
    /// The byte at which the frame begins.
    pub const FRONT: u32 = 2;
    /// The word at which an IP header begins.
    pub(crate) const IP: usize = 4;
    /// The word behind an IPv4 header without options.
    pub(crate) const BEHIND_V4: usize = 9;
    /// The word behind an IPv6 header.
    pub(crate) const BEHIND_V6: usize = 14;

    /// Puts byte `at` of the frame in; false if there is no room for it.
    pub(crate) const fn set(&mut self, at: u32, byte: u8) -> bool {
        let at = (at + Self::FRONT) as usize;
        if at / 4 >= HEAD_WORDS {
            return false;
        }
        let mut bytes = self.0[at / 4].to_ne_bytes();
        bytes[at % 4] = byte;
        self.0[at / 4] = u32::from_ne_bytes(bytes);
        true
    }

    /// A word's halves, each as it lies in memory.
    #[inline(always)]
    pub(crate) const fn halves(&self, word: usize) -> (u16, u16) {
        let [a, b, c, d] = self.0[word].to_ne_bytes();
        (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))
    }

    /// A word as a number.
    #[inline(always)]
    pub(crate) const fn number(&self, word: usize) -> u32 {
        u32::from_be(self.0[word])
    }

    /// IPv6 address from a word on.
    #[inline(always)]
    pub(crate) const fn addr(&self, word: usize) -> Addr {
        Addr([
            self.0[word],
            self.0[word + 1],
            self.0[word + 2],
            self.0[word + 3],
        ])
    }
}
