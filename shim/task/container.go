package task

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/go-runc"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/peregrine-dev/peregrine/shim/cgroup"
	"github.com/peregrine-dev/peregrine/shim/network"
)

// container is one that runs natively.
type container struct {
	id, bundle string
	spec       *specs.Spec
	ownPids    bool // has a pid namespace of its own
	keyring    string
	ioUID      int
	ioGID      int
	cgroup     *cgroup.Cgroup
	oom        *cgroup.OOM
	pidfd      *os.File       // of the init
	network    *network.Offer // nil: none was taken

	init  *process
	state State // what the bundle has of it; initExited's, once it is kept

	// frozen is held for writing while the container is frozen or thawed, and for reading
	// while a process begins in its cgroups.
	frozen sync.RWMutex

	mu      sync.Mutex
	execs   map[string]*execProcess
	running sync.WaitGroup // execs that run
	ended   bool           // the init has: no exec starts any more
}

// execProcess is a further process of a container.
type execProcess struct {
	*process
	spec *specs.Process
}

// keep makes an attempt one of the containers, and begins to watch it.
func (s *Native) keep(ctx context.Context, a *attempt, r *taskapi.CreateTaskRequest) {
	c := a.container
	s.mu.Lock()
	s.containers[c.id] = c
	s.mu.Unlock()
	s.send(&eventstypes.TaskCreate{
		ContainerID: c.id, Bundle: c.bundle, Rootfs: r.Rootfs,
		IO:         &eventstypes.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Checkpoint: r.Checkpoint, Pid: uint32(a.process.Pid),
	})
	s.exits.watch(a.process.Pid, func(e runc.Exit) { s.initExited(ctx, c, e) })
	a.unwatched()
	s.unnote()
	if c.oom != nil {
		go s.watchOOM(c)
	}
}

func (c *container) ociState(status specs.ContainerState, pid int) specs.State {
	return specs.State{
		Version: c.spec.Version, ID: c.id, Status: status, Pid: pid, Bundle: c.bundle, Annotations: c.spec.Annotations,
	}
}

func (s *Native) watchOOM(c *container) {
	for c.oom.Wait() == nil {
		s.send(&eventstypes.TaskOOM{ContainerID: c.id})
	}
}

// initExited ends the container: its init's is the last exit that is told of.
func (s *Native) initExited(ctx context.Context, c *container, e runc.Exit) {
	ctx = context.WithoutCancel(ctx)
	// Whoever starts the init or an exec tells of that first.
	c.init.op.Lock()
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.init.op.Unlock()
	if !c.ownPids {
		if err := c.cgroup.Kill(); err != nil {
			log.G(ctx).WithError(err).WithField("id", c.id).Error("kill what the container's init left behind")
		}
	}
	c.running.Wait()
	// Delete, which may come as soon as the exit is known, waits for the rest.
	c.init.op.Lock()
	defer c.init.op.Unlock()
	// On disk first: once it is told of, it stays so, even if this shim dies.
	status, at := uint32(e.Status), e.Timestamp
	c.state.ExitStatus, c.state.ExitedAt = status, at
	if err := c.state.Save(c.bundle); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id).Error("note the exit")
	}
	c.init.exited(e)
	s.send(&eventstypes.TaskExit{
		ContainerID: c.id, ID: c.id, Pid: uint32(e.Pid), ExitStatus: status, ExitedAt: protobuf.ToTimestamp(at),
	})
}

// remove takes away what is left of a container that ended.
func (s *Native) remove(ctx context.Context, c *container) error {
	c.mu.Lock()
	execs := c.execs
	c.execs = map[string]*execProcess{}
	c.mu.Unlock()
	for _, e := range execs {
		_ = e.drain(ctx)
	}
	if c.oom != nil {
		c.oom.Close()
	}
	err := c.init.drain(ctx)
	if err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id).Warn("close the streams")
	}
	err = s.removeCgroup(ctx, c, true)
	if c.network != nil {
		if nerr := c.network.Done(); nerr != nil {
			log.G(ctx).WithError(nerr).WithField("id", c.id).Warn("give up the network namespace")
		}
	}
	if c.spec.Hooks != nil {
		if herr := runHooks(ctx, reaped, "poststop", c.spec.Hooks.Poststop, c.ociState(specs.StateStopped, 0)); herr != nil {
			log.G(ctx).WithError(herr).WithField("id", c.id).Warn("poststop")
		}
	}
	if err != nil {
		return err
	}
	return forget(c.bundle)
}

// removeCgroup kills what is left in the container's cgroups and removes them. Without
// all that is done in the v2 hierarchy only: in the others they may be somebody else's.
func (s *Native) removeCgroup(ctx context.Context, c *container, all bool) error {
	group := c.cgroup
	if !all {
		unified, ok := group.Paths()[""]
		if !ok {
			return nil
		}
		var err error
		if group, err = s.host.Load(map[string]string{"": unified}); err != nil {
			return err
		}
	}
	const longest = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), longest)
	defer cancel()
	quick, stop := context.WithCancel(ctx)
	stop()
	err := group.Delete(quick) // as a rule nothing is left
	if err == nil {
		return nil
	}
	if err := group.Kill(); err != nil {
		return fmt.Errorf("kill what the container left behind: %w", err)
	}
	return group.Delete(ctx)
}

func (c *container) process(execID string) (*process, error) {
	if execID == "" {
		return c.init, nil
	}
	e, err := c.findExec(execID)
	if err != nil {
		return nil, err
	}
	return e.process, nil
}

func (c *container) findExec(id string) (*execProcess, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.execs[id]
	if !ok {
		return nil, fmt.Errorf("process does not exist %s: %w", id, errdefs.ErrNotFound)
	}
	return e, nil
}

// stopped reports whether the container's init has ended.
func (c *container) stopped() bool {
	status, _ := c.init.state()
	return status == tasktypes.Status_STOPPED
}
