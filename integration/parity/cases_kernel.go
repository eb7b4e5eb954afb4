package parity

import (
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func ownNamespace(kind specs.LinuxNamespaceType) func(*specs.Spec, *Place) {
	return change(func(s *specs.Spec) {
		dropNamespace(s, kind)
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
	})
}

func joined(kinds ...specs.LinuxNamespaceType) func(*specs.Spec, *Place) {
	return func(s *specs.Spec, p *Place) {
		for _, kind := range kinds {
			dropNamespace(s, kind)
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: p.Namespaces[kind]})
		}
	}
}

func namespaceCases() []Case {
	var cases []Case
	for _, kind := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace,
	} {
		cases = append(cases, Case{
			Name:   "namespace of the host " + string(kind),
			Change: change(func(s *specs.Spec) { dropNamespace(s, kind) }),
		})
	}
	for _, kind := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace,
	} {
		cases = append(cases, Case{Name: "namespace joined " + string(kind), Joins: true, Change: joined(kind)})
	}
	return append(
		cases,
		Case{Name: "namespace own cgroup", Ask: []string{"cat:/proc/self/cgroup"}, Change: ownNamespace(specs.CgroupNamespace)},
		Case{Name: "namespaces joined as in a pod", Joins: true, Change: both(joined(specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace), change(func(s *specs.Spec) { s.Hostname = "" }))},
		Case{Name: "namespace joined with host name", Joins: true, Change: both(joined(specs.UTSNamespace), change(func(s *specs.Spec) { s.Hostname = "joined" }))},
		Case{Name: "namespace missing path", Change: change(func(s *specs.Spec) {
			dropNamespace(s, specs.NetworkNamespace)
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/no/such/ns"})
		})},
		Case{Name: "namespace of another kind", Joins: true, Change: func(s *specs.Spec, p *Place) {
			dropNamespace(s, specs.NetworkNamespace)
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: p.Namespaces[specs.UTSNamespace]})
		}},
		Case{Name: "namespace not a namespace", Change: func(s *specs.Spec, p *Place) {
			dropNamespace(s, specs.NetworkNamespace)
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: p.Dir + "/file"})
		}},
		Case{Name: "namespace twice", Change: change(func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UTSNamespace})
		})},
		Case{Name: "namespace unknown", Change: change(func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "colour"})
		})},
		Case{Name: "namespace relative path", Change: change(func(s *specs.Spec) {
			dropNamespace(s, specs.NetworkNamespace)
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "ns/net"})
		})},
		Case{Name: "namespaces none", Change: change(func(s *specs.Spec) { s.Linux.Namespaces = nil })},
	)
}

func userNamespaceCases() []Case {
	mapped := func(maps ...specs.LinuxIDMapping) func(*specs.Spec, *Place) {
		return both(ownNamespace(specs.UserNamespace), change(func(s *specs.Spec) {
			s.Linux.UIDMappings, s.Linux.GIDMappings = maps, maps
		}))
	}
	asks := []string{"read:/real/file", "write:/tmp", "write:/desk", "sys:mount", "sys:chroot"}
	all := specs.LinuxIDMapping{ContainerID: 0, HostID: 0, Size: 1 << 31}
	high := specs.LinuxIDMapping{ContainerID: 0, HostID: 100000, Size: 65536}
	return []Case{
		{Name: "user namespace one to one", Ask: asks, Change: mapped(all)},
		{Name: "user namespace high ids", Ask: asks, Change: mapped(high)},
		{Name: "user namespace two ranges", Ask: asks, Change: mapped(specs.LinuxIDMapping{ContainerID: 0, HostID: 100000, Size: 1000}, specs.LinuxIDMapping{ContainerID: 1000, HostID: 200000, Size: 1000})},
		{Name: "user namespace of a user", Ask: asks, Change: both(mapped(high), user(1000, 1000, 2000))},
		{Name: "user namespace user not mapped", Change: both(mapped(specs.LinuxIDMapping{ContainerID: 0, HostID: 100000, Size: 10}), user(1000, 1000))},
		{Name: "user namespace without maps", Change: ownNamespace(specs.UserNamespace)},
		{Name: "user maps without a namespace", Change: change(func(s *specs.Spec) {
			s.Linux.UIDMappings = []specs.LinuxIDMapping{high}
			s.Linux.GIDMappings = s.Linux.UIDMappings
		})},
		{Name: "user maps overlap", Change: mapped(high, high)},
	}
}

func kernelCases() []Case {
	sysctl := func(pairs map[string]string) func(*specs.Spec, *Place) {
		return change(func(s *specs.Spec) { s.Linux.Sysctl = pairs })
	}
	return []Case{
		{Name: "sysctl network", Ask: []string{"cat:/proc/sys/net/ipv4/ip_forward", "cat:/proc/sys/net/ipv4/ip_unprivileged_port_start"}, Change: sysctl(map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.ip_unprivileged_port_start": "0"})},
		{Name: "sysctl with slashes", Ask: []string{"cat:/proc/sys/net/ipv4/ip_forward"}, Change: sysctl(map[string]string{"net/ipv4/ip_forward": "1"})},
		{Name: "sysctl ipc", Ask: []string{"cat:/proc/sys/kernel/shmmni", "cat:/proc/sys/fs/mqueue/msg_max"}, Change: sysctl(map[string]string{"kernel.shmmni": "1234", "fs.mqueue.msg_max": "20"})},
		{Name: "sysctl domain name", Ask: []string{"cat:/proc/sys/kernel/domainname"}, Change: sysctl(map[string]string{"kernel.domainname": "example"})},
		{Name: "sysctl host name", Change: sysctl(map[string]string{"kernel.hostname": "example"})},
		{Name: "sysctl of the whole host", Change: sysctl(map[string]string{"kernel.panic": "0"})},
		{Name: "sysctl of the host's network", Change: both(sysctl(map[string]string{"net.ipv4.ip_forward": "1"}), change(func(s *specs.Spec) { dropNamespace(s, specs.NetworkNamespace) }))},
		{Name: "sysctl of the host's ipc", Change: both(sysctl(map[string]string{"kernel.shmmni": "1234"}), change(func(s *specs.Spec) { dropNamespace(s, specs.IPCNamespace) }))},
		{Name: "sysctl missing", Change: sysctl(map[string]string{"net.no.such.key": "1"})},
		{Name: "sysctl bad value", Change: sysctl(map[string]string{"net.ipv4.ip_forward": "many"})},
		{Name: "sysctl that climbs", Change: sysctl(map[string]string{"net/../kernel/panic": "0"})},
		{Name: "rdt", Change: change(func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x", L3CacheSchema: "L3:0=f"} })},
		{Name: "mount label", Change: change(func(s *specs.Spec) { s.Linux.MountLabel = "system_u:object_r:container_file_t:s0" })},
	}
}

func deviceCases() []Case {
	device := func(d specs.LinuxDevice) func(*specs.Spec, *Place) {
		return change(func(s *specs.Spec) { s.Linux.Devices = append(s.Linux.Devices, d) })
	}
	allow := func(rules ...specs.LinuxDeviceCgroup) func(*specs.Spec, *Place) {
		return change(func(s *specs.Spec) { s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, rules...) })
	}
	kmsg := specs.LinuxDevice{Path: "/dev/kmsg-copy", Type: "c", Major: 1, Minor: 11}
	mode := ptr(kmsgMode)
	return []Case{
		{Name: "device", Ask: []string{"read:/dev/kmsg-copy"}, Change: device(kmsg)},
		{Name: "device with mode and owner", Ask: []string{"write:/dev/null-copy"}, Change: device(specs.LinuxDevice{Path: "/dev/null-copy", Type: "c", Major: 1, Minor: 3, FileMode: mode, UID: ptr(uint32(1000)), GID: ptr(uint32(2000))})},
		{Name: "device allowed", Ask: []string{"read:/dev/kmsg-copy", "write:/dev/kmsg-copy"}, Change: both(device(kmsg), allow(specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: "r"}))},
		{Name: "device rules all", Ask: []string{"sys:mknod-kmsg", "sys:mknod-null"}, Change: allow(specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"})},
		{Name: "device rule by major", Ask: []string{"sys:mknod-kmsg", "sys:mknod-disk"}, Change: allow(specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Access: "rwm"})},
		{Name: "device rules none", Ask: []string{"sys:mknod-kmsg", "sys:mknod-null"}, Change: change(func(s *specs.Spec) { s.Linux.Resources.Devices = nil })},
		{Name: "device default denied", Ask: []string{"read:/dev/zero"}, Change: allow(specs.LinuxDeviceCgroup{Allow: false, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(5)), Access: "rwm"})},
		{Name: "device default again", Ask: []string{"read:/dev/zero"}, Change: device(specs.LinuxDevice{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5, FileMode: mode})},
		{Name: "device fifo", Ask: []string{"write:/dev/a-fifo"}, Change: device(specs.LinuxDevice{Path: "/dev/a-fifo", Type: "p", FileMode: mode})},
		{Name: "device in a new directory", Change: device(specs.LinuxDevice{Path: "/dev/new/dir/null", Type: "c", Major: 1, Minor: 3})},
		{Name: "device outside of dev", Ask: []string{"read:/real/null", "write:/real/null"}, Change: device(specs.LinuxDevice{Path: "/real/null", Type: "c", Major: 1, Minor: 3})},
		{Name: "device through a link", Ask: []string{"read:/etc/null", "read:/etc-link/null"}, Change: device(specs.LinuxDevice{Path: "/etc-link/null", Type: "c", Major: 1, Minor: 3})},
		{Name: "device of an unknown type", Change: device(specs.LinuxDevice{Path: "/dev/odd", Type: "x"})},
		{Name: "device console", Change: device(specs.LinuxDevice{Path: "/dev/console", Type: "c", Major: 5, Minor: 1})},
	}
}

func cgroupCases() []Case {
	const mb = 1 << 20
	limits := func(f func(*specs.LinuxResources)) func(*specs.Spec, *Place) {
		return both(
			mounts(specs.Mount{Destination: "/cg", Type: "bind", Source: "/sys/fs/cgroup", Options: []string{"rbind", "ro"}}),
			change(func(s *specs.Spec) { f(s.Linux.Resources) }),
		)
	}
	memory := []string{"cgroup:memory/memory.limit_in_bytes", "cgroup:memory/memory.soft_limit_in_bytes", "cgroup:memory/memory.memsw.limit_in_bytes", "cgroup:memory/memory.swappiness", "cgroup:memory/memory.oom_control"}
	cpu := []string{"cgroup:cpu/cpu.shares", "cgroup:cpu/cpu.cfs_quota_us", "cgroup:cpu/cpu.cfs_period_us", "cgroup:cpuset/cpuset.cpus", "cgroup:cpuset/cpuset.mems"}
	others := []string{"cgroup:pids/pids.max", "cgroup:blkio/blkio.weight", "cgroup:hugetlb/hugetlb.2MB.limit_in_bytes", "cgroup:net_cls/net_cls.classid", "cgroup:devices/devices.list"}
	path := func(p string) func(*specs.Spec, *Place) {
		return both(limits(func(*specs.LinuxResources) {}), change(func(s *specs.Spec) { s.Linux.CgroupsPath = p }))
	}
	// What is left of a path, with either runtime, is to be in the cgroup of the containers.
	below := func(p string) func(*specs.Spec, *Place) {
		return both(limits(func(*specs.LinuxResources) {}), change(func(s *specs.Spec) {
			s.Linux.CgroupsPath = filepath.Dir(s.Linux.CgroupsPath) + "/" + p
		}))
	}
	return []Case{
		{Name: "cgroup default", Ask: append(append(append([]string{}, memory...), cpu...), others...), Change: limits(func(*specs.LinuxResources) {})},
		{Name: "cgroup memory", Ask: memory, Change: limits(func(r *specs.LinuxResources) {
			r.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 * mb)), Reservation: ptr(int64(32 * mb)), Swappiness: ptr(uint64(10))}
		})},
		{Name: "cgroup memory and swap", Ask: memory, Change: limits(func(r *specs.LinuxResources) {
			r.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 * mb)), Swap: ptr(int64(64 * mb))}
		})},
		{Name: "cgroup memory unlimited", Ask: memory, Change: limits(func(r *specs.LinuxResources) {
			r.Memory = &specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(-1))}
		})},
		{Name: "cgroup memory too little", Change: limits(func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Limit: ptr(int64(4096))} })},
		{Name: "cgroup memory without oom killer", Ask: memory, Change: limits(func(r *specs.LinuxResources) {
			r.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 * mb)), DisableOOMKiller: ptr(true)}
		})},
		{Name: "cgroup cpu", Ask: cpu, Change: limits(func(r *specs.LinuxResources) {
			r.CPU = &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Cpus: "0", Mems: "0"}
		})},
		{Name: "cgroup cpu quota only", Ask: cpu, Change: limits(func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Quota: ptr(int64(20000))} })},
		{Name: "cgroup cpu missing cpu", Change: limits(func(r *specs.LinuxResources) { r.CPU = &specs.LinuxCPU{Cpus: "999"} })},
		{Name: "cgroup pids", Ask: others, Change: limits(func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: ptr(int64(77))} })},
		{Name: "cgroup pids unlimited", Ask: others, Change: limits(func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: ptr(int64(-1))} })},
		{Name: "cgroup pids 0", Ask: others, Change: limits(func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: ptr(int64(0))} })},
		{Name: "cgroup block weight", Ask: others, Change: limits(func(r *specs.LinuxResources) { r.BlockIO = &specs.LinuxBlockIO{Weight: ptr(uint16(300))} })},
		{Name: "cgroup huge pages", Ask: others, Change: limits(func(r *specs.LinuxResources) {
			r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 * mb}}
		})},
		{Name: "cgroup network class", Ask: others, Change: limits(func(r *specs.LinuxResources) { r.Network = &specs.LinuxNetwork{ClassID: ptr(uint32(0x100001))} })},
		{Name: "cgroup unified settings", Change: limits(func(r *specs.LinuxResources) { r.Unified = map[string]string{"memory.max": "67108864"} })},
		{Name: "cgroup path relative", Ask: memory, Change: path("peregrine-relative")},
		{Name: "cgroup path nested", Ask: memory, Change: below("a/b")},
		{Name: "cgroup path that climbs", Ask: memory, Change: below("a/../c")},
		{Name: "cgroup path empty", Ask: memory, Change: path("")},
		{Name: "resources absent", Ask: memory, Change: change(func(s *specs.Spec) { s.Linux.Resources = nil })},
	}
}
