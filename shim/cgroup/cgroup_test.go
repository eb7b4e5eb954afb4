package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
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

// inAll checks that the process is in the cgroup in every hierarchy.
func inAll(t *testing.T, c *Cgroup, pid int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	at := parseProcCgroup(data)
	for s, dir := range c.paths {
		if got := filepath.Join(c.host.mounts[s].Mountpoint, at[s]); got != dir {
			t.Errorf("in hierarchy %q process is in %s, want %s", s, got, dir)
		}
	}
}

func mustDelete(t *testing.T, c *Cgroup) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := c.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	mustBeGone(t, c, false)
}

func TestLife(t *testing.T) {
	h := warm(t)
	if err := h.Prime(); err != nil {
		t.Errorf("prime: %v", err)
	}
	r := ctrResources()
	r.CPU.Shares, r.CPU.Quota, r.CPU.Period = ptr[uint64](512), ptr[int64](50000), ptr[uint64](100000)
	r.Memory = &specs.LinuxMemory{Limit: ptr[int64](64 << 20)}
	r.Pids = &specs.LinuxPids{Limit: ptr[int64](50)}
	c := newCgroup(t, h, testPath(t)+"/deep/er", r)
	p := startChild(t, "wait")
	if err := c.Create(p.pid()); err != nil {
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
	if frozen, err := c.Frozen(); err != nil || !frozen {
		t.Errorf("frozen %v, %v after Freeze", frozen, err)
	}
	if err := c.Thaw(); err != nil {
		t.Fatal(err)
	}
	if frozen, err := c.Frozen(); err != nil || frozen {
		t.Errorf("frozen %v, %v after Thaw", frozen, err)
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
	if err := c.Create(p.pid()); err != nil {
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
	if frozen, err := old.Frozen(); err != nil || frozen {
		t.Errorf("frozen %v, %v after Kill", frozen, err)
	}
	mustDelete(t, c)
}

func TestSpawn(t *testing.T) {
	h := warm(t)
	c := newCgroup(t, h, testPath(t), ctrResources())
	if err := c.Create(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var p *child
		if err := c.Spawn(func(cgroup int) (int, error) {
			p = startChildIn(t, "wait", cgroup)
			return p.pid(), nil
		}); err != nil {
			t.Fatal(err)
		}
		inAll(t, c, p.pid())
		pids, err := c.Procs()
		if err != nil || len(pids) != 1 || pids[0] != p.pid() {
			t.Errorf("processes %v, %v; want %d alone", pids, err, p.pid())
		}
		p.end()
	}
	// No thread of ours stayed behind: it would keep the cgroup busy.
	mustDelete(t, c)
	sentinel := errors.New("sentinel")
	if err := c.Spawn(func(int) (int, error) { return 0, sentinel }); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("spawn into a cgroup that is gone: %v", err)
	}
}

// TestSpawnAtLimit starts a process in a cgroup that takes no fork.
func TestSpawnAtLimit(t *testing.T) {
	h := warm(t)
	c := newCgroup(t, h, testPath(t), &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](1)}})
	if err := c.Create(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(); err != nil {
		t.Fatal(err)
	}
	calls := 0
	var cmd *exec.Cmd
	if err := c.Spawn(func(cgroup int) (int, error) {
		calls++
		cmd = exec.Command("/bin/sleep", "100")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: cgroup >= 0, CgroupFD: cgroup}
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		return cmd.Process.Pid, nil
	}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	inAll(t, c, cmd.Process.Pid)
	if !h.unified && calls != 2 {
		t.Errorf("%d starts, want one refused and one outside", calls)
	}
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
	if err := keep.Create(0); err != nil {
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
	var p *child
	if err := c.Spawn(func(cgroup int) (int, error) {
		p = startChildIn(t, "wait", cgroup)
		return p.pid(), nil
	}); err != nil {
		t.Fatal(err)
	}
	inAll(t, c, p.pid())
	if err := c.usable(c.dirs[0]); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("a cgroup with a process is usable: %v", err)
	}
	// Its init moves to a sub-cgroup; exec'd processes follow it when they must.
	c.init = p.pid()
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := join(dir+"/sub", p.pid()); err != nil {
		t.Fatal(err)
	}
	if got, ok := c.initDir(); !ok || got != dir+"/sub" {
		t.Errorf("init is in %q, %v", got, ok)
	}
	pids, err := c.Procs()
	if err != nil || len(pids) != 1 {
		t.Errorf("processes %v, %v", pids, err)
	}
	if err := c.Freeze(); err != nil {
		t.Fatal(err)
	}
	if frozen, err := c.Frozen(); err != nil || !frozen {
		t.Errorf("frozen %v, %v", frozen, err)
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	mustDelete(t, c)
}

func TestDevicesLimited(t *testing.T) {
	h := warm(t)
	c := newCgroup(t, h, testPath(t), ctrResources())
	if err := c.Create(0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		// The second time there is nothing to do.
		if err := c.Set(); err != nil {
			t.Fatal(err)
		}
	}
	for device, want := range map[string]string{"/dev/null": "ok\n", "/dev/kmsg": "operation not permitted\n"} {
		var out bytes.Buffer
		if err := c.Spawn(opener(t, device, &out)); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("opening %s: %q, want %q", device, out.String(), want)
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

func TestOOM(t *testing.T) {
	h := warm(t)
	r := ctrResources()
	r.Memory = &specs.LinuxMemory{Limit: ptr[int64](24 << 20), Swap: ptr[int64](24 << 20)}
	c := newCgroup(t, h, testPath(t), r)
	p := startChild(t, "eat")
	if err := c.Create(p.pid()); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(); err != nil {
		t.Fatal(err)
	}
	o, err := c.OOM()
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 4)
	go func() {
		for {
			err := o.Wait()
			got <- err
			if err != nil {
				return
			}
		}
	}()
	select {
	case err := <-got:
		t.Fatalf("event before the process allocates: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	p.goOn()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	if ws := p.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != unix.SIGKILL {
		t.Errorf("process ended by %v", p.ProcessState)
	}
	s, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := s.(*v1.Metrics); ok && m.MemoryOomControl.OomKill == 0 {
		t.Errorf("figures do not show the kill: %v", m.MemoryOomControl)
	}
	mustDelete(t, c)
	// The removal ends the watch.
	for err = range got {
		if err != nil {
			break
		}
	}
	if err != io.EOF {
		t.Errorf("after removal: %v", err)
	}
	if err := errors.Join(o.Close(), o.Close()); err != nil {
		t.Error(err)
	}
}

func TestOOMClose(t *testing.T) {
	h := warm(t)
	c := newCgroup(t, h, testPath(t), nil)
	if _, err := c.OOM(); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("watch before Create: %v", err)
	}
	if err := c.Create(0); err != nil {
		t.Fatal(err)
	}
	o, err := c.OOM()
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() { got <- o.Wait() }()
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	if err := <-got; err != os.ErrClosed {
		t.Errorf("got %v", err)
	}
}

func TestStats(t *testing.T) {
	h := warm(t)
	r := ctrResources()
	r.Pids = &specs.LinuxPids{Limit: ptr[int64](33)}
	c := newCgroup(t, h, testPath(t), r)
	p := startChild(t, "wait")
	if err := c.Create(p.pid()); err != nil {
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
