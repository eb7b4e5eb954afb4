package cgroup

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A Mount is one step in making the container's mount of type "cgroup". Steps
// are taken in order; destinations are paths inside the container, to be made as
// directories where missing.
type Mount struct {
	// Type is "tmpfs", "bind", "cgroup", "cgroup2" or "symlink".
	Type string
	// Source is what mount(2) calls source: the host's directory of a bind, a
	// name otherwise; for a symlink its target.
	Source string
	// Destination is absolute, inside the container's root.
	Destination string
	// Flags are MS_ flags of mount(2). The effective flags of a bind need a
	// remount, as ever.
	Flags uintptr
	// Data is the file system's own options.
	Data string
}

// MountOptions are what Mounts must know of a spec mount of type "cgroup".
type MountOptions struct {
	// Destination is the mount's destination.
	Destination string
	// Flags and Data are its options, parsed: MS_ flags without propagation, and
	// what is not a flag.
	Flags uintptr
	Data  string
	// Source is its source, used on v2.
	Source string
	// Namespace says whether the container has a cgroup namespace of its own.
	Namespace bool
}

// Mounts are the mounts a spec mount of type "cgroup" stands for, as runc 1.1
// makes them (mountCgroupV1 and mountCgroupV2 of its rootfs_linux.go). On v1 it
// is a tmpfs with a directory for each hierarchy, holding that hierarchy where
// the container has a cgroup namespace or else a bind of the container's cgroup,
// and links to hierarchies mounted together; a hybrid host's v2 hierarchy is not
// shown. On v2 it is the hierarchy itself. paths are the container's
// ([Cgroup.Paths]). Mounts touches nothing.
func (h *Host) Mounts(paths map[string]string, o MountOptions) []Mount {
	const basic = unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV
	if h.unified {
		return []Mount{{Type: "cgroup2", Source: o.Source, Destination: o.Destination, Flags: o.Flags, Data: o.Data}}
	}
	out := []Mount{{Type: "tmpfs", Source: "tmpfs", Destination: o.Destination, Flags: basic, Data: "mode=755"}}
	var links []Mount
	for _, v := range h.hierarchies {
		base := filepath.Base(v.Mountpoint)
		m := Mount{Destination: filepath.Join(o.Destination, base)}
		if o.Namespace {
			m.Type, m.Source, m.Data = "cgroup", "cgroup", base
			m.Flags = basic | o.Flags&unix.MS_RDONLY
			if base == "systemd" {
				m.Source, m.Data = "systemd", "name=systemd"
			}
		} else {
			m.Type, m.Source = "bind", paths[v.Subsystems[0]]
			if m.Source == "" {
				// A hierarchy runc does not join: the container stays in ours.
				m.Source = h.home(v.Subsystems[0])
			}
			m.Flags = unix.MS_BIND | unix.MS_REC | o.Flags
		}
		out = append(out, m)
		if !strings.Contains(base, ",") {
			continue
		}
		for name := range strings.SplitSeq(base, ",") {
			links = append(links, Mount{Type: "symlink", Source: base, Destination: filepath.Join(o.Destination, name)})
		}
	}
	return append(out, links...)
}
