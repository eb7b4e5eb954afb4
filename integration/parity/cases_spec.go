package parity

import (
	"os"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// kmsgMode is a mode that no default has.
const kmsgMode = os.FileMode(0o640)

func seccompCases() []Case {
	var calls []string
	for _, name := range []string{
		"unshare-user", "unshare-none", "clone3", "keyctl", "add_key", "bpf", "mount", "umount2", "pivot_root", "ptrace", "personality-0",
		"personality-8", "personality-1", "socket-vsock", "socket-inet", "reboot", "kexec_load", "io_uring", "userfaultfd", "chroot", "setns",
		"unknown", "syslog", "settime",
	} {
		calls = append(calls, "sys:"+name)
	}
	filter := func(s *specs.LinuxSeccomp) func(*specs.Spec, *Place) {
		return change(func(spec *specs.Spec) { spec.Linux.Seccomp = s })
	}
	rules := func(action specs.LinuxSeccompAction, rules ...specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: action, Architectures: []specs.Arch{specs.ArchX86_64}, Syscalls: rules}
	}
	deny := func(action specs.LinuxSeccompAction, names ...string) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: action}
	}
	argument := func(op specs.LinuxSeccompOperator, value, two uint64) specs.LinuxSyscall {
		return specs.LinuxSyscall{
			Names: []string{"getpgid"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(99)),
			Args: []specs.LinuxSeccompArg{{Index: 0, Value: value, ValueTwo: two, Op: op}},
		}
	}
	arguments := []string{"sys:getpgid-1", "sys:getpgid-2", "sys:getpgid-big"}
	allow := specs.ActAllow
	return []Case{
		{Name: "seccomp default", Ask: calls, Change: change(func(s *specs.Spec) { s.Linux.Seccomp = seccomp.DefaultProfile(s) })},
		{Name: "seccomp default with capabilities", Ask: calls, Change: change(func(s *specs.Spec) {
			s.Process.Capabilities = all()
			s.Linux.Seccomp = seccomp.DefaultProfile(s)
		})},
		{Name: "seccomp default of a user with new privileges", Ask: calls, Change: both(user(1000, 1000), change(func(s *specs.Spec) {
			s.Process.NoNewPrivileges = false
			s.Linux.Seccomp = seccomp.DefaultProfile(s)
		}))},
		{Name: "seccomp errno", Ask: []string{"sys:bpf", "sys:getppid"}, Change: filter(rules(allow, deny(specs.ActErrno, "bpf")))},
		{Name: "seccomp errno of its own", Ask: []string{"sys:bpf"}, Change: filter(rules(allow, specs.LinuxSyscall{Names: []string{"bpf"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(38))}))},
		{Name: "seccomp kill", Ask: []string{"sys:bpf"}, Change: filter(rules(allow, deny(specs.ActKill, "bpf")))},
		{Name: "seccomp kill process", Ask: []string{"sys:bpf"}, Change: filter(rules(allow, deny(specs.ActKillProcess, "bpf")))},
		{Name: "seccomp trap", Ask: []string{"sys:bpf"}, Change: filter(rules(allow, deny(specs.ActTrap, "bpf")))},
		{Name: "seccomp trace", Ask: []string{"sys:bpf"}, Change: filter(rules(allow, deny(specs.ActTrace, "bpf")))},
		{Name: "seccomp log", Ask: []string{"sys:bpf"}, Change: filter(rules(allow, deny(specs.ActLog, "bpf")))},
		{Name: "seccomp equal", Ask: arguments, Change: filter(rules(allow, argument(specs.OpEqualTo, 1, 0)))},
		{Name: "seccomp not equal", Ask: arguments, Change: filter(rules(allow, argument(specs.OpNotEqual, 1, 0)))},
		{Name: "seccomp less", Ask: arguments, Change: filter(rules(allow, argument(specs.OpLessThan, 2, 0)))},
		{Name: "seccomp less or equal", Ask: arguments, Change: filter(rules(allow, argument(specs.OpLessEqual, 2, 0)))},
		{Name: "seccomp greater", Ask: arguments, Change: filter(rules(allow, argument(specs.OpGreaterThan, 1, 0)))},
		{Name: "seccomp greater or equal", Ask: arguments, Change: filter(rules(allow, argument(specs.OpGreaterEqual, 1<<33, 0)))},
		{Name: "seccomp masked", Ask: arguments, Change: filter(rules(allow, argument(specs.OpMaskedEqual, 1<<33, 1<<33)))},
		{Name: "seccomp unknown call", Ask: []string{"sys:bpf"}, Change: filter(rules(allow, deny(specs.ActErrno, "no_such_call", "bpf")))},
		{Name: "seccomp unknown action", Change: filter(rules(allow, deny("SCMP_ACT_SHRUG", "bpf")))},
		{Name: "seccomp default errno", Known: map[string]string{"outcome": "no program runs; which call fails first depends on the runtime", "delete": "as its outcome"}, Change: filter(rules(specs.ActErrno))},
		{Name: "seccomp empty", Change: filter(&specs.LinuxSeccomp{DefaultAction: allow})},
		{Name: "seccomp listener", Change: filter(&specs.LinuxSeccomp{DefaultAction: allow, ListenerPath: "/no/such/socket", Syscalls: []specs.LinuxSyscall{deny(specs.ActNotify, "bpf")}})},
	}
}

func hookCases() []Case {
	// hook writes into the place; in the container that is mounted at /out.
	hook := func(p *Place, kind string, args ...string) specs.Hook {
		path, file := p.Probe, p.Dir+"/out/hooks"
		if kind == "startContainer" {
			path, file = "/probe", "/out/hooks"
		}
		return specs.Hook{Path: path, Args: append([]string{"probe", "hook", file, kind}, args...), Env: []string{"KIND=" + kind}}
	}
	out := func(s *specs.Spec, p *Place) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/out", Type: "bind", Source: p.Dir + "/out", Options: []string{"bind"}})
	}
	with := func(kind string, hooks ...specs.Hook) func(*specs.Spec, *Place) {
		return func(s *specs.Spec, _ *Place) {
			if s.Hooks == nil {
				s.Hooks = &specs.Hooks{}
			}
			//lint:ignore SA1019 Docker's network plugins still use it.
			prestart := &s.Hooks.Prestart
			list := map[string]*[]specs.Hook{
				"prestart": prestart, "createRuntime": &s.Hooks.CreateRuntime, "createContainer": &s.Hooks.CreateContainer,
				"startContainer": &s.Hooks.StartContainer, "poststart": &s.Hooks.Poststart, "poststop": &s.Hooks.Poststop,
			}[kind]
			*list = append(*list, hooks...)
		}
	}
	kinds := []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}
	one := func(kind string, args ...string) func(*specs.Spec, *Place) {
		return func(s *specs.Spec, p *Place) { with(kind, hook(p, kind, args...))(s, p) }
	}
	// The specification wants them after the start of the process.
	early := map[string]string{"*": "runc 1.1 runs poststart hooks before the process"}
	cases := []Case{
		{Name: "hooks of every kind", Known: map[string]string{"hook poststart first": early["*"], "hook poststart second": early["*"]}, Change: func(s *specs.Spec, p *Place) {
			out(s, p)
			s.Annotations = map[string]string{"key": "value", "other": ""}
			for _, kind := range kinds {
				one(kind, "first")(s, p)
				one(kind, "second")(s, p)
			}
		}},
		{Name: "hooks with a process that waits", Known: map[string]string{"hook poststart": early["*"]}, Stdin: "x", Ask: []string{"wait"}, Change: both(out, one("poststart"), one("poststop"))},
		{Name: "hooks and a program that is missing", Change: both(out, one("createRuntime"), one("startContainer"), one("poststart"), one("poststop"), process(func(p *specs.Process) { p.Args = []string{"/no/such/program"} }))},
	}
	for _, kind := range kinds {
		var known map[string]string
		if kind == "poststart" {
			known = early
		}
		cases = append(
			cases,
			Case{Name: "hook fails " + kind, Known: known, Change: both(out, one(kind, "exit:3"), one(kind, "after"), one("poststop", "end"))},
			Case{Name: "hook missing " + kind, Known: known, Change: both(out, with(kind, specs.Hook{Path: "/no/such/hook"}))},
			Case{Name: "hook slow " + kind, Known: known, Change: both(out, func(s *specs.Spec, p *Place) {
				h := hook(p, kind, "hang")
				h.Timeout = ptr(1)
				with(kind, h)(s, p)
			})},
		)
	}
	return append(
		cases,
		Case{Name: "hook relative path", Change: both(out, with("createRuntime", specs.Hook{Path: "probe"}))},
		Case{Name: "hook without arguments", Change: both(out, func(s *specs.Spec, p *Place) { with("createRuntime", specs.Hook{Path: p.Probe})(s, p) })},
	)
}

// specCases are about the specification itself.
func specCases() []Case {
	return []Case{
		{Name: "specification version old", Change: change(func(s *specs.Spec) { s.Version = "1.0.0" })},
		{Name: "specification version newer", Change: change(func(s *specs.Spec) { s.Version = "1.9.9" })},
		{Name: "specification version odd", Change: change(func(s *specs.Spec) { s.Version = "strange" })},
		{Name: "specification version empty", Change: change(func(s *specs.Spec) { s.Version = "" })},
		{Name: "specification version 2", Change: change(func(s *specs.Spec) { s.Version = "2.0.0" })},
		{Name: "specification unknown field", JSON: set("x", "noSuchField")},
		{Name: "specification unknown field of linux", JSON: set(map[string]any{"a": 1.0}, "linux", "noSuchField")},
		{Name: "specification unknown field of the process", JSON: set(true, "process", "noSuchField")},
		{Name: "specification null fields", JSON: set(nil, "hooks")},
		{Name: "specification case of keys", JSON: set("upper", "HOSTNAME")},
		{Name: "specification wrong type", JSON: set("text", "mounts")},
		{Name: "specification annotations", Change: change(func(s *specs.Spec) { s.Annotations = map[string]string{"a": "b", "org.example": "\u00e4\n"} })},
		{Name: "specification linux absent", Change: change(func(s *specs.Spec) { s.Linux = nil })},
		{Name: "specification root absent", Change: change(func(s *specs.Spec) { s.Root = nil })},
	}
}
