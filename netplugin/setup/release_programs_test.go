package setup

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
)

// The programs at the underlay's link, which stays, go too.
func TestReleasePrograms(t *testing.T) {
	node := netnstest.New(t)
	netnstest.Wire(netnstest.End{NS: node, Link: "eth0"}, netnstest.End{NS: netnstest.New(t), Link: "eth0"}, 1500)
	node.Address("eth0", "192.0.2.1/24")
	node.Do(func() {
		f, err := fastpath.Open(fastpath.Probe())
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		address := netip.MustParseAddr("192.0.2.1")
		if err := f.Sync(fastpath.State{Node: address, Port: 4789}); err != nil {
			t.Fatal(err)
		}
		index, err := fastpath.Underlay(address)
		if err != nil {
			t.Fatal(err)
		}
		attached := func() int {
			t.Helper()
			got, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				t.Fatal(err)
			}
			return len(got.Programs)
		}
		if attached() != 1 {
			t.Errorf("%d programs are attached, want 1", attached())
		}
		if err := release(t.Context()); err != nil {
			t.Error(err)
		}
		if attached() != 0 {
			t.Errorf("%d programs are left", attached())
		}
	})
}
