//! Who passes for the host, what of the host a pod may reach, and what only looks like the host.

use integration::attack::Seen;

attacks! {
    /// Reference B6: the node's address as source, from outside. IPv6 has no check against it.
    kernel_attack_nodes_address_from_outside {
        frames: &["outside: v6 node > victim tcp $S > 22 syn mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim-gateway: v6 node > victim tcp $S > 22 syn mark"],
    }

    /// The same over IPv4, where the uplink accepts local sources.
    nodes_address_from_outside_over_ipv4 {
        frames: &["outside: v4 node > victim tcp $S > 22 syn mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim-gateway: v4 node > victim tcp $S > 22 syn mark"],
    }

    /// On the tuple of a real probe: its flow is the host's, this packet is not.
    nodes_address_on_the_tuple_of_a_probe {
        before: &["victim-gateway: v6 node > victim tcp $S > 22 syn"],
        frames: &["outside: v6 node > victim tcp $S > 22 ack mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim-gateway: v6 node > victim tcp $S > 22 syn", "victim-gateway: v6 node > victim tcp $S > 22 ack mark"],
    }

    /// The pod's own address as source, from outside: what a pod sends itself always passes.
    pods_own_address_from_outside {
        frames: &["outside: v6 victim > victim tcp $S > 22 syn mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["outside: v6 mate > victim tcp $S > 22 syn mark"],
    }

    /// A node with conntrack puts IPv6 fragments together and cuts them again, and the new packets come from nowhere: with the node's
    /// address as source they look like the host's.
    kernel_attack_refragmented_ipv6_as_the_host {
        frames: &[
            "outside: v6 node > victim ext=dst:75 ext=frag:0:more:$I tcp $S > 22 syn mark data=2000 keep=800",
            "outside: v6 node > victim ext=frag:100:$I tcp $S > 22 syn mark data=2000 skip=800",
        ],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &[
            "outside: v6 mate > victim ext=dst:75 ext=frag:0:more:$I tcp $S > 22 syn mark data=2000 keep=800",
            "outside: v6 mate > victim ext=frag:100:$I tcp $S > 22 syn mark data=2000 skip=800",
        ],
    }

    /// The same from another pod, with its own address.
    refragmented_ipv6_from_a_pod {
        frames: &[
            "neighbour: v6 neighbour > victim ext=dst:60 ext=frag:0:more:$I tcp $S > 22 syn mark data=1400 keep=800",
            "neighbour: v6 neighbour > victim ext=frag:100:$I tcp $S > 22 syn mark data=1400 skip=800",
        ],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["outside: v6 mate > victim tcp $S > 22 syn mark"],
    }

    /// A REJECT rule of the node answers in the name of a stranger, and its RST comes from nowhere too.
    kernel_attack_reject_in_the_name_of_a_stranger {
        frames: &["neighbour: v4 victim > stranger tcp $S > 7777 syn"],
        shows: Some("outside: v4 stranger > victim tcp 7777 > $S rst"),
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim: v4 victim > friend tcp $S > 80 syn", "outside: v4 friend > victim tcp 80 > $S syn ack mark"],
    }

    /// Reference B6: through a Service with masquerade the packet has the node's address and a real origin: a device.
    kernel_attack_masqueraded_by_the_node {
        frames: &["outside: v4 stranger > victim-service tcp $S > 22 syn mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim-gateway: v4 node > victim tcp $S > 22 syn mark"],
    }

    /// The same over IPv6, from another pod of the node.
    masqueraded_by_the_node_from_a_pod {
        frames: &["neighbour: v6 neighbour > victim-service tcp $S > 22 syn mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim-gateway: v6 node > victim tcp $S > 22 syn mark"],
    }

    /// Through a Service that leads to a pod that policy does not name.
    service_of_a_pod_that_is_not_allowed {
        frames: &["jail: v4 jail > neighbour-service tcp $S > 22 syn mark"],
        seen: Seen::At("neighbour"),
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > mate tcp $S > 22 syn mark"],
        twin_seen: Some(Seen::At("outside")),
    }

    /// A NodePort by way of the own node: to the node's address, and on to a pod; a process of the node listens on its number too.
    kernel_attack_nodeport_by_way_of_the_own_node {
        frames: &["jail: v4 jail > node tcp $S > 30080 syn mark"],
        seen: Seen::At("neighbour"),
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > node tcp $S > 10250 syn mark"],
        twin_seen: Some(Seen::FromPod("jail", 0x0800)),
    }

    /// The same to the gateway's address, which is the node's too.
    nodeport_by_way_of_the_gateway {
        frames: &["jail: v6 jail > jail-gateway tcp $S > 30080 syn mark"],
        seen: Seen::At("neighbour"),
        dropped: "jail egress/policy-denied",
        twin: &["jail: v6 jail > jail-gateway tcp $S > 10250 syn mark"],
        twin_seen: Some(Seen::FromPod("jail", 0x86dd)),
    }

    /// A hostPort leads to a pod by a rule alone; no socket of the node takes it.
    host_port_by_way_of_the_own_node {
        frames: &["jail: v4 jail > node tcp $S > 8088 syn mark"],
        seen: Seen::At("neighbour"),
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > node udp $S > 53 mark"],
        twin_seen: Some(Seen::FromPod("jail", 0x0800)),
    }

    /// A port of the node on which nobody listens.
    node_without_a_socket {
        frames: &["jail: v4 jail > node tcp $S > 9 syn mark"],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > node tcp $S > 10250 syn mark"],
    }

    /// UDP to TCP's port.
    node_without_a_socket_of_this_protocol {
        frames: &["jail: v6 jail > node udp $S > 10250 mark"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/policy-denied",
        twin: &["jail: v6 jail > node udp $S > 53 mark"],
    }

    /// In IPVS mode the node holds the Services' addresses: any process that listens on all addresses listens there too.
    service_address_on_an_ipvs_node {
        frames: &["jail: v4 jail > ipvs tcp $S > 10250 syn mark"],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > node tcp $S > 10250 syn mark"],
    }

    /// Another proxy's device.
    service_address_on_a_proxys_dummy_device {
        frames: &["jail: v4 jail > 10.96.0.98 tcp $S > 10250 syn mark"],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > node tcp $S > 10250 syn mark"],
    }

    /// The same over IPv6, as source: not the host's.
    ipvs_address_as_source {
        frames: &["victim-gateway: v6 ipvs > victim tcp $S > 22 syn mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim-gateway: v6 node > victim tcp $S > 22 syn mark"],
    }

    /// Loopback of the node, where it routes it (as kube-proxy may ask): CVE-2020-8558.
    loopback_of_the_node {
        frames: &["jail: v4 jail > 127.0.0.1 tcp $S > 10250 syn mark"],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > node tcp $S > 10250 syn mark"],
    }

    /// The metadata service of a cloud: nothing but another address.
    metadata_service {
        frames: &["jail: v4 jail > 169.254.169.254 tcp $S > 80 syn mark"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// Traffic between pods of the node crosses two hooks: an open side does not open the closed one.
    between_pods_of_the_node {
        frames: &["neighbour: v6 neighbour > victim tcp $S > 80 syn mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["outside: v6 friend > victim tcp $S > 80 syn mark"],
    }

    /// Strict mode without a policy.
    strict_without_a_policy {
        frames: &["pal: v4 pal > friend tcp $S > 80 syn mark"],
        dropped: "pal egress/strict-default",
        twin: &["pal: v4 pal > node tcp $S > 10250 syn mark"],
        twin_seen: Some(Seen::FromPod("pal", 0x0800)),
    }

    /// Packets to its own address take the pod's loopback. On the link a DNAT of the pod's address (a Service with `externalIPs`)
    /// would send them on.
    kernel_attack_own_address_by_a_dnat {
        frames: &["jail: v4 jail > jail udp $S > 9999 mark data=1300"],
        dropped: "jail egress/own-address",
        twin: &["jail: v4 jail > mate udp $S > 9999 mark"],
    }

    /// The same over IPv6.
    own_address_by_a_dnat_over_ipv6 {
        frames: &["jail: v6 jail > jail udp $S > 9999 mark data=1300"],
        dropped: "jail egress/own-address",
        twin: &["jail: v6 jail > mate udp $S > 9999 mark"],
    }
}
