package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/containerd/go-runc"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/cgroup"
	"github.com/peregrine-dev/peregrine/shim/cube"
	"github.com/peregrine-dev/peregrine/shim/oci"
	"github.com/peregrine-dev/peregrine/shim/plan"
	"github.com/peregrine-dev/peregrine/shim/stdio"
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
	pidfd      *os.File // of the init

	init  *process
	state State // what the bundle has of it; initExited's, once it is kept

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

// attempt is a container in the making. Until it is kept, undo takes it back.
type attempt struct {
	*container
	compiled *oci.Container
	files    cube.Files
	cube     *cube.Cube
	hooked   bool // hooks ran: nobody else may try
	streams  *stdio.IO
	undos    []func()
}

func (a *attempt) onUndo(f func()) { a.undos = append(a.undos, f) }

func (a *attempt) undo() {
	for _, f := range slices.Backward(a.undos) {
		f()
	}
	a.undos = nil
}

// release closes the streams of an attempt that failed.
func (a *attempt) release() {
	if a.streams != nil {
		a.streams.CloseChild()
		a.streams.Close()
	}
}

// create makes a container natively, up to its program. On failure the attempt is to be
// undone and released.
func (s *Native) create(ctx context.Context, namespace string, r *taskapi.CreateTaskRequest, o *runcoptions.Options) (*attempt, error) {
	a := &attempt{}
	if r.Checkpoint != "" {
		return a, oci.Unsupported{Reason: "restore"}
	}
	text, err := os.ReadFile(filepath.Join(r.Bundle, "config.json"))
	if err != nil {
		return a, err
	}
	spec, err := oci.Decode(text)
	if err != nil {
		return a, err
	}
	if a.compiled, err = oci.Compile(r.ID, spec, !o.GetNoNewKeyring()); err != nil {
		return a, err
	}
	if o.GetSystemdCgroup() {
		return a, oci.Unsupported{Reason: "systemd cgroup driver"}
	}
	if spec.Process.Terminal != r.Terminal {
		return a, oci.Unsupported{Reason: "terminal"}
	}
	if spec.Process.ApparmorProfile != "" && !s.appArmor {
		return a, oci.Unsupported{Reason: "AppArmor is off"}
	}
	a.container = &container{
		id: r.ID, bundle: r.Bundle, spec: spec,
		ownPids: a.compiled.New&unix.CLONE_NEWPID != 0,
		ioUID:   int(o.GetIoUid()), ioGID: int(o.GetIoGid()),
		execs: map[string]*execProcess{},
		init:  newProcess(r.ID, stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}),
	}
	if a.compiled.Plan.NewKeyring {
		a.keyring = "_ses." + r.ID
	}
	a.state = State{ID: r.ID, Namespace: namespace, Annotations: spec.Annotations}
	if spec.Hooks != nil {
		a.state.Poststop = spec.Hooks.Poststop
	}
	if err := s.place(a); err != nil {
		return a, err
	}
	if err := s.furnish(ctx, a, namespace, r); err != nil {
		return a, err
	}
	return a, s.fill(ctx, a)
}

// place finds the container a cube and puts that into its cgroups.
func (s *Native) place(a *attempt) (err error) {
	config, err := cgroup.Config(a.cgroupsPath(), a.spec.Linux.Resources, a.spec.Linux.Devices)
	if err != nil {
		return err
	}
	if a.container.cgroup, err = s.host.New(config); err != nil {
		return err
	}
	if a.cube, err = s.cube(a.compiled); err != nil {
		return err
	}
	a.onUndo(func() {
		a.cube.Close()
		_ = unix.Kill(a.cube.Pid, unix.SIGKILL)
	})
	if a.pidfd, err = cube.Pidfd(a.cube.Pid); err != nil {
		return err
	}
	a.onUndo(func() { a.pidfd.Close() })
	return a.save()
}

func (a *attempt) cgroupsPath() string {
	if path := a.spec.Linux.CgroupsPath; path != "" {
		return path
	}
	return "/" + a.id
}

// furnish opens everything that goes into the cube.
func (s *Native) furnish(ctx context.Context, a *attempt, namespace string, r *taskapi.CreateTaskRequest) error {
	a.onUndo(a.files.Close)
	var mounts []mount.Mount
	for _, m := range r.Rootfs {
		mounts = append(mounts, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	dir := a.spec.Root.Path
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(a.bundle, dir)
	}
	root, err := cube.OpenRoot(mounts, dir)
	if err != nil {
		return err
	}
	a.compiled.Plan.Root = a.files.Add(root)
	io, err := stdio.Open(ctx, namespace, a.id, a.init.stdio, a.ioUID, a.ioGID)
	if err != nil {
		return err
	}
	a.init.created(a.cube.Pid, a.cube, io)
	a.streams = io
	if !a.init.stdio.Terminal {
		if err := a.files.Streams(&a.compiled.Plan.Process, io.Child()); err != nil {
			return err
		}
	}
	return nil
}

// fill turns the cube into the container. What the host and the cube have to do for it
// goes on at the same time where it may.
func (s *Native) fill(ctx context.Context, a *attempt) (err error) {
	p := &a.compiled.Plan
	enter := func() error {
		if err := a.container.cgroup.Create(a.cube.Pid); err != nil {
			return err
		}
		a.onUndo(func() { s.removeCgroup(ctx, a.container) })
		return a.container.cgroup.Set()
	}
	hooks := a.spec.Hooks
	together := !p.CgroupNamespace && len(a.compiled.CgroupMounts) == 0 && (hooks == nil || len(hooks.CreateRuntime) == 0)
	if !together {
		if err := enter(); err != nil {
			return err
		}
		if hooks != nil && len(hooks.CreateRuntime) > 0 {
			if err := s.runtimeHooks(ctx, a); err != nil {
				return err
			}
		}
		if err := s.mountCgroups(a); err != nil {
			return err
		}
	}
	if err := a.files.Fill(a.compiled, a.bundle); err != nil {
		return err
	}
	var group errgroup.Group
	if together {
		group.Go(enter)
	}
	console, err := a.cube.Create(p, a.files.List())
	if err := errors.Join(err, group.Wait()); err != nil {
		if console != nil {
			console.Close()
		}
		return err
	}
	a.files.Close()
	a.init.io.CloseChild()
	if console != nil {
		if err := a.init.io.Attach(console); err != nil {
			return err
		}
	} else {
		a.init.io.Start()
	}
	if a.oom, err = a.container.cgroup.OOM(); err != nil && !errdefs.IsFailedPrecondition(err) {
		return err
	}
	a.onUndo(func() {
		if a.oom != nil {
			a.oom.Close()
		}
	})
	a.state.Joined = true
	return a.state.Save(a.bundle)
}

// save writes the state file, before there is anything that a dead shim could leave.
func (a *attempt) save() (err error) {
	a.state.Pid = a.cube.Pid
	if a.state.StartTime, err = StartTime(a.cube.Pid); err != nil {
		return err
	}
	a.state.Cgroups = a.container.cgroup.Paths()
	if err := a.state.Save(a.bundle); err != nil {
		return err
	}
	a.onUndo(func() { _ = a.state.remove(a.bundle) })
	return nil
}

// runtimeHooks runs the createRuntime hooks.
func (s *Native) runtimeHooks(ctx context.Context, a *attempt) error {
	a.hooked = true
	a.onUndo(func() {
		state := a.ociState(specs.StateStopped, 0)
		if err := runHooks(context.WithoutCancel(ctx), reaped, "poststop", a.state.Poststop, state); err != nil {
			log.G(ctx).WithError(err).Warn("clean up after a container that wasn't created")
		}
	})
	return runHooks(ctx, reaped, "createRuntime", a.spec.Hooks.CreateRuntime, a.ociState(specs.StateCreating, a.cube.Pid))
}

func (c *container) ociState(status specs.ContainerState, pid int) specs.State {
	return specs.State{
		Version: c.spec.Version, ID: c.id, Status: status, Pid: pid, Bundle: c.bundle, Annotations: c.spec.Annotations,
	}
}

// mountCgroups puts the mounts that a mount of type cgroup stands for in its place.
func (s *Native) mountCgroups(a *attempt) error {
	p := &a.compiled.Plan
	for _, i := range slices.Backward(a.compiled.CgroupMounts) {
		m := p.Mounts[i]
		var list []plan.Mount
		var binds []oci.Bind
		for _, step := range s.host.Mounts(a.container.cgroup.Paths(), cgroup.MountOptions{
			Destination: m.Destination, Flags: m.Flags, Data: m.Data, Source: m.Source, Namespace: p.CgroupNamespace,
		}) {
			next := plan.Mount{
				Destination: step.Destination, FD: plan.None, Type: step.Type,
				Source: step.Source, Flags: step.Flags, Data: step.Data,
			}
			switch step.Type {
			case "symlink":
				tmpfs := &list[0]
				if tmpfs.Symlinks == nil {
					tmpfs.Symlinks = map[string]string{}
				}
				tmpfs.Symlinks[strings.TrimPrefix(step.Destination, tmpfs.Destination+"/")] = step.Source
				continue
			case "bind":
				binds = append(binds, oci.BindOf(i+len(list), step.Source, step.Flags))
				next.Flags = 0
			case "tmpfs":
				if next.Flags&unix.MS_RDONLY != 0 {
					next.Flags &^= unix.MS_RDONLY
					next.ReadonlyAfter = true
				}
			}
			list = append(list, next)
		}
		if len(list) > 0 {
			list[0].Propagation = m.Propagation
		}
		for j := range a.compiled.Binds {
			if b := &a.compiled.Binds[j]; b.Mount > i {
				b.Mount += len(list) - 1
			}
		}
		a.compiled.Binds = append(a.compiled.Binds, binds...)
		p.Mounts = slices.Concat(p.Mounts[:i:i], list, p.Mounts[i+1:])
	}
	return nil
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
		Checkpoint: r.Checkpoint, Pid: uint32(a.cube.Pid),
	})
	s.exits.watch(a.cube.Pid, func(e runc.Exit) { s.initExited(ctx, c, e) })
	if c.oom != nil {
		go s.watchOOM(c)
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
	c.init.exited(e)
	status, at := c.init.exit()
	c.state.ExitStatus, c.state.ExitedAt = status, at
	if err := c.state.Save(c.bundle); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id).Error("note the exit")
	}
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
	err = s.removeCgroup(ctx, c)
	c.pidfd.Close()
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

// removeCgroup kills what is left in the container's cgroups and removes them.
func (s *Native) removeCgroup(ctx context.Context, c *container) error {
	const longest = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), longest)
	defer cancel()
	quick, stop := context.WithCancel(ctx)
	stop()
	err := c.cgroup.Delete(quick) // as a rule nothing is left
	if err == nil {
		return nil
	}
	if err := c.cgroup.Kill(); err != nil {
		return fmt.Errorf("kill what the container left behind: %w", err)
	}
	return c.cgroup.Delete(ctx)
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
