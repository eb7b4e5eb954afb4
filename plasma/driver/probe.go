package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	apitypes "github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/service"
)

// What "auto" prefers, and what it falls back on.
const (
	flashcube = "io.containerd.flashcube.v1"
	runc      = plugins.RuntimeRuncV2
	baoverlay = "baoverlay"
)

// patience is for parts that may hang when they are asked.
const patience = 5 * time.Second

// Found is what a containerd has.
type Found struct {
	Version      string   // containerd's
	Runtimes     []string // of FlashCube and runc, those that containerd can run
	Snapshotters []string // those that work, by what containerd says
	Runtime      string   // what "auto" stands for
	Snapshotter  string
}

// Probe looks what containerd has. Servers that are started from now on, with "auto", have what
// it found: it is to be called again after a restart of containerd.
func (d *Driver) Probe(ctx context.Context) (Found, error) {
	f, err := d.probe(d.in(ctx))
	if err != nil {
		return Found{}, fmt.Errorf("look what containerd has: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.found = &f
	return f, nil
}

// settled is what Probe found last.
func (d *Driver) settled(ctx context.Context) (Found, error) {
	d.mu.Lock()
	found := d.found
	d.mu.Unlock()
	if found != nil {
		return *found, nil
	}
	return d.Probe(ctx)
}

func (d *Driver) probe(ctx context.Context) (f Found, err error) {
	v, err := d.client.Version(ctx)
	if err != nil {
		return f, err
	}
	f.Version = v.Version
	for _, name := range []string{flashcube, runc} {
		ok, err := d.runs(ctx, name)
		if err != nil {
			return f, err
		}
		if ok {
			f.Runtimes = append(f.Runtimes, name)
		}
	}
	// What can't be found out is left to containerd, which has runc's shim beside it.
	f.Runtime = runc
	if len(f.Runtimes) > 0 {
		f.Runtime = f.Runtimes[0]
	}
	answer, err := d.client.IntrospectionService().Plugins(ctx, "type=="+string(plugins.SnapshotPlugin))
	if err != nil {
		return f, err
	}
	for _, p := range answer.Plugins {
		if p.InitErr == nil && (p.ID != baoverlay || d.answers(ctx, p.ID)) {
			f.Snapshotters = append(f.Snapshotters, p.ID)
		}
	}
	f.Snapshotter = baoverlay
	if !slices.Contains(f.Snapshotters, baoverlay) {
		label, err := d.client.GetLabel(ctx, defaults.DefaultSnapshotterNSLabel)
		if err != nil {
			return f, err
		}
		f.Snapshotter = cmp.Or(label, defaults.DefaultSnapshotter)
	}
	return f, nil
}

// answers tells whether a snapshotter that is a daemon of its own is there: containerd says of
// such a one that it works before anybody asked it for something.
func (d *Driver) answers(ctx context.Context, snapshotter string) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := d.client.SnapshotService(snapshotter).Stat(ctx, "plasma-probe")
	return err == nil || errdefs.IsNotFound(err)
}

// runs tells whether containerd can run a runtime.
func (d *Driver) runs(ctx context.Context, runtime string) (bool, error) {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := d.client.IntrospectionService().PluginInfo(limited, string(plugins.RuntimePluginV2), "task",
		&apitypes.RuntimeRequest{RuntimePath: runtime})
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil || errdefs.IsUnavailable(err):
		return false, err
	case !errdefs.IsNotImplemented(err):
		return false, nil // by the shim's own words, or containerd's
	}
	// containerd 1.x can't be asked; it looks for the shim on its PATH and beside itself.
	server, err := d.client.IntrospectionService().Server(ctx)
	if err != nil {
		return false, err
	}
	return installed(server.Pid, runtime), nil
}

// installed tells whether the containerd that is a process finds the shim of a runtime.
func installed(pid uint64, runtime string) bool {
	if pid == 0 {
		return false // before 1.7 it doesn't say which process it is
	}
	proc := fmt.Sprintf("/proc/%d", pid)
	var in []string
	if self, err := os.Readlink(proc + "/exe"); err == nil {
		in = append(in, filepath.Dir(self))
	}
	environ, err := os.ReadFile(proc + "/environ")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false
	}
	for variable := range strings.SplitSeq(string(environ), "\x00") {
		if path, ok := strings.CutPrefix(variable, "PATH="); ok {
			in = append(in, filepath.SplitList(path)...)
		}
	}
	binary := "containerd-shim" + strings.ReplaceAll(strings.TrimPrefix(runtime, "io.containerd"), ".", "-")
	return slices.ContainsFunc(in, func(dir string) bool {
		fi, err := os.Stat(filepath.Join(dir, binary))
		return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
	})
}

// choose gives the runtime and the snapshotter of a service.
func (d *Driver) choose(ctx context.Context, s *service.Spec) (runtime, snapshotter string, err error) {
	runtime, snapshotter = s.Runtime, s.Snapshotter
	if runtime != service.Auto && snapshotter != service.Auto {
		return runtime, snapshotter, nil
	}
	found, err := d.settled(ctx)
	if err != nil {
		return "", "", err
	}
	if runtime == service.Auto {
		runtime = found.Runtime
	}
	if snapshotter == service.Auto {
		snapshotter = found.Snapshotter
	}
	return runtime, snapshotter, nil
}
