use state::{AttachMode, Mode, Phase};

use super::*;
use crate::{environment::Environment, object::Object, request::Attachment};

const NETNS: &str = "/var/run/netns/x";

/// Plans with the paths that these tests bind the pod's namespace to.
fn plan(
    request: &AddRequest,
    interfaces: Vec<PodInterface>,
    records: &[Record],
) -> Result<AddPlan, Error> {
    super::plan(request, interfaces, records, |sandbox| {
        [NETNS, "/run/netns/x", "/proc/7/ns/net"].contains(&sandbox)
    })
}

fn request(prev: &str) -> AddRequest {
    let environment = Environment {
        container_id: Some("c1".into()),
        netns: Some(NETNS.into()),
        ifname: Some("eth0".into()),
        ..Environment::default()
    };
    let config =
        Object::parse(format!(r#"{{"name":"n","prevResult":{prev}}}"#).as_bytes()).unwrap();
    AddRequest::read(&environment, &config).unwrap()
}

fn interface(ifname: &str, host_ifindex: u32, addresses: &[&str]) -> PodInterface {
    PodInterface {
        ifname: ifname.into(),
        ifindex: 2,
        mac: [2, 0, 0, 0, 0, 1],
        host_mac: [2, 0, 0, 0, 0, 2],
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        host_ifindex,
        host_name: format!("veth{host_ifindex}"),
    }
}

fn record(ifname: &str, cni_ifname: &str, ifindex: u32) -> Record {
    Record {
        schema: state::records::SCHEMA,
        phase: Phase::Attached,
        boot_id: "boot".into(),
        network: "n".into(),
        container_id: "c1".into(),
        cni_ifname: cni_ifname.into(),
        ifname: ifname.into(),
        pod_namespace: "default".into(),
        pod_name: "c1".into(),
        pod_uid: None,
        labels: None,
        netns: NETNS.into(),
        ifindex,
        veth: format!("veth{ifindex}"),
        endpoint_id: 1,
        endpoint_index: 1,
        mac: "02:00:00:00:00:01".into(),
        addresses: vec![],
        mode: Mode::Strict,
        attach_mode: AttachMode::Clsact,
        layout_version: 1,
        attached_at: None,
        attached_at_monotonic_ns: None,
        source_guard: true,
        extra_sources: vec![],
        host_ports: Vec::new(),
        host_path_interfaces: Vec::new(),
        other: serde_json::Map::new(),
    }
}

fn ips(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn aws_cni_with_egress_cni_makes_two_endpoints() {
    let prev = r#"{"interfaces":[{"name":"eni456b416f2bf"},{"name":"eth0","mac":"0","sandbox":"/run/netns/x"},
        {"name":"dummy456b416f2bf","mac":"0","sandbox":"0"},{"name":"veth9c365957","mac":"5a:0b:f9:0a:b2:f7"},
        {"name":"v4if0","mac":"6a:0b:f9:0a:b2:f7","sandbox":"/var/run/netns/x"}],
        "ips":[{"version":"4","interface":1,"address":"192.0.2.1/32"}],"dns":{}}"#;
    let interfaces = vec![
        interface("eth0", 10, &["192.0.2.1/32", "fe80::1/64"]),
        interface("v4if0", 11, &["fd00:ac::2/118"]),
    ];
    let plan = plan(&request(prev), interfaces, &[]).unwrap();
    assert_eq!(plan.left_alone, Vec::<String>::new());
    assert_eq!(plan.endpoints.len(), 2);
    assert_eq!(plan.endpoints[0].addresses, ips(&["192.0.2.1", "fe80::1"]));
    assert_eq!(plan.endpoints[1].addresses, ips(&["fd00:ac::2"]));
}

#[test]
fn three_cards_keep_their_addresses_apart() {
    let prev = r#"{"interfaces":[{"name":"veth10"},{"name":"eth0","sandbox":"/var/run/netns/x","mac":"1"},
        {"name":"veth11"},{"name":"mNicIf1","sandbox":"/var/run/netns/x","mac":"2"},
        {"name":"veth12"},{"name":"mNicIf2","sandbox":"/var/run/netns/x"}],
        "ips":[{"interface":1,"address":"10.0.0.1/32"},{"interface":3,"address":"10.0.1.1/32"},
        {"interface":4,"address":"10.0.2.1/32"},{"address":"fd00::1/64"}]}"#;
    let interfaces = vec![
        interface("eth0", 10, &[]),
        interface("mNicIf1", 11, &[]),
        interface("mNicIf2", 12, &[]),
    ];
    let plan = plan(&request(prev), interfaces, &[]).unwrap();
    let addresses: Vec<_> = plan
        .endpoints
        .iter()
        .map(|endpoint| endpoint.addresses.clone())
        .collect();
    assert_eq!(
        addresses,
        [
            ips(&["10.0.0.1", "fd00::1"]),
            ips(&["10.0.1.1"]),
            ips(&["10.0.2.1"])
        ]
    );
}

#[test]
fn a_result_without_interfaces_is_enough() {
    let prev = r#"{"ips":[{"address":"10.0.0.1/24"}]}"#;
    let plan = plan(&request(prev), vec![interface("eth0", 10, &[])], &[]).unwrap();
    assert_eq!(plan.endpoints[0].addresses, ips(&["10.0.0.1"]));
}

#[test]
fn what_cannot_be_enforced_fails() {
    let missing = |ifname: &str| {
        Err(Error::NotOurs {
            ifname: ifname.into(),
            netns: NETNS.into(),
        })
    };
    assert_eq!(plan(&request("{}"), vec![], &[]), missing("eth0"));
    assert_eq!(
        plan(&request("{}"), vec![interface("net1", 10, &[])], &[]),
        missing("eth0")
    );
    let macvlan_beside = r#"{"interfaces":[{"name":"macvlan0","sandbox":"/run/netns/x"}]}"#;
    assert_eq!(
        plan(
            &request(macvlan_beside),
            vec![interface("eth0", 10, &[])],
            &[]
        ),
        missing("macvlan0")
    );
    let loopback_beside =
        r#"{"interfaces":[{"name":"lo","sandbox":"/run/netns/x"},{"name":"br0"}]}"#;
    assert!(
        plan(
            &request(loopback_beside),
            vec![interface("eth0", 10, &[])],
            &[]
        )
        .is_ok()
    );
}

#[test]
fn another_calls_endpoint_is_left_alone_while_it_is_the_same_veth() {
    let interfaces = || vec![interface("eth0", 10, &[]), interface("net1", 11, &[])];
    let first = record("net1", "net1", 11);
    let made = plan(&request("{}"), interfaces(), std::slice::from_ref(&first)).unwrap();
    assert_eq!(made.left_alone, ["net1"]);
    assert_eq!(
        made.endpoints
            .iter()
            .map(|e| e.interface.ifname.as_str())
            .collect::<Vec<_>>(),
        ["eth0"]
    );
    // The veth behind the name is another one by now: the record is of the past.
    let stale = record("net1", "net1", 7);
    let made = plan(&request("{}"), interfaces(), &[stale]).unwrap();
    assert_eq!(made.endpoints.len(), 2);
}

#[test]
fn a_repeated_add_knows_its_record() {
    let before = record("eth0", "eth0", 10);
    let made = plan(
        &request("{}"),
        vec![interface("eth0", 10, &[])],
        std::slice::from_ref(&before),
    )
    .unwrap();
    assert_eq!(made.endpoints[0].before, Some(before));
    let other_veth = plan(
        &request("{}"),
        vec![interface("eth0", 12, &[])],
        &[record("eth0", "eth0", 10)],
    )
    .unwrap();
    assert_eq!(other_veth.endpoints[0].before, None);
}

#[test]
fn another_containers_interface_in_the_same_namespace_is_left_alone() {
    // Dynamic Multus adds a network to a running pod under a container id of its own.
    let eth0 = Record {
        container_id: "pod".into(),
        ..record("eth0", "eth0", 10)
    };
    let interfaces = || vec![interface("eth0", 10, &[]), interface("net1", 11, &[])];
    let added = AddRequest {
        attachment: Attachment {
            container_id: "dynamic".into(),
            ifname: "net1".into(),
        },
        ..request("{}")
    };
    let made = plan(&added, interfaces(), std::slice::from_ref(&eth0)).unwrap();
    assert_eq!(made.left_alone, ["eth0"]);
    assert_eq!(made.endpoints.len(), 1);
    assert_eq!(made.endpoints[0].interface.ifname, "net1");
    // A container that had the namespace before asked for the same interface: the newest call takes its place.
    let made = plan(&request("{}"), interfaces(), &[eth0]).unwrap();
    assert_eq!(made.left_alone, [""; 0]);
    assert!(
        made.endpoints
            .iter()
            .all(|endpoint| endpoint.before.is_none())
    );
}

#[test]
fn an_interface_of_the_result_counts_by_whatever_path_its_sandbox_is_named() {
    let prev =
        r#"{"interfaces":[{"name":"net7","sandbox":"/proc/7/ns/net"},{"name":"x","sandbox":"0"}]}"#;
    assert_eq!(
        plan(&request(prev), vec![interface("eth0", 10, &[])], &[]).unwrap_err(),
        Error::NotOurs {
            ifname: "net7".into(),
            netns: NETNS.into()
        }
    );
}
