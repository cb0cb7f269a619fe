//! From a request and what the kernel shows to the list of endpoints that this call makes. Pure.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
};

use enforcer::hostnet::PodInterface;
use ipnetwork::IpNetwork;
use state::Record;

use crate::{prev::PrevResult, request::AddRequest};

/// Something that cannot be enforced.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An interface of the pod that podgate cannot stand before.
    #[error("find interface {ifname} in {netns}: no veth of this name there has its other end in the host's namespace")]
    NotOurs {
        /// The interface.
        ifname: String,
        /// The pod's namespace.
        netns: String,
    },
}

/// What ADD is going to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddPlan {
    /// The endpoints to make or to renew, in the order of the pod's interfaces.
    pub endpoints: Vec<Endpoint>,
    /// Interfaces that another call for the same container enforces already.
    pub left_alone: Vec<String>,
}

/// One endpoint to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The interface as the kernel shows it.
    pub interface: PodInterface,
    /// The pod's addresses on it: the result's and the interface's own.
    pub addresses: BTreeSet<IpAddr>,
    /// The live endpoint that an earlier ADD of the same call made.
    pub before: Option<Record>,
}

/// Makes the plan. `interfaces` is every veth of the pod whose other end is the host's; `records` is what is written down
/// for the container and stands.
///
/// # Errors
/// The call's own interface, or one that the result puts into the pod's namespace, is not among `interfaces`: it would
/// stay without a filter.
pub fn plan(request: &AddRequest, interfaces: Vec<PodInterface>, records: &[Record]) -> Result<AddPlan, Error> {
    let own = &request.attachment.ifname;
    for ifname in std::iter::once(own.as_str()).chain(claimed(&request.prev, &request.netns)) {
        if !interfaces.iter().any(|interface| interface.ifname == ifname) {
            return Err(Error::NotOurs { ifname: ifname.to_owned(), netns: request.netns.clone() });
        }
    }
    let mut plan = AddPlan { endpoints: Vec::new(), left_alone: Vec::new() };
    for interface in interfaces {
        let is_of = |record: &&Record| record.ifname == interface.ifname && record.ifindex == interface.host_ifindex;
        let before = records.iter().find(is_of).cloned();
        if before.as_ref().is_some_and(|record| record.cni_ifname != *own) {
            plan.left_alone.push(interface.ifname);
            continue;
        }
        let mut addresses: BTreeSet<IpAddr> = interface.addresses.iter().map(IpNetwork::ip).collect();
        addresses.extend(addresses_of(&request.prev, &interface, own));
        plan.endpoints.push(Endpoint { interface, addresses, before });
    }
    Ok(plan)
}

/// The interfaces that the result puts into the pod's namespace. Loopback is nobody's way out.
fn claimed<'a>(prev: &'a PrevResult, netns: &'a str) -> impl Iterator<Item = &'a str> {
    prev.interfaces
        .iter()
        .filter(|interface| interface.name != "lo")
        .filter(move |interface| interface.sandbox.as_deref().is_some_and(|sandbox| same_path(sandbox, netns)))
        .map(|interface| interface.name.as_str())
}

/// Whether two paths are the same text, `/var/run` being `/run`.
fn same_path(one: &str, other: &str) -> bool {
    fn plain(path: &str) -> PathBuf {
        let path = Path::new(path);
        path.strip_prefix("/var/run").map_or_else(|_| path.to_owned(), |rest| Path::new("/run").join(rest))
    }
    plain(one) == plain(other)
}

/// The result's addresses that belong to `interface`: by name of either end; what names no end belongs to the call's
/// own interface.
fn addresses_of<'a>(
    prev: &'a PrevResult,
    interface: &'a PodInterface,
    own: &'a str,
) -> impl Iterator<Item = IpAddr> + 'a {
    let belongs = move |address: &&crate::prev::Address| {
        let owner = address.interface.and_then(|index| prev.interfaces.get(index));
        match owner {
            Some(owner) if owner.sandbox.is_some() => owner.name == interface.ifname,
            Some(owner) if owner.name == interface.host_name => true,
            _ => interface.ifname == own,
        }
    };
    prev.addresses.iter().filter(belongs).map(|address| address.ip)
}

#[cfg(test)]
mod tests;
