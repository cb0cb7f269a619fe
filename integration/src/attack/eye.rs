//! An independent eye: a packet socket that sees what stands behind a hook.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{LinkAddr, bind, recvfrom, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use socket2::{Domain, Protocol, Socket, Type};

use super::sockets::{inside, link_address};
use crate::node::Place;
use crate::patience;

const ETH_P_ALL: u16 = 3;

/// Frames that come in at an interface.
#[derive(Debug)]
pub struct Eye {
    socket: OwnedFd,
    seen: Vec<Vec<u8>>,
}

impl Eye {
    /// Sees all frames of an interface, as `tcpdump` does: where a veth ends in a namespace, that is behind what the other end sends.
    #[track_caller]
    #[must_use]
    pub fn on(place: &Place, iface: &str) -> Self {
        Self::open(place, iface, ETH_P_ALL)
    }

    /// Sees the frames that the namespace's stack gets of one family: unlike `tcpdump`, it stands *behind* the TC ingress hook.
    /// Ethertypes below 0x600 are frames of 802.3.
    #[track_caller]
    #[must_use]
    pub fn behind_ingress(place: &Place, iface: &str, ethertype: u16) -> Self {
        // What has a length in place of a type is one protocol to the kernel.
        const ETH_P_802_2: u16 = 4;
        let protocol = if ethertype < 0x600 {
            ETH_P_802_2
        } else {
            ethertype
        };
        Self::open(place, iface, protocol)
    }

    #[track_caller]
    fn open(place: &Place, iface: &str, protocol: u16) -> Self {
        let socket = inside(place, || {
            let protocol = Protocol::from(i32::from(protocol.to_be()));
            let fd = OwnedFd::from(Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?);
            setsockopt(&fd, sockopt::RcvBufForce, &(8 << 20))?;
            setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(5))?;
            bind(fd.as_raw_fd(), &link_address(iface)?)?;
            Ok(fd)
        });
        let mut eye = Self {
            socket,
            seen: Vec::new(),
        };
        // Between the making of the socket and its binding it sees every interface.
        eye.look();
        eye.seen.clear();
        eye
    }

    /// Takes what has come since.
    fn look(&mut self) {
        const PACKET_OUTGOING: u8 = 4;
        let mut buffer = vec![0; 1 << 17];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, link)) => {
                    if link.is_none_or(|link| link.pkttype() != PACKET_OUTGOING) {
                        self.seen.push(buffer[..length].to_vec());
                    }
                }
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return,
                Err(error) => panic!("read a packet socket: {}", io::Error::from(error)),
            }
        }
    }

    /// Whether a frame with these bytes in it has come.
    #[must_use]
    pub fn has(&mut self, mark: &[u8]) -> bool {
        self.look();
        self.seen
            .iter()
            .any(|frame| frame.windows(mark.len()).any(|part| part == mark))
    }

    /// Waits for a frame with these bytes in it.
    #[must_use]
    pub fn sees(&mut self, mark: &[u8], bound: Duration) -> bool {
        let deadline = Instant::now() + patience(bound);
        loop {
            if self.has(mark) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }

    /// What has come so far, as hexadecimal digits, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        let lines: Vec<String> = self
            .seen
            .iter()
            .map(|frame| crate::frames::to_hex(&frame[..frame.len().min(120)]))
            .collect();
        lines.join("\n")
    }
}
