package cgroup

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
)

// Stats are the container's figures in containerd's own types, as its stock shim
// returns them: *io.containerd.cgroups.v1.Metrics, or v2.Metrics on pure v2. The
// result is the caller's. An error wraps ErrNotFound when the cgroup is gone.
func (c *Cgroup) Stats() (any, error) {
	if c.host.unified {
		m, err := cgroup2.Load(strings.TrimPrefix(c.paths[""], root))
		if err != nil {
			return nil, classify(fmt.Errorf("cannot read the figures of cgroup %s: %w", c.paths[""], err))
		}
		s, err := m.Stat()
		if err != nil {
			return nil, classify(fmt.Errorf("cannot read the figures of cgroup %s: %w", c.paths[""], err))
		}
		return s, nil
	}
	cg, err := c.reader()
	if err != nil {
		return nil, classify(fmt.Errorf("cannot read the figures of the cgroup: %w", err))
	}
	s, err := cg.Stat(cgroup1.IgnoreNotExist)
	if err != nil {
		return nil, classify(fmt.Errorf("cannot read the figures of the cgroup: %w", err))
	}
	return s, nil
}

// reader is the library's view of the v1 cgroup, made when first needed: it
// looks at every hierarchy.
func (c *Cgroup) reader() (cgroup1.Cgroup, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stats != nil {
		return c.stats, nil
	}
	cg, err := cgroup1.Load(func(s cgroup1.Name) (string, error) {
		name := string(s)
		if name == "systemd" {
			name = "name=systemd"
		}
		dir, ok := c.paths[name]
		if !ok {
			return "", cgroup1.ErrControllerNotActive
		}
		rel, err := filepath.Rel(c.host.mounts[name].Mountpoint, dir)
		return "/" + rel, err
	})
	c.stats = cg
	return cg, err
}
