//! Fragments. What goes to `loose` is not tracked by the node, and so not reassembled: the fragments go on as they are.

use integration::attack::Seen;

attacks! {
    /// Reference A2: the first bytes of a later fragment were read as ports (here 80).
    later_fragment_without_first {
        frames: &["jail: v4 jail > loose id=$I at=3 proto=6 bytes 9c400050{mark}"],
        dropped: "jail egress/fragment-without-first",
        twin: &["jail: v4 jail > loose id=$I more udp $S > 53 data=16", "jail: v4 jail > loose id=$I at=3 proto=17 bytes {mark}"],
    }

    /// The same over IPv6.
    later_fragment_without_first_over_ipv6 {
        frames: &["jail: v6 jail > loose ext=frag:3:$I proto=6 bytes 9c400050{mark}"],
        dropped: "jail egress/fragment-without-first",
        twin: &["jail: v6 jail > loose ext=frag:0:more:$I udp $S > 53 data=16", "jail: v6 jail > loose ext=frag:3:$I proto=17 bytes {mark}"],
    }

    /// Reference A2: eight bytes of TCP, the rest later: the node (conntrack) puts a SYN to port 22 together again.
    kernel_attack_tiny_first_fragment {
        frames: &[
            "jail: v4 jail > friend id=$I more tcp $S > 22 syn mark keep=8",
            "jail: v4 jail > friend id=$I at=1 tcp $S > 22 syn mark skip=8",
        ],
        dropped: "jail egress/tiny-fragment",
        drops: 2,
        twin: &[
            "jail: v4 jail > friend id=$I more tcp $S > 80 syn mark data=40 keep=32",
            "jail: v4 jail > friend id=$I at=4 tcp $S > 80 syn mark data=40 skip=32",
        ],
    }

    /// The same over IPv6.
    tiny_first_fragment_over_ipv6 {
        frames: &[
            "jail: v6 jail > loose ext=frag:0:more:$I tcp $S > 22 syn mark keep=8",
            "jail: v6 jail > loose ext=frag:1:$I tcp $S > 22 syn mark skip=8",
        ],
        dropped: "jail egress/tiny-fragment",
        drops: 2,
        twin: &[
            "jail: v6 jail > friend ext=frag:0:more:$I tcp $S > 80 syn mark data=40 keep=32",
            "jail: v6 jail > friend ext=frag:4:$I tcp $S > 80 syn mark data=40 skip=32",
        ],
    }

    /// RFC 3128: a second fragment that lies over the flags of the first (which is allowed) makes another packet of it.
    fragment_over_the_flags {
        frames: &[
            "jail: v4 jail > loose id=$I more tcp $S > 80 ack data=12",
            "jail: v4 jail > loose id=$I at=1 proto=6 bytes 000000015002ffff{mark}",
        ],
        dropped: "jail egress/tiny-fragment",
        twin: &["jail: v4 jail > loose id=$I more tcp $T > 80 ack data=12", "jail: v4 jail > loose id=$I at=4 proto=6 bytes {mark}"],
    }

    /// The same over IPv6, over the ports' end.
    fragment_over_the_flags_over_ipv6 {
        frames: &[
            "jail: v6 jail > loose ext=frag:0:more:$I tcp $S > 80 ack data=12",
            "jail: v6 jail > loose ext=frag:2:$I proto=6 bytes 000000015002ffff{mark}",
        ],
        dropped: "jail egress/tiny-fragment",
        twin: &["jail: v6 jail > loose ext=frag:0:more:$I tcp $T > 80 ack data=12", "jail: v6 jail > loose ext=frag:4:$I proto=6 bytes {mark}"],
    }

    /// A refused first fragment lets its later ones through nowhere.
    kernel_attack_later_fragments_of_a_refused_first {
        frames: &[
            "jail: v4 jail > loose id=$I more udp $S > 9999 data=16",
            "jail: v4 jail > loose id=$I at=3 proto=17 bytes {mark}",
        ],
        dropped: "jail egress/fragment-without-first",
        twin: &["jail: v4 jail > loose id=$I more udp $S > 53 data=16", "jail: v4 jail > loose id=$I at=3 proto=17 bytes {mark}"],
    }

    /// Nor those of another protocol under the same identification.
    later_fragment_of_another_protocol {
        before: &["jail: v4 jail > loose id=$I more udp $S > 53 data=16"],
        frames: &["jail: v4 jail > loose id=$I at=3 proto=6 bytes {mark}"],
        dropped: "jail egress/fragment-without-first",
        twin: &["jail: v4 jail > loose id=$I more udp $S > 53 data=16", "jail: v4 jail > loose id=$I at=3 proto=17 bytes {mark}"],
    }

    /// The headers of an IPv6 packet in its second fragment (RFC 7112).
    transport_header_in_the_second_fragment {
        frames: &[
            "jail: v6 jail > loose ext=frag:0:more:$I ext=dst:4 proto=6",
            "jail: v6 jail > loose ext=frag:4:$I proto=60 tcp $S > 22 syn mark",
        ],
        dropped: "jail egress/tiny-fragment",
        twin: &["jail: v6 jail > loose ext=frag:0:more:$I ext=dst:4 tcp $S > 80 syn data=12", "jail: v6 jail > loose ext=frag:8:$I proto=60 bytes {mark}"],
    }

    /// A fragment header around a whole packet: it is no fragment, and judged by its ports.
    kernel_attack_atomic_fragment {
        frames: &["jail: v6 jail > friend ext=frag:0:$I tcp $S > 22 syn mark"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: v6 jail > friend ext=frag:0:$I tcp $S > 80 syn mark"],
    }

    /// Towards a pod, raw: a node that does not reassemble.
    later_fragment_towards_a_pod {
        frames: &["outside: v4 loose > victim id=$I at=3 proto=6 bytes 9c400050{mark}"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/fragment-without-first",
        twin: &["outside: v4 loose > victim id=$I more udp $S > 53 data=16", "outside: v4 loose > victim id=$I at=3 proto=17 bytes {mark}"],
    }

    /// Towards a pod, through the node's reassembly: a port that is not allowed in tiny fragments.
    tiny_fragments_through_the_nodes_reassembly {
        frames: &[
            "outside: v4 friend > victim id=$I more tcp $S > 22 syn mark data=20 keep=8",
            "outside: v4 friend > victim id=$I at=1 tcp $S > 22 syn mark data=20 skip=8",
        ],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &[
            "outside: v4 friend > victim id=$I more udp $S > 53 mark data=40 keep=32",
            "outside: v4 friend > victim id=$I at=4 udp $S > 53 mark data=40 skip=32",
        ],
    }

    /// A later fragment with another pod's address: the guard looks at each.
    later_fragment_with_a_foreign_source {
        frames: &["jail: v4 stranger > loose id=$I at=3 proto=17 bytes {mark}"],
        dropped: "jail egress/spoofed-address",
        twin: &["jail: v4 jail > loose id=$I more udp $S > 53 data=16", "jail: v4 jail > loose id=$I at=3 proto=17 bytes {mark}"],
    }
}
