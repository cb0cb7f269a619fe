package main

import (
	"net/netip"
	"testing"
)

func TestAddresses(t *testing.T) {
	small := card{Prefix: netip.MustParsePrefix("192.0.2.0/30")}
	p := newPods(&config{Cards: []card{small}})
	give := func(id string) string {
		given, err := p.add(podKey{containerID: id}, []card{small})
		if err != nil {
			return "none"
		}
		return given[0].IPv4Addr
	}
	for _, step := range []struct{ id, want string }{
		{"a", "192.0.2.1"}, {"a", "192.0.2.1"}, {"b", "192.0.2.2"}, {"c", "192.0.2.3"}, {"d", "none"},
	} {
		if got := give(step.id); got != step.want {
			t.Fatalf("%s: %s, want %s", step.id, got, step.want)
		}
	}
	if _, known := p.remove(podKey{containerID: "b"}); !known {
		t.Fatal("b was not known")
	}
	if _, known := p.remove(podKey{containerID: "b"}); known {
		t.Fatal("b is known after its removal")
	}
	if got := give("d"); got != "192.0.2.2" {
		t.Fatalf("d: %s", got)
	}
	full := newPods(&config{Cards: []card{{Prefix: netip.MustParsePrefix("192.0.2.9/32")}}})
	if _, err := full.add(podKey{}, []card{{Prefix: netip.MustParsePrefix("192.0.2.9/32")}}); err == nil {
		t.Fatal("a prefix of one address has none to give")
	}
}
