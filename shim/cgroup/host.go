package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// root is where every host mounts its cgroup hierarchies.
const root = "/sys/fs/cgroup"

// hybridMount is where a v1 host mounts the v2 hierarchy.
const hybridMount = root + "/unified"

// subsystems are the v1 hierarchies that runc joins, in its order; "" is the v2
// hierarchy of a hybrid host. The order matters only in that cpuset comes first,
// because it is the likeliest to refuse.
func subsystems() []string {
	return []string{
		"cpuset", "devices", "memory", "cpu", "cpuacct", "pids", "blkio", "hugetlb", "net_cls", "net_prio",
		"perf_event", "freezer", "rdma", "name=systemd", "misc", "",
	}
}

// A Hierarchy is one mounted cgroup v1 hierarchy of the host.
type Hierarchy struct {
	// Mountpoint is its absolute path.
	Mountpoint string
	// Root is the cgroup seen at Mountpoint: "/", save inside a container.
	Root string
	// Subsystems are its controllers as /proc/PID/cgroup names them, as
	// "cpu" or "name=systemd".
	Subsystems []string
}

// Host is what this package must know of the host. It is immutable, so any
// number of goroutines may share it. It does not notice hierarchies mounted
// after it was read.
type Host struct {
	unified bool
	// mounts is the hierarchy of each subsystem; unused on pure v2.
	mounts map[string]Hierarchy
	// hierarchies are those of mounts without the v2 one, each once, in the
	// order of mountinfo.
	hierarchies []Hierarchy
	// own is the cgroup relative paths are below, by subsystem.
	own map[string]string
}

// Warm reads the host's cgroup mounts and the cgroup of this process, once for
// the life of the process: about 0.2 ms that making a cgroup then need not spend. It
// also has the library underneath do its own first-time work. It changes nothing.
// An error wraps ErrFailedPrecondition when no usable hierarchy is mounted.
func Warm() (*Host, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the cgroup mounts in /proc/self/mountinfo: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("cannot read the cgroup of this process: %w", err)
	}
	h, err := newHost(mounts, own)
	if err != nil {
		return nil, err
	}
	cgroups.IsCgroup2UnifiedMode()
	cgroups.IsCgroup2HybridMode()
	cgroups.HugePageSizes()
	return h, nil
}

// newHost interprets mountinfo entries and the text of /proc/PID/cgroup.
func newHost(mounts []*mountinfo.Info, own []byte) (*Host, error) {
	h := &Host{mounts: make(map[string]Hierarchy), own: parseProcCgroup(own)}
	for _, m := range mounts {
		if m.FSType == "cgroup2" && m.Mountpoint == root {
			h.unified = true
			h.mounts = map[string]Hierarchy{"": {Mountpoint: root, Root: m.Root}}
			return h, nil
		}
	}
	known := make(map[string]bool)
	for _, s := range subsystems() {
		known[s] = true
	}
	for _, m := range mounts {
		if m.FSType == "cgroup2" {
			if m.Mountpoint == hybridMount {
				h.mounts[""] = Hierarchy{Mountpoint: hybridMount, Root: m.Root, Subsystems: []string{""}}
			}
			continue
		}
		// A hierarchy may be bound elsewhere too: those below the usual place win.
		if !strings.HasPrefix(m.Mountpoint, root+"/") {
			continue
		}
		v := Hierarchy{Mountpoint: m.Mountpoint, Root: m.Root}
		for opt := range strings.SplitSeq(m.VFSOptions, ",") {
			if _, seen := h.mounts[opt]; opt == "" || seen {
				continue
			}
			if _, ours := h.own[opt]; known[opt] || ours {
				v.Subsystems = append(v.Subsystems, opt)
			}
		}
		for _, s := range v.Subsystems {
			h.mounts[s] = v
		}
		if len(v.Subsystems) > 0 {
			h.hierarchies = append(h.hierarchies, v)
		}
	}
	// Without it device access could not be limited.
	if _, ok := h.mounts["devices"]; !ok {
		return nil, fmt.Errorf("no devices cgroup is mounted below %s; mount cgroup v2 or the v1 devices hierarchy: %w", root, errdefs.ErrFailedPrecondition)
	}
	return h, nil
}

// parseProcCgroup reads the format of /proc/PID/cgroup (cgroups(7)): lines of
// "id:subsystems:path", into a map from subsystem to path. Malformed lines are
// skipped.
func parseProcCgroup(data []byte) map[string]string {
	own := make(map[string]string)
	s := bufio.NewScanner(bytes.NewReader(data))
	for s.Scan() {
		_, rest, ok := strings.Cut(s.Text(), ":")
		if !ok {
			continue
		}
		names, path, ok := strings.Cut(rest, ":")
		if !ok {
			continue
		}
		for name := range strings.SplitSeq(names, ",") {
			own[name] = path
		}
	}
	return own
}

// Unified reports whether the host has the v2 hierarchy only.
func (h *Host) Unified() bool { return h.unified }

// Hierarchies are the v1 hierarchies of the host, in the order they were
// mounted; none on pure v2. The caller must not change them.
func (h *Host) Hierarchies() []Hierarchy { return h.hierarchies }

// paths is the directory of the cgroup path in each hierarchy (runc: initPaths
// of its fs manager, defaultDirPath of fs2).
func (h *Host) paths(path string) map[string]string {
	out := make(map[string]string, len(h.mounts))
	for s, v := range h.mounts {
		switch {
		case filepath.IsAbs(path):
			out[s] = filepath.Join(v.Mountpoint, path)
		case h.unified:
			// A cgroup with processes in it cannot have children with
			// controllers: take its parent.
			out[s] = filepath.Join(v.Mountpoint, filepath.Dir(h.own[s]), path)
		case s == "":
			// runc puts relative paths at the root of the hybrid hierarchy.
			out[s] = filepath.Join(v.Mountpoint, path)
		default:
			own, ok := h.own[s]
			if !ok {
				continue
			}
			if rel, err := filepath.Rel(v.Root, own); err == nil {
				own = rel
			}
			out[s] = filepath.Join(v.Mountpoint, filepath.Clean("/"+own), path)
		}
	}
	return out
}

// home is the directory of this process's own cgroup in the hierarchy of the
// subsystem, as it was when the host was read.
func (h *Host) home(subsystem string) string {
	v := h.mounts[subsystem]
	rel, err := filepath.Rel(v.Root, h.own[subsystem])
	if err != nil || strings.HasPrefix(rel, "..") {
		rel = ""
	}
	return filepath.Join(v.Mountpoint, rel)
}

// classify gives kernel errors the errdefs class that callers act upon.
func classify(err error) error {
	for _, c := range []struct {
		errno unix.Errno
		class error
	}{
		{unix.EINVAL, errdefs.ErrInvalidArgument},
		{unix.ERANGE, errdefs.ErrInvalidArgument},
		{unix.ENOENT, errdefs.ErrNotFound},
		{unix.ENODEV, errdefs.ErrNotFound},
		{unix.ESRCH, errdefs.ErrNotFound},
		{unix.EBUSY, errdefs.ErrFailedPrecondition},
	} {
		if errors.Is(err, c.errno) {
			return fmt.Errorf("%w: %w", err, c.class)
		}
	}
	return err
}
