//! The flow log: one line for each new flow and each drop that the programs tell of.
//!
//! The line begins as that of Amazon's agent does (its IPv6 form, for both families), so that what reads those reads
//! these; what follows is ours: reason, bytes and the pods' names.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use enforcer::events::Events;
use enforcer::pins::Pins;
use verdict::Reason;
use verdict::layout::{Event, V4, V6};
use verdict::packet::proto;

use crate::log_file::{LogFile, Rotation};
use crate::shared::{Counts, Known, Shared};

/// The programs wake nobody: the ring is looked at so often.
const TICK: Duration = Duration::from_millis(100);
/// Losses are told and the ring's pin is looked at so often.
const LOOK: Duration = Duration::from_secs(5);

/// Where lines go.
enum Sink {
    Log,
    File {
        path: PathBuf,
        rotation: Rotation,
        file: Option<LogFile>,
    },
}

impl Sink {
    fn new(path: Option<PathBuf>, rotation: Rotation) -> Self {
        path.map_or(Self::Log, |path| Self::File {
            path,
            rotation,
            file: None,
        })
    }

    fn write(&mut self, line: &str, drop: bool) -> io::Result<()> {
        match self {
            Self::Log if drop => tracing::info!("{line}"),
            Self::Log => tracing::debug!("{line}"),
            Self::File {
                path,
                rotation,
                file,
            } => {
                let file = match file {
                    Some(file) => file,
                    none => none.insert(LogFile::open(path, *rotation)?),
                };
                file.write_line(format!("{} {line}\n", state::clock::now_rfc3339()).as_bytes())?;
            }
        }
        Ok(())
    }
}

/// Where events come from and lines go.
pub(crate) struct Options {
    pub(crate) bpf_dir: PathBuf,
    /// `None` = into the log.
    pub(crate) file: Option<PathBuf>,
    pub(crate) rotation: Rotation,
}

/// Reads events until the other end of `stop` is gone.
pub(crate) fn run(shared: &Arc<Shared>, options: Options, stop: &Receiver<()>) {
    let pins = Pins::new(&options.bpf_dir);
    let (mut sink, mut ring) = (Sink::new(options.file, options.rotation), None);
    let (mut looked, mut lost, mut failed) = (Instant::now(), 0, false);
    while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        // Maps may have been made anew. Without any there is nothing to read, and the first are taken up at once.
        if ring.is_none() || looked.elapsed() >= LOOK {
            looked = Instant::now();
            ring = Events::open(&pins).ok();
            if let Some(ring) = &ring {
                tell_losses(ring, shared, &mut lost);
            }
        }
        let Some(ring) = &mut ring else { continue };
        let mut known = None;
        while let Some(event) = ring.next_event() {
            Counts::add(&shared.counts.events, 1);
            let known = known.get_or_insert_with(|| shared.known());
            let drop = Reason::from_number(event.reason).is_none_or(Reason::is_drop);
            match sink.write(&line(&event, known), drop) {
                Ok(()) => failed = false,
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::error!("write flow log: {error}; lines are lost");
                    }
                    Counts::add(&shared.counts.events_lost, 1);
                }
            }
        }
    }
}

fn tell_losses(ring: &Events, shared: &Shared, before: &mut u64) {
    let endpoint_indexes: Vec<u32> = shared
        .known()
        .pods
        .values()
        .map(|pod| pod.endpoint_index)
        .collect();
    let Ok(lost) = ring.lost(endpoint_indexes) else {
        return;
    };
    if lost > *before && *before > 0 {
        tracing::warn!(
            lost = lost - *before,
            "flow events were lost: more than the limits allow"
        );
    }
    Counts::add(&shared.counts.events_lost, lost.saturating_sub(*before));
    *before = lost.max(1);
}

fn line(event: &Event, known: &Known) -> String {
    let drop = Reason::from_number(event.reason).is_none_or(Reason::is_drop);
    let reason = Reason::from_number(event.reason).map_or("unknown", Reason::name);
    let verdict = if drop { "DENY" } else { "ACCEPT" };
    let direction = if event.direction == 0 {
        "ingress"
    } else {
        "egress"
    };
    let mut line = String::with_capacity(220);
    // Writing into a string cannot fail.
    let _ = write!(
        line,
        "Flow Info: Src IP: {} Src Port: {} Dest IP: {} Dest Port: {} Proto: {} Verdict: {verdict} Direction: {direction} \
         Tier: {} Reason: {reason} Bytes: {}",
        address(event, true),
        u16::from_be(event.src_port_be),
        address(event, false),
        u16::from_be(event.dst_port_be),
        protocol(event.protocol),
        tier(reason),
        event.bytes,
    );
    let own = known
        .pods
        .get(&event.endpoint_id)
        .map(|pod| format!("{}/{}", pod.namespace, pod.name));
    let other = |source: bool| {
        let ip = ip(event, source)?;
        let endpoint_id = known.by_address.get(&ip)?;
        known
            .pods
            .get(endpoint_id)
            .map(|pod| format!("{}/{}", pod.namespace, pod.name))
    };
    let (src, dst) = if event.direction == 0 {
        (other(true), own)
    } else {
        (own, other(false))
    };
    if let Some(pod) = src {
        let _ = write!(line, " Src Pod: {pod}");
    }
    if let Some(pod) = dst {
        let _ = write!(line, " Dest Pod: {pod}");
    }
    line
}

fn ip(event: &Event, source: bool) -> Option<std::net::IpAddr> {
    let addr = if source { event.src } else { event.dst };
    matches!(event.family, V4 | V6).then(|| addr.to_ip(event.family))
}

fn address(event: &Event, source: bool) -> String {
    ip(event, source).map_or_else(|| "-".to_owned(), |ip| ip.to_string())
}

/// Amazon's name for what decided; ours is the reason.
fn tier(reason: &str) -> &'static str {
    match reason {
        "policy-allowed" | "policy-denied" | "flow-refused" | "tracked" => "NETWORK_POLICY",
        "default-allowed" | "strict-default" | "pending" | "suspended" | "share-full"
        | "table-full" => "DEFAULT",
        "host-to-pod" | "pod-to-host" | "pod-to-itself" | "neighbour" | "icmp-related"
        | "later-fragment" => "DEFAULT",
        _ => "ERROR",
    }
}

fn protocol(number: u8) -> String {
    let name = match number {
        proto::TCP => "TCP",
        proto::UDP => "UDP",
        proto::SCTP => "SCTP",
        proto::ICMP => "ICMP",
        proto::ICMPV6 => "ICMPv6",
        other => return other.to_string(),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use verdict::layout::Addr;

    use super::*;
    use crate::shared::Pod;

    #[test]
    fn lines_read_as_amazons_and_name_the_pods() {
        let pod = |name: &str| Pod {
            namespace: "shop".into(),
            name: name.into(),
            endpoint_index: 1,
            strict: true,
        };
        let known = Known {
            pods: Arc::new(BTreeMap::from([(7, pod("web")), (8, pod("client"))])),
            by_address: Arc::new(BTreeMap::from([("10.0.0.9".parse().unwrap(), 8)])),
            ..Known::default()
        };
        let mut event = Event {
            endpoint_id: 7,
            bytes: 74,
            src: Addr::v4([10, 0, 0, 9]),
            dst: Addr::v4([10, 0, 0, 1]),
            src_port_be: 40_000u16.to_be(),
            dst_port_be: 80u16.to_be(),
            family: V4,
            protocol: 6,
            direction: 0,
            reason: Reason::PolicyDenied as u8,
            ..Event::default()
        };
        assert_eq!(
            line(&event, &known),
            "Flow Info: Src IP: 10.0.0.9 Src Port: 40000 Dest IP: 10.0.0.1 Dest Port: 80 Proto: TCP Verdict: DENY \
             Direction: ingress Tier: NETWORK_POLICY Reason: policy-denied Bytes: 74 Src Pod: shop/client Dest Pod: shop/web"
        );
        (
            event.family,
            event.reason,
            event.direction,
            event.endpoint_id,
        ) = (0, Reason::UnknownEthertype as u8, 1, 7);
        assert_eq!(
            line(&event, &known),
            "Flow Info: Src IP: - Src Port: 40000 Dest IP: - Dest Port: 80 Proto: TCP Verdict: DENY Direction: egress \
             Tier: ERROR Reason: unknown-ethertype Bytes: 74 Src Pod: shop/web"
        );
    }
}
