package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"
)

// CreateUnified makes the cgroup in the v2 hierarchy alone, with every missing parent, for
// a process to be born in it ([Cgroup.Dir]) before the others are made;
// [Cgroup.CreateOthers] makes those. Where there is no v2 hierarchy it does nothing.
//
// On error everything it made is gone again. A cgroup that existed is used as it is,
// unless it is frozen (ErrFailedPrecondition) or has processes (ErrNotImplemented: runc
// decides).
func (c *Cgroup) CreateUnified() error { return c.create(true) }

// CreateOthers is CreateUnified of the v1 hierarchies: about 60 µs for each; on pure v2 it
// does nothing. It also writes the settings that a process cannot join without: cpuset and
// real-time scheduling. All others are [Cgroup.Set]'s, after. What CreateUnified made
// stays also on error: Delete removes it.
func (c *Cgroup) CreateOthers() error { return c.create(false) }

// members are those in the v2 hierarchy, or all others.
func (c *Cgroup) members(unified bool) []member {
	return slices.DeleteFunc(slices.Clone(c.dirs), func(m member) bool { return (m.subsystem == "") != unified })
}

// SetInit tells which process is the container's first: Add follows it.
func (c *Cgroup) SetInit(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.init = pid
}

// create makes the directories of the v2 hierarchy, or of all others, or none.
func (c *Cgroup) create(unified bool) (err error) {
	var made []string // those that were not there, parents first
	defer func() {
		if err != nil {
			undo(made)
		}
	}()
	c.mu.Lock()
	r := c.resources
	c.mu.Unlock()
	for _, m := range c.members(unified) {
		before := len(made)
		if c.host.unified {
			made, err = c.makeUnified(made, m.dir)
		} else {
			made, err = makeDir(made, m, c.host.mounts[m.subsystem].Mountpoint, r)
		}
		if err != nil {
			return classify(fmt.Errorf("cannot make cgroup %s: %w", m.dir, err))
		}
		if len(made) == before {
			if err := c.usable(m); err != nil {
				return err
			}
		}
		if m.subsystem == "cpu" && (r.CpuRtPeriod != 0 || r.CpuRtRuntime != 0) {
			if err := (&fs.CpuGroup{}).SetRtSched(m.dir, r); err != nil {
				return classify(fmt.Errorf("cannot set the real-time budget: %w", err))
			}
		}
	}
	return nil
}

// undo removes directories that were made, parents first in made.
func undo(made []string) {
	for _, dir := range slices.Backward(made) {
		// A parent that another container entered meanwhile stays.
		_ = unix.Rmdir(dir)
	}
}

// usable says why a cgroup that was there before cannot take this container.
func (c *Cgroup) usable(m member) error {
	if m.subsystem == "freezer" || c.host.unified {
		state, err := c.manager.GetFreezerState()
		if err == nil && state == cgroups.Frozen {
			return fmt.Errorf("cgroup %s is frozen; thaw or remove it: %w", m.dir, errdefs.ErrFailedPrecondition)
		}
	}
	// The kernel lists a parent's processes only in the parent.
	pids, err := procs(m.dir)
	if err == nil && len(pids) > 0 {
		return fmt.Errorf("cgroup %s has %d processes of another: %w", m.dir, len(pids), errdefs.ErrNotImplemented)
	}
	return nil
}

// parentTries bounds how often a parent that vanishes is made again.
const parentTries = 10

// makeDir makes the directory of one hierarchy and its missing parents, and
// appends those it made to made, parents first. A new cpuset has no CPUs and
// accepts no process until it is given its parent's.
func makeDir(made []string, m member, mountpoint string, r *cgroups.Resources) ([]string, error) {
	err := unix.Mkdir(m.dir, 0o755)
	parent := filepath.Dir(m.dir)
	// Another container's undo may remove the parent right after it was made.
	for i := 0; errors.Is(err, unix.ENOENT) && i < parentTries; i++ {
		if parent == mountpoint || !strings.HasPrefix(parent, mountpoint+"/") {
			return made, err
		}
		if made, err = makeDir(made, member{m.subsystem, parent}, mountpoint, nil); err != nil {
			return made, err
		}
		err = unix.Mkdir(m.dir, 0o755)
	}
	switch {
	case err == nil:
		made = append(made, m.dir)
	case !errors.Is(err, unix.EEXIST):
		return made, err
	}
	if m.subsystem != "cpuset" {
		return made, nil
	}
	if err == nil && r != nil && r.CpusetCpus == "" && r.CpusetMems == "" {
		return made, inherit(m.dir, parent, nil)
	}
	if r != nil {
		if err := (&fs.CpusetGroup{}).Set(m.dir, r); err != nil {
			return made, err
		}
	}
	return made, inherit(m.dir, parent, isEmpty)
}

// inherit copies CPUs and memory nodes of the cpuset parent to dir, each where
// empty says so; nil copies both. It walks up where the parent has none either.
func inherit(dir, parent string, empty func(dir, file string) bool) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if empty != nil && !empty(dir, file) {
			continue
		}
		value, err := read(parent, file)
		if err != nil {
			return err
		}
		if strings.TrimSpace(value) == "" {
			if grand := filepath.Dir(parent); strings.HasPrefix(grand, root+"/") {
				if err := inherit(parent, grand, isEmpty); err != nil {
					return err
				}
				if value, err = read(parent, file); err != nil {
					return err
				}
			}
		}
		if err := write(dir, file, value); err != nil {
			return err
		}
	}
	return nil
}

func isEmpty(dir, file string) bool {
	value, err := read(dir, file)
	return err == nil && strings.TrimSpace(value) == ""
}

// makeUnified makes the v2 directory with every controller enabled down to it.
// The library removes what it made when it fails.
func (c *Cgroup) makeUnified(made []string, dir string) ([]string, error) {
	if !strings.HasPrefix(dir, root+"/") {
		return made, fmt.Errorf("%s is not below %s: %w", dir, root, errdefs.ErrInvalidArgument)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := 1; ; i++ {
		var missing []string
		for d := dir; d != root; d = filepath.Dir(d) {
			var st unix.Stat_t
			if err := unix.Stat(d, &st); err == nil {
				break
			}
			missing = append([]string{d}, missing...)
		}
		err := fs2.CreateCgroupPath(dir, c.config)
		if err == nil {
			return append(made, missing...), nil
		}
		// Another container's undo may remove a parent meanwhile.
		if i == parentTries || !errors.Is(err, unix.ENOENT) {
			return made, err
		}
	}
}
