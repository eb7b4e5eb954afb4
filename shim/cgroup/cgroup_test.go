package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// inAll checks that the process, with every thread, is in the cgroup in every
// hierarchy.
func inAll(t *testing.T, c *Cgroup, pid int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/cgroup", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("process %d has no threads: %v", pid, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // a thread that ended
		}
		if err != nil {
			t.Fatal(err)
		}
		at := parseProcCgroup(data)
		for s, dir := range c.paths {
			if got := filepath.Join(c.host.mounts[s].Mountpoint, at[s]); got != dir {
				t.Errorf("in hierarchy %q %s is in %s, want %s", s, file, got, dir)
			}
		}
	}
}

func mustDelete(t *testing.T, c *Cgroup) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	mustBeGone(t, c.dirs, false)
}

func TestLife(t *testing.T) {
	h := warm(t)
	r := ctrResources()
	r.CPU.Shares, r.CPU.Quota, r.CPU.Period = ptr[uint64](512), ptr[int64](50000), ptr[uint64](100000)
	r.Memory = &specs.LinuxMemory{Limit: ptr[int64](64 << 20)}
	r.Pids = &specs.LinuxPids{Limit: ptr[int64](50)}
	c := newCgroup(t, h, testPath(t)+"/deep/er", r)
	p := startChild(t, "wait")
	if err := c.makeWith(p.pid()); err != nil {
		t.Fatal(err)
	}
	inAll(t, c, p.pid())
	if err := c.Set(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct{ v1, v1File, v1Want, v2File, v2Want string }{
		{"memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"},
		{"pids", "pids.max", "50", "pids.max", "50"},
		{"cpu", "cpu.shares", "512", "cpu.weight", "59"},
		{"cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"},
	} {
		want := f.v1Want
		if h.unified {
			want = f.v2Want
		}
		if got := c.file(t, f.v1, f.v1File, f.v2File); got != want {
			t.Errorf("%s or %s: got %q, want %q", f.v1File, f.v2File, got, want)
		}
	}

	q := startChild(t, "wait")
	if err := c.Add(q.pid()); err != nil {
		t.Fatal(err)
	}
	inAll(t, c, q.pid())
	pids, err := c.Procs()
	if err != nil || len(pids) != 2 {
		t.Errorf("processes %v, %v; want %d and %d", pids, err, p.pid(), q.pid())
	}

	if err := c.Freeze(); err != nil {
		t.Fatal(err)
	}
	if !c.frozen(t) {
		t.Error("not frozen after Freeze")
	}
	if err := c.Thaw(); err != nil {
		t.Fatal(err)
	}
	if c.frozen(t) {
		t.Error("frozen after Thaw")
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Delete(ctx); !errors.Is(err, errdefs.ErrFailedPrecondition) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("delete with processes: %v", err)
	}
	// A shim that has died knows only the paths.
	again, err := h.Load(c.Paths())
	if err != nil {
		t.Fatal(err)
	}
	// Sub-cgroups as a container with its cgroups mounted makes them.
	for _, m := range c.dirs {
		if err := os.Mkdir(m.dir+"/sub", 0o755); err != nil {
			t.Fatal(err)
		}
		if m.subsystem == "cpuset" {
			if err := inherit(m.dir+"/sub", m.dir, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := join(m.dir+"/sub", q.pid()); err != nil {
			t.Fatal(err)
		}
	}
	if pids, err := again.Procs(); err != nil || len(pids) != 2 {
		t.Errorf("with a sub-cgroup: processes %v, %v", pids, err)
	}
	// A frozen container can be killed.
	if err := again.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := again.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*child{p, q} {
		_ = x.Wait()
		if ws := x.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != unix.SIGKILL {
			t.Errorf("process ended by %v", ws)
		}
	}
	mustDelete(t, again)
	mustDelete(t, c)
	if err := c.Kill(); err != nil {
		t.Errorf("kill after delete: %v", err)
	}
	if pids, err := c.Procs(); err != nil || len(pids) != 0 {
		t.Errorf("after delete: processes %v, %v", pids, err)
	}
	if err := c.Add(os.Getppid()); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("add after delete: %v", err)
	}
}

// TestKillWithoutKillFile takes the way of kernels that cannot kill a cgroup at
// once: v1 without the v2 hierarchy.
func TestKillWithoutKillFile(t *testing.T) {
	h := warm(t)
	if h.unified {
		t.Log("on v2 the way without cgroup.kill needs a kernel before 5.14")
		return
	}
	c := newCgroup(t, h, testPath(t), nil)
	p := startChild(t, "wait")
	if err := c.makeWith(p.pid()); err != nil {
		t.Fatal(err)
	}
	paths := c.Paths()
	delete(paths, "")
	old, err := h.Load(paths)
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	if old.frozen(t) {
		t.Error("frozen after Kill")
	}
	mustDelete(t, c)
}

// TestUnifiedOnHybrid goes the ways of pure v2 in the v2 hierarchy of a hybrid
// host: all that needs no controller.
func TestUnifiedOnHybrid(t *testing.T) {
	real := warm(t)
	if _, ok := real.mounts[""]; !ok || real.unified {
		return
	}
	h := &Host{unified: true, mounts: map[string]Hierarchy{"": real.mounts[""]}, own: real.own}
	path := testPath(t)
	// Makes and sweeps the parents.
	keep := newCgroup(t, real, path+"/keep", nil)
	if err := keep.makeAll(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(keep.paths[""]) + "/c"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := h.Load(map[string]string{"": dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sweep(t, c) })
	if _, err := c.OOM(); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("watch without memory controller: %v", err)
	}
	if err := setDevicesUnified(dir, nil); err != nil {
		t.Error(err)
	}
	if files, err := c.Tasks(); err != nil || len(files) != 0 {
		t.Errorf("files of v1 %v, %v", files, err)
	}
	p := startIn(t, c, "wait")
	inAll(t, c, p.pid())
	if err := c.usable(c.dirs[0]); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("a cgroup with a process is usable: %v", err)
	}
	// Its init moves to a sub-cgroup; exec'd processes follow it when they must.
	c.SetInit(p.pid())
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := join(dir+"/sub", p.pid()); err != nil {
		t.Fatal(err)
	}
	if got, ok := c.initDir(); !ok || got != dir+"/sub" {
		t.Errorf("init is in %q, %v", got, ok)
	}
	q := startChild(t, "wait")
	c.dirs[0].dir = dir + "/refuses"
	err = c.Add(q.pid())
	c.dirs[0].dir = dir
	if err != nil {
		t.Fatal(err)
	}
	if in, err := procs(dir + "/sub"); err != nil || len(in) != 2 {
		t.Errorf("beside the init: processes %v, %v; want %d and %d", in, err, p.pid(), q.pid())
	}
	pids, err := c.Procs()
	if err != nil || len(pids) != 2 {
		t.Errorf("processes %v, %v", pids, err)
	}
	if err := c.Freeze(); err != nil {
		t.Fatal(err)
	}
	if !c.frozen(t) {
		t.Error("not frozen")
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = p.Wait(), q.Wait()
	mustDelete(t, c)
}

func TestDevicesLimited(t *testing.T) {
	h := warm(t)
	c := newCgroup(t, h, testPath(t), ctrResources())
	if err := c.makeAll(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		// The second time there is nothing to do.
		if err := c.Set(); err != nil {
			t.Fatal(err)
		}
	}
	for device, want := range map[string]string{"/dev/null": "ok\n", "/dev/kmsg": "operation not permitted\n"} {
		if got := startIn(t, c, "open", device).said; got != want {
			t.Errorf("opening %s: %q, want %q", device, got, want)
		}
	}
	if h.unified {
		return
	}
	const want = "b *:* m\nc *:* m\nc 1:3 rwm\nc 1:5 rwm\nc 1:7 rwm\nc 1:8 rwm\nc 1:9 rwm\nc 5:0 rwm\nc 5:1 rwm\nc 5:2 rwm\nc 10:200 rwm\nc 136:* rwm\n"
	list, err := read(c.paths["devices"], "devices.list")
	if err != nil || list != want {
		t.Errorf("devices.list: %v\n%swant\n%s", err, list, want)
	}
}

func TestStats(t *testing.T) {
	h := warm(t)
	r := ctrResources()
	r.Pids = &specs.LinuxPids{Limit: ptr[int64](33)}
	c := newCgroup(t, h, testPath(t), r)
	p := startChild(t, "wait")
	if err := c.makeWith(p.pid()); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s, err := c.Stats()
		if err != nil {
			t.Fatal(err)
		}
		switch m := s.(type) {
		case *v1.Metrics:
			if m.Pids.Limit != 33 || m.Pids.Current == 0 || m.Memory == nil || m.CPU.Usage == nil {
				t.Errorf("figures %v", m)
			}
		case *v2.Metrics:
			if m.Pids.Limit != 33 || m.Pids.Current == 0 || m.Memory == nil || m.CPU == nil {
				t.Errorf("figures %v", m)
			}
		default:
			t.Errorf("figures are %T", s)
		}
	}
}
