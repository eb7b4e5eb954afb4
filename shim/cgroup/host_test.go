package cgroup

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const (
	hybridInfo = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 /docker/abc /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:32 / /run/elsewhere/memory rw,relatime - cgroup cgroup rw,memory
`
	hybridOwn   = "4:memory:/proc/x\n3:devices:/docker/abc/y\n2:cpu,cpuacct:/\n1:name=systemd:/user.slice\n0::/user.slice/s.scope\n"
	unifiedInfo = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
	unifiedOwn  = "0::/system.slice/containerd.service\n"
)

func fakeHost(t testing.TB, info, own string) *Host {
	t.Helper()
	mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(info), mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		t.Fatal(err)
	}
	h, err := newHost(mounts, []byte(own))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHostPaths(t *testing.T) {
	for name, tc := range map[string]struct {
		info, own, path string
		want            map[string]string
	}{
		"absolute on hybrid": {hybridInfo, hybridOwn, "/default/id", map[string]string{
			"cpu": "/sys/fs/cgroup/cpu,cpuacct/default/id", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/default/id",
			"memory": "/sys/fs/cgroup/memory/default/id", "devices": "/sys/fs/cgroup/devices/default/id",
			"name=systemd": "/sys/fs/cgroup/systemd/default/id", "": "/sys/fs/cgroup/unified/default/id",
		}},
		"relative on hybrid": {hybridInfo, hybridOwn, "id", map[string]string{
			"cpu": "/sys/fs/cgroup/cpu,cpuacct/id", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/id",
			"memory": "/sys/fs/cgroup/memory/proc/x/id", "devices": "/sys/fs/cgroup/devices/y/id",
			"name=systemd": "/sys/fs/cgroup/systemd/user.slice/id", "": "/sys/fs/cgroup/unified/id",
		}},
		"absolute on v2": {unifiedInfo, unifiedOwn, "/default/id", map[string]string{"": "/sys/fs/cgroup/default/id"}},
		"relative on v2": {unifiedInfo, unifiedOwn, "id", map[string]string{"": "/sys/fs/cgroup/system.slice/id"}},
	} {
		if got := fakeHost(t, tc.info, tc.own).paths(tc.path); !maps.Equal(got, tc.want) {
			t.Errorf("%s: got %v\nwant %v", name, got, tc.want)
		}
	}
}

func TestHostNeedsDevices(t *testing.T) {
	if _, err := newHost(nil, nil); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("got %v", err)
	}
}

func TestLoadRefusesForeignPaths(t *testing.T) {
	h := fakeHost(t, hybridInfo, hybridOwn)
	for _, paths := range []map[string]string{
		nil,
		{"memory": "/sys/fs/cgroup/memory"},
		{"memory": "/sys/fs/cgroup/memory/../devices/x"},
		{"memory": "/etc"},
		{"memory": ""},
		{"novel": "/sys/fs/cgroup/memory/x"},
	} {
		if _, err := h.Load(paths); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%v: got %v", paths, err)
		}
	}
}

func TestMounts(t *testing.T) {
	const basic = unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV
	const at = "/sys/fs/cgroup"
	tmpfs := Mount{Type: "tmpfs", Source: "tmpfs", Destination: at, Flags: basic, Data: "mode=755"}
	links := []Mount{
		{Type: "symlink", Source: "cpu,cpuacct", Destination: at + "/cpu"},
		{Type: "symlink", Source: "cpu,cpuacct", Destination: at + "/cpuacct"},
	}
	given := basic | unix.MS_RELATIME | unix.MS_RDONLY
	bind := func(name string) Mount {
		return Mount{Type: "bind", Source: at + "/" + name + "/default/id", Destination: at + "/" + name, Flags: uintptr(unix.MS_BIND | unix.MS_REC | given)}
	}
	fresh := func(name, source, data string) Mount {
		return Mount{Type: "cgroup", Source: source, Destination: at + "/" + name, Flags: basic | unix.MS_RDONLY, Data: data}
	}
	for name, tc := range map[string]struct {
		info, own string
		namespace bool
		want      []Mount
	}{
		"v1 binds": {hybridInfo, hybridOwn, false, append([]Mount{tmpfs, bind("cpu,cpuacct"), bind("memory"), bind("devices"), bind("systemd")}, links...)},
		"v1 with a namespace": {hybridInfo, hybridOwn, true, append([]Mount{
			tmpfs, fresh("cpu,cpuacct", "cgroup", "cpu,cpuacct"), fresh("memory", "cgroup", "memory"),
			fresh("devices", "cgroup", "devices"), fresh("systemd", "systemd", "name=systemd"),
		}, links...)},
		"v2":                  {unifiedInfo, unifiedOwn, false, []Mount{{Type: "cgroup2", Source: "cgroup", Destination: at, Flags: uintptr(given), Data: "x"}}},
		"v2 with a namespace": {unifiedInfo, unifiedOwn, true, []Mount{{Type: "cgroup2", Source: "cgroup", Destination: at, Flags: uintptr(given), Data: "x"}}},
	} {
		h := fakeHost(t, tc.info, tc.own)
		got := h.Mounts(h.paths("/default/id"), MountOptions{Destination: at, Flags: uintptr(given), Data: "x", Source: "cgroup", Namespace: tc.namespace})
		if len(got) != len(tc.want) {
			t.Errorf("%s: got %d steps, want %d: %+v", name, len(got), len(tc.want), got)
			continue
		}
		for i, m := range got {
			if m != tc.want[i] {
				t.Errorf("%s: step %d: got %+v\nwant %+v", name, i, m, tc.want[i])
			}
		}
	}
}

func FuzzParseProcCgroup(f *testing.F) {
	f.Add([]byte(hybridOwn))
	f.Add([]byte("::\n:"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h := &Host{own: parseProcCgroup(data), mounts: map[string]Hierarchy{"memory": {Mountpoint: root + "/memory", Root: "/"}}}
		if p, ok := h.paths("x")["memory"]; ok && !strings.HasPrefix(p, root+"/memory/") {
			t.Errorf("%q leads to %q", data, p)
		}
	})
}
