//! Changes of links, addresses, qdiscs and filters, as the kernel tells them.
//!
//! Runs on rtnetlink's connection, with a message type of our own that cannot fail to decode: a change that a
//! newer kernel describes in another way must not go unnoticed. TCX tells nobody of its changes; who uses it
//! has to look.

use std::convert::Infallible;

use futures_channel::mpsc::UnboundedReceiver;
use netlink_packet_core::{
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::{
    MulticastGroup,
    proto::new_connection,
    sys::{AsyncSocket as _, SocketAddr, protocols::NETLINK_ROUTE},
};
use tokio::task::JoinHandle;

use super::Error;

const GROUPS: [MulticastGroup; 4] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Tc,
];
/// Asked for; the kernel gives at most net.core.rmem_max.
const RECEIVE_BUFFER: u32 = 4 * 1024 * 1024;
/// `TCM_IFINDEX_MAGIC_BLOCK`: the change is of a block that several interfaces share.
const SHARED_BLOCK: u32 = u32::MAX;

/// A change. It says where to look, not what is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// An interface is new or has changed (name, up or down, master, peer).
    Link {
        /// Its index.
        ifindex: u32,
    },
    /// An interface has left this namespace: deleted or moved away.
    LinkGone {
        /// The index it had.
        ifindex: u32,
    },
    /// The addresses of an interface have changed.
    Address {
        /// Its index.
        ifindex: u32,
    },
    /// The qdiscs or filters of an interface have changed.
    Tc {
        /// Its index.
        ifindex: u32,
    },
    /// Changes were lost, or concern interfaces that the kernel does not name: look at everything.
    Lost,
}

/// A running watch of the namespace in which it was started. Dropping it ends it.
#[derive(Debug)]
pub struct Watcher {
    messages: UnboundedReceiver<(NetlinkMessage<Notice>, SocketAddr)>,
    connection: JoinHandle<()>,
}

impl Watcher {
    /// Starts watching; whatever changes from here on is told. Look at everything once *after* this call.
    ///
    /// Within a tokio runtime with IO enabled, else it panics as tokio does.
    ///
    /// # Errors
    /// The netlink socket cannot be opened.
    pub fn start() -> Result<Self, Error> {
        let fail = |source| Error::Socket {
            verb: "watch on",
            source,
        };
        let (mut connection, _, messages) =
            new_connection::<Notice>(NETLINK_ROUTE).map_err(fail)?;
        let socket = connection.socket_mut().socket_mut();
        // More room is a help and no need: what does not fit is told as `Lost`.
        let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER);
        let groups = GROUPS
            .iter()
            .fold(0, |mask, group| mask | 1_u32 << (*group as u32 - 1));
        socket.bind(&SocketAddr::new(0, groups)).map_err(fail)?;
        Ok(Self {
            messages,
            connection: tokio::spawn(connection),
        })
    }

    /// The next change. None once the kernel has closed the socket: start anew, and look at everything.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let (message, from) = self.messages.recv().await.ok()?;
            // Only the kernel tells of changes: any process may send to our port.
            if from.port_number() != 0 {
                continue;
            }
            if let Some(change) = change_of(&message.payload) {
                return Some(change);
            }
        }
    }

    /// A change that is there already, without waiting: for taking a burst as one.
    pub fn try_next(&mut self) -> Option<Change> {
        while let Ok((message, from)) = self.messages.try_recv() {
            if from.port_number() == 0
                && let Some(change) = change_of(&message.payload)
            {
                return Some(change);
            }
        }
        None
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn change_of(payload: &NetlinkPayload<Notice>) -> Option<Change> {
    match payload {
        NetlinkPayload::InnerMessage(Notice(change)) => *change,
        NetlinkPayload::Overrun(_) => Some(Change::Lost),
        _ => None,
    }
}

/// A notification: its kind and its interface are at fixed places, nothing else is looked at.
#[derive(Debug, Clone)]
struct Notice(Option<Change>);

impl Notice {
    fn read(kind: u16, payload: &[u8]) -> Option<Change> {
        // ifinfomsg, ifaddrmsg and tcmsg: the family first, the index in the second word.
        let index = payload.get(4..8).and_then(|bytes| bytes.try_into().ok());
        let family = payload.first().copied();
        let (Some(index), Some(family)) = (index, family) else {
            return Some(Change::Lost);
        };
        let ifindex = u32::from_ne_bytes(index);
        // For a bridge a port that leaves it is a link deleted, too.
        let port = i32::from(family) == libc::AF_BRIDGE;
        Some(match kind {
            libc::RTM_NEWLINK => Change::Link { ifindex },
            libc::RTM_DELLINK if port => Change::Link { ifindex },
            libc::RTM_DELLINK => Change::LinkGone { ifindex },
            libc::RTM_NEWADDR | libc::RTM_DELADDR => Change::Address { ifindex },
            libc::RTM_NEWQDISC..=libc::RTM_GETTFILTER | RTM_NEWCHAIN..=RTM_GETCHAIN => {
                if ifindex == SHARED_BLOCK {
                    Change::Lost
                } else {
                    Change::Tc { ifindex }
                }
            }
            _ => return None,
        })
    }
}

const RTM_NEWCHAIN: u16 = 100;
const RTM_GETCHAIN: u16 = 102;

impl NetlinkDeserializable for Notice {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self(Self::read(header.message_type, payload)))
    }
}

/// The connection wants it; nothing is ever sent.
impl NetlinkSerializable for Notice {
    fn message_type(&self) -> u16 {
        0
    }

    fn buffer_len(&self) -> usize {
        0
    }

    fn serialize(&self, _buffer: &mut [u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(family: i32, ifindex: u32) -> Vec<u8> {
        let mut body = vec![0; 16];
        body[0] = family as u8;
        body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        body
    }

    #[test]
    fn a_port_leaving_its_bridge_is_not_gone() {
        let port = body(libc::AF_BRIDGE, 7);
        assert_eq!(
            Notice::read(libc::RTM_DELLINK, &port),
            Some(Change::Link { ifindex: 7 })
        );
        let link = body(libc::AF_UNSPEC, 7);
        assert_eq!(
            Notice::read(libc::RTM_DELLINK, &link),
            Some(Change::LinkGone { ifindex: 7 })
        );
    }

    #[test]
    fn what_cannot_be_placed_means_look_at_everything() {
        let block = body(libc::AF_UNSPEC, u32::MAX);
        assert_eq!(
            Notice::read(libc::RTM_NEWTFILTER, &block),
            Some(Change::Lost)
        );
        assert_eq!(Notice::read(libc::RTM_NEWLINK, &[0; 3]), Some(Change::Lost));
        assert_eq!(Notice::read(libc::RTM_NEWROUTE, &block), None);
    }
}
