package setup

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/peregrine-dev/peregrine/internal/check"
	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/firewall"
	"github.com/peregrine-dev/peregrine/netplugin/netnstest"
	peernodes "github.com/peregrine-dev/peregrine/netplugin/peers"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// answering is the directory of an agent that answers every call with a text.
func answering(t *testing.T, text string) string {
	t.Helper()
	root := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(root, protocol.Socket))
	if err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	g.Go(func() error {
		for {
			conn, err := l.Accept()
			if err != nil {
				return nil
			}
			request, err := io.ReadAll(conn)
			if v, _, decode := protocol.Decode(request); err != nil || decode != nil || v["CNI_COMMAND"] != protocol.Report {
				t.Errorf("asked %q, %v", request, err)
			}
			if _, err := io.WriteString(conn, text); err != nil {
				t.Error(err)
			}
			conn.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
	return root
}

func sample() agent.Report {
	return agent.Report{
		Node: "a", Address: netip.MustParseAddr("192.0.2.1"), Version: "v1",
		Networks: []agent.NetworkReport{
			{Name: "blue", VNI: 7, Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.2.0/24"), netip.MustParsePrefix("fd00::/64")}, Endpoints: 3},
			{Name: "red", VNI: 8, Subnets: []netip.Prefix{netip.MustParsePrefix("10.1.3.0/24")}, Problem: "being set up"},
		},
		Peers:  []peernodes.Node{{Name: "b"}},
		Source: &agent.SourceReport{Connected: true, Since: time.Now()},
		Drops: []firewall.Drop{
			{Reason: "spoofed-ipv4", Link: "fv1", Packets: 2}, {Reason: "crossed", Link: "fb7", Packets: 1}, {Reason: "spoofed-ipv4", Packets: 3},
		},
		Shortcut: agent.ShortcutReport{Counts: fastpath.Counts{Taken: map[string]uint64{"wire": 4, "out": 3}, Left: map[string]uint64{"new": 2}}},
		Priority: agent.PriorityReport{Mode: "sync", XDP: "native"},
	}
}

func printed(t *testing.T, r Report) string {
	t.Helper()
	var out strings.Builder
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestStatus(t *testing.T) {
	text, err := json.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	root := answering(t, "0"+string(text))
	t.Setenv("FALCON_ROOT", root)
	r, err := Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := "falcond runs (" + root + `), node a at 192.0.2.1
1 other node
NETWORK  VNI  SUBNETS                ENDPOINTS  STATE
blue     7    10.1.2.0/24,fd00::/64  3          ready
red      8    10.1.3.0/24            0          being set up
shortcut on; 7 packets took it, 2 took the kernel's path: see falcond status
packets of class high go first, by native XDP
1 packets dropped: crossed
5 packets dropped: spoofed-ipv4
`; printed(t, r) != want {
		t.Errorf("printed\n%s, want\n%s", printed(t, r), want)
	}
	var back Report
	if text, err := json.Marshal(r); err != nil || json.Unmarshal(text, &back) != nil || !back.Agent || back.Node.Networks[0].Endpoints != 3 {
		t.Errorf("as JSON %s, %v", text, err)
	}
	want(t, answers(r), check.Limited, "network red: being set up")
	r.Node.Networks = r.Node.Networks[:1]
	want(t, answers(r), check.OK, "runs, version v1; 1 other node")
}

func TestShortcut(t *testing.T) {
	n := sample()
	want(t, shortcut(&n), check.OK, "on")
	n.Shortcut.Slow = map[string]string{"fv1": "link fv1: why"}
	want(t, shortcut(&n), check.OK, "not for each container: link fv1: why")
	n.Shortcut.Problem = "no room"
	want(t, shortcut(&n), check.Limited, "no room")
	n.Shortcut.Off = "table inet t: a rule logs packets"
	want(t, shortcut(&n), check.Limited, "off: table inet t")
	if out := printed(t, Report{Agent: true, Node: &n}); !strings.Contains(out, "shortcut off: table inet t") {
		t.Errorf("printed %s", out)
	}
}

// TestOthers says how it is with the other nodes.
func TestOthers(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		state *agent.SourceReport
		says  string
	}{
		"by itself":     {nil, "no other nodes are configured"},
		"not yet":       {&agent.SourceReport{}, "1 other node, no answer yet"},
		"an outage":     {&agent.SourceReport{Since: since, Problem: "it burns"}, "1 other node, as of 2026-01-02T03:04:05Z: it burns"},
		"not published": {&agent.SourceReport{Connected: true, Since: since, Problem: "taken"}, "1 other node; this node is not published: taken"},
		"left out":      {&agent.SourceReport{Connected: true, Since: since, Rejected: map[string]string{"c": "why"}}, "1 other node, and 1 left out: see falcond status"},
	} {
		n := sample()
		n.Source = c.state
		if got := others(&n); got != c.says {
			t.Errorf("%s: %q, want %q", name, got, c.says)
		}
	}
}

// TestStatusWithoutAgent is told, and is no error.
func TestStatusWithoutAgent(t *testing.T) {
	stale := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(stale, protocol.Socket)})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	silent := t.TempDir() // connects, and says nothing
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(silent, protocol.Socket)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	hurried, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for name, c := range map[string]struct {
		ctx        context.Context
		root, says string
	}{
		"none":     {t.Context(), t.TempDir(), "falcond doesn't run"},
		"stale":    {t.Context(), stale, "falcond doesn't run"},
		"silent":   {hurried, silent, "falcond doesn't answer within"},
		"failed":   {t.Context(), answering(t, `1{"msg":"no"}`), "falcond doesn't answer: it answered"},
		"no JSON":  {t.Context(), answering(t, "0x"), "falcond doesn't answer: "},
		"nothing":  {t.Context(), answering(t, ""), "falcond doesn't answer: "},
		"too much": {t.Context(), answering(t, "0{} {}"), "falcond doesn't answer: "},
	} {
		t.Run(name, func(t *testing.T) {
			r := ask(c.ctx, c.root)
			if r.Agent || r.Node != nil || !strings.Contains(r.Problem, c.says) {
				t.Errorf("%+v, want %q", r, c.says)
			}
			if out := printed(t, r); !strings.HasPrefix(out, r.Problem) || !strings.Contains(out, c.root) {
				t.Errorf("printed %q", out)
			}
			want(t, answers(r), check.Missing, c.says)
		})
	}
}

func TestAddress(t *testing.T) {
	ns, other := netnstest.New(t), netnstest.New(t)
	cfg := config.Default()
	ns.Do(func() { want(t, address(cfg), check.Missing, "no default route") })
	netnstest.Wire(netnstest.End{NS: ns, Link: "eth0"}, netnstest.End{NS: other, Link: "eth0"}, 1500)
	ns.Address("eth0", "192.0.2.1/24")
	ns.Route("0.0.0.0/0", "192.0.2.2")
	ns.Do(func() {
		want(t, address(cfg), check.OK, "192.0.2.1; an MTU of 1450")
		cfg.Address = netip.MustParseAddr("192.0.2.9")
		want(t, address(cfg), check.Missing, "no interface has 192.0.2.9")
	})
	ns.Address("lo", "192.0.2.9/32")
	ns.Do(func() {
		want(t, address(cfg), check.Missing, "set the MTU")
		cfg.Networks[0].MTU = 1400
		want(t, address(cfg), check.OK, "192.0.2.9")
	})
}
