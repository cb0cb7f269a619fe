//! Options of neighbour discovery (RFC 4861, 4.6).

use crate::frame::Frame;

/// Source link-layer address.
pub(super) const SOURCE: u8 = 1;
/// Target link-layer address.
pub(super) const TARGET: u8 = 2;
/// Nonce, of duplicate address detection (RFC 7527).
pub(super) const NONCE: u8 = 14;

/// Most options of a router advertisement.
const MOST: u32 = 8;

/// What the eight bytes of the one option that a solicitation or advertisement may have say; `None` if it is not one of eight bytes.
#[inline(always)]
pub(super) fn one<F: Frame>(frame: &F, at: u32) -> Option<(u8, [u8; 6])> {
    let mut o = [0u8; 8];
    if !frame.load(at, &mut o) || o[1] != 1 {
        return None;
    }
    Some((o[0], [o[2], o[3], o[4], o[5], o[6], o[7]]))
}

/// Whether only the options of a router advertisement stand between two offsets: link-layer address, prefixes, MTU
/// (RFC 4861), advertisement interval and home agent (RFC 6275), routes (RFC 4191), DNS (RFC 8106), flags (RFC 5175).
#[inline(always)]
pub(super) fn of_router<F: Frame>(frame: &F, from: u32, end: u32) -> bool {
    let mut at = from;
    for _ in 0..MOST {
        if at == end {
            return true;
        }
        let mut o = [0u8; 2];
        if at + 8 > end || !frame.load(at, &mut o) {
            return false;
        }
        let (least, most) = match o[0] {
            SOURCE | 5 | 7 | 8 | 26 => (1, 1),
            3 => (4, 4),
            24 => (1, 3),
            25 => (3, 7),
            31 => (2, 5),
            _ => return false,
        };
        if o[1] < least || o[1] > most {
            return false;
        }
        at += u32::from(o[1]) * 8;
    }
    at == end
}
