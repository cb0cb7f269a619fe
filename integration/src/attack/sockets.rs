//! Packet sockets that stand in another network namespace than the test.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, setsockopt, socket,
};
use nix::{setsockopt_impl, sockopt_impl};

use crate::frames::Mac;
use crate::node::Place;

// The option by which a packet socket takes a `virtio_net_hdr` before each frame, and with it how much of the frame lies in one piece.
sockopt_impl!(
    /// `PACKET_VNET_HDR`.
    PacketVnetHdr,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_VNET_HDR,
    i32
);

/// Does something on a thread of its own in a namespace. A socket stays where it was made.
///
/// # Panics
/// When the namespace cannot be entered or what is to be done fails.
#[track_caller]
pub fn inside<T: Send>(place: &Place, what: impl FnOnce() -> io::Result<T> + Send) -> T {
    let entered = || {
        setns(File::open(&place.netns)?, CloneFlags::CLONE_NEWNET)?;
        what()
    };
    let done = std::thread::scope(|scope| scope.spawn(entered).join());
    match done {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => panic!("in {}: {error}", place.label),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The link address of an interface of the namespace that the thread is in.
pub(super) fn link_address(iface: &str) -> io::Result<LinkAddr> {
    let found = nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == iface)
        .find_map(|entry| entry.address?.as_link_addr().copied());
    found.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("no interface {iface} here"),
        )
    })
}

/// Sends raw frames from an interface.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
    paged: OwnedFd,
    link: LinkAddr,
}

impl Sender {
    /// Opens one.
    #[track_caller]
    #[must_use]
    pub fn open(place: &Place, iface: &str) -> Self {
        inside(place, || {
            let raw = || {
                socket(
                    AddressFamily::Packet,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    None,
                )
            };
            let paged = raw()?;
            setsockopt(&paged, PacketVnetHdr, &1)?;
            Ok(Self {
                socket: raw()?,
                paged,
                link: link_address(iface)?,
            })
        })
    }

    /// The interface's hardware address.
    #[must_use]
    pub fn mac(&self) -> Mac {
        self.link.addr().unwrap_or_default()
    }

    /// Sends a frame.
    ///
    /// # Panics
    /// When the kernel does not take it.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        self.sent(
            sendto(
                self.socket.as_raw_fd(),
                frame,
                &self.link,
                MsgFlags::empty(),
            ),
            frame.len(),
        );
    }

    /// Sends a frame of more than a page of which only the first bytes lie in the packet's linear part.
    ///
    /// # Panics
    /// When the kernel does not take it.
    #[track_caller]
    pub fn send_paged(&self, frame: &[u8], linear: u16) {
        let mut bytes = vec![0; 10];
        bytes[2..4].copy_from_slice(&linear.to_ne_bytes());
        bytes.extend(frame);
        self.sent(
            sendto(
                self.paged.as_raw_fd(),
                &bytes,
                &self.link,
                MsgFlags::empty(),
            ),
            bytes.len(),
        );
    }

    #[track_caller]
    fn sent(&self, result: nix::Result<usize>, length: usize) {
        // A hook that stands right behind this interface and drops the frame says so by ENOBUFS.
        assert!(
            result == Ok(length) || result == Err(nix::errno::Errno::ENOBUFS),
            "a raw frame of {length} bytes: {result:?}"
        );
    }
}
