//! `verdict::Env` over the maps.

use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::mem::{size_of, zeroed};
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_EXIST, BPF_F_CURRENT_NETNS, BPF_NOEXIST, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{
    bpf_jiffies64, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
};
use aya_ebpf::maps::lpm_trie::Key;
use verdict::env::{Env, Flow, Write};
use verdict::layout::{
    Config, Endpoint, FlowKey, FlowValue, FragmentKey, HostPortKey, PeerKey, PortKey, PortValue,
    PrefixKey, PrefixValue, RuleKey, RuleValue, Share, SourceKey, V4,
};
use verdict::packet::{Packet, proto};

use crate::maps::{
    CONFIG, ENDPOINTS, FLOWS, FRAGMENTS, HOSTPATHS, HOSTPORTS, HOSTS, PEERS, POLICY_STATES, PORTS,
    PREFIXES, PortData, PrefixData, RULES, SHARES, SOURCES, SWEPT, SourceData,
};
use crate::skb::Skb;

/// The maps, and the frame for what is asked of the kernel about it.
pub(crate) struct Tables<'a>(pub(crate) &'a Skb);

/// A flow in the table.
pub(crate) struct FlowRef(*mut FlowValue);

impl Flow for FlowRef {
    #[inline(always)]
    fn verdict(&self) -> u64 {
        // SAFETY: a map value stays mapped while the program runs; one aligned word is read whole.
        unsafe { read_volatile(&raw const (*self.0).verdict) }
    }
    #[inline(always)]
    fn seen(&self) -> u32 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.0).seen) }
    }
    #[inline(always)]
    fn state(&self) -> u32 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.0).state) }
    }
    #[inline(always)]
    fn set_seen(&self, seen: u32) {
        // SAFETY: as above; a lost or foreign time stamp changes no verdict.
        unsafe { write_volatile(&raw mut (*self.0).seen, seen) }
    }
    #[inline(always)]
    fn set_state(&self, state: u32) {
        // SAFETY: as above; a lost or foreign state changes time-outs, never a verdict.
        unsafe { write_volatile(&raw mut (*self.0).state, state) }
    }
}

#[inline(always)]
fn add(word: *mut u64, n: u64) {
    // SAFETY: the word lies, aligned, in an array's value, which is never freed. Relaxed and without use of the
    // result, or LLVM emits an instruction that 5.10 refuses. (core's atomics have no fetch_add on this target.)
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, n) };
}

#[inline(always)]
fn count(endpoint_index: u32, field: impl Fn(*mut Share) -> *mut u64, n: u64) {
    if let Some(share) = SHARES.get_ptr_mut(endpoint_index) {
        add(field(share), n);
    }
    if let Some(all) = SHARES.get_ptr_mut(0) {
        add(field(all), n);
    }
}

impl Env for Tables<'_> {
    type FlowRef = FlowRef;

    #[inline(always)]
    fn endpoint(&self, ifindex: u32) -> Option<&Endpoint> {
        // SAFETY: entries are never updated; one that is deleted under the reader is told by its ifindex and endpoint id.
        unsafe { ENDPOINTS.get(ifindex) }
    }

    #[inline(always)]
    fn policy_state(&self, endpoint_index: u32) -> Option<u64> {
        let state = POLICY_STATES.get_ptr(endpoint_index)?;
        // SAFETY: one aligned word of an array's value, read whole and once.
        Some(unsafe { read_volatile(state) })
    }

    #[inline(always)]
    fn config(&self) -> Option<&Config> {
        CONFIG.get(0)
    }

    #[inline(always)]
    fn jiffies(&self) -> u64 {
        // SAFETY: the helper has no arguments.
        unsafe { bpf_jiffies64() }
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<FlowRef> {
        FLOWS.get_ptr_mut(key).map(FlowRef)
    }

    #[inline(always)]
    fn put_flow(&self, key: &FlowKey, value: &FlowValue, how: Write) -> bool {
        let flags = match how {
            Write::Create => BPF_NOEXIST,
            Write::Replace => BPF_EXIST,
        };
        FLOWS.insert(key, value, u64::from(flags)).is_ok()
    }

    #[inline(always)]
    fn share(&self, endpoint_index: u32) -> (u64, u64) {
        match (SHARES.get(endpoint_index), SWEPT.get(endpoint_index)) {
            (Some(share), Some(swept)) => {
                let live = share.made.wrapping_sub(swept.removed);
                let answered = share.answered.wrapping_sub(swept.answered);
                // The counters are read one after the other: a difference below zero is a moment, not a number.
                let live = if live > u64::MAX / 2 { 0 } else { live };
                let unanswered = live.wrapping_sub(answered);
                (
                    live,
                    if unanswered > u64::MAX / 2 {
                        0
                    } else {
                        unanswered
                    },
                )
            }
            _ => (u64::MAX, u64::MAX),
        }
    }

    #[inline(always)]
    fn count_made(&self, endpoint_index: u32) {
        // SAFETY: `count` hands in a pointer to a live value; only the field's address is taken.
        count(endpoint_index, |s| unsafe { &raw mut (*s).made }, 1);
    }

    #[inline(always)]
    fn count_answered(&self, endpoint_index: u32, answered: bool) {
        // SAFETY: as above.
        count(
            endpoint_index,
            |s| unsafe { &raw mut (*s).answered },
            if answered { 1 } else { u64::MAX },
        );
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FlowValue> {
        let value = FRAGMENTS.get_ptr(key)?;
        // SAFETY: a map value stays mapped while the program runs; the verdict is one word, read whole.
        Some(unsafe {
            FlowValue {
                verdict: read_volatile(&raw const (*value).verdict),
                seen: (*value).seen,
                state: (*value).state,
            }
        })
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragmentKey, value: &FlowValue) -> bool {
        FRAGMENTS.insert(key, value, 0).is_ok()
    }

    #[inline(always)]
    fn source(&self, key: &SourceKey) -> Option<u32> {
        // SAFETY: `SourceKey` is `Key<SourceData>`, field by field (checked below).
        let key: &Key<SourceData> = unsafe { &*(&raw const *key).cast() };
        SOURCES.get(key).copied()
    }

    #[inline(always)]
    fn host(&self, key: &PeerKey) -> bool {
        HOSTS.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn host_path(&self, ifindex: u32) -> bool {
        HOSTPATHS.get_ptr(ifindex).is_some()
    }

    #[inline(always)]
    fn host_port(&self, key: &HostPortKey) -> bool {
        HOSTPORTS.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn host_socket(&self, packet: &Packet) -> bool {
        // SAFETY: all-zero is a tuple.
        let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
        let size = if packet.family == V4 {
            // SAFETY: the union is written before it is read, by one of its views.
            let v4 = unsafe { &mut tuple.__bindgen_anon_1.ipv4 };
            v4.saddr = packet.src.0[0];
            v4.daddr = packet.dst.0[0];
            v4.sport = packet.src_port_be;
            v4.dport = packet.dst_port_be;
            size_of_val(v4)
        } else {
            // SAFETY: as above.
            let v6 = unsafe { &mut tuple.__bindgen_anon_1.ipv6 };
            v6.saddr = packet.src.0;
            v6.daddr = packet.dst.0;
            v6.sport = packet.src_port_be;
            v6.dport = packet.dst_port_be;
            size_of_val(v6)
        } as u32;
        let netns = BPF_F_CURRENT_NETNS as i64 as u64;
        // SAFETY: the tuple lives through the call, and a socket that is found is released at once.
        unsafe {
            let socket = if packet.protocol == proto::TCP {
                bpf_skc_lookup_tcp(self.0.0.cast(), &raw mut tuple, size, netns, 0)
            } else {
                bpf_sk_lookup_udp(self.0.0.cast(), &raw mut tuple, size, netns, 0)
            };
            if socket.is_null() {
                return false;
            }
            bpf_sk_release(socket.cast());
        }
        true
    }

    #[inline(always)]
    fn peer(&self, key: &PeerKey) -> Option<u64> {
        let value = PEERS.get_ptr(key)?;
        // SAFETY: one aligned word, read whole; that it belongs to the key is checked by the caller.
        Some(unsafe { read_volatile(&raw const (*value).word) })
    }

    #[inline(always)]
    fn prefix(&self, key: &PrefixKey) -> Option<PrefixValue> {
        // SAFETY: `PrefixKey` is `Key<PrefixData>`, field by field (checked below).
        let key: &Key<PrefixData> = unsafe { &*(&raw const *key).cast() };
        PREFIXES.get(key).copied()
    }

    #[inline(always)]
    fn rule(&self, key: &RuleKey) -> Option<RuleValue> {
        // SAFETY: rules of a set in use are never written.
        unsafe { RULES.get(key) }.copied()
    }

    #[inline(always)]
    fn port(&self, key: &PortKey) -> Option<PortValue> {
        // SAFETY: `PortKey` is `Key<PortData>`, field by field (checked below).
        let key: &Key<PortData> = unsafe { &*(&raw const *key).cast() };
        PORTS.get(key).copied()
    }
}

const _: () = {
    assert!(size_of::<Key<SourceData>>() == size_of::<SourceKey>());
    assert!(size_of::<Key<PrefixData>>() == size_of::<PrefixKey>());
    assert!(size_of::<Key<PortData>>() == size_of::<PortKey>());
};
