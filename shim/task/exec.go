package task

import (
	"context"
	"errors"
	"fmt"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/cube"
	"github.com/peregrine-dev/peregrine/shim/oci"
	"github.com/peregrine-dev/peregrine/shim/plan"
	"github.com/peregrine-dev/peregrine/shim/stdio"
)

func (c *container) addExec(id string, spec []byte, streams stdio.Config) error {
	p, err := oci.DecodeProcess(spec)
	if err != nil {
		return err
	}
	p.Terminal = streams.Terminal
	if status, _ := c.init.state(); status != tasktypes.Status_RUNNING && status != tasktypes.Status_CREATED {
		return fmt.Errorf("cannot exec in a %s container: %w", word(status), errdefs.ErrFailedPrecondition)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.execs[id]; ok {
		return fmt.Errorf("id %s: %w", id, errdefs.ErrAlreadyExists)
	}
	c.execs[id] = &execProcess{newProcess(id, streams), p}
	return nil
}

// execIDs has the execs by pid.
func (c *container) execIDs() map[int]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := map[int]string{}
	for id, e := range c.execs {
		if _, pid := e.state(); pid != 0 {
			ids[pid] = id
		}
	}
	return ids
}

// begin counts an exec as running, unless the container's init has ended.
func (c *container) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	status, _ := c.init.state()
	if c.ended || status != tasktypes.Status_RUNNING {
		return fmt.Errorf("container %s init process is not running: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	c.running.Add(1)
	return nil
}

func (s *Native) startExec(ctx context.Context, c *container, id string) (_ *taskapi.StartResponse, err error) {
	e, err := c.findExec(id)
	if err != nil {
		return nil, err
	}
	e.op.Lock()
	defer e.op.Unlock()
	if status, pid := e.state(); status != tasktypes.Status_CREATED || pid != 0 {
		return nil, fmt.Errorf("cannot start a %s process: %w", word(status), errdefs.ErrFailedPrecondition)
	}
	if err := c.begin(); err != nil {
		return nil, err
	}
	end := s.exits.begin()
	defer end()
	pid, err := s.launchExec(ctx, c, e)
	if err != nil {
		c.running.Done()
		e.exited(runc.Exit{Status: 255})
		return nil, err
	}
	e.setStatus(tasktypes.Status_RUNNING)
	s.send(&eventstypes.TaskExecStarted{ContainerID: c.id, ExecID: id, Pid: uint32(pid)})
	s.exits.watch(pid, func(exit runc.Exit) { s.execExited(c, e, exit) })
	return &taskapi.StartResponse{Pid: uint32(pid)}, nil
}

// launchExec makes the process and runs its program.
func (s *Native) launchExec(ctx context.Context, c *container, e *execProcess) (pid int, err error) {
	p, err := c.execPlan(e)
	if err != nil {
		return 0, err
	}
	helper, err := s.spawnExec(c)
	if err != nil {
		return 0, fmt.Errorf("exec failed: %w", err)
	}
	defer func() {
		if err != nil {
			_ = helper.Signal(unix.SIGKILL)
			helper.Close()
		}
	}()
	io, err := stdio.Open(ctx, c.state.Namespace, e.id, e.stdio, c.ioUID, c.ioGID)
	if err != nil {
		return 0, err
	}
	defer func() {
		io.CloseChild()
		if err != nil {
			err = errors.Join(err, io.Close())
		}
	}()
	var files cube.Files
	defer files.Close()
	pidfd, err := dup(c.pidfd)
	if err != nil {
		return 0, err
	}
	p.Init = files.Add(pidfd)
	if !e.stdio.Terminal {
		if err := files.Streams(&p.Process, io.Child()); err != nil {
			return 0, err
		}
	}
	console, err := helper.CreateExec(p, files.List())
	if err != nil {
		return 0, fmt.Errorf("exec failed: %w", err)
	}
	if console != nil {
		err = io.Attach(console)
	} else {
		io.Start()
	}
	if err == nil {
		err = helper.Start()
	}
	if err != nil {
		return 0, fmt.Errorf("exec failed: %w", err)
	}
	e.created(helper.Pid, helper, io)
	return helper.Pid, nil
}

// spawnExec starts a process in the container's cgroups and pid namespace.
func (s *Native) spawnExec(c *container) (*cube.Process, error) {
	c.frozen.RLock()
	defer c.frozen.RUnlock()
	if status, _ := c.init.state(); status != tasktypes.Status_RUNNING {
		return nil, fmt.Errorf("the container is %s: %w", word(status), errdefs.ErrFailedPrecondition)
	}
	helper, born, err := start(c.cgroup, func(dir int) (*cube.Process, error) { return s.builder.Exec(c.pidfd, dir) })
	if err != nil {
		return nil, err
	}
	if err := enter(c.cgroup, helper, born); err != nil {
		return nil, errors.Join(err, helper.Signal(unix.SIGKILL), helper.Close())
	}
	// The container's init may have ended meanwhile: either what kills the rest has seen
	// this process in the cgroups, or it is seen here.
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if ended {
		err := fmt.Errorf("container %s init process is not running: %w", c.id, errdefs.ErrFailedPrecondition)
		return nil, errors.Join(err, helper.Signal(unix.SIGKILL), helper.Close())
	}
	return helper, nil
}

// execPlan fills in from the container what the process doesn't say, as runc does
// (libcontainer/container_linux.go, newInitConfig).
func (c *container) execPlan(e *execProcess) (*plan.Exec, error) {
	of := c.spec.Process
	spec := *e.spec
	if spec.Capabilities == nil {
		spec.Capabilities = of.Capabilities
	}
	if spec.ApparmorProfile == "" {
		spec.ApparmorProfile = of.ApparmorProfile
	}
	if len(spec.Rlimits) == 0 {
		spec.Rlimits = of.Rlimits
	}
	spec.OOMScoreAdj = of.OOMScoreAdj
	spec.User.Umask = of.User.Umask
	p, err := oci.Process(&spec, c.spec.Linux.Seccomp)
	if err != nil {
		// Of no class: there is nobody to fall back to.
		return nil, fmt.Errorf("exec failed: %v", err)
	}
	return &plan.Exec{Process: p, Keyring: c.keyring}, nil
}

func (s *Native) execExited(c *container, e *execProcess, exit runc.Exit) {
	e.op.Lock() // whoever starts it tells of that first
	e.exited(exit)
	e.op.Unlock()
	status, at := e.exit()
	s.send(&eventstypes.TaskExit{
		ContainerID: c.id, ID: e.id, Pid: uint32(exit.Pid), ExitStatus: status, ExitedAt: protobuf.ToTimestamp(at),
	})
	c.running.Done()
}

func (s *Native) deleteExec(ctx context.Context, c *container, id string) (*taskapi.DeleteResponse, error) {
	e, err := c.findExec(id)
	if err != nil {
		return nil, err
	}
	e.op.Lock() // it may be about to start
	defer e.op.Unlock()
	if now, err := c.findExec(id); err != nil || now != e {
		return nil, fmt.Errorf("process does not exist %s: %w", id, errdefs.ErrNotFound) // deleted meanwhile
	}
	status, pid := e.state()
	if status != tasktypes.Status_STOPPED && pid != 0 {
		return nil, fmt.Errorf("cannot delete a %s process: %w", word(status), errdefs.ErrFailedPrecondition)
	}
	if err := e.drain(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	delete(c.execs, id)
	c.mu.Unlock()
	exitStatus, at := e.exit()
	return &taskapi.DeleteResponse{Pid: uint32(pid), ExitStatus: exitStatus, ExitedAt: protobuf.ToTimestamp(at)}, nil
}
