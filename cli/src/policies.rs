//! `podgatectl policies`: the documents and their conditions; and which policy says what about a packet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;

use companion::status::Documents;
use policy::documents::{self, Document};
use policy::explain::{Explanation, explain as explain_packet};
use policy::{Endpoint, EndpointId, Facts, Policies};
use state::{Record, Store};
use verdict::Direction;

use crate::context::Context;
use crate::error::Error;
use crate::output::{self, Table};

pub(crate) fn run(context: &Context) -> Result<ExitCode, Error> {
    let store = context.store()?;
    let Some(documents) = Documents::read(&store)? else {
        return Err(Error::Asked(format!(
            "read conditions: no companion has run on {} since boot (start podgated)",
            context.state_dir.display()
        )));
    };
    output::print(context.format, &documents, || {
        let mut t = Table::new(&["DOCUMENT", "POLICY", "CONDITION", "PODS", "FILE", "MESSAGE"]);
        for d in &documents.documents {
            t.row([
                d.identity.clone(),
                d.policy.clone(),
                d.condition.to_string(),
                d.endpoints.to_string(),
                d.file.clone(),
                d.message.clone(),
            ]);
        }
        for f in &documents.files {
            t.row([
                "-".into(),
                "-".into(),
                f.condition.to_string(),
                "-".into(),
                f.path.clone(),
                f.message.clone(),
            ]);
        }
        output::or_sentence(&t, "no policy documents")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What the documents in force say about a packet.
pub(crate) fn explain(
    store: &Store,
    record: &Record,
    direction: Direction,
    peer: IpAddr,
    protocol: u8,
    port: u16,
) -> Result<Explanation, Error> {
    let policies = in_force(store)?;
    let endpoint = Endpoint {
        id: EndpointId(record.endpoint_id),
        namespace: record.pod_namespace.clone(),
        name: record.pod_name.clone(),
        labels: labels(store, record)?,
    };
    let mut facts = Facts::default();
    for policy in policies.values() {
        facts.observe(policy, std::slice::from_ref(&endpoint), |_| false);
    }
    Ok(explain_packet(
        &endpoint, &policies, &facts, direction, peer, protocol, port,
    ))
}

fn labels(store: &Store, record: &Record) -> Result<Option<BTreeMap<String, String>>, Error> {
    if record.labels.is_some() {
        return Ok(record.labels.clone());
    }
    let workload = store.workload(&record.pod_namespace, &record.pod_name)?;
    Ok(workload
        .filter(|w| record.pod_uid.as_ref().is_none_or(|u| *u == w.uid))
        .map(|w| w.labels))
}

/// The last good versions, put together as the companion does.
fn in_force(store: &Store) -> Result<Policies, Error> {
    let documents: Vec<Arc<Document>> = store
        .applied()?
        .documents
        .iter()
        .flat_map(|a| documents::read(&a.bytes).documents)
        .filter_map(Result::ok)
        .map(Arc::new)
        .collect();
    Ok(policy::assemble(documents, &Policies::new()).policies)
}
