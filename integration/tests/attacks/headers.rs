//! Headers that a careless reader reads elsewhere, or not at all.

use integration::attack::Seen;

attacks! {
    /// Reference A1: ports were read at offset 20, where an option (legal, of an unknown type) stands that looks like port 80.
    kernel_attack_options_stand_in_for_ports {
        frames: &["jail: v4 jail > friend options=9e040050 tcp $S > 22 syn mark"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > friend options=9e040050 tcp $S > 80 syn mark"],
    }

    /// Reference A1, towards a pod.
    options_stand_in_for_ports_towards_a_pod {
        frames: &["outside: v4 friend > victim options=9e040050 tcp $S > 22 syn mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["outside: v4 friend > victim options=9e040050 tcp $S > 80 syn mark"],
    }

    /// Forty bytes of options: the ports stand as late as they can.
    options_to_the_end {
        frames: &["jail: v4 jail > friend options=9e280050005000500050005000500050005000500050005000500050005000500050005000500050 tcp $S > 22 syn mark"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > friend options=9e280050005000500050005000500050005000500050005000500050005000500050005000500050 tcp $S > 80 syn mark"],
    }

    /// A source route leads from an allowed destination (a socket of the node) to another.
    source_route_by_way_of_the_node {
        frames: &["jail: v4 jail > node options=830704{stranger}00 tcp $S > 10250 syn mark"],
        dropped: "jail egress/bad-header",
        twin: &["jail: v4 jail > friend options=94040000 tcp $S > 80 syn mark"],
    }

    /// A source route as long as a header has room for.
    kernel_attack_source_route_of_forty_bytes {
        frames: &["jail: v4 jail > node options=832804{stranger}{stranger}{stranger}{stranger}{stranger}{stranger}{stranger}{stranger}{stranger}00 tcp $S > 10250 syn mark"],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/bad-header",
        twin: &["jail: v4 jail > node options=01010101 tcp $S > 10250 syn mark"],
    }

    /// The header's length is less than a header: the ports would be read within it.
    header_length_below_five {
        frames: &["jail: v4 jail > friend ihl=4 tcp $S > 80 syn mark"],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/bad-header",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// The total length ends before the ports do; what looks like ports is padding.
    total_length_before_the_ports {
        frames: &["jail: v4 jail > friend total=22 tcp $S > 80 syn mark"],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/truncated",
        twin: &["jail: pad=8 v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// The total length is more than the frame.
    total_length_beyond_the_frame {
        frames: &["jail: v4 jail > friend total=1000 tcp $S > 80 syn mark"],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/truncated",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// An IPv6 header under IPv4's ethertype.
    version_against_ethertype {
        frames: &["jail: v4 jail > friend version=6 tcp $S > 80 syn mark"],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/bad-header",
        twin: &["jail: v6 jail > friend tcp $S > 80 syn mark"],
        twin_seen: Some(Seen::At("outside")),
    }

    /// Reference A3: a frame that ends within the TCP header was passed.
    truncated_tcp_header {
        frames: &["jail: v4 jail > stranger id=$I total=32 tcp $S > 22 syn keep=12"],
        dropped: "jail egress/truncated",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
        seen: Seen::FromPod("jail", 0x0800),
    }

    /// Reference A3: the headers of a frame of more than a page lie in pages, where only a copy reads them.
    kernel_attack_headers_in_pages {
        frames: &["jail/14: v4 jail > friend tcp $S > 22 syn mark data=5000"],
        dropped: "jail egress/policy-denied",
        twin: &["jail/14: v4 jail > friend tcp $S > 80 syn mark data=5000"],
    }

    /// The same over IPv6, with an extension header across the end of the linear part.
    headers_in_pages_over_ipv6 {
        frames: &["jail/58: v6 jail > friend ext=dst tcp $S > 22 syn mark data=5000"],
        dropped: "jail egress/policy-denied",
        twin: &["jail/58: v6 jail > friend ext=dst tcp $S > 80 syn mark data=5000"],
    }

    /// Flags that no stack sends together slip past rules about SYN.
    syn_with_fin {
        frames: &["jail: v4 jail > friend tcp $S > 80 syn fin mark"],
        dropped: "jail egress/bad-header",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// A TCP header that says it is shorter than one.
    tcp_offset_below_five {
        frames: &["jail: v4 jail > friend tcp $S > 80 syn mark offset=2"],
        dropped: "jail egress/bad-header",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// Data in the SYN, as in TCP Fast Open: the first packet is judged as any.
    data_in_the_syn {
        frames: &["jail: v4 jail > friend tcp $S > 22 syn mark data=600"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark data=600"],
    }

    /// Reference A4: an ethertype that nobody knows was passed.
    kernel_attack_unknown_ethertype {
        frames: &["jail: type 0x88b5 0000{mark}"],
        seen: Seen::FromPod("jail", 0x88b5),
        dropped: "jail egress/unknown-ethertype",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
        twin_seen: Some(Seen::At("outside")),
    }

    /// A length in the place of the type: a frame of 802.3, as spanning tree and IS-IS use it.
    frame_of_802_3 {
        frames: &["jail: type 0x002e 42420300000000008000{mark}000000000000000000000000000000000000000000000000"],
        seen: Seen::FromPod("jail", 0x0004),
        dropped: "jail egress/unknown-ethertype",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
        twin_seen: Some(Seen::At("outside")),
    }

    /// Reference A4: the family that the policy does not speak of was not filtered.
    the_other_family {
        frames: &["jail: v6 jail > stranger tcp $S > 80 syn mark"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: v6 jail > friend tcp $S > 80 syn mark"],
    }

    /// The same towards a pod.
    the_other_family_towards_a_pod {
        frames: &["outside: v6 stranger > victim tcp $S > 80 syn mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["outside: v6 friend > victim tcp $S > 80 syn mark"],
    }

    /// Reference A5: a tag with an id; the tagged frame was passed.
    kernel_attack_vlan_tag {
        frames: &["jail: tag=100 v4 jail > friend tcp $S > 22 syn mark"],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/vlan",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// One priority tag is stripped on the way in: the packet below it is judged.
    priority_tag {
        frames: &["jail: tag=0x2000 v4 jail > friend tcp $S > 22 syn mark"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: tag=0x2000 v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// Reference A5: of two tags with id 0 the hook sees one stripped and one in band; the kernel strips that one too and delivers.
    kernel_attack_double_priority_tag {
        frames: &["jail: tag=0x2000 tag=0x2000 v4 jail > friend tcp $S > 22 syn mark"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: tag=0x2000 tag=0x2000 v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// And of three, two in band.
    triple_priority_tag {
        frames: &["jail: tag=0 tag=0 tag=0 v4 jail > friend tcp $S > 80 syn mark"],
        dropped: "jail egress/vlan",
        twin: &["jail: tag=0 tag=0 v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// A tag of 802.1ad around one of 802.1Q.
    service_tag_around_a_priority_tag {
        frames: &["jail: tag=0x88a8:0 tag=0 v6 jail > friend tcp $S > 22 syn mark"],
        dropped: "jail egress/policy-denied",
        twin: &["jail: tag=0x88a8:0 tag=0 v6 jail > friend tcp $S > 80 syn mark"],
    }
}

mod extension {
    //! IPv6 extension headers, and what stands in their place in IPv4.

    use super::Seen;

    attacks! {
        /// Reference A6 and A7: TCP behind a hop-by-hop header was protocol 0 without ports, which any entry with an empty slot allowed.
        kernel_attack_tcp_behind_hop_by_hop {
            frames: &["outside: v6 friend > victim ext=hbh tcp $S > 22 syn mark"],
            seen: Seen::At("victim"),
            dropped: "victim ingress/policy-denied",
            twin: &["outside: v6 friend > victim ext=hbh tcp $S > 80 syn mark"],
        }

        /// Reference A7 from a pod.
        tcp_behind_hop_by_hop_from_a_pod {
            frames: &["jail: v6 jail > friend ext=hbh tcp $S > 22 syn mark"],
            dropped: "jail egress/policy-denied",
            twin: &["jail: v6 jail > friend ext=hbh tcp $S > 80 syn mark"],
        }

        /// Reference A7: protocol 0 in IPv4.
        protocol_0 {
            frames: &["outside: v4 friend > victim proto=0 tcp $S > 80 syn mark"],
            seen: Seen::At("victim"),
            dropped: "victim ingress/policy-denied",
            twin: &["outside: v4 friend > victim tcp $S > 80 syn mark"],
        }

        /// Reference A6: a routing header, used up: what stands behind it is judged.
        tcp_behind_a_routing_header {
            frames: &["jail: v6 jail > friend ext=rt:4:0 tcp $S > 22 syn mark"],
            dropped: "jail egress/policy-denied",
            twin: &["jail: v6 jail > friend ext=rt:4:0 tcp $S > 80 syn mark"],
        }

        /// Reference A6: a routing header that leads on from the destination that is judged.
        routing_header_with_segments_left {
            frames: &["jail: v6 jail > friend ext=rt:2:1 tcp $S > 80 syn mark"],
            dropped: "jail egress/extension-headers",
            twin: &["jail: v6 jail > friend ext=rt:2:0 tcp $S > 80 syn mark"],
        }

        /// Reference A6: destination options.
        tcp_behind_destination_options {
            frames: &["outside: v6 friend > victim ext=dst:8 tcp $S > 22 syn mark"],
            seen: Seen::At("victim"),
            dropped: "victim ingress/policy-denied",
            twin: &["outside: v6 friend > victim ext=dst:8 tcp $S > 80 syn mark"],
        }

        /// Reference A6: an authentication header.
        tcp_behind_ah {
            frames: &["jail: v6 jail > friend ext=ah tcp $S > 22 syn mark"],
            dropped: "jail egress/policy-denied",
            twin: &["jail: v6 jail > friend ext=ah tcp $S > 80 syn mark"],
        }

        /// More headers than are read: not the reader's end but the packet's.
        kernel_attack_chain_of_nine_extension_headers {
            frames: &["jail: v6 jail > friend ext=dst ext=dst ext=dst ext=dst ext=dst ext=dst ext=dst ext=dst ext=dst tcp $S > 22 syn mark"],
            dropped: "jail egress/extension-headers",
            twin: &["jail: v6 jail > friend ext=dst ext=dst ext=dst ext=dst ext=dst ext=dst ext=dst ext=dst tcp $S > 80 syn mark"],
        }

        /// Headers in an order that is not legal: what one stack skips another reads.
        hop_by_hop_behind_destination_options {
            frames: &["jail: v6 jail > friend ext=dst ext=hbh tcp $S > 80 syn mark"],
            dropped: "jail egress/extension-headers",
            twin: &["jail: v6 jail > friend ext=hbh ext=dst tcp $S > 80 syn mark"],
        }

        /// Mobility, HIP and Shim6 headers hold another header.
        tcp_behind_a_mobility_header {
            frames: &["jail: v6 jail > friend ext=135:0600000000000000 tcp $S > 80 syn mark"],
            dropped: "jail egress/extension-headers",
            twin: &["jail: v6 jail > friend tcp $S > 80 syn mark"],
        }

        /// A length of 0 says a jumbogram: nobody but the kernel's own segmentation sends one.
        jumbogram {
            frames: &["jail: v6 jail > friend payload=0 ext=hbh tcp $S > 80 syn mark"],
            seen: Seen::FromPod("jail", 0x86dd),
            dropped: "jail egress/truncated",
            twin: &["jail: v6 jail > friend ext=hbh tcp $S > 80 syn mark"],
        }

        /// An IPv4-mapped address on the wire: one family's address under the other's rules.
        mapped_address {
            frames: &["jail: v6 jail > ::ffff:198.51.100.3 tcp $S > 80 syn mark"],
            seen: Seen::FromPod("jail", 0x86dd),
            dropped: "jail egress/mapped-address",
            twin: &["jail: v6 jail > friend tcp $S > 80 syn mark"],
        }

        /// The same as source, towards a pod.
        mapped_source {
            frames: &["victim-gateway: v6 ::ffff:198.51.100.3 > victim tcp $S > 80 syn mark"],
            seen: Seen::At("victim"),
            dropped: "victim ingress/mapped-address",
            twin: &["outside: v6 friend > victim tcp $S > 80 syn mark"],
        }
    }
}

mod protocols {
    //! Protocols without ports: only a rule without ports allows them (reference A10).

    use super::Seen;

    attacks! {
        /// Reference A10: GRE, in which a whole network fits.
        gre {
            frames: &["jail: v4 jail > friend proto 47 mark"],
            dropped: "jail egress/policy-denied",
            twin: &["jail: v4 jail > mate proto 47 mark"],
        }

        /// Reference A10: ESP.
        esp {
            frames: &["outside: v6 friend > victim proto 50 mark"],
            seen: Seen::At("victim"),
            dropped: "victim ingress/policy-denied",
            twin: &["outside: v6 mate > victim proto 50 mark"],
        }

        /// IP in IP to the node: nothing of the node takes it but a tunnel.
        ip_in_ip_to_the_node {
            frames: &["jail: v4 jail > node proto 4 mark"],
            seen: Seen::FromPod("jail", 0x0800),
            dropped: "jail egress/policy-denied",
            twin: &["jail: v4 jail > mate proto 4 mark"],
        }

        /// IPv6 in IPv4.
        ipv6_in_ipv4 {
            frames: &["jail: v4 jail > stranger proto 41 mark"],
            dropped: "jail egress/policy-denied",
            twin: &["jail: v4 jail > mate proto 41 mark"],
        }

        /// SCTP has ports of its own: TCP's are not its.
        sctp_by_tcps_rule {
            frames: &["jail: v4 jail > friend sctp $S > 80 mark"],
            dropped: "jail egress/policy-denied",
            twin: &["jail: v4 jail > mate sctp $S > 80 mark"],
        }

        /// UDP-Lite is not UDP.
        udplite_by_udps_rule {
            frames: &["jail: v4 jail > friend udplite $S > 53 mark"],
            dropped: "jail egress/policy-denied",
            twin: &["jail: v4 jail > friend udp $S > 53 mark"],
        }

        /// Broadcast reaches every neighbour on the node's link.
        broadcast {
            frames: &["jail: v4 jail > 255.255.255.255 udp $S > 53 mark"],
            seen: Seen::FromPod("jail", 0x0800),
            dropped: "jail egress/policy-denied",
            twin: &["jail: v4 jail > friend udp $S > 53 mark"],
        }

        /// Multicast: what looks for services finds them.
        multicast {
            frames: &["jail: to=33:33:00:00:00:fb v6 jail > ff02::fb udp 5353 > 5353 mark"],
            seen: Seen::FromPod("jail", 0x86dd),
            dropped: "jail egress/policy-denied",
            twin: &["jail: v6 jail > friend udp $S > 53 mark"],
        }
    }
}
