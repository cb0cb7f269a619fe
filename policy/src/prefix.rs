//! Address blocks: a family, an address and a length, in an order that walks the prefix tree from the root.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnetwork::IpNetwork;
use thiserror::Error;

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Bits of an address.
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// `ipv4` or `ipv6`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A block of addresses; its host bits are zero.
///
/// The order is that of a walk through the prefix tree: a block stands before everything inside it, and what is
/// inside it stands together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    family: Family,
    // An IPv4 address stands in the first four bytes.
    address: [u8; 16],
    len: u8,
}

/// Why a text is no block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PrefixError {
    /// Neither an address nor address/length.
    #[error("{text:?} is neither an address nor address/length")]
    Text {
        /// What stood there, cut to a readable length.
        text: String,
    },
    /// A length beyond the bits of the family.
    #[error("length {len} of {text:?} is more than {most}")]
    Length {
        /// What stood there.
        text: String,
        /// The length.
        len: u32,
        /// Bits of the family.
        most: u8,
    },
    /// Addresses inside `::ffff:0:0/96` are refused on the wire: such a block would never match.
    #[error("{text:?} is an IPv4 address in IPv6 form; write it as IPv4")]
    Mapped {
        /// What stood there.
        text: String,
    },
}

impl Prefix {
    /// The block of a family that holds every address.
    pub const fn everything(family: Family) -> Self {
        Self {
            family,
            address: [0; 16],
            len: 0,
        }
    }

    /// The block around an address; host bits are cut off, a length beyond the family's is the family's.
    pub fn new(address: IpAddr, len: u8) -> Self {
        let family = Family::of(address);
        let len = len.min(family.bits());
        Self {
            family,
            address: (left_aligned(address) & mask(len)).to_be_bytes(),
            len,
        }
    }

    /// The block of one address.
    pub fn exact(address: IpAddr) -> Self {
        Self::new(address, u8::MAX)
    }

    /// Address family.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Length in bits.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a length in bits, not a number of elements"
    )]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Whether it holds exactly one address.
    pub const fn is_exact(&self) -> bool {
        self.len == self.family.bits()
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        let b = self.address;
        match self.family {
            Family::V4 => Ipv4Addr::new(b[0], b[1], b[2], b[3]).into(),
            Family::V6 => Ipv6Addr::from(b).into(),
        }
    }

    /// The last address.
    pub fn last_address(&self) -> IpAddr {
        let bits = u128::from_be_bytes(self.address) | !mask(self.len);
        match self.family {
            Family::V4 => Ipv4Addr::from((bits >> 96) as u32).into(),
            Family::V6 => Ipv6Addr::from(bits).into(),
        }
    }

    /// Whether the address lies inside; never for the other family.
    pub fn holds(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family
            && (left_aligned(address) ^ u128::from_be_bytes(self.address)) & mask(self.len) == 0
    }

    /// Whether the other block lies inside, or is the same.
    pub fn covers(&self, other: &Self) -> bool {
        self.family == other.family
            && self.len <= other.len
            && (u128::from_be_bytes(other.address) ^ u128::from_be_bytes(self.address))
                & mask(self.len)
                == 0
    }

    /// The block of another length around the first address; longer or shorter.
    #[must_use]
    pub fn resized(&self, len: u8) -> Self {
        Self::new(self.address(), len)
    }
}

/// Of blocks in their order, each once: which have no address of their own, because smaller ones in the list cover them.
pub(crate) fn hollow(blocks: impl IntoIterator<Item = Prefix>) -> Vec<bool> {
    // A block of length 0 has more addresses than a number can say; two halves never leave it hollow here.
    let size = |block: &Prefix| {
        1u128
            .checked_shl(u32::from(block.family.bits() - block.len))
            .unwrap_or(0)
    };
    let mut out = Vec::new();
    let mut open: Vec<(usize, Prefix, u128)> = Vec::new();
    for (place, block) in blocks.into_iter().enumerate() {
        out.push(false);
        while let Some((done, outer, covered)) = open.pop_if(|(_, outer, _)| !outer.covers(&block))
        {
            out[done] = covered != 0 && covered == size(&outer);
        }
        if let Some((.., covered)) = open.last_mut() {
            *covered = covered.wrapping_add(size(&block));
        }
        open.push((place, block, 0));
    }
    for (done, outer, covered) in open {
        out[done] = covered != 0 && covered == size(&outer);
    }
    out
}

const fn mask(len: u8) -> u128 {
    match len {
        0 => 0,
        1..=127 => u128::MAX << (128 - len),
        _ => u128::MAX,
    }
}

fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)) << 96,
        IpAddr::V6(a) => u128::from(a),
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// `address` or `address/length`, as Kubernetes takes them; host bits are cut off, as Amazon's agent does.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let shown = || text.chars().take(64).collect::<String>();
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| PrefixError::Text { text: shown() })?;
        if matches!(address, IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
            return Err(PrefixError::Mapped { text: shown() });
        }
        let most = Family::of(address).bits();
        let len = match len {
            None => u32::from(most),
            Some(digits)
                if !digits.is_empty()
                    && digits.len() <= 3
                    && digits.bytes().all(|b| b.is_ascii_digit()) =>
            {
                digits
                    .parse()
                    .map_err(|_| PrefixError::Text { text: shown() })?
            }
            Some(_) => return Err(PrefixError::Text { text: shown() }),
        };
        match u8::try_from(len) {
            Ok(len) if len <= most => Ok(Self::new(address, len)),
            _ => Err(PrefixError::Length {
                text: shown(),
                len,
                most,
            }),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<IpNetwork> for Prefix {
    fn from(network: IpNetwork) -> Self {
        Self::new(network.ip(), network.prefix())
    }
}

impl From<Prefix> for IpNetwork {
    fn from(prefix: Prefix) -> Self {
        // A length is never beyond the family's; the exact block stands in for the impossible error.
        IpNetwork::new(prefix.address(), prefix.len)
            .unwrap_or_else(|_| IpNetwork::from(prefix.address()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn texts() {
        assert_eq!(p("10.1.2.3").to_string(), "10.1.2.3/32");
        assert_eq!(p("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(p("2001:db8::1/32").to_string(), "2001:db8::/32");
        assert_eq!(p("::/0"), Prefix::everything(Family::V6));
        for bad in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "010.0.0.1",
            "10.0.0.0/8/8",
            "fe80::1%eth0",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
        for bad in [
            "10.0.0.0/255.0.0.0",
            "::ffff:10.0.0.1",
            "::ffff:10.0.0.0/104",
            "10.0.0.0/-1",
            " 10.0.0.1",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn order_walks_the_tree() {
        let mut list = [
            "10.0.0.0/8",
            "10.0.0.0/16",
            "0.0.0.0/0",
            "10.0.0.0/32",
            "9.0.0.0/8",
            "::/0",
            "10.255.0.0/16",
            "11.0.0.0/8",
        ]
        .map(p);
        list.sort_unstable();
        let shown: Vec<_> = list.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "0.0.0.0/0",
                "9.0.0.0/8",
                "10.0.0.0/8",
                "10.0.0.0/16",
                "10.0.0.0/32",
                "10.255.0.0/16",
                "11.0.0.0/8",
                "::/0"
            ]
        );
    }

    #[test]
    fn hollow_blocks() {
        let list = [
            "10.0.0.0/30",
            "10.0.0.0/31",
            "10.0.0.0/32",
            "10.0.0.1/32",
            "10.0.0.2/31",
            "10.0.0.3/32",
            "::/1",
            "::/2",
            "4000::/2",
            "8000::/1",
        ];
        assert_eq!(
            hollow(list.map(p)),
            [
                true, true, false, false, false, false, true, false, false, false
            ]
        );
        assert_eq!(
            hollow(["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"].map(p)),
            [true, false, false]
        );
        assert_eq!(hollow(["::/0", "::/1", "8000::/1"].map(p)), [false; 3]);
    }

    #[test]
    fn inside() {
        assert!(p("10.0.0.0/8").covers(&p("10.1.0.0/16")));
        assert!(!p("10.1.0.0/16").covers(&p("10.0.0.0/8")));
        assert!(!p("0.0.0.0/0").covers(&p("::/0")));
        assert!(p("10.1.0.0/16").holds("10.1.255.255".parse().unwrap()));
        assert!(!p("0.0.0.0/0").holds("::1".parse().unwrap()));
        assert_eq!(p("10.1.0.0/16").last_address().to_string(), "10.1.255.255");
        assert_eq!(
            p("::/0").last_address().to_string(),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
    }
}
