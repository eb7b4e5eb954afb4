package parity

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// processCases are about attributes of the process.
func processCases() []Case {
	capabilities := func(c *specs.LinuxCapabilities) func(*specs.Spec, *Place) {
		return process(func(p *specs.Process) { p.Capabilities = c })
	}
	few := []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_KILL"}
	calls := []string{"sys:chroot", "sys:mount", "sys:mknod-null", "sys:settime", "sys:unshare-uts"}
	return []Case{
		{Name: "default", Ask: []string{"read:/", "write:/", "write:/tmp", "write:/proc/sys/kernel/hostname", "sys:mknod-null", "sys:mknod-disk"}},
		{Name: "capabilities none", Ask: calls, Change: capabilities(&specs.LinuxCapabilities{})},
		{Name: "capabilities absent", Ask: calls, Change: capabilities(nil)},
		{Name: "capabilities few", Ask: calls, Change: capabilities(&specs.LinuxCapabilities{Bounding: few, Effective: few, Permitted: few})},
		{Name: "capabilities bounding only", Ask: calls, Change: capabilities(&specs.LinuxCapabilities{Bounding: few})},
		{Name: "capabilities permitted not effective", Change: capabilities(&specs.LinuxCapabilities{Bounding: few, Permitted: few})},
		{Name: "capabilities inheritable", Change: capabilities(&specs.LinuxCapabilities{Bounding: few, Permitted: few, Effective: few, Inheritable: few})},
		{Name: "capabilities ambient", Change: both(user(1000, 1000), capabilities(&specs.LinuxCapabilities{Bounding: few, Permitted: few, Effective: few, Inheritable: few, Ambient: few[:2]}))},
		{Name: "capabilities ambient not inheritable", Change: both(user(1000, 1000), capabilities(&specs.LinuxCapabilities{Bounding: few, Permitted: few, Effective: few, Ambient: few}))},
		{Name: "capabilities of a user", Change: both(user(1000, 1000), capabilities(&specs.LinuxCapabilities{Bounding: few, Permitted: few, Effective: few}))},
		{Name: "capabilities all", Ask: calls, Change: capabilities(all())},
		{Name: "capability unknown", Change: capabilities(&specs.LinuxCapabilities{Bounding: []string{"CAP_NO_SUCH", "CAP_KILL"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}})},
		{Name: "new privileges allowed", Ask: []string{"exec:/bin/suid"}, Change: process(func(p *specs.Process) { p.NoNewPrivileges = false })},
		{Name: "new privileges allowed to a user", Change: both(user(1000, 1000), process(func(p *specs.Process) { p.NoNewPrivileges = false; p.Args[0] = "/bin/suid" }))},
		{Name: "no new privileges of a user", Change: both(user(1000, 1000), process(func(p *specs.Process) { p.Args[0] = "/bin/suid" }))},
		{Name: "rlimits", Change: process(func(p *specs.Process) {
			p.Rlimits = []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200},
				{Type: "RLIMIT_CORE", Soft: 0, Hard: 0},
				{Type: "RLIMIT_STACK", Soft: 4 << 20, Hard: 8 << 20},
				{Type: "RLIMIT_NPROC", Soft: 500, Hard: 500},
				{Type: "RLIMIT_CPU", Soft: 100, Hard: 200},
			}
		})},
		{Name: "rlimits none", Change: process(func(p *specs.Process) { p.Rlimits = nil })},
		{Name: "rlimit unknown", Change: process(func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_FOO", Soft: 1, Hard: 1}} })},
		{Name: "rlimit soft above hard", Change: process(func(p *specs.Process) {
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 200, Hard: 100}}
		})},
		{Name: "rlimit twice", Change: process(func(p *specs.Process) {
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 64, Hard: 100}, {Type: "RLIMIT_NOFILE", Soft: 65, Hard: 101}}
		})},
		{Name: "oom score raised", Change: process(func(p *specs.Process) { p.OOMScoreAdj = ptr(500) })},
		{Name: "oom score lowered", Change: process(func(p *specs.Process) { p.OOMScoreAdj = ptr(-500) })},
		{Name: "oom score out of range", Change: process(func(p *specs.Process) { p.OOMScoreAdj = ptr(2000) })},
		{Name: "environment empty", Change: process(func(p *specs.Process) { p.Env = nil })},
		{Name: "environment without PATH", Change: process(func(p *specs.Process) { p.Env = []string{"A=b"}; p.Args[0] = "probe" })},
		{Name: "environment twice", Change: process(func(p *specs.Process) { p.Env = append(p.Env, "A=1", "A=2", "EMPTY=", "=odd", "NOEQUALS") })},
		{Name: "environment HOME", Change: process(func(p *specs.Process) { p.Env = append(p.Env, "HOME=/elsewhere") })},
		{Name: "environment HOME empty", Change: process(func(p *specs.Process) { p.Env = append(p.Env, "HOME=") })},
		{Name: "environment odd characters", Change: process(func(p *specs.Process) { p.Env = append(p.Env, "TAB=a\tb", "UTF=\u00e4\u20ac", "QUOTE=\"'\\") })},
		{Name: "terminal", Terminal: true, Stdin: "x\n", Change: process(func(p *specs.Process) {
			p.Terminal = true
			p.ConsoleSize = &specs.Box{Height: 40, Width: 120}
		})},
		{Name: "terminal of a user", Terminal: true, Stdin: "x\n", Change: both(user(1000, 1000), process(func(p *specs.Process) { p.Terminal = true }))},
		{Name: "terminal without dev pts", Terminal: true, Stdin: "x\n", Change: change(func(s *specs.Spec) {
			s.Process.Terminal = true
			s.Mounts = without(s.Mounts, "/dev/pts")
		})},
		{Name: "standard input", Ask: []string{"stdin"}, Stdin: "some text\nwithout end"},
		{Name: "standard error", Ask: []string{"stderr:some text"}},
		{Name: "exit code", Ask: []string{"exit:42"}},
		{Name: "exit code 255", Ask: []string{"exit:255"}},
		{Name: "signal to itself", Change: process(func(p *specs.Process) { p.Args = []string{"/bin/sh", "-c", "kill -9 $$; echo alive"} }), Raw: "stdout"},
		{Name: "signal in the host's pid namespace", Ask: []string{"signal:9"}, Change: change(func(s *specs.Spec) { dropNamespace(s, specs.PIDNamespace) })},
		{Name: "working directory", Change: process(func(p *specs.Process) { p.Cwd = "/desk" })},
		{Name: "working directory missing", Ask: []string{"read:/made"}, Change: process(func(p *specs.Process) { p.Cwd = "/made/deep" })},
		{Name: "working directory missing of a user", Change: both(user(1000, 1000), process(func(p *specs.Process) { p.Cwd = "/made/deep" }))},
		{Name: "working directory through a link", Change: process(func(p *specs.Process) { p.Cwd = "/cwd-link" })},
		{Name: "working directory dangling", Change: process(func(p *specs.Process) { p.Cwd = "/dangling" })},
		{Name: "working directory is a file", Change: process(func(p *specs.Process) { p.Cwd = "/real/file" })},
		{Name: "working directory relative", Change: process(func(p *specs.Process) { p.Cwd = "desk" })},
		{Name: "working directory empty", Change: process(func(p *specs.Process) { p.Cwd = "" })},
		{Name: "working directory unclean", Change: process(func(p *specs.Process) { p.Cwd = "/desk/../real/./" })},
		{Name: "working directory not allowed", Change: both(user(1000, 1000), process(func(p *specs.Process) { p.Cwd = "/private" }))},
		{Name: "working directory not allowed without capabilities", Change: both(user(1000, 1000), process(func(p *specs.Process) { p.Cwd = "/private"; p.Capabilities = &specs.LinuxCapabilities{} }))},
		{Name: "working directory on a mount", Change: both(bind("/mnt", "rbind"), process(func(p *specs.Process) { p.Cwd = "/mnt" }))},
		{Name: "apparmor profile", Change: process(func(p *specs.Process) { p.ApparmorProfile = "no-such-profile" })},
		{Name: "selinux label", Change: process(func(p *specs.Process) { p.SelinuxLabel = "system_u:system_r:container_t:s0" })},
		{Name: "host name", Change: change(func(s *specs.Spec) { s.Hostname = "a-name" })},
		{Name: "host name in the host's namespace", Change: change(func(s *specs.Spec) {
			s.Hostname = "must-not-appear"
			dropNamespace(s, specs.UTSNamespace)
		})},
		{Name: "host name too long", Change: change(func(s *specs.Spec) { s.Hostname = strings.Repeat("n", 65) })},
	}
}

func user(uid, gid uint32, more ...uint32) func(*specs.Spec, *Place) {
	return process(func(p *specs.Process) { p.User = specs.User{UID: uid, GID: gid, AdditionalGids: more} })
}

// all are the capabilities that this machine's root has; more can't be given.
func all() *specs.LinuxCapabilities {
	have := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
		"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
		"CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
		"CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	}
	return &specs.LinuxCapabilities{Bounding: have, Effective: have, Permitted: have, Inheritable: have}
}

func userCases() []Case {
	asks := []string{"read:/private/secret", "write:/tmp", "write:/desk", "read:/proc/1/environ"}
	return []Case{
		{Name: "user", Ask: asks, Change: user(1000, 1000)},
		{Name: "user with groups", Ask: asks, Change: user(1000, 1000, 2000, 3000, 1000)},
		{Name: "user with group 0", Ask: asks, Change: user(1000, 0)},
		{Name: "user unknown", Ask: asks, Change: user(4242, 4243)},
		{Name: "user root with groups", Change: user(0, 5, 1, 2)},
		{Name: "user the highest", Change: user(2147483647, 2147483647)},
		{Name: "user not valid", Change: user(4294967295, 0)},
		{Name: "user umask", Ask: []string{"write:/tmp"}, Change: process(func(p *specs.Process) { p.User.Umask = ptr(uint32(0o077)) })},
		{Name: "user umask 0", Ask: []string{"write:/tmp"}, Change: process(func(p *specs.Process) { p.User.Umask = ptr(uint32(0)) })},
		{Name: "user name", Change: process(func(p *specs.Process) { p.User.Username = "user" })},
		{Name: "user negative", JSON: set(-1.0, "process", "user", "uid")},
		{Name: "user too big", JSON: set(4294967296.0, "process", "user", "uid")},
		{Name: "user a text", JSON: set("1000", "process", "user", "uid")},
	}
}

// argumentCases are about what is executed.
func argumentCases() []Case {
	args := func(args ...string) func(*specs.Spec, *Place) {
		return process(func(p *specs.Process) { p.Args = args })
	}
	return []Case{
		{Name: "program found in PATH", Change: process(func(p *specs.Process) { p.Args = []string{"linked"} })},
		{Name: "program missing", Change: args("/no/such/program")},
		{Name: "program not in PATH", Change: args("no-such-program")},
		{Name: "program a directory", Change: args("/desk")},
		{Name: "program below a file", Change: args("/real/file/x")},
		{Name: "program not executable", Change: args("/bin/plain")},
		{Name: "program not executable in PATH", Change: args("plain")},
		{Name: "program a text", Change: args("/bin/text")},
		{Name: "program empty", Change: args("/bin/empty")},
		{Name: "program with a missing interpreter", Change: args("/bin/broken")},
		{Name: "program a script", Change: args("/bin/script", "a")},
		{Name: "program a loop of links", Change: args("/loop")},
		{Name: "program relative", Change: process(func(p *specs.Process) { p.Args = []string{"./probe"} })},
		{Name: "program relative to the working directory", Change: process(func(p *specs.Process) { p.Cwd = "/bin"; p.Args = []string{"../probe"} })},
		{Name: "program on a mount without exec", Change: both(func(s *specs.Spec, p *Place) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: p.Dir + "/../../", Options: []string{"rbind", "noexec"}})
		}, args("/mnt/probe"))},
		{Name: "program by a relative PATH", Change: process(func(p *specs.Process) { p.Env = []string{"PATH=bin:."}; p.Args = []string{"linked"} })},
		{Name: "arguments none", Change: args()},
		{Name: "arguments an empty text", Change: args("")},
		{Name: "arguments odd", Change: args("/probe", "", " ", "a b", "\u00e4", "new\nline")},
		{Name: "arguments long", Change: args("/probe", strings.Repeat("x", 100000))},
		{Name: "arguments too long", Change: args("/probe", strings.Repeat("x", 200000))},
		{Name: "process absent", Change: change(func(s *specs.Spec) { s.Process = nil })},
	}
}

// rawCases look without the probe, whose language has its own signal handlers.
func rawCases() []Case {
	cat := func(file string) func(*specs.Spec, *Place) {
		return process(func(p *specs.Process) { p.Args = []string{"/bin/busybox", "cat", file} })
	}
	return []Case{
		{Name: "raw status", Raw: "raw-status", Change: cat("/proc/self/status")},
		{Name: "raw limits", Raw: "raw-limits", Change: cat("/proc/self/limits")},
		{Name: "raw status with a terminal", Raw: "raw-status", Terminal: true, Stdin: "x\n", Change: both(cat("/proc/self/status"), process(func(p *specs.Process) { p.Terminal = true }))},
		{Name: "raw status of a second process", Raw: "raw-status", Stdin: "x", Ask: []string{"wait"}, Exec: func(p *specs.Process) { p.Args = []string{"/bin/busybox", "cat", "/proc/self/status"} }},
		{Name: "raw limits of a second process", Raw: "raw-limits", Stdin: "x", Ask: []string{"wait"}, Exec: func(p *specs.Process) { p.Args = []string{"/bin/busybox", "cat", "/proc/self/limits"} }},
		{Name: "raw mount points of process 1", Raw: "raw-text", Change: process(func(p *specs.Process) { p.Args = []string{"/bin/busybox", "ls", "/proc/1/fd"} })},
	}
}

// execCases run a second process beside a first that waits.
func execCases() []Case {
	with := func(name string, f func(*specs.Process)) Case {
		return Case{
			Name: "exec " + name, Stdin: "x",
			Change: process(func(p *specs.Process) { p.Args = []string{"/probe", "wait"} }),
			Exec:   f,
		}
	}
	return []Case{
		with("default", func(*specs.Process) {}),
		with("user", func(p *specs.Process) { p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{2000}} }),
		with("capabilities", func(p *specs.Process) { p.Capabilities = &specs.LinuxCapabilities{} }),
		with("capabilities absent", func(p *specs.Process) { p.Capabilities = nil }),
		with("new privileges", func(p *specs.Process) { p.NoNewPrivileges = false }),
		with("working directory", func(p *specs.Process) { p.Cwd = "/desk" }),
		with("working directory missing", func(p *specs.Process) { p.Cwd = "/made/by/exec" }),
		with("working directory a descriptor", func(p *specs.Process) { p.Cwd = "/proc/self/fd/7" }),
		with("environment", func(p *specs.Process) { p.Env = []string{"ONLY=this"} }),
		with("rlimits", func(p *specs.Process) {
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_FSIZE", Soft: 1 << 20, Hard: 1 << 30}}
		}),
		with("oom score", func(p *specs.Process) { p.OOMScoreAdj = ptr(700) }),
		with("program missing", func(p *specs.Process) { p.Args = []string{"no-such-program"} }),
		with("program not executable", func(p *specs.Process) { p.Args = []string{"/bin/plain"} }),
		with("program a directory", func(p *specs.Process) { p.Args = []string{"/desk"} }),
		with("exit code", func(p *specs.Process) { p.Args = append(p.Args, "exit:7") }),
		with("signal", func(p *specs.Process) { p.Args = append(p.Args, "signal:15") }),
		with("arguments none", func(p *specs.Process) { p.Args = nil }),
	}
}

func without(mounts []specs.Mount, destination string) []specs.Mount {
	var kept []specs.Mount
	for _, m := range mounts {
		if m.Destination != destination {
			kept = append(kept, m)
		}
	}
	return kept
}

func dropNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) {
	var kept []specs.LinuxNamespace
	for _, ns := range s.Linux.Namespaces {
		if ns.Type != kind {
			kept = append(kept, ns)
		}
	}
	s.Linux.Namespaces = kept
}

// set puts a value into the JSON of a specification.
func set(value any, path ...string) func(map[string]any) {
	return func(spec map[string]any) {
		for _, key := range path[:len(path)-1] {
			next, ok := spec[key].(map[string]any)
			if !ok {
				next = map[string]any{}
				spec[key] = next
			}
			spec = next
		}
		spec[path[len(path)-1]] = value
	}
}
