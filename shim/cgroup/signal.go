package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// Freeze stops every process of the cgroup and its sub-cgroups and returns when
// all have stopped. An error wraps ErrFailedPrecondition where the host has no
// freezer; the cgroup is then thawed.
func (c *Cgroup) Freeze() error { return c.freeze(cgroups.Frozen) }

// Thaw lets a frozen cgroup run on. It does no harm to one that runs.
func (c *Cgroup) Thaw() error { return c.freeze(cgroups.Thawed) }

func (c *Cgroup) freeze(state cgroups.FreezerState) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.host.unified && c.paths["freezer"] == "" {
		return fmt.Errorf("no freezer hierarchy is mounted; mount it to pause containers: %w", errdefs.ErrFailedPrecondition)
	}
	if err := c.manager.Freeze(state); err != nil {
		return classify(fmt.Errorf("cannot bring the cgroup to %s: %w", strings.ToLower(string(state)), err))
	}
	return nil
}

// Procs are the processes in the cgroup and its sub-cgroups, in no order, by
// their ids in this process's pid namespace. A cgroup that is gone has none.
func (c *Cgroup) Procs() ([]int, error) {
	pids, err := tree(c.procsDir())
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	return pids, err
}

// procsDir is the directory whose processes count as the container's: on v1 that
// of the devices hierarchy, as in runc.
func (c *Cgroup) procsDir() string {
	if c.host.unified {
		return c.paths[""]
	}
	if dir := c.paths["devices"]; dir != "" {
		return dir
	}
	return c.dirs[0].dir
}

// tree lists the processes of dir and below. Sub-cgroups that vanish meanwhile
// have none.
func tree(dir string) ([]int, error) {
	pids, err := procs(dir)
	if err != nil {
		return nil, err
	}
	for _, sub := range children(dir) {
		more, err := tree(sub)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}

// children are the sub-cgroups of dir. The link count tells a cgroup without any
// apart (2), which saves the listing of some forty files.
func children(dir string) []string {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || st.Nlink == 2 {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out
}

// procs lists the processes of dir alone.
func procs(dir string) ([]int, error) {
	data, err := read(dir, "cgroup.procs")
	if errors.Is(err, unix.ENOTSUP) {
		// A threaded v2 cgroup tells its threads only.
		data, err = read(dir, "cgroup.threads")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	var pids []int
	for line := range strings.Lines(data) {
		// 0 is a process outside this pid namespace.
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killRounds bounds how often Kill looks for processes it has not reached: with
// a freezer one round is enough.
const killRounds = 10

// Kill sends SIGKILL to every process in the cgroup and its sub-cgroups, thawing
// them so that they can die. It does not wait for their end. On v2 and hybrid
// hosts the kernel does it in one step (cgroup.kill, since 5.14), so that no fork
// escapes; else the cgroup is frozen meanwhile. This process is never killed. A
// cgroup that is gone is no error.
func (c *Cgroup) Kill() error {
	atOnce := false
	if dir, ok := c.paths[""]; ok && !c.holdsSelf() {
		err := write(dir, "cgroup.kill", "1")
		atOnce = err == nil
	}
	if c.host.unified && atOnce {
		return nil
	}
	// On a hybrid host this reaches processes that joined v1 hierarchies only.
	var err error
	sent := make(map[int]bool)
	for range killRounds {
		fresh := false
		frozen := !atOnce && c.Freeze() == nil
		var pids []int
		if pids, err = c.Procs(); err != nil {
			break
		}
		for _, pid := range pids {
			if pid == os.Getpid() {
				continue
			}
			if kerr := unix.Kill(pid, unix.SIGKILL); kerr != nil && !errors.Is(kerr, unix.ESRCH) {
				err = kerr
			}
			fresh = fresh || !sent[pid]
			sent[pid] = true
		}
		if frozen || !fresh {
			break
		}
	}
	c.thaw()
	if err != nil {
		return fmt.Errorf("cannot kill every process of the cgroup: %w", err)
	}
	return nil
}

// thaw undoes any freeze without waiting: on v1 a frozen process cannot die.
func (c *Cgroup) thaw() {
	if c.host.unified {
		_ = write(c.paths[""], "cgroup.freeze", "0")
	} else if dir := c.paths["freezer"]; dir != "" {
		_ = write(dir, "freezer.state", "THAWED")
	}
}

// holdsSelf reports whether this process is in the v2 cgroup, by someone's
// mistake.
func (c *Cgroup) holdsSelf() bool {
	dir := c.host.home("")
	return dir == c.paths[""] || strings.HasPrefix(dir, c.paths[""]+"/")
}
