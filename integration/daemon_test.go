package integration

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/peregrine-dev/peregrine/integration/harness"
	baoverlay "github.com/peregrine-dev/peregrine/snapshotter"
	"github.com/peregrine-dev/peregrine/snapshotter/config"
	"github.com/peregrine-dev/peregrine/snapshotter/pool/pooltest"
)

// daemon is a snapshotter whose socket a test talks to, without containerd.
type daemon struct{ *harness.Snapshotter }

// newDaemon is a daemon that does not run yet, with a directory of its own.
func newDaemon(t *testing.T, change func(*config.Config)) daemon {
	t.Helper()
	d := newDaemonIn(workDir(t), change)
	t.Cleanup(func() { d.reset(t) })
	return d
}

func newDaemonIn(dir string, change func(*config.Config)) daemon {
	return daemon{harness.NewSnapshotter(bin, dir, change)}
}

// reset kills the daemon and deletes its root.
func (d daemon) reset(t *testing.T) {
	t.Helper()
	var err error
	if d.Process != nil {
		err = d.Kill()
	}
	if err := errors.Join(err, pooltest.Remove(baoverlay.PoolDir(d.Config.Root)), os.RemoveAll(d.Config.Root)); err != nil {
		t.Fatal(err)
	}
}

func (d daemon) start(t *testing.T) {
	t.Helper()
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// launchAndKill kills the daemon some time after it made a file in its root, or after
// the patience to wait for that is at an end: an earlier start may have come further.
func (d daemon) launchAndKill(t *testing.T, file string, patience, after time.Duration) {
	t.Helper()
	// Nobody holds it, and its coming is a landmark again.
	if err := os.Remove(filepath.Join(d.Config.Root, "lock")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); !exists(filepath.Join(d.Config.Root, file)) && time.Since(began) < patience; {
		runtime.Gosched()
	}
	time.Sleep(after)
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
}

// await waits until the first metric that starts so has a value.
func (d daemon) await(t *testing.T, metric, value string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		resp, err := http.Get("http://" + d.Config.Metrics.Address + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		_, line, _ := strings.Cut(string(text), "\n"+metric)
		line, _, _ = strings.Cut(line, "\n")
		if strings.HasSuffix(line, " "+value) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is %q, want %s", metric, line, value)
		}
	}
}

// freeAddress is a TCP address that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func withLabel(key, value string) snapshots.Opt {
	return snapshots.WithLabels(map[string]string{key: value})
}

// client connects to the daemon as containerd does; the caller closes it.
func (d daemon) client(t *testing.T) client {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+d.Config.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	sn := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "baoverlay")
	return client{sn, sn.(snapshots.Cleaner), conn}
}

type client struct {
	snapshots.Snapshotter
	snapshots.Cleaner
	conn *grpc.ClientConn
}

func (c client) Close() error { return c.conn.Close() }

// checkMetadata checks the pages of the metadata, which no daemon has open.
func checkMetadata(t *testing.T, root string) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(baoverlay.PoolDir(root), "metadata.db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		t.Fatalf("open the metadata: %v", err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		var errs error
		for err := range tx.Check() {
			errs = errors.Join(errs, err)
		}
		return errs
	})
	if err != nil {
		t.Errorf("the metadata is inconsistent: %v", err)
	}
}

// checkDirs compares the directories of a stopped daemon with its metadata, and looks
// for files that nobody needs.
func checkDirs(t *testing.T, root string) {
	t.Helper()
	ms, err := storage.NewMetaStore(filepath.Join(baoverlay.PoolDir(root), "metadata.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer ms.Close()
	var ids map[string]string
	err = ms.WithTransaction(t.Context(), false, func(ctx context.Context) (err error) {
		ids, err = storage.IDMap(ctx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(baoverlay.PoolDir(root), "snapshots"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, ok := ids[e.Name()]; !ok {
			t.Errorf("directory %s belongs to no snapshot", e.Name())
		}
		delete(ids, e.Name())
	}
	for id, key := range ids {
		t.Errorf("snapshot %q has no directory %s", key, id)
	}
	wantEntries(t, root, "engine", "lock", "pool", "pool.img")
	wantEntries(t, baoverlay.PoolDir(root), "metadata.db", "snapshots")
}

// wantEntries fails when there is anything else in dir.
func wantEntries(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("%s has %q, want %q", dir, names, want)
	}
}
