//! Links and addresses against `ip`.

use enforcer::hostnet::{
    Error, host_addresses, interface_addresses, link_by_index, link_by_name, links,
};

use super::world::{Namespace, index, ip, ip_json, on_host, veth};

#[test]
fn links_are_those_of_ip() {
    on_host(|_| {
        let pod = Namespace::new("pod");
        veth("h0", &pod, "eth0");
        ip("link add br0 type bridge");
        ip("link set h0 master br0");
        ip("link add ifbx type ifb");
        let said = ip_json("-d link");
        let ours = links().unwrap();
        assert_eq!(ours.len(), said.len());
        for (link, said) in ours.iter().zip(&said) {
            assert_eq!(said["ifname"], link.name);
            assert_eq!(said["ifindex"], link.ifindex);
            assert_eq!(said["linkinfo"]["info_kind"].as_str(), link.kind.as_deref());
            let up = said["flags"]
                .as_array()
                .unwrap()
                .iter()
                .any(|flag| flag == "UP");
            assert_eq!(up, link.up, "{}", link.name);
            assert_eq!(link_by_index(link.ifindex).unwrap().as_ref(), Some(link));
            assert_eq!(&link_by_name(&link.name).unwrap(), link);
        }
        let h0 = link_by_name("h0").unwrap();
        assert_eq!(h0.master, Some(index("br0")));
        assert_eq!(h0.peer_ifindex, Some(pod.inside(|| index("eth0"))));
        assert!(h0.peer_netnsid.is_some());
    });
}

#[test]
fn what_is_not_there() {
    on_host(|_| {
        assert_eq!(link_by_index(0).unwrap(), None);
        assert_eq!(link_by_index(4_000_000).unwrap(), None);
        assert_eq!(link_by_index(u32::MAX).unwrap(), None);
        for name in ["nope0", "", "a-name-that-is-too-long-for-an-interface"] {
            let error = link_by_name(name).unwrap_err();
            assert!(
                matches!(&error, Error::NoSuchName { name: named, .. } if named == name),
                "{error}"
            );
        }
    });
}

#[test]
fn host_addresses_are_those_of_ip() {
    on_host(|_| {
        let pod = Namespace::new("pod");
        let h0 = veth("h0", &pod, "eth0");
        ip("addr add 10.2.0.1/16 dev h0");
        ip("addr add 10.3.0.1 peer 10.3.0.2/32 dev h0");
        ip("addr add fd00:2::1/64 dev h0 nodad");
        ip("link add kube-ipvs0 type ifb");
        ip("addr add 10.96.0.1/32 dev kube-ipvs0");
        let mut said: Vec<(String, String)> = ip_json("addr")
            .iter()
            .flat_map(|link| {
                let name = link["ifname"].as_str().unwrap().to_owned();
                let info = link["addr_info"].as_array().unwrap().clone();
                info.into_iter()
                    .map(move |one| (name.clone(), one["local"].as_str().unwrap().to_owned()))
            })
            .collect();
        let mut ours: Vec<(String, String)> = host_addresses()
            .unwrap()
            .into_iter()
            .map(|one| (one.ifname, one.address.to_string()))
            .collect();
        said.sort();
        ours.sort();
        assert_eq!(ours, said);
        // On a point-to-point address the near end is the host's.
        assert!(ours.contains(&("h0".into(), "10.3.0.1".into())));
        let of_h0: Vec<String> = interface_addresses(h0)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(of_h0.contains(&"10.2.0.1/16".to_owned()), "{of_h0:?}");
    });
}

#[test]
fn lists_stay_whole_while_everything_changes() {
    on_host(|_| {
        for n in 0..60 {
            ip(&format!("link add keep{n} type ifb"));
        }
        std::thread::scope(|scope| {
            let churn = scope.spawn(|| {
                for _ in 0..40 {
                    ip("link add churn type ifb");
                    ip("link del churn");
                }
            });
            while !churn.is_finished() {
                let kept = links()
                    .unwrap()
                    .iter()
                    .filter(|link| link.name.starts_with("keep"))
                    .count();
                assert_eq!(kept, 60);
            }
        });
    });
}
