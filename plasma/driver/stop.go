package driver

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/plasma/model"
	"github.com/peregrine-dev/peregrine/plasma/service"
)

// Stop ends a server's process: by SIGTERM, and after grace by SIGKILL. The container stays; of
// one that has ended, or that there isn't, nothing is done. An error of ErrUnavailable means that
// containerd went away meanwhile: it is to be called again.
func (d *Driver) Stop(ctx context.Context, id string, grace time.Duration) error {
	ctx = d.in(ctx)
	unlock, err := d.locks.lock(ctx, "server "+id)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := d.load(ctx, id)
	if err == nil {
		err = end(ctx, c, grace)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("stop server %s: %w", id, err)
	}
	return nil
}

// end ends a container's task, if it has one.
func end(ctx context.Context, c containerd.Container, grace time.Duration) error {
	task, err := c.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if grace > 0 {
		if err := ask(ctx, task, grace); err != nil {
			return err
		}
	}
	if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete its task: %w", err)
	}
	return nil
}

// ask asks a task's process to end, and waits for that as long as it may take.
func ask(ctx context.Context, task containerd.Task, grace time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended, err := task.Wait(ctx)
	if err == nil {
		err = task.Kill(ctx, syscall.SIGTERM)
	}
	if err != nil {
		if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
			return nil // it has ended, or not begun
		}
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case status := <-ended:
		return status.Error()
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Delete ends a server's process at once and removes all that it has on the node, what its actors
// have stored only if state is set. It removes what is left of one whose container is gone, too,
// and may be called again when it failed.
func (d *Driver) Delete(ctx context.Context, id string, state bool) error {
	if _, _, ok := service.SplitServerID(id); !ok {
		return fmt.Errorf("%q names no server: %w", id, errdefs.ErrInvalidArgument)
	}
	ctx = d.in(ctx)
	unlock, err := d.locks.lock(ctx, "server "+id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := d.delete(ctx, id, state); err != nil {
		return fmt.Errorf("delete server %s: %w", id, err)
	}
	return nil
}

func (d *Driver) delete(ctx context.Context, id string, state bool) error {
	var labels map[string]string
	c, err := d.load(ctx, id)
	switch {
	case errdefs.IsNotFound(err):
		if err := d.dropSnapshots(ctx, id); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		if labels, err = c.Labels(ctx); err != nil {
			return err
		}
		// The network first: the container knows which one it is in.
		if err := end(ctx, c, 0); err != nil {
			return err
		}
		if err := d.detachAll(ctx, id, labels); err != nil {
			return err
		}
		if err := d.remove(ctx, c); err != nil {
			return err
		}
	}
	return errors.Join(d.detachAll(ctx, id, nil), d.dirs(id).remove(state), d.leavePeers(ctx, id))
}

// dropSnapshots removes the file system of a container that was never made, by a driver that was
// killed meanwhile. Which snapshotter has it nobody knows any more.
func (d *Driver) dropSnapshots(ctx context.Context, id string) error {
	found, err := d.settled(ctx)
	if err != nil {
		return err
	}
	for _, name := range found.Snapshotters {
		// One that isn't there now has containerd collect it, in time.
		if err := d.client.SnapshotService(name).Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsUnavailable(err) {
			return fmt.Errorf("remove its file system on snapshotter %s: %w", name, err)
		}
	}
	return nil
}

// remove ends a container's task and removes it with its file system.
func (d *Driver) remove(ctx context.Context, c containerd.Container) error {
	if err := end(ctx, c, 0); err != nil {
		return err
	}
	if err := c.Delete(ctx, containerd.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove its container: %w", err)
	}
	return nil
}

// Update changes what a running container may use, while it runs; zero is no limit, and Net is
// not looked at. A container that is adopted is named by its namespace, as containerd's
// namespaces.WithNamespace puts it into ctx. errdefs.ErrNotFound: nothing of that name runs.
func (d *Driver) Update(ctx context.Context, id string, r model.Resources) error {
	ctx = d.in(ctx)
	err := func() error {
		c, err := d.client.LoadContainer(ctx, id)
		if err != nil {
			return err
		}
		task, err := c.Task(ctx, nil)
		if err != nil {
			return err
		}
		return task.Update(ctx, containerd.WithResources(resources(r)))
	}()
	if err != nil {
		return fmt.Errorf("update the limits of %s: %w", id, err)
	}
	return nil
}
