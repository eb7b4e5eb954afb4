package cgroup

import (
	"context"
	"fmt"
	"os/exec"
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
	if err := keep.Create(0); err != nil {
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
		if err := c.Create(p.pid()); err != nil {
			b.Fatal(err)
		}
		if err := c.Set(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		c.undo(nil, p.pid())
		if err := c.Delete(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkCold is BenchmarkCreate on a host where no process changed its cgroup
// for a while, as it is when a container starts: alone, after Prime, and with the
// process born in the cgroup.
func BenchmarkCold(b *testing.B) {
	h := warm(b)
	path := testPath(b)
	keep := newCgroup(b, h, path+"/keep", nil)
	if err := keep.Create(0); err != nil {
		b.Fatal(err)
	}
	p := startChild(b, "wait")
	for _, mode := range []string{"alone", "primed", "spawn"} {
		b.Run(mode, func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				b.StopTimer()
				time.Sleep(100 * time.Millisecond)
				pid := p.pid()
				switch mode {
				case "primed":
					if err := h.Prime(); err != nil {
						b.Fatal(err)
					}
				case "spawn":
					pid = 0
				}
				b.StartTimer()
				cfg, err := Config(fmt.Sprintf("%s/%s%d", path, mode, i), ctrResources(), nil)
				if err != nil {
					b.Fatal(err)
				}
				c, err := h.New(cfg)
				if err != nil {
					b.Fatal(err)
				}
				if err := c.Create(pid); err != nil {
					b.Fatal(err)
				}
				if err := c.Set(); err != nil {
					b.Fatal(err)
				}
				var cmd *exec.Cmd
				if mode == "spawn" {
					if err := c.Spawn(func(cgroup int) (int, error) {
						cmd = exec.Command("/bin/true")
						cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: cgroup >= 0, CgroupFD: cgroup}
						err := cmd.Start()
						return 0, err
					}); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				if cmd != nil {
					_ = cmd.Wait()
				} else {
					c.undo(nil, pid)
				}
				if err := c.Delete(context.Background()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkParts tells where the time of BenchmarkCreate goes.
func BenchmarkParts(b *testing.B) {
	h := warm(b)
	path := testPath(b)
	p := startChild(b, "wait")
	keep := newCgroup(b, h, path+"/keep", nil)
	if err := keep.Create(0); err != nil {
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
		timed("mkdir", func() error { return c.Create(0) })
		timed("join", func() error { return c.Add(p.pid()) })
		timed("devices", func() error {
			if h.unified {
				return setDevicesUnified(c.paths[""], c.resources.Devices)
			}
			return setDevices(c.paths["devices"], c.resources.Devices)
		})
		timed("limits", func() error { return c.apply(c.resources) })
		c.undo(nil, p.pid())
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
	if err := c.Create(0); err != nil {
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
	if err := keep.Create(0); err != nil {
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
