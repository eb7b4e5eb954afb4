package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"

	"github.com/peregrine-dev/peregrine/integration/harness"
	"github.com/peregrine-dev/peregrine/integration/images"
	"github.com/peregrine-dev/peregrine/shim/pool"
)

// Names of the runtimes in the rows.
const (
	flashcube = "flashcube"
	runc      = "runc"
	crun      = "crun"
	floor     = "floor" // containerd's own part: a shim that does nothing
)

const runcRuntime = "io.containerd.runc.v2"

// shimBench is a containerd with all runtimes behind it.
type shimBench struct {
	*harness.Containerd
	pool     *harness.Flashcube
	client   *containerd.Client
	image    containerd.Image
	dir      string
	runtimes []shimRuntime
	made     int // containers so far
}

// shimRuntime is a runtime as containerd is told it.
type shimRuntime struct {
	name    string
	runtime string
	options any
}

// samples are series by what was measured and then by runtime.
type samples map[string]map[string]Series

func (s samples) add(what, runtime string, value float64) {
	if s[what] == nil {
		s[what] = map[string]Series{}
	}
	s[what][runtime] = append(s[what][runtime], value)
}

// Shim measures flashcube against runc and crun, and all against a shim that does
// nothing, behind one containerd: busybox on overlayfs with the default seccomp profile
// and no I/O.
func Shim(ctx context.Context, o Options) (rows []Row, err error) {
	began := time.Now()
	b := &shimBench{}
	done, err := b.setUp(ctx, o)
	defer func() { err = errors.Join(err, done(context.WithoutCancel(ctx))) }()
	if err != nil {
		return nil, err
	}
	s := samples{}
	for _, phase := range []struct {
		name    string
		samples int
		end     time.Duration // of a quick run
		round   func(context.Context, samples, int) error
	}{
		{"bursts of 8", 40, 7 * time.Second, func(ctx context.Context, s samples, i int) error { return b.bursts(ctx, 8, crun, s, i) }},
		{"bursts of 32", 12, 16 * time.Second, func(ctx context.Context, s samples, i int) error { return b.bursts(ctx, 32, runc, s, i) }},
		{"single containers", 40, 36 * time.Second, b.singles},
		{"memory", 1, 38 * time.Second, b.memory},
		// The last, as it stops the daemon.
		{"an empty pool", 40, 44 * time.Second, b.cold},
	} {
		rounds := o.rounds(phase.samples, began.Add(phase.end))
		for i := 0; rounds.next(); i++ {
			o.Progress("measuring "+phase.name, int64(i), int64(phase.samples))
			if err := phase.round(ctx, s, i); err != nil {
				return nil, fmt.Errorf("%s: %w", phase.name, err)
			}
		}
	}
	return shimRows(s), b.noFallback()
}

// noFallback is an error when another runtime did ours' work: that would measure itself.
func (b *shimBench) noFallback() error {
	status, err := pool.ReadStatus(b.pool.Root)
	if err != nil {
		return err
	}
	for _, p := range status.Profiles {
		if len(p.Fallbacks) > 0 {
			return fmt.Errorf("flashcube left containers to another runtime: %v\n%s", p.Fallbacks, b.fallbackLog())
		}
	}
	return nil
}

// fallbackLog is what the shims say about it, as far as containerd has it.
func (b *shimBench) fallbackLog() string {
	text, err := os.ReadFile(b.Log)
	if err != nil {
		return err.Error()
	}
	var said []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "fall-back") {
			said = append(said, line)
		}
	}
	return strings.Join(said[:min(len(said), 3)], "")
}

// setUp starts everything; done ends it, also after an error.
func (b *shimBench) setUp(ctx context.Context, o Options) (done func(context.Context) error, err error) {
	var undo []func(context.Context) error
	done = func(ctx context.Context) (err error) {
		for i := len(undo) - 1; i >= 0; i-- {
			err = errors.Join(err, undo[i](ctx))
		}
		return err
	}
	plain := func(f func() error) func(context.Context) error { return func(context.Context) error { return f() } }

	image, err := images.Busybox(ctx, o.Cache, o.Progress)
	if err != nil {
		return done, err
	}
	dir, err := harness.NewDir(o.Cache)
	if err != nil {
		return done, err
	}
	undo = append(undo, plain(dir.Remove))
	b.dir = dir.Path
	restore, err := withoutUnified()
	undo = append(undo, plain(restore))
	if err != nil {
		return done, err
	}
	noop, err := harness.StartNoopShim(ctx, o.Bin, b.dir)
	if err != nil {
		return done, err
	}
	undo = append(undo, plain(noop.Stop))
	if b.pool, err = harness.StartFlashcube(ctx, o.Cache, o.Bin, b.dir, nil); err != nil {
		return done, err
	}
	undo = append(undo, plain(b.pool.Remove))
	crunFile, crunShim, err := harness.Crun(o.Cache)
	if err != nil {
		return done, err
	}
	b.Containerd, err = harness.StartContainerd(ctx, o.Cache, harness.Versions[0], b.dir, nil, noop.Shim(), b.pool.Shim(), crunShim)
	if err != nil {
		return done, err
	}
	undo = append(undo, b.Containerd.Remove)
	if b.client, err = b.Client(); err != nil {
		return done, err
	}
	undo = append(undo, plain(b.client.Close))
	if _, err := b.Ctr(ctx, "image", "import", image.Archive); err != nil {
		return done, err
	}
	if b.image, err = b.client.GetImage(ctx, image.Name); err != nil {
		return done, err
	}
	b.runtimes = []shimRuntime{
		{flashcube, harness.FlashcubeRuntime, nil},
		{runc, runcRuntime, nil},
		{crun, runcRuntime, &options.Options{BinaryName: filepath.Clean(crunFile)}},
		{floor, "io.containerd.noop.v1", nil},
	}
	return done, nil
}

// inTurn calls fn for some of the runtimes, in the order of the round.
func (b *shimBench) inTurn(round int, names []string, fn func(shimRuntime) error) error {
	for _, name := range turn(round, names) {
		for _, r := range b.runtimes {
			if r.name != name {
				continue
			}
			if err := fn(r); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// turn is the order of a round. In as many rounds as there are names each comes first
// once, and in the next as many the order is the reverse, so that nobody always has the
// same one before it.
func turn(round int, names []string) []string {
	n := len(names)
	order := make([]string, n)
	for i := range names {
		order[i] = names[(i+round)%n]
	}
	if round/n%2 == 1 {
		slices.Reverse(order)
	}
	return order
}

// steady waits until nothing of the last measurement is going on any more: the pool is
// full again, deleted containers are collected, and all is on the disk.
func (b *shimBench) steady(ctx context.Context) error {
	if err := collect(ctx, b.client); err != nil {
		return err
	}
	if err := settle(b.dir); err != nil {
		return err
	}
	return b.pool.Full(ctx)
}
