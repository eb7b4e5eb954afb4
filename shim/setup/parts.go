package setup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/claim"
)

// part is a part of the pool, see package claim.
type part struct {
	dir   string
	pid   int // its shim's, 0 if it didn't say
	start uint64
}

// parts are those in a state.
func parts(root, state string) ([]part, error) {
	dirs, err := filepath.Glob(filepath.Join(claim.Profile(root, profile), state, "*"))
	if err != nil {
		return nil, err
	}
	var all []part
	for _, dir := range dirs {
		p := part{dir: dir}
		text, err := os.ReadFile(filepath.Join(dir, claim.PidFile))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, unix.ENOTDIR):
			continue
		case err != nil:
			return nil, err
		default:
			if _, err := fmt.Sscanf(string(text), "%d %d\n", &p.pid, &p.start); err != nil || p.pid <= 1 {
				return nil, fmt.Errorf("%s names no process", filepath.Join(dir, claim.PidFile))
			}
		}
		all = append(all, p)
	}
	return all, nil
}

// alive tells whether the part's shim is: a cold one may not have said who it is, but
// answers.
func (p part) alive() bool {
	if p.pid == 0 {
		return claim.Knock(p.dir) == nil
	}
	start, err := startTime(p.pid)
	return err == nil && start == p.start
}

// startTime tells processes of the same pid apart: field 22 of /proc/PID/stat, in clock
// ticks since boot, see proc_pid_stat(5). A zombie has none.
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may have anything in it.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // from field 3 on
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, unix.ESRCH
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// request is for whom the part was claimed; fs.ErrNotExist if it doesn't say.
func (p part) request() (claim.Request, error) {
	var r claim.Request
	text, err := os.ReadFile(filepath.Join(p.dir, claim.ClaimFile))
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	return r, err
}

// drain ends every part that isn't claimed, as a keeper that takes it out of the pool
// does: a part that somebody claims meanwhile stays. Nobody may build parts.
func drain(ctx context.Context, root string) error {
	// One in the making gets ready by itself.
	err := until(ctx, 30*time.Second, func() (bool, error) {
		building, err := parts(root, claim.Building)
		return !slices.ContainsFunc(building, func(p part) bool { return p.pid != 0 && p.alive() }), err
	})
	if err != nil {
		return fmt.Errorf("wait for a part in the making: %w", err)
	}
	ready, err := parts(root, claim.Ready)
	if err != nil {
		return err
	}
	for _, p := range ready {
		retired := filepath.Join(filepath.Dir(filepath.Dir(p.dir)), claim.Retired, filepath.Base(p.dir))
		if err := os.Rename(p.dir, retired); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("take a part out of the pool: %w", err)
		}
	}
	retired, err := parts(root, claim.Retired)
	if err != nil {
		return err
	}
	for _, p := range retired {
		if err := p.end(ctx); err != nil {
			return err
		}
	}
	return nil
}

// end asks a part to end, kills it if it doesn't, and removes what it left.
func (p part) end(ctx context.Context) error {
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := p.signal(signal); err != nil {
			return err
		}
		err := until(ctx, 5*time.Second, func() (bool, error) { return p.pid == 0 || !p.alive(), nil })
		if err == nil {
			return os.RemoveAll(p.dir)
		}
		if ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("part %s doesn't end; see what process %d waits for", p.dir, p.pid)
}

// signal sends a signal to the part's shim and to no process that has its id after it.
func (p part) signal(signal unix.Signal) error {
	if p.pid == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.pid, err)
	}
	defer unix.Close(fd)
	if !p.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// until looks every few milliseconds whether something is done.
func until(ctx context.Context, longest time.Duration, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
