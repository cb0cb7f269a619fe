//! The frame and what the kernel tells about it.

use core::ptr::read_volatile;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use verdict::frame::{Frame, HEAD_MASK, Head, Meta};

/// `PACKET_HOST` of linux/if_packet.h.
const PACKET_HOST: u32 = 0;
/// Bytes of an Ethernet header: less is never asked for.
const ETHERNET: u32 = 14;

/// A frame, read by copy, out of its linear part where that holds enough, by the helper elsewhere. Nothing is changed.
pub(crate) struct Skb(pub(crate) *mut __sk_buff);

impl Skb {
    pub(crate) fn of(ctx: &TcContext) -> Self {
        Self(ctx.skb.skb)
    }

    /// Segments of a GSO packet, 1 for others.
    #[inline(always)]
    pub(crate) fn segments(&self) -> u64 {
        // SAFETY: the context that the kernel gave to the program is valid while it runs.
        let segments = unsafe { (*self.0).gso_segs };
        if segments == 0 {
            1
        } else {
            u64::from(segments)
        }
    }

    #[inline(always)]
    pub(crate) fn meta(&self) -> Meta {
        // SAFETY: as above.
        let skb = unsafe { &*self.0 };
        Meta {
            ifindex: skb.ifindex,
            ingress_ifindex: skb.ingress_ifindex,
            to_host: skb.pkt_type == PACKET_HOST,
            len: skb.len,
            gso: skb.gso_size != 0,
            vlan_present: skb.vlan_present != 0,
            vlan_tci: skb.vlan_tci as u16,
        }
    }
}

/// Bytes of the frame that the first word of a head and so many whole ones hold.
const fn bytes_of(words: usize) -> usize {
    (words - 1) * 4 + 2
}

/// Words of a head that the reader looks at behind an IPv4 header without options: to the TCP flags.
const WORDS_V4: usize = 14;
/// Words of a whole head.
const WORDS: usize = 18;

impl Skb {
    /// Copies the head out of the frame's linear part, without the call of a helper; false if it does not hold what is
    /// needed. Words at the same place as in [`Head`]: there they are aligned in the frame too.
    #[inline(always)]
    fn copy_linear(&self, into: &mut Head) -> bool {
        // SAFETY: the context that the kernel gave to the program is valid while it runs.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        if data + bytes_of(WORDS) <= end {
            // SAFETY: so many bytes are there, by the comparison above.
            unsafe { copy_words(data, into, WORDS) };
            return true;
        }
        if data + bytes_of(WORDS_V4) <= end {
            // SAFETY: as above.
            let (ethertype, version) =
                unsafe { (*((data + 12) as *const u16), *((data + 14) as *const u8)) };
            if ethertype == 0x0800_u16.to_be() && version == 0x45 {
                // SAFETY: as above.
                unsafe { copy_words(data, into, WORDS_V4) };
                return true;
            }
        }
        false
    }
}

/// Copies the first `words` words.
///
/// # Safety
/// The frame at `data` holds [`bytes_of`] them.
#[inline(always)]
unsafe fn copy_words(data: usize, into: &mut Head, words: usize) {
    let head = (&raw mut *into).cast::<u32>();
    // SAFETY: within the frame by the caller's promise, and a head has more words than that.
    unsafe {
        *head.cast::<u16>().add(1) = *(data as *const u16);
        let mut word = 1;
        while word < words {
            *head.add(word) = *((data + word * 4 - 2) as *const u32);
            word += 1;
        }
    }
}

impl Frame for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32, into: &mut [u8; N]) -> bool {
        // SAFETY: the helper writes at most N bytes into the array.
        unsafe {
            bpf_skb_load_bytes(self.0.cast(), offset, into.as_mut_ptr().cast(), N as u32) == 0
        }
    }

    #[inline(always)]
    fn head(&self, offset: u32, length: u32, into: &mut Head) -> bool {
        if offset == 0 && self.copy_linear(into) {
            return true;
        }
        // The verifier wants to see both bounds, and that of 6.1 learns nothing from "not 0". LLVM knows them and would
        // take mask and comparison out: it must not know where the number comes from.
        // SAFETY: a variable of our own.
        let length = unsafe { read_volatile(&raw const length) } & HEAD_MASK;
        if length < ETHERNET {
            return false;
        }
        // SAFETY: a head has room for any length under the mask behind its front.
        unsafe {
            let front = (&raw mut *into).cast::<u8>().add(Head::FRONT as usize);
            bpf_skb_load_bytes(self.0.cast(), offset, front.cast(), length) == 0
        }
    }
}
