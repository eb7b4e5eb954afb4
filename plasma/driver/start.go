package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/service"
)

// How long it may take to make a container, and to undo that. It is some ten milliseconds, but
// for a network that takes its time.
const (
	makeTime  = time.Minute
	cleanTime = 30 * time.Second
)

// cleaning is a context for what is undone, also after ctx is done.
func cleaning(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
}

// Start has a server run: it makes its container and its task. Of a server that runs, or is
// paused, nothing is changed, whatever its version and limits are; one that has ended is started
// again with what its actors have stored. The image is pulled if it is missing; after that, Start
// doesn't heed ctx any more. When a step fails, what Start made is taken away again.
//
// errdefs.ErrInvalidArgument, ErrFailedPrecondition: it can't be, here; ErrAlreadyExists: the
// container is somebody else's; ErrNotFound: there is no such image or network;
// ErrUnavailable: containerd isn't there.
func (d *Driver) Start(ctx context.Context, s Server) error {
	if err := d.check(s); err != nil {
		return err
	}
	ctx = d.in(ctx)
	unlock, err := d.locks.lock(ctx, "server "+s.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.start(ctx, s); err != nil {
		return fmt.Errorf("start server %s: %w", s.ID, err)
	}
	return nil
}

func (d *Driver) start(ctx context.Context, s Server) (err error) {
	old, err := d.load(ctx, s.ID)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if old != nil {
		if alive, err := isAlive(ctx, old); err != nil || alive {
			return err
		}
	}
	runtime, snapshotter, err := d.choose(ctx, s.Service)
	if err != nil {
		return err
	}
	image, err := d.image(ctx, s.Service.Image, snapshotter)
	if err != nil {
		return err
	}

	// Of a call that is given up containerd may do the rest, behind the back of who cleans up. So
	// from here on nobody gives up; it takes less than the caller's patience.
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeTime)
	defer cancel()
	var undo []func(context.Context) error
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := cleaning(ctx)
		defer cancel()
		for i := len(undo) - 1; i >= 0; i-- {
			if uerr := undo[i](ctx); uerr != nil && !errdefs.IsNotFound(uerr) {
				err = errors.Join(err, fmt.Errorf("clean up: %w", uerr))
			}
		}
	}()
	undo = append(undo, func(ctx context.Context) error { return d.leavePeers(ctx, s.ID) })
	a, err := d.renew(ctx, s, old)
	if err != nil {
		return err
	}
	undo = append(undo, func(ctx context.Context) error { return d.detachAll(ctx, s.ID, nil) })
	undoCreate, container, err := d.create(ctx, s, parts{runtime, snapshotter, image, a})
	undo = append(undo, undoCreate)
	if err != nil {
		return err
	}
	undo = append(undo, func(ctx context.Context) error { return d.remove(ctx, container) })
	task, err := container.NewTask(ctx, cio.LogFile(d.dirs(s.ID).log))
	if err != nil {
		return fmt.Errorf("make its task: %w", err)
	}
	if err := task.Start(ctx); err != nil {
		return fmt.Errorf("start its task: %w", err)
	}
	return nil
}

// isAlive tells whether a container's process may still do something.
func isAlive(ctx context.Context, c containerd.Container) (bool, error) {
	task, err := c.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	status, err := task.Status(ctx)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch status.Status {
	case containerd.Running, containerd.Paused, containerd.Pausing:
		return true, nil
	case containerd.Created, containerd.Stopped:
		return false, nil
	}
	return false, fmt.Errorf("its task's state is not known: %w", errdefs.ErrUnavailable)
}

// renew takes away what is left of a container that has ended, nil if there is none, and gives
// the network for the next: that which it had, as far as it is still there.
func (d *Driver) renew(ctx context.Context, s Server, old containerd.Container) (attachment, error) {
	if old == nil {
		return d.attach(ctx, s)
	}
	labels, err := old.Labels(ctx)
	if err != nil {
		return attachment{}, err
	}
	if err := d.remove(ctx, old); err != nil {
		return attachment{}, err
	}
	if a, ok := attached(labels); ok && a.network == s.Service.Network {
		return a, nil
	}
	if err := d.detachAll(ctx, s.ID, labels); err != nil {
		return attachment{}, err
	}
	return d.attach(ctx, s)
}

// parts are what a container is made of.
type parts struct {
	runtime, snapshotter string
	image                containerd.Image
	attachment           attachment
}

// create makes a server's directories and its container, and what takes the directories and the
// container's file system away again; that is never nil.
func (d *Driver) create(ctx context.Context, s Server, m parts) (undo func(context.Context) error, _ containerd.Container, err error) {
	unlock, err := d.locks.lock(ctx, "service "+s.Service.Name) // see leavePeers
	if err != nil {
		return func(context.Context) error { return nil }, nil, err
	}
	defer unlock()
	dirs := d.dirs(s.ID)
	undoDirs, err := dirs.make()
	undo = func(context.Context) error { return undoDirs() }
	if err != nil {
		return undo, nil, err
	}
	// Of a container that was never made, by a driver that was killed meanwhile.
	dropSnapshot := func(ctx context.Context) error {
		if err := d.client.SnapshotService(m.snapshotter).Remove(ctx, s.ID); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove its file system: %w", err)
		}
		return nil
	}
	if err := dropSnapshot(ctx); err != nil {
		return undo, nil, err
	}
	undo = func(ctx context.Context) error { return errors.Join(dropSnapshot(ctx), undoDirs()) }
	etc := nodeFiles(s.Service)
	container, err := d.client.NewContainer(ctx, s.ID,
		containerd.WithRuntime(m.runtime, nil),
		containerd.WithSnapshotter(m.snapshotter),
		containerd.WithImage(m.image),
		containerd.WithNewSnapshot(s.ID, m.image),
		containerd.WithContainerLabels(s.labels(m.attachment)),
		containerd.WithNewSpec(oci.WithImageConfig(m.image),
			func(_ context.Context, _ oci.Client, _ *containers.Container, spec *oci.Spec) error {
				if err := d.shape(spec, s, m.attachment, etc); err != nil {
					return err
				}
				return dirs.own(spec.Process.User.UID, spec.Process.User.GID)
			}))
	if err != nil {
		return undo, nil, fmt.Errorf("make its container: %w", err)
	}
	return undo, container, nil
}

// nodeFiles are those of the node's files that name hosts that a service can reach.
func nodeFiles(s *service.Spec) (files []string) {
	var want []string
	switch s.Network {
	case service.None:
	case service.Host:
		want = []string{"/etc/resolv.conf", "/etc/hosts"}
	default:
		want = []string{"/etc/resolv.conf"}
	}
	for _, file := range want {
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() {
			files = append(files, file)
		}
	}
	return files
}

// load gives a server's container. errdefs.ErrNotFound: there is none; ErrAlreadyExists: it is
// somebody else's.
func (d *Driver) load(ctx context.Context, id string) (containerd.Container, error) {
	c, err := d.client.LoadContainer(ctx, id)
	if err != nil {
		return nil, err
	}
	labels, err := c.Labels(ctx)
	if err != nil {
		return nil, err
	}
	if labels[LabelServer] != id {
		return nil, fmt.Errorf("container %s is no server's: %w", id, errdefs.ErrAlreadyExists)
	}
	return c, nil
}

// stateOf gives a task's state in the driver's words.
func stateOf(s tasktypes.Status) State {
	switch s {
	case tasktypes.Status_RUNNING:
		return StateRunning
	case tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
		return StatePaused
	case tasktypes.Status_CREATED:
		return StateCreated
	case tasktypes.Status_STOPPED:
		return StateStopped
	}
	return StateUnknown
}
