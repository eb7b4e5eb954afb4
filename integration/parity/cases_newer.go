package parity

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// newerCases ask for what came into the specification after the runc that others are
// compared with.
func newerCases() []Case {
	// A newer runc does these. FlashCube leaves them to it, and counts that.
	fallback := map[string]string{"*": "the runtime that it falls back to here is too old"}
	idmapped := func(options ...string) func(*specs.Spec, *Place) {
		return func(s *specs.Spec, p *Place) {
			ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Mounts = append(s.Mounts, specs.Mount{
				Destination: "/mnt", Type: "bind", Source: p.Dir + "/dir", Options: options, UIDMappings: ids, GIDMappings: ids,
			})
		}
	}
	shifted := Facts{"read:/mnt/file": {"100644 100000:100000 has text"}}
	return []Case{
		{Name: "newer domain name", Change: change(func(s *specs.Spec) { s.Domainname = "example.org" }), Newer: Facts{"process": {"domainname example.org"}}},
		{Name: "newer clock offsets", Change: both(ownNamespace(specs.TimeNamespace), change(func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1234}, "boottime": {Secs: 5678, Nanosecs: 9}}
		})), Newer: Facts{"timens": {"monotonic        1234         0", "boottime         5678         9"}, "ns": {"time own"}}},
		{Name: "newer mapped mount", Ask: []string{"read:/mnt/file"}, Change: idmapped("bind", "idmap"), Newer: shifted},
		{Name: "newer mapped mount read-only", Ask: []string{"read:/mnt/file", "write:/mnt"}, Change: idmapped("rbind", "ridmap", "ro"), Newer: shifted},
		{Name: "newer scheduler", Known: fallback, Change: process(func(p *specs.Process) {
			p.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}
		}), Newer: Facts{"process": {"scheduler 3", "nice 15"}}},
		{Name: "newer disk priority", Known: fallback, Change: process(func(p *specs.Process) {
			p.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 4}
		}), Newer: Facts{"process": {"ioprio 16388"}}},
		{Name: "newer personality", Known: fallback, Change: change(func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		}), Newer: Facts{"process": {"personality 8", "machine i686"}}},
		{Name: "newer seccomp flags", Change: change(func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog},
				Syscalls: []specs.LinuxSyscall{{Names: []string{"bpf"}, Action: specs.ActErrno}},
			}
		}), Newer: Facts{"status": {"Seccomp: 2"}}},
		{Name: "newer network device", Known: fallback, Change: change(func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"no-such-device": {Name: "eth0"}}
		}), Newer: Facts{"net": {"eth0"}}},
	}
}
