//! TCX against the kernel's fdinfo and packets (Debian 12's bpftool does not know TCX).

use std::os::fd::AsFd;

use enforcer::hostnet::{Fault, Hook, ProgramIds, check_tcx, tcx};
use nix::errno::Errno;

use super::{
    program::{Program, SHOT, UNSPEC, fdinfo},
    world::{eventually, fix_neighbours, ip, on_host, plain_pod, reaches_host, reaches_pod, tc},
};

/// TCX came with 6.6; where it is missing the other tests have nothing to do.
fn here() -> bool {
    let version = enforcer::kernel::KernelVersion::running().unwrap();
    assert_eq!(
        tcx::supported(),
        version.at_least(6, 6),
        "on kernel {version}"
    );
    if !tcx::supported() {
        eprintln!("kernel {version} has no TCX: only that is tested");
    }
    tcx::supported()
}

fn programs_at(ifindex: u32, hook: Hook) -> Vec<u32> {
    tcx::query(ifindex, hook)
        .unwrap()
        .iter()
        .map(|entry| entry.prog_id)
        .collect()
}

#[test]
fn kernel_without_tcx_says_so() {
    on_host(|_| {
        let (_pod, ifindex) = plain_pod("h0");
        if here() {
            return;
        }
        let error =
            tcx::attach(ifindex, Hook::Ingress, Program::returning(UNSPEC).as_fd()).unwrap_err();
        assert!(error.to_string().contains("6.6"), "{error}");
        assert_eq!(programs_at(ifindex, Hook::Ingress), [] as [u32; 0]);
    });
}

#[test]
fn a_link_is_in_force_at_its_hook_for_as_long_as_it_is_held() {
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        if !here() {
            return;
        }
        fix_neighbours("h0", &pod);
        let drop_all = Program::returning(SHOT);
        for (hook, attach_type) in [
            (Hook::Ingress, "46 (ingress)"),
            (Hook::Egress, "47 (egress)"),
        ] {
            let link = tcx::attach(ifindex, hook, drop_all.as_fd()).unwrap();
            assert_eq!(fdinfo(link.as_fd(), "link_type"), "tcx");
            assert_eq!(fdinfo(link.as_fd(), "prog_id"), drop_all.id.to_string());
            assert_eq!(fdinfo(link.as_fd(), "ifindex"), ifindex.to_string());
            assert_eq!(fdinfo(link.as_fd(), "attach_type"), attach_type);
            let info = tcx::link_info(link.as_fd()).unwrap();
            assert_eq!(info.id.to_string(), fdinfo(link.as_fd(), "link_id"));
            assert_eq!(
                (info.prog_id, info.ifindex, info.hook),
                (drop_all.id, Some(ifindex), hook)
            );
            let entries = tcx::query(ifindex, hook).unwrap();
            assert_eq!(
                entries,
                [tcx::Entry {
                    prog_id: drop_all.id,
                    link_id: Some(info.id)
                }]
            );
            assert_eq!(reaches_host(&pod), hook == Hook::Egress);
            assert_eq!(reaches_pod(&pod), hook == Hook::Ingress);
            drop(link);
            eventually("link gone", || programs_at(ifindex, hook).is_empty());
        }
    });
}

#[test]
fn ours_goes_to_the_head_and_before_every_filter() {
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        if !here() {
            return;
        }
        fix_neighbours("h0", &pod);
        let [first, second, third] = [UNSPEC, UNSPEC, SHOT].map(Program::returning);
        let _one = tcx::attach(ifindex, Hook::Egress, first.as_fd()).unwrap();
        let _two = tcx::attach(ifindex, Hook::Egress, second.as_fd()).unwrap();
        assert_eq!(programs_at(ifindex, Hook::Egress), [second.id, first.id]);
        assert!(reaches_pod(&pod));
        let _three = tcx::attach(ifindex, Hook::Egress, third.as_fd()).unwrap();
        assert_eq!(
            programs_at(ifindex, Hook::Egress),
            [third.id, second.id, first.id]
        );
        assert!(!reaches_pod(&pod));

        let own = Program::returning(UNSPEC);
        let _in = tcx::attach(ifindex, Hook::Ingress, own.as_fd()).unwrap();
        let ids = |egress: &Program| ProgramIds {
            ingress: own.id,
            egress: egress.id,
        };
        assert_eq!(check_tcx(ifindex, ids(&third)).unwrap(), None);
        let fault = check_tcx(ifindex, ids(&first)).unwrap().unwrap();
        assert!(
            matches!(&fault, Fault::InFront { hook: Hook::Egress, what } if what.contains(&third.id.to_string())),
            "{fault}"
        );
        assert_eq!(
            check_tcx(ifindex, ids(&own)).unwrap(),
            Some(Fault::Missing { hook: Hook::Egress })
        );
    });
}

#[test]
fn a_careless_tc_does_not_remove_a_link() {
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        if !here() {
            return;
        }
        fix_neighbours("h0", &pod);
        tc("qdisc add dev h0 clsact");
        let drop_all = Program::returning(SHOT);
        let _link = tcx::attach(ifindex, Hook::Egress, drop_all.as_fd()).unwrap();
        tc("qdisc del dev h0 clsact");
        assert_eq!(programs_at(ifindex, Hook::Egress), [drop_all.id]);
        assert!(!reaches_pod(&pod));
    });
}

#[test]
fn update_keeps_link_and_place() {
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        if !here() {
            return;
        }
        fix_neighbours("h0", &pod);
        let (old, new, other) = (
            Program::returning(SHOT),
            Program::returning(UNSPEC),
            Program::returning(UNSPEC),
        );
        let _behind = tcx::attach(ifindex, Hook::Egress, other.as_fd()).unwrap();
        let link = tcx::attach(ifindex, Hook::Egress, old.as_fd()).unwrap();
        let before = tcx::link_info(link.as_fd()).unwrap();
        assert!(!reaches_pod(&pod));
        tcx::update(link.as_fd(), new.as_fd()).unwrap();
        assert_eq!(programs_at(ifindex, Hook::Egress), [new.id, other.id]);
        assert_eq!(fdinfo(link.as_fd(), "prog_id"), new.id.to_string());
        assert_eq!(tcx::link_info(link.as_fd()).unwrap().id, before.id);
        assert!(reaches_pod(&pod));
    });
}

#[test]
fn detached_and_orphaned_links() {
    on_host(|_| {
        let (_pod, ifindex) = plain_pod("h0");
        if !here() {
            return;
        }
        let program = Program::returning(UNSPEC);
        let link = tcx::attach(ifindex, Hook::Ingress, program.as_fd()).unwrap();
        tcx::detach(link.as_fd()).unwrap();
        assert_eq!(programs_at(ifindex, Hook::Ingress), [] as [u32; 0]);
        assert_eq!(tcx::link_info(link.as_fd()).unwrap().ifindex, None);
        assert_eq!(
            tcx::update(link.as_fd(), program.as_fd())
                .unwrap_err()
                .errno(),
            Some(Errno::ENOLINK)
        );

        let link = tcx::attach(ifindex, Hook::Ingress, program.as_fd()).unwrap();
        ip("link del h0");
        assert_eq!(tcx::link_info(link.as_fd()).unwrap().ifindex, None);
        assert!(tcx::query(ifindex, Hook::Ingress).unwrap_err().is_gone());
        let error = tcx::attach(ifindex, Hook::Ingress, program.as_fd()).unwrap_err();
        assert!(
            error.to_string().contains(&format!("interface {ifindex}")),
            "{error}"
        );
        let ids = ProgramIds {
            ingress: program.id,
            egress: program.id,
        };
        assert_eq!(
            check_tcx(ifindex, ids).unwrap(),
            Some(Fault::Missing {
                hook: Hook::Ingress
            })
        );
    });
}

#[test]
fn other_descriptors_are_refused() {
    let program = Program::returning(UNSPEC);
    assert_eq!(tcx::prog_id(program.as_fd()).unwrap(), program.id);
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(tcx::prog_id(file.as_fd()).is_err());
    assert!(tcx::link_info(file.as_fd()).is_err());
    assert!(tcx::link_info(program.as_fd()).is_err());
}
