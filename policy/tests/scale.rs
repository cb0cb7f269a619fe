//! The sizes that the project promises, with bounds that even a busy machine in a debug build keeps; what it took is
//! printed (`--nocapture`; measure with `--release`).
#![forbid(unsafe_code)]

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use policy::{
    Document, Endpoint, EndpointId, Facts, Live, Policies, Tables, assemble, compile, documents,
    plan, plan::Step,
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

fn through(text: &str, endpoints: &[Endpoint]) -> Tables {
    let reading = timed("read", || documents::read(text.as_bytes()));
    assert_eq!(reading.broken().count(), 0);
    let documents: Vec<Arc<Document>> = reading
        .documents
        .into_iter()
        .flatten()
        .map(Arc::new)
        .collect();
    let policies = timed("assemble", || assemble(documents, &Policies::new())).policies;
    timed("compile", || {
        compile(endpoints, &policies, &Facts::default())
    })
}

fn execute(live: &mut Live, tables: &Tables) -> usize {
    let plan = timed("plan", || plan(live, tables));
    for step in plan.steps() {
        match step {
            Step::Write(write) => live.apply(write),
            Step::Grace => live.grace(),
        }
    }
    plan.len()
}

#[test]
fn one_peer_more_among_ten_thousand() {
    let endpoints = pods(100);
    let mut live = Live::default();
    let ports = r#"[{"protocol":"TCP","port":80}]"#;
    execute(&mut live, &through(&list(10_000, ports), &endpoints));
    // A rule under two classes, a peer, a hundred words; the peer's last class, and two rules gone.
    assert_eq!(
        execute(&mut live, &through(&list(10_001, ports), &endpoints)),
        106
    );
    assert_eq!(
        execute(&mut live, &through(&list(10_001, ports), &endpoints)),
        0
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
    let tables = through(
        &list(60_000, &format!("[{}]", ranges.join(","))),
        &endpoints,
    );
    assert_eq!(
        (tables.peers.len(), tables.classes, tables.sets.len()),
        (60_000, 2, 1)
    );
    assert_eq!(execute(&mut Live::default(), &tables), 60_000 + 100 + 2);
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
    let mut live = Live::default();
    let all: Vec<String> = (0..1000).map(text).collect();
    execute(&mut live, &through(&all.concat(), &endpoints));
    let writes = execute(&mut live, &through(&all[..999].concat(), &endpoints));
    println!("one policy fewer: {writes} writes");
    assert!(
        writes < 1000,
        "{writes} writes for one policy of five pods and twenty peers"
    );
}
