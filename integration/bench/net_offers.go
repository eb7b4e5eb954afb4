package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
)

// readyOffers are namespaces that an agent makes ahead, with the directory where they
// are offered.
type readyOffers struct {
	*harness.Falcond
	dir  string
	conf []byte
}

// wantedOffers are kept ready.
const wantedOffers = 4

// startOffers makes a node that offers namespaces. Their addresses are where the stock
// host-local has them, under a name of this run.
func (b *netBench) startOffers(ctx context.Context) error {
	name := "bench-" + filepath.Base(b.dir)
	root := "/run/flashcube-" + name
	leases := filepath.Join("/var/lib/cni/networks", name)
	b.ready = &readyOffers{
		dir:  filepath.Join(root, "network", name),
		conf: fmt.Appendf(nil, `{"cniVersion":"1.1.0","name":%q,"type":"falcon"}`, name),
	}
	node, err := b.node()
	if err != nil {
		return err
	}
	other, err := b.node()
	if err != nil {
		return err
	}
	if err := wire(node, other); err != nil {
		return err
	}
	made := missing("/var/lib/cni/networks")
	b.undo = append(b.undo, func() error {
		err := errors.Join(unmountOffers(b.ready.dir), os.RemoveAll(root), os.RemoveAll(leases))
		for _, dir := range made {
			if rerr := os.Remove(dir); !errors.Is(rerr, unix.ENOTEMPTY) { // somebody else has come
				err = errors.Join(err, rerr)
			}
		}
		return err
	})
	c := harness.FalconConfig("offering", nearAddress, "", name, []netip.Prefix{cluster}, nearSubnet)
	c.Networks[0].Offers = wantedOffers
	b.ready.Falcond, err = b.startAgent(ctx, node, c, "FLASHCUBE_ROOT="+root)
	return err
}

// missing are a directory and those it is in that aren't there, the innermost first.
func missing(dir string) (dirs []string) {
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			return dirs
		}
		dirs = append(dirs, dir)
		dir = filepath.Dir(dir)
	}
}

// unmountOffers gives up the namespaces of offers in any state.
func unmountOffers(dir string) (err error) {
	mounts, err := filepath.Glob(filepath.Join(dir, "*", "*", "ns"))
	for _, m := range mounts {
		if uerr := unix.Unmount(m, unix.MNT_DETACH); !errors.Is(uerr, unix.EINVAL) { // EINVAL: it is none
			err = errors.Join(err, uerr)
		}
	}
	return err
}

// full waits until all offers are ready and none is being made or taken apart.
func (r *readyOffers) full(ctx context.Context) error {
	for end := time.Now().Add(time.Minute); ; {
		count := map[string]int{}
		for _, state := range []string{"making", "ready", "done"} {
			entries, err := os.ReadDir(filepath.Join(r.dir, state))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			count[state] = len(entries)
		}
		if count["ready"] == wantedOffers && count["making"]+count["done"] == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("offers are %v, want %d ready", count, wantedOffers)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// offers attaches a container in a namespace that was made ahead, and one by the
// reference plugins in an empty one.
func (b *netBench) offers(ctx context.Context, s samples, round int) error {
	for _, name := range turn(round, []string{pooled, bridge}) {
		if err := errors.Join(b.ready.full(ctx), b.calm()); err != nil {
			return err
		}
		if name == pooled {
			if err := b.adopt(ctx, s); err != nil {
				return err
			}
			continue
		}
		one := samples{}
		if err := b.life(ctx, bridge, one); err != nil {
			return err
		}
		s.add("offer", bridge, one["ADD"][bridge][0])
	}
	return nil
}

// adopt takes an offer, as FlashCube does, and attaches a container that has it.
func (b *netBench) adopt(ctx context.Context, s samples) error {
	entries, err := os.ReadDir(filepath.Join(b.ready.dir, "ready"))
	if err != nil {
		return err
	}
	name, id := entries[0].Name(), b.id()
	at := func(state string) string { return filepath.Join(b.ready.dir, state, name) }
	began := time.Now()
	if err := os.Rename(at("ready"), at("taken")); err != nil {
		return err
	}
	ns, err := os.Open(filepath.Join(at("taken"), "ns"))
	if err != nil {
		return err
	}
	defer ns.Close()
	_, called, err := b.ready.Call("ADD", id, b.ready.conf, ns, ns.Name())
	if err != nil {
		return err
	}
	s.add("offer", pooled, milliseconds(time.Since(began)))
	s.add("offer-call", pooled, milliseconds(called))
	report, err := b.ready.Report()
	if err != nil {
		return err
	}
	for _, e := range report.Endpoints {
		if e.Container == id && !e.Pooled {
			return fmt.Errorf("falcond attached %s anew and left the offer", id)
		}
	}
	if _, _, err := b.ready.Call("DEL", id, b.ready.conf, ns, ns.Name()); err != nil {
		return err
	}
	return os.Rename(at("taken"), at("done"))
}
