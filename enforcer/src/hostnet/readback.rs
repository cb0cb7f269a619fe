//! Is what we put on an interface really in force? Right hook, our program, nothing in front.

use super::{
    Error, Hook, Op,
    netlink::Route,
    tc::{FILTER_HANDLE, FILTER_PRIORITY, Filter},
    tcx,
};

/// The ids of our two programs, by hook. They must differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgramIds {
    /// At [`Hook::Ingress`]: judges what the pod sends.
    pub ingress: u32,
    /// At [`Hook::Egress`]: judges what the pod receives.
    pub egress: u32,
}

impl ProgramIds {
    /// The one for a hook.
    pub fn at(self, hook: Hook) -> u32 {
        match hook {
            Hook::Ingress => self.ingress,
            Hook::Egress => self.egress,
        }
    }
}

/// Why an interface is not enforced as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing of ours at the hook.
    #[error("nothing of ours at the {hook} hook")]
    Missing {
        /// The hook.
        hook: Hook,
    },
    /// At our place stands another program (an older one of ours, or a stranger's).
    #[error("program {found} at the {hook} hook instead of {wanted}")]
    OtherProgram {
        /// The hook.
        hook: Hook,
        /// The program's id there.
        found: u32,
        /// Our program's id.
        wanted: u32,
    },
    /// Our filter is there without direct action: its return code counts for nothing.
    #[error("our filter at the {hook} hook is not in direct-action mode")]
    NotDirectAction {
        /// The hook.
        hook: Hook,
    },
    /// Something runs before ours and could let packets by.
    #[error("{what} runs before ours at the {hook} hook")]
    InFront {
        /// The hook.
        hook: Hook,
        /// What it is.
        what: String,
    },
    /// The qdisc is the plain `ingress` one: an egress filter on it runs at ingress.
    #[error("the qdisc is ingress, not clsact: nothing can be enforced towards the pod")]
    PlainIngress,
}

/// Looks whether our filters are in force on the interface; none = they are. Sends no notification.
///
/// Costs three lists of this interface's filters and, on kernels that have it, two looks at TCX; it does not
/// depend on how many interfaces the node has.
///
/// # Errors
/// The kernel cannot be asked. That the interface is gone shows as [`Fault::Missing`].
pub fn check_clsact(ifindex: u32, programs: ProgramIds) -> Result<Option<Fault>, Error> {
    let mut route = Route::open()?;
    for hook in Hook::ALL {
        let filters = route.filters(ifindex, hook)?;
        if let Some(fault) = filter_fault(hook, programs.at(hook), &filters) {
            return Ok(Some(fault));
        }
    }
    // The plain ingress qdisc shows the same filters under any parent, this one too; clsact none under it.
    if route.plain_ingress(ifindex)? {
        return Ok(Some(Fault::PlainIngress));
    }
    for hook in Hook::ALL {
        match tcx::query(ifindex, hook) {
            Ok(entries) => {
                if let Some(first) = entries.first() {
                    return Ok(Some(Fault::InFront {
                        hook,
                        what: program(first.prog_id),
                    }));
                }
            }
            Err(error) if error.is_gone() => return Ok(Some(Fault::Missing { hook })),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Looks whether our programs stand first at the interface's TCX hooks; none = they do.
///
/// # Errors
/// The kernel cannot be asked. That the interface is gone shows as [`Fault::Missing`].
pub fn check_tcx(ifindex: u32, programs: ProgramIds) -> Result<Option<Fault>, Error> {
    for hook in Hook::ALL {
        let entries = match tcx::query(ifindex, hook) {
            Ok(entries) => entries,
            Err(error) if error.is_gone() => Vec::new(),
            Err(error) => return Err(error),
        };
        let wanted = programs.at(hook);
        let fault = match entries.first() {
            Some(first) if first.prog_id == wanted => None,
            Some(first) if entries.iter().any(|entry| entry.prog_id == wanted) => {
                Some(Fault::InFront {
                    hook,
                    what: program(first.prog_id),
                })
            }
            Some(_) | None => Some(Fault::Missing { hook }),
        };
        if fault.is_some() {
            return Ok(fault);
        }
    }
    Ok(None)
}

impl Route {
    /// Whether filters stand on a plain `ingress` qdisc.
    fn plain_ingress(&mut self, ifindex: u32) -> Result<bool, Error> {
        let op = Op {
            verb: "list filters of the ingress qdisc",
            ifindex,
        };
        let all = self.dump_filters(op, super::tc::INGRESS_QDISC, |_| Ok(Some(())))?;
        Ok(!all.is_empty())
    }
}

fn filter_fault(hook: Hook, wanted: u32, filters: &[Filter]) -> Option<Fault> {
    let ours = |filter: &Filter| {
        filter.chain == 0
            && filter.priority == FILTER_PRIORITY
            && filter.handle == FILTER_HANDLE
            && filter.kind == "bpf"
    };
    let Some(at) = filters.iter().position(ours) else {
        return Some(Fault::Missing { hook });
    };
    let (in_front, filter) = (&filters[..at], &filters[at]);
    if filter.prog_id != Some(wanted) {
        return Some(Fault::OtherProgram {
            hook,
            found: filter.prog_id.unwrap_or(0),
            wanted,
        });
    }
    if !filter.direct_action {
        return Some(Fault::NotDirectAction { hook });
    }
    in_front
        .iter()
        .find(|other| other.chain == 0)
        .map(|other| Fault::InFront {
            hook,
            what: format!(
                "{} filter {:#x} at priority {}",
                other.kind, other.handle, other.priority
            ),
        })
}

fn program(id: u32) -> String {
    format!("TCX program {id}")
}
