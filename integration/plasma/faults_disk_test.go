package plasma

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
)

// fullDisk has the disk of a server fill up with what actors store, and grow again: what was
// answered stays, what can't be stored is refused, and all goes on when there is room.
func fullDisk(t *testing.T, p *harness.Plasma, image images.Image, name string) {
	// The first two servers' states are on small file systems of their own, wherever they are.
	var disks []string
	for _, n := range p.Nodes {
		for i := range 3 {
			dir := filepath.Join(n.Root, "servers", fmt.Sprintf("%s-%d", name, i))
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m,mode=0700"); err != nil {
				t.Fatal(err)
			}
			disks = append(disks, dir)
			t.Cleanup(func() {
				if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
		}
	}
	w := begin(t, p, image, name, 2, "")
	ctx, stop := context.WithCancel(t.Context())
	moving := w.keepMoving(ctx, 2)
	defer func() { stop(); moving() }()
	full := 0
	for i := 0; full < 6 && i < 100; i++ {
		if _, err := w.clients[0].call("Blob", fmt.Sprint("b", i), "size", "200000", 2*time.Second); err != nil {
			if full++; full == 1 {
				t.Logf("the disk is full after %d: %v", i, err)
			}
		}
	}
	if full < 6 {
		t.Fatal("no disk is full")
	}
	doubted := w.doubted.Load()
	eventually(t, "calls are refused", 10*time.Second, func(context.Context) error {
		if w.doubted.Load() == doubted {
			return errNotYet
		}
		return nil
	})
	// A host that dies meanwhile may not be able to start.
	s := w.anyServer()
	w.signal(w.pid(s.ID), unix.SIGKILL)
	sleep(t.Context(), 500*time.Millisecond)
	for _, dir := range disks {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=64m,mode=0700"); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	eventually(t, "all goes on", 60*time.Second, func(context.Context) error {
		for _, a := range w.actors() {
			if a[0] != "Ledger" || strings.HasPrefix(a[1], "i") {
				continue
			}
			if _, err := w.clients[0].call(a[0], a[1], "read", "", 5*time.Second); err != nil {
				return err
			}
		}
		_, err := w.clients[0].call("Blob", "another", "size", "200000", 5*time.Second)
		return err
	})
	t.Logf("all goes on %s after there is room", time.Since(began).Round(10*time.Millisecond))
	stop()
	moving()
	w.end(2)
}
