//! The programs' entries: decide, count, tell.
#![allow(
    clippy::needless_pass_by_value,
    reason = "the form that aya's macro asks for"
)]

use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, TC_ACT_SHOT,
    TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use verdict::Scratch;
use verdict::decide::Decision;
use verdict::layout::{Addr, Config, Counter, Direction, Event, counter_key};
use verdict::{Reason, decide};

use crate::maps::{CLOCK, CONFIG, EVENTS, PASSED, RATES, REASONS, SCRATCH};
use crate::skb::Skb;
use crate::tables::Tables;

/// Bytes in the ring from which on the reader is woken.
const WAKE_AT: u64 = 1 << 19;

/// Towards the pod: TC egress of the host veth.
#[classifier]
#[inline(always)]
pub(crate) fn podgate_ingress(ctx: TcContext) -> i32 {
    run(&ctx, Direction::Ingress)
}

/// From the pod: TC ingress of the host veth.
#[classifier]
#[inline(always)]
pub(crate) fn podgate_egress(ctx: TcContext) -> i32 {
    run(&ctx, Direction::Egress)
}

/// Never attached: run by BPF_PROG_TEST_RUN, it tells user space the kernel's jiffies.
#[classifier]
pub(crate) fn podgate_clock(_ctx: TcContext) -> i32 {
    if let Some(clock) = CLOCK.get_ptr_mut(0) {
        // SAFETY: an array's value is never freed; the helper has no arguments.
        unsafe { *clock = bpf_jiffies64() };
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn run(ctx: &TcContext, direction: Direction) -> i32 {
    let skb = Skb::of(ctx);
    let Some(scratch) = SCRATCH.get_ptr_mut(direction as u32) else {
        return TC_ACT_SHOT;
    };
    // SAFETY: a per-CPU value; no program of this direction runs on this CPU before this one has returned.
    let scratch = unsafe { &mut *scratch };
    let meta = skb.meta();
    let decision = decide(&Tables(&skb), &skb, &meta, direction, scratch);
    let (packets, bytes) = (skb.segments(), u64::from(meta.len));
    let drop = decision.reason.is_drop();
    if !drop
        && let Some(counter) = PASSED.get_ptr_mut(decision.endpoint_index * 2 + direction as u32)
    {
        add(counter, packets, bytes);
    }
    if decision.reason as u8 != Reason::Tracked as u8 {
        count(
            counter_key(decision.endpoint_index, direction, decision.reason),
            packets,
            bytes,
        );
        if decision.log {
            tell(&decision, direction, meta.ifindex, meta.len, scratch);
        }
    }
    if drop { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

#[inline(always)]
fn add(counter: *mut Counter, packets: u64, bytes: u64) {
    // SAFETY: a per-CPU value, written by this CPU only.
    unsafe {
        (*counter).packets += packets;
        (*counter).bytes += bytes;
    }
}

#[inline(always)]
fn count(key: u32, packets: u64, bytes: u64) {
    if let Some(counter) = REASONS.get_ptr_mut(key) {
        add(counter, packets, bytes);
        return;
    }
    let first = Counter { packets, bytes };
    if REASONS.insert(key, first, u64::from(BPF_NOEXIST)).is_err()
        && let Some(counter) = REASONS.get_ptr_mut(key)
    {
        add(counter, packets, bytes);
    }
}

/// Sends an event, within the limits of the endpoint and of the node; what is lost is counted.
#[inline(always)]
fn tell(decision: &Decision, direction: Direction, ifindex: u32, bytes: u32, scratch: &Scratch) {
    let Some(config) = CONFIG.get(0) else { return };
    if !within_rate(decision.endpoint_index, config.events_per_endpoint, config)
        || !within_rate(0, config.events_per_node, config)
    {
        return;
    }
    let p = &scratch.packet;
    let event = Event {
        // SAFETY: the helper has no arguments.
        at_ns: unsafe { bpf_ktime_get_ns() },
        ifindex,
        endpoint_id: decision.endpoint_id,
        endpoint_index: decision.endpoint_index,
        bytes,
        // Without a family these are an earlier packet's.
        src: if p.family == 0 { Addr::ZERO } else { p.src },
        dst: if p.family == 0 { Addr::ZERO } else { p.dst },
        src_port_be: p.src_port_be,
        dst_port_be: p.dst_port_be,
        family: p.family,
        protocol: if p.family == 0 { 0 } else { p.protocol },
        direction: direction as u8,
        reason: decision.reason as u8,
    };
    let wake = if EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) >= WAKE_AT {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    if EVENTS.output::<Event>(&event, u64::from(wake)).is_err()
        && let Some(rate) = RATES.get_ptr_mut(0)
    {
        // SAFETY: an array's value is never freed; a lost count of losses is bearable.
        unsafe { (*rate).lost += 1 };
    }
}

#[inline(always)]
fn within_rate(endpoint_index: u32, limit: u32, config: &Config) -> bool {
    let Some(rate) = RATES.get_ptr_mut(endpoint_index) else {
        return false;
    };
    // SAFETY: the helper has no arguments.
    let jiffies = unsafe { bpf_jiffies64() };
    let hz = if config.hz == 0 {
        1
    } else {
        u64::from(config.hz)
    };
    let second = (jiffies / hz) as u32;
    // SAFETY: an array's value is never freed; CPUs that meet here make the limit a little softer.
    let rate = unsafe { &mut *rate };
    if rate.second != second {
        rate.second = second;
        rate.sent = 0;
    }
    if rate.sent >= limit {
        rate.lost += 1;
        return false;
    }
    rate.sent += 1;
    true
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are for programs under the GPL only; the sources are Apache-2.0 and may be used so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
