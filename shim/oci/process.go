package oci

import (
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/plan"
	"github.com/peregrine-dev/peregrine/shim/seccomp"
)

// Process compiles a process with the filter of its container.
func Process(p *specs.Process, filter *specs.LinuxSeccomp) (plan.Process, error) {
	var none plan.Process
	switch {
	case len(p.Args) == 0:
		return none, unsupported("no args")
	case p.CommandLine != "":
		return none, unsupported("commandLine")
	case p.SelinuxLabel != "":
		return none, unsupported("selinuxLabel")
	case p.Scheduler != nil:
		return none, unsupported("scheduler")
	case p.IOPriority != nil:
		return none, unsupported("ioPriority")
	case p.ExecCPUAffinity != nil:
		return none, unsupported("execCPUAffinity")
	case p.User.Username != "":
		return none, unsupported("username")
	case !strings.HasPrefix(p.Cwd, "/"):
		return none, unsupported("relative cwd")
	}
	const noID = ^uint32(0)
	if p.User.UID == noID || p.User.GID == noID || slices.Contains(p.User.AdditionalGids, noID) {
		return none, unsupported("user id")
	}
	env, err := environment(p.Env)
	if err != nil {
		return none, err
	}
	limits, err := rlimits(p.Rlimits)
	if err != nil {
		return none, err
	}
	caps, err := capabilities(p.Capabilities)
	if err != nil {
		return none, err
	}
	// Who has it in a container could look into a process on its way into it, which has
	// the host's root still.
	if (caps.Bounding|caps.Permitted|caps.Effective|caps.Inheritable|caps.Ambient)&capabilityBits["CAP_SYS_PTRACE"] != 0 {
		return none, unsupported("CAP_SYS_PTRACE")
	}
	out := plan.Process{
		Args: p.Args, Env: env, Cwd: p.Cwd,
		Stdio:    [3]int{plan.None, plan.None, plan.None},
		Terminal: p.Terminal,
		UID:      p.User.UID, GID: p.User.GID, Groups: p.User.AdditionalGids,
		Umask:   0o022,
		Rlimits: limits, Capabilities: caps, OOMScoreAdj: p.OOMScoreAdj,
		NoNewPrivileges: p.NoNewPrivileges, AppArmor: p.ApparmorProfile,
	}
	if u := p.User.Umask; u != nil {
		out.Umask = *u & 0o777
	}
	if s := p.ConsoleSize; s != nil && p.Terminal {
		out.Width, out.Height = uint16(s.Width), uint16(s.Height)
	}
	if filter != nil {
		program, err := seccomp.Compile(filter)
		if err != nil {
			return none, unsupported("seccomp")
		}
		out.Seccomp, out.SeccompFlags = program.Filter, program.Flags
	}
	return out, nil
}

// environment drops what a later entry of the same name overrides.
func environment(list []string) ([]string, error) {
	at := make(map[string]int, len(list))
	out := make([]string, 0, len(list))
	for _, kv := range list {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || name == "" || strings.ContainsRune(kv, 0) {
			return nil, unsupported("environment")
		}
		if i, twice := at[name]; twice {
			out[i] = kv
			continue
		}
		at[name] = len(out)
		out = append(out, kv)
	}
	return out, nil
}

var limitTypes = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

func rlimits(list []specs.POSIXRlimit) ([]plan.Rlimit, error) {
	var out []plan.Rlimit
	for _, l := range list {
		t, ok := limitTypes[l.Type]
		if !ok {
			return nil, unsupported("rlimit")
		}
		if slices.ContainsFunc(out, func(r plan.Rlimit) bool { return r.Type == t }) {
			return nil, unsupported("rlimit twice")
		}
		out = append(out, plan.Rlimit{Type: t, Soft: l.Soft, Hard: l.Hard})
	}
	return out, nil
}

func capabilities(c *specs.LinuxCapabilities) (plan.Capabilities, error) {
	var out plan.Capabilities
	if c == nil {
		return out, nil
	}
	for _, set := range []struct {
		names []string
		bits  *uint64
	}{
		{c.Bounding, &out.Bounding},
		{c.Effective, &out.Effective},
		{c.Permitted, &out.Permitted},
		{c.Inheritable, &out.Inheritable},
		{c.Ambient, &out.Ambient},
	} {
		for _, name := range set.names {
			bit, ok := capabilityBits[name]
			if !ok {
				return out, unsupported("capability")
			}
			*set.bits |= bit
		}
	}
	return out, nil
}

var capabilityBits = func() map[string]uint64 {
	bits := map[string]uint64{}
	for _, c := range capability.ListKnown() {
		bits["CAP_"+strings.ToUpper(c.String())] = 1 << c
	}
	return bits
}()
