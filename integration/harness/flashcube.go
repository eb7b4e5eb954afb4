package harness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
	"github.com/peregrine-dev/peregrine/shim/config"
	"github.com/peregrine-dev/peregrine/shim/pool"
)

// FlashcubeRuntime is the name of the runtime for containerd.
const FlashcubeRuntime = "io.containerd.flashcube.v1"

// Flashcube is a running flashcubed and its parts. It is used by one goroutine.
type Flashcube struct {
	*Process
	Config config.Config
	Root   string // FLASHCUBE_ROOT

	bin, dir, path string
	seen           int64 // claims when Full returned last
}

// NewFlashcube is a daemon of bin/flashcubed for a containerd that runs from dir. change,
// if not nil, alters the configuration. Start runs it. Its parts are in /run, as an
// installed one's are: their sockets need a short path. They fall back on the stock runc.
func NewFlashcube(cache, bin, dir string, change func(*config.Config)) (*Flashcube, error) {
	path, err := stockPath(cache, Versions[0])
	if err != nil {
		return nil, err
	}
	cfg := config.Default()
	if change != nil {
		change(&cfg)
	}
	return &Flashcube{Config: cfg, Root: "/run/flashcube-" + filepath.Base(dir), bin: bin, dir: dir, path: path}, nil
}

// StartFlashcube is NewFlashcube and Start.
func StartFlashcube(ctx context.Context, cache, bin, dir string, change func(*config.Config)) (*Flashcube, error) {
	f, err := NewFlashcube(cache, bin, dir, change)
	if err != nil {
		return nil, err
	}
	return f, f.Start(ctx)
}

// Shim is for StartContainerd.
func (f *Flashcube) Shim() Shim { return Shim{Bin: f.bin, Env: f.env()} }

func (f *Flashcube) env() []string { return []string{"FLASHCUBE_ROOT=" + f.Root} }

// Start runs the daemon, again after Stop or Kill, and waits until the pool is full.
func (f *Flashcube) Start(ctx context.Context) error {
	text, err := f.Config.Write()
	if err != nil {
		return err
	}
	file := filepath.Join(f.dir, "flashcube.toml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	f.Process, err = start(filepath.Join(f.dir, "flashcubed.log"), f.path, f.env(),
		filepath.Join(f.bin, "flashcubed"), "--config", file)
	if err != nil {
		return err
	}
	f.seen = -1
	if err := f.Full(ctx); err != nil {
		return errors.Join(err, f.Kill())
	}
	return nil
}

// Full waits until the daemon has refilled the pool after the last claim: nothing is
// being built, and nothing more is about to be.
func (f *Flashcube) Full(ctx context.Context) error {
	claims, err := f.claims()
	if err != nil {
		return err
	}
	var (
		calm  = 2 * pool.DefaultPace().Quiet // it doesn't build sooner after a claim
		since time.Time
		last  int
	)
	return f.ready(ctx, func(context.Context) error {
		ready, building := f.count(claim.Ready), f.count(claim.Building)
		full := building == 0 && ready >= f.Config.Profiles.Default.Min
		if now := time.Now(); since.IsZero() || !full || ready != last {
			since, last = now, ready
		}
		if !full || claims != f.seen && time.Since(since) < calm {
			return fmt.Errorf("%d parts are ready and %d in the making, want at least %d: %w",
				ready, building, f.Config.Profiles.Default.Min, f.failure())
		}
		f.seen = claims
		return nil
	})
}

// claims counts what containers have been given, warm and cold.
func (f *Flashcube) claims() (n int64, err error) {
	for _, name := range []string{"hit", "miss"} {
		fi, err := os.Stat(filepath.Join(f.pool(claim.Stats), name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		n += fi.Size() // a byte each
	}
	return n, nil
}

var errNoReason = errors.New("the daemon gives no reason")

// failure is why the daemon could not build a part.
func (f *Flashcube) failure() error {
	text, err := os.ReadFile(filepath.Join(claim.Profile(f.Root, "default"), "failure"))
	if err != nil {
		return errNoReason
	}
	return errors.New(strings.TrimSpace(string(text)))
}

func (f *Flashcube) pool(state string) string {
	return filepath.Join(claim.Profile(f.Root, "default"), state)
}

// count is how many parts are in a state.
func (f *Flashcube) count(state string) int {
	entries, err := os.ReadDir(f.pool(state))
	if err != nil {
		return 0 // not made yet
	}
	return len(entries)
}

// Ready is how many parts are ready.
func (f *Flashcube) Ready() int { return f.count(claim.Ready) }

// Parts are the process ids of the ready parts: of each its shim's and those of what
// belongs to it.
func (f *Flashcube) Parts() ([][]int, error) { return f.parts(claim.Ready) }

// Claimed are those of the parts that belong to a container, or did.
func (f *Flashcube) Claimed() ([][]int, error) { return f.parts(claim.Claimed) }

// Pool are those of the ready parts and the part in the making.
func (f *Flashcube) Pool() ([][]int, error) {
	building, err := f.parts(claim.Building)
	if err != nil {
		return nil, err
	}
	// In this order: a part in the making may get ready meanwhile.
	ready, err := f.parts(claim.Ready)
	return append(building, ready...), err
}

func (f *Flashcube) parts(state string) (parts [][]int, err error) {
	files, err := filepath.Glob(filepath.Join(f.pool(state), "*", claim.PidFile))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // claimed since
		}
		if err != nil {
			return nil, err
		}
		var pids []int
		for line := range strings.Lines(string(text)) {
			var pid int
			if _, err := fmt.Sscan(line, &pid); err != nil || pid <= 1 {
				return nil, fmt.Errorf("%s has no process in line %q", file, line)
			}
			pids = append(pids, pid)
		}
		parts = append(parts, pids)
	}
	return parts, nil
}

// Drain stops the daemon and ends the parts that nobody has claimed: whatever starts now
// is built cold.
func (f *Flashcube) Drain() error {
	if err := f.Stop(); err != nil {
		return err
	}
	// A part in the making gets ready without the daemon.
	const patience = time.Minute
	for end := time.Now().Add(patience); f.count(claim.Building) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			break
		}
	}
	for _, state := range []string{claim.Building, claim.Ready} {
		parts, err := f.parts(state)
		if err != nil {
			return err
		}
		for _, pids := range parts {
			for _, pid := range pids {
				err = errors.Join(err, endProcess(pid))
			}
		}
		dirs, gerr := filepath.Glob(filepath.Join(f.pool(state), "*"))
		err = errors.Join(err, gerr)
		for _, dir := range dirs {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		if err != nil {
			return fmt.Errorf("empty the pool: %w", err)
		}
	}
	return nil
}

// Remove stops the daemon and takes away its parts and their directory. Those of
// containers end with them, or are a leak.
func (f *Flashcube) Remove() error { return errors.Join(f.Drain(), os.RemoveAll(f.Root)) }

// endProcess kills a process that need not be a child of this one and waits until it is
// gone.
func endProcess(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	const patience = time.Minute
	for end := time.Now().Add(patience); ; {
		left := max(time.Until(end), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for process %d: %w", pid, err)
		case n == 0:
			return fmt.Errorf("process %d did not end on SIGKILL", pid)
		default:
			return nil
		}
	}
}
