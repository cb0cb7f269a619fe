//! One blocking conversation with rtnetlink.
//!
//! Requests are netlink-packet-route messages; answers are walked attribute by attribute, so that an attribute
//! which a newer kernel adds, or fills in another way, cannot make an ADD fail.
//! rtnetlink works within sendmsg(2): whenever we read, the answer is there. An empty queue is therefore a
//! protocol error and never a wait.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlaBuffer, NlasIterator,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use super::{Error, Op, netns::Netns};

const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSG_ALIGN: usize = 4;
const NLMSG_HEADER: usize = 16;
const NSID_HEADER: usize = 4;
const NETNSA_NSID: u16 = 1;
/// The kernel fills dumps in pieces of at most 32 KiB; a single link message is far below 64.
const BUFFER: usize = 64 * 1024;
/// A node that starts hundreds of pods changes its links all the time, a dump takes well below a millisecond.
const DUMP_ATTEMPTS: u32 = 32;

/// A route netlink socket, in the namespace in which it was opened.
///
/// After an error other than [`Error::Refused`] the conversation is out of step: drop it.
pub(super) struct Route {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A borrowed attribute.
pub(super) type Attribute<'a> = NlaBuffer<&'a [u8]>;

/// What a message of an answer is.
pub(super) enum Answer {
    /// An object.
    Message,
    /// An acknowledgement or the end of a list.
    Done,
}

impl Route {
    /// Opens a socket in the calling thread's namespace.
    pub(super) fn open() -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            let socket = Socket::new(NETLINK_ROUTE)?;
            // Connected to the kernel: no other process can send us anything.
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_cap_ack(true)?;
            socket.set_ext_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|source| Error::Socket {
            verb: "open",
            source,
        })?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// Opens a socket in another namespace; it can be used from any thread.
    pub(super) fn open_in(netns: &Netns) -> Result<Self, Error> {
        netns.run(Self::open)?
    }

    /// Asks for a change and waits for the kernel's acknowledgement.
    pub(super) fn change(
        &mut self,
        op: Op,
        flags: u16,
        message: RouteNetlinkMessage,
    ) -> Result<(), Error> {
        self.send(NLM_F_ACK | flags, message)?;
        let mut acknowledged = false;
        self.receive(op, |answer, _, _| {
            acknowledged |= matches!(answer, Answer::Done);
            Ok(())
        })?;
        if acknowledged {
            Ok(())
        } else {
            Err(Error::Protocol {
                op,
                detail: "no acknowledgement",
            })
        }
    }

    /// Asks for one object.
    pub(super) fn get<T>(
        &mut self,
        op: Op,
        message: RouteNetlinkMessage,
        read: impl FnOnce(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<T, Error> {
        self.send(0, message)?;
        let mut read = Some(read);
        let mut found = None;
        self.receive(op, |answer, _, body| {
            if let (Answer::Message, Some(read)) = (answer, read.take()) {
                found = Some(read(body)?);
            }
            Ok(())
        })?;
        found.ok_or(Error::Protocol {
            op,
            detail: "an acknowledgement instead of an object",
        })
    }

    /// Lists objects: all of them as they stood at one time, or an error.
    pub(super) fn dump<T>(
        &mut self,
        op: Op,
        message: &RouteNetlinkMessage,
        mut read: impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            let mut done = false;
            let mut interrupted = false;
            self.send(NLM_F_DUMP, message.clone())?;
            while !done {
                self.receive(op, |answer, flags, body| {
                    interrupted |= flags & NLM_F_DUMP_INTR != 0;
                    match answer {
                        Answer::Done => done = true,
                        Answer::Message => found.extend(read(body)?),
                    }
                    Ok(())
                })?;
            }
            if !interrupted {
                return Ok(found);
            }
        }
        Err(Error::Interrupted {
            op,
            attempts: DUMP_ATTEMPTS,
        })
    }

    /// The id by which the socket's namespace knows `other`; none where it has not given it one yet.
    pub(super) fn nsid_of(&mut self, other: BorrowedFd<'_>) -> Result<Option<i32>, Error> {
        let mut message = NsidMessage::default();
        message
            .attributes
            .push(NsidAttribute::Fd(other.as_raw_fd().cast_unsigned()));
        let op = Op {
            verb: "get namespace id",
            ifindex: 0,
        };
        self.get(op, RouteNetlinkMessage::GetNsId(message), |body| {
            for attribute in attributes(body, NSID_HEADER)? {
                let attribute = attribute?;
                if attribute.kind() == NETNSA_NSID {
                    return Ok(u32_of(&attribute)
                        .map(u32::cast_signed)
                        .filter(|id| *id >= 0));
                }
            }
            Ok(None)
        })
    }

    fn send(&mut self, flags: u16, message: RouteNetlinkMessage) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        self.buffer.clear();
        self.buffer.resize(request.buffer_len(), 0);
        request.serialize(&mut self.buffer);
        self.socket
            .send(&self.buffer, 0)
            .map_err(|source| Error::Socket {
                verb: "send to",
                source,
            })?;
        Ok(())
    }

    /// Reads one datagram and hands over its messages; an error message of the kernel ends it.
    fn receive(
        &mut self,
        op: Op,
        take: impl FnMut(Answer, u16, &[u8]) -> Result<(), DecodeError>,
    ) -> Result<(), Error> {
        self.buffer.clear();
        let length = self
            .socket
            .recv(&mut self.buffer, libc::MSG_TRUNC | libc::MSG_DONTWAIT)
            .map_err(|source| match source.kind() {
                io::ErrorKind::WouldBlock => Error::Protocol {
                    op,
                    detail: "no answer",
                },
                _ => Error::Socket {
                    verb: "read from",
                    source,
                },
            })?;
        if length > self.buffer.len() {
            return Err(Error::Protocol {
                op,
                detail: "answer longer than 64 KiB",
            });
        }
        walk(op, self.sequence, &self.buffer, take)
    }
}

/// Hands over the messages of one datagram.
pub(super) fn walk(
    op: Op,
    sequence: u32,
    datagram: &[u8],
    mut take: impl FnMut(Answer, u16, &[u8]) -> Result<(), DecodeError>,
) -> Result<(), Error> {
    let malformed = |source| Error::Malformed { op, source };
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(malformed)?;
        let body = message.payload();
        let flags = message.flags();
        if message.sequence_number() != sequence {
            return Err(Error::Protocol {
                op,
                detail: "another request's sequence number",
            });
        }
        match message.message_type() {
            NLMSG_NOOP => {}
            kind @ (NLMSG_ERROR | NLMSG_DONE) => {
                // A DONE may come without a body.
                let code = body
                    .first_chunk()
                    .map_or(0, |code| i32::from_ne_bytes(*code));
                if code < 0 {
                    return Err(Error::Refused {
                        op,
                        errno: Errno::from_raw(code.saturating_neg()),
                        detail: kernel_words(kind, flags, body),
                    });
                }
                take(Answer::Done, flags, body).map_err(malformed)?;
            }
            _ => take(Answer::Message, flags, body).map_err(malformed)?,
        }
        let length = (message.length() as usize).next_multiple_of(NLMSG_ALIGN);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(())
}

/// The attributes behind a message's fixed header.
pub(super) fn attributes(body: &[u8], header: usize) -> Result<NlasIterator<&[u8]>, DecodeError> {
    body.get(header..)
        .map(NlasIterator::new)
        .ok_or_else(|| DecodeError::buffer_too_small(body.len(), header))
}

/// The value of an attribute that holds a number.
pub(super) fn u32_of(attribute: &Attribute<'_>) -> Option<u32> {
    attribute.value().try_into().ok().map(u32::from_ne_bytes)
}

/// The value of an attribute that holds a string with or without its final zero.
pub(super) fn text_of(attribute: &Attribute<'_>) -> String {
    let value = attribute.value();
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// What the kernel says in words behind an error code.
fn kernel_words(kind: u16, flags: u16, body: &[u8]) -> String {
    if flags & NLM_F_ACK_TLVS == 0 {
        return String::new();
    }
    let request_length = || {
        let length = body.get(4..8).and_then(|length| length.try_into().ok());
        length.map_or(0, |length| u32::from_ne_bytes(length) as usize)
    };
    let behind = match kind {
        NLMSG_DONE => 4,
        _ if flags & NLM_F_CAPPED != 0 => 4 + NLMSG_HEADER,
        _ => 4usize
            .saturating_add(request_length())
            .next_multiple_of(NLMSG_ALIGN),
    };
    let Ok(attributes) = attributes(body, behind) else {
        return String::new();
    };
    attributes
        .filter_map(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| text_of(&attribute))
        .unwrap_or_default()
}
