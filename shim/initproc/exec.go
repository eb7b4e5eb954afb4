package initproc

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/peregrine-dev/peregrine/shim/plan"
)

// runExec brings a process into a running container. The shim has put this process in
// the container's pid namespace and cgroups already.
func runExec() error {
	var p plan.Exec
	fds, err := receivePlan(Exec, &p)
	if err != nil {
		return err
	}
	program, console, err := join(&p, fds)
	if err != nil {
		return err
	}
	reply(nil, console)
	return program.run()
}

func join(p *plan.Exec, fds []int) (*program, int, error) {
	pidfd, err := at(fds, p.Init)
	if err != nil {
		return nil, None, err
	}
	if !p.Process.Terminal {
		if err := takeStdio(&p.Process, fds); err != nil {
			return nil, None, err
		}
	}
	// Labels need a procfs that can be trusted: the host's, before it is out of sight.
	if err := labels(&p.Process); err != nil {
		return nil, None, err
	}
	if adj := p.Process.OOMScoreAdj; adj != nil {
		if err := writeProc("self/oom_score_adj", fmt.Sprint(*adj)); err != nil {
			return nil, None, fmt.Errorf("oomScoreAdj: %w", err)
		}
	}
	if p.Keyring != "" {
		if err := joinKeyring(p.Keyring); err != nil {
			return nil, None, err
		}
	}
	// The mount namespace wants a thread whose working directory is its own.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, None, err
	}
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
	if err := unix.Setns(pidfd, all); err != nil {
		return nil, None, fmt.Errorf("join the container's namespaces: %w", err)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	console := None
	if p.Process.Terminal {
		root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, None, err
		}
		defer unix.Close(root)
		if console, err = openConsole(root, &p.Process, false); err != nil {
			return nil, None, fmt.Errorf("open the terminal: %w", err)
		}
	}
	prog, err := assume(&p.Process)
	return prog, console, err
}
