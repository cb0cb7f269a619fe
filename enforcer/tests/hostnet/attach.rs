//! Somebody else's program in front: any agent that uses TCX and returns OK would open every pod.

use std::{
    fs,
    net::UdpSocket,
    os::fd::AsFd as _,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use enforcer::{
    attach::{AttachMode, Programs},
    hostnet::{Fault, Hook, tcx},
    load::{PROGRAM_EGRESS, PROGRAM_INGRESS},
    pins::Pins,
};

use super::{
    program::{Program, SHOT, UNSPEC, pin},
    world::{
        fix_neighbours, on_host, plain_pod, reaches_host, reaches_pod, suffix, tc, tc_filters,
    },
};

const OK: i32 = 0;

/// Pins of programs that drop everything in the place of podgate's.
struct Pinned {
    folder: PathBuf,
    programs: Programs,
}

impl Pinned {
    fn new() -> Self {
        let folder = PathBuf::from(format!("/sys/fs/bpf/pgtest{}", suffix()));
        let pins = Pins::new(&folder);
        fs::create_dir_all(pins.programs()).unwrap();
        fs::create_dir_all(pins.links()).unwrap();
        for name in [PROGRAM_INGRESS, PROGRAM_EGRESS] {
            pin(&Program::returning(SHOT), &pins.program(name));
        }
        let programs = Programs::open(&pins).unwrap();
        Self { folder, programs }
    }

    fn fault(&self, ifindex: u32, mode: AttachMode) -> Option<Fault> {
        self.programs.verify(ifindex, mode).unwrap()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn in_front(fault: &Option<Fault>) -> bool {
    matches!(fault, Some(Fault::InFront { .. }))
}

#[test]
fn filters_behind_a_strangers_program_move_to_the_head_of_tcx() {
    if !tcx::supported() {
        return;
    }
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        fix_neighbours("h0", &pod);
        let ours = Pinned::new();
        let attached = ours.programs.attach(ifindex, AttachMode::Clsact).unwrap();
        assert_eq!(attached.mode, AttachMode::Clsact);
        assert!(!reaches_pod(&pod) && !reaches_host(&pod));

        let stranger = Program::returning(OK);
        let _links = Hook::ALL.map(|hook| tcx::attach(ifindex, hook, stranger.as_fd()).unwrap());
        assert!(
            reaches_pod(&pod) && reaches_host(&pod),
            "it opens the pod: this is what is to be closed"
        );
        assert!(in_front(&ours.fault(ifindex, AttachMode::Clsact)));
        let attached = ours.programs.attach(ifindex, AttachMode::Clsact).unwrap();
        assert_eq!(attached.mode, AttachMode::Tcx);
        assert_eq!(ours.fault(ifindex, AttachMode::Tcx), None);
        assert!(!reaches_pod(&pod) && !reaches_host(&pod));
        for hook in ["ingress", "egress"] {
            assert!(tc_filters("h0", hook).is_empty(), "evaluated twice");
        }
    });
}

#[test]
fn a_link_behind_a_strangers_program_is_made_anew_at_the_head() {
    if !tcx::supported() {
        return;
    }
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        fix_neighbours("h0", &pod);
        let ours = Pinned::new();
        ours.programs.attach(ifindex, AttachMode::Tcx).unwrap();
        for _ in 0..2 {
            let stranger = Program::returning(OK);
            let _links =
                Hook::ALL.map(|hook| tcx::attach(ifindex, hook, stranger.as_fd()).unwrap());
            assert!(reaches_pod(&pod) && reaches_host(&pod));
            assert!(in_front(&ours.fault(ifindex, AttachMode::Tcx)));
            ours.programs.attach(ifindex, AttachMode::Tcx).unwrap();
            assert_eq!(ours.fault(ifindex, AttachMode::Tcx), None);
            assert!(!reaches_pod(&pod) && !reaches_host(&pod));
        }
        for hook in ["ingress", "egress"] {
            assert!(tc_filters("h0", hook).is_empty(), "evaluated twice");
        }
    });
}

/// A stranger that lets packets on to the next opens nothing; nor may our way past it.
#[test]
fn there_is_no_instant_without_us_on_the_way_to_the_head() {
    if !tcx::supported() {
        return;
    }
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        fix_neighbours("h0", &pod);
        let ours = Pinned::new();
        let receiver = UdpSocket::bind("10.9.0.1:0").unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let to = receiver.local_addr().unwrap();
        let sender = pod.inside(|| UdpSocket::bind("10.9.0.2:0").unwrap());
        ours.programs.attach(ifindex, AttachMode::Clsact).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = sender.send_to(b"x", to);
                }
            });
            let mut mode = AttachMode::Clsact;
            for _ in 0..5 {
                let stranger = Program::returning(UNSPEC);
                let _links =
                    Hook::ALL.map(|hook| tcx::attach(ifindex, hook, stranger.as_fd()).unwrap());
                assert!(in_front(&ours.fault(ifindex, mode)));
                mode = ours.programs.attach(ifindex, mode).unwrap().mode;
                assert_eq!(ours.fault(ifindex, mode), None);
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(receiver.recv(&mut [0; 8]).is_err(), "a packet got through");
        // The receiver works: without us the same packet arrives.
        ours.programs.forget_links(ifindex).unwrap();
        super::world::eventually("the packet arrives", || {
            sender.send_to(b"x", to).unwrap();
            receiver.recv(&mut [0; 8]).is_ok()
        });
    });
}

#[test]
fn an_interface_where_a_stranger_stands_already() {
    if !tcx::supported() {
        return;
    }
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        fix_neighbours("h0", &pod);
        let stranger = Program::returning(OK);
        let _links = Hook::ALL.map(|hook| tcx::attach(ifindex, hook, stranger.as_fd()).unwrap());
        let ours = Pinned::new();
        let attached = ours.programs.attach(ifindex, AttachMode::Clsact).unwrap();
        assert_eq!(attached.mode, AttachMode::Tcx);
        assert!(!reaches_pod(&pod) && !reaches_host(&pod));
        ours.programs.detach(&attached).unwrap();
        assert!(reaches_pod(&pod) && reaches_host(&pod), "its undo");
    });
}

/// Where the plain `ingress` qdisc of the bandwidth plugin stands there is no room for a filter that covers.
#[test]
fn a_link_moves_beside_a_plain_ingress_qdisc_too() {
    if !tcx::supported() {
        return;
    }
    on_host(|_| {
        let (pod, ifindex) = plain_pod("h0");
        fix_neighbours("h0", &pod);
        tc("qdisc add dev h0 ingress");
        let ours = Pinned::new();
        let mode = ours
            .programs
            .attach(ifindex, AttachMode::Clsact)
            .unwrap()
            .mode;
        assert_eq!(mode, AttachMode::Tcx);
        let stranger = Program::returning(OK);
        let _links = Hook::ALL.map(|hook| tcx::attach(ifindex, hook, stranger.as_fd()).unwrap());
        ours.programs.attach(ifindex, mode).unwrap();
        assert_eq!(ours.fault(ifindex, mode), None);
        assert!(!reaches_pod(&pod) && !reaches_host(&pod));
    });
}
