package task

import (
	"github.com/containerd/errdefs"

	"github.com/peregrine-dev/peregrine/shim/cgroup"
	"github.com/peregrine-dev/peregrine/shim/cube"
)

// start starts a process that is born in a container's cgroup of v2, if there is one;
// launch gets the directory, or -1. born tells whether it is where it should be: the
// cgroup's limits or its place may forbid a birth where they don't forbid entry.
func start(c *cgroup.Cgroup, launch func(dir int) (*cube.Process, error)) (p *cube.Process, born bool, err error) {
	dir, err := c.Dir()
	if errdefs.IsNotImplemented(err) { // v1 alone
		p, err = launch(-1)
		return p, true, err
	}
	if err != nil {
		return nil, false, err
	}
	defer dir.Close()
	if p, err = launch(int(dir.Fd())); err == nil {
		return p, true, nil
	}
	p, err = launch(-1)
	return p, false, err
}

// enter has a process that was started so enter the container's other cgroups: those of
// v1 by itself, for to be moved means to wait.
func enter(c *cgroup.Cgroup, p *cube.Process, born bool) error {
	if !born {
		return c.Add(p.Pid)
	}
	files, err := c.Tasks()
	if err == nil && len(files) > 0 {
		err = p.EnterCgroups(files)
	}
	for _, f := range files {
		f.Close()
	}
	return err
}
