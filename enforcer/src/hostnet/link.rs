//! Interfaces and their addresses.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use netlink_packet_core::DecodeError;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::AddressMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
};
use nix::errno::Errno;

use super::{
    Error, Op,
    netlink::{Route, attributes, text_of, u32_of},
};

const IFINFO_HEADER: usize = 16;
const IFADDR_HEADER: usize = 8;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// An interface, as the kernel describes it in the namespace asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `bridge`, `ifb`, ...; none for hardware and loopback.
    pub kind: Option<String>,
    /// Its hardware address, where that has six bytes.
    pub mac: Option<[u8; 6]>,
    /// IFLA_LINK: for a veth its peer's index, in the peer's namespace.
    pub peer_ifindex: Option<u32>,
    /// IFLA_LINK_NETNSID: the id of the peer's namespace where that is another one.
    pub peer_netnsid: Option<i32>,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// Whether it is set up (IFF_UP).
    pub up: bool,
    /// The UDP port on which the kernel takes its packets out of others, where it is such a tunnel's end.
    pub tunnel_port: Option<u16>,
}

/// An address of one of the host's interfaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress {
    /// The interface's index.
    pub ifindex: u32,
    /// The interface's name.
    pub ifname: String,
    /// The address.
    pub address: IpAddr,
}

/// The interface with this index, none where there is none.
///
/// # Errors
/// The kernel cannot be asked.
pub fn link_by_index(ifindex: u32) -> Result<Option<Link>, Error> {
    Route::open()?.link(ifindex)
}

/// The hardware address by which a pod reaches the host through this host veth: that of the bridge it is a port of, else its own.
/// None where there is no such interface.
///
/// # Errors
/// The kernel cannot be asked.
pub fn host_mac(ifindex: u32) -> Result<Option<[u8; 6]>, Error> {
    let mut route = Route::open()?;
    match route.link(ifindex)? {
        Some(link) => route.host_mac(&link),
        None => Ok(None),
    }
}

/// The interface of this name. Names are used again at once: go on with its index.
///
/// # Errors
/// [`Error::NoSuchName`], or the kernel cannot be asked.
pub fn link_by_name(name: &str) -> Result<Link, Error> {
    let no_such = |errno| Error::NoSuchName {
        name: name.to_owned(),
        errno,
    };
    // IFNAMSIZ counts the final zero; the kernel would take a longer one for an alternative name.
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(no_such(Errno::ENODEV));
    }
    let mut message = request(0);
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    let op = Op {
        verb: "get link by name",
        ifindex: 0,
    };
    match Route::open()?.get(op, RouteNetlinkMessage::GetLink(message), read_link) {
        Err(Error::Refused { errno, .. }) => Err(no_such(errno)),
        other => other,
    }
}

/// Every interface of our namespace, by index.
///
/// # Errors
/// The kernel cannot be asked, or the list changed faster than it could be read.
pub fn links() -> Result<Vec<Link>, Error> {
    Route::open()?.links()
}

/// Every address of every interface of our namespace, by interface index.
///
/// # Errors
/// The kernel cannot be asked, or the list changed faster than it could be read.
pub fn host_addresses() -> Result<Vec<HostAddress>, Error> {
    let mut route = Route::open()?;
    let names: BTreeMap<u32, String> = route
        .links()?
        .into_iter()
        .map(|link| (link.ifindex, link.name))
        .collect();
    let mut found: Vec<HostAddress> = route
        .addresses()?
        .into_iter()
        // An interface born between the two lists is told of by the watcher.
        .filter_map(|(ifindex, address)| {
            let ifname = names.get(&ifindex)?.clone();
            Some(HostAddress {
                ifindex,
                ifname,
                address: address.ip(),
            })
        })
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// The addresses of one interface of our namespace, with their prefix lengths.
///
/// # Errors
/// The kernel cannot be asked, or the list changed faster than it could be read.
pub fn interface_addresses(ifindex: u32) -> Result<Vec<IpNetwork>, Error> {
    let all = Route::open()?.addresses()?;
    Ok(all
        .into_iter()
        .filter(|(owner, _)| *owner == ifindex)
        .map(|(_, address)| address)
        .collect())
}

impl Route {
    /// The interface with this index in the socket's namespace.
    pub(super) fn host_mac(&mut self, veth: &Link) -> Result<Option<[u8; 6]>, Error> {
        if let Some(master) = veth.master
            && let Some(bridge) = self.link(master)?
            && bridge.kind.as_deref() == Some("bridge")
        {
            return Ok(bridge.mac);
        }
        Ok(veth.mac)
    }

    pub(super) fn link(&mut self, ifindex: u32) -> Result<Option<Link>, Error> {
        // Index 0 would mean "by name", and the kernel's are positive ints.
        if ifindex == 0 || i32::try_from(ifindex).is_err() {
            return Ok(None);
        }
        let op = Op {
            verb: "get link",
            ifindex,
        };
        match self.get(
            op,
            RouteNetlinkMessage::GetLink(request(ifindex)),
            read_link,
        ) {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every interface of the socket's namespace, by index.
    pub(super) fn links(&mut self) -> Result<Vec<Link>, Error> {
        let op = Op {
            verb: "list links",
            ifindex: 0,
        };
        let message = RouteNetlinkMessage::GetLink(request(0));
        let mut links = self.dump(op, &message, |body| read_link(body).map(Some))?;
        links.sort_by_key(|link| link.ifindex);
        Ok(links)
    }

    /// Every address of the socket's namespace with its interface.
    pub(super) fn addresses(&mut self) -> Result<Vec<(u32, IpNetwork)>, Error> {
        let op = Op {
            verb: "list addresses",
            ifindex: 0,
        };
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump(op, &message, read_address)
    }
}

fn request(ifindex: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    // Statistics are half of a link's message and its dearest part.
    message
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

pub(super) fn read_link(body: &[u8]) -> Result<Link, DecodeError> {
    let too_short = || DecodeError::buffer_too_small(body.len(), IFINFO_HEADER);
    let word = |at: usize| -> Result<u32, DecodeError> {
        let bytes = body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).ok_or_else(too_short)
    };
    let mut link = Link {
        ifindex: word(4)?,
        name: String::new(),
        kind: None,
        mac: None,
        peer_ifindex: None,
        peer_netnsid: None,
        master: None,
        up: word(8)? & libc::IFF_UP.cast_unsigned() != 0,
        tunnel_port: None,
    };
    for attribute in attributes(body, IFINFO_HEADER)? {
        let attribute = attribute?;
        match attribute.kind() {
            IFLA_IFNAME => link.name = text_of(&attribute),
            IFLA_ADDRESS => link.mac = attribute.value().try_into().ok(),
            IFLA_LINK => link.peer_ifindex = u32_of(&attribute).filter(|index| *index != 0),
            IFLA_LINK_NETNSID => link.peer_netnsid = u32_of(&attribute).map(u32::cast_signed),
            IFLA_MASTER => link.master = u32_of(&attribute).filter(|index| *index != 0),
            IFLA_LINKINFO => {
                // The kernel names the kind before it tells of it.
                for info in attributes(attribute.value(), 0)? {
                    let info = info?;
                    match info.kind() {
                        IFLA_INFO_KIND => link.kind = Some(text_of(&info)),
                        IFLA_INFO_DATA => {
                            let kind = link.kind.as_deref().unwrap_or_default();
                            link.tunnel_port = tunnel_port(kind, info.value())?;
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(link)
}

/// The UDP port of a tunnel's end, from what the kernel tells of a kind.
fn tunnel_port(kind: &str, data: &[u8]) -> Result<Option<u16>, DecodeError> {
    const IFLA_VXLAN_PORT: u16 = 15;
    const IFLA_GENEVE_PORT: u16 = 5;
    const IFLA_BAREUDP_PORT: u16 = 1;
    const GTP1U_PORT: u16 = 2152;
    let wanted = match kind {
        "vxlan" => IFLA_VXLAN_PORT,
        "geneve" => IFLA_GENEVE_PORT,
        "bareudp" => IFLA_BAREUDP_PORT,
        "amt" => return amt_port(data),
        "gtp" => return Ok(Some(GTP1U_PORT)),
        _ => return Ok(None),
    };
    for attribute in attributes(data, 0)? {
        let attribute = attribute?;
        if attribute.kind() == wanted {
            return Ok(attribute.value().try_into().ok().map(u16::from_be_bytes));
        }
    }
    Ok(None)
}

/// The local port of an AMT tunnel's end (RFC 7450): a relay's or a gateway's.
fn amt_port(data: &[u8]) -> Result<Option<u16>, DecodeError> {
    const IFLA_AMT_MODE: u16 = 1;
    const IFLA_AMT_RELAY_PORT: u16 = 2;
    const IFLA_AMT_GATEWAY_PORT: u16 = 3;
    const AMT_MODE_RELAY: u32 = 1;
    let (mut is_relay, mut relay, mut gateway) = (false, None, None);
    for attribute in attributes(data, 0)? {
        let attribute = attribute?;
        let port = || attribute.value().try_into().ok().map(u16::from_be_bytes);
        match attribute.kind() {
            IFLA_AMT_MODE => is_relay = u32_of(&attribute) == Some(AMT_MODE_RELAY),
            IFLA_AMT_RELAY_PORT => relay = port(),
            IFLA_AMT_GATEWAY_PORT => gateway = port(),
            _ => {}
        }
    }
    Ok(if is_relay { relay } else { gateway })
}

pub(super) fn read_address(body: &[u8]) -> Result<Option<(u32, IpNetwork)>, DecodeError> {
    let Some([family, prefix, _flags, _scope, index @ ..]) = body.first_chunk::<IFADDR_HEADER>()
    else {
        return Err(DecodeError::buffer_too_small(body.len(), IFADDR_HEADER));
    };
    let (mut local, mut far) = (None, None);
    for attribute in attributes(body, IFADDR_HEADER)? {
        let attribute = attribute?;
        // On a point-to-point interface IFA_ADDRESS is the other end's.
        match attribute.kind() {
            IFA_LOCAL => local = ip_of(*family, attribute.value()),
            IFA_ADDRESS => far = ip_of(*family, attribute.value()),
            _ => {}
        }
    }
    let index = u32::from_ne_bytes(*index);
    Ok(local
        .or(far)
        .and_then(|ip| Some((index, IpNetwork::new(ip, *prefix).ok()?))))
}

fn ip_of(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::tunnel_port;

    /// One attribute of link data, as the kernel writes it.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// By linux/amt.h: mode, relay port, gateway port; ports in network order.
    #[test]
    fn amt_listens_on_the_port_of_its_mode() {
        let data = |mode: u32| {
            [
                attribute(1, &mode.to_ne_bytes()),
                attribute(2, &2268u16.to_be_bytes()),
                attribute(3, &2269u16.to_be_bytes()),
            ]
            .concat()
        };
        assert_eq!(tunnel_port("amt", &data(1)).unwrap(), Some(2268));
        assert_eq!(tunnel_port("amt", &data(0)).unwrap(), Some(2269));
        assert_eq!(tunnel_port("amt", &[]).unwrap(), None);
    }
}
