package cgroup

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	devconfig "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultDevice is a device that every container may use, whatever its spec
// says. A spec device at the same path replaces it.
type defaultDevice struct {
	path string
	rule devconfig.Rule
}

// defaultDevices are the rules runc appends to those of the spec (AllowedDevices
// in its specconv): mknod of anything, and use of the harmless nodes.
func defaultDevices() []defaultDevice {
	char := func(path string, major, minor int64, access devconfig.Permissions) defaultDevice {
		return defaultDevice{path, devconfig.Rule{Type: devconfig.CharDevice, Major: major, Minor: minor, Permissions: access, Allow: true}}
	}
	block := char("", devconfig.Wildcard, devconfig.Wildcard, "m")
	block.rule.Type = devconfig.BlockDevice
	return []defaultDevice{
		char("", devconfig.Wildcard, devconfig.Wildcard, "m"),
		block,
		char("/dev/null", 1, 3, "rwm"),
		char("/dev/random", 1, 8, "rwm"),
		char("/dev/full", 1, 7, "rwm"),
		char("/dev/tty", 5, 0, "rwm"),
		char("/dev/zero", 1, 5, "rwm"),
		char("/dev/urandom", 1, 9, "rwm"),
		char("", 136, devconfig.Wildcard, "rwm"), // pts
		char("", 5, 2, "rwm"),                    // ptmx
		char("", 10, 200, "rwm"),                 // tun and tap
	}
}

// Config converts the OCI resources of a container into the form its cgroup
// manager takes, as runc's specconv does.
//
// path is linux.cgroupsPath, or the container's id where that is empty; an
// absolute path is below the root of every hierarchy, a relative one below the
// cgroup of this process (see [Host.New]). r may be nil. devices are
// linux.devices of the spec: they displace default rules for the same path but
// get no rule of their own. The result is the caller's and shares pids.limit,
// swappiness, burst and idle with r. Kernel memory limits are dropped, as in
// runc. An error wraps ErrInvalidArgument.
//
// Config reads nothing but its arguments.
func Config(path string, r *specs.LinuxResources, devices []specs.LinuxDevice) (*cgroups.Cgroup, error) {
	clean := cleanPath(path)
	if clean == "" || clean == "/" || clean == "." {
		return nil, fmt.Errorf("cgroup path %q names no cgroup of its own; give linux.cgroupsPath a name: %w", path, errdefs.ErrInvalidArgument)
	}
	out := &cgroups.Resources{}
	if r != nil {
		rules, err := deviceRules(r.Devices)
		if err != nil {
			return nil, err
		}
		out.Devices = rules
		setMemory(out, r.Memory)
		setCPU(out, r.CPU)
		setPids(out, r.Pids)
		setBlockIO(out, r.BlockIO)
		setOthers(out, r)
	}
next:
	for _, d := range defaultDevices() {
		for _, given := range devices {
			if d.path != "" && given.Path == d.path {
				continue next
			}
		}
		out.Devices = append(out.Devices, &d.rule)
	}
	return &cgroups.Cgroup{Path: clean, Resources: out}, nil
}

// cleanPath resolves every ".." against the root, so that no path can leave the
// hierarchy, and keeps relative paths relative.
func cleanPath(path string) string {
	if path == "" {
		return ""
	}
	clean := filepath.Clean("/" + path)
	if filepath.IsAbs(path) {
		return clean
	}
	return clean[1:]
}

func deviceRules(in []specs.LinuxDeviceCgroup) ([]*devconfig.Rule, error) {
	rules := make([]*devconfig.Rule, 0, len(in)+16)
	for i, d := range in {
		rule := &devconfig.Rule{Major: devconfig.Wildcard, Minor: devconfig.Wildcard, Permissions: devconfig.Permissions(d.Access), Allow: d.Allow}
		switch d.Type {
		case "", "a":
			rule.Type = devconfig.WildcardDevice
		case "b":
			rule.Type = devconfig.BlockDevice
		case "c":
			rule.Type = devconfig.CharDevice
		default:
			return nil, fmt.Errorf("device rule %d has type %q; use a, b or c: %w", i, d.Type, errdefs.ErrInvalidArgument)
		}
		if d.Access == "" || strings.Trim(d.Access, "rwm") != "" {
			return nil, fmt.Errorf("device rule %d has access %q; use some of r, w and m: %w", i, d.Access, errdefs.ErrInvalidArgument)
		}
		if d.Major != nil {
			rule.Major = *d.Major
		}
		if d.Minor != nil {
			rule.Minor = *d.Minor
		}
		if !validNumber(rule.Major) || !validNumber(rule.Minor) {
			return nil, fmt.Errorf("device rule %d has number %d:%d; use -1 for any: %w", i, rule.Major, rule.Minor, errdefs.ErrInvalidArgument)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

func validNumber(n int64) bool { return n >= devconfig.Wildcard && n <= 1<<32-1 }

func setMemory(out *cgroups.Resources, m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	out.Memory = value(m.Limit)
	out.MemoryReservation = value(m.Reservation)
	out.MemorySwap = value(m.Swap)
	out.MemorySwappiness = m.Swappiness
	out.OomKillDisable = value(m.DisableOOMKiller)
	out.MemoryCheckBeforeUpdate = value(m.CheckBeforeUpdate)
}

func setCPU(out *cgroups.Resources, c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	out.CpuShares = value(c.Shares)
	out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(out.CpuShares)
	out.CpuQuota = value(c.Quota)
	out.CpuBurst = c.Burst
	out.CpuPeriod = value(c.Period)
	out.CpuRtRuntime = value(c.RealtimeRuntime)
	out.CpuRtPeriod = value(c.RealtimePeriod)
	out.CpusetCpus = c.Cpus
	out.CpusetMems = c.Mems
	out.CPUIdle = c.Idle
}

// setPids keeps a limit of zero unset, as runc 1.1 does; the manager would make
// one process of it.
func setPids(out *cgroups.Resources, p *specs.LinuxPids) {
	if p != nil && p.Limit != nil && *p.Limit != 0 {
		out.PidsLimit = p.Limit
	}
}

func setBlockIO(out *cgroups.Resources, b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	out.BlkioWeight = value(b.Weight)
	out.BlkioLeafWeight = value(b.LeafWeight)
	for _, d := range b.WeightDevice {
		out.BlkioWeightDevice = append(out.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, value(d.Weight), value(d.LeafWeight)))
	}
	out.BlkioThrottleReadBpsDevice = throttles(b.ThrottleReadBpsDevice)
	out.BlkioThrottleWriteBpsDevice = throttles(b.ThrottleWriteBpsDevice)
	out.BlkioThrottleReadIOPSDevice = throttles(b.ThrottleReadIOPSDevice)
	out.BlkioThrottleWriteIOPSDevice = throttles(b.ThrottleWriteIOPSDevice)
}

func throttles(in []specs.LinuxThrottleDevice) []*cgroups.ThrottleDevice {
	var out []*cgroups.ThrottleDevice
	for _, d := range in {
		out = append(out, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
	}
	return out
}

func setOthers(out *cgroups.Resources, r *specs.LinuxResources) {
	for _, l := range r.HugepageLimits {
		out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: l.Pagesize, Limit: l.Limit})
	}
	if n := r.Network; n != nil {
		out.NetClsClassid = value(n.ClassID)
		for _, p := range n.Priorities {
			out.NetPrioIfpriomap = append(out.NetPrioIfpriomap, &cgroups.IfPrioMap{Interface: p.Name, Priority: int64(p.Priority)})
		}
	}
	for name, l := range r.Rdma {
		if out.Rdma == nil {
			out.Rdma = make(map[string]cgroups.LinuxRdma, len(r.Rdma))
		}
		out.Rdma[name] = cgroups.LinuxRdma{HcaHandles: l.HcaHandles, HcaObjects: l.HcaObjects}
	}
	for k, v := range r.Unified {
		if out.Unified == nil {
			out.Unified = make(map[string]string, len(r.Unified))
		}
		out.Unified[k] = v
	}
}

// value is what p points to, or zero, which every limit takes for "not given".
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
