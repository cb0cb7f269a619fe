//! What the programs know of the node: its settings and the ports that are not its own.

use core::mem::size_of;

use super::NurseryKey;

/// The node's settings, one row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Jiffies a second.
    pub hz: u32,
    /// Most flows the table may hold.
    pub flow_limit: u32,
    /// Assured flows that each endpoint may always hold: half of the table, divided.
    pub flow_minimum: u32,
    /// Buckets of the nursery for one endpoint, less one; they are a power of two.
    pub nursery_mask: u32,
    /// First port of the NodePort range, in host byte order.
    pub node_port_first: u16,
    /// Last port of the NodePort range.
    pub node_port_last: u16,
    /// Events an endpoint may send a second.
    pub events_per_endpoint: u32,
    /// Events the node may send a second.
    pub events_per_node: u32,
    /// Zero.
    pub pad: u32,
    /// See [`NurseryKey`].
    pub nursery_key: NurseryKey,
}

/// Key of the hostPorts that are not the host's own sockets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPortKey {
    /// Protocol number.
    pub protocol: u16,
    /// Port, in network byte order.
    pub port_be: u16,
}

const _: () = assert!(size_of::<Config>() == 88 && size_of::<HostPortKey>() == 4);
