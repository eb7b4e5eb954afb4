package offer

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDrain(t *testing.T) {
	n := newNetwork(t)
	if err := n.keeper(2).Drain(t.Context()); err != nil {
		t.Fatalf("where no Keeper ever ran: %v", err)
	}
	stop := n.run(n.keeper(2))
	n.settled(2)
	stop()
	used, ok := n.take(processLine(t, os.Getpid()))
	if !ok {
		t.Fatal("nothing to take")
	}
	for _, s := range []state{making, done} {
		n.put(s, newID(), true, true, true)
	}
	for range 2 {
		if err := n.keeper(2).Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.clean()
		if !n.has(taken, used) || !n.maker.Known(used) {
			t.Error("a container has lost its network")
		}
	}
	n.finish(used)
	if err := n.keeper(2).Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.clean()
	if _, err := os.Stat(n.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(n.dir)); err != nil {
		t.Errorf("the directory of all networks: %v", err)
	}
}

func TestDrainFails(t *testing.T) {
	n := newNetwork(t)
	n.put(ready, newID(), true, true, true)
	n.put(ready, newID(), true, true, true)
	n.put(done, newID(), true, true, true)
	failed := 0
	n.maker.detach = func(context.Context, string) error {
		if failed++; failed > 1 {
			return nil
		}
		return unix.EIO
	}
	if err := n.keeper(0).Drain(t.Context()); !errors.Is(err, unix.EIO) {
		t.Errorf("want an error: %v", err)
	}
	if n.count(ready) != 0 || n.count(making) != 1 || n.count(done) != 0 {
		t.Errorf("left are %v", n.all())
	}
	if err := n.keeper(0).Drain(t.Context()); err != nil {
		t.Error(err)
	}
	n.clean()
}

// never is for what may not be detached.
func never(n *network) func(context.Context, string) error {
	return func(_ context.Context, id string) error {
		if !isID(id) {
			n.Errorf("detached %q, which is no offer", id)
		}
		return nil
	}
}
