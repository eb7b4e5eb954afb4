package cgroup

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Hierarchies is where this machine has its cgroups mounted. It doesn't change, and may be used
// by several goroutines at once.
type Hierarchies struct {
	legacy  map[string]mount // by controller
	unified *mount
	network namespace // the host's: this process's when they were found
}

type mount struct{ point, root string }

type namespace struct{ device, inode uint64 }

func namespaceOf(proc string) (namespace, error) {
	var st unix.Stat_t
	if err := unix.Stat(proc+"/ns/net", &st); err != nil {
		return namespace{}, fmt.Errorf("network namespace: %w", err)
	}
	return namespace{st.Dev, st.Ino}, nil
}

// Find finds them. errdefs.ErrNotFound: there are none that count the processor's time.
func Find() (*Hierarchies, error) {
	all, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "cgroup" && m.FSType != "cgroup2", false
	})
	if err != nil {
		return nil, fmt.Errorf("look for cgroups: %w", err)
	}
	h := &Hierarchies{legacy: map[string]mount{}}
	if h.network, err = namespaceOf("/proc/self"); err != nil {
		return nil, err
	}
	for _, m := range all {
		at := mount{m.Mountpoint, m.Root}
		if m.FSType == "cgroup2" {
			if h.unified == nil {
				h.unified = &at
			}
			continue
		}
		for _, controller := range []string{"cpu", "cpuacct", "memory"} {
			if slices.Contains(strings.Split(m.VFSOptions, ","), controller) {
				h.legacy[controller] = at
			}
		}
	}
	if _, ok := h.legacy["cpuacct"]; !ok && h.unified == nil {
		return nil, fmt.Errorf("no cgroups are mounted: %w", errdefs.ErrNotFound)
	}
	return h, nil
}

// directory gives the directory of a controller's cgroup, and whether it is of version 1. Which
// version has a controller is the machine's choice, for each of them.
func (h *Hierarchies) directory(of map[string]string, controller, cgroup string) (dir string, legacy bool, err error) {
	m, legacy := h.legacy[controller]
	path, ok := of[controller]
	if !legacy || !ok {
		legacy = false
		if path, ok = of[""]; !ok || h.unified == nil {
			return "", false, fmt.Errorf("no hierarchy has the controller %s: %w", controller, errdefs.ErrNotFound)
		}
		m = *h.unified
	}
	part, ok := within(path, cgroup)
	switch {
	case ok:
		path = part
	case controller == "cpu": // whose the cgroup is; others may be elsewhere
		return "", false, fmt.Errorf("the process is not in %s: %w", cgroup, errdefs.ErrNotFound)
	}
	rel, err := filepath.Rel(m.root, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", false, fmt.Errorf("%s is outside of what is mounted on %s: %w", path, m.point, errdefs.ErrNotFound)
	}
	return filepath.Join(m.point, rel), legacy, nil
}
