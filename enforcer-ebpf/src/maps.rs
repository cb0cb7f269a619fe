//! The kernel objects, one set for the whole node. Sizes that depend on the node are set when they are loaded.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf};
use verdict::Scratch;
use verdict::layout::{
    Addr, Config, Counter, ENDPOINT_INDEXES, Endpoint, FlowKey, FlowValue, FragmentKey,
    HostPortKey, NurseryBucket, PeerKey, PeerValue, PortValue, PrefixValue, Rate, RuleKey,
    RuleValue,
};

/// Data of the `PREFIXES` key behind the prefix length.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PrefixData(pub(crate) u32, pub(crate) Addr);

/// Data of the `SOURCES` key behind the prefix length.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SourceData(pub(crate) u32, pub(crate) u32, pub(crate) Addr);

/// Data of the `PORTS` key behind the prefix length.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PortData(pub(crate) u32, pub(crate) u16, pub(crate) u16);

#[map]
pub(crate) static ENDPOINTS: HashMap<u32, Endpoint> =
    HashMap::with_max_entries(ENDPOINT_INDEXES, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static POLICY_STATES: Array<u64> =
    Array::with_max_entries(ENDPOINT_INDEXES, BPF_F_MMAPABLE);
#[map]
pub(crate) static SOURCES: LpmTrie<SourceData, u32> =
    LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static FLOWS: HashMap<FlowKey, FlowValue> =
    HashMap::with_max_entries(524_288, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FlowValue> =
    LruHashMap::with_max_entries(8_192, 0);
#[map]
pub(crate) static HOSTS: HashMap<PeerKey, u32> =
    HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static HOSTPATHS: HashMap<u32, u32> = HashMap::with_max_entries(256, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static HOSTPORTS: HashMap<HostPortKey, u32> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static PEERS: HashMap<PeerKey, PeerValue> =
    HashMap::with_max_entries(1_048_576, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static PREFIXES: LpmTrie<PrefixData, PrefixValue> =
    LpmTrie::with_max_entries(262_144, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static RULES: HashMap<RuleKey, RuleValue> =
    HashMap::with_max_entries(1_048_576, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static PORTS: LpmTrie<PortData, PortValue> =
    LpmTrie::with_max_entries(1_048_576, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
/// Flows that are not assured, see `verdict::nursery`: made with a bucket's first flow.
#[map]
pub(crate) static NURSERY: HashMap<u32, NurseryBucket> =
    HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);
/// What a bucket is made of: zeroes, never written.
#[map]
pub(crate) static NURSERY_EMPTY: Array<NurseryBucket> = Array::with_max_entries(1, 0);
/// Flows put into `FLOWS`, by endpoint index (0: all). Programs and user space add.
#[map]
pub(crate) static FLOWS_CREATED: Array<u64> =
    Array::with_max_entries(ENDPOINT_INDEXES, BPF_F_MMAPABLE);
/// Flows taken out of `FLOWS`, by endpoint index (0: all). Programs and user space add.
#[map]
pub(crate) static FLOWS_DELETED: Array<u64> =
    Array::with_max_entries(ENDPOINT_INDEXES, BPF_F_MMAPABLE);
/// Packets that passed, by endpoint index * 2 + direction.
#[map]
pub(crate) static PASSED: PerCpuArray<Counter> =
    PerCpuArray::with_max_entries(ENDPOINT_INDEXES * 2, 0);
/// Everything but tracked packets, by `verdict::layout::counter_key`.
#[map]
pub(crate) static REASONS: PerCpuHashMap<u32, Counter> =
    PerCpuHashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
#[map]
pub(crate) static RATES: Array<Rate> = Array::with_max_entries(ENDPOINT_INDEXES, 0);
/// Counters of the node that never repeat: the last endpoint id (0) and the last revision (1). Written by user space only.
#[map]
pub(crate) static NODE: Array<u64> = Array::with_max_entries(2, 0);
#[map]
pub(crate) static CLOCK: Array<u64> = Array::with_max_entries(1, 0);
/// Working memory: one for each direction, for a packet that leaves one pod's hook may enter another's.
#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(2, 0);
