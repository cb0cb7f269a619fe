package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
)

// config is the file given with --config:
//
//	{
//	  "networkPolicyMode": "",
//	  "vpcCIDRs": ["10.77.0.0/16"],
//	  "cards": [
//	    {"prefix": "10.77.1.0/24", "deviceNumber": 0, "routeTable": 254},
//	    {"prefix": "10.77.2.0/24", "deviceNumber": 1, "routeTable": 102}
//	  ],
//	  "everyCard": false
//	}
//
// A pod gets an address of the first card, and one of each card where it asks for several (the annotation
// k8s.amazonaws.com/nicConfig: multi-nic-attachment, which aws-cni reads from runtimeConfig) or everyCard is true.
// A prefix of either family will do, as a cluster of Amazon's is of one family or the other.
type config struct {
	// NetworkPolicyMode is aws-node's NETWORK_POLICY_ENFORCING_MODE. Anything but "" sends aws-cni to the agent.
	NetworkPolicyMode string `json:"networkPolicyMode"`
	// VPCCIDRs are the cluster's own prefixes, which aws-cni does not translate.
	VPCCIDRs []netip.Prefix `json:"vpcCIDRs"`
	// Cards are the node's network cards, the primary one first.
	Cards []card `json:"cards"`
	// EveryCard gives each pod an interface on every card, asked for or not.
	EveryCard bool `json:"everyCard"`
}

type card struct {
	// Prefix is where the card's pods get their addresses from.
	Prefix netip.Prefix `json:"prefix"`
	// DeviceNumber is the index of the card's interface.
	DeviceNumber int32 `json:"deviceNumber"`
	// RouteTable is the node's table for traffic of these pods: 254 is main. aws-cni writes it as the result's `mac`.
	RouteTable int32 `json:"routeTable"`
}

func readConfig(path string) (*config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	parsed := new(config)
	if err := decoder.Decode(parsed); err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	if len(parsed.Cards) == 0 {
		return nil, fmt.Errorf("read configuration %s: cards is empty", path)
	}
	return parsed, nil
}
