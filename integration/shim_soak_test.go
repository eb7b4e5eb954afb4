package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sync/errgroup"
)

// TestShimSoak has many containers live, one after the other and then side by side:
// nothing is left of them, and flashcubed doesn't grow. PEREGRINE_SOAK=1 is 1,000 of each.
func TestShimSoak(t *testing.T) {
	const atOnce = 32
	sequential, parallel := 60, atOnce
	if os.Getenv("PEREGRINE_SOAK") != "" {
		sequential, parallel = 1000, 1000
	}
	l := newLives(t)
	client := l.connect(t)
	run := func(n, atOnce int) {
		t.Helper()
		began := time.Now()
		g, ctx := errgroup.WithContext(t.Context())
		g.SetLimit(atOnce)
		for i := range n {
			g.Go(func() error {
				if err := l.brief(ctx, client, fmt.Sprintf("soak-%d-%d", atOnce, i)); err != nil {
					return fmt.Errorf("container %d: %w", i, err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d containers, %d at once, in %s", n, atOnce, time.Since(began).Round(time.Millisecond))
		l.settle(t, patience, false)
	}
	// The pool is at its largest after a burst, and what the daemon needs once it has.
	run(atOnce, atOnce)
	run(sequential/10, 1)
	before := l.size(t)
	run(sequential, 1)
	run(parallel, atOnce)
	after := l.size(t)
	t.Logf("flashcubed: before %+v, after %+v", before, after)
	const growth = 4 << 20
	if after.rss > before.rss+growth {
		t.Errorf("flashcubed had %d bytes of memory and has %d", before.rss, after.rss)
	}
	if after.files > before.files {
		t.Errorf("flashcubed had %d files open and has %d", before.files, after.files)
	}
	l.log(t)
	noFallback(t, l.bundle.Flashcube)
}

// brief is a container's life with streams, an exec, and an exit of its own.
func (l *lives) brief(ctx context.Context, client *containerd.Client, id string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	image, err := client.GetImage(ctx, l.image)
	if err != nil {
		return err
	}
	c, err := client.NewContainer(ctx, id,
		containerd.WithSnapshotter("overlayfs"), containerd.WithNewSnapshot(id, image), containerd.WithRuntime(l.runtime, nil),
		containerd.WithNewSpec(oci.WithImageConfig(image),
			oci.WithProcessArgs("sh", "-c", "trap 'echo end; exit 3' TERM; echo begin; while sleep 0.01; do :; done")))
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, c.Delete(context.WithoutCancel(ctx), containerd.WithSnapshotCleanup))
	}()
	var out bytes.Buffer
	task, err := c.NewTask(ctx, cio.NewCreator(cio.WithStreams(nil, &out, io.Discard)))
	if err != nil {
		return err
	}
	deleted := false
	defer func() {
		if !deleted {
			_, derr := task.Delete(context.WithoutCancel(ctx), containerd.WithProcessKill)
			err = errors.Join(err, derr)
		}
	}()
	ended, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	if err := task.Start(ctx); err != nil {
		return err
	}
	if err := execute(ctx, c, task, "exec", "true"); err != nil {
		return err
	}
	if _, err := terminate(ctx, task, ended); err != nil {
		return err
	}
	status, err := task.Delete(ctx)
	deleted = err == nil
	// The signal may come before it says begin, and twice.
	if deleted && (status.ExitCode() != 3 || !strings.HasSuffix(out.String(), "end\n")) {
		err = fmt.Errorf("the exit is %d, the output %q", status.ExitCode(), out.String())
	}
	return err
}

// size is what a process takes.
type size struct {
	rss   int64 // bytes
	files int
}

// size is flashcubed's.
func (l *lives) size(t *testing.T) (s size) {
	t.Helper()
	if err := l.bundle.Flashcube.Full(t.Context()); err != nil {
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d", l.bundle.Flashcube.Pid)
	text, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			if _, err := fmt.Sscan(n, &s.rss); err != nil {
				t.Fatal(err)
			}
			s.rss <<= 10 // kB
		}
	}
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	s.files = len(files)
	return s
}
