package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/network/node"
	"github.com/peregrine-dev/peregrine/internal/daemon"
	"github.com/peregrine-dev/peregrine/internal/unixsocket"
	"github.com/peregrine-dev/peregrine/netplugin/agent"
	"github.com/peregrine-dev/peregrine/netplugin/config"
	"github.com/peregrine-dev/peregrine/netplugin/fastpath"
	"github.com/peregrine-dev/peregrine/netplugin/peers"
	"github.com/peregrine-dev/peregrine/netplugin/protocol"
)

// lacking is in the environment of this program when it is to be falcond on a kernel that
// lacks the features named.
const lacking = "PEREGRINE_TEST_LACKS"

var errLacking = errors.New("this kernel lacks it")

// falcond is an agent that runs until it gets SIGTERM.
func falcond(lacks string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	features := fastpath.Probe()
	for _, name := range strings.Fields(lacks) {
		*map[string]*error{
			"programs": &features.Programs, "redirect_peer": &features.RedirectPeer, "check_mtu": &features.CheckMTU,
			"tcx": &features.TCX, "xdp": &features.XDP, "cpumap": &features.CPUMap,
		}[name] = fmt.Errorf("%s: %w", name, errLacking)
	}
	cfg, err := config.Load(os.Getenv("FALCON_CONFIG"), true)
	if err != nil {
		return err
	}
	root := os.Getenv("FALCON_ROOT")
	lock, err := daemon.Lock(root)
	if err != nil {
		return err
	}
	defer lock.Close()
	a, err := agent.Open(ctx, agent.Options{
		Config: cfg, Root: root, State: os.Getenv("FALCON_STATE"), Source: peers.File(cfg.Peers.File), Features: &features,
	})
	if err != nil {
		return err
	}
	defer a.Close()
	calls, err := unixsocket.Listen(filepath.Join(root, protocol.Socket))
	if err != nil {
		return err
	}
	defer calls.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx) })
	g.Go(func() error { return a.Serve(ctx, calls) })
	return g.Wait()
}

// without gives a node an agent that takes it that the kernel lacks features.
func without(t *testing.T, n *node.Node, lacks string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(n.Dir, "bin")
	script := fmt.Sprintf("#!/bin/sh\n%s=%q exec %q\n", lacking, lacks, self)
	err = errors.Join(os.Mkdir(dir, 0o700), os.Symlink(filepath.Join(n.Bin, "falcon"), filepath.Join(dir, "falcon")),
		os.WriteFile(filepath.Join(dir, "falcond"), []byte(script), 0o700))
	if err != nil {
		t.Fatal(err)
	}
	n.Bin = dir
}

// Whatever the kernel lacks, the network works, and the report says what is off.
func TestFastWithout(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		lacks string
		off   bool // the shortcut
	}{
		{"programs", true},
		{"redirect_peer", true},
		{"check_mtu", true},
		{"tcx", false},
		{"xdp", false},
		{"tcx cpumap", false},
	} {
		t.Run(test.lacks, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, false)
			n := c.nodes[0]
			without(t, n, test.lacks)
			c.start()
			a, beside := c.containAs(1, "a", "high"), c.containAs(1, "beside", "normal")
			b := c.contain(2, "falcon", "b")
			reach(t, "a", a.NS, b, beside)
			reach(t, "b", b.NS, a, beside)
			far, near := number(t, b, a, 0, 0), number(t, a, beside, 1, 0)
			if test.off {
				still(t, n, far, 500)
				if off := shortcutOf(t, n).Off; !strings.Contains(off, test.lacks) {
					t.Errorf("the shortcut is off because of %q", off)
				}
				if names, _ := attachedTo(t, n); len(names) > 0 {
					t.Errorf("attached are %v", names)
				}
			} else {
				n.Eventually(func() error {
					if off := shortcutOf(t, n).Off; off != "" {
						return errors.New(off)
					}
					return nil
				})
				rising(t, n, 100, "wire")
				rising(t, n, 100, "local")
			}
			if strings.Contains(test.lacks, "tcx") {
				if got := filtersOf(t, n); got != 7 { // two of each container, two of fx1, one of eth0
					t.Errorf("there are %d filters", got)
				}
			}
			if strings.Contains(test.lacks, "xdp") || strings.Contains(test.lacks, "cpumap") {
				r, err := n.Report()
				if err != nil || r.Priority.XDP != "" || !strings.Contains(r.Priority.Off+r.Priority.Problem, errLacking.Error()) {
					t.Errorf("it does not say that nothing orders packets: %+v, %v", r.Priority, err)
				}
			}
			n.Stop()
			n.Config.Shortcut.Mode, n.Config.Priority.Mode, n.Config.Pipeline.Mode = "off", "off", "off"
			n.Start()
			if names, _ := attachedTo(t, n); len(names) > 0 || filtersOf(t, n) > 0 {
				t.Errorf("when it is off, attached are %v and %d filters", names, filtersOf(t, n))
			}
			far.end()
			near.end()
			leave(a, beside, b)
		})
	}
}

// filtersOf counts the filters of a node's links, at clsact.
func filtersOf(t *testing.T, n *node.Node) (count int) {
	t.Helper()
	h := n.NS.Netlink()
	links, err := h.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			filters, err := h.FilterList(l, parent)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				t.Fatalf("%s: %v", l.Attrs().Name, err)
			}
			count += len(filters)
		}
	}
	return count
}
