//! ICMP: errors pass for a tracked flow only, all else is under policy.

use integration::attack::Seen;

attacks! {
    /// Reference A8: an error about a flow that does not exist.
    kernel_attack_forged_icmp_error {
        frames: &["outside: v4 stranger > victim icmp 3 4 [ v4 victim > stranger tcp $S > 80 ack ] mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/icmp-unrelated",
        twin: &[
            "victim: v4 victim > friend tcp $S > 80 syn",
            "outside: v4 stranger > victim icmp 3 4 [ v4 victim > friend tcp $S > 80 ack ] mark",
        ],
    }

    /// The same over IPv6, packet too big.
    forged_packet_too_big {
        frames: &["outside: v6 stranger > victim icmp 2 0 [ v6 victim > stranger tcp $S > 80 ack ] mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/icmp-unrelated",
        twin: &[
            "victim: v6 victim > friend tcp $S > 80 syn",
            "outside: v6 stranger > victim icmp 2 0 [ v6 victim > friend tcp $S > 80 ack ] mark",
        ],
    }

    /// An error about a packet that went the other way.
    error_about_the_other_direction {
        before: &["victim: v4 victim > friend tcp $S > 80 syn"],
        frames: &["outside: v4 stranger > victim icmp 3 1 [ v4 friend > victim tcp 80 > $S ack ] mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/icmp-unrelated",
        twin: &[
            "victim: v4 victim > friend tcp $S > 80 syn",
            "outside: v4 stranger > victim icmp 3 1 [ v4 victim > friend tcp $S > 80 ack ] mark",
        ],
    }

    /// Errors as a way out: anything fits behind the embedded header.
    icmp_error_as_a_tunnel {
        frames: &["jail: v4 jail > stranger icmp 3 3 [ v4 stranger > jail udp $S > $T ] mark data=400"],
        dropped: "jail egress/icmp-unrelated",
        twin: &[
            "outside: v4 friend > jail udp $S > 53",
            "jail: v4 jail > friend icmp 3 3 [ v4 friend > jail udp $S > 53 ] mark",
        ],
    }

    /// An error about an error.
    error_about_an_error {
        frames: &["outside: v4 stranger > victim icmp 3 1 [ v4 victim > stranger icmp 3 3 ] mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/icmp-unrelated",
        twin: &["outside: v4 mate > victim echo $S mark"],
    }

    /// Echo is under policy.
    echo_request {
        frames: &["outside: v4 stranger > victim echo $S mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["outside: v4 mate > victim echo $S mark"],
    }

    /// A peer that is allowed by ports is not allowed echo.
    echo_by_a_rule_of_ports {
        frames: &["outside: v6 friend > victim echo 80 mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["outside: v6 mate > victim echo 80 mark"],
    }

    /// Reference A9: all of ICMPv6 passed, echo as a tunnel with it.
    kernel_attack_echo_as_a_tunnel {
        frames: &["jail: v6 jail > stranger echo $S mark data=600"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: v6 jail > mate echo $S mark data=600"],
    }

    /// Replies that nobody asked for carry as much.
    echo_reply_as_a_tunnel {
        frames: &["jail: v6 jail > stranger reply $S mark data=600"],
        dropped: "jail egress/policy-denied",
        twin: &["outside: v6 mate > jail echo $S", "jail: v6 jail > mate reply $S mark"],
    }

    /// Other types: time stamps, node information.
    timestamp_request {
        frames: &["jail: v4 jail > stranger icmp 13 0 mark data=16"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > mate icmp 13 0 mark data=16"],
    }

    /// Node information of IPv6.
    node_information_query {
        frames: &["jail: v6 jail > stranger icmp 139 0 mark data=16"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: v6 jail > mate icmp 139 0 mark data=16"],
    }

    /// ICMPv6 in IPv4 is nobody's neighbour message.
    icmpv6_in_ipv4 {
        frames: &["jail: v4 jail > stranger ttl=255 proto=58 icmp 136 0 mark data=16"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > mate ttl=255 proto=58 icmp 136 0 mark data=16"],
    }

    /// An error in fragments holds what nobody has read.
    fragmented_error {
        frames: &["outside: v4 loose > victim id=$I more icmp 3 4 [ v4 victim > loose tcp $S > 80 ack ] mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/fragmented-error",
        twin: &[
            "victim: v4 victim > loose tcp $S > 80 syn",
            "outside: v4 loose > victim icmp 3 4 [ v4 victim > loose tcp $S > 80 ack ] mark",
        ],
    }

    /// In fragments an error shows nothing of what it is about, and the node would learn a path's MTU from it.
    kernel_attack_error_in_fragments {
        frames: &[
            "jail: v4 jail > node id=$I more icmp 3 4 [ v4 node > stranger tcp 10250 > $S ack data=20 ] mark keep=56",
            "jail: v4 jail > node id=$I at=7 icmp 3 4 [ v4 node > stranger tcp 10250 > $S ack data=20 ] mark skip=56",
        ],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/fragmented-error",
        twin: &["jail: v4 jail > node id=$I echo $S mark"],
    }

    /// The same over IPv6.
    error_in_fragments_over_ipv6 {
        frames: &[
            "jail: v6 jail > node ext=frag:0:more:$I icmp 2 0 [ v6 node > stranger tcp 10250 > $S ack data=20 ] mark keep=56",
            "jail: v6 jail > node ext=frag:7:$I icmp 2 0 [ v6 node > stranger tcp 10250 > $S ack data=20 ] mark skip=56",
        ],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/fragmented-error",
        twin: &["jail: v6 jail > node echo $S mark"],
    }

    /// What is too big may have options: the error about it is about its flow all the same.
    error_about_another_flow_with_options {
        frames: &["outside: v6 stranger > victim icmp 2 0 [ v6 victim > stranger ext=dst:2 tcp $S > 80 ack ] mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/icmp-unrelated",
        twin: &[
            "victim: v6 victim > friend tcp $S > 80 syn",
            "outside: v6 stranger > victim icmp 2 0 [ v6 victim > friend ext=dst:2 tcp $S > 80 ack ] mark",
        ],
    }
}
