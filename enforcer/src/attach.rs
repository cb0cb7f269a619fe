//! Attachment: both programs on a host veth, read back from the kernel.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use verdict::layout::Direction;

use crate::hostnet::{
    self, Bandwidth, Clsact, FILTER_HANDLE, FILTER_PRIORITY, Fault, Hook, ProgramIds, QdiscKind,
    tcx,
};
use crate::kernel::{self, KernelVersion};
use crate::load::{PROGRAM_EGRESS, PROGRAM_INGRESS};
use crate::pins::Pins;

/// Name under which our filters stand in `tc filter show`.
pub const FILTER_NAME: &str = "podgate";

/// How the programs are attached.
pub use state::AttachMode;

/// Why attaching failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Netlink or bpf(2).
    #[error(transparent)]
    Net(#[from] hostnet::Error),
    /// A pinned program.
    #[error("open program {path}: {source} (is anything loaded? `podgatectl load` does it)")]
    Program {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link's pin.
    #[error("pin link {path}: {source}")]
    Pin {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel has no TCX.
    #[error("attach by tcx: the kernel is {found}, 6.6 is needed (use attachMode clsact)")]
    NoTcx {
        /// The running kernel.
        found: KernelVersion,
    },
    /// The kernel's version.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// What stands at the interface.
    #[error(
        "attach to interface {ifindex}: {found} stands there, and podgate would run behind it or not at all \
             (put podgate behind the bandwidth plugin in the chain, or remove what stands there)"
    )]
    InTheWay {
        /// Host veth.
        ifindex: u32,
        /// What.
        found: String,
    },
    /// Read back and found wrong.
    #[error("read back attachment of interface {ifindex}: {fault}")]
    ReadBack {
        /// Host veth.
        ifindex: u32,
        /// What is wrong.
        fault: Fault,
    },
}

/// The two pinned programs, open.
#[derive(Debug)]
pub struct Programs {
    pins: Pins,
    ingress: OwnedFd,
    egress: OwnedFd,
    ids: ProgramIds,
}

/// What attaching did, for its undo: only what this call made is taken off again.
#[derive(Debug)]
pub struct Attached {
    ifindex: u32,
    /// How it is attached.
    pub mode: AttachMode,
    made_qdisc: bool,
    made: Vec<Direction>,
    replaced: Option<Bandwidth>,
}

impl Attached {
    fn new(ifindex: u32, mode: AttachMode) -> Self {
        Self {
            ifindex,
            mode,
            made_qdisc: false,
            made: Vec::new(),
            replaced: None,
        }
    }
}

const HOOKS: [(Hook, Direction); 2] = [
    (Hook::Egress, Direction::Ingress),
    (Hook::Ingress, Direction::Egress),
];

impl Programs {
    /// Opens the pinned programs.
    ///
    /// # Errors
    /// If nothing is loaded.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let open = |name| {
            let path = pins.program(name);
            // Not by aya: it tries out what the kernel can do (17 loads) before it opens a program.
            tcx::open_pin(&path).map_err(|source| Error::Program { path, source })
        };
        let (ingress, egress) = (open(PROGRAM_INGRESS)?, open(PROGRAM_EGRESS)?);
        // The hooks are the host's: what goes to the pod leaves by the veth's egress.
        let ids = ProgramIds {
            egress: tcx::prog_id(ingress.as_fd())?,
            ingress: tcx::prog_id(egress.as_fd())?,
        };
        Ok(Self {
            pins: pins.clone(),
            ingress,
            egress,
            ids,
        })
    }

    /// The kernel's numbers of the programs, by hook.
    pub fn ids(&self) -> ProgramIds {
        self.ids
    }

    fn at(&self, direction: Direction) -> BorrowedFd<'_> {
        match direction {
            Direction::Ingress => self.ingress.as_fd(),
            Direction::Egress => self.egress.as_fd(),
        }
    }

    /// Attaches both programs and reads them back. Where they are in force already there is nothing to do; what is
    /// there but not right is put right in place.
    ///
    /// # Errors
    /// If they would not be the first to run; what this call made is undone then.
    pub fn attach(&self, ifindex: u32, mode: AttachMode) -> Result<Attached, Error> {
        if self.verify(ifindex, mode)?.is_none() {
            return Ok(Attached::new(ifindex, mode));
        }
        let attached = match mode {
            AttachMode::Tcx => self.attach_tcx(ifindex)?,
            AttachMode::Clsact => self.attach_clsact(ifindex)?,
        };
        match self.verify(ifindex, attached.mode) {
            Ok(None) => {
                if attached.mode == AttachMode::Tcx {
                    self.drop_filters(ifindex)?;
                }
                Ok(attached)
            }
            Ok(Some(fault)) => {
                let _ = self.detach(&attached);
                Err(Error::ReadBack { ifindex, fault })
            }
            Err(e) => {
                let _ = self.detach(&attached);
                Err(e)
            }
        }
    }

    /// Reads the attachment back: right hooks, our programs, nothing in front. `None` = in force.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn verify(&self, ifindex: u32, mode: AttachMode) -> Result<Option<Fault>, Error> {
        Ok(match mode {
            AttachMode::Clsact => hostnet::check_clsact(ifindex, self.ids)?,
            AttachMode::Tcx => hostnet::check_tcx(ifindex, self.ids)?,
        })
    }

    /// Takes off what [`Self::attach`] made: its undo.
    ///
    /// # Errors
    /// The first failure; the rest is tried all the same.
    pub fn detach(&self, attached: &Attached) -> Result<(), Error> {
        let ifindex = attached.ifindex;
        if let Some(bandwidth) = &attached.replaced {
            return Ok(bandwidth.restore()?);
        }
        if attached.made_qdisc {
            return Ok(hostnet::del_clsact(ifindex)?);
        }
        let mut first = Ok(());
        for (hook, direction) in HOOKS {
            if attached.made.contains(&direction) {
                first = first.and(match attached.mode {
                    AttachMode::Clsact => hostnet::del_filter(ifindex, hook).map_err(Error::from),
                    AttachMode::Tcx => self.forget_link(ifindex, direction),
                });
            }
        }
        first
    }

    /// Takes both programs off an interface, which nothing filters then. What is gone already is fine.
    ///
    /// # Errors
    /// The first failure; the rest is tried all the same.
    pub fn release(&self, ifindex: u32, mode: AttachMode) -> Result<(), Error> {
        let links = self.forget_links(ifindex);
        if mode == AttachMode::Tcx || matches!(hostnet::link_by_index(ifindex), Ok(None)) {
            return links;
        }
        HOOKS.into_iter().fold(links, |first, (hook, _)| {
            first.and(hostnet::del_filter(ifindex, hook).map_err(Error::from))
        })
    }

    /// Removes the pins of an interface's TCX links, which ends them. None is fine.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn forget_links(&self, ifindex: u32) -> Result<(), Error> {
        HOOKS
            .into_iter()
            .try_for_each(|(_, direction)| self.forget_link(ifindex, direction))
    }

    fn forget_link(&self, ifindex: u32, direction: Direction) -> Result<(), Error> {
        let path = self.pins.link(ifindex, direction);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Pin { path, source })
            }
            _ => Ok(()),
        }
    }

    fn attach_clsact(&self, ifindex: u32) -> Result<Attached, Error> {
        let mut attached = Attached::new(ifindex, AttachMode::Clsact);
        match hostnet::ensure_clsact(ifindex) {
            Ok(made) => attached.made_qdisc = made == Clsact::Created,
            Err(hostnet::Error::QdiscInTheWay {
                kind: QdiscKind::Ingress,
                ..
            }) => {
                return self.attach_beside_ingress_qdisc(ifindex);
            }
            Err(e) => return Err(e.into()),
        }
        for (hook, direction) in HOOKS {
            let there = !attached.made_qdisc && has_ours(ifindex, hook)?;
            match hostnet::put_filter(ifindex, hook, self.at(direction), FILTER_NAME) {
                Ok(()) if !there => attached.made.push(direction),
                Ok(()) => {}
                Err(e) => return self.tcx_instead(&attached, e.into()),
            }
        }
        // A qdisc that was made here had no filters.
        if attached.made_qdisc && !tcx::is_occupied(ifindex)? {
            return Ok(attached);
        }
        // An earlier filter, or a program at TCX: from 6.6 TCX runs before every filter, and ours goes to its head.
        match hostnet::check_clsact(ifindex, self.ids)? {
            Some(fault @ Fault::InFront { .. }) => {
                self.tcx_instead(&attached, Error::ReadBack { ifindex, fault })
            }
            _ => Ok(attached),
        }
    }

    /// Something runs before our filters: our links go before it, where the kernel has TCX. The filters stay until the links are
    /// read back ([`Self::drop_filters`]), so that no packet meets neither.
    fn tcx_instead(&self, filters: &Attached, cause: Error) -> Result<Attached, Error> {
        let result = if tcx::supported() {
            self.attach_tcx(filters.ifindex)
        } else {
            Err(cause)
        };
        if result.is_err() {
            let _ = self.detach(filters);
        }
        result
    }

    /// Takes our filters off where links are in force: with both, every packet would be evaluated twice. The qdisc stays, for
    /// another user's filters may stand on it by now.
    fn drop_filters(&self, ifindex: u32) -> Result<(), Error> {
        for (hook, _) in HOOKS {
            if has_ours(ifindex, hook)? {
                hostnet::del_filter(ifindex, hook)?;
            }
        }
        Ok(())
    }

    fn attach_beside_ingress_qdisc(&self, ifindex: u32) -> Result<Attached, Error> {
        if tcx::supported() {
            return self.attach_tcx(ifindex);
        }
        let Some(bandwidth) = Bandwidth::detect(ifindex)? else {
            return Err(Error::InTheWay {
                ifindex,
                found: "an ingress qdisc that is not the bandwidth plugin's".into(),
            });
        };
        let (to_pod, from_pod) = (self.at(Direction::Ingress), self.at(Direction::Egress));
        bandwidth.replace(from_pod, to_pod, FILTER_NAME)?;
        Ok(Attached {
            replaced: Some(bandwidth),
            ..Attached::new(ifindex, AttachMode::Clsact)
        })
    }

    fn attach_tcx(&self, ifindex: u32) -> Result<Attached, Error> {
        if !tcx::supported() {
            return Err(Error::NoTcx {
                found: KernelVersion::running()?,
            });
        }
        let mut attached = Attached::new(ifindex, AttachMode::Tcx);
        for (hook, direction) in HOOKS {
            match self.put_link(ifindex, hook, direction) {
                Ok(true) => attached.made.push(direction),
                Ok(false) => {}
                Err(e) => {
                    let _ = self.detach(&attached);
                    return Err(e);
                }
            }
        }
        Ok(attached)
    }

    /// A link that is pinned and first at its hook is updated in place (false), one that stands behind another is made anew at the
    /// head (false); otherwise a new one is made and given to its pin.
    fn put_link(&self, ifindex: u32, hook: Hook, direction: Direction) -> Result<bool, Error> {
        let path = self.pins.link(ifindex, direction);
        if let Ok(link) = tcx::open_pin(&path) {
            let alive = tcx::link_info(link.as_fd())
                .is_ok_and(|i| i.ifindex == Some(ifindex) && i.hook == hook);
            if alive {
                if is_first(ifindex, hook, &link)? {
                    tcx::update(link.as_fd(), self.at(direction))?;
                } else {
                    self.move_to_head(ifindex, hook, direction, &link)?;
                }
                return Ok(false);
            }
        }
        self.make_link(ifindex, hook, direction)?;
        Ok(true)
    }

    /// Makes a link at the head of the hook and gives it to its pin, in the place of one that is dead.
    fn make_link(&self, ifindex: u32, hook: Hook, direction: Direction) -> Result<(), Error> {
        let path = self.pins.link(ifindex, direction);
        self.forget_link(ifindex, direction)?;
        let link = tcx::attach(ifindex, hook, self.at(direction))?;
        tcx::pin(link.as_fd(), &path).map_err(|source| Error::Pin { path, source })
    }

    /// Puts our link before whoever came to stand before it. A link does not move, and the kernel takes a program only once at a
    /// hook (EEXIST): the old link has to go first. Our filter covers that moment, as far as whoever stands in front lets packets on
    /// to filters; it goes when the links are read back. Where the filter cannot be put (a plain `ingress` qdisc) the moment, some
    /// ten milliseconds, is uncovered: better than to stay behind.
    fn move_to_head(
        &self,
        ifindex: u32,
        hook: Hook,
        direction: Direction,
        link: &OwnedFd,
    ) -> Result<(), Error> {
        if hostnet::ensure_clsact(ifindex).is_ok() {
            let _ = hostnet::put_filter(ifindex, hook, self.at(direction), FILTER_NAME);
        }
        tcx::detach(link.as_fd())?;
        self.make_link(ifindex, hook, direction)
    }
}

/// Whether the link is the first at its hook.
fn is_first(ifindex: u32, hook: Hook, link: &OwnedFd) -> Result<bool, Error> {
    let id = tcx::link_info(link.as_fd())?.id;
    let entries = tcx::query(ifindex, hook)?;
    Ok(entries
        .first()
        .is_some_and(|entry| entry.link_id == Some(id)))
}

/// Whether our filter stands at the hook already.
fn has_ours(ifindex: u32, hook: Hook) -> Result<bool, Error> {
    let filters = hostnet::filters(ifindex, hook)?;
    Ok(filters
        .iter()
        .any(|f| f.priority == FILTER_PRIORITY && f.handle == FILTER_HANDLE))
}
