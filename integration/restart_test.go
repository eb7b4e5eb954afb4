package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coremount "github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// TestSecondDaemon starts a daemon on a root, or a socket, that another one serves: it
// says so and ends, and the first goes on.
func TestSecondDaemon(t *testing.T) {
	pooltest.NeedRoot(t)
	leaktest.Check(t)
	first := newDaemon(t, smallPool)
	first.start(t)
	sn := first.client(t)
	defer sn.Close()
	for name, tt := range map[string]struct {
		change func(*config.Config)
		want   string
	}{
		"root":   {func(c *config.Config) { c.Root = first.Config.Root }, "another process uses the root " + first.Config.Root},
		"socket": {func(c *config.Config) { c.Address = first.Config.Address }, "another process answers on " + first.Config.Address},
	} {
		t.Run(name, func(t *testing.T) {
			second := newDaemonIn(workDir(t), func(c *config.Config) { smallPool(c); tt.change(c) })
			// Not Start: what answers on a shared socket is the first.
			if err := second.Launch(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-second.Ended():
			case <-time.After(time.Minute):
				t.Error("the second daemon goes on")
			}
			if err := second.Stop(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the second daemon says %v, want %q", err, tt.want)
			}
			if name == "socket" && exists(filepath.Join(second.Config.Root, "pool.img")) {
				t.Error("the second daemon made a pool")
			}
			if _, err := sn.Prepare(t.Context(), "after "+name, ""); err != nil {
				t.Errorf("the first daemon: %v", err)
			}
		})
	}
}

// TestStartRace starts several daemons on a new root at once: one of them serves.
func TestStartRace(t *testing.T) {
	pooltest.NeedRoot(t)
	leaktest.Check(t)
	daemons := []daemon{newDaemon(t, smallPool), {}, {}}
	for i := range daemons[1:] {
		daemons[i+1] = newDaemonIn(workDir(t), func(c *config.Config) {
			smallPool(c)
			c.Root = daemons[0].Config.Root
		})
	}
	serving := make([]bool, len(daemons))
	var g errgroup.Group
	for i, d := range daemons {
		g.Go(func() error {
			err := d.Start(t.Context())
			serving[i] = err == nil
			if err != nil && !strings.Contains(err.Error(), "another process uses the root") {
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	n := 0
	for i, d := range daemons {
		if serving[i] {
			n++
			if err := d.Stop(); err != nil {
				t.Error(err)
			}
		}
	}
	if n != 1 {
		t.Errorf("%d daemons serve one root", n)
	}
}

// TestTerm stops the daemon while it commits a large layer: the commit is finished and
// acknowledged, nobody else is let in, and what was mounted stays.
func TestTerm(t *testing.T) {
	pooltest.NeedRoot(t)
	leaktest.Check(t)
	// A commit that ended before the daemon closed its door shows nothing: it
	// takes a larger one then.
	for files := 1000; ; files *= 4 {
		if files > 100_000 {
			t.Fatal("no commit was under way when the daemon stopped")
		}
		if termWhileCommitting(t, files) {
			return
		}
	}
}

func termWhileCommitting(t *testing.T, files int) (underWay bool) {
	bao := newDaemon(t, func(c *config.Config) {
		smallPool(c)
		c.Metrics.Address = freeAddress(t)
	})
	bao.start(t)
	defer bao.reset(t)
	sn := bao.client(t)
	defer sn.Close()
	layer, err := sn.Prepare(t.Context(), "layer", "")
	if err != nil {
		t.Fatal(err)
	}
	err = coremount.WithTempMount(t.Context(), layer, func(root string) error {
		for i := range files {
			if err := os.WriteFile(filepath.Join(root, fmt.Sprint(i)), make([]byte, 8192), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	running, err := sn.Prepare(t.Context(), "running", "")
	if err != nil {
		t.Fatal(err)
	}
	err = coremount.WithTempMount(context.WithoutCancel(t.Context()), running, func(root string) error {
		underWay = commitAndTerm(t, bao, sn)
		return errors.Join(
			os.WriteFile(filepath.Join(root, "file"), []byte("written without a daemon"), 0o644),
			os.Remove(filepath.Join(root, "file")))
	})
	if err != nil {
		t.Errorf("a mount after its daemon ended: %v", err)
	}
	if err := unix.Access(filepath.Join(baoverlay.PoolDir(bao.Config.Root), "metadata.db"), unix.R_OK); err != nil {
		t.Errorf("the pool is not mounted: %v", err)
	}
	bao.start(t)
	if info, err := sn.Stat(t.Context(), "committed"); err != nil || info.Labels["how"] != "slowly" {
		t.Errorf("after a restart the layer is %+v, %v", info, err)
	}
	return underWay
}

// commitAndTerm sends SIGTERM when a commit has begun, and reports whether it was still
// under way when the daemon refused others.
func commitAndTerm(t *testing.T, bao daemon, sn client) (underWay bool) {
	t.Helper()
	committed := make(chan error, 1)
	go func() {
		committed <- sn.Commit(t.Context(), "committed", "layer", withLabel("how", "slowly"))
	}()
	bao.await(t, `grpc_server_started_total{grpc_method="Commit",`, "1")
	if err := bao.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", bao.Config.Address)
		if err != nil {
			break
		}
		conn.Close()
	}
	underWay = len(committed) == 0
	other := bao.client(t)
	if _, err := other.Stat(t.Context(), "running"); !errdefs.IsUnavailable(err) {
		t.Errorf("a new caller of a daemon that stops gets %v, want ErrUnavailable", err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if err := <-committed; err != nil {
		t.Errorf("the commit under way when the daemon was stopped: %v", err)
	}
	if err := bao.Stop(); err != nil {
		t.Errorf("the daemon's end: %v", err)
	}
	return underWay
}
