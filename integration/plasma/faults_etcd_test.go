package plasma

import (
	"context"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/internal/netlab"
	"github.com/peregrine-dev/peregrine/netplugin/peers/etcdtest"
	"github.com/peregrine-dev/peregrine/plasma/config"
)

// outside starts a cluster whose etcd is the user's, with TLS, on a machine of its own.
func outside(t *testing.T, n int) (*harness.Plasma, images.Image, *etcdtest.Server) {
	t.Helper()
	leaktest.Check(t)
	cache, err := harness.Cache()
	if err != nil {
		t.Fatal(err)
	}
	image, err := images.Busybox(t.Context(), cache, nil)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netlab.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	p, err := harness.NewPlasma(cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range p.Nodes {
				t.Logf("%s:\n%s", n.Config.Node, n.Tail())
			}
		}
		if err := p.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if err := p.Plug(ns, 253); err != nil {
		t.Fatal(err)
	}
	etcd := etcdtest.Start(t, etcdtest.Config{
		Host: "192.0.2.253", TLS: true,
		Enter: func() error { return unix.Setns(int(ns.File().Fd()), unix.CLONE_NEWNET) },
	})
	err = p.Start(t.Context(), bin, n, func(c *config.Config) {
		c.Member = config.Member{}
		c.Etcd = config.Etcd{Endpoints: []string{etcd.Endpoint}, CA: etcd.PKI.CA, Cert: etcd.PKI.ClientCert, Key: etcd.PKI.ClientKey}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Import(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	return p, image, etcd
}

// TestEtcd has the user's etcd be killed and paused, also for longer than leases, while actors
// move and their hosts and plasmads die.
func TestEtcd(t *testing.T) {
	p, image, etcd := outside(t, 2)
	w := begin(t, p, image, "app", 3, "")
	ctx, stop := context.WithCancel(t.Context())
	moving, watching := w.keepMoving(ctx, 4), noTwins(ctx, t)
	defer func() { stop(); moving(); watching() }()
	kill := func(name string, d time.Duration, meanwhile func(*world)) fault {
		return fault{name: name, do: func(w *world) {
			etcd.Kill()
			meanwhile(w)
			sleep(w.t.Context(), d)
			etcd.Restart()
		}}
	}
	all := []fault{
		kill("kill etcd", 100*time.Millisecond, func(*world) {}),
		kill("kill etcd, and a host meanwhile", 500*time.Millisecond, func(w *world) { w.signal(w.pid(w.anyServer().ID), unix.SIGKILL) }),
		{name: "pause etcd", do: func(w *world) { etcd.Pause(); sleep(w.t.Context(), 2*time.Second); etcd.Resume() }},
		{name: "kill a plasmad", do: func(w *world) { w.restart(w.anyNode(), 0) }},
		{name: "kill etcd for longer than leases", do: func(w *world) {
			etcd.Kill()
			sleep(w.t.Context(), lease+2*time.Second)
			etcd.Restart()
		}, long: true},
	}
	rounds := 10
	if !soak() {
		rounds, all = 1, slices.DeleteFunc(all, func(f fault) bool { return f.long })
	}
	for range rounds {
		for _, f := range all {
			w.strike(f)
		}
	}
	stop()
	moving()
	watching()
	w.end(3)
}
