package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ociVersion is one that every peer knows: crun 1.8 refuses later ones.
const ociVersion = "1.0.2"

// newContainer makes a container that sleeps, and its snapshot: all that comes before a
// start.
func (b *shimBench) newContainer(ctx context.Context, r shimRuntime) (containerd.Container, error) {
	b.made++
	id := fmt.Sprintf("bench-%d", b.made)
	return b.client.NewContainer(ctx, id,
		containerd.WithImage(b.image),
		containerd.WithSnapshotter(stock),
		containerd.WithNewSnapshot(id, b.image),
		containerd.WithRuntime(r.runtime, r.options),
		containerd.WithNewSpec(
			oci.WithImageConfig(b.image),
			oci.WithProcessArgs("sleep", "1000"),
			seccomp.WithDefaultProfile(),
			func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
				s.Version = ociVersion
				return nil
			},
		),
	)
}

// start starts a container, and returns how long that took.
func start(ctx context.Context, c containerd.Container) (containerd.Task, time.Duration, error) {
	began := time.Now()
	task, err := c.NewTask(ctx, cio.NullIO)
	if err != nil {
		return nil, 0, err
	}
	err = task.Start(ctx)
	return task, time.Since(began), err
}

// kill ends a task's process and waits for it.
func kill(ctx context.Context, task containerd.Task) error {
	exited, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	if err := task.Kill(ctx, unix.SIGKILL); err != nil {
		return err
	}
	status := <-exited
	return status.Error()
}

// remove takes away a container without a task.
func remove(ctx context.Context, c containerd.Container) error {
	return c.Delete(context.WithoutCancel(ctx), containerd.WithSnapshotCleanup)
}

// singles measures a container's life, one container at a time.
func (b *shimBench) singles(ctx context.Context, s samples, round int) error {
	err := b.inTurn(round, []string{flashcube, runc, crun, floor}, func(r shimRuntime) error {
		return b.life(ctx, r, s)
	})
	if err != nil {
		return err
	}
	return b.inTurn(round, []string{flashcube, runc}, func(r shimRuntime) error {
		return b.ctrRun(ctx, r, s)
	})
}

// life starts a container, runs a process in it and deletes it.
func (b *shimBench) life(ctx context.Context, r shimRuntime, s samples) (err error) {
	c, err := b.newContainer(ctx, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove(ctx, c)) }()
	if err := b.steady(ctx); err != nil {
		return err
	}
	task, took, err := start(ctx, c)
	if err != nil {
		return err
	}
	s.add("start", r.name, milliseconds(took))
	if r.name != floor {
		if err := b.steady(ctx); err != nil {
			return err
		}
		started, exited, err := execTrue(ctx, c, task)
		if err != nil {
			return fmt.Errorf("exec: %w", err)
		}
		s.add("exec", r.name, milliseconds(started))
		s.add("exec-to-exit", r.name, milliseconds(exited))
	}
	if err := kill(ctx, task); err != nil {
		return err
	}
	if err := b.steady(ctx); err != nil {
		return err
	}
	began := time.Now()
	if _, err := task.Delete(ctx); err != nil {
		return err
	}
	s.add("delete", r.name, milliseconds(time.Since(began)))
	return nil
}

// execTrue runs true in a container, and returns how long it took until it was started
// and until it had exited.
func execTrue(ctx context.Context, c containerd.Container, task containerd.Task) (started, exited time.Duration, err error) {
	spec, err := c.Spec(ctx)
	if err != nil {
		return 0, 0, err
	}
	process := *spec.Process
	process.Args = []string{"true"}
	return execProcess(ctx, task, &process)
}

func execProcess(ctx context.Context, task containerd.Task, spec *specs.Process) (started, exited time.Duration, err error) {
	began := time.Now()
	process, err := task.Exec(ctx, "exec", spec, cio.NullIO)
	if err != nil {
		return 0, 0, err
	}
	exit, err := process.Wait(ctx)
	if err != nil {
		return 0, 0, err
	}
	if err := process.Start(ctx); err != nil {
		return 0, 0, err
	}
	started = time.Since(began)
	status := <-exit
	exited = time.Since(began)
	if err := status.Error(); err != nil {
		return 0, 0, err
	}
	_, err = process.Delete(ctx)
	return started, exited, err
}

// ctrRun measures what a user sees of a short container: the whole of ctr.
func (b *shimBench) ctrRun(ctx context.Context, r shimRuntime, s samples) error {
	if err := b.steady(ctx); err != nil {
		return err
	}
	began := time.Now()
	if _, err := b.Ctr(ctx, "run", "--rm", "--seccomp", "--runtime", r.runtime, b.image.Name(), "bench-ctr", "true"); err != nil {
		return err
	}
	s.add("ctr-run", r.name, milliseconds(time.Since(began)))
	return nil
}
