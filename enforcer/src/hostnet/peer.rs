//! Which interfaces of a pod lead to us.

use std::path::Path;

use ipnetwork::IpNetwork;

use super::{Error, link::Link, netlink::Route, netns::Netns};
use std::os::fd::AsFd as _;

const VETH: &str = "veth";

/// An interface of a pod whose other end is in the host's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInterface {
    /// Its name within the pod.
    pub ifname: String,
    /// Its index within the pod.
    pub ifindex: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses now, link-local and tentative ones among them.
    pub addresses: Vec<IpNetwork>,
    /// The hardware address of the host on this link: the bridge's where its end is a port of one, else its end's own.
    pub host_mac: [u8; 6],
    /// The host's end: what podgate attaches to.
    pub host_ifindex: u32,
    /// The host's end, by name; for people and records only.
    pub host_name: String,
}

/// Every veth of the namespace at `netns` whose peer is in our namespace, by index.
///
/// Both ends are asked: each must name the other's index *and* the other's namespace. An interface that leads
/// into a third namespace, or is no veth, is not among them.
///
/// # Errors
/// The namespace cannot be opened, it is our own, or the kernel cannot be asked in either.
pub fn pod_interfaces(netns: &Path) -> Result<Vec<PodInterface>, Error> {
    let ours = Netns::own()?;
    let theirs = Netns::open(netns)?;
    if ours.id()? == theirs.id()? {
        return Err(Error::HostNetns {
            path: netns.to_owned(),
        });
    }

    let mut inside = Route::open_in(&theirs)?;
    let links = inside.links()?;
    // Ids are given out when a link is described: ask only now.
    let Some(our_id) = inside.nsid_of(ours.as_fd())? else {
        return Ok(Vec::new());
    };
    let leads_to_us =
        |link: &Link| link.kind.as_deref() == Some(VETH) && link.peer_netnsid == Some(our_id);

    let mut outside = Route::open()?;
    let mut found = Vec::new();
    for link in links.into_iter().filter(leads_to_us) {
        let (Some(mac), Some(host_ifindex)) = (link.mac, link.peer_ifindex) else {
            continue;
        };
        let Some(host) = outside.link(host_ifindex)? else {
            continue;
        };
        let leads_back = host.kind.as_deref() == Some(VETH)
            && host.peer_ifindex == Some(link.ifindex)
            && host.peer_netnsid.is_some()
            && host.peer_netnsid == outside.nsid_of(theirs.as_fd())?;
        if leads_back {
            let host_mac = outside.host_mac(&host)?.unwrap_or_default();
            found.push(PodInterface {
                ifname: link.name,
                ifindex: link.ifindex,
                mac,
                addresses: Vec::new(),
                host_mac,
                host_ifindex,
                host_name: host.name,
            });
        }
    }
    if !found.is_empty() {
        for (ifindex, address) in inside.addresses()? {
            if let Some(interface) = found.iter_mut().find(|one| one.ifindex == ifindex) {
                interface.addresses.push(address);
            }
        }
    }
    Ok(found)
}
