//! What the calls of the ADD path cost, printed: `cargo test -p enforcer --release --test hostnet cost -- --nocapture`.

use std::{hint::black_box, os::fd::AsFd, time::Instant};

use enforcer::hostnet::{
    Hook, ProgramIds, check_clsact, del_clsact, ensure_clsact, filters, link_by_name,
    pod_interfaces, put_filter, qdisc_kind,
};

use super::{
    program::{Program, UNSPEC},
    world::{Namespace, ip, on_host, veth},
};

/// Prints median and 99th percentile in microseconds.
fn time(what: &str, mut call: impl FnMut()) {
    let mut took: Vec<f64> = (0..500)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    took.sort_by(f64::total_cmp);
    println!(
        "{what:>40}: median {:7.1} us, p99 {:7.1} us",
        took[250], took[495]
    );
}

#[test]
fn every_call_works_on_a_full_node_and_says_what_it_costs() {
    if std::env::var_os("PODGATE_VM").is_some() {
        eprintln!("an emulated machine's times say nothing");
        return;
    }
    on_host(|_| {
        let crowd = Namespace::new("crowd");
        for n in 0..250 {
            let ifindex = veth(&format!("c{n}"), &crowd, &format!("p{n}"));
            ensure_clsact(ifindex).unwrap();
        }
        let pod = Namespace::new("pod");
        let ifindex = veth("h0", &pod, "eth0");
        pod.ip("addr add 10.1.0.2/24 dev eth0");
        ip("addr add 10.1.0.1/24 dev h0");
        let (ingress, egress) = (Program::returning(UNSPEC), Program::returning(UNSPEC));
        let ids = ProgramIds {
            ingress: ingress.id,
            egress: egress.id,
        };

        println!("250 other veths with clsact on this host:");
        time("pod_interfaces", &mut || {
            black_box(pod_interfaces(&pod.path).unwrap());
        });
        time("ensure_clsact made + del_clsact", &mut || {
            ensure_clsact(ifindex).unwrap();
            del_clsact(ifindex).unwrap();
        });
        ensure_clsact(ifindex).unwrap();
        time("ensure_clsact present", &mut || {
            black_box(ensure_clsact(ifindex).unwrap());
        });
        put_filter(ifindex, Hook::Egress, egress.as_fd(), "podgate").unwrap();
        time("put_filter replacing", &mut || {
            put_filter(ifindex, Hook::Ingress, ingress.as_fd(), "podgate").unwrap();
        });
        time("filters", &mut || {
            black_box(filters(ifindex, Hook::Ingress).unwrap());
        });
        time("check_clsact", &mut || {
            assert_eq!(check_clsact(ifindex, ids).unwrap(), None);
        });
        time("qdisc_kind (lists the node)", &mut || {
            black_box(qdisc_kind(ifindex).unwrap());
        });
        time("link_by_name", &mut || {
            black_box(link_by_name("h0").unwrap());
        });
        time("clsact + both filters + check + undo", &mut || {
            del_clsact(ifindex).unwrap();
            ensure_clsact(ifindex).unwrap();
            put_filter(ifindex, Hook::Ingress, ingress.as_fd(), "podgate").unwrap();
            put_filter(ifindex, Hook::Egress, egress.as_fd(), "podgate").unwrap();
            assert_eq!(check_clsact(ifindex, ids).unwrap(), None);
        });
    });
}
