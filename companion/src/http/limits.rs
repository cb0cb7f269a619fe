//! How many connections a port holds: few in all, fewer from one address, and some that only the node itself can take.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Connections of a port, those of the node itself aside.
const OTHERS: usize = 32;
/// Connections from one address (an IPv6 /64 counts as one).
const EACH: usize = 4;
/// Connections that the node itself can always open: probes are answered whatever others do.
const OWN: usize = 8;
/// All ports together hold at most this part of the descriptors; the rest is for the store and the maps.
const PART_OF_OPEN_FILES: u64 = 16;

/// The places of one port.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    others: usize,
    own: usize,
    taken: Arc<Mutex<BTreeMap<Client, usize>>>,
}

/// Who holds places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Client {
    Node,
    Address(IpAddr),
}

/// A place, free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    client: Client,
    taken: Arc<Mutex<BTreeMap<Client, usize>>>,
}

impl Limits {
    /// As many as leave most descriptors of the process to the store.
    pub(super) fn from_open_files() -> Self {
        let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let part = usize::try_from(soft / PART_OF_OPEN_FILES).unwrap_or(usize::MAX);
        Self::new(part.clamp(2, OTHERS), part.clamp(2, OWN))
    }

    fn new(others: usize, own: usize) -> Self {
        Self {
            others,
            own,
            taken: Arc::default(),
        }
    }

    /// A place for a connection, if one is free.
    pub(super) fn place(&self, peer: IpAddr, is_own: bool) -> Option<Place> {
        let client = if is_own {
            Client::Node
        } else {
            Client::Address(one_host(peer))
        };
        let mut taken = lock(&self.taken);
        let mine = taken.get(&client).copied().unwrap_or(0);
        let free = match client {
            Client::Node => mine < self.own,
            Client::Address(_) => {
                let own = taken.get(&Client::Node).copied().unwrap_or(0);
                let others = taken.values().sum::<usize>() - own;
                mine < EACH && others < self.others
            }
        };
        free.then(|| {
            taken.insert(client, mine + 1);
            Place {
                client,
                taken: Arc::clone(&self.taken),
            }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

fn lock(taken: &Mutex<BTreeMap<Client, usize>>) -> MutexGuard<'_, BTreeMap<Client, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One host owns a /64 of IPv6 at least.
fn one_host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

/// Raises the number of descriptors that the process may have to what it is allowed.
pub(crate) fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("raise the limit of open files: {error}; going on with the one there is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_cannot_take_everybodys_places() {
        let limits = Limits::new(6, 2);
        let first: Vec<_> = (0..10)
            .filter_map(|_| limits.place(ip("10.0.0.1"), false))
            .collect();
        assert_eq!(first.len(), EACH);
        assert!(limits.place(ip("10.0.0.2"), false).is_some());
    }

    #[test]
    fn a_prefix_of_ipv6_is_one_client_and_a_mapped_address_is_ipv4() {
        let limits = Limits::new(100, 2);
        let held: Vec<_> = (0..10)
            .filter_map(|n| limits.place(ip(&format!("fd00::{n:x}")), false))
            .collect();
        assert_eq!(held.len(), EACH);
        let mapped = limits.place(ip("::ffff:10.0.0.1"), false).unwrap();
        assert_eq!(mapped.client, Client::Address(ip("10.0.0.1")));
    }

    #[test]
    fn the_node_has_places_of_its_own_and_a_dropped_place_is_free() {
        let limits = Limits::new(2, 2);
        let a = limits.place(ip("10.0.0.1"), false);
        let b = limits.place(ip("10.0.0.2"), false);
        assert!(a.is_some() && b.is_some());
        assert!(limits.place(ip("10.0.0.3"), false).is_none());
        let own: Vec<_> = (0..3)
            .map(|_| limits.place(ip("127.0.0.1"), true))
            .collect();
        assert_eq!(own.iter().flatten().count(), 2);
        drop(a);
        assert!(limits.place(ip("10.0.0.3"), false).is_some());
    }
}
