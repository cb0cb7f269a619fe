//! Connections: what makes state, and what passes because of it (reference 3 C).

use integration::attack::Seen;

attacks! {
    /// Reference C1: a segment in the middle of nothing.
    stray_ack {
        frames: &["outside: v4 stranger > victim tcp 80 > $S ack mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim: v4 victim > friend tcp $S > 80 syn", "outside: v4 friend > victim tcp 80 > $S syn ack mark"],
    }

    /// Reference C1: a SYN ACK that nobody asked for.
    stray_syn_ack {
        frames: &["outside: v6 stranger > victim tcp 80 > $S syn ack mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim: v6 victim > friend tcp $S > 80 syn", "outside: v6 friend > victim tcp 80 > $S syn ack mark"],
    }

    /// Reference C1: a stray RST of the pod, allowed by itself, opened the tuple the other way round.
    kernel_attack_stray_rst_opens_the_tuple {
        before: &["victim: v4 victim > friend tcp $S > 80 rst"],
        frames: &["outside: v4 friend > victim tcp 80 > $S ack mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim: v4 victim > friend tcp $S > 80 syn", "outside: v4 friend > victim tcp 80 > $S syn ack mark"],
    }

    /// A stray RST that a peer sends (the pod would answer nothing), and then a segment of the pod.
    refused_segments_leave_no_state {
        before: &[
            "outside: v4 stranger > jail tcp 80 > $S rst",
            "outside: v4 stranger > jail tcp 80 > $S ack",
            "outside: v4 stranger > jail tcp 80 > $S fin ack",
        ],
        frames: &["jail: v4 jail > stranger tcp $S > 80 ack mark"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// The reply of another port than the one that was asked.
    reply_from_another_port {
        before: &["victim: v4 victim > friend tcp $S > 80 syn"],
        frames: &["outside: v4 friend > victim tcp 81 > $S syn ack mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim: v4 victim > friend tcp $S > 80 syn", "outside: v4 friend > victim tcp 80 > $S syn ack mark"],
    }

    /// The reply of another peer.
    reply_from_another_peer {
        before: &["victim: v4 victim > friend udp $S > 53"],
        frames: &["outside: v4 stranger > victim udp 53 > $S mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim: v4 victim > friend udp $S > 53", "outside: v4 friend > victim udp 53 > $S mark"],
    }

    /// The reply of another protocol.
    reply_of_another_protocol {
        before: &["victim: v4 victim > friend tcp $S > 80 syn"],
        frames: &["outside: v4 friend > victim udp 80 > $S mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim: v4 victim > friend udp $S > 53", "outside: v4 friend > victim udp 53 > $S mark"],
    }

    /// A pod forges the reply of an allowed peer: the guard of its own interface is in the way.
    forged_reply_of_another_pod {
        before: &["neighbour: v4 neighbour > friend udp $S > 53"],
        frames: &["jail: v4 friend > neighbour udp 53 > $S mark"],
        seen: Seen::At("neighbour"),
        dropped: "jail egress/spoofed-address",
        twin: &["neighbour: v4 neighbour > friend udp $S > 53", "outside: v4 friend > neighbour udp 53 > $S mark"],
    }

    /// Amazon's own test: a third pod sends in the victim's name, so that the stranger's answer is let in as a reply.
    kernel_attack_conntrack_poisoning {
        before: &["neighbour: v4 victim > stranger tcp $S > 80 syn"],
        frames: &["outside: v4 stranger > victim tcp 80 > $S syn ack mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim: v4 victim > friend tcp $S > 80 syn", "outside: v4 friend > victim tcp 80 > $S syn ack mark"],
    }

    /// The same over IPv6, and UDP.
    conntrack_poisoning_over_ipv6 {
        before: &["neighbour: v6 victim > stranger udp $S > 53"],
        frames: &["outside: v6 stranger > victim udp 53 > $S mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim: v6 victim > friend udp $S > 53", "outside: v6 friend > victim udp 53 > $S mark"],
    }

    /// A pod under podgate cannot even begin it.
    conntrack_poisoning_from_a_guarded_pod {
        frames: &["jail: v4 neighbour > friend tcp $S > 80 syn mark"],
        dropped: "jail egress/spoofed-address",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// The other side of an answered connection opens it anew towards the pod: a new connection, not a reply.
    kernel_attack_syn_of_the_other_side {
        before: &[
            "victim: v4 victim > friend tcp $S > 80 syn",
            "outside: v4 friend > victim tcp 80 > $S syn ack",
            "victim: v4 victim > friend tcp $S > 80 ack",
        ],
        frames: &["outside: v4 friend > victim tcp 80 > $S syn mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        // Simultaneous open: the pod's own SYN is still unanswered.
        twin: &["victim: v4 victim > friend tcp $S > 80 syn", "outside: v4 friend > victim tcp 80 > $S syn mark"],
    }

    /// A SYN of the other side after the connection was reset.
    syn_of_the_other_side_after_a_reset {
        before: &[
            "victim: v6 victim > friend tcp $S > 80 syn",
            "outside: v6 friend > victim tcp 80 > $S syn ack",
            "victim: v6 victim > friend tcp $S > 80 rst",
        ],
        frames: &["outside: v6 friend > victim tcp 80 > $S syn mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        // The pod uses its port again.
        twin: &[
            "victim: v6 victim > friend tcp $S > 80 syn",
            "outside: v6 friend > victim tcp 80 > $S syn ack",
            "victim: v6 victim > friend tcp $S > 80 rst",
            "victim: v6 victim > friend tcp $S > 80 syn",
            "outside: v6 friend > victim tcp 80 > $S syn ack mark",
        ],
    }

    /// A reply's tuple the other way round is no flow: the pod may answer, not ask.
    a_client_that_was_let_in_is_not_asked_back {
        before: &["outside: v4 friend > victim udp $S > 53"],
        frames: &["victim: v4 victim > friend udp $T > $S mark"],
        dropped: "victim egress/policy-denied",
        twin: &["outside: v4 friend > victim udp $S > 53", "victim: v4 victim > friend udp 53 > $S mark"],
    }

    /// An echo reply to another than the one that asked.
    echo_reply_to_another_peer {
        before: &["outside: v4 mate > victim echo $S"],
        frames: &["victim: v4 victim > stranger reply $S mark"],
        dropped: "victim egress/policy-denied",
        twin: &["outside: v4 mate > victim echo $S", "victim: v4 victim > mate reply $S mark"],
    }
}
