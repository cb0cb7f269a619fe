//! The CNI `bandwidth` plugin's ingress qdisc, and putting our filters in front of its redirect.
//!
//! The plugin gives a rate-limited pod's host veth a plain `ingress` qdisc with one u32 filter that redirects
//! everything to an ifb. Redirected packets are never classified again, so a program behind that filter never
//! runs, and a qdisc of that kind has no egress hook. From 6.6 on TCX runs before it. Below, this module puts
//! clsact in its place with our programs first and the same redirect behind them.

use std::os::fd::BorrowedFd;

use netlink_packet_core::{DecodeError, NLM_F_CREATE, NLM_F_EXCL, Parseable as _};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{
        TcAction, TcActionAttribute, TcActionMirrorOption, TcActionOption, TcActionType,
        TcAttribute, TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType,
        TcOption, TcU32Key, TcU32OptionFlags, TcU32Selector, TcU32SelectorFlags,
    },
};

use super::{
    Error, Hook, Op,
    netlink::Route,
    tc::{FILTER_PRIORITY, INGRESS_QDISC, filter, tcmsg},
};

const U32: &str = "u32";
const MIRRED: &str = "mirred";
const IFB: &str = "ifb";
const ALL_PROTOCOLS: u16 = libc::ETH_P_ALL as u16;
/// Priority of the redirect on the plugin's own qdisc, and behind ours.
const ALONE: u16 = 1;
const BEHIND: u16 = FILTER_PRIORITY + 1;
// Attributes that only fill up or count; netlink-packet-route has no name for them.
const TCA_U32_PAD: u16 = 12;
const TCA_MIRRED_PAD: u16 = 3;
const TCA_ACT_PAD: u16 = 5;
const TCA_ACT_HW_STATS: u16 = 8;
const TCA_ACT_USED_HW_STATS: u16 = 9;

/// An interface whose ingress place looks exactly as the bandwidth plugin leaves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bandwidth {
    ifindex: u32,
    redirect: Redirect,
}

/// The one filter: everything to `ifb`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redirect {
    ifb: u32,
    class: Option<u32>,
    /// What each action says once it has redirected. The plugin's netlink library turns the one redirect that
    /// the plugin asks for into two, of which the second is never reached; older versions make one.
    controls: Vec<TcActionType>,
}

/// A line of the list of filters.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A priority as a whole, or u32's root table: no rule.
    Frame,
    Redirect(Redirect),
    Stranger,
}

impl Bandwidth {
    /// Whether the interface has a plain `ingress` qdisc that holds exactly the plugin's filter: u32, priority 1,
    /// all protocols, matching everything, nothing but a redirect to one ifb. Anything else is none.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn detect(ifindex: u32) -> Result<Option<Self>, Error> {
        Self::look(&mut Route::open()?, ifindex)
    }

    /// The interface.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The ifb to which the plugin sends what the pod sends.
    pub fn ifb(&self) -> u32 {
        self.redirect.ifb
    }

    /// Replaces the ingress qdisc by clsact with the two programs first and the redirect behind that of
    /// ingress. For an ADD, before any container runs: there is a moment without either. Where a step fails
    /// the plugin's own state is put back.
    ///
    /// # Errors
    /// The interface no longer looks as detected, or the kernel refuses a step.
    pub fn replace(
        &self,
        ingress: BorrowedFd<'_>,
        egress: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), Error> {
        let ifindex = self.ifindex;
        let mut route = Route::open()?;
        if Self::look(&mut route, ifindex)?.as_ref() != Some(self) {
            let detail = "it is no longer what the bandwidth plugin made";
            return Err(Error::NotBandwidth { ifindex, detail });
        }
        let mut steps = || {
            route.delete_qdisc(ifindex, "ingress")?;
            route.create_qdisc(ifindex, "clsact")?;
            route.put_filter(ifindex, Hook::Ingress, ingress, name)?;
            route.put_filter(ifindex, Hook::Egress, egress, name)?;
            let parent = TcHandle {
                major: u16::MAX,
                minor: TcHandle::MIN_INGRESS,
            };
            self.put_redirect(&mut route, parent, BEHIND)
        };
        let result = steps();
        if result.is_err() {
            // The first error is the one to tell; what cannot be put back shows in `tc`.
            let _ = self.restore();
        }
        result
    }

    /// Puts back what the plugin had made, in place of our clsact: the undo of [`replace`](Self::replace).
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn restore(&self) -> Result<(), Error> {
        let mut route = Route::open()?;
        route.delete_qdisc(self.ifindex, "clsact")?;
        if !route.is_qdisc(self.ifindex, "ingress")? {
            route.create_qdisc(self.ifindex, "ingress")?;
            self.put_redirect(&mut route, INGRESS_QDISC, ALONE)?;
        }
        Ok(())
    }

    fn look(route: &mut Route, ifindex: u32) -> Result<Option<Self>, Error> {
        if !route.is_qdisc(ifindex, "ingress")? {
            return Ok(None);
        }
        let op = Op {
            verb: "list filters of the ingress qdisc",
            ifindex,
        };
        let seen = route.dump_filters(op, INGRESS_QDISC, |body| Ok(Some(see(body)?)))?;
        let mut rules = seen.into_iter().filter(|line| *line != Seen::Frame);
        let (Some(Seen::Redirect(redirect)), None) = (rules.next(), rules.next()) else {
            return Ok(None);
        };
        let target = route.link(redirect.ifb)?;
        let to_ifb = target.is_some_and(|link| link.kind.as_deref() == Some(IFB));
        Ok(to_ifb.then_some(Self { ifindex, redirect }))
    }

    fn put_redirect(
        &self,
        route: &mut Route,
        parent: TcHandle,
        priority: u16,
    ) -> Result<(), Error> {
        let op = Op {
            verb: "put bandwidth's redirect",
            ifindex: self.ifindex,
        };
        let mut message = filter(self.ifindex, parent, priority, U32);
        message
            .attributes
            .push(TcAttribute::Options(self.redirect.options()));
        route.change(
            op,
            NLM_F_CREATE | NLM_F_EXCL,
            RouteNetlinkMessage::NewTrafficFilter(message),
        )
    }
}

impl Redirect {
    fn options(&self) -> Vec<TcOption> {
        let mut selector = TcU32Selector::default();
        selector.flags = TcU32SelectorFlags::Terminal;
        selector.nkeys = 1;
        selector.keys.push(TcU32Key::default());

        let actions = (1..)
            .zip(&self.controls)
            .map(|(tab, control)| {
                let mut parameters = TcMirror::default();
                parameters.generic.action = *control;
                parameters.eaction = TcMirrorActionType::EgressRedir;
                parameters.ifindex = self.ifb;
                let parameters = TcActionMirrorOption::Parms(parameters);
                let mut action = TcAction::default();
                action.tab = tab;
                action.attributes = vec![
                    TcActionAttribute::Kind(MIRRED.to_owned()),
                    TcActionAttribute::Options(vec![TcActionOption::Mirror(parameters)]),
                ];
                action
            })
            .collect();

        let class = self
            .class
            .map(|class| TcFilterU32Option::ClassId(class.into()));
        let rest = [
            TcFilterU32Option::Selector(selector),
            TcFilterU32Option::Action(actions),
        ];
        class.into_iter().chain(rest).map(TcOption::U32).collect()
    }
}

pub(super) fn see(body: &[u8]) -> Result<Seen, DecodeError> {
    let header = tcmsg(body)?;
    // What netlink-packet-route cannot read is not what the plugin made.
    let Ok(message) = TcMessage::parse(body) else {
        return Ok(Seen::Stranger);
    };
    let mut options = None;
    for attribute in message.attributes {
        match attribute {
            TcAttribute::Kind(kind) if kind == U32 => {}
            TcAttribute::Chain(0) => {}
            TcAttribute::Options(found) => options = Some(found),
            _ => return Ok(Seen::Stranger),
        }
    }
    if header.priority != ALONE || header.protocol != ALL_PROTOCOLS {
        return Ok(Seen::Stranger);
    }
    Ok(match options.as_deref() {
        None | Some([TcOption::U32(TcFilterU32Option::Divisor(1))]) => Seen::Frame,
        Some(options) => redirect_of(options).map_or(Seen::Stranger, Seen::Redirect),
    })
}

fn redirect_of(options: &[TcOption]) -> Option<Redirect> {
    let (mut class, mut matches_all, mut targets) = (None, false, Vec::new());
    for option in options {
        let TcOption::U32(option) = option else {
            return None;
        };
        match option {
            TcFilterU32Option::ClassId(id) => class = Some(u32::from(*id)),
            TcFilterU32Option::Hash(_) | TcFilterU32Option::Pnct(_) => {}
            TcFilterU32Option::Flags(flags) if !flags.contains(TcU32OptionFlags::SkipSw) => {}
            TcFilterU32Option::Selector(selector) => {
                matches_all = selector.flags == TcU32SelectorFlags::Terminal
                    && selector.hmask == 0
                    && selector
                        .keys
                        .iter()
                        .all(|key| key.mask == 0 && key.val == 0);
            }
            TcFilterU32Option::Action(actions) => {
                targets = actions
                    .iter()
                    .map(|action| redirect_target(&action.attributes))
                    .collect::<Option<_>>()?;
            }
            TcFilterU32Option::Other(other) if is(other, &[TCA_U32_PAD]) => {}
            _ => return None,
        }
    }
    let (ifb, first) = *targets.first()?;
    let one_target = targets.iter().all(|(target, _)| *target == ifb);
    let plain = matches_all && one_target && first == TcActionType::Stolen && targets.len() <= 2;
    plain.then(|| Redirect {
        ifb,
        class,
        controls: targets.into_iter().map(|(_, control)| control).collect(),
    })
}

/// Where an action redirects to and what it says then; none where it does anything else.
fn redirect_target(action: &[TcActionAttribute]) -> Option<(u32, TcActionType)> {
    let (mut mirred, mut target) = (false, None);
    for attribute in action {
        match attribute {
            TcActionAttribute::Kind(kind) => mirred = kind == MIRRED,
            TcActionAttribute::Stats(_)
            | TcActionAttribute::Index(_)
            | TcActionAttribute::InHwCount(_) => {}
            TcActionAttribute::Other(other)
                if is(
                    other,
                    &[TCA_ACT_PAD, TCA_ACT_HW_STATS, TCA_ACT_USED_HW_STATS],
                ) => {}
            TcActionAttribute::Options(options) => {
                for option in options {
                    match option {
                        TcActionOption::Mirror(TcActionMirrorOption::Tm(_)) => {}
                        TcActionOption::Mirror(TcActionMirrorOption::Parms(parameters))
                            if parameters.eaction == TcMirrorActionType::EgressRedir =>
                        {
                            target = Some((parameters.ifindex, parameters.generic.action));
                        }
                        TcActionOption::Mirror(TcActionMirrorOption::Other(other))
                            if is(other, &[TCA_MIRRED_PAD]) => {}
                        _ => return None,
                    }
                }
            }
            _ => return None,
        }
    }
    target.filter(|_| mirred)
}

fn is(other: &impl netlink_packet_core::Nla, kinds: &[u16]) -> bool {
    kinds.contains(&other.kind())
}
