//! Any documents: the tables say what the oracle says, and a plan from one policy to the next arrives there.
#![no_main]

#[path = "../../enforcer/tests/million/documents.rs"]
mod documents;

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use policy::documents::Labels;
use policy::oracle::{self, Question};
use policy::plan::{Step, Write};
use policy::{Document, Endpoint, EndpointId, Facts, Live, Policies, Tables, assemble, compile, plan};
use verdict::layout::Direction;
use verdict_testkit::generate::Source;

const PROTOCOLS: [u8; 7] = [6, 17, 132, 1, 58, 47, 0];

/// Four pods, labelled a, b, not at all, and unknown.
fn endpoints() -> Vec<Endpoint> {
    let labels = |value: &str| Some(Labels::from([("app".to_owned(), value.to_owned())]));
    [labels("a"), labels("b"), Some(Labels::new()), None]
        .into_iter()
        .zip(0u32..)
        .map(|(labels, n)| Endpoint {
            id: EndpointId(n + 1),
            namespace: "default".to_owned(),
            name: format!("pod-{n}"),
            labels,
        })
        .collect()
}

fn question(source: &mut Source<'_>) -> Question {
    Question {
        direction: source.pick(&[Direction::Ingress, Direction::Egress]),
        peer: documents::address(source),
        protocol: source.pick(&PROTOCOLS),
        port: if source.rarely(4) { source.short() } else { source.pick(&documents::PORTS) },
    }
}

fn carry_out(live: &mut Live, tables: &Tables) {
    for step in plan(live, tables).steps() {
        match step {
            Step::Write(write) => live.apply(write),
            Step::Grace => live.grace(),
        }
    }
    assert!(
        !plan(live, tables).policy_states.iter().any(|w| matches!(w, Write::PutPolicyState { .. })),
        "a plan that was carried out leaves no policy state to write"
    );
}

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let (endpoints, facts, mut live) = (endpoints(), Facts::default(), Live::default());
    for _ in 0..3 {
        let text = documents::documents(&mut source).to_string();
        let all: Vec<Arc<Document>> = policy::documents::read(text.as_bytes())
            .documents
            .into_iter()
            .map(|one| Arc::new(one.expect("the generator writes good documents")))
            .collect();
        let tables = compile(&endpoints, &assemble(all.iter().cloned(), &Policies::new()).policies, &facts);
        carry_out(&mut live, &tables);
        for _ in 0..20 {
            let asked = question(&mut source);
            let Question { direction, peer, protocol, port } = asked;
            for endpoint in &endpoints {
                for strict in [false, true] {
                    assert_eq!(
                        tables.allows(endpoint.id, direction, peer, protocol, port, strict),
                        Some(oracle::allows(endpoint, &all, &facts, asked, strict)),
                        "{} asks {asked:?} (strict: {strict}) of {text}",
                        endpoint.name
                    );
                }
                assert_eq!(
                    live.look_up(endpoint.id, direction, peer, protocol, port),
                    tables.look_up(endpoint.id, direction, peer, protocol, port),
                    "{} asks {asked:?} of {text}",
                    endpoint.name
                );
            }
        }
    }
});
