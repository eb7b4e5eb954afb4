package parity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"
)

// patience is how long a container may take for one step.
const patience = 2 * time.Minute

// Runner runs cases. Its methods may be called by many goroutines at once, as long as no
// two run the same case.
type Runner struct {
	client *containerd.Client
	dir    string // where places are, without the names of the disk in it
	probe  string // on the host
}

// Run runs a case under a runtime. An error is one of the host's or of containerd itself;
// what the runtime does wrong is in the facts.
func (r *Runner) Run(ctx context.Context, runtime Runtime, c Case) (_ Facts, err error) {
	place, err := r.place(c)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, place.end()) }()
	spec, err := r.spec(ctx, runtime, c, place)
	if err != nil {
		return nil, fmt.Errorf("%s: make the specification: %w", c.Name, err)
	}
	known := place.known()
	made, err := r.container(ctx, runtime, place, spec)
	if err != nil {
		return nil, fmt.Errorf("%s: make the container: %w", c.Name, err)
	}
	defer func() {
		ctx := context.WithoutCancel(ctx)
		if gone := made.Delete(ctx, containerd.WithSnapshotCleanup); gone != nil && !errdefs.IsNotFound(gone) {
			err = errors.Join(err, fmt.Errorf("%s: delete the container: %w", c.Name, gone))
		}
	}()
	l := &life{container: made, c: c, place: place, facts: Facts{}, enough: make(chan struct{})}
	if err := l.run(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	hooks, err := os.ReadFile(filepath.Join(place.Dir, "out", "hooks"))
	if err == nil {
		for section, lines := range Parse(string(hooks), "hooks") {
			l.facts[section] = lines
		}
		l.facts["hooks"] = order(string(hooks))
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return Normalise(l.facts, known), nil
}

// order lists the sections of what hooks wrote, in the order in which they ran.
func order(text string) []string {
	var names []string
	for _, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "[") {
			names = append(names, line)
		}
	}
	return names
}

// spec makes the specification of a case.
func (r *Runner) spec(ctx context.Context, runtime Runtime, c Case, place *Place) ([]byte, error) {
	spec, err := oci.GenerateSpec(ctx, r.client, &containers.Container{ID: place.ID},
		oci.WithDefaultPathEnv, oci.WithProcessArgs(append([]string{"/probe"}, c.Ask...)...))
	if err != nil {
		return nil, err
	}
	if runtime.Version != "" {
		spec.Version = runtime.Version
	}
	if c.Change != nil {
		c.Change(spec, place)
	}
	text, err := json.Marshal(spec)
	if err != nil || c.JSON == nil {
		return text, err
	}
	var loose map[string]any
	if err := json.Unmarshal(text, &loose); err != nil {
		return nil, err
	}
	c.JSON(loose)
	return json.Marshal(loose)
}

// container makes a container with a root file system of its own.
func (r *Runner) container(ctx context.Context, runtime Runtime, place *Place, spec []byte) (containerd.Container, error) {
	_, err := r.client.SnapshotService(snapshotter).Prepare(ctx, place.ID, baseSnapshot,
		snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "true"}))
	if err != nil {
		return nil, err
	}
	return r.client.NewContainer(ctx, place.ID,
		containerd.WithSnapshotter(snapshotter),
		containerd.WithSnapshot(place.ID),
		containerd.WithRuntime(runtime.Name, runtime.Options),
		func(_ context.Context, _ *containerd.Client, c *containers.Container) error {
			c.Spec = &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: spec}
			return nil
		})
}

// life is the life of one container. It is for one goroutine.
type life struct {
	container containerd.Container
	c         Case
	place     *Place
	facts     Facts
	out, err  bytes.Buffer
	enough    chan struct{} // closed when standard input may end
}

// run creates, starts, waits and deletes.
func (l *life) run(ctx context.Context) (err error) {
	stdio, err := os.MkdirTemp(l.place.Dir, "stdio")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	end := sync.OnceFunc(func() { close(l.enough) })
	defer end()
	task, err := l.container.NewTask(ctx, l.io(stdio, l.c.Stdin))
	if err != nil {
		l.failed("create", err)
		return nil
	}
	defer func() {
		end()
		gone, stop := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer stop()
		status, deleted := task.Delete(gone, containerd.WithProcessKill)
		if deleted != nil {
			l.facts["delete"] = []string{class(deleted), cause(deleted.Error())}
			l.facts["message"] = append(l.facts["message"], "delete: "+deleted.Error())
			return
		}
		l.facts["delete"] = []string{fmt.Sprintf("exit %d", status.ExitCode())}
		l.output()
	}()
	ended, err := task.Wait(ctx)
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	if err := task.Start(ctx); err != nil {
		l.failed("start", err)
		return nil
	}
	if l.c.Exec != nil {
		if err := l.exec(ctx, task, stdio); err != nil {
			return err
		}
	}
	end()
	// On a terminal it would hang up.
	if l.c.Stdin != "" && !l.c.Terminal {
		// Somebody who ended early has nothing to close.
		if err := task.CloseIO(ctx, containerd.WithStdinCloser); err != nil && !errdefs.IsNotFound(err) {
			l.facts["message"] = append(l.facts["message"], "close standard input: "+err.Error())
		}
	}
	l.facts["outcome"] = []string{await(ctx, ended)}
	drain(ctx, task.IO())
	return nil
}

// drain waits until all output has come. The client's Delete gives up on fifos that its
// goroutines have not got to yet.
func drain(ctx context.Context, stdio cio.IO) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		stdio.Wait()
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// await says how a process ended.
func await(ctx context.Context, ended <-chan containerd.ExitStatus) string {
	select {
	case status := <-ended:
		code, _, err := status.Result()
		if err != nil && ctx.Err() == nil {
			return "wait failed: " + class(err)
		} else if err == nil {
			return fmt.Sprintf("exit %d", code)
		}
	case <-ctx.Done():
	}
	return "did not end in time"
}

// failed notes a step that failed.
func (l *life) failed(step string, err error) {
	l.facts["outcome"] = []string{step + " failed", class(err), cause(err.Error())}
	l.facts["message"] = append(l.facts["message"], step+": "+err.Error())
}

// exec runs the case's second process.
func (l *life) exec(ctx context.Context, task containerd.Task, stdio string) error {
	spec, err := l.container.Spec(ctx)
	if err != nil {
		return err
	}
	spec.Process.Args = append([]string{"/probe"}, l.c.Ask...)
	spec.Process.Terminal = false
	l.c.Exec(spec.Process)
	process, err := task.Exec(ctx, "exec", spec.Process, l.io(stdio, ""))
	if err != nil {
		l.facts["exec"] = []string{"create failed", class(err), cause(err.Error())}
		return nil
	}
	defer process.Delete(context.WithoutCancel(ctx), containerd.WithProcessKill)
	ended, err := process.Wait(ctx)
	if err != nil {
		return fmt.Errorf("wait for the second process: %w", err)
	}
	if err := process.Start(ctx); err != nil {
		l.facts["exec"] = []string{"start failed", class(err), cause(err.Error())}
		l.facts["message"] = append(l.facts["message"], "exec: "+err.Error())
		return nil
	}
	l.facts["exec"] = []string{await(ctx, ended)}
	drain(ctx, process.IO())
	status, err := process.Delete(ctx)
	if err != nil {
		l.facts["exec"] = append(l.facts["exec"], "delete failed", class(err))
		return nil
	}
	l.facts["exec"] = append(l.facts["exec"], fmt.Sprintf("exit %d", status.ExitCode()))
	return nil
}

// io gives a process its standard input and collects what it writes. With a second
// process, only that one's output counts.
func (l *life) io(dir, stdin string) cio.Creator {
	var in io.Reader
	if stdin != "" {
		in = io.MultiReader(strings.NewReader(stdin), until(l.enough))
	}
	var out, diagnostics io.Writer = &l.out, &l.err
	if l.c.Exec != nil && stdin != "" {
		out, diagnostics = io.Discard, io.Discard
	}
	opts := []cio.Opt{cio.WithStreams(in, out, diagnostics), cio.WithFIFODir(dir)}
	if l.c.Terminal {
		opts = append(opts, cio.WithTerminal)
	}
	return cio.NewCreator(opts...)
}

// until is a reader without content that ends when a channel is closed: a client that
// closes a fifo early would race with the shim that opens it.
type until chan struct{}

func (u until) Read([]byte) (int, error) {
	<-u
	return 0, io.EOF
}

// output reads what was written, once all of it has come.
func (l *life) output() {
	first := "stdout"
	if l.c.Raw != "" {
		first = l.c.Raw
	}
	for section, lines := range Parse(l.out.String(), first) {
		l.facts[section] = lines
	}
	if text := l.err.String(); text != "" {
		l.facts["stderr"] = strings.Split(strings.TrimSpace(text), "\n")
	}
}

// known is what may be replaced in the facts of a run.
func (p *Place) known() Known {
	k := Known{ID: p.ID, Text: map[string]string{p.Dir: "PLACE"}, Namespaces: map[string]string{}}
	others := map[string]int{"host": os.Getpid()}
	if p.holder != nil {
		others["other"] = p.holder.pid()
	}
	for name, pid := range others {
		for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
			link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
			if _, ok := k.Namespaces[link]; err == nil && (!ok || name == "host") {
				k.Namespaces[link] = name
			}
		}
	}
	return k
}
