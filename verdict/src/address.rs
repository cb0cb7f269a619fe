//! What kind of address it is, and whose: the endpoint's own, the host's, a group's.

use crate::env::Env;
use crate::layout::{Addr, ENDPOINT_MORE_SOURCES, Endpoint, SOURCE_OWN, SourceKey, V4, V6};
use crate::scratch::Scratch;

/// Whether the address begins with a byte and, under a mask, with a second one.
#[inline(always)]
fn begins(addr: &Addr, first: u8, second: u8, mask: u8) -> bool {
    let b = addr.0[0].to_ne_bytes();
    b[0] == first && b[1] & mask == second
}

/// fe80::/10.
#[inline(always)]
pub(crate) fn is_link_local(addr: &Addr) -> bool {
    begins(addr, 0xfe, 0x80, 0xc0)
}

/// Multicast, and IPv4's broadcast to all.
#[inline(always)]
pub(crate) const fn is_group(family: u8, addr: &Addr) -> bool {
    let first = addr.0[0].to_ne_bytes()[0];
    if family == V6 {
        first == 0xff
    } else {
        first & 0xf0 == 0xe0 || addr.0[0] == u32::MAX
    }
}

/// Whether the pod may send from the address: its own, in its entry or in the `sources` trie, or behind it.
#[inline(always)]
pub(crate) fn is_own<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    family: u8,
    addr: &Addr,
    scratch: &mut Scratch,
) -> bool {
    !matches!(owner(env, endpoint, family, addr, scratch), Owner::Other)
}

/// Whose an address is, seen from an endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The pod's own.
    Pod,
    /// One that the pod may send from besides (`extraSources`): whoever has it, it is behind the pod.
    BehindPod,
    /// Somebody else's.
    Other,
}

/// Whose the address is.
#[inline(always)]
pub(crate) fn owner<E: Env>(
    env: &E,
    endpoint: &Endpoint,
    family: u8,
    addr: &Addr,
    scratch: &mut Scratch,
) -> Owner {
    let used = if family == V4 {
        endpoint.families & 0x0f
    } else {
        endpoint.families >> 4
    };
    if (used & 1 != 0 && endpoint.addrs[0].same(addr))
        || (used & 2 != 0 && endpoint.addrs[1].same(addr))
        || (used & 4 != 0 && endpoint.addrs[2].same(addr))
        || (used & 8 != 0 && endpoint.addrs[3].same(addr))
    {
        return Owner::Pod;
    }
    if endpoint.flags & ENDPOINT_MORE_SOURCES == 0 {
        return Owner::Other;
    }
    scratch.source.prefix_len = SourceKey::FIXED_BITS + if family == V4 { 32 } else { 128 };
    scratch.source.endpoint_id = endpoint.endpoint_id;
    scratch.source.family = u32::from(family);
    scratch.source.addr = *addr;
    match env.source(&scratch.source) {
        Some(SOURCE_OWN) => Owner::Pod,
        Some(_) => Owner::BehindPod,
        None => Owner::Other,
    }
}

/// Whether the address is in the host set.
#[inline(always)]
pub(crate) fn is_host<E: Env>(env: &E, family: u8, addr: &Addr, scratch: &mut Scratch) -> bool {
    scratch.peer.family = u32::from(family);
    scratch.peer.addr = *addr;
    env.host(&scratch.peer)
}

/// ::ffff:0:0/96.
#[inline(always)]
pub(crate) const fn is_mapped(addr: &[u32; 4]) -> bool {
    addr[0] == 0 && addr[1] == 0 && addr[2] == 0xffff_u32.to_be()
}
