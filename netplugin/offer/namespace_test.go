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

// TestThreads makes so many that some goroutine begins on the process's first thread.
func TestThreads(t *testing.T) {
	n := newNetwork(t) // checks that it stays where it is
	n.put(making, "x", false, false, false)
	path := n.path(making, "x", namespaceFile)
	for range 100 {
		if err := makeNamespace(path); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(checkNamespace(path), remove(n.path(making, "x")), os.Mkdir(n.path(making, "x"), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMakeNamespaceFails(t *testing.T) {
	n := newNetwork(t)
	if err := makeNamespace(filepath.Join(n.dir, "nowhere", "ns")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
	n.put(making, "x", true, false, false)
	if err := makeNamespace(n.path(making, "x", namespaceFile)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	n.unmounted()
}

func (n *network) unmounted() {
	if got := mounts(n, n.dir); len(got) > 0 {
		n.Errorf("mounted is %v", got)
	}
}

// TestUnmountOpen takes an offer apart whose namespace somebody has open.
func TestUnmountOpen(t *testing.T) {
	n := newNetwork(t)
	n.put(done, "x", true, true, false)
	f, err := os.Open(n.path(done, "x", namespaceFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := remove(n.path(done, "x")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := errors.Join(unmount(n.path(done, "x", namespaceFile)), remove(n.path(done, "x"))); err != nil {
			t.Errorf("of nothing: %v", err)
		}
	}
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); kind != unix.CLONE_NEWNET || err != nil {
		t.Errorf("it is gone from under who has it: %d, %v", kind, err)
	}
	n.unmounted()
}

type noMaker struct{}

func (noMaker) Attach(context.Context, string, *os.File, string) error { return nil }
func (noMaker) Detach(context.Context, string) error                   { return nil }
func (noMaker) Known(string) bool                                      { return true }

// BenchmarkOffer makes an offer and takes it apart, with a Maker that does nothing.
func BenchmarkOffer(b *testing.B) {
	k := &Keeper{Dir: b.TempDir(), Maker: noMaker{}}
	k.begin()
	if err := k.prepare(); err != nil {
		b.Fatal(err)
	}
	apart := func() {
		names, err := k.list(ready)
		if err != nil {
			b.Fatal(err)
		}
		for _, name := range names {
			if err := errors.Join(k.move(name, ready, done), k.takeApart(b.Context(), done, name)); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("make", func(b *testing.B) {
		for b.Loop() {
			if err := k.makeOne(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			apart()
			b.StartTimer()
		}
	})
	b.Run("both", func(b *testing.B) {
		for b.Loop() {
			if err := k.makeOne(b.Context()); err != nil {
				b.Fatal(err)
			}
			apart()
		}
	})
}
