//! clsact and BPF filters against `tc` and packets.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use enforcer::hostnet::{
    Clsact, Error, FILTER_HANDLE, Fault, Hook, ProgramIds, QdiscKind, check_clsact, del_clsact,
    del_filter, ensure_clsact, filters, put_filter, qdisc_kind, tcx,
};

use super::{
    program::{Program, SHOT, UNSPEC},
    world::{
        fix_neighbours, on_host, plain_pod, reaches_host, reaches_pod, tc, tc_filters,
        tc_ingress_qdiscs,
    },
};

fn attach(ifindex: u32, ingress: &Program, egress: &Program) -> ProgramIds {
    put_filter(ifindex, Hook::Ingress, ingress.as_fd(), "podgate_in").unwrap();
    put_filter(ifindex, Hook::Egress, egress.as_fd(), "podgate_eg").unwrap();
    ProgramIds {
        ingress: ingress.id,
        egress: egress.id,
    }
}

/// A bpffs takes no names with dots, so no tempfile there.
fn pin_path() -> std::path::PathBuf {
    format!("/sys/fs/bpf/pg-test-{}", super::world::suffix()).into()
}

#[test]
fn clsact_is_made_once_and_confirmed_after() {
    on_host(|_| {
        let (_pod, ifindex) = plain_pod("h0");
        assert_eq!(qdisc_kind(ifindex).unwrap(), QdiscKind::None);
        assert_eq!(ensure_clsact(ifindex).unwrap(), Clsact::Created);
        assert_eq!(tc_ingress_qdiscs("h0"), ["clsact"]);
        assert_eq!(qdisc_kind(ifindex).unwrap(), QdiscKind::Clsact);
        assert_eq!(ensure_clsact(ifindex).unwrap(), Clsact::Present);
        del_clsact(ifindex).unwrap();
        assert!(tc_ingress_qdiscs("h0").is_empty());
        del_clsact(ifindex).unwrap();
        // Another qdisc at the root is no obstacle.
        tc("qdisc replace dev h0 root tbf rate 10mbit burst 32kbit latency 400ms");
        assert_eq!(qdisc_kind(ifindex).unwrap(), QdiscKind::None);
        assert_eq!(ensure_clsact(ifindex).unwrap(), Clsact::Created);
    });
}

#[test]
fn clsact_of_somebody_else_is_used_and_keeps_its_filters() {
    on_host(|_| {
        let (_pod, ifindex) = plain_pod("h0");
        tc("qdisc add dev h0 clsact");
        tc("filter add dev h0 ingress prio 7 protocol ip u32 match u32 0 0 classid 1:1");
        assert_eq!(ensure_clsact(ifindex).unwrap(), Clsact::Present);
        let programs = (Program::returning(UNSPEC), Program::returning(UNSPEC));
        let ids = attach(ifindex, &programs.0, &programs.1);
        assert_eq!(check_clsact(ifindex, ids).unwrap(), None);
        let order: Vec<(u64, String)> = tc_filters("h0", "ingress")
            .iter()
            .map(|one| {
                (
                    one["pref"].as_u64().unwrap(),
                    one["kind"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        assert_eq!(order.first(), Some(&(1, "bpf".to_owned())));
        assert!(
            order.iter().any(|(pref, kind)| *pref == 7 && kind == "u32"),
            "{order:?}"
        );
    });
}

#[test]
fn a_plain_ingress_qdisc_is_refused_by_name() {
    on_host(|_| {
        let (_pod, ifindex) = plain_pod("h0");
        tc("qdisc add dev h0 ingress");
        assert_eq!(qdisc_kind(ifindex).unwrap(), QdiscKind::Ingress);
        let error = ensure_clsact(ifindex).unwrap_err();
        assert!(
            matches!(error, Error::QdiscInTheWay { kind: QdiscKind::Ingress, ifindex: index } if index == ifindex),
            "{error}"
        );
        assert!(error.to_string().contains("bandwidth"), "{error}");
        del_clsact(ifindex).unwrap();
        assert_eq!(tc_ingress_qdiscs("h0"), ["ingress"]);
    });
}

#[test]
fn kernel_egress_filter_that_landed_on_ingress_is_noticed() {
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        fix_neighbours("h0", &pod);
        tc("qdisc add dev h0 ingress");
        let (ingress, egress) = (Program::returning(UNSPEC), Program::returning(SHOT));
        // The kernel takes both: the second replaces the first, on the ingress hook.
        let ids = attach(ifindex, &ingress, &egress);
        assert!(reaches_pod(&pod), "nothing holds what goes to the pod");
        assert!(!reaches_host(&pod));
        let fault = check_clsact(ifindex, ids).unwrap().unwrap();
        assert_eq!(
            fault,
            Fault::OtherProgram {
                hook: Hook::Ingress,
                found: egress.id,
                wanted: ingress.id
            }
        );
        // Even if both programs were one.
        let same = ProgramIds {
            ingress: egress.id,
            egress: egress.id,
        };
        assert_eq!(
            check_clsact(ifindex, same).unwrap(),
            Some(Fault::PlainIngress)
        );
    });
}

#[test]
fn kernel_filters_are_what_tc_sees_on_the_right_hook() {
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        fix_neighbours("h0", &pod);
        ensure_clsact(ifindex).unwrap();
        assert_eq!(filters(ifindex, Hook::Ingress).unwrap(), []);
        let (pass, drop) = (Program::returning(UNSPEC), Program::returning(SHOT));
        let ids = attach(ifindex, &pass, &drop);
        for (hook, name, program) in [
            (Hook::Ingress, "podgate_in", &pass),
            (Hook::Egress, "podgate_eg", &drop),
        ] {
            let said = tc_filters("h0", &hook.to_string());
            assert_eq!(said.len(), 1, "{said:?}");
            assert_eq!(said[0]["pref"], 1);
            assert_eq!(said[0]["protocol"], "all");
            let options = &said[0]["options"];
            assert_eq!(options["handle"], format!("{FILTER_HANDLE:#x}"));
            assert_eq!(options["direct-action"], true);
            assert_eq!(options["bpf_name"], name);
            assert_eq!(options["prog"]["id"], program.id);
            let ours = filters(ifindex, hook).unwrap();
            assert_eq!(ours.len(), 1);
            assert_eq!(ours[0].prog_id, Some(program.id));
            assert_eq!(ours[0].prog_name.as_deref(), Some(name));
            assert_eq!(
                (ours[0].chain, ours[0].priority, ours[0].protocol),
                (0, 1, 3)
            );
        }
        assert_eq!(check_clsact(ifindex, ids).unwrap(), None);
        assert!(reaches_host(&pod), "the pod's egress passes");
        assert!(!reaches_pod(&pod), "the pod's ingress does not");
        del_filter(ifindex, Hook::Egress).unwrap();
        assert!(tc_filters("h0", "egress").is_empty());
        assert!(reaches_pod(&pod));
        del_filter(ifindex, Hook::Egress).unwrap();
        del_clsact(ifindex).unwrap();
        del_filter(ifindex, Hook::Egress).unwrap();
    });
}

#[test]
fn whatever_makes_an_attachment_vain_has_a_name() {
    on_host(|_| {
        let (_pod, ifindex) = plain_pod("h0");
        let (ingress, egress) = (Program::returning(UNSPEC), Program::returning(UNSPEC));
        let ids = ProgramIds {
            ingress: ingress.id,
            egress: egress.id,
        };
        let fault = || check_clsact(ifindex, ids).unwrap();
        assert_eq!(
            fault(),
            Some(Fault::Missing {
                hook: Hook::Ingress
            })
        );
        ensure_clsact(ifindex).unwrap();
        attach(ifindex, &ingress, &egress);
        assert_eq!(fault(), None);

        // Someone removes one filter, then all.
        tc("filter del dev h0 egress");
        assert_eq!(fault(), Some(Fault::Missing { hook: Hook::Egress }));
        attach(ifindex, &ingress, &egress);
        tc("qdisc del dev h0 clsact");
        assert_eq!(
            fault(),
            Some(Fault::Missing {
                hook: Hook::Ingress
            })
        );
        ensure_clsact(ifindex).unwrap();
        attach(ifindex, &ingress, &egress);

        // Programs exchanged.
        let swapped = ProgramIds {
            ingress: egress.id,
            egress: ingress.id,
        };
        assert_eq!(
            check_clsact(ifindex, swapped).unwrap(),
            Some(Fault::OtherProgram {
                hook: Hook::Ingress,
                found: ingress.id,
                wanted: egress.id
            })
        );

        // A stranger's filter of our priority, added later, comes first within it.
        let stranger = Program::returning(0);
        let pin = pin_path();
        super::program::pin(&stranger, &pin);
        tc(&format!(
            "filter add dev h0 ingress prio 1 handle 9 protocol all bpf da pinned {}",
            pin.display()
        ));
        let in_front = fault().unwrap();
        assert!(
            matches!(&in_front, Fault::InFront { hook: Hook::Ingress, what } if what.contains("0x9")),
            "{in_front}"
        );
        tc("filter del dev h0 ingress prio 1 handle 9 protocol all bpf");
        std::fs::remove_file(&pin).unwrap();
        assert_eq!(fault(), None);

        // TCX comes before any filter.
        if tcx::supported() {
            let link = tcx::attach(ifindex, Hook::Egress, stranger.as_fd()).unwrap();
            let in_front = fault().unwrap();
            assert!(
                matches!(
                    &in_front,
                    Fault::InFront {
                        hook: Hook::Egress,
                        ..
                    }
                ),
                "{in_front}"
            );
            drop(link);
            super::world::eventually("link gone", || fault().is_none());
        }
    });
}

#[test]
fn a_filter_without_direct_action_is_no_enforcement() {
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        fix_neighbours("h0", &pod);
        ensure_clsact(ifindex).unwrap();
        let (ingress, egress) = (Program::returning(SHOT), Program::returning(SHOT));
        let ids = attach(ifindex, &ingress, &egress);
        let pin = pin_path();
        super::program::pin(&ingress, &pin);
        tc(&format!(
            "filter replace dev h0 ingress prio 1 handle {FILTER_HANDLE:#x} protocol all bpf pinned {} classid 1:1",
            pin.display()
        ));
        std::fs::remove_file(&pin).unwrap();
        assert!(
            reaches_host(&pod),
            "without direct action the return code is a class"
        );
        assert_eq!(
            check_clsact(ifindex, ids).unwrap(),
            Some(Fault::NotDirectAction {
                hook: Hook::Ingress
            })
        );
        // Putting ours on once more mends it in place.
        attach(ifindex, &ingress, &egress);
        assert_eq!(check_clsact(ifindex, ids).unwrap(), None);
        assert!(!reaches_host(&pod));
    });
}

#[test]
fn a_filter_of_another_kind_at_our_priority_is_an_error() {
    on_host(|_| {
        let (_pod, ifindex) = plain_pod("h0");
        tc("qdisc add dev h0 clsact");
        tc("filter add dev h0 ingress prio 1 protocol all u32 match u32 0 0 classid 1:1");
        let program = Program::returning(UNSPEC);
        let error = put_filter(ifindex, Hook::Ingress, program.as_fd(), "podgate").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("interface {ifindex}")) && text.contains("ingress"),
            "{text}"
        );
        assert!(error.errno().is_some(), "{text}");
        // The kernel's own words are in it.
        assert!(text.contains("kind"), "{text}");
    });
}

#[test]
fn replacing_in_place_lets_nothing_through() {
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        fix_neighbours("h0", &pod);
        ensure_clsact(ifindex).unwrap();
        let (one, other) = (Program::returning(SHOT), Program::returning(SHOT));
        put_filter(ifindex, Hook::Egress, one.as_fd(), "podgate").unwrap();
        let receiver = pod.inside(|| std::net::UdpSocket::bind("10.9.0.2:7777").unwrap());
        receiver.set_nonblocking(true).unwrap();
        let sender = std::net::UdpSocket::bind("10.9.0.1:0").unwrap();
        let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = sender.send_to(b"x", "10.9.0.2:7777");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
            for _ in 0..2_000 {
                put_filter(ifindex, Hook::Egress, other.as_fd(), "podgate").unwrap();
                put_filter(ifindex, Hook::Egress, one.as_fd(), "podgate").unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        let sent = sent.into_inner();
        assert!(sent > 1_000, "only {sent} packets were sent meanwhile");
        assert!(receiver.recv(&mut [0; 8]).is_err(), "a packet got through");
        assert_eq!(tc_filters("h0", "egress").len(), 1);
        assert_eq!(
            tc_filters("h0", "egress")[0]["options"]["prog"]["id"],
            one.id
        );
        // And the path was open but for the filter.
        del_filter(ifindex, Hook::Egress).unwrap();
        receiver.set_nonblocking(false).unwrap();
        assert!(reaches_pod(&pod));
    });
}

#[test]
fn an_interface_that_is_gone() {
    on_host(|_| {
        let gone = 4_000_000;
        let program = Program::returning(UNSPEC);
        let error = ensure_clsact(gone).unwrap_err();
        assert!(
            error.is_gone() && error.to_string().contains("4000000"),
            "{error}"
        );
        let error = put_filter(gone, Hook::Egress, program.as_fd(), "podgate").unwrap_err();
        assert!(error.is_gone(), "{error}");
        del_filter(gone, Hook::Egress).unwrap();
        del_clsact(gone).unwrap();
        assert_eq!(filters(gone, Hook::Egress).unwrap(), []);
        assert_eq!(qdisc_kind(gone).unwrap(), QdiscKind::None);
        let ids = ProgramIds {
            ingress: program.id,
            egress: program.id,
        };
        assert_eq!(
            check_clsact(gone, ids).unwrap(),
            Some(Fault::Missing {
                hook: Hook::Ingress
            })
        );
    });
}

#[test]
fn many_interfaces_are_listed_whole() {
    on_host(|_| {
        let (_pod, last) = plain_pod("h0");
        // More than one datagram of qdiscs and filters.
        for n in 0..300 {
            super::world::ip(&format!("link add d{n} type ifb"));
            let ifindex = enforcer::hostnet::link_by_name(&format!("d{n}"))
                .unwrap()
                .ifindex;
            ensure_clsact(ifindex).unwrap();
        }
        ensure_clsact(last).unwrap();
        assert_eq!(qdisc_kind(last).unwrap(), QdiscKind::Clsact);
        for prio in 2..400 {
            tc(&format!(
                "filter add dev h0 ingress prio {prio} protocol ip u32 match u32 0 0 classid 1:1"
            ));
        }
        assert_eq!(
            filters(last, Hook::Ingress).unwrap().len(),
            tc_filters("h0", "ingress").len()
        );
    });
}

#[test]
fn a_block_shared_with_other_interfaces_is_refused() {
    on_host(|_| {
        let (_pod, ifindex) = plain_pod("h0");
        tc("qdisc add dev h0 ingress_block 22 clsact");
        assert_eq!(ensure_clsact(ifindex).unwrap(), Clsact::Present);
        let program = Program::returning(UNSPEC);
        // Through the interface the kernel takes nothing for a block that can be shared.
        let error = put_filter(ifindex, Hook::Ingress, program.as_fd(), "podgate").unwrap_err();
        assert!(error.errno().is_some(), "{error}");
        put_filter(ifindex, Hook::Egress, program.as_fd(), "podgate").unwrap();
        let ids = ProgramIds {
            ingress: program.id,
            egress: program.id,
        };
        assert_eq!(
            check_clsact(ifindex, ids).unwrap(),
            Some(Fault::Missing {
                hook: Hook::Ingress
            })
        );
    });
}
