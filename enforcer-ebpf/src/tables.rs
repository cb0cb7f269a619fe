//! `verdict::Env` over the maps.

use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::mem::{size_of, zeroed};
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_EXIST, BPF_F_CURRENT_NETNS, BPF_NOEXIST, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{
    bpf_jiffies64, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
};
use aya_ebpf::maps::Array;
use aya_ebpf::maps::lpm_trie::Key;
use verdict::env::{Env, Flow, Write};
use verdict::layout::{
    Config, Endpoint, FlowKey, FlowValue, FragmentKey, HostPortKey, PeerKey, PeerValue, PortKey,
    PortValue, PrefixKey, PrefixValue, RuleKey, RuleValue, SourceKey, V4, Versioned,
};
use verdict::packet::{Packet, proto};

use crate::maps::{
    CONFIG, ENDPOINTS, FLOWS, FLOWS_CREATED, FLOWS_DELETED, FRAGMENTS, HOSTPATHS, HOSTPORTS, HOSTS,
    NURSERY, NURSERY_EMPTY, PEERS, POLICY_STATES, PORTS, PREFIXES, PortData, PrefixData, RULES,
    SOURCES, SourceData,
};
use crate::nursery::Bucket;
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

/// Reads each word whole and once; that they belong together, and to the key, is checked by the caller.
///
/// # Safety
/// The pointer is to a map's value.
#[inline(always)]
unsafe fn versioned(value: *const Versioned) -> Versioned {
    // SAFETY: aligned words of a value that stays mapped while the program runs.
    unsafe {
        Versioned {
            new: read_volatile(&raw const (*value).new),
            old: read_volatile(&raw const (*value).old),
            since: read_volatile(&raw const (*value).since),
        }
    }
}

#[inline(always)]
fn add(word: *mut u64, n: u64) {
    // SAFETY: the word lies, aligned, in an array's value, which is never freed. Relaxed and without use of the
    // result, or LLVM emits an instruction that 5.10 refuses. (core's atomics have no fetch_add on this target.)
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, n) };
}

#[inline(always)]
fn count(counters: &Array<u64>, endpoint_index: u32) {
    for index in [endpoint_index, 0] {
        if let Some(counter) = counters.get_ptr_mut(index) {
            add(counter, 1);
        }
    }
}

impl Env for Tables<'_> {
    type FlowRef = FlowRef;
    type Bucket = Bucket;

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
    fn delete_flow(&self, key: &FlowKey) -> bool {
        FLOWS.remove(key).is_ok()
    }

    #[inline(always)]
    fn flows_held(&self, endpoint_index: u32) -> u64 {
        let (Some(created), Some(deleted)) = (
            FLOWS_CREATED.get(endpoint_index),
            FLOWS_DELETED.get(endpoint_index),
        ) else {
            return u64::MAX;
        };
        let held = created.wrapping_sub(*deleted);
        // The counters are read one after the other: a difference below zero is a moment, not a number.
        if held > u64::MAX / 2 { 0 } else { held }
    }

    #[inline(always)]
    fn count_created(&self, endpoint_index: u32) {
        count(&FLOWS_CREATED, endpoint_index);
    }

    #[inline(always)]
    fn count_deleted(&self, endpoint_index: u32) {
        count(&FLOWS_DELETED, endpoint_index);
    }

    #[inline(always)]
    fn bucket(&self, key: u32) -> Option<Bucket> {
        NURSERY.get_ptr_mut(key).map(Bucket)
    }

    #[inline(always)]
    fn make_bucket(&self, key: u32) -> Option<Bucket> {
        let empty = NURSERY_EMPTY.get(0)?;
        // Another CPU may be first, so what it returns tells nothing.
        let _ = NURSERY.insert(key, empty, u64::from(BPF_NOEXIST));
        NURSERY.get_ptr_mut(key).map(Bucket)
    }

    #[inline(always)]
    fn reload(&self, number: &u32) -> u32 {
        // SAFETY: a reference to a number in the scratch memory.
        unsafe { read_volatile(number) }
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
    fn peer(&self, key: &PeerKey) -> Option<PeerValue> {
        let value = PEERS.get_ptr(key)?;
        // SAFETY: the value stays mapped while the program runs.
        let class = unsafe { versioned(&raw const (*value).class) };
        Some(PeerValue { class })
    }

    #[inline(always)]
    fn prefix(&self, key: &PrefixKey) -> Option<PrefixValue> {
        // SAFETY: `PrefixKey` is `Key<PrefixData>`, field by field (checked below).
        let key: &Key<PrefixData> = unsafe { &*(&raw const *key).cast() };
        PREFIXES.get(key).copied()
    }

    #[inline(always)]
    fn rule(&self, key: &RuleKey) -> Option<RuleValue> {
        let value = RULES.get_ptr(key)?;
        // SAFETY: the value stays mapped while the program runs.
        let says = unsafe { versioned(&raw const (*value).says) };
        Some(RuleValue { says })
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
