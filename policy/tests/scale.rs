//! The sizes that the project promises, with bounds that even a busy machine in a debug build keeps; what it took is
//! printed (`--nocapture`; measure with `--release`).
#![forbid(unsafe_code)]

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use policy::{
    Compiler, Document, Endpoint, EndpointId, Facts, Image, Plan, Policies, assemble, compile,
    documents,
    plan::{Step, Taken},
};

fn pods(count: u32) -> Vec<Endpoint> {
    let pod = |n| Endpoint {
        id: EndpointId(n + 1),
        namespace: "ns".to_owned(),
        name: format!("pod-{n}"),
        labels: None,
    };
    (0..count).map(pod).collect()
}

/// One policy for a hundred pods as its parts, in one List.
fn list(peers: u32, ports: &str) -> String {
    let names: Vec<_> = (0..100)
        .map(|n| {
            format!(
                r#"{{"name":"pod-{n}","namespace":"ns","podIP":"10.1.1.1","hostIP":"10.0.0.1"}}"#
            )
        })
        .collect();
    let part = |part: u32| {
        let rules: Vec<_> = (part * 200..peers.min((part + 1) * 200))
            .map(|n| {
                format!(
                    r#"{{"cidr":"{}","ports":{ports}}}"#,
                    Ipv4Addr::from(0x0a00_0000 + n)
                )
            })
            .collect();
        let names = if part == 0 {
            names.join(",")
        } else {
            String::new()
        };
        format!(
            r#"{{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"PolicyEndpoint","metadata":{{"name":"p-{part}","namespace":"ns"}},"spec":{{"policyRef":{{"name":"p","namespace":"ns"}},"podIsolation":["Ingress"],"podSelectorEndpoints":[{names}],"ingress":[{}]}}}}"#,
            rules.join(",")
        )
    };
    let parts: Vec<_> = (0..peers.div_ceil(200)).map(part).collect();
    format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#,
        parts.join(",")
    )
}

/// Runs a step and says what it took.
fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let out = run();
    let took = begun.elapsed();
    println!("{what}: {took:?}");
    assert!(took < Duration::from_secs(120), "{what} took {took:?}");
    out
}

/// A node without a kernel: every write succeeds.
#[derive(Default)]
struct Node {
    compiler: Compiler,
    image: Image,
    policies: Policies,
    revision: u64,
}

/// What a change took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    /// Writes to tables, deletions among them.
    writes: usize,
    /// Policy states.
    states: usize,
}

impl Node {
    /// Reads documents; policies of which no document differs stay as they were.
    fn go(&mut self, text: &str, endpoints: &[Endpoint]) -> Cost {
        let reading = timed("read", || documents::read(text.as_bytes()));
        assert_eq!(reading.broken().count(), 0);
        let documents = reading.documents.into_iter().flatten().map(Arc::new);
        let documents: Vec<Arc<Document>> = documents.collect();
        let next = timed("assemble", || assemble(documents, &self.policies)).policies;
        timed("select", || {
            for (key, policy) in &next {
                if let Some(before) = self.policies.get(key) {
                    self.compiler.replace(before, policy);
                }
            }
            for endpoint in endpoints {
                let all = next.values();
                let profile: Vec<_> = all
                    .filter(|policy| policy.selects(endpoint, &Facts::default()))
                    .cloned()
                    .collect();
                self.compiler.assign(endpoint.id, &profile);
            }
        });
        self.policies = next;
        self.carry_out()
    }

    fn carry_out(&mut self) -> Cost {
        let (compiler, image) = (&mut self.compiler, &mut self.image);
        let mut plan = timed("plan", || Plan::new(compiler, image, &[]));
        let mut cost = Cost {
            writes: 0,
            states: 0,
        };
        timed("carry out", || {
            loop {
                let taken = match plan.next() {
                    Step::Done => break,
                    Step::Revision => {
                        self.revision += 1;
                        Taken::Revision(self.revision)
                    }
                    Step::Write(_) => {
                        cost.writes += 1;
                        Taken::Done
                    }
                    Step::State { .. } => {
                        cost.states += 1;
                        Taken::Done
                    }
                    Step::Grace => Taken::Done,
                };
                plan.took(taken, compiler, image);
            }
        });
        cost
    }
}

#[test]
fn one_peer_more_among_ten_thousand() {
    let endpoints = pods(100);
    let mut node = Node::default();
    let ports = r#"[{"protocol":"TCP","port":80}]"#;
    node.go(&list(10_000, ports), &endpoints);
    // The peer in two versions, and then in one.
    let one_more = Cost {
        writes: 2,
        states: 100,
    };
    assert_eq!(node.go(&list(10_001, ports), &endpoints), one_more);
    let nothing = Cost {
        writes: 0,
        states: 0,
    };
    assert_eq!(node.go(&list(10_001, ports), &endpoints), nothing);
}

#[test]
fn other_ports_of_a_large_policy_concern_rules_and_no_address() {
    let endpoints = pods(100);
    let mut node = Node::default();
    node.go(
        &list(2_000, r#"[{"protocol":"TCP","port":80}]"#),
        &endpoints,
    );
    let cost = node.go(
        &list(2_000, r#"[{"protocol":"TCP","port":81}]"#),
        &endpoints,
    );
    // A port set, the rule in two versions and in one, and the old port set.
    assert_eq!(
        cost,
        Cost {
            writes: 4,
            states: 100
        }
    );
}

#[test]
fn sixty_thousand_peers_with_24_ranges_each() {
    let ranges: Vec<_> = (0..24)
        .map(|n| {
            format!(
                r#"{{"protocol":"TCP","port":{},"endPort":{}}}"#,
                1000 + n * 100,
                1050 + n * 100
            )
        })
        .collect();
    let endpoints = pods(100);
    let text = list(60_000, &format!("[{}]", ranges.join(",")));
    let mut node = Node::default();
    node.go(&text, &endpoints);
    let entries = node.image.entries();
    assert_eq!(
        (entries.peers, entries.rules, node.image.port_sets()),
        (60_000, 1, 1)
    );
    let tables = timed("compile", || {
        compile(&endpoints, &node.policies, &Facts::default())
    });
    assert_eq!((tables.peers.len(), tables.sets.len()), (60_000, 1));
}

/// One policy that allows all pods of a cluster on one port selects 250 local pods; four policies of each of them allow
/// other ports to 20 of the same addresses.
fn shape(peers: u32) -> Vec<String> {
    let address = |n: u32| Ipv4Addr::from(0x0a00_0000 + n % peers);
    let document = |name: String, pods: String, rules: Vec<String>| {
        format!(
            r#"{{"apiVersion":"networking.k8s.aws/v1alpha1","kind":"PolicyEndpoint","metadata":{{"name":"{name}","namespace":"ns"}},"spec":{{"policyRef":{{"name":"{name}","namespace":"ns"}},"podIsolation":["Ingress"],"podSelectorEndpoints":[{pods}],"ingress":[{}]}}}}"#,
            rules.join(",")
        )
    };
    let pod = |n: u32| {
        format!(r#"{{"name":"pod-{n}","namespace":"ns","podIP":"10.1.1.1","hostIP":"10.0.0.1"}}"#)
    };
    let rule = |n: u32, port: u32| {
        format!(
            r#"{{"cidr":"{}","ports":[{{"protocol":"TCP","port":{port}}}]}}"#,
            address(n)
        )
    };
    let all: Vec<String> = (0..250).map(pod).collect();
    let mut out = vec![document(
        "all".into(),
        all.join(","),
        (0..peers).map(|n| rule(n, 80)).collect(),
    )];
    for own in 0..1_000u32 {
        let some = (0..20).map(|k| rule(own.wrapping_mul(7_919) + k * 131, 1_000 + own % 4));
        out.push(document(format!("p{own}"), pod(own / 4), some.collect()));
    }
    out
}

fn of_shape(peers: u32) {
    let list = |items: &[String]| {
        format!(
            r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#,
            items.join(",")
        )
    };
    let endpoints = pods(250);
    let mut node = Node::default();
    let mut documents = shape(peers);
    node.go(&list(&documents), &endpoints);
    let entries = node.image.entries();
    println!("{peers} peers: {entries:?}");
    // Not more than the documents say: a rule for each block of the small policies, and one a pod for the large one.
    assert!(entries.rules <= 250 * 4 * 20 + 250, "{entries:?}");
    assert_eq!(entries.peers, peers as usize);

    // One peer more of the large policy: one address in two versions, then in one.
    let more =
        r#"],"ingress":[{"cidr":"11.0.0.1","ports":[{"protocol":"TCP","port":80}]},"#.to_owned();
    documents[0] = documents[0].replacen(r#"],"ingress":["#, &more, 1);
    let cost = node.go(&list(&documents), &endpoints);
    assert_eq!(
        cost,
        Cost {
            writes: 2,
            states: 250
        }
    );

    // The large policy goes.
    node.go(&list(&documents[1..]), &endpoints);
    let entries = node.image.entries();
    assert!(entries.rules <= 250 * 4 * 20, "{entries:?}");
    assert!(entries.peers <= 20_000, "{entries:?}");
}

#[test]
fn rules_do_not_multiply_at_3000_peers() {
    of_shape(3_000);
}

#[test]
fn rules_do_not_multiply_at_10000_peers() {
    of_shape(10_000);
}

#[test]
fn rules_do_not_multiply_at_50000_peers() {
    of_shape(50_000);
}

#[test]
fn a_thousand_policies_and_250_pods() {
    let endpoints = pods(250);
    let text = |policy: u32| {
        let names: Vec<_> = (0..5)
            .map(|k| format!("{{name: pod-{}}}", (policy * 7 + k * 13) % 250))
            .collect();
        let rules: Vec<_> = (0..20)
            .map(|n| {
                format!(
                    "{{cidr: {}, ports: [{{protocol: TCP, port: {}}}]}}",
                    Ipv4Addr::from(0x0a00_0000 + policy * 17 + n),
                    1000 + policy % 50
                )
            })
            .collect();
        format!(
            "---\napiVersion: networking.k8s.aws/v1alpha1\nkind: PolicyEndpoint\nmetadata: {{name: p{policy}, namespace: ns}}\nspec:\n  podSelectorEndpoints: [{}]\n  ingress: [{}]\n",
            names.join(", "),
            rules.join(", ")
        )
    };
    let mut node = Node::default();
    let all: Vec<String> = (0..1000).map(text).collect();
    node.go(&all.concat(), &endpoints);
    let cost = node.go(&all[..999].concat(), &endpoints);
    assert!(
        cost.writes < 1_000,
        "{cost:?} for one policy of five pods and twenty peers"
    );
}
