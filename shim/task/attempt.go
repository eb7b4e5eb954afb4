package task

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/cgroup"
	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/cube"
	"github.com/peregrine-dev/peregrine/shim/network"
	"github.com/peregrine-dev/peregrine/shim/oci"
	"github.com/peregrine-dev/peregrine/shim/plan"
	"github.com/peregrine-dev/peregrine/shim/stdio"
)

// attempt is a container in the making. Until it is kept, undo takes it back.
type attempt struct {
	*container
	err error // why it can't go on

	file      os.FileInfo // of config.json, as it was read
	compiled  *oci.Container
	process   *cube.Process    // the init
	ahead     map[int]*os.File // namespaces made ahead, by type
	files     cube.Files
	streams   *stdio.IO
	hooked    bool   // hooks ran: nobody else may try
	unwatched func() // ends the time in which its processes are not watched

	undos []func()
}

func (a *attempt) onUndo(f func()) { a.undos = append(a.undos, f) }

// undo takes back everything but the streams.
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

// anticipated is an attempt that began before its container was asked for.
type anticipated struct {
	bundle  string
	done    chan struct{}
	attempt *attempt // once it is done
}

// Anticipate begins with the container of a bundle, which containerd is about to ask
// for: everything that the spec alone decides.
func (s *Native) Anticipate(ctx context.Context, namespace, id, bundle string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.anticipated != nil {
		return
	}
	next := &anticipated{bundle: bundle, done: make(chan struct{})}
	s.anticipated = next
	go func() {
		defer close(next.done)
		next.attempt = s.begin(ctx, namespace, id, bundle)
	}()
}

// anticipation is what was begun for a bundle, nil if nothing was or it is out of date.
func (s *Native) anticipation(id, bundle string) *attempt {
	s.mu.Lock()
	next := s.anticipated
	if next == nil {
		s.anticipated = &anticipated{} // it is too late for that
	}
	if next == nil || next.bundle != bundle {
		s.mu.Unlock()
		return nil
	}
	s.anticipated = &anticipated{} // once is enough
	s.mu.Unlock()
	<-next.done
	a := next.attempt
	now, err := os.Stat(filepath.Join(bundle, "config.json"))
	if err != nil || a.file == nil || a.id != id || !os.SameFile(a.file, now) || !a.file.ModTime().Equal(now.ModTime()) || a.file.Size() != now.Size() {
		a.undo()
		return nil
	}
	return a
}

// Drop takes back what was made ahead and nobody asked for.
func (s *Native) Drop() {
	s.mu.Lock()
	spare, next := s.spare, s.anticipated
	s.spare, s.anticipated = nil, nil
	s.mu.Unlock()
	if spare != nil {
		spare.Close()
	}
	if next != nil && next.done != nil {
		<-next.done
		next.attempt.undo()
	}
}

// begin does what a spec alone decides: it ends with an init in the container's cgroups
// and pid namespace, waiting for its plan. A failure is in the attempt.
func (s *Native) begin(ctx context.Context, namespace, id, bundle string) *attempt {
	a := &attempt{container: &container{
		id: id, bundle: bundle, execs: map[string]*execProcess{},
	}}
	a.state = State{ID: id, Namespace: namespace}
	a.unwatched = s.exits.begin()
	a.onUndo(func() { a.unwatched() })
	if a.err = s.decide(a); a.err == nil {
		a.err = s.place(ctx, a)
	}
	return a
}

// decide reads the spec.
func (s *Native) decide(a *attempt) (err error) {
	file := filepath.Join(a.bundle, "config.json")
	if a.file, err = os.Stat(file); err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	spec, err := oci.Decode(text)
	if err != nil {
		return err
	}
	if a.compiled, err = oci.Compile(a.id, spec); err != nil {
		return err
	}
	if spec.Annotations[AnnotationFallback] == "true" {
		return oci.Unsupported{Reason: "asked for"}
	}
	if spec.Process.ApparmorProfile != "" && !s.appArmor {
		return oci.Unsupported{Reason: "AppArmor is off"}
	}
	a.spec = spec
	a.ownPids = a.compiled.New&unix.CLONE_NEWPID != 0
	a.state.Annotations = spec.Annotations
	if spec.Hooks != nil {
		a.state.Poststop = spec.Hooks.Poststop
	}
	return nil
}

// place makes the container's cgroups and starts its init there.
func (s *Native) place(ctx context.Context, a *attempt) (err error) {
	linux := a.spec.Linux
	if !filepath.IsAbs(linux.CgroupsPath) {
		return oci.Unsupported{Reason: "relative cgroupsPath"} // or the systemd driver's
	}
	config, err := cgroup.Config(linux.CgroupsPath, linux.Resources, linux.Devices)
	if err != nil {
		return err
	}
	if a.cgroup, err = s.host.New(config); err != nil {
		return err
	}
	// Whatever a dead shim could leave is in the state before it is there.
	a.state.Cgroups = a.cgroup.Paths()
	if err := s.note(a); err != nil {
		return err
	}
	a.onUndo(func() { _ = a.state.remove(a.bundle) })
	a.onUndo(s.unnote)
	if err := s.takeNetwork(ctx, a); err != nil {
		return err
	}
	a.ahead = map[int]*os.File{}
	if made := s.takeSpare(); made != nil {
		defer made.Close()
		maps.Copy(a.ahead, made.Namespaces)
	}
	if a.network != nil {
		a.ahead[unix.CLONE_NEWNET] = a.network.Namespace
	}
	if err := s.startInit(ctx, a); err != nil {
		return err
	}
	a.onUndo(a.files.Close)
	return a.files.Fill(a.compiled, a.bundle)
}

// takeNetwork takes the network namespace that a network plugin offers, if the container
// wants one and there is one.
func (s *Native) takeNetwork(ctx context.Context, a *attempt) (err error) {
	name := a.spec.Annotations[network.Annotation]
	if name == "" || a.compiled.New&unix.CLONE_NEWNET == 0 {
		return nil
	}
	if filepath.Base(name) != name || name == "." || name == ".." {
		return &final{fmt.Errorf("annotation %s: %q is no name of a network: %w", network.Annotation, name, errdefs.ErrInvalidArgument)}
	}
	began, err := StartTime(os.Getpid())
	if err != nil {
		return err
	}
	a.network, err = network.Take(ctx, network.Dir(s.root, name), fmt.Sprintf("%d %d", os.Getpid(), began))
	if err != nil || a.network == nil {
		return err
	}
	a.onUndo(func() { _ = a.network.Done() })
	a.state.NetworkDir, a.state.NetworkOffer = a.network.Place()
	return s.note(a)
}

// note puts the state of an attempt on disk: in the bundle, and in the shim's directory.
// A shim that dies before containerd has connected is not cleaned up after, and its
// bundle goes; then flashcubed does it.
func (s *Native) note(a *attempt) error {
	if s.Dir != "" {
		early := a.state
		early.Poststop = nil // no hook has run
		if err := early.Save(s.Dir); err != nil {
			return err
		}
	}
	return a.state.Save(a.bundle)
}

// unnote takes the state out of the shim's directory.
func (s *Native) unnote() {
	if s.Dir != "" {
		_ = os.Remove(filepath.Join(s.Dir, claim.StateFile))
	}
}

// startInit gives the container an init, in cgroups made for it. To move a process there
// would wait for an RCU grace period, many milliseconds: the init is born in the cgroup
// of v2, and enters those of v1 by itself.
func (s *Native) startInit(ctx context.Context, a *attempt) error {
	if err := a.cgroup.CreateUnified(); err != nil {
		return err
	}
	others := false
	a.onUndo(func() {
		if err := s.removeCgroup(ctx, a.container, others); err != nil {
			log.G(ctx).WithError(err).WithField("id", a.id).Warn("remove the cgroups of a container that wasn't created")
		}
	})
	born, err := s.spawn(a)
	if err != nil {
		return err
	}
	a.onUndo(func() {
		_ = a.process.Signal(unix.SIGKILL)
		a.process.Close()
	})
	a.cgroup.SetInit(a.process.Pid)
	a.pidfd = a.process.Pidfd
	a.state.Pid = a.process.Pid
	if a.state.StartTime, err = StartTime(a.process.Pid); err != nil {
		return err
	}
	// While the init begins, the others are made.
	if err := a.cgroup.CreateOthers(); err != nil {
		return err
	}
	others = true
	if err := a.process.Ready(); err != nil {
		return err
	}
	if err := enter(a.cgroup, a.process, born); err != nil {
		return err
	}
	if err := a.joinNamespaces(); err != nil {
		return err
	}
	a.state.Joined = true
	return a.state.Save(a.bundle)
}

// joinNamespaces has the init join those that are not new with it.
func (a *attempt) joinNamespaces() error {
	var files cube.Files
	defer files.Close()
	joins, err := files.Joins(a.compiled, a.ahead)
	if err != nil || len(joins) == 0 {
		return err
	}
	return a.process.Join(joins, files.List())
}

// spawn starts the init; born is whether it is in the cgroup of v2, or there is none.
func (s *Native) spawn(a *attempt) (born bool, err error) {
	namespaces := a.compiled.New
	for t := range a.ahead {
		namespaces &^= uintptr(t)
	}
	pidns, err := pidNamespace(a.compiled)
	if err != nil {
		return false, err
	}
	if pidns != nil {
		defer pidns.Close()
	}
	a.process, born, err = start(a.cgroup, func(dir int) (*cube.Process, error) {
		return s.builder.Init(namespaces, pidns, dir)
	})
	return born, err
}

// pidNamespace is the pid namespace to join, nil for the host's or a new one.
func pidNamespace(c *oci.Container) (*os.File, error) {
	for _, ns := range c.Join {
		if ns.Type == unix.CLONE_NEWPID && ns.Path != "" {
			return os.Open(ns.Path)
		}
	}
	return nil, nil
}

// finish makes the container that was begun, up to its program.
func (s *Native) finish(ctx context.Context, a *attempt, namespace string, r *taskapi.CreateTaskRequest, o *runcoptions.Options) error {
	switch {
	case r.Checkpoint != "":
		return oci.Unsupported{Reason: "restore"}
	case o.GetSystemdCgroup():
		return oci.Unsupported{Reason: "systemd cgroup driver"}
	case o.GetBinaryName() != "":
		return oci.Unsupported{Reason: "runtime by name"} // which may do what no other does
	case a.spec.Process.Terminal != r.Terminal:
		return oci.Unsupported{Reason: "terminal"}
	}
	if path := o.GetShimCgroup(); path != "" {
		if err := s.host.Enter(path, os.Getpid()); err != nil {
			return err
		}
	}
	if !o.GetNoNewKeyring() {
		a.compiled.Plan.NewKeyring = true
		a.keyring = "_ses." + a.id
	}
	a.ioUID, a.ioGID = int(o.GetIoUid()), int(o.GetIoGid())
	a.init = newProcess(a.id, stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal})
	if err := a.furnish(ctx, namespace, r); err != nil {
		return err
	}
	return s.fill(ctx, a)
}

// furnish opens what the request names.
func (a *attempt) furnish(ctx context.Context, namespace string, r *taskapi.CreateTaskRequest) error {
	var mounts []mount.Mount
	for _, m := range r.Rootfs {
		mounts = append(mounts, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	dir := a.spec.Root.Path
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(a.bundle, dir)
	}
	if len(mounts) > 0 && dir != filepath.Join(a.bundle, "rootfs") {
		return oci.Unsupported{Reason: "root elsewhere"} // than where the mounts would be
	}
	root, err := cube.OpenRoot(mounts, dir)
	if err != nil {
		return err
	}
	a.compiled.Plan.Root = a.files.Add(root)
	if a.streams, err = stdio.Open(ctx, namespace, a.id, a.init.stdio, a.ioUID, a.ioGID); err != nil {
		return err
	}
	a.init.created(a.process.Pid, a.process, a.streams)
	if a.init.stdio.Terminal {
		return nil
	}
	return a.files.Streams(&a.compiled.Plan.Process, a.streams.Child())
}

// fill turns the init into the container. Limits are set then.
func (s *Native) fill(ctx context.Context, a *attempt) (err error) {
	if a.oom, err = a.cgroup.OOM(); err != nil && !errdefs.IsFailedPrecondition(err) {
		return err
	}
	a.onUndo(func() {
		if a.oom != nil {
			a.oom.Close()
		}
	})
	if a.network != nil {
		if err := a.network.Use(network.Container{ID: a.id, Namespace: a.state.Namespace, Bundle: a.bundle, Pid: a.process.Pid}); err != nil {
			return err
		}
	}
	limited := false
	if hooks := a.spec.Hooks; hooks != nil && len(hooks.CreateRuntime) > 0 {
		// They may change what the cgroups allow, and must not be limitless themselves.
		if err := a.cgroup.Set(); err != nil {
			return err
		}
		limited = true
		if err := a.runtimeHooks(ctx, hooks.CreateRuntime); err != nil {
			return err
		}
	}
	if err := s.mountCgroups(a); err != nil {
		return err
	}
	console, err := a.process.CreateInit(&a.compiled.Plan, a.files.List())
	if err == nil && !limited {
		// Not at the same time: while the rules for devices are written there are moments
		// in which the init couldn't make them.
		err = a.cgroup.Set()
	}
	if err != nil {
		if console != nil {
			console.Close()
		}
		return err
	}
	a.files.Close()
	a.streams.CloseChild()
	if console != nil {
		if err := a.streams.Attach(console); err != nil {
			return err
		}
	} else {
		a.streams.Start()
	}
	return nil
}

// runtimeHooks runs the createRuntime hooks.
func (a *attempt) runtimeHooks(ctx context.Context, hooks []specs.Hook) error {
	a.hooked = true
	a.onUndo(func() {
		state := a.ociState(specs.StateStopped, 0)
		if err := runHooks(context.WithoutCancel(ctx), reaped, "poststop", a.state.Poststop, state); err != nil {
			log.G(ctx).WithError(err).Warn("clean up after a container that wasn't created")
		}
	})
	return runHooks(ctx, reaped, "createRuntime", hooks, a.ociState(specs.StateCreating, a.process.Pid))
}

// mountCgroups puts the mounts that a mount of type cgroup stands for in its place.
func (s *Native) mountCgroups(a *attempt) error {
	p := &a.compiled.Plan
	for _, i := range slices.Backward(a.compiled.CgroupMounts) {
		m := p.Mounts[i]
		var list []plan.Mount
		for _, step := range s.host.Mounts(a.cgroup.Paths(), cgroup.MountOptions{
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
				if err := a.files.Bind(&next, oci.BindOf(step.Source, step.Flags), a.bundle, p.RootPropagation); err != nil {
					return fmt.Errorf("mount the cgroups: %w", err)
				}
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
		p.Mounts = slices.Concat(p.Mounts[:i:i], list, p.Mounts[i+1:])
	}
	return nil
}
