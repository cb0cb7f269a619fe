//! Qdiscs at the ingress place, and BPF filters on them.

use std::{
    fmt,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{DecodeError, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use nix::errno::Errno;

use super::{
    Error, Op,
    netlink::{Route, attributes, text_of, u32_of},
};

/// Our filters' priority: nothing can come before it.
pub const FILTER_PRIORITY: u16 = 1;
/// Our filters' handle ("pg"), so that putting one on replaces the one before in place.
pub const FILTER_HANDLE: u32 = 0x7067;

pub(super) const TCM_HEADER: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// `TC_H_MAJ(TC_H_CLSACT)`: the handle that clsact and ingress always have.
pub(super) const INGRESS_QDISC: TcHandle = TcHandle {
    major: u16::MAX,
    minor: 0,
};
const BPF: &str = "bpf";

/// A hook of the traffic control layer, seen from the *host's* interface.
///
/// The pod's frame is the other way round: what a pod sends (its egress) passes [`Hook::Ingress`] of its host veth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// What the host receives from the interface: the pod's egress.
    Ingress,
    /// What the host sends out of the interface: the pod's ingress.
    Egress,
}

impl Hook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle {
            major: u16::MAX,
            minor,
        }
    }

    const fn pick(self, ingress: &'static str, egress: &'static str) -> &'static str {
        match self {
            Self::Ingress => ingress,
            Self::Egress => egress,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.pick("ingress", "egress"))
    }
}

/// What stands at an interface's ingress place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QdiscKind {
    /// Nothing.
    None,
    /// clsact: both hooks.
    Clsact,
    /// The old `ingress` qdisc: filters for either hook land on ingress.
    Ingress,
    /// Anything else, by name.
    Other(String),
}

impl fmt::Display for QdiscKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Clsact => "clsact",
            Self::Ingress => "ingress",
            Self::Other(name) => name,
        })
    }
}

/// What [`ensure_clsact`] did: an undo removes only what was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clsact {
    /// There was none; it was made.
    Created,
    /// It was there.
    Present,
}

/// A filter of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Its chain; packets enter at chain 0.
    pub chain: u32,
    /// Its priority, smallest first.
    pub priority: u16,
    /// The ethernet protocol it looks at (3 = all).
    pub protocol: u16,
    /// Its handle.
    pub handle: u32,
    /// `bpf`, `u32`, `flower`, ...
    pub kind: String,
    /// The program's id, where it is one.
    pub prog_id: Option<u32>,
    /// The name it was given, where it is a program.
    pub prog_name: Option<String>,
    /// Whether the program's return code is the verdict.
    pub direct_action: bool,
}

/// What stands at the ingress place of an interface. Costs one list of all qdiscs of the node, which the kernel
/// does not guard against changes while it is longer than 32 KiB: for people, not for deciding.
///
/// # Errors
/// The kernel cannot be asked, or the list changed faster than it could be read.
pub fn qdisc_kind(ifindex: u32) -> Result<QdiscKind, Error> {
    Route::open()?.qdisc_kind(ifindex)
}

/// Makes sure that the qdisc at the ingress place is clsact, in one or two requests.
///
/// That one was there is the kernel's word, for it compares the kinds. On that path the kernel tells the
/// watchers of the qdisc, so do not call this to look.
///
/// # Errors
/// [`Error::QdiscInTheWay`] with what else stands there, or the kernel refuses.
pub fn ensure_clsact(ifindex: u32) -> Result<Clsact, Error> {
    let mut route = Route::open()?;
    match route.create_qdisc(ifindex, "clsact") {
        Ok(()) => return Ok(Clsact::Created),
        Err(Error::Refused {
            errno: Errno::EEXIST,
            ..
        }) => {}
        Err(error) => return Err(error),
    }
    if route.is_qdisc(ifindex, "clsact")? {
        return Ok(Clsact::Present);
    }
    let kind = if route.is_qdisc(ifindex, "ingress")? {
        QdiscKind::Ingress
    } else {
        route.qdisc_kind(ifindex)?
    };
    Err(Error::QdiscInTheWay { ifindex, kind })
}

/// Removes clsact, and with it every filter on it, whoever put it there: only for undoing [`Clsact::Created`].
///
/// That nothing is there, or that the interface is gone, is success. A plain ingress qdisc is left alone.
///
/// # Errors
/// The kernel refuses.
pub fn del_clsact(ifindex: u32) -> Result<(), Error> {
    Route::open()?.delete_qdisc(ifindex, "clsact")
}

/// Puts the program on the hook, first in line, or in the place of the one that we put there before: there is
/// no instant without a filter.
///
/// On a plain ingress qdisc the kernel would take an egress filter and run it at ingress: call
/// [`ensure_clsact`] before, and [`check_clsact`](super::check_clsact) after.
///
/// # Errors
/// The kernel refuses: no qdisc, no program, or a filter of another kind at our priority.
pub fn put_filter(
    ifindex: u32,
    hook: Hook,
    program: BorrowedFd<'_>,
    name: &str,
) -> Result<(), Error> {
    Route::open()?.put_filter(ifindex, hook, program, name)
}

/// Takes our filter off the hook; that there is none, or no interface, is success.
///
/// # Errors
/// The kernel refuses.
pub fn del_filter(ifindex: u32, hook: Hook) -> Result<(), Error> {
    let op = Op {
        verb: hook.pick("delete ingress filter", "delete egress filter"),
        ifindex,
    };
    let mut message = filter(ifindex, hook.parent(), FILTER_PRIORITY, BPF);
    message.header.handle = FILTER_HANDLE.into();
    gone_is_fine(Route::open()?.change(op, 0, RouteNetlinkMessage::DelTrafficFilter(message)))
}

/// The filters of a hook, in the order in which the kernel runs them; none where there is no qdisc or no
/// interface. Filters of other chains (which only a `goto chain` reaches) come after chain 0.
///
/// On a plain ingress qdisc both hooks show the same filters.
///
/// # Errors
/// The kernel cannot be asked, or the list changed faster than it could be read.
pub fn filters(ifindex: u32, hook: Hook) -> Result<Vec<Filter>, Error> {
    Route::open()?.filters(ifindex, hook)
}

impl Route {
    pub(super) fn qdisc_kind(&mut self, ifindex: u32) -> Result<QdiscKind, Error> {
        let op = Op {
            verb: "list qdiscs",
            ifindex,
        };
        // The kernel has no way to ask for one interface's qdisc without telling every watcher.
        let message = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let found = self.dump(op, &message, |body| {
            let header = tcmsg(body)?;
            if header.ifindex != ifindex || header.parent != u32::from(TcHandle::CLSACT) {
                return Ok(None);
            }
            kind_of(body).map(Some)
        })?;
        Ok(match found.into_iter().next() {
            None => QdiscKind::None,
            Some(kind) if kind == "clsact" => QdiscKind::Clsact,
            Some(kind) if kind == "ingress" => QdiscKind::Ingress,
            Some(kind) => QdiscKind::Other(kind),
        })
    }

    /// Whether the qdisc at the ingress place is of this kind: the kernel's own comparison, whatever the number
    /// of interfaces. It tells the watchers of a qdisc that is.
    pub(super) fn is_qdisc(&mut self, ifindex: u32, kind: &'static str) -> Result<bool, Error> {
        let op = Op {
            verb: "confirm qdisc",
            ifindex,
        };
        // Without CREATE this changes nothing, and succeeds only where the kinds are equal.
        let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(ifindex, kind));
        match self.change(op, 0, message) {
            Ok(()) => Ok(true),
            Err(Error::Refused {
                errno: Errno::EINVAL | Errno::ENOENT,
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn create_qdisc(&mut self, ifindex: u32, kind: &'static str) -> Result<(), Error> {
        let op = Op {
            verb: "create qdisc",
            ifindex,
        };
        let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(ifindex, kind));
        self.change(op, NLM_F_CREATE | NLM_F_EXCL, message)
    }

    pub(super) fn delete_qdisc(&mut self, ifindex: u32, kind: &'static str) -> Result<(), Error> {
        let op = Op {
            verb: "delete qdisc",
            ifindex,
        };
        let message = RouteNetlinkMessage::DelQueueDiscipline(qdisc(ifindex, kind));
        gone_is_fine(self.change(op, 0, message))
    }

    pub(super) fn put_filter(
        &mut self,
        ifindex: u32,
        hook: Hook,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), Error> {
        let op = Op {
            verb: hook.pick("put ingress filter", "put egress filter"),
            ifindex,
        };
        let mut message = filter(ifindex, hook.parent(), FILTER_PRIORITY, BPF);
        message.header.handle = FILTER_HANDLE.into();
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(
                program.as_raw_fd().cast_unsigned(),
            )),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::from_bits_retain(
                TCA_BPF_FLAG_ACT_DIRECT,
            ))),
        ]));
        // CREATE without EXCL: what has our handle is swapped under RCU.
        self.change(
            op,
            NLM_F_CREATE,
            RouteNetlinkMessage::NewTrafficFilter(message),
        )
    }

    pub(super) fn filters(&mut self, ifindex: u32, hook: Hook) -> Result<Vec<Filter>, Error> {
        let verb = hook.pick("list ingress filters", "list egress filters");
        self.dump_filters(Op { verb, ifindex }, hook.parent(), read_filter)
    }

    /// Lists what stands under `parent` of the ingress qdisc. With [`INGRESS_QDISC`] itself as parent clsact
    /// shows nothing, the plain ingress qdisc all it has.
    pub(super) fn dump_filters<T>(
        &mut self,
        op: Op,
        parent: TcHandle,
        read: impl FnMut(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Vec<T>, Error> {
        let mut message = TcMessage::with_index(op.ifindex.cast_signed());
        message.header.parent = parent;
        self.dump(op, &RouteNetlinkMessage::GetTrafficFilter(message), read)
    }
}

/// The fixed header of a tc message.
pub(super) struct Header {
    pub(super) ifindex: u32,
    pub(super) handle: u32,
    pub(super) parent: u32,
    pub(super) priority: u16,
    pub(super) protocol: u16,
}

pub(super) fn tcmsg(body: &[u8]) -> Result<Header, DecodeError> {
    let word = |at: usize| -> Result<u32, DecodeError> {
        let bytes = body.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(u32::from_ne_bytes)
            .ok_or_else(|| DecodeError::buffer_too_small(body.len(), TCM_HEADER))
    };
    let info = word(16)?;
    Ok(Header {
        ifindex: word(4)?,
        handle: word(8)?,
        parent: word(12)?,
        priority: (info >> 16) as u16,
        protocol: u16::from_be(info as u16),
    })
}

/// A request about a qdisc at the ingress place.
fn qdisc(ifindex: u32, kind: &str) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = INGRESS_QDISC;
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message
}

/// A request about a filter for all protocols.
pub(super) fn filter(ifindex: u32, parent: TcHandle, priority: u16, kind: &str) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = parent;
    let all = (libc::ETH_P_ALL as u16).to_be();
    message.header.info = u32::from(priority) << 16 | u32::from(all);
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message
}

fn gone_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        // ENOENT: no such qdisc, filter or chain. EINVAL: there is no qdisc that could hold the filter, or
        // it is of another kind.
        Err(Error::Refused {
            errno: Errno::ENOENT | Errno::ENODEV | Errno::EINVAL,
            ..
        }) => Ok(()),
        other => other,
    }
}

fn kind_of(body: &[u8]) -> Result<String, DecodeError> {
    for attribute in attributes(body, TCM_HEADER)? {
        let attribute = attribute?;
        if attribute.kind() == TCA_KIND {
            return Ok(text_of(&attribute));
        }
    }
    Ok(String::new())
}

/// None for the line that stands for a priority as a whole: it has no options.
pub(super) fn read_filter(body: &[u8]) -> Result<Option<Filter>, DecodeError> {
    let header = tcmsg(body)?;
    let mut filter = Filter {
        chain: 0,
        priority: header.priority,
        protocol: header.protocol,
        handle: header.handle,
        kind: String::new(),
        prog_id: None,
        prog_name: None,
        direct_action: false,
    };
    let mut real = header.handle != 0;
    for attribute in attributes(body, TCM_HEADER)? {
        let attribute = attribute?;
        match attribute.kind() {
            TCA_KIND => filter.kind = text_of(&attribute),
            TCA_CHAIN => filter.chain = u32_of(&attribute).unwrap_or(u32::MAX),
            TCA_OPTIONS => {
                real = true;
                // The kind comes first. Other kinds number their options in their own way.
                if filter.kind == BPF {
                    read_bpf(attribute.value(), &mut filter)?;
                }
            }
            _ => {}
        }
    }
    Ok(real.then_some(filter))
}

fn read_bpf(options: &[u8], filter: &mut Filter) -> Result<(), DecodeError> {
    for option in attributes(options, 0)? {
        let option = option?;
        match option.kind() {
            TCA_BPF_ID => filter.prog_id = u32_of(&option),
            TCA_BPF_NAME => filter.prog_name = Some(text_of(&option)),
            TCA_BPF_FLAGS => {
                filter.direct_action =
                    u32_of(&option).is_some_and(|flags| flags & TCA_BPF_FLAG_ACT_DIRECT != 0);
            }
            _ => {}
        }
    }
    Ok(())
}
