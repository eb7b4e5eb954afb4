package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// limits are all files that Update may write.
func limits(c *Cgroup) map[string]string {
	out := make(map[string]string)
	for _, f := range c.snapshot(&specs.LinuxResources{}) {
		out[f.file] = f.value
	}
	return out
}

func TestUpdate(t *testing.T) {
	h := warm(t)
	r := ctrResources()
	r.Memory = &specs.LinuxMemory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](96 << 20)}
	c := newCgroup(t, h, testPath(t), r)
	if err := c.makeAll(); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(); err != nil {
		t.Fatal(err)
	}
	before := limits(c)
	if err := c.Update(&specs.LinuxResources{}); err != nil {
		t.Fatal(err)
	}
	if after := limits(c); !maps.Equal(before, after) {
		t.Errorf("an empty update changed\n%v to\n%v", before, after)
	}
	// Above the old swap limit, which the kernel takes only in the right order.
	if err := c.Update(&specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr[int64](128 << 20), Swap: ptr[int64](256 << 20)},
		Pids:   &specs.LinuxPids{Limit: ptr[int64](7)},
	}); err != nil {
		t.Fatal(err)
	}
	if got := c.file(t, "memory", "memory.limit_in_bytes", "memory.max"); got != "134217728" {
		t.Errorf("memory limit is %s", got)
	}
	if got := c.file(t, "pids", "pids.max", "pids.max"); got != "7" {
		t.Errorf("process limit is %s", got)
	}
	// One bad value, in every place, and nothing changes.
	before = limits(c)
	for name, bad := range map[string]*specs.LinuxResources{
		"memory above swap": {Pids: &specs.LinuxPids{Limit: ptr[int64](9)}, CPU: &specs.LinuxCPU{Shares: ptr[uint64](99)}, Memory: &specs.LinuxMemory{Limit: ptr[int64](32 << 20), Swap: ptr[int64](16 << 20)}},
		"cpuset":            {Pids: &specs.LinuxPids{Limit: ptr[int64](9)}, Memory: &specs.LinuxMemory{Limit: ptr[int64](32 << 20)}, CPU: &specs.LinuxCPU{Shares: ptr[uint64](99), Cpus: "900-901"}},
		"shares":            {Memory: &specs.LinuxMemory{Limit: ptr[int64](32 << 20), Swap: ptr[int64](40 << 20)}, CPU: &specs.LinuxCPU{Shares: ptr[uint64](1 << 40)}},
		"quota":             {Memory: &specs.LinuxMemory{Limit: ptr[int64](32 << 20)}, CPU: &specs.LinuxCPU{Quota: ptr[int64](1)}, Pids: &specs.LinuxPids{Limit: ptr[int64](3)}},
	} {
		if name == "shares" && h.unified {
			// Above the maximum is the maximum there.
			continue
		}
		if err := c.Update(bad); err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), "could not be put back") {
			t.Errorf("%s: %v", name, err)
		}
		if after := limits(c); !maps.Equal(before, after) {
			t.Errorf("%s: rolled back to\n%v, want\n%v", name, after, before)
		}
	}
}

// spoil has the making of one directory fail, until mend is called.
func (c *Cgroup) spoil(i int) (mend func()) {
	good := c.dirs[i].dir
	c.dirs[i].dir = filepath.Join(c.host.mounts[c.dirs[i].subsystem].Mountpoint, "cgroup.procs/x")
	return func() { c.dirs[i].dir = good }
}

// TestCreateUndone makes the making fail at each step that can, and checks that
// it leaves nothing, save what was made before it, and that Delete removes that.
func TestCreateUndone(t *testing.T) {
	h := warm(t)
	// The parent must be new as well: it is to go too.
	parent := testPath(t)
	for i := range len(h.paths("/x")) {
		t.Run(fmt.Sprint("mkdir ", i), func(t *testing.T) {
			c := newCgroup(t, h, fmt.Sprintf("%s/%d", parent, i), nil)
			if i >= len(c.dirs) {
				return
			}
			unified := c.dirs[i].subsystem == ""
			mend := c.spoil(i)
			err := c.CreateUnified()
			if (err != nil) != unified {
				t.Errorf("the v2 directory: %v", err)
			}
			var p *child
			if !unified {
				p = born(t, c)
				err = c.CreateOthers()
			}
			mend()
			if err == nil {
				t.Error("no error")
			}
			mustBeGone(t, c.members(unified), true)
			if _, ok := c.paths[""]; ok && !unified {
				if pids, err := procs(c.paths[""]); err != nil || len(pids) != 1 || pids[0] != p.pid() {
					t.Errorf("in the v2 directory: %v, %v; want %d", pids, err, p.pid())
				}
				if err := c.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = p.Wait()
			}
			mustDelete(t, c)
			for _, m := range c.dirs {
				_ = rmdir(filepath.Dir(m.dir))
			}
		})
	}
	t.Run("process gone", func(t *testing.T) {
		p := startChild(t, "wait")
		p.end()
		c := newCgroup(t, h, parent+"/gone", nil)
		if err := c.makeWith(p.pid()); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("got %v", err)
		}
		mustDelete(t, c)
	})
	t.Run("half joined", func(t *testing.T) {
		p := startChild(t, "wait")
		c := newCgroup(t, h, parent+"/half", nil)
		if len(c.dirs) == 1 {
			return
		}
		// A cpuset without processors takes no process.
		cpuset := c.dirs[0]
		c.dirs = append(c.dirs[1:], member{"cpuset ", cpuset.dir})
		c.host = &Host{mounts: maps.Clone(h.mounts), own: h.own}
		c.host.mounts["cpuset "] = h.mounts["cpuset"]
		if err := c.makeWith(p.pid()); err == nil {
			t.Error("no error")
		}
		p.end()
		mustDelete(t, c)
	})
	t.Run("removed meanwhile", func(t *testing.T) {
		c := newCgroup(t, h, parent+"/partly", nil)
		if err := c.makeAll(); err != nil {
			t.Fatal(err)
		}
		for i, m := range c.dirs {
			if i%2 == 0 {
				_ = rmdir(m.dir)
			}
		}
		mustDelete(t, c)
	})
}

// TestCreateTogether makes cgroups below a new parent at the same time, while
// some of the makers fail and take the parent away again.
func TestCreateTogether(t *testing.T) {
	h := warm(t)
	parent := testPath(t)
	var all []*Cgroup
	for i := range 8 {
		all = append(all, newCgroup(t, h, fmt.Sprintf("%s/%d", parent, i), nil))
	}
	for range 20 {
		var wg sync.WaitGroup
		for i, c := range all {
			wg.Go(func() {
				if i%2 == 1 {
					// The v2 hierarchy, if any, is the last.
					mend := c.spoil(max(0, len(c.dirs)-2))
					err := c.makeAll()
					mend()
					if err == nil {
						t.Errorf("create %d: no error", i)
					}
				} else if err := c.makeAll(); err != nil {
					t.Errorf("create %d: %v", i, err)
				}
				if err := c.Delete(t.Context()); err != nil {
					t.Errorf("delete %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		for _, m := range all[0].dirs {
			_ = rmdir(filepath.Dir(m.dir))
		}
	}
}

func TestCreateInUse(t *testing.T) {
	h := warm(t)
	a := newCgroup(t, h, testPath(t), nil)
	b := newCgroup(t, h, testPath(t), nil)
	if err := a.makeAll(); err != nil {
		t.Fatal(err)
	}
	// An empty one is taken over.
	p := startChild(t, "wait")
	if err := b.makeWith(p.pid()); err != nil {
		t.Fatal(err)
	}
	if err := a.makeAll(); !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("create in a cgroup with processes: %v", err)
	}
	inAll(t, b, p.pid())
	if v1 := a.members(false); len(v1) > 0 {
		// The v2 directory is free, and another's processes are in the others.
		if _, ok := a.paths[""]; ok {
			if err := join(h.home(""), p.pid()); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.CreateUnified(); err != nil {
			t.Errorf("create in a v2 directory without processes: %v", err)
		}
		if err := a.CreateOthers(); !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("create in v1 cgroups with processes: %v", err)
		}
		if pids, err := procs(v1[0].dir); err != nil || len(pids) != 1 {
			t.Errorf("the other's processes: %v, %v", pids, err)
		}
	}
	p.end()
	if err := b.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := a.makeAll(); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("create in a frozen cgroup: %v", err)
	}
	if err := b.Thaw(); err != nil {
		t.Fatal(err)
	}
}

func TestNewRefusesUnifiedOnV1(t *testing.T) {
	h := warm(t)
	cfg, err := Config("/x", &specs.LinuxResources{Unified: map[string]string{"memory.high": "1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.New(cfg); !h.unified && !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("got %v", err)
	}
}
