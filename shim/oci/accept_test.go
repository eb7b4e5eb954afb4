package oci_test

import (
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/oci"
	"github.com/peregrine-dev/peregrine/shim/plan"
)

func compile(tb testing.TB, change func(*specs.Spec)) *oci.Container {
	tb.Helper()
	c, err := oci.Compile("id", usual(tb, change))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// last is the last mount of a container.
func last(c *oci.Container) plan.Mount { return c.Plan.Mounts[len(c.Plan.Mounts)-1] }

// TestFlags has every option of mount(8) that is a flag, on a filesystem and, where it
// is an attribute of the mount, on a bind.
func TestFlags(t *testing.T) {
	for _, c := range []struct {
		options []string
		flags   uintptr
		data    string
		set     uint64 // of a bind
		clear   uint64
	}{
		{[]string{"defaults"}, 0, "", 0, 0},
		{[]string{"ro", "rw", "ro"}, unix.MS_RDONLY, "", unix.MOUNT_ATTR_RDONLY, 0},
		{[]string{"ro", "rw"}, 0, "", 0, 0},
		{[]string{"nosuid"}, unix.MS_NOSUID, "", unix.MOUNT_ATTR_NOSUID, 0},
		{[]string{"nosuid", "suid"}, 0, "", 0, 0},
		{[]string{"nodev"}, unix.MS_NODEV, "", unix.MOUNT_ATTR_NODEV, 0},
		{[]string{"nodev", "dev"}, 0, "", 0, 0},
		{[]string{"noexec"}, unix.MS_NOEXEC, "", unix.MOUNT_ATTR_NOEXEC, 0},
		{[]string{"noexec", "exec"}, 0, "", 0, 0},
		{[]string{"nodiratime"}, unix.MS_NODIRATIME, "", unix.MOUNT_ATTR_NODIRATIME, 0},
		{[]string{"nodiratime", "diratime"}, 0, "", 0, 0},
		{[]string{"noatime"}, unix.MS_NOATIME, "", unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME},
		{[]string{"noatime", "atime"}, 0, "", 0, 0},
		{[]string{"relatime"}, unix.MS_RELATIME, "", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
		{[]string{"relatime", "norelatime"}, 0, "", 0, 0},
		{[]string{"strictatime"}, unix.MS_STRICTATIME, "", unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME},
		{[]string{"strictatime", "nostrictatime"}, 0, "", 0, 0},
		{[]string{"sync"}, unix.MS_SYNCHRONOUS, "", 0, 0},
		{[]string{"sync", "async"}, 0, "", 0, 0},
		{[]string{"dirsync"}, unix.MS_DIRSYNC, "", 0, 0},
		{[]string{"iversion"}, unix.MS_I_VERSION, "", 0, 0},
		{[]string{"iversion", "noiversion"}, 0, "", 0, 0},
		{[]string{"lazytime"}, unix.MS_LAZYTIME, "", 0, 0},
		{[]string{"lazytime", "nolazytime"}, 0, "", 0, 0},
		{[]string{"silent"}, unix.MS_SILENT, "", 0, 0},
		{[]string{"silent", "loud"}, 0, "", 0, 0},
		{[]string{"mand"}, unix.MS_MANDLOCK, "", 0, 0},
		{[]string{"mand", "nomand"}, 0, "", 0, 0},
		{[]string{"mode=700", "nosuid", "size=1k"}, unix.MS_NOSUID, "mode=700,size=1k", unix.MOUNT_ATTR_NOSUID, 0},
	} {
		got := last(compile(t, mounted(specs.Mount{Destination: "/m", Type: "sysfs", Source: "s", Options: c.options})))
		want := plan.Mount{Destination: "/m", FD: plan.None, Type: "sysfs", Source: "s", Flags: c.flags, Data: c.data}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%v: got %+v, want %+v", c.options, got, want)
		}
		if c.data != "" {
			continue
		}
		for _, kind := range []string{"bind", "rbind"} {
			of := compile(t, mounted(specs.Mount{Destination: "/m", Type: "x", Source: "s", Options: append([]string{kind}, c.options...)}))
			want := oci.Bind{Mount: len(of.Plan.Mounts) - 1, Source: "s", Recursive: kind == "rbind", Set: c.set, Clear: c.clear}
			if len(of.Binds) != 1 || of.Binds[0] != want {
				t.Errorf("%s %v: got %+v, want %+v", kind, c.options, of.Binds, want)
			}
			if m := last(of); m.Type != "bind" || m.Flags != 0 || m.Data != "" {
				t.Errorf("%s %v: %+v", kind, c.options, m)
			}
		}
	}
}

func TestAttributes(t *testing.T) {
	for _, c := range []struct {
		options    []string
		set, clear uint64
	}{
		{[]string{"rro"}, unix.MOUNT_ATTR_RDONLY, 0},
		{[]string{"rro", "rrw"}, 0, unix.MOUNT_ATTR_RDONLY},
		{[]string{"rrw", "rro"}, unix.MOUNT_ATTR_RDONLY, 0},
		{[]string{"rnosuid", "rnodev", "rnoexec"}, unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC, 0},
		{[]string{"rsuid", "rdev", "rexec"}, 0, unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC},
		{[]string{"rnodiratime"}, unix.MOUNT_ATTR_NODIRATIME, 0},
		{[]string{"rdiratime"}, 0, unix.MOUNT_ATTR_NODIRATIME},
		{[]string{"rnoatime"}, unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME},
		{[]string{"rstrictatime"}, unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME},
		{[]string{"rrelatime"}, unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
		{[]string{"rnorelatime"}, 0, unix.MOUNT_ATTR__ATIME},
		{[]string{"rnostrictatime"}, 0, unix.MOUNT_ATTR__ATIME},
		{[]string{"rnosymfollow"}, unix.MOUNT_ATTR_NOSYMFOLLOW, 0},
		{[]string{"rsymfollow"}, 0, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		got := compile(t, mounted(specs.Mount{Destination: "/m", Source: "/s", Options: append(c.options, "rbind", "ro")})).Binds[0]
		if got.SetAll != c.set || got.ClearAll != c.clear || got.Set != unix.MOUNT_ATTR_RDONLY {
			t.Errorf("%v: %+v", c.options, got)
		}
	}
}

// TestNoOptionIsDropped takes options that nobody knows, and that look like ones that
// are known: they reach the filesystem, which knows or refuses them, or are refused here.
func TestNoOptionIsDropped(t *testing.T) {
	for _, o := range []string{"x", "RO", "ro ", "rro=1", "nosuid=0", "bind,ro", "userxattr", "context=c", "size=1k", "exec,"} {
		m := last(compile(t, mounted(specs.Mount{Destination: "/m", Type: "tmpfs", Options: []string{"nosuid", o}})))
		if m.Data != o || m.Flags != unix.MS_NOSUID {
			t.Errorf("%q became %+v", o, m)
		}
		mustRefuse(t, usual(t, mounted(specs.Mount{Destination: "/m", Source: "/s", Options: []string{"bind", o}})), "option of a bind mount")
	}
}

func TestPropagation(t *testing.T) {
	for name, flag := range map[string]uintptr{
		"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
		"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
		"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
		"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
	} {
		c := compile(t, func(s *specs.Spec) {
			if strings.HasSuffix(name, "private") || strings.HasSuffix(name, "slave") {
				s.Linux.RootfsPropagation = name
			}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/m", Source: "/s", Options: []string{"bind", name, "shared"}})
		})
		root := flag
		if flag&(unix.MS_PRIVATE|unix.MS_SLAVE) == 0 {
			root = 0
		}
		if c.Plan.RootPropagation != root || !slices.Equal(last(c).Propagation, []uintptr{flag, unix.MS_SHARED}) {
			t.Errorf("%s: %+v", name, c.Plan)
		}
	}
	if c := compile(t, nil); c.Plan.RootPropagation != 0 {
		t.Error(c.Plan.RootPropagation)
	}
}

func TestMounts(t *testing.T) {
	c := compile(t, func(s *specs.Spec) {
		s.Mounts = []specs.Mount{
			{Destination: "/ro", Type: "tmpfs", Options: []string{"ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Options: []string{"ro"}},
			{Destination: "/c2", Type: "cgroup2"},
			{Destination: "/dev/", Source: "/dev", Options: []string{"rbind"}},
			{Destination: "/proc", Type: "proc"},
		}
	})
	if m := c.Plan.Mounts[0]; !m.ReadonlyAfter || m.Flags != 0 {
		t.Errorf("%+v", m)
	}
	if !slices.Equal(c.CgroupMounts, []int{1, 2}) || c.Plan.SetupDev || c.Binds[0].Mount != 3 {
		t.Errorf("%+v", c)
	}
}

func TestNamespaces(t *testing.T) {
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWPID
	for _, c := range []struct {
		name   string
		change func(*specs.Spec)
		made   uintptr
		join   []oci.Namespace
	}{
		{"own", nil, all, nil},
		{"host network", func(s *specs.Spec) { dropNamespace(s, specs.NetworkNamespace) }, all &^ unix.CLONE_NEWNET, []oci.Namespace{{Type: unix.CLONE_NEWNET}}},
		{"host pids", func(s *specs.Spec) { dropNamespace(s, specs.PIDNamespace) }, all &^ unix.CLONE_NEWPID, []oci.Namespace{{Type: unix.CLONE_NEWPID}}},
		{
			"a pod's",
			func(s *specs.Spec) {
				s.Hostname = "pod"
				for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.NetworkNamespace, specs.UTSNamespace} {
					setNamespace(s, kind, "/ns/"+string(kind))
				}
			},
			unix.CLONE_NEWNS,
			[]oci.Namespace{{unix.CLONE_NEWIPC, "/ns/ipc"}, {unix.CLONE_NEWUTS, "/ns/uts"}, {unix.CLONE_NEWNET, "/ns/network"}, {unix.CLONE_NEWPID, "/ns/pid"}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := compile(t, c.change)
			if got.New != c.made || !slices.Equal(got.Join, c.join) {
				t.Errorf("%#x %+v", got.New, got.Join)
			}
		})
	}
	if c := compile(t, func(s *specs.Spec) { addNamespace(s, specs.CgroupNamespace, "") }); !c.Plan.CgroupNamespace {
		t.Error("no cgroup namespace")
	}
}

func TestSysctl(t *testing.T) {
	for _, key := range []string{
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
		"kernel.shm_rmid_forced", "fs.mqueue.msg_max", "kernel.domainname", "net.ipv4.ip_unprivileged_port_start",
	} {
		if c := compile(t, sysctl(key, "")); c.Plan.Sysctl[key] != "1" {
			t.Errorf("%s: %v", key, c.Plan.Sysctl)
		}
	}
	compile(t, func(s *specs.Spec) { // of a joined one that isn't the host's
		s.Linux.Sysctl = map[string]string{"kernel.shmmax": "1"}
		setNamespace(s, specs.IPCNamespace, "/proc/2/ns/ipc")
	})
}

func TestDevices(t *testing.T) {
	mine := []specs.LinuxDevice{
		{Path: "/dev/a", Type: "c", Major: 10, Minor: 200, FileMode: ptr(os.FileMode(0o600)), UID: ptr(uint32(5)), GID: ptr(uint32(6))},
		{Path: "/dev/b", Type: "b", Major: 8},
		{Path: "/dev/p", Type: "p"},
		{Path: "/dev/u", Type: "u", Major: 0xfff, Minor: 0xfffff},
		{Path: "/dev//null", Type: "c", Major: 1, Minor: 3, FileMode: ptr(os.FileMode(0o200))},
	}
	got := compile(t, func(s *specs.Spec) { s.Linux.Devices = mine }).Plan.Devices
	want := []plan.Device{
		{Path: "/dev/a", Mode: unix.S_IFCHR | 0o600, Rdev: unix.Mkdev(10, 200), UID: 5, GID: 6},
		{Path: "/dev/b", Mode: unix.S_IFBLK | 0o666, Rdev: unix.Mkdev(8, 0)},
		{Path: "/dev/p", Mode: unix.S_IFIFO | 0o666},
		{Path: "/dev/u", Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(0xfff, 0xfffff)},
		{Path: "/dev/null", Mode: unix.S_IFCHR | 0o200, Rdev: unix.Mkdev(1, 3)},
	}
	if !slices.Equal(got[:len(want)], want) {
		t.Errorf("%+v", got)
	}
	var rest []string
	for _, d := range got[len(want):] {
		rest = append(rest, path.Base(d.Path))
	}
	if !slices.Equal(rest, []string{"random", "full", "tty", "zero", "urandom"}) {
		t.Errorf("%v", rest)
	}
}

func TestProcess(t *testing.T) {
	p := compile(t, func(s *specs.Spec) {
		p := s.Process
		p.Env = []string{"A=1", "B=2", "A=3", "C=", "B=x=y"}
		p.User = specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9}, Umask: ptr(uint32(0o1077))}
		p.Terminal, p.ConsoleSize = true, &specs.Box{Width: 80, Height: 25}
		p.OOMScoreAdj = ptr(-5)
		p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 2}, {Type: "RLIMIT_RTTIME", Soft: 3, Hard: 4}}
		p.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"}, Ambient: []string{"CAP_SYS_ADMIN"}}
		p.ApparmorProfile = "confined"
		s.Linux.Seccomp = nil
	}).Plan.Process
	want := plan.Process{
		Args: []string{"sh"}, Env: []string{"A=3", "B=x=y", "C="}, Cwd: "/",
		Stdio: [3]int{plan.None, plan.None, plan.None}, Terminal: true, Width: 80, Height: 25,
		UID: 7, GID: 8, Groups: []uint32{9}, Umask: 0o077, OOMScoreAdj: ptr(-5), NoNewPrivileges: true, AppArmor: "confined",
		Rlimits:      []plan.Rlimit{{Type: unix.RLIMIT_CORE, Soft: 1, Hard: 2}, {Type: unix.RLIMIT_RTTIME, Soft: 3, Hard: 4}},
		Capabilities: plan.Capabilities{Bounding: 1<<unix.CAP_CHOWN | 1<<unix.CAP_CHECKPOINT_RESTORE, Ambient: 1 << unix.CAP_SYS_ADMIN},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
	// Without a section there are none.
	if p := compile(t, func(s *specs.Spec) { s.Process.Capabilities = nil }).Plan.Process; p.Capabilities != (plan.Capabilities{}) {
		t.Errorf("%+v", p.Capabilities)
	}
}
