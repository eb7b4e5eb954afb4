package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/cgroups/fs"
)

// BenchmarkCreate is the part of a container's start that this package costs: a
// process enters a new cgroup in every hierarchy and is limited. Delete is not
// in the figure.
func BenchmarkCreate(b *testing.B) {
	h := warm(b)
	path := testPath(b)
	keep := newCgroup(b, h, path+"/keep", nil)
	if err := keep.makeAll(); err != nil {
		b.Fatal(err)
	}
	p := startChild(b, "wait")
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		cfg, err := Config(fmt.Sprintf("%s/%d", path, i), ctrResources(), nil)
		if err != nil {
			b.Fatal(err)
		}
		c, err := h.New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.makeWith(p.pid()); err != nil {
			b.Fatal(err)
		}
		if err := c.Set(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := c.leave(p.pid()); err != nil {
			b.Fatal(err)
		}
		if err := c.Delete(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkCold is BenchmarkCreate on a host where no process changed its cgroup
// for a while, as it is when a container starts: with the process moved, and with
// one that is born in the v2 directory while a thread enters the v1 ones by itself.
func BenchmarkCold(b *testing.B) {
	h := warm(b)
	path := testPath(b)
	keep := newCgroup(b, h, path+"/keep", nil)
	if err := keep.makeAll(); err != nil {
		b.Fatal(err)
	}
	p := startChild(b, "wait")
	for _, mode := range []string{"moved", "itself"} {
		b.Run(mode, func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				b.StopTimer()
				time.Sleep(100 * time.Millisecond)
				b.StartTimer()
				cfg, err := Config(fmt.Sprintf("%s/%s%d", path, mode, i), ctrResources(), nil)
				if err != nil {
					b.Fatal(err)
				}
				c, err := h.New(cfg)
				if err != nil {
					b.Fatal(err)
				}
				after := func() error { return c.leave(p.pid()) }
				if mode == "moved" {
					err = c.makeWith(p.pid())
				} else {
					after, err = c.makeAround()
				}
				if err != nil {
					b.Fatal(err)
				}
				if err := c.Set(); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := errors.Join(after(), c.Delete(context.Background())); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// makeAround makes the cgroup around a process that is born in it, and has a thread
// enter by itself, which then ends; wait reaps the process.
func (c *Cgroup) makeAround() (wait func() error, err error) {
	if err := c.CreateUnified(); err != nil {
		return nil, err
	}
	cmd := exec.Command("/bin/true")
	if _, ok := c.paths[""]; ok {
		dir, err := c.Dir()
		if err != nil {
			return nil, err
		}
		defer func() { _ = dir.Close() }()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := c.CreateOthers(); err != nil {
		return cmd.Wait, err
	}
	files, err := c.Tasks()
	defer closeAll(files)
	if err != nil {
		return cmd.Wait, err
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends
		var errs []error
		for _, f := range files {
			_, err := f.WriteString("0")
			errs = append(errs, err)
		}
		done <- errors.Join(errs...)
	}()
	return cmd.Wait, <-done
}

// BenchmarkParts tells where the time of BenchmarkCreate goes.
func BenchmarkParts(b *testing.B) {
	h := warm(b)
	path := testPath(b)
	p := startChild(b, "wait")
	keep := newCgroup(b, h, path+"/keep", nil)
	if err := keep.makeAll(); err != nil {
		b.Fatal(err)
	}
	spent := make(map[string]time.Duration)
	timed := func(name string, f func() error) {
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		spent[name] += time.Since(start)
	}
	i := 0
	for b.Loop() {
		i++
		var c *Cgroup
		timed("config", func() error {
			cfg, err := Config(fmt.Sprintf("%s/%d", path, i), ctrResources(), nil)
			if err != nil {
				return err
			}
			c, err = h.New(cfg)
			return err
		})
		timed("mkdir", func() error { return c.makeAll() })
		timed("join", func() error { return c.Add(p.pid()) })
		timed("devices", func() error {
			if h.unified {
				return setDevicesUnified(c.paths[""], c.resources.Devices)
			}
			return setDevices(c.paths["devices"], c.resources.Devices)
		})
		timed("limits", func() error { return c.apply(c.resources) })
		if err := c.leave(p.pid()); err != nil {
			b.Fatal(err)
		}
		timed("delete", func() error { return c.Delete(context.Background()) })
	}
	for name, d := range spent {
		b.ReportMetric(float64(d.Microseconds())/float64(i), name+"-µs/op")
	}
}

// BenchmarkJoin is the cost of moving a process, hierarchy by hierarchy.
func BenchmarkJoin(b *testing.B) {
	h := warm(b)
	p := startChild(b, "wait")
	c := newCgroup(b, h, testPath(b), nil)
	if err := c.makeAll(); err != nil {
		b.Fatal(err)
	}
	for _, m := range c.dirs {
		b.Run("in="+m.subsystem, func(b *testing.B) {
			for b.Loop() {
				if err := join(m.dir, p.pid()); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := join(h.home(m.subsystem), p.pid()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkLibrary is BenchmarkCreate done by the library's own v1 manager, for
// comparison; device rules are not in it.
func BenchmarkLibrary(b *testing.B) {
	h := warm(b)
	if h.unified {
		b.Fatal("compares v1 managers only")
	}
	path := testPath(b)
	keep := newCgroup(b, h, path+"/keep", nil)
	if err := keep.makeAll(); err != nil {
		b.Fatal(err)
	}
	p := startChild(b, "wait")
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		cfg, err := Config(fmt.Sprintf("%s/%d", path, i), ctrResources(), nil)
		if err != nil {
			b.Fatal(err)
		}
		cfg.Resources.Devices = nil
		m, err := fs.NewManager(cfg, nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Apply(p.pid()); err != nil {
			b.Fatal(err)
		}
		if err := m.Set(cfg.Resources); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		for s := range m.GetPaths() {
			_ = write(h.home(s), "cgroup.procs", fmt.Sprint(p.pid()))
		}
		if err := m.Destroy(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
