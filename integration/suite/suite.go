// Package suite runs the integration tests of containerd's own client with a runtime of
// our choice. They are compiled from the containerd module that the stock parts pin and
// start a stock containerd of their own. What is changed is where images come from, a
// registry on loopback with images made here, and where containerd keeps its files.
//
// tests.txt says what each test does with stock runc on a machine of the smallest kind
// there is: no CRIU, no right to raise limits. A runtime must pass whatever passes there.
package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Run is one run of the suite.
type Run struct {
	Binary  string    // what Build made
	Dir     string    // on the host's disk; containerd keeps its files here
	Path    string    // PATH with containerd, runc, the binary's directory and the runtime's shim
	Runtime string    // such as io.containerd.runc.v2
	Env     []string  // more of the environment
	Log     io.Writer // gets all output
}

// patience is how long the binary may say nothing before it counts as hung.
const patience = 90 * time.Second

// restarts is how often a run goes on after the death of the whole test binary.
const restarts = 8

// Tests runs the tests whose names are given and returns the result of each. A test during
// which the binary died has failed; those after it are run by a new one. Only one run per
// host may be under way: the tests use one containerd namespace, which names cgroups.
//
// The caller is in a sandbox: what the tests leave behind goes with it.
func (r Run) Tests(ctx context.Context, images *Registry, names []string) (map[string]Result, error) {
	results := map[string]Result{}
	left := slices.Clone(names)
	for range restarts {
		done, err := r.once(ctx, images, left)
		for name, result := range done {
			results[name] = result
		}
		if err != nil {
			return results, err
		}
		left = slices.DeleteFunc(left, func(name string) bool { _, ok := results[name]; return ok })
		if len(left) == 0 || len(done) == 0 {
			break
		}
	}
	if len(left) > 0 {
		return results, fmt.Errorf("%d tests could not be run, see the log: %s", len(left), strings.Join(left, " "))
	}
	return results, nil
}

// once runs the binary once.
func (r Run) once(ctx context.Context, images *Registry, names []string) (map[string]Result, error) {
	out := &parser{results: map[string]Result{}, rest: r.Log}
	cmd := exec.CommandContext(ctx, r.Binary,
		"-test.v=test2json", "-test.timeout=20m", "-test.root", "-no-criu",
		"-test.run=^("+strings.Join(names, "|")+")$")
	// Some tests read testdata.
	cmd.Dir = filepath.Join(filepath.Dir(r.Binary), sourceDir, "integration", "client")
	cmd.Env = append(os.Environ(), "PATH="+r.Path, "TMPDIR="+r.Dir, "TEST_RUNTIME="+r.Runtime,
		envDir+"="+r.Dir, envRegistry+"="+images.Addr, envDigest+"="+images.BusyboxDigest)
	cmd.Env = append(cmd.Env, r.Env...)
	cmd.Stdout, cmd.Stderr = out, r.Log
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 10 * time.Second // shims may hold the pipes
	// SIGQUIT makes it say where it hung.
	hung := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(unix.SIGQUIT) })
	out.heard = func() { hung.Reset(patience) }
	err := cmd.Run()
	hung.Stop()
	out.end(err != nil)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return out.results, fmt.Errorf("run containerd's suite: %w", ctx.Err())
	case err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay):
		return out.results, fmt.Errorf("run containerd's suite: %w", err)
	}
	return out.results, r.endContainerd()
}

// endContainerd kills the daemon, and the stock shims, of a binary that died, so that the
// next one can start.
func (r Run) endContainerd() error {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, p := range procs {
		line, err := os.ReadFile(filepath.Join("/proc", p.Name(), "cmdline"))
		program, _, _ := strings.Cut(string(line), "\x00")
		// Not a daemon of the runtime's, which lives as long as the run.
		if err != nil || !strings.HasPrefix(filepath.Base(program), "containerd") ||
			!strings.Contains(string(line), r.Dir) && !strings.Contains(string(line), state) {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(p.Name(), &pid); err != nil || pid == os.Getpid() {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end process %d that the suite left: %w", pid, err)
		}
	}
	return nil
}
