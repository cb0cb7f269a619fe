//! The host set: the addresses that are the node's own, and what goes with it: host paths (devices by which its own traffic comes
//! back), and ports that are not its own (pods' hostPorts, tunnels).
//!
//! `node-addresses.json` plus the addresses of the host's interfaces; never those that stand only on a proxy's device (Services'), of
//! what `hostSetExclude` names, and never loopback. Filled at load, kept current by the companion.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aya::maps::{HashMap, MapData, MapError};
use state::{HostSetExclusion, Locked, Record, Records, Store};
use verdict::layout::{Addr, HostPortKey, PeerKey};
use verdict::packet::proto;

use crate::hostnet::{self, HostAddress};
use crate::maps;
use crate::pins::Pins;

/// Devices on which proxies put the Services' addresses: kube-proxy's IPVS mode, kube-router.
const PROXY_DEVICES: [&str; 2] = ["kube-ipvs0", "kube-dummy-if"];

/// Why the host set could not be brought up to date.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A map.
    #[error(transparent)]
    Map(#[from] maps::Error),
    /// Netlink.
    #[error(transparent)]
    Net(#[from] hostnet::Error),
    /// `node.json` or `node-addresses.json`.
    #[error(transparent)]
    Node(#[from] state::node::Error),
    /// The records of pods.
    #[error("read the records of pods: {0}")]
    Records(#[source] state::Error),
}

/// What a refresh changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Addresses that are the host's now.
    pub added: Vec<IpAddr>,
    /// Addresses that are not any more.
    pub removed: Vec<IpAddr>,
}

impl Changes {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

/// The addresses that are to be the host's.
pub fn wanted(
    on_interfaces: &[HostAddress],
    node_addresses: &[IpAddr],
    exclude: &[HostSetExclusion],
) -> BTreeSet<IpAddr> {
    let excluded_interface = |name: &str| {
        exclude
            .iter()
            .any(|e| matches!(e, HostSetExclusion::Interface(i) if i == name))
    };
    let of_excluded: BTreeSet<IpAddr> = on_interfaces
        .iter()
        .filter(|a| excluded_interface(&a.ifname))
        .map(|a| a.address)
        .collect();
    let in_excluded = |ip: &IpAddr| {
        exclude
            .iter()
            .any(|e| matches!(e, HostSetExclusion::Network(n) if n.contains(*ip)))
    };
    // A Service may list an address of the node (`externalIPs`, a load balancer's): it stays the node's.
    let mut all: BTreeSet<IpAddr> = on_interfaces
        .iter()
        .filter(|a| !PROXY_DEVICES.contains(&a.ifname.as_str()))
        .map(|a| a.address)
        .chain(node_addresses.iter().copied())
        .collect();
    all.retain(|ip| !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast()));
    all.retain(|ip| !(of_excluded.contains(ip) || in_excluded(ip)));
    all
}

/// Reads the store's node files and the host's interfaces and brings the host set up to date.
///
/// Called at load (under the same lock) and by the companion.
///
/// # Errors
/// If a file or the kernel cannot be read, or the set has no room: what was added by then stays.
pub fn refresh(locked: &Locked<'_>, pins: &Pins) -> Result<Changes, Error> {
    let wanted = gather(locked.store())?;
    refresh_claims(locked, pins)?;
    Ok(HostSet::open(pins)?.apply(locked, &wanted)?)
}

/// The addresses that are to be the host's, by the store and the kernel as they are now.
///
/// # Errors
/// If a file or the kernel cannot be read.
pub fn gather(store: &Store) -> Result<BTreeSet<IpAddr>, Error> {
    let (config, addresses) = (store.node_config()?, store.node_addresses()?);
    Ok(wanted(
        &hostnet::host_addresses()?,
        &addresses,
        &config.host_set_exclude,
    ))
}

/// The host set in the kernel.
pub struct HostSet {
    map: HashMap<MapData, maps::PeerKey, u32>,
}

impl HostSet {
    /// Opens the pinned set.
    ///
    /// # Errors
    /// If nothing is loaded.
    pub fn open(pins: &Pins) -> Result<Self, maps::Error> {
        Ok(Self {
            map: maps::hash(pins, "HOSTS")?,
        })
    }

    /// What it holds.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self) -> Result<BTreeSet<IpAddr>, maps::Error> {
        let address = |key: maps::PeerKey| key.0.addr.to_ip(key.0.family as u8);
        self.map
            .keys()
            .map(|key| key.map(address).map_err(|e| maps::Error::read("HOSTS", &e)))
            .collect()
    }

    /// Whether it holds nothing: it was never filled, for a node has addresses.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn is_empty(&self) -> Result<bool, maps::Error> {
        let first = self
            .map
            .keys()
            .next()
            .transpose()
            .map_err(|e| maps::Error::read("HOSTS", &e))?;
        Ok(first.is_none())
    }

    /// Makes it hold what is wanted: additions first.
    ///
    /// # Errors
    /// If the kernel refuses; what was done stays, and doing it again goes on from there.
    pub fn apply(
        &mut self,
        _: &Locked<'_>,
        wanted: &BTreeSet<IpAddr>,
    ) -> Result<Changes, maps::Error> {
        let held = self.read()?;
        let changes = Changes {
            added: wanted.difference(&held).copied().collect(),
            removed: held.difference(wanted).copied().collect(),
        };
        let fail = |e: MapError| maps::Error::write("HOSTS", &e);
        for ip in &changes.added {
            self.map.insert(key(*ip), 1, 0).map_err(fail)?;
        }
        for ip in &changes.removed {
            maps::gone(self.map.remove(&key(*ip))).map_err(fail)?;
        }
        Ok(changes)
    }
}

/// Indexes of the interfaces that are there, and all ports (protocol number, port) that are not the host's own.
type Held = (BTreeSet<u32>, BTreeSet<(u8, u16)>);

/// What the records of pods say of the host besides its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Names of interfaces by which the host's own traffic comes back.
    pub paths: BTreeSet<String>,
    /// hostPorts (protocol number, port): what comes to them, the node hands on to a pod.
    pub ports: BTreeSet<(u8, u16)>,
}

impl Claims {
    /// Those of all records together.
    pub fn of<'a>(records: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut all = Self::default();
        for record in records {
            all.paths
                .extend(record.host_path_interfaces.iter().cloned());
            let ports = record.host_ports.iter();
            all.ports
                .extend(ports.map(|one| (one.protocol.number(), one.port)));
        }
        all
    }

    /// As the kernel holds them.
    fn with_tunnels(mut self) -> Result<Held, hostnet::Error> {
        self.ports.extend(tunnel_ports()?);
        Ok((host_path_ifindexes(&self.paths)?, self.ports))
    }

    /// Whether nothing is claimed.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.ports.is_empty()
    }
}

/// Adds one record's claims: for its ADD, which reads no other's. Interfaces that this namespace does not have are left out until the
/// companion sees them come.
///
/// # Errors
/// If a map cannot be written or the interfaces cannot be listed.
pub fn add_claims(_: &Locked<'_>, pins: &Pins, record: &Record) -> Result<(), Error> {
    let Claims { paths, ports } = Claims::of([record]);
    if !paths.is_empty() {
        let mut map = maps::hash::<u32, u32>(pins, "HOSTPATHS")?;
        for ifindex in host_path_ifindexes(&paths)? {
            map.insert(ifindex, 1, 0)
                .map_err(|e| maps::Error::write("HOSTPATHS", &e))?;
        }
    }
    if !ports.is_empty() {
        let mut map = maps::hash::<maps::HostPortKey, u32>(pins, "HOSTPORTS")?;
        for port in &ports {
            map.insert(port_key(port), 1, 0)
                .map_err(|e| maps::Error::write("HOSTPORTS", &e))?;
        }
    }
    Ok(())
}

/// Makes `HOSTPATHS` and `HOSTPORTS` hold exactly what the records of this boot claim, and the ports of tunnels. True if
/// something changed. Under the lock, so that no ADD's claim is missed between its record and its row.
///
/// # Errors
/// If the store, the maps or the interfaces cannot be read, or a map cannot be written.
pub fn refresh_claims(locked: &Locked<'_>, pins: &Pins) -> Result<bool, Error> {
    let records = match locked.store().records() {
        Err(error) if error.is_missing() => Records::default(),
        records => records.map_err(Error::Records)?,
    };
    let (paths, ports) = Claims::of(&records.good).with_tunnels()?;
    Ok(set_host_paths(locked, pins, &paths)? | set_host_ports(locked, pins, &ports)?)
}

/// Whether the kernel holds these claims already. Without the lock: an ADD that is under way may make it say no.
///
/// # Errors
/// If the maps or the interfaces cannot be read.
pub fn claims_hold(claims: &Claims, pins: &Pins) -> Result<bool, Error> {
    let (paths, ports) = claims.clone().with_tunnels()?;
    let ports: Vec<_> = ports.iter().map(port_key).collect();
    let held_paths = held::<u32>(&maps::hash(pins, "HOSTPATHS")?, "HOSTPATHS")?;
    let held_ports = held(&maps::hash(pins, "HOSTPORTS")?, "HOSTPORTS")?;
    Ok(held_paths.len() == paths.len()
        && held_paths.iter().all(|one| paths.contains(one))
        && held_ports.len() == ports.len()
        && held_ports.iter().all(|one| ports.contains(one)))
}

/// Makes `HOSTPATHS` hold exactly these interfaces: the host's own traffic comes back by them. True if it changed.
///
/// # Errors
/// If the map cannot be read or written.
pub fn set_host_paths(
    _: &Locked<'_>,
    pins: &Pins,
    wanted: &BTreeSet<u32>,
) -> Result<bool, maps::Error> {
    set(
        maps::hash::<u32, u32>(pins, "HOSTPATHS")?,
        "HOSTPATHS",
        &wanted.iter().copied().collect::<Vec<_>>(),
    )
}

/// The interfaces that have one of the names.
///
/// # Errors
/// If the kernel cannot be asked.
fn host_path_ifindexes(names: &BTreeSet<String>) -> Result<BTreeSet<u32>, hostnet::Error> {
    let mut found = BTreeSet::new();
    for name in names {
        match hostnet::link_by_name(name) {
            Ok(link) => drop(found.insert(link.ifindex)),
            Err(hostnet::Error::NoSuchName { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The ports (protocol number, port) on which the kernel itself has sockets that hand on what is inside the packet: VXLAN, Geneve,
/// bareudp, GTP. To a pod they are no sockets of the host: what it sent in them no policy would see.
///
/// # Errors
/// If the interfaces cannot be listed.
pub fn tunnel_ports() -> Result<BTreeSet<(u8, u16)>, hostnet::Error> {
    let links = hostnet::links()?;
    Ok(links
        .into_iter()
        .filter_map(|link| Some((proto::UDP, link.tunnel_port?)))
        .collect())
}

/// Makes `HOSTPORTS` hold exactly these (protocol number, port). True if it changed.
///
/// # Errors
/// If the map cannot be read or written.
pub fn set_host_ports(
    _: &Locked<'_>,
    pins: &Pins,
    wanted: &BTreeSet<(u8, u16)>,
) -> Result<bool, maps::Error> {
    set(
        maps::hash(pins, "HOSTPORTS")?,
        "HOSTPORTS",
        &wanted.iter().map(port_key).collect::<Vec<_>>(),
    )
}

fn port_key((protocol, port): &(u8, u16)) -> maps::HostPortKey {
    maps::HostPortKey(HostPortKey {
        protocol: u16::from(*protocol),
        port_be: port.to_be(),
    })
}

fn held<K: aya::Pod>(
    map: &HashMap<MapData, K, u32>,
    name: &'static str,
) -> Result<Vec<K>, maps::Error> {
    map.keys()
        .collect::<Result<_, _>>()
        .map_err(|e| maps::Error::read(name, &e))
}

fn set<K: aya::Pod + PartialEq>(
    mut map: HashMap<MapData, K, u32>,
    name: &'static str,
    wanted: &[K],
) -> Result<bool, maps::Error> {
    let fail = |e: MapError| maps::Error::write(name, &e);
    let held = held(&map, name)?;
    let mut changed = false;
    for key in wanted.iter().filter(|key| !held.contains(key)) {
        map.insert(*key, 1, 0).map_err(fail)?;
        changed = true;
    }
    for key in held.iter().filter(|key| !wanted.contains(key)) {
        maps::gone(map.remove(key)).map_err(fail)?;
        changed = true;
    }
    Ok(changed)
}

const fn key(ip: IpAddr) -> maps::PeerKey {
    let (family, addr) = Addr::from_ip(ip);
    maps::PeerKey(PeerKey {
        family: family as u32,
        addr,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(ifname: &str, address: &str) -> HostAddress {
        HostAddress {
            ifindex: 1,
            ifname: ifname.into(),
            address: address.parse().unwrap(),
        }
    }

    #[test]
    fn services_loopback_and_exclusions_are_not_the_host() {
        let here = [
            on("lo", "127.0.0.1"),
            on("lo", "169.254.20.10"),
            on("eth0", "192.0.2.1"),
            on("eth0", "2001:db8::1"),
            on("kube-ipvs0", "10.96.0.1"),
            on("kube-dummy-if", "10.96.0.2"),
            // The node's own, which a Service lists too: on the proxy's device besides, or known from Kubernetes.
            on("kube-ipvs0", "192.0.2.1"),
            on("kube-ipvs0", "192.0.2.9"),
            on("vip0", "192.0.2.200"),
            on("eth0", "198.51.100.7"),
        ];
        let node = ["192.0.2.9", "198.51.100.9", "192.0.2.200"].map(|a| a.parse().unwrap());
        let exclude = [
            HostSetExclusion::Interface("vip0".into()),
            HostSetExclusion::Network("198.51.100.0/24".parse().unwrap()),
        ];
        let found: Vec<String> = wanted(&here, &node, &exclude)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found,
            ["169.254.20.10", "192.0.2.1", "192.0.2.9", "2001:db8::1"]
        );
    }
}
