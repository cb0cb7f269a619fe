//! From a request and what the kernel shows to the list of endpoints that this call makes. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use enforcer::hostnet::PodInterface;
use ipnetwork::IpNetwork;
use state::Record;

use crate::{
    prev::{Address, PrevResult},
    request::AddRequest,
};

/// Something that cannot be enforced.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An interface of the pod that podgate cannot stand before.
    #[error(
        "find interface {ifname} in {netns}: no veth of this name there has its other end in the host's namespace"
    )]
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
    /// Interfaces that another call for the same namespace enforces already.
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

/// Makes the plan. `interfaces` is every veth of the pod whose other end is the host's; `records` are the live records of
/// these interfaces, of whatever container; `is_pods` says whether the path of a result's sandbox is the pod's namespace.
///
/// # Errors
/// The call's own interface, or one that the result puts into the pod's namespace, is not among `interfaces`: it would
/// stay without a filter.
pub fn plan(
    request: &AddRequest,
    interfaces: Vec<PodInterface>,
    records: &[Record],
    is_pods: impl Fn(&str) -> bool,
) -> Result<AddPlan, Error> {
    let own = &request.attachment.ifname;
    for ifname in std::iter::once(own.as_str()).chain(claimed(&request.prev, &is_pods)) {
        if !interfaces
            .iter()
            .any(|interface| interface.ifname == ifname)
        {
            return Err(Error::NotOurs {
                ifname: ifname.to_owned(),
                netns: request.netns.clone(),
            });
        }
    }
    let owners = owners(&request.prev, &interfaces, own);
    let mut plan = AddPlan {
        endpoints: Vec::new(),
        left_alone: Vec::new(),
    };
    for interface in interfaces {
        let standing = records.iter().find(|record| {
            record.ifname == interface.ifname && record.ifindex == interface.host_ifindex
        });
        let before = match standing.map(|record| (record, relation(record, request))) {
            Some((_, Relation::OfAnotherCall)) => {
                plan.left_alone.push(interface.ifname);
                continue;
            }
            Some((record, Relation::Repeated)) => Some(record.clone()),
            Some((_, Relation::Superseded)) | None => None,
        };
        let mut addresses: BTreeSet<IpAddr> =
            interface.addresses.iter().map(IpNetwork::ip).collect();
        addresses.extend(
            owners
                .iter()
                .filter(|(owner, _)| *owner == interface.ifname)
                .map(|(_, ip)| *ip),
        );
        plan.endpoints.push(Endpoint {
            interface,
            addresses,
            before,
        });
    }
    Ok(plan)
}

/// What a live record of an interface is to this call.
enum Relation {
    /// An earlier ADD of the same call made it: it is renewed.
    Repeated,
    /// It stands for another call that goes on: another interface of the container, or of another container id in the
    /// same namespace (a network that is added to a running pod comes so).
    OfAnotherCall,
    /// A container that had this namespace before asked for the same interface: the newest call counts.
    Superseded,
}

fn relation(record: &Record, request: &AddRequest) -> Relation {
    let call = &request.attachment;
    match (
        record.container_id == call.container_id,
        record.cni_ifname == call.ifname,
    ) {
        (true, true) => Relation::Repeated,
        (false, true) => Relation::Superseded,
        (_, false) => Relation::OfAnotherCall,
    }
}

/// The interfaces that the result puts into the pod's namespace, without the loopback interface.
fn claimed<'a>(
    prev: &'a PrevResult,
    is_pods: &'a impl Fn(&str) -> bool,
) -> impl Iterator<Item = &'a str> {
    prev.interfaces
        .iter()
        .filter(|interface| interface.name != "lo")
        .filter(move |interface| interface.sandbox.as_deref().is_some_and(is_pods))
        .map(|interface| interface.name.as_str())
}

/// Each address of the result with the interface of the pod that it stands on: the one it names, by either end; what
/// names neither belongs to the call's own.
fn owners(prev: &PrevResult, interfaces: &[PodInterface], own: &str) -> Vec<(String, IpAddr)> {
    let owner = |address: &Address| {
        let named = address
            .interface
            .and_then(|index| prev.interfaces.get(index))?;
        let inside = named.sandbox.is_some().then_some(&named.name);
        let outside = || {
            interfaces
                .iter()
                .find(|one| one.host_name == named.name)
                .map(|one| &one.ifname)
        };
        inside.or_else(outside).cloned()
    };
    prev.addresses
        .iter()
        .map(|address| (owner(address).unwrap_or_else(|| own.to_owned()), address.ip))
        .collect()
}

#[cfg(test)]
mod tests;
