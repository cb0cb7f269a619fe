//! Any documents: the tables say what the oracle says, and a plan from one policy to the next arrives there.
#![no_main]

#[path = "../../enforcer/tests/million/documents.rs"]
mod documents;

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use policy::documents::Labels;
use policy::oracle::{self, Question};
use policy::plan::{Step, Taken};
use policy::{Compiler, Document, Endpoint, EndpointId, Facts, Image, Plan, Policies, assemble, compile};
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

/// A node without a kernel: every step succeeds.
#[derive(Default)]
struct Node {
    compiler: Compiler,
    image: Image,
    policies: Policies,
}

impl Node {
    fn go(&mut self, endpoints: &[Endpoint], next: Policies) {
        for (key, policy) in &next {
            if let Some(before) = self.policies.get(key) {
                self.compiler.replace(before, policy);
            }
        }
        for endpoint in endpoints {
            let selecting = next.values().filter(|p| p.selects(endpoint, &Facts::default()));
            let profile: Vec<_> = selecting.cloned().collect();
            self.compiler.assign(endpoint.id, &profile);
        }
        self.policies = next;
        let mut plan = Plan::new(&mut self.compiler, &mut self.image, &[]);
        while plan.next() != Step::Done {
            let taken = if plan.next() == Step::Revision { Taken::Revision(1) } else { Taken::Done };
            plan.took(taken, &mut self.compiler, &mut self.image);
        }
        let again = Plan::new(&mut self.compiler, &mut self.image, &[]);
        assert!(again.is_empty(), "a plan that was carried out leaves nothing to do");
    }
}

fuzz_target!(|data: &[u8]| {
    let mut source = Source::new(data);
    let (endpoints, facts, mut node) = (endpoints(), Facts::default(), Node::default());
    for _ in 0..3 {
        let text = documents::documents(&mut source).to_string();
        let all: Vec<Arc<Document>> = policy::documents::read(text.as_bytes())
            .documents
            .into_iter()
            .map(|one| Arc::new(one.expect("the generator writes good documents")))
            .collect();
        let policies = assemble(all.iter().cloned(), &Policies::new()).policies;
        let tables = compile(&endpoints, &policies, &facts);
        node.go(&endpoints, policies);
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
                    node.image.look_up(endpoint.id, direction, peer, protocol, port),
                    tables.look_up(endpoint.id, direction, peer, protocol, port),
                    "{} asks {asked:?} of {text}",
                    endpoint.name
                );
            }
        }
    }
});
