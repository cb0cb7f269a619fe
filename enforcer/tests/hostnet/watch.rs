//! What the watcher tells, with `ip` and `tc` making the changes.

use std::{collections::HashSet, os::fd::AsFd, time::Duration};

use enforcer::hostnet::{
    Hook, ProgramIds, check_clsact, ensure_clsact, filters, host_addresses, links, pod_interfaces,
    put_filter, qdisc_kind,
    watch::{Change, Watcher},
};

use super::{
    program::{Program, UNSPEC},
    world::{Namespace, index, ip, on_host, plain_pod, tc, veth},
};

/// Runs a test with a watcher of a fresh host.
fn watching<F>(test: F)
where
    F: AsyncFnOnce(&mut Watcher) + Send,
{
    on_host(|_| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut watcher = Watcher::start().unwrap();
            test(&mut watcher).await;
        });
    });
}

/// Waits for a change, five seconds at most.
async fn told(watcher: &mut Watcher, wanted: Change) {
    let wait = async { while watcher.next().await.unwrap() != wanted {} };
    tokio::time::timeout(Duration::from_secs(5), wait)
        .await
        .unwrap_or_else(|_| panic!("never told of {wanted:?}"));
}

/// Everything told until nothing comes for a while.
async fn quiet(watcher: &mut Watcher) -> HashSet<Change> {
    let mut seen = HashSet::new();
    while let Ok(Some(change)) =
        tokio::time::timeout(Duration::from_millis(200), watcher.next()).await
    {
        seen.insert(change);
    }
    seen
}

#[test]
fn links_and_addresses() {
    watching(async |watcher| {
        let pod = Namespace::new("pod");
        let ifindex = veth("h0", &pod, "eth0");
        told(watcher, Change::Link { ifindex }).await;
        ip("addr add 10.1.0.1/24 dev h0");
        told(watcher, Change::Address { ifindex }).await;
        ip("addr add fd00::1/64 dev h0");
        told(watcher, Change::Address { ifindex }).await;
        ip("addr del 10.1.0.1/24 dev h0");
        told(watcher, Change::Address { ifindex }).await;
        ip("link del h0");
        told(watcher, Change::LinkGone { ifindex }).await;
    });
}

#[test]
fn a_link_that_moves_away_and_a_port_that_leaves_its_bridge() {
    watching(async |watcher| {
        let pod = Namespace::new("pod");
        let ifindex = veth("h0", &pod, "eth0");
        ip("link add br0 type bridge");
        ip("link set h0 master br0");
        quiet(watcher).await;
        ip("link set h0 nomaster");
        let seen = quiet(watcher).await;
        assert!(seen.contains(&Change::Link { ifindex }), "{seen:?}");
        assert!(!seen.contains(&Change::LinkGone { ifindex }), "{seen:?}");
        ip(&format!("link set h0 netns {}", pod.name));
        told(watcher, Change::LinkGone { ifindex }).await;
    });
}

#[test]
fn kernel_tells_of_removed_filters_and_qdiscs() {
    watching(async |watcher| {
        let (_pod, ifindex) = plain_pod("h0");
        let program = Program::returning(UNSPEC);
        ensure_clsact(ifindex).unwrap();
        for hook in Hook::ALL {
            put_filter(ifindex, hook, program.as_fd(), "podgate").unwrap();
        }
        quiet(watcher).await;
        tc("filter del dev h0 egress");
        told(watcher, Change::Tc { ifindex }).await;
        quiet(watcher).await;
        tc("qdisc del dev h0 clsact");
        told(watcher, Change::Tc { ifindex }).await;
        quiet(watcher).await;
        tc("qdisc add dev h0 ingress");
        told(watcher, Change::Tc { ifindex }).await;
    });
}

#[test]
fn looking_wakes_nobody() {
    watching(async |watcher| {
        let (pod, ifindex) = plain_pod("h0");
        let program = Program::returning(UNSPEC);
        ensure_clsact(ifindex).unwrap();
        put_filter(ifindex, Hook::Ingress, program.as_fd(), "podgate").unwrap();
        // DAD and the like come late.
        while !quiet(watcher).await.is_empty() {}
        qdisc_kind(ifindex).unwrap();
        filters(ifindex, Hook::Ingress).unwrap();
        check_clsact(
            ifindex,
            ProgramIds {
                ingress: program.id,
                egress: program.id,
            },
        )
        .unwrap();
        links().unwrap();
        host_addresses().unwrap();
        pod_interfaces(&pod.path).unwrap();
        assert_eq!(quiet(watcher).await, HashSet::new());
        assert_eq!(watcher.try_next(), None);
    });
}

#[test]
fn more_than_the_socket_holds_is_told_as_lost() {
    watching(async |watcher| {
        let (_pod, ifindex) = plain_pod("h0");
        let program = Program::returning(UNSPEC);
        ensure_clsact(ifindex).unwrap();
        // Nobody reads meanwhile: the runtime has one thread, and we are on it.
        for _ in 0..20_000 {
            put_filter(ifindex, Hook::Ingress, program.as_fd(), "podgate").unwrap();
        }
        told(watcher, Change::Lost).await;
        // And it goes on after that.
        quiet(watcher).await;
        ip("link add ifbz type ifb");
        let new = index("ifbz");
        told(watcher, Change::Link { ifindex: new }).await;
    });
}
