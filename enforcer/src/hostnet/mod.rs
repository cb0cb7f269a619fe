//! The host's network as the kernel tells it: namespaces, links, addresses, qdiscs, filters, TCX.
//!
//! The only place of netns and netlink. Everything the ADD path needs is synchronous, over one short-lived
//! blocking netlink socket per call, tens of microseconds each; only `watch`, a feature, is for tokio.
//!
//! Invariants: the calling thread never leaves its namespace; interfaces are addressed by index, for names are
//! used again at once; a dump is complete or an error; reading never makes the kernel send a notification, so
//! the watcher cannot wake itself. It must not know of endpoints, records or policy.

mod bandwidth;
mod bpf;
mod error;
#[cfg(test)]
mod fuzz;
mod link;
mod netlink;
mod netns;
mod peer;
mod readback;
mod tc;
pub mod tcx;
#[cfg(feature = "watch")]
pub mod watch;

pub use bandwidth::Bandwidth;
pub use error::{Error, Op};
pub use link::{
    HostAddress, Link, host_addresses, host_mac, interface_addresses, link_by_index, link_by_name,
    links,
};
pub use netns::{NetnsId, current_netns_id, in_netns, netns_exists, netns_id};
pub use peer::{PodInterface, pod_interfaces};
pub use readback::{Fault, ProgramIds, check_clsact, check_tcx};
pub use tc::{
    Clsact, FILTER_HANDLE, FILTER_PRIORITY, Filter, Hook, QdiscKind, del_clsact, del_filter,
    ensure_clsact, filters, put_filter, qdisc_kind,
};
