//! An address, as every table holds it.

use core::mem::size_of;

use super::{V4, V6};

/// An address, in network byte order; an IPv4 address stands in the first word, the others are zero.
/// The family is never part of it: every key carries it beside.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(pub [u32; 4]);

impl Addr {
    /// The unspecified address of either family.
    pub const ZERO: Self = Self([0; 4]);

    /// From the four bytes of an IPv4 address.
    #[inline(always)]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self([u32::from_ne_bytes(b), 0, 0, 0])
    }

    /// From the sixteen bytes of an IPv6 address.
    #[inline(always)]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// From an address of the standard library, with its family.
    pub const fn from_ip(ip: core::net::IpAddr) -> (u8, Self) {
        match ip {
            core::net::IpAddr::V4(a) => (V4, Self::v4(a.octets())),
            core::net::IpAddr::V6(a) => (V6, Self::v6(a.octets())),
        }
    }

    /// To an address of the standard library.
    pub const fn to_ip(self, family: u8) -> core::net::IpAddr {
        let b = self.bytes();
        if family == V4 {
            core::net::IpAddr::V4(core::net::Ipv4Addr::new(b[0], b[1], b[2], b[3]))
        } else {
            core::net::IpAddr::V6(core::net::Ipv6Addr::from_octets(b))
        }
    }

    /// The sixteen bytes in the order of the wire.
    pub const fn bytes(self) -> [u8; 16] {
        let (a, b, c, d) = (
            self.0[0].to_ne_bytes(),
            self.0[1].to_ne_bytes(),
            self.0[2].to_ne_bytes(),
            self.0[3].to_ne_bytes(),
        );
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    /// Equality without a call to `memcmp`, which the kernel programs do not have.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        self.0[0] == other.0[0]
            && self.0[1] == other.0[1]
            && self.0[2] == other.0[2]
            && self.0[3] == other.0[3]
    }

    /// A cheap mix of all bits, for the tags that tell a table value from one of another key.
    #[inline(always)]
    pub const fn mix(&self) -> u32 {
        let a = self.0[0].wrapping_mul(0x9e37_79b1) ^ self.0[1].wrapping_mul(0x85eb_ca77);
        let b = self.0[2].wrapping_mul(0xc2b2_ae3d) ^ self.0[3].wrapping_mul(0x27d4_eb2f);
        a ^ b.rotate_left(13) ^ (a >> 15)
    }
}

const _: () = assert!(size_of::<Addr>() == 16);
