package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/integration/leak/leaktest"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// lab is a driver with a containerd of its own, which has the image of busybox.
type lab struct {
	*Driver
	c     *harness.Containerd
	cache string
	image images.Image
	dir   string
}

// newLab runs a containerd until the test ends. Then nothing may be left.
func newLab(t *testing.T, version string, shims ...harness.Shim) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers need root")
	}
	leaktest.Check(t)
	cache, err := harness.Cache()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := harness.NewDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dir.Remove(); err != nil {
			t.Error(err)
		}
	})
	c, err := harness.StartContainerd(t.Context(), cache, version, dir.Path, nil, shims...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	image, err := images.Busybox(t.Context(), cache, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &lab{New(client, Options{
		Namespace: c.Namespace, Root: filepath.Join(dir.Path, "plasma"), Run: filepath.Join(dir.Path, "r"),
		CNIConf: filepath.Join(dir.Path, "net.d"), CNIBin: []string{filepath.Join(dir.Path, "cni")},
	}), c, cache, image, dir.Path}
}

// importImage has containerd import the image.
func (l *lab) importImage(t *testing.T) {
	t.Helper()
	if out, err := l.c.Ctr(t.Context(), "image", "import", l.image.Archive); err != nil {
		t.Fatal(err, out)
	}
}

// busybox is a server that runs a script. It notes each of its lives, and ends by SIGTERM.
func (l *lab) busybox(t *testing.T, id, script, more string) Server {
	t.Helper()
	name, _, _ := service.SplitServerID(id)
	spec, err := service.Parse("s.toml", fmt.Appendf(nil, "name = %q\nimage = %q\ncommand = ['sh', '-c', %q]\n%s", name, l.image.Name,
		"trap 'exit 4' TERM; "+script+"; echo $PLASMA_SERVER >> /var/lib/plasma/lives; while sleep 0.02; do :; done", more))
	if err != nil {
		t.Fatal(err)
	}
	return Server{Service: spec, ID: id, Node: "n1", Version: 3, Limit: spec.Limit.Resources()}
}

func (l *lab) start(t *testing.T, s Server) Running {
	t.Helper()
	if err := l.Start(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return l.find(t, s.ID)
}

// find gives a server that must be there.
func (l *lab) find(t *testing.T, id string) Running {
	t.Helper()
	all, err := l.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(r Running) bool { return r.ID == id })
	if i < 0 {
		t.Fatalf("%s is not among %+v", id, all)
	}
	return all[i]
}

// text waits until a file has as many lines.
func text(t *testing.T, file string, lines int) string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(file)
		if err == nil && strings.Count(string(text), "\n") >= lines {
			return string(text)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has %q, want %d lines: %v", file, text, lines, err)
		}
	}
}

// wantNothing fails the test if anything of a server is there.
func (l *lab) wantNothing(t *testing.T, id string) {
	t.Helper()
	ctx := l.in(t.Context())
	all, err := l.client.ContainerService().List(ctx)
	if err != nil || len(all) > 0 {
		t.Errorf("there are containers %v, %v", all, err)
	}
	err = l.client.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindCommitted {
			t.Errorf("there is a snapshot %s", info.Name)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	n := l.dirs(id)
	for _, path := range []string{n.run, n.peers, n.state, n.log, l.netns("fake", id)} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
}

// next waits for an event of a kind.
func next(t *testing.T, ch <-chan Event, kind Kind) Event {
	t.Helper()
	for deadline := time.After(time.Minute); ; {
		select {
		case e, ok := <-ch:
			if !ok {
				t.Fatal("the events have ended")
			}
			if e.Kind == kind {
				return e
			}
		case <-deadline:
			t.Fatalf("no event %q", kind)
		}
	}
}

// quota is what a cgroup may use of CPU in 100 ms, and its memory.
func quota(t *testing.T, cgroup string) (cpu, memory string) {
	t.Helper()
	read := func(files ...string) string {
		for _, file := range files {
			if text, err := os.ReadFile(file); err == nil {
				return strings.Fields(string(text))[0]
			}
		}
		t.Fatalf("no file of %q can be read", files)
		return ""
	}
	const root = "/sys/fs/cgroup"
	return read(filepath.Join(root, "cpu", cgroup, "cpu.cfs_quota_us"), filepath.Join(root, cgroup, "cpu.max")),
		read(filepath.Join(root, "memory", cgroup, "memory.limit_in_bytes"), filepath.Join(root, cgroup, "memory.max"))
}

// fakeCNI makes a network "fake" of a plugin that writes down its calls, and gives every
// container an address unless a line of shell ends it before.
func (l *lab) fakeCNI(t *testing.T, before string) (calls string) {
	t.Helper()
	calls = filepath.Join(l.dir, "calls")
	for name, text := range map[string]string{
		"net.d/10-fake.conflist": `{"cniVersion":"1.0.0","name":"fake","plugins":[{"type":"fake"}]}`,
		"cni/fake": "#!/bin/sh\necho $CNI_COMMAND $CNI_CONTAINERID >> " + calls + "\n[ $CNI_COMMAND = DEL ] && exit 0\n" + before +
			"\necho '{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.1.2.3/24\"}]}'\n",
	} {
		path := filepath.Join(l.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return calls
}
