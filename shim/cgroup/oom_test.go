package cgroup

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestOOM(t *testing.T) {
	h := warm(t)
	r := ctrResources()
	r.Memory = &specs.LinuxMemory{Limit: ptr[int64](24 << 20), Swap: ptr[int64](24 << 20)}
	c := newCgroup(t, h, testPath(t), r)
	p := startChild(t, "eat")
	if err := c.makeWith(p.pid()); err != nil {
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
		t.Errorf("watch before it is made: %v", err)
	}
	if err := c.makeAll(); err != nil {
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
