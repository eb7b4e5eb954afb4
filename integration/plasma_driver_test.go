package integration

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/plasma/driver"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// TestPlasmaDriver runs a server as the bundle has it: by FlashCube, on baoverlay, both of which
// "auto" finds.
func TestPlasmaDriver(t *testing.T) {
	for _, version := range []string{"2.4", "1.7"} {
		t.Run(version, func(t *testing.T) {
			b := setUpBundle(t, version)
			image := busybox(t)
			ctr(t, b.Containerd, "image", "import", image.Archive)
			client, err := b.Client()
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			d := driver.New(client, driver.Options{
				Namespace: b.Namespace, Root: filepath.Join(b.Dir(), "plasma"), Run: filepath.Join(b.Dir(), "r"),
			})
			found, err := d.Probe(t.Context())
			if err != nil || found.Runtime != harness.FlashcubeRuntime || found.Snapshotter != "baoverlay" || !slices.Contains(found.Runtimes, "io.containerd.runc.v2") {
				t.Errorf("%+v, %v", found, err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			happened, err := d.Events(ctx)
			if err != nil {
				t.Fatal(err)
			}
			spec, err := service.Parse("s.toml", []byte("name = 'served'\nimage = '"+image.Name+"'\ncommand = ['sleep', '1000']\n[limit]\ncpu = 0.5\nmemory = '64MiB'\n[most]\ncpu = 1\nmemory = '128MiB'"))
			if err != nil {
				t.Fatal(err)
			}
			s := driver.Server{Service: spec, ID: "served-0", Node: "n1", Version: 1, Limit: spec.Limit.Resources()}
			var last uint32
			for range 3 {
				if err := d.Start(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				all, err := d.List(t.Context())
				if err != nil || len(all) != 1 || all[0].State != driver.StateRunning || all[0].Pid == last || all[0].Cgroup == "" {
					t.Fatalf("%+v, %v", all, err)
				}
				if err := d.Update(t.Context(), s.ID, spec.Most.Resources()); err != nil {
					t.Error(err)
				}
				last = all[0].Pid
				if err := unix.Kill(int(last), unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				exited(t, happened, last)
			}
			if err := d.Delete(t.Context(), s.ID, true); err != nil {
				t.Error(err)
			}
			if exists(filepath.Join(b.Dir(), "plasma/servers", s.ID)) || exists(filepath.Join(b.Dir(), "r/servers", s.ID)) {
				t.Error("its directories are left")
			}
			cancel()
			for range happened { // until it is closed
			}
		})
	}
}

// exited waits for the end of a process.
func exited(t *testing.T, happened <-chan driver.Event, pid uint32) {
	t.Helper()
	for deadline := time.After(time.Minute); ; {
		select {
		case e := <-happened:
			if e.Kind == driver.Exited && e.Pid == pid {
				return
			}
		case <-deadline:
			t.Fatalf("the end of process %d was not told", pid)
		}
	}
}
