//! `podgatectl explain`: whether a packet that opens a connection would pass, by the same `decide()` and the same
//! tables as in the kernel, and the policy and rule that say so.

mod frame;

use std::net::IpAddr;
use std::process::ExitCode;

use enforcer::endpoint::Endpoints;
use enforcer::live::Live;
use policy::Verdict;
use serde::Serialize;
use state::Record;
use verdict::layout::Addr;
use verdict::{Direction, PolicyState, Reason, decide};
use verdict::{Meta, Scratch};

use crate::args::{DirectionArg, Explain};
use crate::context::Context;
use crate::error::Error;
use crate::output;
use crate::policies;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    pod: String,
    interface: String,
    direction: &'static str,
    peer: IpAddr,
    protocol: u8,
    port: u16,
    verdict: &'static str,
    reason: &'static str,
    /// The policy that gives the verdict, where one does.
    policy: Option<String>,
    /// The document of it that holds the rule.
    document: Option<String>,
    /// The rule, by index in the document's list for the direction, from 0; absent where isolation itself denies.
    rule: Option<u32>,
    /// What else there is to know.
    note: Option<String>,
}

pub(crate) fn run(context: &Context, asked: &Explain) -> Result<ExitCode, Error> {
    let store = context.store()?;
    let record = endpoint_record(&store, asked)?;
    let direction = match asked.direction {
        DirectionArg::Ingress => Direction::Ingress,
        DirectionArg::Egress => Direction::Egress,
    };
    let own = own_address(&record, asked.peer)?;
    let endpoints = Endpoints::open(&context.bpf_dir)?;
    let live = Live::open(endpoints.pins(), record.ifindex)?;
    let entry = endpoints.entry(record.ifindex)?.ok_or_else(|| {
        Error::Asked(format!(
            "explain {}: interface {} has no entry in the kernel, so everything is dropped \
                              (`podgatectl status` shows more)",
            asked.pod, record.veth
        ))
    })?;
    let packet = frame::Opening {
        direction,
        own,
        peer: asked.peer,
        own_mac: entry.endpoint.mac,
        protocol: asked.protocol,
        port: asked.port,
    };
    let bytes = packet.bytes();
    // As from another pod: by a device. What the host itself sends is always passed, which the reason would tell.
    let ingress_ifindex = match direction {
        Direction::Ingress if live_is_host(&live, asked.peer) => 0,
        Direction::Ingress => u32::MAX,
        Direction::Egress => record.ifindex,
    };
    let meta = Meta {
        ifindex: record.ifindex,
        ingress_ifindex,
        to_host: true,
        len: bytes.len() as u32,
        gso: false,
        vlan_present: false,
        vlan_tci: 0,
    };
    let decision = decide(
        &live,
        &frame::Bytes(&bytes),
        &meta,
        direction,
        &mut Scratch::new(),
    );
    if let Some(e) = live.failure() {
        return Err(e.into());
    }
    let policy_state = endpoints.policy_states.get(entry.endpoint_index);
    let why = policies::explain(
        &store,
        &record,
        direction,
        asked.peer,
        asked.protocol,
        asked.port,
    )?;
    let said = decision.reason;
    let agrees = match said {
        Reason::PolicyAllowed => why.verdict == Verdict::Allow,
        Reason::PolicyDenied => why.verdict == Verdict::Deny,
        _ => true,
    };
    let by_policy = agrees && matches!(said, Reason::PolicyAllowed | Reason::PolicyDenied);
    let isolated_by = why.isolated_by.first().map(ToString::to_string);
    let answer = Answer {
        pod: format!("{}/{}", record.pod_namespace, record.pod_name),
        interface: record.ifname,
        direction: direction.name(),
        peer: asked.peer,
        protocol: asked.protocol,
        port: asked.port,
        verdict: if said.is_drop() { "deny" } else { "allow" },
        reason: said.name(),
        policy: why
            .rule
            .as_ref()
            .map(|r| r.policy.to_string())
            .or(isolated_by)
            .filter(|_| by_policy),
        document: why
            .rule
            .as_ref()
            .map(|r| r.document.to_string())
            .filter(|_| by_policy),
        rule: why.rule.as_ref().map(|r| r.index).filter(|_| by_policy),
        note: note(policy_state, said, agrees),
    };
    output::print(context.format, &answer, || text(&answer))?;
    Ok(ExitCode::SUCCESS)
}

fn text(a: &Answer) -> String {
    let (from, to) = match a.direction {
        "ingress" => (a.peer.to_string(), a.pod.clone()),
        _ => (a.pod.clone(), a.peer.to_string()),
    };
    let mut text = format!(
        "{}: {} -> {} protocol {} port {} ({})\n",
        a.verdict, from, to, a.protocol, a.port, a.direction
    );
    text.push_str(&format!("  reason: {}\n", a.reason));
    if let Some(policy) = &a.policy {
        let rule = match (&a.rule, &a.document) {
            (Some(rule), Some(document)) => format!("rule {rule} of {document}"),
            _ => "it isolates the pod, and no rule allows this".to_owned(),
        };
        text.push_str(&format!("  policy: {policy}, {rule}\n"));
    }
    if let Some(note) = &a.note {
        text.push_str(&format!("  note: {note}\n"));
    }
    text
}

fn note(policy_state: PolicyState, said: Reason, agrees: bool) -> Option<String> {
    if policy_state.has(PolicyState::SUSPENDED) {
        return Some(
            "enforcement is suspended on this node (podgated --enable-network-policy=false)".into(),
        );
    }
    match said {
        Reason::Pending => {
            Some("the companion has not decided about this pod yet (`podgatectl status`)".into())
        }
        Reason::StrictDefault => {
            Some("strict mode, and no policy allows anything in this direction".into())
        }
        Reason::DefaultAllowed => {
            Some("no policy isolates the pod in this direction and its mode is standard".into())
        }
        Reason::PolicyAllowed | Reason::PolicyDenied if !agrees => Some(
            "the kernel's tables are not those of the documents: `podgatectl wait` waits for them"
                .into(),
        ),
        _ => None,
    }
}

fn live_is_host(live: &Live, peer: IpAddr) -> bool {
    let (family, addr) = Addr::from_ip(peer);
    verdict::Env::host(
        live,
        &verdict::layout::PeerKey {
            family: u32::from(family),
            addr,
        },
    )
}

/// The record of the endpoint that is asked about.
fn endpoint_record(store: &state::Store, asked: &Explain) -> Result<Record, Error> {
    let (namespace, name) = asked.pod.split_once('/').ok_or_else(|| {
        Error::Asked(format!(
            "explain --pod {:?}: give it as namespace/name",
            asked.pod
        ))
    })?;
    let mut found: Vec<Record> = store
        .records()?
        .good
        .into_iter()
        .filter(|r| r.pod_namespace == namespace && r.pod_name == name)
        .filter(|r| asked.interface.as_ref().is_none_or(|i| *i == r.ifname))
        .collect();
    // Two sandboxes of one pod can overlap: the younger one is meant.
    found.sort_by_key(|r| r.endpoint_id);
    let interfaces: std::collections::BTreeSet<&str> =
        found.iter().map(|r| r.ifname.as_str()).collect();
    if interfaces.len() > 1 {
        let names: Vec<&str> = interfaces.into_iter().collect();
        return Err(Error::Asked(format!(
            "explain {}: it has interfaces {}; choose by --interface",
            asked.pod,
            names.join(", ")
        )));
    }
    found.pop().ok_or_else(|| {
        Error::Asked(format!(
            "explain {}: no such pod is under enforcement here (`podgatectl pods` lists them)",
            asked.pod
        ))
    })
}

/// An address of the pod, of the peer's family.
fn own_address(record: &Record, peer: IpAddr) -> Result<IpAddr, Error> {
    let of_family = |a: &&IpAddr| a.is_ipv4() == peer.is_ipv4();
    let link_local = |a: &IpAddr| matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let wanted = link_local(&peer);
    record
        .addresses
        .iter()
        .filter(of_family)
        .find(|a| link_local(a) == wanted)
        .or_else(|| record.addresses.iter().find(of_family))
        .copied()
        .ok_or_else(|| {
            Error::Asked(format!(
                "explain {}/{}: the pod has no address of the family of {peer}",
                record.pod_namespace, record.pod_name
            ))
        })
}
