package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestBornFirst goes the way of a container's init: the v2 directory is made first,
// the process is born in it, and the other directories follow.
func TestBornFirst(t *testing.T) {
	h := warm(t)
	c := newCgroup(t, h, testPath(t)+"/deep", nil)
	if _, ok := c.paths[""]; !ok {
		if err := c.CreateUnified(); err != nil {
			t.Errorf("without v2: %v", err)
		}
		mustBeGone(t, c.dirs, true)
		return
	}
	if err := c.CreateUnified(); err != nil {
		t.Fatal(err)
	}
	mustBeGone(t, c.members(false), true)
	p := born(t, c)
	c.SetInit(p.pid())
	if pids, err := procs(c.paths[""]); err != nil || len(pids) != 1 || pids[0] != p.pid() {
		t.Errorf("born in the cgroup: %v, %v; want %d", pids, err, p.pid())
	}
	mustBeGone(t, c.members(false), true)
	// Its being there does not make the cgroup another's.
	if err := c.CreateOthers(); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(); err != nil {
		t.Fatal(err)
	}
	if err := c.Add(p.pid()); err != nil {
		t.Fatal(err)
	}
	inAll(t, c, p.pid())
	p.end()
	mustDelete(t, c)
}

func TestTasks(t *testing.T) {
	h := warm(t)
	c := newCgroup(t, h, testPath(t), ctrResources())
	if err := c.makeAll(); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p := startIn(t, c, "wait")
		if p.said != "ready\n" {
			t.Fatalf("child: %s", p.said)
		}
		inAll(t, c, p.pid())
		pids, err := c.Procs()
		if err != nil || len(pids) != 1 || pids[0] != p.pid() {
			t.Errorf("processes %v, %v; want %d alone", pids, err, p.pid())
		}
		p.end()
	}
	v1 := c.members(false)
	if len(v1) > 0 {
		// What could be opened comes with the error.
		if err := rmdir(v1[len(v1)-1].dir); err != nil {
			t.Fatal(err)
		}
		files, err := c.Tasks()
		if len(files) != len(v1)-1 || !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("with one gone: %d files, %v", len(files), err)
		}
		closeAll(files)
	}
	mustDelete(t, c)
	if files, err := c.Tasks(); len(files) != 0 || len(v1) > 0 && !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("with all gone: %d files, %v", len(files), err)
	}
	if _, err := c.Dir(); c.paths[""] != "" && !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("directory of a cgroup that is gone: %v", err)
	}
}

// TestAddAtLimit adds a process to a cgroup that takes no fork.
func TestAddAtLimit(t *testing.T) {
	h := warm(t)
	c := newCgroup(t, h, testPath(t), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](1)}})
	if err := c.makeAll(); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		cmd := exec.Command("/bin/sleep", "100")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
		if err := c.Add(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		inAll(t, c, cmd.Process.Pid)
	}
}

func TestEnter(t *testing.T) {
	h := warm(t)
	path := testPath(t)
	c := newCgroup(t, h, path, nil)
	p := startChild(t, "wait")
	if err := h.Enter(path, p.pid()); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("no such cgroup: %v", err)
	}
	if err := c.makeAll(); err != nil {
		t.Fatal(err)
	}
	// A path never leads out of the hierarchies.
	for _, name := range []string{path, path[1:], "/../.." + path} {
		if err := h.Enter(name, p.pid()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		inAll(t, c, p.pid())
		if err := c.leave(p.pid()); err != nil {
			t.Fatal(err)
		}
	}
	// Hierarchies that do not have it are left alone.
	for _, m := range c.dirs[1:] {
		if err := rmdir(m.dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Enter(path, p.pid()); err != nil {
		t.Error(err)
	}
	if pids, err := procs(c.dirs[0].dir); err != nil || len(pids) != 1 || pids[0] != p.pid() {
		t.Errorf("processes %v, %v; want %d", pids, err, p.pid())
	}
	for _, m := range c.dirs[1:] {
		now, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.pid()), "cgroup"))
		if err != nil {
			t.Fatal(err)
		}
		if at := parseProcCgroup(now)[m.subsystem]; at != h.own[m.subsystem] {
			t.Errorf("in hierarchy %q process is in %s, want %s", m.subsystem, at, h.own[m.subsystem])
		}
	}
	p.end()
	if err := h.Enter(path, p.pid()); err == nil {
		t.Error("a process that has ended: no error")
	}
	mustDelete(t, c)
}
