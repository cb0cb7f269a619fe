//! `podgatectl policies`: the documents and their conditions; and which policy says what about a packet.

use std::net::IpAddr;
use std::process::ExitCode;

use policy::explain::{Explanation, explain as explain_packet};
use published::status::Documents;
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
    let now = published::in_force::for_endpoint(store, record)?;
    Ok(explain_packet(
        &now.endpoint,
        &now.policies,
        &now.facts,
        direction,
        peer,
        protocol,
        port,
    ))
}
