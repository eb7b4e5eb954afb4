package integration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/leak"
	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/pool"
	"github.com/peregrine-dev/peregrine/shim/task"
)

// lives are containers of one bundle, of which nothing is to be left.
type lives struct {
	*shimUnderTest
	bundle *harness.Bundle
	before leak.State
	// orphans are directories of claimed parts that flashcubed is to remove, and the ids of
	// containers that it is to clean up after.
	orphans map[string]bool
	n       int // of containers
	late    int // kills that came when the life was over
}

// newLives is a bundle in which a first container has lived.
func newLives(t *testing.T) *lives {
	t.Helper()
	b := setUpBundle(t, "2.4")
	image := busybox(t)
	l := &lives{bundle: b, orphans: map[string]bool{}, shimUnderTest: &shimUnderTest{b.Containerd, harness.FlashcubeRuntime, image.Name}}
	ctr(t, l.Containerd, "image", "import", image.Archive)
	l.unpack(t, "overlayfs")
	c := l.newContainer(t, l.connect(t), "first")
	if err := (&life{container: c}).live(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), containerd.WithSnapshotCleanup); err != nil {
		t.Fatal(err)
	}
	var err error
	if l.before, err = leak.Look(); err != nil {
		t.Fatal(err)
	}
	l.settle(t, patience, false)
	return l
}

// newContainer makes one that ends with 4 on SIGTERM.
func (l *lives) newContainer(t *testing.T, client *containerd.Client, id string) containerd.Container {
	t.Helper()
	image, err := client.GetImage(t.Context(), l.image)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.NewContainer(t.Context(), id,
		containerd.WithImage(image), containerd.WithSnapshotter("overlayfs"), containerd.WithNewSnapshot(id, image),
		containerd.WithRuntime(l.runtime, nil),
		containerd.WithNewSpec(oci.WithImageConfig(image),
			oci.WithProcessArgs("sh", "-c", "trap 'exit 4' TERM; while sleep 0.01; do :; done")))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// life is one of a container.
type life struct {
	container containerd.Container
	task      containerd.Task
	ended     <-chan containerd.ExitStatus
	pid       uint32

	begun, done int // steps
}

// steps are those of every life.
var steps = []struct {
	name   string
	binary bool // containerd executes a program for it
	do     func(*life, context.Context) error
}{
	{"create", true, (*life).create},
	{"start", false, func(x *life, ctx context.Context) error { return x.task.Start(ctx) }},
	{"exec", false, (*life).exec},
	{"pause", false, func(x *life, ctx context.Context) error { return x.task.Pause(ctx) }},
	{"resume", false, func(x *life, ctx context.Context) error { return x.task.Resume(ctx) }},
	{"stop", false, (*life).stop},
	{"delete", true, (*life).remove},
}

// of some steps, their place
const (
	start = 1
	stop  = 5
)

// patience is how long anything may take.
const patience = time.Minute

// live takes all steps, or those up to a murder.
func (x *life) live(ctx context.Context, m *murder) error {
	for i, s := range steps {
		m.at(i)
		x.begun = i + 1
		bounded, cancel := context.WithTimeout(ctx, patience)
		err := s.do(x, bounded)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		x.done = i + 1
		if m.ends(i) {
			break
		}
	}
	return nil
}

// exists reports whether there ought to be a task: it was made, and nobody began to
// delete it.
func (x *life) exists() bool { return x.done > 0 && x.begun < len(steps) }

func (x *life) create(ctx context.Context) (err error) {
	if x.task, err = x.container.NewTask(ctx, cio.NullIO); err != nil {
		return err
	}
	x.pid = x.task.Pid()
	// Longer than this step.
	x.ended, err = x.task.Wait(context.WithoutCancel(ctx))
	return err
}

// exec starts another process, which stays.
func (x *life) exec(ctx context.Context) error {
	spec, err := x.container.Spec(ctx)
	if err != nil {
		return err
	}
	spec.Process.Args = []string{"sleep", "1000"}
	p, err := x.task.Exec(ctx, "exec", spec.Process, cio.NullIO)
	if err != nil {
		return err
	}
	return p.Start(ctx)
}

// execute executes a program in a container, which succeeds.
func execute(ctx context.Context, c containerd.Container, task containerd.Task, id string, args ...string) error {
	spec, err := c.Spec(ctx)
	if err != nil {
		return err
	}
	spec.Process.Args = args
	p, err := task.Exec(ctx, id, spec.Process, cio.NullIO)
	if err != nil {
		return err
	}
	ended, err := p.Wait(ctx)
	if err != nil {
		return err
	}
	if err := p.Start(ctx); err != nil {
		return err
	}
	select {
	case <-ended:
	case <-time.After(patience):
		return errors.New("exec does not end")
	}
	status, err := p.Delete(ctx)
	if err == nil && status.ExitCode() != 0 {
		err = fmt.Errorf("exec ended with %d", status.ExitCode())
	}
	return err
}

// stop ends the container by SIGTERM.
func (x *life) stop(ctx context.Context) error {
	code, err := terminate(ctx, x.task, x.ended)
	if err == nil && code != 4 {
		err = fmt.Errorf("the exit is %d", code)
	}
	return err
}

// terminate sends a task SIGTERM until it ends: it may not have been ready for the signal.
func terminate(ctx context.Context, task containerd.Task, ended <-chan containerd.ExitStatus) (code uint32, err error) {
	for {
		if err := task.Kill(ctx, unix.SIGTERM); err != nil && !errdefs.IsNotFound(err) {
			return 0, err
		}
		select {
		case status := <-ended:
			return status.ExitCode(), status.Error()
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (x *life) remove(ctx context.Context) error {
	status, err := x.task.Delete(ctx)
	if err == nil && status.ExitCode() != 4 {
		err = fmt.Errorf("the exit is %d", status.ExitCode())
	}
	return err
}

// bury deletes the task, whatever it does. It returns its exit code, -1 if there is no task.
func (x *life) bury(ctx context.Context) (code int, err error) {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		task, err := x.container.Task(ctx, nil)
		if err == nil {
			bounded, cancel := context.WithTimeout(ctx, patience)
			var status *containerd.ExitStatus
			status, err = task.Delete(bounded, containerd.WithProcessKill)
			cancel()
			if err == nil {
				return int(status.ExitCode()), nil
			}
		}
		if errdefs.IsNotFound(err) {
			return -1, nil
		}
		if time.Now().After(end) {
			return 0, err
		}
	}
}

// settle waits until nothing of a container is left, and fails the test when something
// stays. With orphans, there may be new ones.
func (l *lives) settle(t *testing.T, longest time.Duration, orphans bool) {
	t.Helper()
	for end := time.Now().Add(longest); ; time.Sleep(5 * time.Millisecond) {
		if orphans {
			l.adopt()
		}
		left, err := l.left()
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			for _, what := range left {
				t.Error("left: ", what)
			}
			return
		}
	}
}

// adopt looks for claimed parts that containerd knows nothing of, since they or their
// claimers were killed. One that lives would end in a minute: it is told to. A dead one
// is removed by flashcubed in a minute: it is one of the orphans. So is a bundle that
// containerd has renamed to remove it, and gave up on while a start that was killed still
// wrote there: it doesn't try again.
func (l *lives) adopt() {
	renamed, _ := filepath.Glob(filepath.Join(l.bundles("state"), ".*"))
	for _, bundle := range renamed {
		l.orphans[bundle] = true
	}
	parts, _ := filepath.Glob(filepath.Join(l.claimed(), "*"))
	for _, part := range parts {
		text, err := os.ReadFile(filepath.Join(part, claim.PidFile))
		var pid int
		if err == nil {
			_, err = fmt.Sscan(string(text), &pid)
		}
		if errors.Is(err, fs.ErrNotExist) || err == nil && unix.Kill(pid, unix.SIGTERM) == unix.ESRCH {
			l.orphans[part] = true
			if state, err := task.LoadState(part); err == nil {
				l.orphans[state.ID] = true
			}
		}
	}
}

// claimed is the directory of claimed parts.
func (l *lives) claimed() string {
	return filepath.Join(claim.Profile(l.bundle.Flashcube.Root, "default"), claim.Claimed)
}

// bundles is the directory of bundles, in containerd's state, or of their working
// directories, in its root.
func (l *lives) bundles(where string) string {
	return filepath.Join(l.bundle.Dir(), where, "io.containerd.runtime.v2.task", l.Containerd.Namespace)
}

// left lists what is there of containers.
func (l *lives) left() (left []string, err error) {
	for _, dir := range []string{l.claimed(), l.bundles("state"), l.bundles("root")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if path := filepath.Join(dir, e.Name()); !l.orphans[path] {
				left = append(left, path)
			}
		}
	}
	now, err := leak.Look()
	if err != nil {
		return nil, err
	}
	ours, err := l.ours()
	if err != nil {
		return nil, err
	}
	for _, what := range now.Since(l.before) {
		switch kind, _, _ := strings.Cut(what, " "); kind {
		case "process":
			var pid int
			if _, err := fmt.Sscanf(what, "process %d:", &pid); err == nil && slices.Contains(ours, pid) {
				continue
			}
		case "cgroup":
			if !strings.Contains(what, "/"+l.Containerd.Namespace+"/") || l.orphans[filepath.Base(what)] {
				continue
			}
		case "loop":
			if !strings.Contains(what, l.bundle.Dir()) {
				continue
			}
		case "network": // of a process, or with a name
			if !strings.Contains(what, "/run/netns/") {
				continue
			}
		case "BPF": // the host's
			continue
		}
		left = append(left, what)
	}
	return left, nil
}

// ours are the processes that stay.
func (l *lives) ours() ([]int, error) {
	parts, err := l.bundle.Flashcube.Pool()
	if err != nil {
		return nil, err
	}
	pids := slices.Concat(parts...)
	for _, pid := range pids {
		pids = append(pids, children(pid)...)
	}
	return append(pids, l.Containerd.Pid, l.bundle.Flashcube.Pid, l.bundle.Snapshotter.Pid), nil
}

// children are those of a process, none if there is no such process.
func children(pid int) (pids []int) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		text, _ := os.ReadFile(file) // the thread has ended
		for field := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// log says how the containers came to their shims.
func (l *lives) log(t *testing.T) {
	t.Helper()
	status, err := pool.ReadStatus(l.bundle.Flashcube.Root)
	if err != nil {
		t.Fatal(err)
	}
	p := status.Profiles["default"]
	t.Logf("%d kills came too late; %d containers from the pool, %d cold, by another runtime %v", l.late, p.Hits, p.Misses, p.Fallbacks)
}
