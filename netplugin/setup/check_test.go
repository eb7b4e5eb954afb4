package setup

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
)

// TestKernel is run where the network plugin works: that is what the bundle needs.
func TestKernel(t *testing.T) {
	for range 2 { // the first must not spoil the second
		for _, r := range Kernel() {
			if r.Plugin != Name || r.Probe == "" || r.Detail == "" {
				t.Errorf("a result without a head: %+v", r)
			}
			if r.Status != check.OK {
				t.Errorf("%s: %s", r.Probe, r.Detail)
			}
		}
	}
}

// TestProbe says what is missing, and what follows.
func TestProbe(t *testing.T) {
	for _, p := range append(kernelProbes(), fastProbes(fastpath.Features{})...) {
		p.try = func() error { return unix.ENOSYS }
		r := p.run()
		if r.Status == check.OK || r.Detail != "function not implemented: "+p.without {
			t.Errorf("%+v", r)
		}
	}
}

// TestFastProbes are of the features that are missing, and of what can't be loaded then.
func TestFastProbes(t *testing.T) {
	failed := map[string]bool{}
	for _, p := range fastProbes(fastpath.Features{RedirectPeer: unix.ENOSYS, XDP: unix.ENOSYS}) {
		if r := p.run(); r.Status != check.OK {
			failed[r.Probe] = true
			want(t, r, check.Limited, p.without)
		}
	}
	if len(failed) != 3 || !failed["bpf_redirect_peer"] || !failed["XDP"] || !failed["programs of the shortcut"] {
		t.Errorf("%v", failed)
	}
}

// TestProbesTry fail where what they make is there already, so they do make it.
func TestProbesTry(t *testing.T) {
	for name, try := range map[string]func() error{"bridge": bridge, "vxlan": vxlan} {
		err := aside(func() error {
			if err := try(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return try()
		})
		if err == nil {
			t.Errorf("%s was made twice", name)
		}
	}
}

func TestCheck(t *testing.T) {
	results, err := Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]check.Result{}
	for _, r := range results {
		if _, twice := seen[r.Probe]; twice || r.Plugin != Name || r.Detail == "" {
			t.Errorf("%+v", r)
		}
		seen[r.Probe] = r
	}
	if r := seen["programs"]; r.Status != check.Missing { // there are none beside a test
		t.Errorf("%+v", r)
	}
	for _, probe := range []string{"this node's address", "falcond", "vxlan", "nftables bridge", "CNI plugin portmap", "IP forwarding", "other nodes", "CNI configuration", "tcx", "bpf_redirect_peer", "bpf_check_mtu", "XDP", "cpumap", "programs of the shortcut"} {
		if _, ok := seen[probe]; !ok {
			t.Errorf("no %s in %+v", probe, results)
		}
	}
}

func want(t *testing.T, r check.Result, s check.Status, text string) {
	t.Helper()
	if r.Status != s || !strings.Contains(r.Detail, text) {
		t.Errorf("%+v, want %s with %q", r, s, text)
	}
}

func TestPrograms(t *testing.T) {
	bin, cni := t.TempDir(), t.TempDir()
	want(t, programs(bin, cni), check.Missing, "no such file")
	put(t, bin, "falcond", "#!/bin/sh\n")
	want(t, programs(bin, cni), check.Missing, filepath.Join(cni, "falcon"))
	put(t, cni, "falcon", "not a program")
	want(t, programs(bin, cni), check.Missing, "permission denied")
	put(t, t.TempDir(), "falcon", "")
	cni = put(t, t.TempDir(), "falcon", "#!/bin/sh\n")
	want(t, programs(bin, cni), check.OK, bin)
	want(t, programs(bin, filepath.Dir(cni)), check.Missing, "")
}

func TestPlugins(t *testing.T) {
	ours, elsewhere := t.TempDir(), t.TempDir()
	results := func() (hostLocal, portmap, loopback check.Result) {
		r := plugins(ours, elsewhere)
		if len(r) != 3 {
			t.Fatalf("%+v", r)
		}
		return r[0], r[1], r[2]
	}
	h, p, l := results()
	want(t, h, check.OK, "built in")
	want(t, p, check.Limited, "can't be published")
	want(t, l, check.Limited, "no pods")
	for _, name := range []string{"host-local", "portmap", "loopback"} {
		put(t, elsewhere, name, "#!/bin/sh\n")
	}
	h, p, l = results()
	want(t, h, check.OK, "built in")
	want(t, p, check.Limited, "is in "+elsewhere+" and not in "+ours)
	want(t, l, check.Limited, "is in "+elsewhere)
	ours = elsewhere
	h, p, l = results()
	want(t, h, check.OK, ours)
	want(t, p, check.OK, ours)
	want(t, l, check.OK, ours)
}

func TestForwarding(t *testing.T) {
	cfg := config.Default()
	sysctls := put(t, t.TempDir(), "ipv4/ip_forward", "0\n")
	want(t, forwarding(sysctls, cfg), check.OK, "IPv4 off until falcond runs")
	put(t, sysctls, "ipv4/ip_forward", "1\n")
	want(t, forwarding(sysctls, cfg), check.OK, "IPv4 on")
	cfg.Networks[0].Subnets = append(cfg.Networks[0].Subnets, netip.MustParsePrefix("fd00::/64"))
	want(t, forwarding(sysctls, cfg), check.Missing, "the kernel has no IPv6")
	put(t, sysctls, "ipv6/conf/all/forwarding", "0\n")
	want(t, forwarding(sysctls, cfg), check.OK, "IPv4 on, IPv6 off")
}

func TestPeers(t *testing.T) {
	cfg := config.Default()
	want(t, peers(cfg), check.OK, "none")
	cfg.Peers.File = filepath.Join(t.TempDir(), "peers.toml")
	want(t, peers(cfg), check.Limited, "other nodes are not reached")
	put(t, filepath.Dir(cfg.Peers.File), "peers.toml", "")
	want(t, peers(cfg), check.OK, cfg.Peers.File)
	cfg.Peers.Etcd.Endpoints = []string{"https://e"}
	want(t, peers(cfg), check.OK, "https://e")
}

func TestPods(t *testing.T) {
	conf := t.TempDir()
	want(t, pods(conf), check.Limited, "run peregrine install")
	put(t, conf, listName, `{"name": "blue"}`)
	want(t, pods(conf), check.OK, "the network blue")
	put(t, conf, "05-other.conf", "{}")
	want(t, pods(conf), check.Limited, "05-other.conf")
	want(t, pods(filepath.Join(conf, "not-there")), check.Limited, "there is no")
	want(t, pods(filepath.Join(conf, listName)), check.Limited, "not a directory")
}
