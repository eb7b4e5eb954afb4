package agent

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/netplugin/endpoint"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/netconf"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// By the socket, from an agent whose programs are in the kernel and one whose aren't.
func TestFlowsByTheSocket(t *testing.T) {
	root, _ := rooted(t)
	ns := netnstest.New(t)
	a, stop := opened(t, ns, root)
	defer stop()
	if _, err := Flows(t.Context(), root, 0); !errdefs.IsUnavailable(err) {
		t.Errorf("nobody counts them: %v", err)
	}
	if _, err := Pairs(t.Context(), root); !errdefs.IsUnavailable(err) {
		t.Errorf("nobody counts them: %v", err)
	}
	if r := a.Report(); r.Priority.Off == "" || r.Priority.Mode != "sync" {
		t.Errorf("%+v", r.Priority)
	}
	ns.Do(func() {
		path, err := fastpath.Open(fastpath.Probe())
		if err != nil {
			t.Fatal(err)
		}
		a.shortcut.mu.Lock()
		a.shortcut.path = path // the agent closes it
		a.shortcut.mu.Unlock()
	})
	if list, err := Flows(t.Context(), root, 5); err != nil || list == nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err := Pairs(t.Context(), root); err != nil || list == nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := Flows(t.Context(), root, -1); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a negative limit: %v", err)
	}
	if r := a.Report(); r.Priority.Off != "no container has class high" || r.Priority.XDP != "" {
		t.Errorf("%+v", r.Priority)
	}
	for body, limit := range map[string]int{"": 1000, "{}": 1000, `{"limit": 7}`: 7, "[]": 0, `{"max": 1}`: 0, `{"limit": -1}`: 0} {
		r, err := NewRequest(protocol.Encode([]string{"CNI_COMMAND=" + protocol.Flows}, []byte(body)), nil)
		if (err != nil) != (limit == 0) || err == nil && r.limit != limit {
			t.Errorf("%s: %+v, %v", body, r, err)
		}
	}
}

func TestNames(t *testing.T) {
	n := names{map[uint32]string{7: "blue"}, map[home]string{}}
	one, two := netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.1.0.3")
	n.add(&endpoint.Record{ContainerID: "c", VNI: 7, Complete: true, Addresses: []netip.Prefix{netip.PrefixFrom(one, 24)}})
	n.add(&endpoint.Record{ContainerID: "d", VNI: 7, Addresses: []netip.Prefix{netip.PrefixFrom(two, 24)}}) // in the making
	n.add(&endpoint.Record{ContainerID: "o", VNI: 7, Complete: true, Offer: "o", Addresses: []netip.Prefix{netip.PrefixFrom(two, 24)}})
	from, to := netip.AddrPortFrom(one, 80), netip.AddrPortFrom(two, 90)
	for state, want := range map[string][2]string{"fast": {"fast", ""}, "new": {"slow", "new"}, "seen": {"slow", "settling"}, "slow": {"slow", "shaped"}} {
		f := fastpath.Flow{VNI: 7, Protocol: "tcp", Source: from, Destination: to, Direction: "local", State: state, Class: "high", Packets: 3, Bytes: 4}
		if state == "slow" {
			f.Reason = "shaped"
		}
		if got, want := n.flow(f), (Flow{
			Network: "blue", VNI: 7, Protocol: "tcp", Source: from, Destination: to, SourceContainer: "c",
			Direction: "local", Class: "high", Path: want[0], Reason: want[1], Packets: 3, Bytes: 4,
		}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	got, err := json.Marshal(n.pair(fastpath.Pair{VNI: 8, Source: two, Destination: one, SentPackets: 1, SentBytes: 2, ReceivedPackets: 3, ReceivedBytes: 4}))
	if want := `{"network":"","vni":8,"source":"10.1.0.3","destination":"10.1.0.2","sentPackets":1,"sentBytes":2,"receivedPackets":3,"receivedBytes":4}`; err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
}

// Labels of a container are no wish for an address.
func TestUsualWishes(t *testing.T) {
	for args, usual := range map[string]bool{
		"": true, "null": true, "{}": true, `{"cni": {}}`: true, `{"cni": null}`: true,
		`{"cni": {"labels": [{"key": "peregrine.dev/priority", "value": "high"}]}}`: true,
		`{"cni": {"labels": [], "ips": ["10.1.0.9"]}}`:                              false,
		`{"cni": {"mac": "02:00:00:00:00:01"}}`:                                     false,
		`{"other": {"labels": []}}`:                                                 false,
		`{"cni": []}`:                                                               false,
		`[]`:                                                                        false,
	} {
		conf := &netconf.Conf{PlainIPAM: true}
		if args != "" {
			conf.Args = json.RawMessage(args)
		}
		if got := usualWishes(&Request{Conf: conf}); got != usual {
			t.Errorf("%s: %t", args, got)
		}
	}
}

// TestMetrics has the shortcut's counters under their names.
func TestMetrics(t *testing.T) {
	root, _ := rooted(t)
	a, stop := opened(t, netnstest.New(t), root)
	defer stop()
	found := map[string]bool{}
	families, err := a.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		found[f.GetName()] = true
	}
	for _, name := range []string{"peregrine_falcon_shortcut_on", "peregrine_falcon_nodes", "peregrine_falcon_endpoints"} {
		if !found[name] {
			t.Errorf("no %s in %v", name, found)
		}
	}
}
