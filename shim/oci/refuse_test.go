package oci_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/peregrine-dev/peregrine/shim/oci"
)

// refused is what must go to the fall-back: the change to an ordinary spec, and the
// reason it is counted by.
var refused = []struct {
	name, reason string
	change       func(*specs.Spec)
}{
	{"no linux", "no linux section", func(s *specs.Spec) { s.Linux = nil }},
	{"no process", "no process", func(s *specs.Spec) { s.Process = nil }},
	{"no root", "no root", func(s *specs.Spec) { s.Root = nil }},
	{"empty root", "no root", func(s *specs.Spec) { s.Root.Path = "" }},
	{"solaris", "section of another system", func(s *specs.Spec) { s.Solaris = &specs.Solaris{} }},
	{"windows", "section of another system", func(s *specs.Spec) { s.Windows = &specs.Windows{} }},
	{"vm", "section of another system", func(s *specs.Spec) { s.VM = &specs.VM{} }},
	{"zos", "section of another system", func(s *specs.Spec) { s.ZOS = &specs.ZOS{} }},
	{"freebsd", "section of another system", func(s *specs.Spec) { s.FreeBSD = &specs.FreeBSD{} }},
	{"rdt", "intelRdt", func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} }},
	{"personality", "personality", func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{} }},
	{"mount label", "mountLabel", func(s *specs.Spec) { s.Linux.MountLabel = "l" }},
	{"uid map", "user namespace", func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }},
	{"gid map", "user namespace", func(s *specs.Spec) { s.Linux.GIDMappings = []specs.LinuxIDMapping{{Size: 1}} }},
	{"time offsets", "time namespace", func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {}} }},
	{"net devices", "netDevices", func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} }},
	{"memory policy", "memoryPolicy", func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} }},
	{"hook prestart", "hook prestart", func(s *specs.Spec) {
		// The field is deprecated, and in use.
		if err := json.Unmarshal([]byte(`{"prestart":[{"path":"/x"}]}`), &s.Hooks); err != nil {
			panic(err)
		}
	}},
	{"hook createContainer", "hook createContainer", func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{}}} }},
	{"hook startContainer", "hook startContainer", func(s *specs.Spec) { s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{}}} }},
	{"propagation", "rootfsPropagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "sideways" }},
	{"shared root", "rootfsPropagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "shared" }},
	{"unbindable root", "rootfsPropagation", func(s *specs.Spec) { s.Linux.RootfsPropagation = "runbindable" }},
	{"no procfs", "no procfs", func(s *specs.Spec) { s.Mounts = s.Mounts[1:] }},
	{"masked", "relative path to protect", func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"proc/kcore"} }},
	{"readonly", "relative path to protect", func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{""} }},

	{"namespace twice", "namespace twice", func(s *specs.Spec) { addNamespace(s, specs.PIDNamespace, "") }},
	{"relative namespace", "relative namespace path", func(s *specs.Spec) { setNamespace(s, specs.IPCNamespace, "proc/1/ns/ipc") }},
	{"user namespace", "user namespace", func(s *specs.Spec) { addNamespace(s, specs.UserNamespace, "") }},
	{"time namespace", "time namespace", func(s *specs.Spec) { addNamespace(s, specs.TimeNamespace, "") }},
	{"unknown namespace", "namespace of unknown type", func(s *specs.Spec) { addNamespace(s, "dream", "") }},
	{"mounts by path", "mount namespace by path", func(s *specs.Spec) { setNamespace(s, specs.MountNamespace, "/m") }},
	{"cgroups by path", "cgroup namespace by path", func(s *specs.Spec) { addNamespace(s, specs.CgroupNamespace, "/c") }},
	{"host mounts", "no mount namespace", func(s *specs.Spec) { dropNamespace(s, specs.MountNamespace) }},
	{"hostname", "hostname of the host", func(s *specs.Spec) { s.Hostname = "h"; dropNamespace(s, specs.UTSNamespace) }},
	{"domain name", "hostname of the host", func(s *specs.Spec) { s.Domainname = "d"; dropNamespace(s, specs.UTSNamespace) }},

	{"sysctl of the host", "sysctl of the host", sysctl("vm.swappiness", "")},
	{"sysctl hostname", "sysctl of the host", sysctl("kernel.hostname", "")},
	{"sysctl core pattern", "sysctl of the host", sysctl("kernel.core_pattern", "")},
	{"sysctl ipc", "sysctl of the host", sysctl("kernel.shmmax", specs.IPCNamespace)},
	{"sysctl mqueue", "sysctl of the host", sysctl("fs.mqueue.msg_max", specs.IPCNamespace)},
	{"sysctl uts", "sysctl of the host", sysctl("kernel.domainname", specs.UTSNamespace)},
	{"sysctl net", "sysctl of a joined network", sysctl("net.ipv4.ip_forward", specs.NetworkNamespace)},
	{"sysctl slash", "sysctl with a slash", sysctl("net/ipv4/ip_forward", "")},
	{"sysctl up", "sysctl with a slash", sysctl("net..ip_forward", "")},
	{"sysctl net by path", "sysctl of a joined network", func(s *specs.Spec) {
		s.Linux.Sysctl = map[string]string{"net.core.somaxconn": "1"}
		setNamespace(s, specs.NetworkNamespace, "/proc/1/ns/net")
	}},

	{"idmapped mount", "idmapped mount", mounted(specs.Mount{Destination: "/m", Type: "bind", UIDMappings: []specs.LinuxIDMapping{{}}})},
	{"idmapped groups", "idmapped mount", mounted(specs.Mount{Destination: "/m", Type: "bind", GIDMappings: []specs.LinuxIDMapping{{}}})},
	{"relative destination", "relative mount destination", mounted(specs.Mount{Destination: "m", Type: "tmpfs"})},
	{"mount at /", "mount over the root", mounted(specs.Mount{Destination: "/../", Type: "tmpfs"})},
	{"filesystem", "filesystem", mounted(specs.Mount{Destination: "/m", Type: "ext4", Source: "/dev/sda"})},
	{"overlay", "filesystem", mounted(specs.Mount{Destination: "/m", Type: "overlay", Source: "overlay"})},
	{"bind by type only", "filesystem", mounted(specs.Mount{Destination: "/m", Type: "bind", Source: "/s"})},
	{"no type", "filesystem", mounted(specs.Mount{Destination: "/m"})},
	{"read-only /dev", "read-only /dev", mounted(specs.Mount{Destination: "/dev/", Type: "devpts", Options: []string{"ro"}})},
	{"attribute of a tmpfs", "recursive attribute of a tmpfs", mounted(specs.Mount{Destination: "/m", Type: "tmpfs", Options: []string{"rro"}})},
	{"data of a bind", "option of a bind mount", mounted(specs.Mount{Destination: "/m", Type: "bind", Source: "/s", Options: []string{"rbind", "size=1k"}})},

	{"relative device", "relative device path", device(specs.LinuxDevice{Path: "dev/x", Type: "c"})},
	{"device type", "device type", device(specs.LinuxDevice{Path: "/dev/x", Type: "s"})},
	{"no device type", "device type", device(specs.LinuxDevice{Path: "/dev/x"})},
	{"device mode", "device mode", device(specs.LinuxDevice{Path: "/dev/x", Type: "c", FileMode: ptr(os.FileMode(0o60644))})},
	{"device number", "device number", device(specs.LinuxDevice{Path: "/dev/x", Type: "b", Major: -1})},
	{"device minor", "device number", device(specs.LinuxDevice{Path: "/dev/x", Type: "b", Minor: 1 << 20})},
	{"device major", "device number", device(specs.LinuxDevice{Path: "/dev/x", Type: "u", Major: 1 << 12})},

	{"no args", "no args", func(s *specs.Spec) { s.Process.Args = nil }},
	{"command line", "commandLine", func(s *specs.Spec) { s.Process.CommandLine = "dir" }},
	{"selinux", "selinuxLabel", func(s *specs.Spec) { s.Process.SelinuxLabel = "l" }},
	{"scheduler", "scheduler", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{} }},
	{"io priority", "ioPriority", func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{} }},
	{"affinity", "execCPUAffinity", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{} }},
	{"username", "username", func(s *specs.Spec) { s.Process.User.Username = "me" }},
	{"relative cwd", "relative cwd", func(s *specs.Spec) { s.Process.Cwd = "tmp" }},
	{"no cwd", "relative cwd", func(s *specs.Spec) { s.Process.Cwd = "" }},
	{"uid -1", "user id", func(s *specs.Spec) { s.Process.User.UID = ^uint32(0) }},
	{"gid -1", "user id", func(s *specs.Spec) { s.Process.User.GID = ^uint32(0) }},
	{"group -1", "user id", func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{0, ^uint32(0)} }},
	{"env without =", "environment", func(s *specs.Spec) { s.Process.Env = []string{"A"} }},
	{"env without name", "environment", func(s *specs.Spec) { s.Process.Env = []string{"=a"} }},
	{"env with zero", "environment", func(s *specs.Spec) { s.Process.Env = []string{"A=\x00"} }},
	{"rlimit", "rlimit", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_FUN"}} }},
	{"rlimit in small", "rlimit", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "rlimit_cpu"}} }},
	{"rlimit twice", "rlimit twice", func(s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU"}, {Type: "RLIMIT_CPU"}}
	}},
	{"capability", "capability", func(s *specs.Spec) { s.Process.Capabilities.Ambient = []string{"CAP_FLY"} }},
	{"capability in small", "capability", func(s *specs.Spec) { s.Process.Capabilities.Effective = []string{"cap_chown"} }},
	{"seccomp action", "seccomp", func(s *specs.Spec) { s.Linux.Seccomp.DefaultAction = "SCMP_ACT_PRAY" }},
	{"seccomp listener", "seccomp", func(s *specs.Spec) { s.Linux.Seccomp.ListenerPath = "/l" }},
	{"seccomp flag", "seccomp", func(s *specs.Spec) { s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{"F"} }},
}

func addNamespace(s *specs.Spec, kind specs.LinuxNamespaceType, path string) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
}

func dropNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) {
	var rest []specs.LinuxNamespace
	for _, ns := range s.Linux.Namespaces {
		if ns.Type != kind {
			rest = append(rest, ns)
		}
	}
	s.Linux.Namespaces = rest
}

func setNamespace(s *specs.Spec, kind specs.LinuxNamespaceType, path string) {
	dropNamespace(s, kind)
	addNamespace(s, kind, path)
}

// sysctl sets one, in a container that shares a namespace with the host.
func sysctl(key string, shared specs.LinuxNamespaceType) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Sysctl = map[string]string{key: "1"}
		dropNamespace(s, shared)
	}
}

func mounted(m specs.Mount) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) }
}

func device(d specs.LinuxDevice) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Devices = append(s.Linux.Devices, d) }
}

func TestRefused(t *testing.T) {
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) { mustRefuse(t, usual(t, c.change), c.reason) })
	}
	for _, name := range []string{
		"remount", "idmap", "ridmap", "tmpcopyup", "copy-symlink", "dest-nofollow", "src-nofollow", "symfollow", "nosymfollow",
	} {
		for _, m := range []specs.Mount{
			{Destination: "/m", Type: "tmpfs", Options: []string{name}},
			{Destination: "/m", Type: "bind", Source: "/s", Options: []string{"bind", name}},
		} {
			t.Run("option "+name+" of "+m.Type, func(t *testing.T) {
				mustRefuse(t, usual(t, mounted(m)), "mount option "+name)
			})
		}
	}
}

func mustRefuse(t *testing.T, s *specs.Spec, reason string) {
	t.Helper()
	_, err := oci.Compile("refused", s)
	var u oci.Unsupported
	if !errors.As(err, &u) || u.Reason != reason {
		t.Fatalf("got %v, want reason %q", err, reason)
	}
	if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), reason) {
		t.Errorf("%v", err)
	}
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name, text string
		ok         bool
	}{
		{"smallest", `{}`, true},
		{"space after", "{} \n", true},
		{"nothing", ``, false},
		{"half", `{"process":`, false},
		{"two", `{}{}`, false},
		{"rest", `{} x`, false},
		{"unknown field", `{"proces":{}}`, false},
		{"unknown field below", `{"linux":{"namespaces":[{"type":"pid","pid":1}]}}`, false},
		{"wrong type", `{"process":[]}`, false},
		{"negative id", `{"process":{"user":{"uid":-1}}}`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := oci.Decode([]byte(c.text)); (err == nil) != c.ok || err != nil && !errdefs.IsNotImplemented(err) {
				t.Error(err)
			}
		})
	}
	for text, ok := range map[string]bool{`{"cwd":"/"}`: true, `{`: false, `{"x":1}`: false, `{}{}`: false} {
		if _, err := oci.DecodeProcess([]byte(text)); (err == nil) != ok || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
