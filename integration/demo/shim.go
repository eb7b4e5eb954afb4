package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
)

// starts is how many containers each runtime starts: one takes a tenth of a second.
const starts = 5

// shim runs containers under runc and under flashcube by turns, on stock overlayfs.
func shim(ctx context.Context, b *harness.Bundle, o Options) ([]Row, error) {
	busybox, err := images.Busybox(ctx, o.Cache, o.Progress)
	if err != nil {
		return nil, err
	}
	if _, err := b.Ctr(ctx, "image", "import", busybox.Archive); err != nil {
		return nil, err
	}
	client, err := b.Client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	image, err := client.GetImage(ctx, busybox.Name)
	if err != nil {
		return nil, err
	}
	start := Row{What: "start", Unit: "ms"}
	exec := Row{What: "exec of true, to its exit", Unit: "ms"}
	remove := Row{What: "delete", Unit: "ms"}
	runtimes := []struct{ name, runtime string }{
		{"runc", "io.containerd.runc.v2"},
		{"flashcube", harness.FlashcubeRuntime},
	}
	for round := range starts {
		for i := range runtimes {
			r := runtimes[(i+round)%len(runtimes)]
			o.Progress("starting containers by both", int64(2*round+i), 2*starts)
			took, err := life(ctx, b, client, image, fmt.Sprintf("demo-%s-%d", r.name, round), r.runtime)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			for j, row := range []*Row{&start, &exec, &remove} {
				row.Stock, row.Ours = runtimes[0].name, runtimes[1].name
				if r.name == row.Ours {
					row.OursTook = append(row.OursTook, took[j])
				} else {
					row.StockTook = append(row.StockTook, took[j])
				}
			}
		}
	}
	return []Row{start, exec, remove}, nil
}

// life starts a container, runs a process in it and deletes it. It returns how many
// milliseconds each of that took.
func life(ctx context.Context, b *harness.Bundle, client *containerd.Client, image containerd.Image, id, runtime string) (took [3]float64, err error) {
	c, err := client.NewContainer(ctx, id, containerd.WithImage(image), containerd.WithSnapshotter("overlayfs"),
		containerd.WithNewSnapshot(id, image), containerd.WithRuntime(runtime, nil),
		containerd.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs("sleep", "1000"), seccomp.WithDefaultProfile()))
	if err != nil {
		return took, err
	}
	defer func() { err = errors.Join(err, c.Delete(context.WithoutCancel(ctx), containerd.WithSnapshotCleanup)) }()
	if err := calm(ctx, b); err != nil {
		return took, err
	}
	began := time.Now()
	task, err := c.NewTask(ctx, cio.NullIO)
	if err != nil {
		return took, err
	}
	deleted := false
	defer func() {
		if !deleted {
			_, derr := task.Delete(context.WithoutCancel(ctx), containerd.WithProcessKill)
			err = errors.Join(err, derr)
		}
	}()
	if err := task.Start(ctx); err != nil {
		return took, err
	}
	took[0] = since(began)
	if took[1], err = runTrue(ctx, c, task); err != nil {
		return took, fmt.Errorf("exec: %w", err)
	}
	exited, err := task.Wait(ctx)
	if err != nil {
		return took, err
	}
	if err := task.Kill(ctx, unix.SIGKILL); err != nil {
		return took, err
	}
	<-exited
	if err := calm(ctx, b); err != nil {
		return took, err
	}
	began = time.Now()
	_, err = task.Delete(ctx)
	took[2], deleted = since(began), err == nil
	return took, err
}

// calm waits until nothing of what was done before goes on: the pool is full, and
// containerd's next write waits for no other.
func calm(ctx context.Context, b *harness.Bundle) error {
	if _, err := used(b.Dir()); err != nil {
		return err
	}
	return b.Flashcube.Full(ctx)
}

// runTrue runs true in a container and waits for its exit.
func runTrue(ctx context.Context, c containerd.Container, task containerd.Task) (took float64, err error) {
	spec, err := c.Spec(ctx)
	if err != nil {
		return 0, err
	}
	program := *spec.Process
	program.Args = []string{"true"}
	began := time.Now()
	process, err := task.Exec(ctx, "true", &program, cio.NullIO)
	if err != nil {
		return 0, err
	}
	exited, err := process.Wait(ctx)
	if err != nil {
		return 0, err
	}
	if err := process.Start(ctx); err != nil {
		return 0, err
	}
	status := <-exited
	took = since(began)
	if err := status.Error(); err != nil {
		return 0, err
	}
	if status.ExitCode() != 0 {
		return 0, fmt.Errorf("true ended with %d", status.ExitCode())
	}
	_, err = process.Delete(ctx)
	return took, err
}

func since(began time.Time) float64 { return float64(time.Since(began).Nanoseconds()) / 1e6 }
