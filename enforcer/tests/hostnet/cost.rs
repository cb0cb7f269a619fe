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

/// Median and 99th percentile in microseconds.
fn time(what: &str, mut call: impl FnMut()) -> f64 {
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
    took[250]
}

#[test]
fn each_call_is_well_below_a_millisecond_on_a_full_node() {
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
        let mut slowest: f64 = 0.0;
        let mut measure = |what, call: &mut dyn FnMut()| slowest = slowest.max(time(what, call));
        measure("pod_interfaces", &mut || {
            black_box(pod_interfaces(&pod.path).unwrap());
        });
        measure("ensure_clsact made + del_clsact", &mut || {
            ensure_clsact(ifindex).unwrap();
            del_clsact(ifindex).unwrap();
        });
        ensure_clsact(ifindex).unwrap();
        measure("ensure_clsact present", &mut || {
            black_box(ensure_clsact(ifindex).unwrap());
        });
        put_filter(ifindex, Hook::Egress, egress.as_fd(), "podgate").unwrap();
        measure("put_filter replacing", &mut || {
            put_filter(ifindex, Hook::Ingress, ingress.as_fd(), "podgate").unwrap();
        });
        measure("filters", &mut || {
            black_box(filters(ifindex, Hook::Ingress).unwrap());
        });
        measure("check_clsact", &mut || {
            assert_eq!(check_clsact(ifindex, ids).unwrap(), None);
        });
        measure("qdisc_kind (lists the node)", &mut || {
            black_box(qdisc_kind(ifindex).unwrap());
        });
        measure("link_by_name", &mut || {
            black_box(link_by_name("h0").unwrap());
        });
        measure("clsact + both filters + check + undo", &mut || {
            del_clsact(ifindex).unwrap();
            ensure_clsact(ifindex).unwrap();
            put_filter(ifindex, Hook::Ingress, ingress.as_fd(), "podgate").unwrap();
            put_filter(ifindex, Hook::Egress, egress.as_fd(), "podgate").unwrap();
            assert_eq!(check_clsact(ifindex, ids).unwrap(), None);
        });
        assert!(slowest < 5_000.0, "a call takes {slowest} us");
    });
}
