//! Whose a packet says it is: source guard, ARP, neighbour and router discovery.

use integration::attack::Seen;

attacks! {
    /// Another's address as source.
    kernel_attack_spoofed_source {
        frames: &["jail: v4 neighbour > friend tcp $S > 80 syn mark"],
        dropped: "jail egress/spoofed-address",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// The same over IPv6.
    spoofed_source_over_ipv6 {
        frames: &["jail: v6 neighbour > friend tcp $S > 80 syn mark"],
        dropped: "jail egress/spoofed-address",
        twin: &["jail: v6 jail > friend tcp $S > 80 syn mark"],
    }

    /// An allowed peer's address as source, towards another pod.
    friends_source_towards_a_pod {
        frames: &["jail: v4 friend > neighbour tcp $S > 80 syn mark"],
        seen: Seen::At("neighbour"),
        dropped: "jail egress/spoofed-address",
        twin: &["jail: v4 jail > mate tcp $S > 80 syn mark"],
        twin_seen: Some(Seen::At("outside")),
    }

    /// The node's address as source: it is in every pod's allowed list.
    nodes_source_from_a_pod {
        frames: &["jail: v6 node > neighbour tcp $S > 22 syn mark"],
        seen: Seen::At("neighbour"),
        dropped: "jail egress/spoofed-address",
        twin: &["jail: v6 jail > mate tcp $S > 22 syn mark"],
        twin_seen: Some(Seen::At("outside")),
    }

    /// No source at all, as DHCP has it.
    no_source {
        frames: &["jail: v4 any > friend udp 68 > 53 mark"],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/spoofed-address",
        twin: &["jail: v4 jail > friend udp $S > 53 mark"],
    }

    /// Loopback as source.
    loopback_as_source {
        frames: &["jail: v4 127.0.0.1 > node udp 53 > 53 mark"],
        seen: Seen::FromPod("jail", 0x0800),
        dropped: "jail egress/spoofed-address",
        twin: &["jail: v4 jail > node udp $S > 53 mark"],
    }

    /// Another's link-local address.
    foreign_link_local_source {
        frames: &["jail: v6 neighbour-local > jail-gateway-local tcp $S > 10250 syn mark"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/spoofed-address",
        twin: &["jail: v6 jail-local > jail-gateway-local tcp $S > 10250 syn mark"],
    }

    /// Another's hardware address: on a bridge the node would learn it.
    spoofed_mac {
        frames: &["jail: from=neighbour v4 jail > friend tcp $S > 80 syn mark"],
        dropped: "jail egress/spoofed-mac",
        twin: &["jail: v4 jail > friend tcp $S > 80 syn mark"],
    }

    /// An ARP reply that claims the gateway's address.
    kernel_attack_arp_claims_the_gateway {
        frames: &["jail: to=broadcast arp reply jail-gateway > jail-gateway"],
        seen: Seen::FromPod("jail", 0x0806),
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: to=broadcast arp request jail > jail-gateway"],
    }

    /// A request claims as much as a reply does.
    arp_request_claims_another_pods_address {
        frames: &["jail: to=broadcast arp request neighbour > jail-gateway"],
        seen: Seen::FromPod("jail", 0x0806),
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: to=broadcast arp request any > jail"],
    }

    /// The own address at another's hardware address, inside the ARP packet only.
    arp_with_another_hardware_address {
        frames: &["jail: arp reply jail > jail-gateway hw=neighbour"],
        seen: Seen::FromPod("jail", 0x0806),
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: arp reply jail > jail-gateway"],
    }

    /// ARP that is none carries what it likes.
    arp_of_another_kind {
        frames: &["jail: arp 9 jail > jail-gateway"],
        seen: Seen::FromPod("jail", 0x0806),
        dropped: "jail egress/bad-header",
        twin: &["jail: arp request jail > jail-gateway"],
    }

    /// ARP with a letter behind it: on a bridge it reaches whom it likes.
    kernel_attack_arp_with_a_letter {
        frames: &["jail: pad=600 arp request jail > jail-gateway"],
        seen: Seen::FromPod("jail", 0x0806),
        dropped: "jail egress/bad-header",
        twin: &["jail: pad=18 arp request jail > jail-gateway"],
    }

    /// A neighbour advertisement with a letter among its options.
    neighbour_message_with_a_letter {
        frames: &["jail: v6 jail-local > jail-gateway-local hop=255 na jail mark hex=0e3f data=502"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: v6 jail-local > jail-gateway-local hop=255 na jail"],
    }

    /// The own address at another's hardware address, in an option: the node's answers would go there.
    advertises_itself_at_another_hardware_address {
        frames: &["jail: v6 jail-local > jail-gateway-local hop=255 na jail hex=0201deadbeef0001 mark"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: v6 jail-local > jail-gateway-local hop=255 na jail"],
    }

    /// A frame for the pod's hardware address with a packet for somebody else: on a bridge two pods speak past the sender's policy.
    addressed_to_another_but_sent_to_the_pod {
        frames: &["victim-gateway: v4 friend > stranger tcp $S > 80 syn mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/not-for-pod",
        twin: &["outside: v4 friend > victim tcp $S > 80 syn mark"],
    }

    /// A neighbour advertisement for another pod's address.
    advertises_anothers_address {
        frames: &["jail: v6 jail-local > jail-gateway-local hop=255 na neighbour mark"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: v6 jail-local > jail-gateway-local hop=255 na jail"],
    }

    /// Duplicate address detection for an address of another: nobody else could use it.
    duplicate_detection_of_anothers_address {
        frames: &["jail: to=33:33:ff:00:00:01 v6 any > ff02::1:ff00:1 hop=255 ns neighbour mark"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: to=33:33:ff:00:00:01 v6 any > jail-group hop=255 ns jail"],
    }

    /// A neighbour message to a far address is forwarded: a tunnel under a message that always passes (reference A9).
    kernel_attack_neighbour_message_to_a_far_address {
        frames: &["jail: v6 jail > stranger hop=255 ns jail-gateway mark data=400"],
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: v6 jail > jail-gateway hop=255 ns jail-gateway"],
        twin_seen: Some(Seen::FromPod("jail", 0x86dd)),
    }

    /// Neighbour messages from afar: what has passed a router has no hop limit of 255 (and a node forwards what is not its own).
    neighbour_message_from_afar {
        frames: &["outside: v6 stranger > victim hop=255 na stranger mark data=400"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["victim-gateway: v6 victim-gateway-local > victim hop=255 ns victim"],
    }

    /// A router advertisement of a pod: the node, or on a bridge every pod, would follow it.
    router_advertisement_from_a_pod {
        frames: &["jail: to=33:33:00:00:00:01 v6 jail-local > all hop=255 ra mark"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/router-from-pod",
        twin: &["jail: to=33:33:00:00:00:02 v6 jail-local > routers hop=255 rs"],
    }

    /// A redirect of a pod.
    redirect_from_a_pod {
        frames: &["jail: v6 jail-local > jail-gateway-local hop=255 redirect jail mark"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/router-from-pod",
        twin: &["jail: v6 jail-local > jail-gateway-local hop=255 na jail"],
    }

    /// A redirect of a pod, IPv4.
    redirect_from_a_pod_over_ipv4 {
        frames: &["jail: v4 jail > mate icmp 5 1 [ v4 mate > stranger tcp 80 > $S ack ] mark"],
        dropped: "jail egress/router-from-pod",
        twin: &["jail: v4 jail > mate echo $S mark"],
    }

    /// A redirect to a pod that came from elsewhere than its gateway: judged like any packet.
    redirect_to_a_pod {
        frames: &["outside: v4 stranger > victim icmp 5 1 [ v4 victim > friend tcp $S > 80 ack ] mark"],
        seen: Seen::At("victim"),
        dropped: "victim ingress/policy-denied",
        twin: &["outside: v4 mate > victim echo $S mark"],
    }

    /// A multicast listener query of a pod: it would make itself the querier.
    listener_query_from_a_pod {
        frames: &["jail: to=33:33:00:00:00:01 v6 jail-local > all hop=1 ext=alert query any mark"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/router-from-pod",
        twin: &["jail: to=33:33:00:00:00:16 v6 jail-local > ff02::16 hop=1 ext=alert report2 ff02::fb"],
    }

    /// A listener report to a single far address.
    listener_report_to_a_far_address {
        frames: &["jail: v6 jail > stranger hop=64 report2 ff02::fb mark data=400"],
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: to=33:33:00:00:00:16 v6 jail-local > ff02::16 hop=1 ext=alert report2 ff02::fb"],
        twin_seen: Some(Seen::FromPod("jail", 0x86dd)),
    }

    /// Neighbour messages in fragments (RFC 6980).
    fragmented_neighbour_message {
        frames: &["jail: v6 jail-local > jail-gateway-local hop=255 ext=frag:0:$I na jail mark"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: v6 jail-local > jail-gateway-local hop=255 na jail"],
    }

    /// A neighbour message in its one form, to a far address: the host would forward it.
    plain_neighbour_message_to_a_far_address {
        frames: &["jail: v6 jail > stranger hop=255 ns stranger"],
        shows: Some("jail: v6 jail > stranger hop=255 ns stranger"),
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: v6 jail > jail-gateway hop=255 ns jail-gateway"],
        twin_seen: Some(Seen::FromPod("jail", 0x86dd)),
    }

    /// A letter in an option that the RFC gives no neighbour advertisement.
    neighbour_message_with_an_option_of_its_own {
        frames: &["jail: v6 jail-local > jail-gateway-local hop=255 na jail mark"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: v6 jail-local > jail-gateway-local hop=255 na jail"],
    }

    /// A letter in an extension header in front of a neighbour message.
    neighbour_message_behind_a_letter {
        frames: &["jail: v6 jail-local > jail-gateway-local hop=255 ext=60:0001010c{mark}00000000 na jail"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: v6 jail-local > jail-gateway-local hop=255 na jail"],
    }

    /// A letter of a thousand bytes behind a listener report, to all who route multicast.
    kernel_attack_listener_report_with_a_letter {
        frames: &["jail: to=33:33:00:00:00:16 v6 jail-local > ff02::16 hop=1 ext=alert report2 ff02::fb mark data=1250"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/policy-denied",
        twin: &["jail: to=33:33:00:00:00:16 v6 jail-local > ff02::16 hop=1 ext=alert report2 jail-group"],
    }

    /// The same in a report of the first version.
    old_listener_report_with_a_letter {
        frames: &["jail: to=33:33:00:00:00:fb v6 jail-local > ff02::fb hop=1 ext=alert report ff02::fb mark data=1250"],
        seen: Seen::FromPod("jail", 0x86dd),
        dropped: "jail egress/spoofed-neighbour",
        twin: &["jail: to=33:33:00:00:00:fb v6 jail-local > ff02::fb hop=1 ext=alert report ff02::fb"],
    }

    /// Twenty-two bytes behind an ARP packet, where padding may stand.
    arp_with_a_letter_for_padding {
        frames: &["jail: type 0x0806 0001080006040001{jail-mac}{jail}000000000000{jail-gateway}{mark}00000000000000000000"],
        seen: Seen::FromPod("jail", 0x0806),
        dropped: "jail egress/bad-header",
        twin: &["jail: pad=18 arp request jail > jail-gateway"],
    }
}
