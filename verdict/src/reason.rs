//! Numbered reasons: why a packet passed or was dropped. The same name shows in counters, events, `explain` and tests.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Why a packet passed (below [`Reason::FIRST_DROP`]) or was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name = $number,)*
        }

        impl Reason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Stable name, in kebab case.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// By number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }

        impl core::str::FromStr for Reason {
            type Err = UnknownReason;

            fn from_str(s: &str) -> Result<Self, UnknownReason> {
                match s { $($text => Ok(Self::$name),)* _ => Err(UnknownReason) }
            }
        }
    };
}

reasons! {
    /// Belongs to a tracked flow that is allowed.
    Tracked = 1, "tracked";
    /// A rule of a policy allows it.
    PolicyAllowed = 2, "policy-allowed";
    /// No policy isolates the pod in this direction and the mode is standard.
    DefaultAllowed = 3, "default-allowed";
    /// Sent by the host itself (kubelet probes, node-local DNS).
    HostToPod = 4, "host-to-pod";
    /// To a socket of the host itself.
    PodToHost = 5, "pod-to-host";
    /// From the pod to itself, also through a Service.
    PodToItself = 6, "pod-to-itself";
    /// ARP, neighbour discovery, router discovery, multicast listener discovery.
    Neighbour = 7, "neighbour";
    /// An ICMP error about an allowed flow.
    IcmpRelated = 8, "icmp-related";
    /// A later fragment of an allowed packet.
    LaterFragment = 9, "later-fragment";
    /// Enforcement is suspended on this node.
    Suspended = 10, "suspended";
    /// Of a tracked flow that is assured and finds no place in the table: its endpoint's quota is used up. It stays in the
    /// nursery.
    ShareFull = 11, "share-full";
    /// Allowed, but not recorded: the kernel refused a bucket of the nursery.
    TableFull = 12, "table-full";

    /// The interface has no endpoint row.
    NoEndpoint = 32, "no-endpoint";
    /// What applies to the pod is not known yet.
    Pending = 33, "pending";
    /// A policy isolates the pod and none allows this, or a cluster policy denies it.
    PolicyDenied = 34, "policy-denied";
    /// Strict mode, and no policy allows anything in this direction.
    StrictDefault = 35, "strict-default";
    /// Belongs to a tracked flow that is refused now.
    FlowRefused = 36, "flow-refused";
    /// Source address that is not the pod's.
    SpoofedAddress = 37, "spoofed-address";
    /// Source MAC address that is not the pod's.
    SpoofedMac = 38, "spoofed-mac";
    /// A frame for another MAC address, or for an address that is not the pod's.
    NotForPod = 39, "not-for-pod";
    /// Ends before its headers do.
    Truncated = 40, "truncated";
    /// A header that contradicts itself or the frame; ARP with more than padding behind it.
    BadHeader = 41, "bad-header";
    /// Neither IPv4, IPv6 nor ARP.
    UnknownEthertype = 42, "unknown-ethertype";
    /// A VLAN tag with an id, or more than two tags.
    Vlan = 43, "vlan";
    /// More IPv6 extension headers than are read, or an order that is not legal.
    ExtensionHeaders = 44, "extension-headers";
    /// A fragment that is too short for its ports, or that overlaps them.
    TinyFragment = 45, "tiny-fragment";
    /// A later fragment without its first, or by another way than its first.
    FragmentWithoutFirst = 46, "fragment-without-first";
    /// An IPv4-mapped IPv6 address on the wire.
    MappedAddress = 47, "mapped-address";
    /// A neighbour message that claims an address that is not the pod's, leaves the link, or has not the one form it needs.
    SpoofedNeighbour = 48, "spoofed-neighbour";
    /// A router advertisement or redirect from a pod.
    RouterFromPod = 49, "router-from-pod";
    /// An ICMP error that belongs to no allowed flow.
    IcmpUnrelated = 50, "icmp-unrelated";
    /// A table could not be read.
    TableError = 51, "table-error";
    /// From the pod to its own address: such packets go by its loopback, on the link they are crafted.
    OwnAddress = 52, "own-address";
    /// An ICMP error in fragments: what it is about cannot be told.
    FragmentedError = 53, "fragmented-error";
}

/// No reason has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownReason;

impl core::fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("no reason has this name")
    }
}

impl core::error::Error for UnknownReason {}

impl Reason {
    /// The lowest number of a drop.
    pub const FIRST_DROP: u8 = 32;

    /// Whether the packet is dropped.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self as u8 >= Self::FIRST_DROP
    }
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_come_back() {
        for r in Reason::ALL {
            assert_eq!(r.name().parse(), Ok(*r));
            assert_eq!(Reason::from_number(*r as u8), Some(*r));
        }
        assert_eq!(Reason::from_number(0), None);
        assert_eq!("".parse::<Reason>(), Err(UnknownReason));
    }
}
