package cgroup

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Set writes the limits and the device rules the cgroup was made with. runc does
// so with the container's first process already inside and still its own, and so
// must the caller: before that process runs anything of the user's.
// An error wraps ErrInvalidArgument where the kernel refuses a value; the cgroup
// is then of no use, save to Delete.
func (c *Cgroup) Set() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.apply(c.resources); err != nil {
		return err
	}
	if c.resources.SkipDevices {
		return nil
	}
	var err error
	if c.host.unified {
		err = setDevicesUnified(c.paths[""], c.resources.Devices)
	} else {
		err = setDevices(c.paths["devices"], c.resources.Devices)
	}
	if err != nil {
		return classify(fmt.Errorf("cannot limit devices: %w", err))
	}
	return nil
}

// apply writes everything but device rules, which the library would write one
// file at a time, and the freezer, which is Freeze's.
func (c *Cgroup) apply(r *cgroups.Resources) error {
	rest := *r
	rest.Devices, rest.SkipDevices, rest.Freezer = nil, true, cgroups.Undefined
	if err := c.manager.Set(&rest); err != nil {
		return classify(fmt.Errorf("cannot set resource limits: %w", err))
	}
	return nil
}

// Update changes the limits r gives and no others, as `runc update` does: memory
// limit, reservation and swap; CPU shares, quota, period, burst, idle, real-time
// budget and cpuset; the number of processes; block I/O weight; unified settings.
// Zero and nil mean "leave it". As in runc, all else in r, device rules among it,
// has no effect. On error every file Update changed has its old value again.
// Errors wrap ErrInvalidArgument where the kernel refuses a value and
// ErrFailedPrecondition where a limit is below what is in use.
func (c *Cgroup) Update(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := merge(*c.resources, r)
	before := c.snapshot(r)
	if err := c.apply(&next); err != nil {
		if undo := before.restore(); undo != nil {
			return fmt.Errorf("%w (and some limits could not be put back: %w)", err, undo)
		}
		return err
	}
	c.resources = &next
	return nil
}

// merge is the resources to write for an update of those a container has.
func merge(next cgroups.Resources, r *specs.LinuxResources) cgroups.Resources {
	var given cgroups.Resources
	setMemory(&given, r.Memory)
	setCPU(&given, r.CPU)
	setPids(&given, r.Pids)
	setBlockIO(&given, r.BlockIO)
	next.Memory, next.MemoryReservation, next.MemorySwap = given.Memory, given.MemoryReservation, given.MemorySwap
	next.MemoryCheckBeforeUpdate = given.MemoryCheckBeforeUpdate
	next.CpuShares, next.CpuWeight = given.CpuShares, given.CpuWeight
	// One alone keeps the other: on v2 both are one file.
	if (given.CpuPeriod == 0) == (given.CpuQuota == 0) {
		next.CpuPeriod, next.CpuQuota = given.CpuPeriod, given.CpuQuota
	} else if given.CpuPeriod != 0 {
		next.CpuPeriod = given.CpuPeriod
	} else {
		next.CpuQuota = given.CpuQuota
	}
	next.CpuBurst, next.CPUIdle = given.CpuBurst, given.CPUIdle
	next.CpuRtPeriod, next.CpuRtRuntime = given.CpuRtPeriod, given.CpuRtRuntime
	next.CpusetCpus, next.CpusetMems = given.CpusetCpus, given.CpusetMems
	next.PidsLimit = given.PidsLimit
	next.BlkioWeight = given.BlkioWeight
	next.Unified = r.Unified
	return next
}

// snapshot is what files held before an update.
type snapshot []saved

type saved struct {
	dir, file, value string
}

// snapshot reads every file an update may write. Files this kernel has not are
// left out.
func (c *Cgroup) snapshot(r *specs.LinuxResources) snapshot {
	var s snapshot
	keep := func(dir string, files ...string) {
		for _, f := range files {
			if v, err := read(dir, f); err == nil && dir != "" {
				s = append(s, saved{dir, f, v})
			}
		}
	}
	if c.host.unified {
		dir := c.paths[""]
		keep(dir, "memory.max", "memory.swap.max", "memory.low", "cpu.max", "cpu.max.burst", "cpu.weight", "cpu.idle",
			"cpuset.cpus", "cpuset.mems", "pids.max", "io.weight", "io.bfq.weight")
		for k := range r.Unified {
			if !strings.Contains(k, "/") {
				keep(dir, k)
			}
		}
		return s
	}
	keep(c.paths["memory"], "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes")
	keep(c.paths["cpu"], "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.cfs_burst_us", "cpu.shares", "cpu.idle",
		"cpu.rt_period_us", "cpu.rt_runtime_us")
	keep(c.paths["cpuset"], "cpuset.cpus", "cpuset.mems")
	keep(c.paths["pids"], "pids.max")
	keep(c.paths["blkio"], "blkio.weight", "blkio.bfq.weight")
	return s
}

// restore writes back what differs. Some files bound each other, as memory's two
// limits do, so it goes over them again while that helps.
func (s snapshot) restore() error {
	var errs []error
	for range 3 {
		errs = nil
		for _, f := range s {
			if v, err := read(f.dir, f.file); err == nil && v == f.value {
				continue
			}
			value := f.value
			if strings.TrimSpace(value) == "" {
				value = "\n"
			}
			// Keyed files take one line in a write.
			for line := range strings.Lines(value) {
				if err := write(f.dir, f.file, line); err != nil && !errors.Is(err, unix.ENOENT) {
					errs = append(errs, err)
				}
			}
		}
		if len(errs) == 0 {
			return nil
		}
	}
	return errors.Join(errs...)
}
