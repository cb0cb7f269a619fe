package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/aws/amazon-vpc-cni-k8s/rpc"
)

// errUnknownPod has the text by which aws-cni knows that there is nothing left to delete.
var errUnknownPod = errors.New("datastore: unknown pod")

// backend answers aws-cni as the IPAM daemon does.
type backend struct {
	rpc.UnimplementedCNIBackendServer
	config *config
	pods   *pods
}

func (b *backend) AddNetwork(_ context.Context, request *rpc.AddNetworkRequest) (*rpc.AddNetworkReply, error) {
	cards := b.config.Cards[:1]
	if request.RequiresMultiNICAttachment || b.config.EveryCard {
		cards = b.config.Cards
	}
	addresses, err := b.pods.add(podKey{request.ContainerID, request.IfName, request.NetworkName}, cards)
	if err != nil {
		return nil, err
	}
	reply := &rpc.AddNetworkReply{
		Success:              true,
		IPAllocationMetadata: addresses,
		UseExternalSNAT:      true,
		NetworkPolicyMode:    b.config.NetworkPolicyMode,
	}
	for _, prefix := range b.config.VPCCIDRs {
		if prefix.Addr().Is4() {
			reply.VPCv4CIDRs = append(reply.VPCv4CIDRs, prefix.String())
		} else {
			reply.VPCv6CIDRs = append(reply.VPCv6CIDRs, prefix.String())
		}
	}
	return reply, nil
}

func (b *backend) DelNetwork(_ context.Context, request *rpc.DelNetworkRequest) (*rpc.DelNetworkReply, error) {
	addresses, known := b.pods.remove(podKey{request.ContainerID, request.IfName, request.NetworkName})
	if !known {
		return nil, errUnknownPod
	}
	return &rpc.DelNetworkReply{Success: true, IPAllocationMetadata: addresses, NetworkPolicyMode: b.config.NetworkPolicyMode}, nil
}

// podKey is the daemon's own idea of one attachment.
type podKey struct{ containerID, ifName, network string }

// pods holds who has which address.
type pods struct {
	mutex sync.Mutex
	used  map[netip.Addr]bool
	held  map[podKey][]*rpc.IPAllocationMetadata
	// last address given of each prefix: an address that was freed rests until the prefix is through, as the
	// daemon's cooldown has it.
	last map[netip.Prefix]netip.Addr
}

func newPods(config *config) *pods {
	p := &pods{used: map[netip.Addr]bool{}, held: map[podKey][]*rpc.IPAllocationMetadata{}, last: map[netip.Prefix]netip.Addr{}}
	for _, card := range config.Cards {
		p.last[card.Prefix] = card.Prefix.Masked().Addr()
	}
	return p
}

// add gives the attachment one address of each card; the same ones when it asks again.
func (p *pods) add(key podKey, cards []card) ([]*rpc.IPAllocationMetadata, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if held, known := p.held[key]; known {
		return held, nil
	}
	var given []*rpc.IPAllocationMetadata
	for _, card := range cards {
		address, err := p.next(card.Prefix)
		if err != nil {
			p.free(given)
			return nil, err
		}
		p.used[address] = true
		allocation := &rpc.IPAllocationMetadata{DeviceNumber: card.DeviceNumber, RouteTableId: card.RouteTable}
		if address.Is4() {
			allocation.IPv4Addr = address.String()
		} else {
			allocation.IPv6Addr = address.String()
		}
		given = append(given, allocation)
	}
	p.held[key] = given
	return given, nil
}

// next finds a free address behind the one given last, round the prefix once. The network's own address is left out.
func (p *pods) next(prefix netip.Prefix) (netip.Addr, error) {
	first := prefix.Masked().Addr()
	start := p.last[prefix]
	for address := start.Next(); ; address = address.Next() {
		if !prefix.Contains(address) {
			address = first.Next()
		}
		if prefix.Contains(address) && !p.used[address] {
			p.last[prefix] = address
			return address, nil
		}
		if address == start || !prefix.Contains(address) {
			return netip.Addr{}, fmt.Errorf("assign an address: %s has none left", prefix)
		}
	}
}

func (p *pods) remove(key podKey) ([]*rpc.IPAllocationMetadata, bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	held, known := p.held[key]
	delete(p.held, key)
	p.free(held)
	return held, known
}

func (p *pods) free(given []*rpc.IPAllocationMetadata) {
	for _, allocation := range given {
		for _, text := range []string{allocation.IPv4Addr, allocation.IPv6Addr} {
			if address, err := netip.ParseAddr(text); err == nil {
				delete(p.used, address)
			}
		}
	}
}

// silentAgent says yes to whatever aws-cni asks Amazon's network policy agent, and enforces nothing.
type silentAgent struct {
	rpc.UnimplementedNPBackendServer
}

func (silentAgent) EnforceNpToPod(context.Context, *rpc.EnforceNpRequest) (*rpc.EnforceNpReply, error) {
	return &rpc.EnforceNpReply{Success: true}, nil
}

func (silentAgent) DeletePodNp(context.Context, *rpc.DeleteNpRequest) (*rpc.DeleteNpReply, error) {
	return &rpc.DeleteNpReply{Success: true}, nil
}
